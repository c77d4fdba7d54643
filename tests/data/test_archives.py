"""Reading the official CIFAR archives and folders: intact, damaged and malicious ones.

The files hold small sets of random images.
"""

import bz2
import gzip
import lzma
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cifar_jax.data import archives, datasets, safe_pickle
from cifar_jax.errors import UserError
from tests.helpers import data_files as fixtures

TRAIN10, TEST10 = fixtures.random_part(60, 10, seed=1), fixtures.random_part(20, 10, seed=2)
TRAIN100, TEST100 = fixtures.random_part(200, 100, seed=3), fixtures.random_part(100, 100, seed=4)
PARTS = {"cifar10": (TRAIN10, TEST10), "cifar100": (TRAIN100, TEST100)}


def in_official_order(train: fixtures.Part, dataset: str) -> fixtures.Part:
    """The order of the loaded images. The helpers deal CIFAR-10's images out to five batches in turn."""
    if dataset == "cifar100":
        return train
    return train[np.concatenate([np.arange(len(train.fine))[i::5] for i in range(5)])]


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("packed", ["folder", "parent", "archive", "parent of archive"])
def test_every_official_form_gives_the_same_images(tmp_path, config, dataset, form, packed):
    train, test = PARTS[dataset]
    files = fixtures.official_files(dataset, form, train, test)
    if packed in ("folder", "parent"):
        path = fixtures.write_folder(tmp_path / "data", dataset, form, files)
    else:
        name = f"cifar-{dataset[5:]}-{form}.tar.gz"
        path = fixtures.write_tar(tmp_path / "data" / name, files, fixtures.FOLDERS[dataset, form])
    config.update({"name": dataset, "archive": str(path.parent if "parent" in packed else path)})
    data = datasets.load(config, seed=0)
    train = in_official_order(train, dataset)
    for split, part in ((data.train, train), (data.test, test)):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.flags.c_contiguous
        np.testing.assert_array_equal(split.images, part.images)
        np.testing.assert_array_equal(split.labels, part.fine)
    expected = fixtures.CIFAR10_NAMES if dataset == "cifar10" else fixtures.CIFAR100_NAMES["fine"]
    assert data.class_names == tuple(expected)
    assert data.validation is None
    assert data.name == dataset


@pytest.mark.parametrize("form", ["python", "binary"])
def test_coarse_labels(tmp_path, config, form):
    files = fixtures.official_files("cifar100", form, TRAIN100, TEST100)
    path = fixtures.write_folder(tmp_path, "cifar100", form, files)
    config.update({"name": "cifar100", "labels": "coarse", "archive": str(path)})
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.train.labels, TRAIN100.coarse)
    np.testing.assert_array_equal(data.test.labels, TEST100.coarse)
    assert data.class_names == tuple(fixtures.CIFAR100_NAMES["coarse"])
    # The cache keeps fine and coarse labels apart.
    config.labels = "fine"
    np.testing.assert_array_equal(datasets.load(config, seed=0).train.labels, TRAIN100.fine)


def test_a_folder_with_both_sets_is_read_by_name(tmp_path, config):
    for dataset, parts in PARTS.items():
        files = fixtures.official_files(dataset, "python", *parts)
        fixtures.write_folder(tmp_path / "both", dataset, "python", files)
    config.archive = str(tmp_path / "both")
    assert len(datasets.load(config, seed=0).class_names) == 10
    config.name = "cifar100"
    assert len(datasets.load(config, seed=0).class_names) == 100


