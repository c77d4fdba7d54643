"""Image classification and segmentation sets prepared by TensorFlow Datasets, read without TensorFlow.

A prepared folder describes itself, so no code of the data set runs and nothing uses the network. Reads both
usual file formats of TFDS, `array_record` and `tfrecord`.
"""

import os
import re
import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from cifar_jax.data import masks
from cifar_jax.data.archives import CIFAR10_CLASS_NAMES
from cifar_jax.data.source import (
    SMALL,
    Images,
    Source,
    check_fits,
    files_version,
    progress,
    square_rgb,
)
from cifar_jax.errors import UserError
from cifar_jax.system import files

_VERSION = re.compile(r"\d+\.\d+\.\d+")
# The name of a data set in TFDS: name, name/config, name:1.2.3 or name/config:1.2.3.
_NAME = re.compile(r"(\w+(?:/[\w.+-]+)?)(?::(\d+\.\d+\.\d+))?")


def data_root(data_dir: str) -> Path:
    """The folder of prepared sets: `data_dir`, else TFDS_DATA_DIR, else the default of TFDS."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(os.path.expanduser(chosen))


def find_prepared(root: Path, name: str) -> Path | None:
    """The folder of a prepared set under `root`, in the newest or the named version; None if missing."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(f"config.dataset.name={name!r} is not the name of a data set.")
    set_name, wanted = match.groups()
    folder = root / set_name
    if not folder.is_dir():
        return None
    versions = [
        version
        for version in folder.iterdir()
        if _VERSION.fullmatch(version.name)
        and (wanted is None or version.name == wanted)
        and (version / "dataset_info.json").is_file()
    ]
    return max(
        versions, key=lambda path: [int(part) for part in path.name.split(".")], default=None
    )


def folder_source(folder: Path, config, image_size: int) -> Source:
    """The images of a prepared folder, with the labels that config.labels names (`config` is config.dataset).

    The test split is `test`, or else `validation`.
    """
    version = files_version(path for path in folder.iterdir() if path.is_file())
    classes = None
    if config.labels == masks.LABELS:
        classes = masks.parse_classes(config.classes, config.void)
        version += [config.classes, config.void, masks.READING]
    read = lambda: _read(folder, config.labels, classes, image_size)  # noqa: E731
    return Source(str(folder.resolve()), version, read)


def _read(folder: Path, labels: str, classes: masks.Classes | None, image_size: int) -> Images:
    # Imported here because it takes a second, and not needed once the images are cached.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(folder)
        splits = set(builder.info.splits)
    except Exception as error:
        raise UserError(
            f"{folder} cannot be opened by TensorFlow Datasets ({files.reason(error)})."
        ) from error
    image_key, label_key = _find_keys(builder.info, labels, folder)
    test = "test" if "test" in splits else "validation"
    if not {"train", test} <= splits:
        raise UserError(
            f"{folder} has the splits {', '.join(sorted(splits)) or '(none)'}; "
            "it needs train, and test or validation."
        )
    # Do not enlarge images of one size here: that would only fill the memory.
    height, width, _ = builder.info.features[image_key].shape
    reader = masks.Reader(classes) if classes else None
    if height and width and not reader:
        image_size = min(image_size, max(SMALL, min(height, width)))
    arrays = []
    for split in ("train", test):
        try:
            arrays += _decode(builder, split, image_key, label_key, image_size, reader)
        except UserError:
            raise
        except UnidentifiedImageError as error:
            raise UserError(
                f"{folder}: the {split} split is damaged (a record is not a picture); prepare it "
                "again."
            ) from error
        # On damaged files, Pillow and array_record may raise nearly anything.
        except Exception as error:
            if not builder.info.splits[split].num_examples:
                raise UserError(f"{folder}: the {split} split holds no images.") from error
            raise UserError(
                f"{folder}: the {split} split is damaged ({files.reason(error)}); prepare it again."
            ) from error
    if reader:
        names, colours = masks.names_and_colours(classes, reader, str(folder))
        return Images(*arrays, class_names=names, colours=colours)
    return Images(*arrays, class_names=_class_names(builder.info, label_key))


