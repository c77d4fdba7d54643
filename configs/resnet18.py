"""ResNet-18 with a 3x3 stem on CIFAR-10, 200 epochs.

  python main.py --config=configs/resnet18.py

SGD with momentum 0.9, cosine schedule from 0.1, weight decay 5e-4, crop and flip.
https://github.com/kuangliu/pytorch-cifar publishes 93.02 % for this network and kind of schedule (the table
"Accuracy" of its README.md). The full run has not been measured here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 200
    config.batch_size = 128
    config.model.name = "resnet18"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.nesterov = False
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.1
    return config
