"""ResNet-20 v2 on 400 images of CIFAR-100, 20 of each superclass: from scratch, or fine-tuned.

  python main.py --config=configs/resnet20_v2.py --workdir=runs/pretrained \
      --config.num_epochs=10 --config.lr_schedule.name=cosine --config.optimizer.weight_decay=5e-4
  python main.py --config=configs/few_examples.py --config.init_from=runs/pretrained
  python main.py --config=configs/few_examples.py

The first run makes weights on CIFAR-10 (12 minutes on two cores where nothing else runs); the other two
have one budget and differ in nothing but where they start from. No class is in both data sets.

Measured on a sample of CIFAR-100 (486 images to train on, of which 400 were taken, and 916 to test on; two
CPU cores, 80 s each where nothing else runs), from weights with 83.1 % on CIFAR-10; accuracy on the test
images after the last epoch, seeds 0, 1 and 2:

  fine-tuned    31.2, 31.4, 31.0 %   mean 31.2 %
  from scratch  19.0, 17.2, 18.2 %   mean 18.2 %

The learning rate was searched for in neither case.
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
