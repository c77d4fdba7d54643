"""The speedrun of airbench94_muon, CIFAR-10 to about 94 % in eight epochs, in one compiled program.

  python main.py --config=configs/speedrun94.py
  python main.py --config=configs/speedrun94.py --config.model.dtype=float32 \
      --config.steps_per_dispatch=0                             # on a CPU: the same bits, with progress

A whitening first layer, Muon for the convolutions and Nesterov SGD for the rest, flips that alternate
between epochs, padding by reflection, label smoothing 0.2, 200 steps of 2,000 images. All steps are one
dispatch. One evaluation follows, plain and with mirrored and shifted views of each image.
`python -m benchmarks.speedrun` trains many seeds and times them.

Learning rates, momenta, weight decay and augmentation are those of airbench94_muon.py by Keller Jordan
(https://github.com/KellerJordan/cifar10-airbench). He publishes 94.01 % with these views, the mean of 200
runs (the header of the script, and the first table of README.md). Two things differ here: brightness and
contrast jitter; the order of the examples is this project's.

Measured on a JPEG copy of CIFAR-10 (two CPU cores, float32, seed 0), when the bias of the whitening layer was
still trained to the end: 89.8 % after the last epoch, 90.7 % with the views, in 22 minutes beside other work.
docs/results.md has figures of one H100, beside those of airbench94_muon.py.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 8
    config.batch_size = 2000
    config.augment.crop_padding = 2
    config.augment.padding_mode = "reflect"
    config.augment.alternating_flip = True
    config.augment.brightness = 0.1
    config.augment.contrast = 0.1
    config.model.name = "airbench94"
    config.model.dtype = "bfloat16"
    config.label_smoothing = 0.2
    config.optimizer.name = "muon"
    config.optimizer.muon_momentum = 0.6
    config.optimizer.newton_schulz_steps = 3
    config.optimizer.momentum = 0.85
    # The original's rates are for a loss summed over the batch (here: averaged) and for a head with weights
    # 256 times as large: 0.053 * 2000 = 106 and 0.67 * 2000 / 256**2 = 0.0204, as multiples of 0.24.
    config.optimizer.bias_lr_factor = 442.0
    config.optimizer.head_lr_factor = 0.0852
    config.optimizer.whitening_bias_epochs = 3.0
    # 2e-6 * 2000 per step at the highest learning rate, 0.24.
    config.optimizer.weight_decay = 1 / 60
    config.lr_schedule.name = "linear"
    config.lr_schedule.learning_rate = 0.24
    config.eval_every_epochs = 0
    config.eval_batch_size = 2000
    config.test_time_augmentation = "mirror_and_shift"
    # More than the run has, so all steps are one dispatch.
    config.steps_per_dispatch = 1000
    return config
