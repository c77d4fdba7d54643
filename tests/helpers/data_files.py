"""Small data sets of random images in every form that the project reads, made by plain means.

No data are made by the code under test: archives are written with pickle, NumPy and tarfile, prepared
folders by TensorFlow Datasets itself.
"""

import dataclasses
import io
import json
import pickle
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import datasets
from cifar_jax.errors import UserError

CIFAR10_NAMES = [
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
]  # fmt: skip
CIFAR100_NAMES = {
    "fine": [f"fine_{i}" for i in range(100)],
    "coarse": [f"coarse_{i}" for i in range(20)],
}
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Images uint8 [N, 32, 32, 3]; fine labels, and coarse ones for CIFAR-100."""

    images: np.ndarray
    fine: np.ndarray
    coarse: np.ndarray

    def __getitem__(self, places) -> "Part":
        return Part(self.images[places], self.fine[places], self.coarse[places])

    def rows(self) -> np.ndarray:
        """The images as the official files store them: uint8 [N, 3072], channel by channel."""
        return self.images.transpose(0, 3, 1, 2).reshape(-1, 3072)


def random_part(count: int, classes: int, seed: int) -> Part:
    """Random images with labels of every class, about equally often, in random order."""
    rng = np.random.default_rng(seed)
    return Part(
        rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        rng.permutation(np.arange(count) % classes),
        rng.permutation(np.arange(count) % 20),
    )


def official_files(dataset: str, form: str, train: Part, test: Part) -> dict[str, bytes]:
    """The files of an official folder, {name: content}. `form` is "python" or "binary"."""
    if dataset == "cifar10":
        batches = {f"data_batch_{i + 1}": train[i::5] for i in range(5)} | {"test_batch": test}
    else:
        batches = {"train": train, "test": test}
    if form == "binary":
        files = {f"{name}.bin": binary_batch(dataset, part) for name, part in batches.items()}
        return files | _binary_names(dataset)
    files = {name: python_batch(dataset, part) for name, part in batches.items()}
    if dataset == "cifar10":
        meta = {b"label_names": [name.encode() for name in CIFAR10_NAMES], b"num_vis": 3072}
        return files | {"batches.meta": pickle.dumps(meta, protocol=2)}
    meta = {
        f"{kind}_label_names".encode(): [name.encode() for name in names]
        for kind, names in CIFAR100_NAMES.items()
    }
    return files | {"meta": pickle.dumps(meta, protocol=2)}


def python_batch(dataset: str, part: Part) -> bytes:
    batch = {b"batch_label": b"a batch", b"data": np.ascontiguousarray(part.rows())}
    if dataset == "cifar10":
        batch[b"labels"] = part.fine.tolist()
    else:
        batch |= {b"fine_labels": part.fine.tolist(), b"coarse_labels": part.coarse.tolist()}
    return pickle.dumps(batch, protocol=2)


def binary_batch(dataset: str, part: Part) -> bytes:
    labels = [part.fine] if dataset == "cifar10" else [part.coarse, part.fine]
    records = np.concatenate([np.stack(labels, 1).astype(np.uint8), part.rows()], axis=1)
    return records.tobytes()


def _binary_names(dataset: str) -> dict[str, bytes]:
    def lines(names):
        # The official files end with an empty line.
        return ("\n".join(names) + "\n\n").encode()

    if dataset == "cifar10":
        return {"batches.meta.txt": lines(CIFAR10_NAMES)}
    return {f"{kind}_label_names.txt": lines(names) for kind, names in CIFAR100_NAMES.items()}


def write_folder(parent: Path, dataset: str, form: str, files: dict[str, bytes]) -> Path:
    folder = parent / FOLDERS[dataset, form]
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_tar(path: Path, files: dict[str, bytes], folder: str) -> Path:
    """Writes a .tar.gz whose members are in `folder`, as in the official archives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_tfds(
    root: Path, name: str, splits: dict, class_names: list[str], picture_format: str = "PNG"
) -> Path:
    """Have TFDS prepare `root`/`name`/1.0.0 (array_record); returns that folder.

    `splits` maps a name to images [N, height, width, 1 or 3] or a list of such, and labels.
    """
    import tensorflow_datasets as tfds

    shapes = {np.shape(image) for images, _ in splits.values() for image in images}
    channels = {shape[-1] for shape in shapes}.pop()
    shape = shapes.pop() if len(shapes) == 1 else (None, None, channels)
    set_name = name

    class Small(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = set_name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=class_names),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._examples(*values) for split, values in splits.items()}

        def _examples(self, images, labels):
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                file = io.BytesIO()
                Image.fromarray(np.squeeze(image)).save(file, picture_format)
                file.seek(0)
                yield index, {"image": file, "label": int(label)}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Small(data_dir=root, file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def write_tfds_masks(root: Path, name: str, splits: dict[str, list]) -> None:
    """Have TFDS prepare `root`/`name`/1.0.0 with (image, mask [height, width, 1]) of each example."""
    import tensorflow_datasets as tfds

    set_name = name

    class WithMasks(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = set_name
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=2),
                "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._examples(*examples) for split, examples in splits.items()}

        def _examples(self, *examples):
            for index, pictures in enumerate(examples):
                files = [io.BytesIO() for _ in pictures]
                for picture, file in zip(pictures, files, strict=True):
                    Image.fromarray(np.squeeze(picture)).save(file, "PNG")
                    file.seek(0)
                yield (
                    index,
                    {"image": files[0], "label": index % 2, "segmentation_mask": files[1]},
                )

        def _generate_examples(self):
            raise NotImplementedError

    WithMasks(data_dir=root, file_format="array_record").download_and_prepare()


def to_tfrecord(folder: Path) -> None:
    """Turn a prepared array_record folder into the tfrecord one that TensorFlow would have made."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorboardX.record_writer import RecordWriter

    for path in folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(path))
        writer = RecordWriter(str(path).replace(".array_record-", ".tfrecord-"))
        for record in reader.read_all():
            writer.write(record)
        writer.close()
        reader.close()
        path.unlink()
    set_info(folder, fileFormat="tfrecord")


def set_info(folder: Path, **fields) -> None:
    """Change fields of a prepared folder's description."""
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class Calls:
    """Pickles as a call of a given function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def forbid_network(monkeypatch) -> None:
    """Refuse every address but the loopback and resolve no name."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def only_loopback(self, address):
        assert address[0] == "127.0.0.1", f"a connection to {address} was tried"
        return connect(self, address)

    def resolve(host, *arguments, **named):
        if host != "127.0.0.1":
            raise socket.gaierror(-2, "Name or service not known")
        return getaddrinfo(host, *arguments, **named)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def error_line(config) -> str:
    """The error of loading `config` (the `dataset` part). Asserts that it is one line."""
    with pytest.raises(UserError) as error:
        datasets.load(config, seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)
