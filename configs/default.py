"""Every field of a config: its default, what it may be, and what it does.

A recipe starts from these defaults and changes what differs. The defaults themselves are ResNet-20 v2 on
CIFAR-10 (see configs/resnet20_v2.py). `whole(4, 0, 1024)` is a whole number from 0 to 1024, 4 by default;
`number(0.0, 0, below=1)` is any number from 0 to just below 1; of a `choice`, the first is the default.
"""

from ml_collections import ConfigDict

from cifar_jax.config import (
    COUNT,
    LARGEST_SEED,
    TINY,
    Field,
    choice,
    number,
    numbers,
    path,
    switch,
    text,
    to_config,
    unset,
    whole,
)
from cifar_jax.data import LARGEST_IMAGE
from cifar_jax.steps import augment


def get_config() -> ConfigDict:
    """All fields at their defaults, in groups: `config.optimizer.learning_rate`."""
    return to_config(FIELDS)


FIELDS: dict[str, Field] = {
    # The source of a run's randomness: initialisation, batch order, augmentation, dropout, which images are
    # held out for validation or left out. (`dataset.split_seed` draws test pictures and scenes.)
    "seed": whole(0, 0, LARGEST_SEED),
    "num_epochs": whole(200, 1),
    # Global batch size, split over all devices of all processes. It must be divisible by their number.
    "batch_size": whole(128, 1),
    # Pretrained weights to start from: a workdir, a `.safetensors` file of this project, the name of a
    # bundled network, or weights of torchvision and others (docs/downloaded_weights.md). Eval, predict and
    # export use them as they are.
    "init_from": path(""),
    # "cifar10", "cifar100", "digits", "folder" (your own pictures, see `dataset.path`), or any image
    # classification set of TensorFlow Datasets that is prepared on this machine. For segmentation:
    # "segmentation_folder" (pictures and masks, see `dataset.path`), "mosaic" (scenes made of the images of
    # `dataset.tiles`), or a set of TensorFlow Datasets with dataset.labels="mask".
    "dataset.name": text("cifar10"),
    # Folder of prepared TFDS sets. Empty: TFDS_DATA_DIR, or else the default folder of TFDS.
    "dataset.data_dir": path(""),
    # An official CIFAR archive, or the folder it unpacks to. Used instead of TFDS.
    "dataset.archive": path(""),
    # For "folder": a folder with one subfolder of pictures per class, or with `train` and `test`
    # folders that each hold such subfolders. For "segmentation_folder": folders `images` and `masks`, or
    # NAME_sat.jpg and NAME_mask.png side by side; or `train` and `test` with these. The folder of a class,
    # `images` and `masks` may have folders inside.
    "dataset.path": path(""),
    # Without `train` and `test`: the share of each class to test on, and the seed that draws it. It is
    # separate from `seed`, so that all runs share their test pictures.
    "dataset.test_share": number(0.2, 0, 1),
    "dataset.split_seed": whole(0, 0, LARGEST_SEED),
    # If a picture cannot be read: "refuse" the folder, or "skip" the picture with a message.
    "dataset.broken_pictures": choice("refuse", "skip"),
    # CIFAR-100: "fine" (100 classes) or "coarse" (20 superclasses). "mask": a TFDS set with a
    # segmentation_mask, to learn the class of each pixel.
    "dataset.labels": choice("fine", "coarse", "mask"),
    # Segmentation: the classes of the masks, in the order of their numbers, "sky, road", or with the colour
    # that each has in the masks, "sky #00FFFF, road #808080". Empty: as many numbers as there are.
    "dataset.classes": text(""),
    # The number or colour in the masks of pixels without a class, which count nowhere. Empty: 255 in masks
    # with numbers, none in masks with colours.
    "dataset.void": text(""),
    # For "mosaic": the classification set whose images are the tiles, and how many scenes to make of its
    # training and its test images; `split_seed` draws them.
    "dataset.tiles": text("digits"),
    "dataset.train_scenes": whole(4000, 1),
    "dataset.test_scenes": whole(1000, 1),
    # Height and width in pixels of the network's input. Pictures are decoded to this size. CIFAR and
    # other small images are enlarged on the device, after the crop.
    "dataset.image_size": whole(32, 1, LARGEST_IMAGE),
    # Train on this many examples, drawn by seed and balanced over the classes. 0: all of them.
    "dataset.train_examples": whole(0, 0),
    # Hold out this many training examples, drawn likewise, to choose the best epoch on. 0: none.
    "dataset.validation_examples": whole(0, 0),
    # Per channel, for pixels scaled to [0, 1]. Unset: computed from the training set.
    "dataset.mean": unset(tuple),
    "dataset.std": unset(tuple),
    # Where decoded images are cached. Empty: ~/.cache/cifar_jax (or under XDG_CACHE_HOME).
    "dataset.cache_dir": path(""),
    # Pad by this many pixels on each side and crop at random, before enlarging. 0: no crop.
    "augment.crop_padding": whole(4, 0, 1024),
    # Pad with black ("constant") or with the picture mirrored at its edge ("reflect").
    "augment.padding_mode": choice("constant", "reflect"),
    # Mirror left to right with probability 1/2.
    "augment.flip": switch(True),
    # Draw the flip once per image, then mirror the image in every second epoch. Jordan, 2024.
    "augment.alternating_flip": switch(False),
    # Add a random number within +-brightness (in standard deviations of the data) to the whole image,
    # then multiply it by a random number within 1 +- contrast. 0: off.
    "augment.brightness": number(0.0, 0, 10),
    "augment.contrast": number(0.0, 0, 1),
    # Side in pixels of a random square set to the mean colour. 0: off. DeVries and Taylor, 2017.
    "augment.cutout": whole(0, 0, 1024),
    # Alpha of the Beta distribution that mixes pairs of examples. 0: off. Zhang et al., 2018.
    "augment.mixup": number(0.0, 0, 1000),
    # A name in `MODELS` of cifar_jax/models/registry.py.
    "model.name": text("resnet20_v2"),
    # Type of the computation. Parameters are float32 either way.
    "model.dtype": choice("float32", "bfloat16"),
    # The fields below have no default here: unset means the model's own default. No model has all of them.
    # Widths of the hidden layers of the MLP.
    "model.hidden_sizes": unset(tuple),
    # "relu", "leaky_relu", "selu", "gelu" or "silu".
    "model.activation": unset(str),
    "model.batch_norm": unset(bool),
    # Probability that a value is dropped.
    "model.dropout": unset(float),
    # Multiplies the number of channels.
    "model.width": unset(float),
    # "cifar" (3x3 convolution, stride 1) or "imagenet" (7x7, stride 2, max pooling). MobileNetV2: the
    # strides for 32x32 images, or the paper's for 224x224.
    "model.stem": unset(str),
    # The 5x5 CNN: shrink the image by "stride" or by "max_pool".
    "model.downsample": unset(str),
    # ResNets of version 1, ResNet-18 and ResNet-34: where a block changes the shape, skip it by a
    # "projection" (1x1 convolution) or by "zero_padding", without parameters. He et al., 2016.
    "model.shortcut": unset(str),
    # ResNets and MobileNetV2: recompute each block in the backward pass to save memory.
    "model.remat": unset(bool),
    # ResNets, airbench94 and airbench96: begin with a fixed 2x2 convolution that whitens image patches.
    "model.whitening": unset(bool),
    # ResNets and MobileNetV2: make the network fully convolutional, with a class for each pixel. Its finest
    # feature map has this stride, a power of 2: FCN-32s, FCN-16s and FCN-8s of Long et al., 2015.
    "model.fcn_stride": unset(int),
    # Compute batch statistics over all devices (True) or on each device separately (False).
    "sync_batch_norm": switch(True),
    "label_smoothing": number(0.0, 0, below=1),
    # Decay of an exponential moving average of the weights; evaluation uses the average. 0: off.
    "ema_decay": number(0.0, 0, below=1),
    # "muon" is Muon for the convolution kernels outside the head and sgd for all other parameters.
    "optimizer.name": choice("sgd", "adam", "adamw", "muon"),
    "optimizer.momentum": number(0.9, 0, 1),
    "optimizer.nesterov": switch(True),
    # sgd and muon: learning rates of the biases and normalisation parameters, and of the last dense
    # layer's kernel, as multiples of `learning_rate`. Weight decay does not use them.
    "optimizer.bias_lr_factor": number(1.0, 0),
    "optimizer.head_lr_factor": number(1.0, 0),
    # Train the bias of the whitening layer for this many epochs only, with the learning rates of a run that
    # ends then. 0: like the others, to the end.
    "optimizer.whitening_bias_epochs": number(0.0, 0, COUNT),
    # muon: momentum of the convolution kernels, and iterations of their orthogonalisation.
    "optimizer.muon_momentum": number(0.95, 0, 1),
    "optimizer.newton_schulz_steps": whole(5, 1, 20),
    "optimizer.beta1": number(0.9, 0, below=1),
    "optimizer.beta2": number(0.999, 0, below=1),
    "optimizer.epsilon": number(1e-8, TINY),
    # Added to the gradient as in PyTorch (sgd, adam), or decoupled from it (adamw). The kernels that
    # Muon trains have a fixed norm and no weight decay.
    "optimizer.weight_decay": number(1e-4, 0),
    # Apply weight decay to biases and normalisation parameters too.
    "optimizer.decay_bias_and_norm": switch(True),
    # Clip the global norm of the gradient to this value. 0: off.
    "optimizer.clip_norm": number(0.0, 0),
    "lr_schedule.name": choice("step", "constant", "cosine", "linear", "one_cycle"),
    # The highest learning rate of the schedule.
    "lr_schedule.learning_rate": number(0.1, 0),
    # step: multiply the rate by `factor` at the start of these epochs. Epochs after the last one are
    # allowed: they count if the run is extended.
    "lr_schedule.boundaries": numbers((100, 150)),
    "lr_schedule.factor": number(0.1, 0),
    # Rise linearly from 0 over this many epochs first (one_cycle: the length of its rise).
    "lr_schedule.warmup_epochs": number(0.0, 0, COUNT),
    # cosine, linear and one_cycle: the final rate as a share of `learning_rate`.
    "lr_schedule.final_fraction": number(0.0, 0, 1),
    # Transfer learning, for runs with `init_from`. The backbone is everything but the head:
    # the last dense layer, or the scores of a segmentation network.
    # Keep the backbone's weights fixed for this many epochs. Its running statistics still move.
    "transfer.frozen_epochs": number(0.0, 0, COUNT),
    # The backbone's learning rate as a multiple of the head's.
    "transfer.backbone_lr_factor": number(1.0, 0),
    # Normalise with the running statistics of the pretrained weights, and never change them.
    "transfer.freeze_batch_norm": switch(False),
    # Make equal runs give equal bits on a GPU too, at the cost of speed. On a CPU they always do.
    "deterministic": switch(False),
    # On a GPU, how thoroughly XLA tries out algorithms when it compiles training and evaluation. 0: not at
    # all; 1: it times them; up to 4, its own default: it also checks their results, which takes longer.
    # XLA_FLAGS takes precedence; `deterministic` tries out none.
    "autotune_level": whole(1, 0, 4),
    # Evaluate, save and report every this many epochs and after the last one. 0: after the last only.
    "eval_every_epochs": whole(1, 0),
    # Images per forward pass in evaluation, over all devices.
    "eval_batch_size": whole(1000, 1),
    # At the end of training and in --mode=eval, also report the accuracy of logits averaged over
    # several views of each image: "mirror", or "mirror_and_shift" (by one pixel).
    "test_time_augmentation": choice(*augment.VIEWS),
    # Training steps per dispatch to the devices; at most all steps up to the next evaluation. 0: about
    # one second's worth. The program saves and reacts to signals between dispatches only.
    "steps_per_dispatch": whole(0, 0),
    # Save a checkpoint within an epoch when this much time has passed since the last one.
    "checkpoint_minutes": number(10.0, 0),
    # A folder for a profile of a few dispatches, for TensorBoard and Perfetto. Empty: no profile.
    "profile": path(""),
}
