"""A fully convolutional ResNet-20 on scenes of CIFAR-10 images, from scratch (compare mosaic_transfer.py).

  python main.py --config=configs/segmentation/mosaic_scratch.py

4,000 scenes of 64x64 pixels, each made of about ten images of several sizes; 1,000 to test on. Measured on a
JPEG copy of CIFAR-10: a mean IoU of 13.9, 14.5 and 14.8 % after the last epoch, with seeds 0, 1 and 2.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 4
    config.batch_size = 32
    config.dataset.name = "mosaic"
    config.dataset.tiles = "cifar10"
    config.dataset.image_size = 64
    config.augment.crop_padding = 0
    config.model.name = "resnet20_v2"
    config.model.fcn_stride = 2
    config.lr_schedule.name = "one_cycle"
    config.lr_schedule.learning_rate = 0.05
    config.lr_schedule.warmup_epochs = 0.5
    config.eval_batch_size = 200
    return config
