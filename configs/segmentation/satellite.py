"""Land cover in satellite pictures: six classes in seven colours, a fully convolutional ResNet-18.

  python main.py --config=configs/segmentation/satellite.py --config.dataset.path=FOLDER \
      --config.init_from=resnet18.safetensors

FOLDER holds `train` and `validation` with pictures NAME_sat.jpg and masks NAME_mask.png, in the colours of
the DeepGlobe Land Cover Challenge (Demir et al., 2018); black is unknown and counts nowhere. The weights are
torchvision's (https://download.pytorch.org/models/resnet18-f37072fd.pth, which needs PyTorch to be read) or
timm's for ImageNet. This is FCN-32s; finer maps give FCN-8s, and smaller pictures are faster:

  python main.py --config=configs/segmentation/satellite.py --config.dataset.path=FOLDER \
      --config.init_from=resnet18.safetensors --config.model.fcn_stride=8 --config.dataset.image_size=256

Not measured.
"""

from configs import default


def get_config():
    config = default.get_config()
    config.num_epochs = 20
    config.batch_size = 16
    config.dataset.name = "segmentation_folder"
    config.dataset.path = "satellite"
    config.dataset.classes = (
        "urban #00FFFF, agriculture #FFFF00, rangeland #FF00FF, forest #00FF00, water #0000FF, "
        "barren #FFFFFF"
    )
    config.dataset.void = "#000000"
    config.dataset.image_size = 512
    config.dataset.mean = (0.485, 0.456, 0.406)
    config.dataset.std = (0.229, 0.224, 0.225)
    config.augment.crop_padding = 0
    config.model.name = "resnet18"
    config.model.stem = "imagenet"
    config.model.fcn_stride = 32
    config.lr_schedule.name = "one_cycle"
    config.lr_schedule.learning_rate = 0.05
    config.lr_schedule.warmup_epochs = 1.0
    config.transfer.backbone_lr_factor = 0.1
    config.eval_batch_size = 16
    return config
