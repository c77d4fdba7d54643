"""An MLP of three hidden layers with SELU and alpha dropout on CIFAR-100.

  python main.py --config=configs/cifar100/mlp_selu.py

Not measured on CIFAR-100 yet.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset.name = "cifar100"
    config.augment.crop_padding = 0
    config.augment.flip = False
    config.model.name = "mlp"
    config.model.hidden_sizes = (1024, 512, 256)
    config.model.activation = "selu"
    config.model.dropout = 0.1
    config.num_epochs = 30
    config.optimizer.name = "adam"
    config.optimizer.weight_decay = 0.0
    config.lr_schedule.name = "constant"
    config.lr_schedule.learning_rate = 0.001
    return config
