"""ResNet-18 with ImageNet weights, fine-tuned on CIFAR-100 enlarged to 224x224, 10 epochs.

  python main.py --config=configs/cifar100/resnet18_finetune.py --config.init_from=resnet18.safetensors

The weights are torchvision's (https://download.pytorch.org/models/resnet18-f37072fd.pth, which needs PyTorch
to be read) or timm's (model.safetensors of https://huggingface.co/timm/resnet18.tv_in1k). For the same
network from scratch on 32x32 images, see resnet18_scratch.py.

Pixels are normalised as in the training of the weights. The backbone learns ten times slower than the new
head. Two other ways to start from the same weights:

  --config.transfer.frozen_epochs=2             train only the head at first
  --config.transfer.freeze_batch_norm=True      keep ImageNet's running statistics throughout

Without ImageNet weights, use your own: see configs/few_examples.py. An image takes 1.8 billion
multiply-adds, three times as many as in resnet18_scratch.py. Not measured on CIFAR-100 yet.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.dataset.name = "cifar100"
    config.dataset.image_size = 224
    config.dataset.mean = (0.485, 0.456, 0.406)
    config.dataset.std = (0.229, 0.224, 0.225)
    config.num_epochs = 10
    config.batch_size = 128
    config.model.name = "resnet18"
    config.model.stem = "imagenet"
    config.optimizer.weight_decay = 1e-4
    config.optimizer.nesterov = False
    config.lr_schedule.name = "cosine"
    config.lr_schedule.learning_rate = 0.1
    config.lr_schedule.warmup_epochs = 1.0
    config.transfer.backbone_lr_factor = 0.1
    # At 1,000 images, the output of the first layer would take 3 GB.
    config.eval_batch_size = 200
    return config
