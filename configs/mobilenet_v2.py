"""MobileNetV2 with strides for 32x32 images on CIFAR-10, 200 epochs.

  python main.py --config=configs/mobilenet_v2.py

SGD with momentum 0.9, cosine schedule from 0.1, weight decay 5e-4, crop and flip.
https://github.com/kuangliu/pytorch-cifar publishes 94.43 % (the table "Accuracy" of its README.md) for a
network with projected shortcuts, which this one does not have; https://github.com/chenyaofo/pytorch-cifar-models
publishes 93.79 % for this one (mobilenetv2_x1_0 in the table "CIFAR-10" of its README.md). The full run has
not been measured here.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 200
    config.batch_size = 128
    config.model.name = "mobilenet_v2"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.nesterov = False
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.1
    return config
