"""ResNet-110 v2 on CIFAR-10: the recipe of the GluonCV tutorial, 200 epochs.

  python main.py --config=configs/resnet110_v2.py

Batch 128, SGD with Nesterov momentum 0.9, learning rate 0.1 divided by 10 at epochs 100 and 150, weight
decay 1e-4, crop and flip. For the tutorial's 240 epochs, divided at 80 and 160, override two fields:

  --config.num_epochs=240 --config.lr_schedule.boundaries=80,160

GluonCV's model zoo publishes 94.3 %, and 95.5 % with mixup (its table CIFAR10.csv). The full run has not been
measured here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 200
    config.batch_size = 128
    config.model.name = "resnet110_v2"
    config.optimizer.weight_decay = 1e-4
    config.lr_schedule.name = "step"
    config.lr_schedule.learning_rate = 0.1
    config.lr_schedule.boundaries = (100, 150)
    return config
