"""Handwritten digits with a small CNN: a first run with no download, under a minute on two cores.

  python main.py --config=configs/quickstart.py
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
    config.lr_schedule.boundaries = ()
    return config
