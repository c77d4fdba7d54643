"""Fields that are sound by themselves but do not fit together, or tuples that do not fit in themselves."""

import itertools
import math
from collections.abc import Iterator

from cifar_jax.config.fields import COUNT, FINITE, TINY
from cifar_jax.config.words import shown
from cifar_jax.data import masks
from cifar_jax.models import MODELS, WHITENING

# Beta distributions with a smaller alpha give NaN in float32.
LEAST_MIXUP = 1e-6

# Longer tuples would take minutes to compile.
MOST_BOUNDARIES = 1000

# Training images of well-known sets. Others are checked when they are loaded.
TRAIN_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1437}

# ((names of fields, ...), what is wrong).
Errors = Iterator[tuple[tuple[str, ...], str]]


def contradictions(flat: dict) -> Errors:
    """What is wrong between the fields of a flat config whose single values are right."""
    yield from _schedule_errors(flat)
    yield from _dataset_errors(flat)
    yield from _augment_errors(flat)
    yield from _optimizer_errors(flat)
    yield from _segmentation_errors(flat)
    for name in ("transfer.frozen_epochs", "transfer.freeze_batch_norm"):
        if flat[name] and not flat["init_from"]:
            yield (name, "init_from"), f"{name} needs pretrained weights: set init_from"


def _segmentation_errors(flat: dict) -> Errors:
    name, labels, stride = "dataset.name", "dataset.labels", "model.fcn_stride"
    has_masks = flat[name] in masks.SETS or flat[labels] == masks.LABELS
    is_segmentation = flat[stride] is not None
    if is_segmentation and not has_masks:
        yield (
            (name, labels, stride),
            f"model.fcn_stride is for segmentation, but {shown(flat[name])} has a class for each image, not "
            f"for each pixel: set dataset.name to one of {', '.join(masks.SETS)}, or dataset.labels=mask",
        )
    if has_masks and not is_segmentation:
        what = flat[name] if flat[name] in masks.SETS else "dataset.labels=mask"
        yield (
            (name, labels, stride),
            f"{what} has a class for each pixel: set model.fcn_stride, for example 8, with a ResNet or "
            "MobileNetV2",
        )
    if flat[name] in masks.SETS and flat[labels] == masks.LABELS:
        yield (name, labels), f"dataset.labels=mask is for TFDS sets, not for {flat[name]}"
    if flat[name] == masks.MOSAIC and flat["dataset.tiles"] in (*masks.SETS, "folder"):
        tiles = shown(flat["dataset.tiles"])
        yield ("dataset.tiles",), f"dataset.tiles is {tiles}, but takes a classification set"
    try:
        masks.parse_classes(flat["dataset.classes"], flat["dataset.void"])
    except ValueError as error:
        yield ("dataset.classes", "dataset.void"), f"dataset.{error}"
    else:
        for field in ("dataset.classes", "dataset.void"):
            if flat[field] and (flat[name] == masks.MOSAIC or not has_masks):
                yield (field, name), f"{field} is for sets with masks, not for {shown(flat[name])}"
    if not is_segmentation:
        return
    if flat["augment.mixup"]:
        yield ("augment.mixup", stride), "augment.mixup is for classification: set it to 0"
    if flat["test_time_augmentation"] == "mirror_and_shift":
        yield (
            ("test_time_augmentation", stride),
            "test_time_augmentation 'mirror_and_shift' is for classification: set none or mirror",
        )


def _augment_errors(flat: dict) -> Errors:
    if flat["augment.alternating_flip"] and not flat["augment.flip"]:
        names = ("augment.alternating_flip", "augment.flip")
        yield names, "augment.alternating_flip is a way to flip: set augment.flip"
    alpha = flat["augment.mixup"]
    if 0 < alpha < LEAST_MIXUP:
        words = f"augment.mixup is {alpha}, but must be 0 or at least {LEAST_MIXUP}"
        yield ("augment.mixup",), words
    size = flat["dataset.image_size"]
    for name in ("augment.cutout", "augment.crop_padding"):
        if flat[name] > size:
            words = f"{name} {flat[name]} is larger than dataset.image_size {size}"
            yield (name, "dataset.image_size"), words


