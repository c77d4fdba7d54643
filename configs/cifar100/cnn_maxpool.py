"""A CNN of two 5x5 convolutions with max pooling on CIFAR-100.

  python main.py --config=configs/cifar100/cnn_maxpool.py

Not measured on CIFAR-100 yet.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset.name = "cifar100"
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.name = "cnn"
    config.model.downsample = "max_pool"
    config.num_epochs = 30
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "constant"
    config.lr_schedule.learning_rate = 0.001
    return config
