"""A small CNN on handwritten digits: a first run without a download, under a minute on two CPU cores.

  python main.py --config=configs/quickstart.py

Measured on two CPU cores: 99.2, 99.2 and 99.4 % of the 360 test digits after the last epoch, with seeds 0, 1
and 2.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 15
    config.batch_size = 64
    config.dataset.name = "digits"
    config.augment.crop_padding = 2
    config.augment.flip = False
    config.model.name = "cnn"
    config.model.batch_norm = True
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.01
    return config
