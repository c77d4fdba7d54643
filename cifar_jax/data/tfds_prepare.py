"""Downloads CIFAR-10 and CIFAR-100 and prepares them with TensorFlow Datasets, without TensorFlow.

The builder in TFDS reads the archive and encodes images with TensorFlow. A subclass here reads the archive
with `archives` and passes PNG files on, which TFDS stores as they are. The folder equals the one that TFDS
would make, and is created atomically.
"""

import contextlib
import hashlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_jax.data.archives import read_cifar
from cifar_jax.data.source import progress
from cifar_jax.errors import UserError
from cifar_jax.system import files

NAMES = ("cifar10", "cifar100")
# Timeouts in seconds for the connection and for the next bytes.
_TIMEOUT = (10, 60)


class DownloadError(Exception):
    """The archive could not be downloaded; the message is one line."""


def archive_url_and_checksum(name: str) -> tuple[str, str]:
    """The URL of the archive of "cifar10" or "cifar100" and its SHA-256, as TFDS has them."""
    ((url, info),) = _builder_class(name).url_infos.items()
    return url, info.checksum


def prepare(name: str, root: Path) -> None:
    """Downloads the archive and prepares `root`/`name`/<version>.

    Raises:
      DownloadError: the archive cannot be downloaded.
      UserError: `root` cannot be written to.
    """
    url, checksum = archive_url_and_checksum(name)
    downloads = root / "downloads" / name
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        archive = downloads / url.rsplit("/", 1)[-1]
        if not (archive.is_file() and _sha256(archive) == checksum):
            download(url, checksum, archive)
        prepare_from_archive(name, archive, root)
    except OSError as error:
        raise UserError(
            f"{name} cannot be prepared in {root} ({files.reason(error)}); choose another folder with "
            "config.dataset.data_dir."
        ) from error


def download(url: str, checksum: str, path: Path) -> None:
    """Downloads `url` to `path` atomically. Raises DownloadError, also if the SHA-256 differs."""
    # TFDS's own downloader retries an unreachable host for minutes and has no timeout.
    import requests

    print(f"downloading {url} to {path}", file=sys.stderr, flush=True)
    digest = hashlib.sha256()
    with files.atomic_path(path) as part, open(part, "wb") as file:
        try:
            with requests.get(url, stream=True, timeout=_TIMEOUT) as response:
                response.raise_for_status()
                total = int(response.headers.get("Content-Length", 0)) or None
                units = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
                with progress(None, total, "downloading", **units) as bar:
                    for block in response.iter_content(2**18):
                        file.write(block)
                        digest.update(block)
                        bar.update(len(block))
        except requests.RequestException as error:
            raise DownloadError(_innermost(error)) from error
        if digest.hexdigest() != checksum:
            raise DownloadError(
                f"the download has the SHA-256 {digest.hexdigest()} instead of {checksum}"
            )


def prepare_from_archive(name: str, archive: Path, root: Path) -> None:
    """Prepares `root`/`name`/<version> from an official archive, such as cifar-10-binary.tar.gz."""
    import tensorflow_datasets as tfds

    builder = _builder_class(name)(
        archive=archive, data_dir=root, file_format=tfds.core.FileFormat.ARRAY_RECORD
    )
    print(f"preparing {builder.data_dir}", file=sys.stderr, flush=True)
    tfds.disable_progress_bar()
    try:
        # TFDS prints to standard output, which is for the program's results.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        # Another process may have made the same folder first.
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():
            raise
    finally:
        tfds.enable_progress_bar()


def _builder_class(name: str):
    """The builder of "cifar10" or "cifar100" in TFDS, changed to read an archive without TensorFlow."""
    from tensorflow_datasets.image_classification import cifar

    original = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}[name]

    class Builder(original, skip_registration=True):
        # TFDS derives checksums and the folder from these, so they must equal the original's.
        __module__ = original.__module__
        name = original.name
        VERSION = original.VERSION

        def __init__(self, *, archive: Path | None = None, **kwargs):
            self._archive = archive
            super().__init__(**kwargs)

        def _split_generators(self, dl_manager):
            images = read_cifar(self._archive, self.name)
            for kind, names in images.class_names.items():
                self.info.features[_label_key(kind)].names = names
            return {
                "train": _examples("train", images.train_images, images.train_labels),
                "test": _examples("test", images.test_images, images.test_labels),
            }

    return Builder


def _label_key(kind: str) -> str:
    return "label" if kind == "fine" else f"{kind}_label"


def _examples(split: str, images: np.ndarray, labels: dict[str, np.ndarray]):
    """(key, example) of every image, with the keys and ids of TFDS."""
    for index, image in enumerate(progress(images, len(images), f"preparing {split}")):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        example = {"id": f"{split}_{index:05d}", "image": png}
        for kind, values in labels.items():
            example[_label_key(kind)] = int(values[index])
        yield index, example


def _innermost(error: BaseException) -> str:
    """The original reason inside the exceptions of requests and urllib3, without object addresses."""
    while error.args and isinstance(getattr(error.args[0], "reason", error.args[0]), Exception):
        error = getattr(error.args[0], "reason", error.args[0])
    return files.reason(error).split(" object at 0x")[-1].split(">: ")[-1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
