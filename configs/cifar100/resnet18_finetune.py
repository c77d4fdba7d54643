"""ResNet-18 trained on ImageNet, fine-tuned on CIFAR-100 enlarged to 224x224, 10 epochs.

  python main.py --config=configs/cifar100/resnet18_finetune.py --config.init_from=resnet18.safetensors

The weights are torchvision's or timm's: https://download.pytorch.org/models/resnet18-f37072fd.pth (which
needs PyTorch to be read), or model.safetensors of https://huggingface.co/timm/resnet18.tv_in1k. The same
network from scratch on 32x32 images is resnet18_scratch.py.

Pixels are normalised as the weights were trained. The backbone learns ten times slower than the new
head. Two other ways to start from the same weights:

  --config.transfer.frozen_epochs=2             the head alone at first
  --config.transfer.freeze_batch_norm=True      with ImageNet's running statistics throughout

Where ImageNet weights cannot be had, configs/few_examples.py shows the same with ones of your own. An
image takes 1.8 billion multiply-adds, three times those of resnet18_scratch.py. Not yet measured here.
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
    # What a layer makes of 1,000 images takes 3 GB at first.
    config.eval_batch_size = 200
    return config
