"""CIFAR-10 and CIFAR-100 from the official archives, or from the folders they unpack to.

Layouts as on https://www.cs.toronto.edu/~kriz/cifar.html. Nothing is extracted to disk: members are read from
the tar by name.
"""

import bz2
import dataclasses
import gzip
import lzma
import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from cifar_jax.data.safe_pickle import read_pickle
from cifar_jax.data.source import Images, Source, files_version, resize_all
from cifar_jax.errors import UserError
from cifar_jax.system import files

# In the order of the labels; for prepared folders without class names.
CIFAR10_CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# More than twice the unpacked size of the largest official archive: guards against compression bombs.
_LARGEST_UNPACKED = 400 * 2**20
_PIXELS = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of one official form of a data set, by base name."""

    dataset: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    # Kinds of labels, in the order of their bytes before an image -> number of classes.
    classes: dict[str, int]
    # Kind of label -> (file, key) of the class names: a pickle and its key, or a text file.
    names: dict[str, tuple[str, str]]

    @property
    def is_binary(self) -> bool:
        return self.test.endswith(".bin")

    @property
    def files(self) -> tuple[str, ...]:
        return *self.train, self.test, *dict.fromkeys(file for file, _ in self.names.values())


LAYOUTS = (
    Layout(
        "cifar10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        {"fine": 10},
        {"fine": ("batches.meta", "label_names")},
    ),
    Layout(
        "cifar10",
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
        {"fine": 10},
        {"fine": ("batches.meta.txt", "")},
    ),
    Layout(
        "cifar100",
        "cifar-100-python",
        "cifar-100-python.tar.gz",
        ("train",),
        "test",
        {"coarse": 20, "fine": 100},
        {"coarse": ("meta", "coarse_label_names"), "fine": ("meta", "fine_label_names")},
    ),
    Layout(
        "cifar100",
        "cifar-100-binary",
        "cifar-100-binary.tar.gz",
        ("train.bin",),
        "test.bin",
        {"coarse": 20, "fine": 100},
        {"coarse": ("coarse_label_names.txt", ""), "fine": ("fine_label_names.txt", "")},
    ),
)


@dataclasses.dataclass(frozen=True)
class Cifar:
    """The content of an archive: images uint8 [N, 32, 32, 3], labels uint8 [N] by kind."""

    train_images: np.ndarray
    train_labels: dict[str, np.ndarray]
    test_images: np.ndarray
    test_labels: dict[str, np.ndarray]
    class_names: dict[str, tuple[str, ...]]


def archive_source(path: str | Path, dataset: str, labels: str, image_size: int) -> Source:
    """The images of an official archive or folder.

    Args:
      path: the archive, the folder it unpacks to, or a folder that contains either.
      dataset: "cifar10" or "cifar100".
      labels: "fine" or "coarse".
      image_size: height and width to resize to.

    Raises:
      UserError: `path` holds no such thing.
    """
    path = _find(Path(os.path.expanduser(path)), dataset)

    def read() -> Images:
        cifar = read_cifar(path, dataset)
        if labels not in cifar.class_names:
            raise UserError(f"{dataset} has no {labels} labels; set config.dataset.labels=fine.")
        return Images(
            resize_all(cifar.train_images, image_size, "resizing train"),
            cifar.train_labels[labels],
            resize_all(cifar.test_images, image_size, "resizing test"),
            cifar.test_labels[labels],
            cifar.class_names[labels],
        )

    paths = [path]
    if path.is_dir():
        known = {name for layout in LAYOUTS for name in layout.files}
        paths = [file for file in path.iterdir() if file.name in known]
    return Source(str(path.resolve()), files_version(paths), read)


def read_cifar(path: Path, dataset: str) -> Cifar:
    """Reads an official archive (.tar, compressed or not) or an unpacked folder.

    Raises UserError if a file is missing, broken, or of another data set.
    """
    try:
        contents = _read_folder(path) if path.is_dir() else _read_tar(path)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({files.reason(error)}); an official archive is a .tar.gz: "
            "download it again."
        ) from error
    layout = max(LAYOUTS, key=lambda layout: len(contents.keys() & set(layout.files)))
    missing = [name for name in layout.files if name not in contents]
    if len(missing) == len(layout.files):
        raise UserError(f"{path} holds none of the files of an official CIFAR archive.")
    if layout.dataset != dataset:
        raise UserError(
            f"{path} holds {layout.dataset}, but config.dataset.name is {dataset}; change one."
        )
    if missing:
        raise UserError(f"{path} is incomplete: it lacks {', '.join(missing)}.")

    batches = {}
    for name in (*layout.train, layout.test):
        batches[name] = _read_batch(layout, contents[name], f"{path}: {name}")
    train_images, train_labels = zip(*(batches[name] for name in layout.train), strict=True)
    test_images, test_labels = batches[layout.test]
    return Cifar(
        np.concatenate(train_images),
        {kind: np.concatenate([part[kind] for part in train_labels]) for kind in layout.classes},
        test_images,
        test_labels,
        _read_class_names(layout, contents, path),
    )


def _find(path: Path, dataset: str) -> Path:
    """`path` itself, or what it contains under an official name of the data set."""
    if not path.exists():
        raise UserError(f"config.dataset.archive={files.shown(path)} does not exist.")
    if not path.is_dir():
        files.check_regular_file(path)
        return path
    if any((path / name).is_file() for layout in LAYOUTS for name in layout.files):
        return path
    names = [
        name
        for layout in LAYOUTS
        if layout.dataset == dataset
        for name in (layout.folder, layout.archive)
    ]
    for name in names:
        if (path / name).exists():
            return path / name
    raise UserError(
        f"config.dataset.archive={files.shown(path)} contains none of {', '.join(names)}."
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    known = {name for layout in LAYOUTS for name in layout.files}
    found = [file for file in path.iterdir() if file.name in known]
    for file in found:
        if file.exists() and not file.is_file():
            files.check_regular_file(file)  # reading a pipe would block
    return {file.name: file.read_bytes() for file in found}


def _read_tar(path: Path) -> dict[str, bytes]:
    """The content of all members with a known base name, in one pass over the stream."""
    known = {name for layout in LAYOUTS for name in layout.files}
    contents: dict[str, bytes] = {}
    total = 0
    with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            # Skipped members count too: they are unpacked to find the next one.
            total += member.size
            if total > _LARGEST_UNPACKED:
                raise UserError(f"{path} unpacks to more than any official CIFAR archive does.")
            if not member.isreg() or name not in known or name in contents:
                continue
            contents[name] = archive.extractfile(member).read()
        # tarfile stops before the end of the stream, where the checksum is.
        while block := stream.read(2**20):
            total += len(block)
            if total > _LARGEST_UNPACKED:
                raise UserError(f"{path} unpacks to more than any official CIFAR archive does.")
    return contents


def _opened(path: Path):
    """The decompressed file, as a stream that verifies the checksum at its end."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, opened in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open)):
        if start.startswith(magic):
            return opened(path)
    return path.open("rb")


