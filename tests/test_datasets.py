"""Official archives, digits, the cache on disk, subsets and statistics, on small random images."""

import dataclasses
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax import datasets, sources
from cifar_jax.errors import UserError
from cifar_jax.sources import archives, cache
from configs import default
from tests import data_fixtures as fixtures

TRAIN10, TEST10 = fixtures.random_part(60, 10, seed=1), fixtures.random_part(20, 10, seed=2)
TRAIN100, TEST100 = fixtures.random_part(200, 100, seed=3), fixtures.random_part(100, 100, seed=4)
PARTS = {"cifar10": (TRAIN10, TEST10), "cifar100": (TRAIN100, TEST100)}


@pytest.fixture
def config(tmp_path):
    config = default.get_config().dataset
    config.cache_dir = str(tmp_path / "cache")
    # Nothing in these tests may look at what the machine happens to have.
    config.data_dir = str(tmp_path / "no_tfds_here")
    return config


@pytest.fixture
def cifar10(tmp_path, config):
    """The config of a small CIFAR-10 in the official folder."""
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    config.archive = str(fixtures.write_folder(tmp_path, "cifar10", "python", files))
    return config


def in_official_order(train: fixtures.Part, dataset: str) -> fixtures.Part:
    """The fixtures deal CIFAR-10's images out over five batches."""
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
    # The cache tells the two kinds of labels apart.
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


def test_other_image_sizes_are_resized(cifar10):
    cifar10.image_size = 16
    data = datasets.load(cifar10, seed=0)
    first = in_official_order(TRAIN10, "cifar10").images[0]
    assert data.train.images.shape == (60, 16, 16, 3)
    assert data.test.images.shape == (20, 16, 16, 3)
    expected = np.asarray(Image.fromarray(first).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.train.images[0], expected)


