"""The speedrun on CIFAR-100: the network and optimizer of speedrun94, 24 epochs.

  python main.py --config=configs/speedrun_cifar100.py

All but the data set and the length is as in configs/speedrun94.py. Not measured yet.
"""

from configs import speedrun94


def get_config():
    config = speedrun94.get_config()
    config.dataset.name = "cifar100"
    config.num_epochs = 24
    config.steps_per_dispatch = 0
    return config
