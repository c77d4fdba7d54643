"""ResNet-18 with a 3x3 stem on CIFAR-100, from scratch, 200 epochs.

  python main.py --config=configs/cifar100/resnet18_scratch.py

Not measured on CIFAR-100 yet.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset.name = "cifar100"
    config.num_epochs = 200
    config.batch_size = 128
    config.model.name = "resnet18"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.nesterov = False
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.1
    return config