def python_2_batch(pixels: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 and the NumPy of 2009 pickled it, opcode by opcode."""
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
    # That the bytes are what they claim to be is Python's own word.
    independent = pickle.loads(files["test_batch"], encoding="bytes")
    np.testing.assert_array_equal(independent[b"data"], TEST10.rows())
    config.archive = str(fixtures.write_folder(tmp_path, "cifar10", "python", files))
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.test.images, TEST10.images)
    np.testing.assert_array_equal(data.test.labels, TEST10.fine)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "value",
    [
        Calls(Path.touch, Path("touched")),
        Calls(eval, "open('touched', 'w')"),
        Calls(np.load, "data_batch_1"),
        np.array([print], dtype=object),
        np.zeros((4, 3072), np.float32),
        Calls(getattr, "text", "upper"),
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
        archives.read_pickle(content, "a file")


def test_members_of_an_archive_stay_inside(tmp_path, config):
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    path = fixtures.write_tar(tmp_path / "inner" / "a.tar.gz", files, "../../outside")
    before = set(tmp_path.rglob("*"))
    config.archive = str(path)
    assert len(datasets.load(config, seed=0).test.labels) == 20
    made = {found for found in tmp_path.rglob("*") if found not in before}
    assert {found.relative_to(tmp_path).parts[0] for found in made} == {"cache"}

    # A link is not followed, so the file that it stands for is missing.
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
    """The files of an official folder, one of them changed (or left out, for None)."""
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
        "no label of cifar10",
    ),
    ("cifar10", "python", "batches.meta", lambda _: pickle.dumps({}, 2), "names of the fine"),
    ("cifar10", "binary", "test_batch.bin", lambda old: old[:-1], "whole records of 3073"),
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
    other = fixtures.write_tar(tmp_path / "other.tar.gz", {"readme": b"hello"}, "x")
    assert "none of the files" in message(other)
    config.name = "cifar100"
    assert "holds cifar10, but config.dataset.name is cifar100" in message(whole)
    config.name = "mnist"
    assert "archive is for cifar10 and cifar100" in message(whole)
    config.update({"name": "cifar10", "labels": "coarse"})
    assert "no coarse labels" in message(whole)


def test_digits(config):
    from sklearn.datasets import load_digits

    config.name = "digits"
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (1437, 32, 32, 3)
    assert data.test.images.shape == (360, 32, 32, 3)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(np.bincount(data.test.labels), [36] * 10)
    # Together they are scikit-learn's, each digit once and with its label.
    labels = np.concatenate([data.train.labels, data.test.labels])
    np.testing.assert_array_equal(np.bincount(labels), np.bincount(load_digits().target))
    config.image_size = 8
    small = datasets.load(config, seed=1)
    images = np.concatenate([small.train.images, small.test.images])
    assert (images == images[..., :1]).all()
    made = sorted(
        (image[..., 0].tobytes(), label) for image, label in zip(images, labels, strict=True)
    )
    scaled = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    given = sorted(
        (image.tobytes(), label) for image, label in zip(scaled, load_digits().target, strict=True)
    )
    assert made == given
    config.labels = "coarse"
    with pytest.raises(UserError, match="no coarse labels"):
        datasets.load(config, seed=0)


def test_statistics_are_over_all_pixels_of_the_whole_training_set(cifar10):
    pixels = TRAIN10.images.astype(np.float64) / 255
    cifar10.update({"train_examples": 10, "validation_examples": 20})
    data = datasets.load(cifar10, seed=0)
    np.testing.assert_allclose(data.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 1, 2)), rtol=1e-12)
    # They come back from the cache to the bit, and a config's own take their place.
    assert datasets.load(cifar10, seed=0).mean == data.mean
    cifar10.update({"mean": (0.5, 0.25, 0.125), "std": (1.0, 2.0, 4.0)})
    data = datasets.load(cifar10, seed=0)
    assert (data.mean, data.std) == ((0.5, 0.25, 0.125), (1.0, 2.0, 4.0))


def test_a_channel_that_does_not_vary_has_deviation_one():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:2, ..., 0] = 255
    mean, std = sources.source.channel_statistics(images)
    assert mean == (0.5, 0.0, 0.0)
    assert std == (0.5, 1.0, 1.0)


class Spy:
    """Counts how often images are decoded rather than read from the cache."""

    def __init__(self, monkeypatch):
        self.count = 0
        original = archives.read_cifar

        def read_cifar(*arguments):
            self.count += 1
            return original(*arguments)

        monkeypatch.setattr(archives, "read_cifar", read_cifar)


def assert_same(a: datasets.Dataset, b: datasets.Dataset) -> None:
    for split in ("train", "test"):
        for field in ("images", "labels"):
            one, other = getattr(getattr(a, split), field), getattr(getattr(b, split), field)
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert a.class_names == b.class_names
    assert (a.mean, a.std) == (b.mean, b.std)


def test_the_second_load_comes_from_the_cache(cifar10, monkeypatch):
    spy = Spy(monkeypatch)
    first = datasets.load(cifar10, seed=0)
    second = datasets.load(cifar10, seed=0)
    assert spy.count == 1
    assert_same(first, second)
    assert second.train.images.flags.writeable == first.train.images.flags.writeable


def test_a_changed_source_is_read_again(cifar10, monkeypatch):
    spy = Spy(monkeypatch)
    datasets.load(cifar10, seed=0)
    other = fixtures.random_part(20, 10, seed=9)
    # Same name and same number of bytes: only its time tells.
    path = Path(cifar10.archive) / "test_batch"
    path.write_bytes(fixtures.python_batch("cifar10", other))
    data = datasets.load(cifar10, seed=0)
    assert spy.count == 2
    np.testing.assert_array_equal(data.test.images, other.images)
    # The stale file was replaced, not left beside.
    assert len(list(Path(cifar10.cache_dir).iterdir())) == 1


def test_sizes_do_not_share_a_cache(cifar10):
    assert datasets.load(cifar10, seed=0).train.images.shape[1] == 32
    cifar10.image_size = 8
    assert datasets.load(cifar10, seed=0).train.images.shape[1] == 8
    cifar10.image_size = 32
    assert datasets.load(cifar10, seed=0).train.images.shape[1] == 32


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"not a zip file",
        # One bit of one pixel, in the middle of the images.
        lambda content: content[:90_000] + bytes([content[90_000] ^ 1]) + content[90_001:],
    ],
    ids=["empty", "cut", "text", "bit"],
)
def test_a_damaged_cache_is_noticed_and_made_again(cifar10, monkeypatch, damage, caplog):
    spy = Spy(monkeypatch)
    first = datasets.load(cifar10, seed=0)
    (path,) = Path(cifar10.cache_dir).iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_same(datasets.load(cifar10, seed=0), first)
    assert "is damaged" in caplog.text
    assert spy.count == 2
    assert_same(datasets.load(cifar10, seed=0), first)
    assert spy.count == 2


def test_a_cache_never_unpickles(cifar10):
    datasets.load(cifar10, seed=0)
    (path,) = Path(cifar10.cache_dir).iterdir()
    marker = path.parent / "touched"
    np.savez(path, header=np.array([Calls(Path.touch, marker)], dtype=object))
    assert len(datasets.load(cifar10, seed=0).train.labels) == 60
    assert not marker.exists()


def test_without_a_writable_cache_it_goes_on(cifar10, tmp_path, caplog):
    (tmp_path / "a_file").write_text("in the way")
    cifar10.cache_dir = str(tmp_path / "a_file" / "cache")
    assert len(datasets.load(cifar10, seed=0).train.labels) == 60
    assert f"not kept in {cifar10.cache_dir} for the next start" in caplog.text


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_folder("") == Path("/home/someone/.cache/cifar_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache.cache_folder("") == Path("/var/cache/cifar_jax")
    assert cache.cache_folder("~/mine") == Path("/home/someone/mine")


def test_processes_that_start_together_do_not_spoil_the_cache(cifar10, monkeypatch):
    code = (
        "import sys; from cifar_jax import datasets; from configs import default\n"
        "config = default.get_config().dataset\n"
        "config.archive, config.cache_dir = sys.argv[1:]\n"
        "sys.stdin.readline()\n"
        "for _ in range(5):\n"
        "    print(int(datasets.load(config, seed=0).train.images.sum()), flush=True)\n"
    )
    command = [sys.executable, "-c", code, cifar10.archive, cifar10.cache_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[1], **pipes) for _ in range(2)]
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    total = int(TRAIN10.images.sum(dtype=np.int64))
    for process in running:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert [int(line) for line in output.split()] == [total] * 5
    assert len(list(Path(cifar10.cache_dir).iterdir())) == 1
    spy = Spy(monkeypatch)
    datasets.load(cifar10, seed=0)
    assert spy.count == 0


@pytest.mark.parametrize(
    ("counts", "wanted", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([10, 10, 10], 11, [3, 4, 4]),
        ([2, 10, 10], 12, [2, 5, 5]),
        ([1, 2, 10], 12, [1, 2, 9]),
        ([0, 5, 5], 4, [0, 2, 2]),
        ([4, 4, 4], 12, [4, 4, 4]),
        ([4, 4, 4], 0, [0, 0, 0]),
    ],
)
def test_a_choice_is_as_even_over_classes_as_they_allow(counts, wanted, expected):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(3), counts))
    for seed in range(3):
        chosen = datasets.balanced_choice(labels, wanted, seed, purpose=0)
        assert len(set(chosen.tolist())) == wanted
        assert (np.diff(chosen) > 0).all()
        assert sorted(np.bincount(labels[chosen], minlength=3)) == sorted(expected)


def test_a_choice_depends_on_seed_and_purpose_and_is_nested():
    labels = np.repeat(np.arange(10), 50)

    def choose(count, seed, purpose):
        return set(datasets.balanced_choice(labels, count, seed, purpose).tolist())

    assert choose(100, 0, 0) == choose(100, 0, 0)
    assert choose(100, 0, 0) != choose(100, 1, 0)
    assert choose(100, 0, 0) != choose(100, 0, 1)
    assert choose(20, 5, 0) < choose(73, 5, 0) < choose(400, 5, 0)
    # Over many seeds every example is drawn about equally often: 100 of 500, so 40 of 200 times.
    # The standard deviation of that is 5.7; five of them either way is far beyond chance.
    drawn = np.zeros(500)
    for seed in range(200):
        drawn[list(choose(100, seed, 0))] += 1
    assert drawn.min() > 40 - 5 * 5.7
    assert drawn.max() < 40 + 5 * 5.7


def as_set(split: datasets.Split) -> set[tuple[bytes, int]]:
    """Random images differ from each other, so an image names its example."""
    return {
        (image.tobytes(), int(label))
        for image, label in zip(split.images, split.labels, strict=True)
    }


def test_validation_and_part_of_the_training_set(cifar10):
    everything = as_set(datasets.load(cifar10, seed=3).train)
    cifar10.validation_examples = 20
    cut = datasets.load(cifar10, seed=3)
    assert as_set(cut.validation) | as_set(cut.train) == everything
    assert not as_set(cut.validation) & as_set(cut.train)
    np.testing.assert_array_equal(np.bincount(cut.validation.labels), [2] * 10)
    np.testing.assert_array_equal(np.bincount(cut.train.labels), [4] * 10)
    cifar10.train_examples = 30
    part = datasets.load(cifar10, seed=3)
    assert as_set(part.validation) == as_set(cut.validation)
    assert as_set(part.train) < as_set(cut.train)
    np.testing.assert_array_equal(np.bincount(part.train.labels), [3] * 10)
    assert as_set(part.test) == as_set(cut.test)
    assert as_set(datasets.load(cifar10, seed=4).validation) != as_set(cut.validation)
    assert_same(datasets.load(cifar10, seed=3), part)
    assert part.train.images.flags.c_contiguous


@pytest.mark.parametrize(("train", "validation"), [(61, 0), (0, 60), (0, 61), (41, 20)])
def test_more_examples_than_there_are_is_refused(cifar10, train, validation):
    cifar10.update({"train_examples": train, "validation_examples": validation})
    with pytest.raises(UserError, match="more than the 60 training examples"):
        datasets.load(cifar10, seed=0)


def test_exactly_all_examples_are_allowed(cifar10):
    cifar10.update({"train_examples": 40, "validation_examples": 20})
    data = datasets.load(cifar10, seed=0)
    assert (len(data.train.labels), len(data.validation.labels)) == (40, 20)


def test_a_dataset_cannot_be_changed_by_accident(cifar10):
    data = datasets.load(cifar10, seed=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    ("mode", "size"), [("L", (28, 28)), ("P", (20, 30)), ("RGBA", (64, 48)), ("1", (32, 32))]
)
def test_pictures_of_any_mode_and_shape_become_square_rgb(mode, size):
    picture = Image.effect_noise(size, 50).convert("RGB").convert(mode)
    image = sources.square_rgb(picture, 32)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8


def test_what_is_not_square_is_cropped_centrally():
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 200
    np.testing.assert_array_equal(sources.square_rgb(Image.fromarray(picture), 8), 200)


def test_downscaling_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image = sources.square_rgb(Image.fromarray(stripes), 16)
    # Stripes finer than a pixel become their mean; picked pixels would stay black or white.
    assert np.abs(image[:, 2:-2].astype(int) - 127.5).max() < 3
