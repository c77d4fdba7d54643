"""LeNet, the small network of PyTorch's tutorial, on CIFAR-10, two epochs.

  python main.py --config=configs/lenet.py

Batch 4, SGD with learning rate 0.001 and momentum 0.9, no augmentation, pixels scaled to [-1, 1], as in
https://docs.pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html.

Measured on a JPEG copy of CIFAR-10 (two CPU cores, test accuracy after the last epoch): 52.0 % with seed 0
in 26 s, start-up and compilation included. Before the CPU kernels, which round differently, it was 51.6,
57.2 and 54.1 % with seeds 0, 1 and 2. PyTorch 2.13 with the same images and recipe reaches 52.5 to 55.4 %
(six runs).
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
    return config