def _find_keys(info, labels: str, folder: Path) -> tuple[str, str]:
    """The names of the features that hold the image and the label."""
    import tensorflow_datasets as tfds

    features = dict(info.features)
    images = [key for key, value in features.items() if type(value) is tfds.features.Image]
    if labels == masks.LABELS:
        pictures = [key for key in images if features[key].shape[-1] == 3]
        of_masks = [key for key in images if features[key].shape[-1] == 1 and "mask" in key]
        if len(pictures) != 1 or len(of_masks) != 1:
            raise UserError(
                f"{folder} is not a segmentation set: that has one picture and one segmentation_mask, but "
                f"this has {', '.join(features)}."
            )
        return pictures[0], of_masks[0]
    images = [key for key in images if "mask" not in key]
    classes = [
        key for key, value in features.items() if isinstance(value, tfds.features.ClassLabel)
    ]
    if len(images) != 1 or not classes or features[images[0]].np_dtype != np.uint8:
        raise UserError(
            f"{folder} is not an image classification set: that has one 8-bit image and a class "
            f"label, but this has {', '.join(features)}."
        )
    if labels == "coarse":
        if "coarse_label" not in classes:
            raise UserError(f"{info.name} has no coarse labels; set config.dataset.labels=fine.")
        return images[0], "coarse_label"
    supervised = info.supervised_keys or ()
    preferred = [key for key in (*supervised, "label") if key in classes]
    return images[0], (preferred or classes)[0]


def _class_names(info, label_key: str) -> tuple[str, ...]:
    names = tuple(info.features[label_key].names)
    is_numbered = names == tuple(str(index) for index in range(len(names)))
    return CIFAR10_CLASS_NAMES if info.name == "cifar10" and is_numbered else names


def _decode(
    builder, split: str, image_key: str, label_key: str, size: int, reader: masks.Reader | None
) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, size, size, 3] and labels int32 [N] or, with a reader, masks uint8 [N, size, size].

    Decodes in one thread, which is faster for images this small (5,000 images on two cores: 0.4 s in one
    thread, 1.1 s in two).
    """
    total = builder.info.splits[split].num_examples
    check_fits(total, size)
    images = np.empty((total, size, size, 3), np.uint8)
    labels = np.empty((total, size, size), np.uint8) if reader else np.empty(total, np.int32)
    found = 0
    encoded = (image_key, label_key) if reader else (image_key,)
    examples = progress(_examples(builder, split, encoded), total, f"decoding {split}")
    for index, example in enumerate(examples):
        with Image.open(BytesIO(example[image_key])) as picture:
            images[index] = square_rgb(picture, size)
            label = example[label_key]
            if reader:
                label = _mask(
                    reader, label, picture.size, f"the mask of picture {index} of {split}"
                )
                label = masks.square(label, size)
            labels[index] = label
        found = index + 1
    if found != total:
        raise ValueError(f"it holds {found} of {total} images")
    return images, labels


def _mask(reader: masks.Reader, encoded: bytes, size: tuple[int, int], what: str) -> np.ndarray:
    with Image.open(BytesIO(encoded)) as mask:
        try:
            return reader.numbers(mask, size, encoded[: masks.HEAD_BYTES])
        except UserError as error:
            raise UserError(f"{what} {error}") from None


def _examples(builder, split: str, encoded: tuple[str, ...]) -> Iterator[dict]:
    """Every example in order, its features of these names as encoded bytes."""
    import tensorflow_datasets as tfds

    as_stored = {key: tfds.decode.SkipDecoding() for key in encoded}
    formats = builder.info.available_file_formats()
    if tfds.core.FileFormat.ARRAY_RECORD in formats:
        source = builder.as_data_source(split, decoders=as_stored, file_format="array_record")
        for start in range(0, len(source), 1000):
            yield from source.__getitems__(range(start, min(start + 1000, len(source))))
    elif builder.info.file_format == tfds.core.FileFormat.TFRECORD:
        features = builder.info.features
        info = builder.info.splits[split]
        for path, count in zip(info.filepaths, info.shard_lengths, strict=True):
            for record in read_tfrecords(Path(path), count):
                yield features.deserialize_example_np(record, decoders=as_stored)
    else:
        raise UserError(
            f"{builder.data_dir} is in the format {builder.info.file_format.value}; "
            "convert it on a machine with TensorFlow: tfds convert_format "
            f"--dataset_version_dir={builder.data_dir} --out_file_format=array_record"
        )


def read_tfrecords(path: Path, count: int) -> Iterator[bytes]:
    """The `count` records of a TFRecord file.

    A record is its length (8 bytes, little endian), a checksum of the length (4), the data, and a checksum
    of the data (4): https://www.tensorflow.org/tutorials/load_data/tfrecord. The checksums are not
    checked: wrong lengths do not add up to the size of the file, and pictures have their own.

    Raises:
      ValueError: the file has more or fewer records.
    """
    found = 0
    with path.open("rb") as file:
        while header := file.read(12):
            if len(header) < 12:
                break
            (length,) = struct.unpack("<Q", header[:8])
            if length > path.stat().st_size:
                break
            record = file.read(length + 4)
            if len(record) < length + 4:
                break
            found += 1
            yield record[:length]
        else:
            if found == count:
                return
    raise ValueError(f"{path.name} ends after {found} of {count} records")
