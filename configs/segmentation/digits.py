"""Scenes of handwritten digits, a first segmentation network: no download, about a minute on two CPU cores.

  python main.py --config=configs/segmentation/digits.py

A scene is made of about ten digits of several sizes over each other; each pixel has the class of its digit.
Measured on two CPU cores: a mean IoU of 43.9 % on 500 test scenes after the last epoch, with seed 0.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 9
    config.batch_size = 32
    config.dataset.name = "mosaic"
    config.dataset.tiles = "digits"
    config.dataset.train_scenes = 2000
    config.dataset.test_scenes = 500
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.name = "resnet8_v1"
    config.model.fcn_stride = 1
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.01
    config.eval_batch_size = 100
    return config
