"""CIFAR-10 and CIFAR-100 from the official archives, or from the folders that they unpack to.

The layouts are those of https://www.cs.toronto.edu/~kriz/cifar.html. Nothing is ever extracted:
members are read from the tar by name. Pickles are read by an unpickler that can build nothing
but the lists, strings and one array that these files consist of.
"""

import bz2
import dataclasses
import gzip
import io
import lzma
import os
import pickle
import tarfile
import zlib
from pathlib import Path

import numpy as np

from cifar_jax.data.source import Images, Source, files_version, resize_all
from cifar_jax.errors import UserError
from cifar_jax.system import files

# In the order of the labels; for prepared folders that do not tell.
CIFAR10_CLASS_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# More than twice the largest official archive, unpacked: a guard against compression bombs.
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
    # Kinds of labels in the order of the bytes before an image, and the number of their classes.
    classes: dict[str, int]
    # Where the class names are: a pickle and its keys, or text files; by kind of label.
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
    """All that an archive holds: images uint8 [N, 32, 32, 3]; labels uint8 [N] by kind."""

    train_images: np.ndarray
    train_labels: dict[str, np.ndarray]
    test_images: np.ndarray
    test_labels: dict[str, np.ndarray]
    class_names: dict[str, tuple[str, ...]]


def archive_source(path: str | Path, dataset: str, labels: str, image_size: int) -> Source:
    """The images of `dataset` ("cifar10" or "cifar100") in an official archive or folder.

    `labels` is "fine" or "coarse". Raises UserError where there is nothing of the kind at `path`.
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

    files = [path]
    if path.is_dir():
        known = {name for layout in LAYOUTS for name in layout.files}
        files = [file for file in path.iterdir() if file.name in known]
    return Source(str(path.resolve()), files_version(files), read)


def read_cifar(path: Path, dataset: str) -> Cifar:
    """Read an official archive (.tar, compressed or not) or an unpacked folder.

    Raises UserError, in one line, for whatever is missing, broken or of another data set.
    """
    try:
        contents = _read_folder(path) if path.is_dir() else _read_tar(path)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({files.reason(error)}); an official archive is a .tar.gz, "
            "best downloaded again."
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
    """`path`, or what it directly contains under an official name of the data set."""
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
            files.check_regular_file(file)  # a pipe would be waited for
    return {file.name: file.read_bytes() for file in found}


def _read_tar(path: Path) -> dict[str, bytes]:
    """The contents of all members with a known base name, in one pass over the stream."""
    known = {name for layout in LAYOUTS for name in layout.files}
    contents: dict[str, bytes] = {}
    total = 0
    with _opened(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            # What is skipped is unpacked too, to find the next one.
            total += member.size
            if total > _LARGEST_UNPACKED:
                raise UserError(f"{path} unpacks to more than any official CIFAR archive does.")
            if not member.isreg() or name not in known or name in contents:
                continue
            contents[name] = archive.extractfile(member).read()
        # The checksum of all, which tarfile does not read, is at the end of the file.
        while block := stream.read(2**20):
            total += len(block)
            if total > _LARGEST_UNPACKED:
                raise UserError(f"{path} unpacks to more than any official CIFAR archive does.")
    return contents


def _opened(path: Path):
    """The file unpacked, as a stream that verifies the checksum at its end."""
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
                f"but {layout.dataset} has {layout.classes[kind]} of them (from 0)."
            )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _read_binary_batch(layout: Layout, content: bytes, where: str):
    """Records of one byte for each kind of label, then 3,072 bytes: channel, height, width."""
    record = len(layout.classes) + _PIXELS
    if len(content) == 0 or len(content) % record:
        raise UserError(
            f"{where} has {len(content)} bytes, which is not a number of whole records of {record}."
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
            raise UserError(f"{where}: '{key}' holds what is no label of {layout.dataset}.")
        labels[kind] = np.array(values, np.uint8)
    return pixels, labels


def _read_class_names(
    layout: Layout, files: dict[str, bytes], path: Path
) -> dict[str, tuple[str, ...]]:
    class_names = {}
    for kind, (file, key) in layout.names.items():
        where = f"{path}: {file}"
        try:
            if layout.is_binary:
                lines = files[file].decode().splitlines()
                names = tuple(line.strip() for line in lines if line.strip())
            else:
                names = tuple(name.decode() for name in read_pickle(files[file], where)[key])
        except (UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where} does not hold the names of the {kind} classes.") from error
        if len(names) != layout.classes[kind]:
            raise UserError(
                f"{where} names {len(names)} {kind} classes instead of {layout.classes[kind]}."
            )
        class_names[kind] = names
    return class_names


def read_pickle(content: bytes, where: str) -> dict:
    """The dictionary in an official batch or meta file, with its keys as strings.

    Raises UserError for anything else, and for a pickle that asks for anything but a uint8 array.
    """
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode(): value for key, value in value.items()}
    # A broken pickle may raise nearly anything; all of it means the same to the user.
    except Exception as error:
        raise UserError(
            f"{where} is not a pickle in the official layout ({files.reason(error)})."
        ) from error


class _Array:
    """Stands in for numpy.ndarray: takes an array's pickled state, builds a uint8 array."""

    __slots__ = ("array",)

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, content = state
        if type(dtype) is not _Dtype or type(content) is not bytes:
            raise pickle.UnpicklingError("its array is not of bytes")
        flat = np.frombuffer(content, np.uint8)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


class _Dtype:
    """Stands in for numpy.dtype: nothing but uint8."""

    __slots__ = ()

    def __init__(self, name, *_):
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"its array is of type {name!r}, not of bytes")

    def __setstate__(self, state):
        pass


class _Reconstruct:
    """Stands in for the function by which NumPy's pickles begin an array."""

    __slots__ = ()

    def __call__(self, *_):
        return _Array()


class _Encode:
    """Stands in for codecs.encode, by which Python 3 writes bytes into protocol 2."""

    __slots__ = ()

    def __call__(self, text, encoding):
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """No name in a pickle reaches NumPy or Python: each is answered by a stand-in, or refused."""

    _stand_ins = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode(),
    }

    def find_class(self, module, name):
        try:
            return self._stand_ins[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def load(self):
        value = super().load()
        if not isinstance(value, dict):
            raise pickle.UnpicklingError("it holds no dictionary")
        return {
            key: entry.array if isinstance(entry, _Array) else entry for key, entry in value.items()
        }
