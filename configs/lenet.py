"""The small network of PyTorch's "Training a Classifier" tutorial on CIFAR-10.

  python main.py --config=configs/lenet.py

Batch 4, SGD 0.001 with momentum 0.9, 2 epochs, no augmentation, pixels scaled to [-1, 1], as in
https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html (which reports 55 % on its run).
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 2
    config.batch_size = 4
    config.dataset.mean = (0.5, 0.5, 0.5)
    config.dataset.std = (0.5, 0.5, 0.5)
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.name = "lenet"
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "constant"
    config.lr_schedule.learning_rate = 0.001
    config.lr_schedule.boundaries = ()
    return config
