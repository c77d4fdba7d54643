"""ResNet-20 v2 on 400 images of CIFAR-100, 20 per superclass, from scratch or fine-tuned.

  python main.py --config=configs/resnet20_v2.py --workdir=runs/pretrained \
      --config.num_epochs=10 --config.lr_schedule.name=cosine --config.optimizer.weight_decay=5e-4
  python main.py --config=configs/few_examples.py --config.init_from=runs/pretrained
  python main.py --config=configs/few_examples.py

The first run trains weights on CIFAR-10 (12 minutes on two cores with nothing else running). The other two
runs differ only in where they start. No class is in both data sets.

Measured on a sample of CIFAR-100 with 486 training images, of which 400 were used, and 916 test images (two
CPU cores, 80 s per run with nothing else running). The pretrained weights have 83.1 % on CIFAR-10. Test
accuracy after the last epoch, seeds 0, 1 and 2:

  fine-tuned    31.2, 31.4, 31.0 %   mean 31.2 %
  from scratch  19.0, 17.2, 18.2 %   mean 18.2 %

The learning rate was tuned for neither.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset.name = "cifar100"
    config.dataset.labels = "coarse"
    config.dataset.train_examples = 400
    config.num_epochs = 60
    config.batch_size = 32
    config.model.name = "resnet20_v2"
    config.optimizer.weight_decay = 5e-4
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.03
    config.lr_schedule.warmup_epochs = 3.0
    return config
