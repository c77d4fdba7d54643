"""CIFAR-10 and CIFAR-100, downloaded and prepared by TensorFlow Datasets without TensorFlow.

TFDS's own builder reads the archive and encodes the images through TensorFlow. A subclass of it
reads the archive by `archives` and hands over PNG files, which TFDS stores as they are: the folder
is the one TFDS would have made. It appears whole or not at all.
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
# Seconds to wait for a connection, and for the next bytes.
_TIMEOUT = (10, 60)


class DownloadError(Exception):
    """Why the archive could not be downloaded, in one line."""


def archive_url_and_checksum(name: str) -> tuple[str, str]:
    """Where TFDS says the archive of "cifar10" or "cifar100" is, and its SHA-256."""
    ((url, info),) = _builder_class(name).url_infos.items()
    return url, info.checksum


def prepare(name: str, root: Path) -> None:
    """Download the archive and prepare `root`/`name`/<version>.

    Raises DownloadError when it cannot be had, UserError when `root` cannot be written.
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
    """Write what `url` serves to `path`, whole and with this SHA-256, or not at all.

    Raises DownloadError.
    """
    # Not by TFDS's downloader, which tries an unreachable host for minutes and waits for ever.
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
                f"what came has the SHA-256 {digest.hexdigest()} instead of {checksum}"
            )


def prepare_from_archive(name: str, archive: Path, root: Path) -> None:
    """Prepare `root`/`name`/<version> from `cifar-10-binary.tar.gz` or its like."""
    import tensorflow_datasets as tfds

    builder = _builder_class(name)(
        archive=archive, data_dir=root, file_format=tfds.core.FileFormat.ARRAY_RECORD
    )
    print(f"preparing {builder.data_dir}", file=sys.stderr, flush=True)
    tfds.disable_progress_bar()
    try:
        # TFDS prints to stdout, which belongs to the program's answer.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare()
    except OSError:
        # Another process may have been faster: the folder it made is as good.
        if not (Path(builder.data_dir) / "dataset_info.json").is_file():
            raise
    finally:
        tfds.enable_progress_bar()


def _builder_class(name: str):
    """TFDS's builder of "cifar10" or "cifar100" with an archive to read, and no TensorFlow."""
    from tensorflow_datasets.image_classification import cifar

    original = {"cifar10": cifar.Cifar10, "cifar100": cifar.Cifar100}[name]

    class Builder(original, skip_registration=True):
        # What TFDS derives these from (checksums, folder) must stay the original's.
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
    """Key and example of every image, with the keys and ids that TFDS gives them."""
    for index, image in enumerate(progress(images, len(images), f"preparing {split}")):
        png = io.BytesIO()
        Image.fromarray(image).save(png, "PNG")
        png.seek(0)
        example = {"id": f"{split}_{index:05d}", "image": png}
        for kind, values in labels.items():
            example[_label_key(kind)] = int(values[index])
        yield index, example


def _innermost(error: BaseException) -> str:
    """The reason inside requests' and urllib3's wrappings, without the objects' addresses."""
    while error.args and isinstance(getattr(error.args[0], "reason", error.args[0]), Exception):
        error = getattr(error.args[0], "reason", error.args[0])
    return files.reason(error).split(" object at 0x")[-1].split(">: ")[-1]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
