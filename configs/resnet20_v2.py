"""ResNet-20 v2 on CIFAR-10: the recipe of the GluonCV tutorial, 200 epochs.

  python main.py --config=configs/resnet20_v2.py

Batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1 divided by 10 at epochs 100 and 150, weight
decay 1e-4, crop and flip. The tutorial's 240 epochs with 80 and 160 are two overrides:

  --config.num_epochs=240 --config.lr_schedule.boundaries=80,160

Published by GluonCV's model zoo (CIFAR10 table): 90.8 %, with mixup 91.3 %. Not yet measured here in full.

Measured on a JPEG copy of CIFAR-10 (two CPU cores, seed 0) with 10 epochs, a cosine from 0.1 and weight
decay 5e-4: 83.1 % after the last epoch, in 12 minutes; with 2 epochs 68.0 %, with 40 epochs
87.1 %. About 800 images per second where nothing else runs.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 200
    config.batch_size = 128
    config.model.name = "resnet20_v2"
    config.optimizer.weight_decay = 1e-4
    config.lr_schedule.name = "step"
    config.lr_schedule.learning_rate = 0.1
    config.lr_schedule.boundaries = (100, 150)
    return config