def python_2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch written opcode by opcode, as Python 2 and the NumPy of 2009 pickled it."""
    return b"".join(
        [
            b"\x80\x02}(U\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R",
            b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + struct.pack("<I", pixels.size) + pixels.tobytes() + b"tb",
            b"U\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels) + b"eu.",
        ]
    )


def test_batches_of_python_2_are_read(tmp_path, config):
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    files["test_batch"] = python_2_batch(TEST10.rows(), TEST10.fine.tolist())
    # Python's own unpickler confirms that the handwritten bytes are correct.
    independent = pickle.loads(files["test_batch"], encoding="bytes")
    np.testing.assert_array_equal(independent[b"data"], TEST10.rows())
    config.archive = str(fixtures.write_folder(tmp_path, "cifar10", "python", files))
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.test.images, TEST10.images)
    np.testing.assert_array_equal(data.test.labels, TEST10.fine)


@pytest.mark.parametrize(
    "value",
    [
        fixtures.Calls(Path.touch, Path("touched")),
        fixtures.Calls(eval, "open('touched', 'w')"),
        fixtures.Calls(np.load, "data_batch_1"),
        np.array([print], dtype=object),
        np.zeros((4, 3072), np.float32),
        fixtures.Calls(getattr, "text", "upper"),
    ],
    ids=["method", "eval", "numpy function", "objects", "floats", "getattr"],
)
@pytest.mark.parametrize("form", ["value", "whole"])
def test_pickles_can_ask_for_nothing_but_bytes(tmp_path, monkeypatch, config, value, form):
    monkeypatch.chdir(tmp_path)
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    whole = {b"data": value, b"labels": [0]} if form == "value" else value
    files["data_batch_2"] = pickle.dumps(whole, protocol=2)
    config.archive = str(fixtures.write_folder(tmp_path, "cifar10", "python", files))
    with pytest.raises(UserError, match="data_batch_2 is not a pickle in the official layout"):
        datasets.load(config, seed=0)
    assert not (tmp_path / "touched").exists()


def test_a_pickle_cannot_choose_a_codec(tmp_path):
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    assert pickle.loads(content) == "n"
    with pytest.raises(UserError, match="rot13"):
        safe_pickle.read_pickle(content, "a file")


def test_members_of_an_archive_stay_inside(tmp_path, config):
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    path = fixtures.write_tar(tmp_path / "inner" / "a.tar.gz", files, "../../outside")
    before = set(tmp_path.rglob("*"))
    config.archive = str(path)
    assert len(datasets.load(config, seed=0).test.labels) == 20
    made = {found for found in tmp_path.rglob("*") if found not in before}
    assert {found.relative_to(tmp_path).parts[0] for found in made} == {"cache"}

    # The reader does not follow links, so the linked file counts as missing.
    secret = tmp_path / "secret"
    secret.write_bytes(files.pop("data_batch_3"))
    path = fixtures.write_tar(tmp_path / "b.tar", files, "x")
    with tarfile.open(path, "w") as archive:
        for name in files:
            member = tmp_path / name
            member.write_bytes(files[name])
            archive.add(member, f"x/{name}")
        link = tarfile.TarInfo("x/data_batch_3")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    config.archive = str(path)
    with pytest.raises(UserError, match="lacks data_batch_3"):
        datasets.load(config, seed=0)


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path, config, monkeypatch):
    monkeypatch.setattr(archives, "_LARGEST_UNPACKED", 10_000)
    files = fixtures.official_files("cifar10", "binary", TRAIN10, TEST10)
    config.archive = str(fixtures.write_tar(tmp_path / "a.tar.gz", files, "x"))
    with pytest.raises(UserError, match="unpacks to more"):
        datasets.load(config, seed=0)


def replaced(dataset: str, form: str, name: str, change):
    """The files of an official folder, one of them changed. If `change` returns None, it is left out."""
    files = fixtures.official_files(dataset, form, *PARTS[dataset])
    content = change(files.pop(name))
    return files if content is None else files | {name: content}


def python_batch_with(**fields) -> bytes:
    batch = pickle.loads(fixtures.python_batch("cifar10", TEST10), encoding="bytes")
    batch |= {key.encode(): value for key, value in fields.items()}
    return pickle.dumps(batch, protocol=2)


BROKEN = [
    ("cifar10", "python", "data_batch_4", lambda _: None, "incomplete: it lacks data_batch_4"),
    ("cifar10", "python", "batches.meta", lambda _: None, "lacks batches.meta"),
    ("cifar10", "python", "test_batch", lambda old: old[:-100], "test_batch is not a pickle"),
    ("cifar10", "python", "test_batch", lambda _: b"", "test_batch is not a pickle"),
    ("cifar10", "python", "test_batch", lambda _: pickle.dumps([1], 2), "holds no dictionary"),
    (
        "cifar10",
        "python",
        "test_batch",
        lambda _: python_batch_with(data=np.zeros((20, 3071), np.uint8)),
        "no array of images with 3072 bytes",
    ),
    (
        "cifar10",
        "python",
        "test_batch",
        lambda _: python_2_batch(np.zeros((0, 3072), np.uint8), []),
        "test_batch holds no images",
    ),
    (
        "cifar10",
        "python",
        "test_batch",
        lambda _: python_batch_with(labels=[0] * 19),
        "one label for each image",
    ),
    (
        "cifar10",
        "python",
        "test_batch",
        lambda _: python_batch_with(labels=[0] * 19 + [10]),
        "fine label 10",
    ),
    (
        "cifar10",
        "python",
        "test_batch",
        lambda _: python_batch_with(labels=[0] * 19 + [-1]),
        "not a label of cifar10",
    ),
    ("cifar10", "python", "batches.meta", lambda _: pickle.dumps({}, 2), "names of the fine"),
    ("cifar10", "binary", "test_batch.bin", lambda old: old[:-1], "multiple of the 3073 bytes"),
    ("cifar10", "binary", "test_batch.bin", lambda _: b"", "0 bytes"),
    ("cifar10", "binary", "data_batch_1.bin", lambda old: b"\x0a" + old[1:], "fine label 10"),
    ("cifar10", "binary", "batches.meta.txt", lambda _: b"cat\ndog\n", "names 2 fine classes"),
    ("cifar100", "binary", "train.bin", lambda old: b"\x14" + old[1:], "coarse label 20"),
    ("cifar100", "binary", "train.bin", lambda old: old[:1] + b"\x64" + old[2:], "fine label 100"),
    ("cifar100", "python", "meta", lambda _: None, "lacks meta"),
]


@pytest.mark.parametrize(("dataset", "form", "name", "change", "message"), BROKEN)
def test_broken_files_get_one_line(tmp_path, config, dataset, form, name, change, message):
    files = replaced(dataset, form, name, change)
    path = fixtures.write_folder(tmp_path, dataset, form, files)
    config.update({"name": dataset, "archive": str(path)})
    with pytest.raises(UserError, match=message) as error:
        datasets.load(config, seed=0)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert not list(tmp_path.glob("cache/*"))


def test_what_is_no_archive_gets_one_line(tmp_path, config):
    def message(archive) -> str:
        config.archive = str(archive)
        with pytest.raises(UserError) as error:
            datasets.load(config, seed=0)
        assert "\n" not in str(error.value)
        return str(error.value)

    def message_for_cifar100(archive) -> str:
        config.name = "cifar100"
        said = message(archive)
        config.name = "cifar10"
        return said

    assert "does not exist" in message(tmp_path / "absent.tar.gz")
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe" in message(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    assert "contains none of cifar-10-batches-py" in message(tmp_path / "empty")
    (tmp_path / "text").write_text("not an archive")
    assert "cannot be read" in message(tmp_path / "text")
    files = fixtures.official_files("cifar10", "binary", TRAIN10, TEST10)
    whole = fixtures.write_tar(tmp_path / "whole.tar.gz", files, "x")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert "cannot be read" in message(cut) or "incomplete" in message(cut)
    # A flipped bit changes an image; only the checksum at the end of the file reveals it.
    data = bytearray(whole.read_bytes())
    data[5000] ^= 1
    (tmp_path / "flipped.tar.gz").write_bytes(data)
    assert "CRC check failed" in message(tmp_path / "flipped.tar.gz")
    for opened, suffix in ((bz2.open, "bz2"), (lzma.open, "xz")):
        cut = tmp_path / f"cut.tar.{suffix}"
        with opened(cut, "wb") as file:
            file.write(gzip.decompress(whole.read_bytes()))
        assert "holds cifar10" in message_for_cifar100(cut)
        cut.write_bytes(cut.read_bytes()[:-100])
        assert "cannot be read" in message(cut)
    with_pipe = fixtures.write_folder(tmp_path / "with_pipe", "cifar10", "binary", files)
    (with_pipe / "test_batch.bin").unlink()
    os.mkfifo(with_pipe / "test_batch.bin")
    assert "is a pipe" in message(with_pipe)
    other = fixtures.write_tar(tmp_path / "other.tar.gz", {"readme": b"hello"}, "x")
    assert "none of the files" in message(other)
    config.name = "cifar100"
    assert "holds cifar10, but config.dataset.name is cifar100" in message(whole)
    config.name = "mnist"
    assert "archive is for cifar10 and cifar100" in message(whole)
    config.update({"name": "cifar10", "labels": "coarse"})
    assert "no coarse labels" in message(whole)
