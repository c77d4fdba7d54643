"""Chooses the source of a config's images, and downloads CIFAR if it is not on this machine."""

import difflib
from pathlib import Path

from cifar_jax.data import cache, masks, tfds_prepare
from cifar_jax.data.archives import archive_source
from cifar_jax.data.digits import digits_source
from cifar_jax.data.mosaic import mosaic_source
from cifar_jax.data.picture_folders import pictures_source
from cifar_jax.data.segmentation_folders import segmentation_source
from cifar_jax.data.source import SMALL, Images, Source
from cifar_jax.data.tfds_folders import data_root, find_prepared, folder_source
from cifar_jax.errors import UserError
from cifar_jax.system import files

_SMALL_SETS = (*tfds_prepare.NAMES, "digits")


def decoded_size(config) -> int:
    """Height and width in pixels that images are decoded to, at most config.image_size.

    Pictures are decoded to exactly that size. Images of CIFAR and digits stay small, and are enlarged on
    the device.
    """
    if config.name.partition(":")[0] in _SMALL_SETS:
        return min(config.image_size, SMALL)
    return config.image_size


def cached(config, source: Source) -> Images:
    """The images of the source of a config: from the cache or, if it does not have them, decoded."""
    variant = [config.labels, decoded_size(config)]
    return cache.read_through(files.cache_folder(config.cache_dir), config.name, source, variant)


def locate(config) -> Source:
    """The source that `config` (config.dataset) names.

    Downloads and prepares CIFAR-10 or CIFAR-100 if it is not on this machine. Raises UserError if the
    images are not here and cannot be downloaded.
    """
    try:
        return _locate(config.name, config)
    except OSError as error:
        raise UserError(
            f"the images of {config.name[:60]} cannot be read: {files.reason(error)}"
        ) from error


def _locate(name: str, config) -> Source:
    size = decoded_size(config)
    if name == masks.MOSAIC:
        tiles = config.copy_and_resolve_references()
        tiles.name = config.tiles
        tiles.image_size = SMALL
        source = _locate(tiles.name, tiles)
        return mosaic_source(config, size, source, lambda: cached(tiles, source))
    if config.archive:
        if name not in tfds_prepare.NAMES:
            raise UserError(
                "config.dataset.archive is for cifar10 and cifar100, but config.dataset.name is "
                f"{name}; change one."
            )
        return archive_source(config.archive, name, config.labels, size)
    if name == "folder":
        return pictures_source(config, size)
    if name == masks.SEGMENTATION_FOLDER:
        return segmentation_source(config, size)
    if name == "digits":
        if config.labels != "fine":
            raise UserError(
                f"digits has no {config.labels} labels; set config.dataset.labels=fine."
            )
        return digits_source(size)
    return folder_source(_prepared_folder(name, config.data_dir), config, size)


def _prepared_folder(name: str, data_dir: str) -> Path:
    root = data_root(data_dir)
    folder = find_prepared(root, name)
    if folder is not None:
        return folder
    for parent in (root.parent, root.parent.parent):
        folder = find_prepared(parent, name)
        if folder is not None and root in (folder, folder.parent):
            raise UserError(f"{root} is one data set; set config.dataset.data_dir={parent}.")
    if name not in tfds_prepare.NAMES:
        here = [path.name for path in root.iterdir()] if root.is_dir() else []
        close = difflib.get_close_matches(name, [*tfds_prepare.NAMES, "digits", *here], n=1)
        hint = f"did you mean {close[0]}? Else " if close else ""
        raise UserError(
            f"{name} is not prepared in {root}, and only {' and '.join(tfds_prepare.NAMES)} are "
            f"downloaded; {hint}prepare it with TensorFlow Datasets and set "
            "config.dataset.data_dir to the folder that holds it."
        )
    try:
        tfds_prepare.prepare(name, root)
    except tfds_prepare.DownloadError as error:
        number = name.removeprefix("cifar")
        url, _ = tfds_prepare.archive_url_and_checksum(name)
        raise UserError(
            f"{name} is not in {root} and cannot be downloaded from {url}: {error}. Instead, use "
            f"config.dataset.archive=PATH of cifar-{number}-python.tar.gz or "
            f"cifar-{number}-binary.tar.gz; config.dataset.data_dir=FOLDER with a prepared "
            f"{name}; or --config=configs/quickstart.py, which needs no download."
        ) from error
    folder = find_prepared(root, name)
    if folder is None:
        raise UserError(f"{name} was just prepared in {root}, but is not there.")
    return folder