def _optimizer_errors(flat: dict) -> Errors:
    optimizer = flat["optimizer.name"]
    for name in ("optimizer.bias_lr_factor", "optimizer.head_lr_factor"):
        if flat[name] != 1 and optimizer not in ("sgd", "muon"):
            yield (name, "optimizer.name"), f"{name} is for sgd and muon, not {optimizer}"
    if flat["optimizer.whitening_bias_epochs"] and not _whitens(flat):
        yield (
            ("optimizer.whitening_bias_epochs", "model.name", "model.whitening"),
            "optimizer.whitening_bias_epochs is for networks with a whitening layer: set model.whitening",
        )
    if optimizer == "muon" and flat["init_from"]:
        yield (
            ("optimizer.name", "init_from"),
            "optimizer.name 'muon' gives every convolution kernel a new norm, which spoils the "
            "weights of init_from: use sgd, adam or adamw",
        )


def _whitens(flat: dict) -> bool:
    """Whether the network has a whitening layer: as the field says or, unset, by its own default."""
    entry = MODELS.get(flat["model.name"])
    default = getattr(getattr(entry, "func", entry), WHITENING, False)
    return default if flat["model.whitening"] is None else flat["model.whitening"]


def _schedule_errors(flat: dict) -> Errors:
    # A boundary after the last epoch is allowed: a run may be extended.
    boundaries, name = flat["lr_schedule.boundaries"], "lr_schedule.boundaries"
    if len(boundaries) > MOST_BOUNDARIES:
        yield (name,), f"{name} has {len(boundaries)} epochs, but at most {MOST_BOUNDARIES} fit"
    elif any(epoch <= 0 for epoch in boundaries):
        yield (name,), f"{name} {shown(boundaries)} must be positive numbers of epochs"
    elif any(a >= b for a, b in itertools.pairwise(boundaries)):
        yield (name,), f"{name} {shown(boundaries)} must increase"
    elif flat["lr_schedule.name"] == "step" and boundaries and flat["lr_schedule.factor"] > 1:
        rate, factor = flat["lr_schedule.learning_rate"], flat["lr_schedule.factor"]
        if rate and math.log(rate) + len(boundaries) * math.log(factor) > math.log(FINITE):
            names = (name, "lr_schedule.name", "lr_schedule.factor", "lr_schedule.learning_rate")
            yield (
                names,
                f"lr_schedule.factor {factor:g} at {len(boundaries)} boundaries makes "
                f"lr_schedule.learning_rate {rate:g} infinite",
            )
    if flat["lr_schedule.warmup_epochs"] > flat["num_epochs"]:
        names = ("lr_schedule.warmup_epochs", "num_epochs")
        warmup, epochs = (flat[name] for name in names)
        yield names, f"lr_schedule.warmup_epochs {warmup:g} is longer than num_epochs {epochs:g}"


def _dataset_errors(flat: dict) -> Errors:
    for name in ("dataset.mean", "dataset.std"):
        value = flat[name]
        if value is not None and len(value) != 3:
            yield (name,), f"{name} is {shown(value)}, but takes three numbers, one per channel"
        elif value is not None and name == "dataset.std" and min(value) < TINY:
            yield (name,), f"{name} is {shown(value)}, but must be positive"
    # TFDS names may end in a colon and a version.
    dataset = flat["dataset.name"].partition(":")[0]
    owner = flat["dataset.tiles"].partition(":")[0] if dataset == masks.MOSAIC else dataset
    if flat["dataset.labels"] == "coarse" and owner != "cifar100":
        names = ("dataset.labels", "dataset.name")
        yield names, "dataset.labels is 'coarse', which only cifar100 has"
    names = ("dataset.name", "dataset.path")
    folders = ("folder", masks.SEGMENTATION_FOLDER)
    if dataset in folders and not flat["dataset.path"]:
        yield names, f"dataset.name is {dataset!r}: set dataset.path to the folder of pictures"
    if flat["dataset.path"] and dataset not in folders:
        yield names, f"dataset.path is for dataset.name 'folder', not {shown(dataset)}"
    yield from _size_errors(flat, dataset)


def _size_errors(flat: dict, dataset: str) -> Errors:
    there = TRAIN_IMAGES.get(dataset, COUNT)
    if dataset == masks.MOSAIC:
        there = flat["dataset.train_scenes"]
    wanted, held_out = flat["dataset.train_examples"], flat["dataset.validation_examples"]
    names = ("dataset.name", "dataset.train_examples", "dataset.validation_examples")
    if wanted + held_out > there or held_out >= there:
        yield (
            names,
            f"dataset.train_examples {wanted} and dataset.validation_examples {held_out} ask for "
            f"more than the {there:,} training images of {dataset}",
        )
    elif flat["batch_size"] > (wanted or there - held_out):
        yield (
            ("batch_size", *names),
            f"batch_size {flat['batch_size']} is larger than the training set of "
            f"{wanted or there - held_out} examples",
        )
