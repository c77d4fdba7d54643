"""Every field there is, with its default. A recipe starts from these and changes what differs.

Not a recipe to run for its own sake: it is ResNet-20 v2 on CIFAR-10 (see configs/resnet20_v2.py).
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()

    # The one source of randomness: initialisation, batch order, augmentation, dropout, splits.
    config.seed = 0
    config.num_epochs = 200
    # Global: shared out over all devices of all processes, which must divide it.
    config.batch_size = 128
    # What to take the weights from: a workdir, a `.safetensors` file of this project, the name of a
    # network in cifar_jax/pretrained, or weights of torchvision or timm for resnet18, resnet34 and
    # mobilenet_v2 (.safetensors, .pth, .pt or .bin).
    config.init_from = ""

    config.dataset = ConfigDict()
    # "cifar10", "cifar100", "digits", "folder" (your own pictures, in `path`), or any image
    # classification set of TFDS prepared here.
    config.dataset.name = "cifar10"
    # Folder of prepared TFDS sets; empty: TFDS_DATA_DIR, else TFDS's own default.
    config.dataset.data_dir = ""
    # An official CIFAR archive, or the folder that it unpacks to; used instead of TFDS.
    config.dataset.archive = ""
    # folder: a folder with a subfolder of pictures for each class, or with such a `train` and `test`.
    config.dataset.path = ""
    # Without those two: the share of each class to test on, and what draws it (no run's seed, so that
    # the test pictures of one run are those of all).
    config.dataset.test_share = 0.2
    config.dataset.split_seed = 0
    # Where pictures cannot be read: "refuse" the folder, or "skip" them, with a line for each.
    config.dataset.broken_pictures = "refuse"
    # CIFAR-100 only: "fine" (100 classes) or "coarse" (20 superclasses).
    config.dataset.labels = "fine"
    # Height and width in pixels of what the network gets. Pictures are decoded to it; CIFAR and other
    # sets of smaller images are enlarged on the device, after the crop.
    config.dataset.image_size = 32
    # Train on this many examples, drawn by seed and balanced over classes; 0: on all of them.
    config.dataset.train_examples = 0
    # Cut this many off the training set, by seed, to choose the best epoch on; 0: none.
    config.dataset.validation_examples = 0
    # Per channel, for pixels scaled to [0, 1]; unset: the data set's own.
    config.dataset.mean = config_dict.placeholder(tuple)
    config.dataset.std = config_dict.placeholder(tuple)
    # Where decoded images are kept; empty: ~/.cache/cifar_jax (or under XDG_CACHE_HOME).
    config.dataset.cache_dir = ""

    config.augment = ConfigDict()
    # Pad by this many pixels on each side and crop at random, before images are enlarged; 0: no crop.
    config.augment.crop_padding = 4
    # What is padded: "constant" (black), or "reflect" (the picture, mirrored at its edge).
    config.augment.padding_mode = "constant"
    # Mirror left to right with probability one half.
    config.augment.flip = True
    # Draw that once for each image, and mirror it in every second epoch from then on. Jordan, 2024.
    config.augment.alternating_flip = False
    # Add a number within +-brightness (in deviations of the data) to all of an image, then multiply it by
    # one within 1 +- contrast; 0: neither.
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    # Side in pixels of a square set to the mean colour; 0: none. DeVries and Taylor, 2017.
    config.augment.cutout = 0
    # Alpha of the Beta distribution that mixes pairs of examples; 0: none. Zhang et al., 2018.
    config.augment.mixup = 0.0

    config.model = ConfigDict()
    # A name of the registry in cifar_jax/models.
    config.model.name = "resnet20_v2"
    # Computation in "float32" or "bfloat16"; parameters are float32 either way.
    config.model.dtype = "float32"
    # What follows is unset where the model's own default holds; not every model has every field.
    config.model.hidden_sizes = config_dict.placeholder(tuple)
    # "relu", "leaky_relu", "selu", "gelu" or "silu".
    config.model.activation = config_dict.placeholder(str)
    config.model.batch_norm = config_dict.placeholder(bool)
    config.model.dropout = config_dict.placeholder(float)
    # Multiplies the number of channels.
    config.model.width = config_dict.placeholder(float)
    # ResNet-18/34: "cifar" (3x3, stride 1) or "imagenet" (7x7, stride 2, max pooling). MobileNetV2: the
    # strides for 32x32 images or the paper's, for 224x224.
    config.model.stem = config_dict.placeholder(str)
    # The 5x5 CNN: "stride" or "max_pool".
    config.model.downsample = config_dict.placeholder(str)
    # ResNets and MobileNetV2: compute each block again in the backward pass, to save memory.
    config.model.remat = config_dict.placeholder(bool)
    # ResNets and airbench94: first of all a 2x2 convolution, not trained, that whitens patches of the
    # training images.
    config.model.whitening = config_dict.placeholder(bool)

    # Batch statistics over all devices (True) or of each device alone (False).
    config.sync_batch_norm = True
    config.label_smoothing = 0.0
    # Decay of the moving average of the weights that evaluation then uses; 0: none.
    config.ema_decay = 0.0

    config.optimizer = ConfigDict()
    # "sgd", "adam", "adamw", or "muon": Muon for convolution kernels, sgd for the rest.
    config.optimizer.name = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    # sgd and muon: the learning rates of biases and normalisation parameters, and of the last dense
    # layer's kernel, as multiples of `learning_rate`; weight decay has the plain one.
    config.optimizer.bias_lr_factor = 1.0
    config.optimizer.head_lr_factor = 1.0
    # muon: the momentum of convolution kernels, and the iterations that orthogonalise it.
    config.optimizer.muon_momentum = 0.95
    config.optimizer.newton_schulz_steps = 5
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.epsilon = 1e-8
    # Added to the gradient as in PyTorch (sgd, adam) or decoupled from it (adamw); Muon's kernels, whose
    # norms are fixed, have none.
    config.optimizer.weight_decay = 1e-4
    # Whether biases and normalisation parameters decay too.
    config.optimizer.decay_bias_and_norm = True
    # Largest global norm of the gradient; 0: no limit.
    config.optimizer.clip_norm = 0.0

    config.lr_schedule = ConfigDict()
    # "step", "constant", "cosine", "linear" or "one_cycle".
    config.lr_schedule.name = "step"
    # The highest value that the schedule reaches.
    config.lr_schedule.learning_rate = 0.1
    # step: the epochs at whose start the rate is multiplied by `factor`; those after the last are for
    # a run that is made longer.
    config.lr_schedule.boundaries = (100, 150)
    config.lr_schedule.factor = 0.1
    # Rise linearly from 0 over this many epochs first (one_cycle: the length of its rise).
    config.lr_schedule.warmup_epochs = 0.0
    # cosine, linear, one_cycle: where it ends, as a share of `learning_rate`.
    config.lr_schedule.final_fraction = 0.0

    # For a run with `init_from`; the backbone is all of the network but its last dense layer.
    config.transfer = ConfigDict()
    # Leave the backbone's weights as they are for this many epochs; running statistics still move.
    config.transfer.frozen_epochs = 0.0
    # The backbone's learning rate as a share of the head's.
    config.transfer.backbone_lr_factor = 1.0
    # Normalise with the running statistics that the weights came with, and keep those.
    config.transfer.freeze_batch_norm = False

    # Equal bits from equal runs on a GPU too, where that is slower; a CPU gives them either way.
    config.deterministic = False
    # Evaluate, save and report after every so many epochs and after the last; 0: after the last alone.
    config.eval_every_epochs = 1
    # Images of a forward pass in evaluation, over all devices.
    config.eval_batch_size = 1000
    # At the end of training and in --mode=eval, give the accuracy of logits averaged over views of each
    # image too, beside the plain one: "mirror", or "mirror_and_shift" (by a pixel, both ways); or "none".
    config.test_time_augmentation = "none"
    # Training steps between two looks of the host, at most all up to the next evaluation; 0: about a
    # second's worth. Between looks nothing is saved and a signal waits.
    config.steps_per_dispatch = 0
    # Save within an epoch once this much time has passed since the last save.
    config.checkpoint_minutes = 10.0
    # A folder to trace a few dispatches into, for TensorBoard and Perfetto; empty: none.
    config.profile = ""
    return config