def _read_batch(
    layout: Layout, content: bytes, where: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images uint8 [N, 32, 32, 3] and labels uint8 [N] by kind."""
    read = _read_binary_batch if layout.is_binary else _read_python_batch
    pixels, labels = read(layout, content, where)
    for kind, values in labels.items():
        if values.max() >= layout.classes[kind]:
            raise UserError(
                f"{where} has the {kind} label {values.max()}, "
                f"but {layout.dataset} has {layout.classes[kind]} classes (from 0)."
            )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _read_binary_batch(layout: Layout, content: bytes, where: str):
    """Records of one byte per kind of label, then 3,072 bytes [channel, height, width]."""
    record = len(layout.classes) + _PIXELS
    if len(content) == 0 or len(content) % record:
        raise UserError(
            f"{where} has {len(content)} bytes, which is not a multiple of the {record} bytes of a record."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = {kind: records[:, place] for place, kind in enumerate(layout.classes)}
    return records[:, len(layout.classes) :], labels


def _read_python_batch(layout: Layout, content: bytes, where: str):
    batch = read_pickle(content, where)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != _PIXELS:
        raise UserError(f"{where} holds no array of images with {_PIXELS} bytes each.")
    if len(pixels) == 0:
        raise UserError(f"{where} holds no images.")
    labels = {}
    for kind in layout.classes:
        key = "labels" if layout.dataset == "cifar10" else f"{kind}_labels"
        values = batch.get(key)
        if not isinstance(values, list) or len(values) != len(pixels):
            raise UserError(f"{where} does not hold a list '{key}' with one label for each image.")
        if not all(isinstance(value, int) and 0 <= value < 256 for value in values):
            raise UserError(
                f"{where}: '{key}' holds a value that is not a label of {layout.dataset}."
            )
        labels[kind] = np.array(values, np.uint8)
    return pixels, labels


def _read_class_names(
    layout: Layout, contents: dict[str, bytes], path: Path
) -> dict[str, tuple[str, ...]]:
    class_names = {}
    for kind, (file, key) in layout.names.items():
        where = f"{path}: {file}"
        try:
            if layout.is_binary:
                lines = contents[file].decode().splitlines()
                names = tuple(line.strip() for line in lines if line.strip())
            else:
                names = tuple(name.decode() for name in read_pickle(contents[file], where)[key])
        except (UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} does not hold the names of the {kind} classes.") from error
        if len(names) != layout.classes[kind]:
            raise UserError(
                f"{where} names {len(names)} {kind} classes instead of {layout.classes[kind]}."
            )
        class_names[kind] = names
    return class_names
