"""Loading a data set: digits, the cache on disk, subsets, channel statistics and resizing."""

import dataclasses
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import archives, datasets, source
from cifar_jax.errors import UserError
from cifar_jax.runtime import parallel
from cifar_jax.system.files import cache_folder
from tests.helpers import data_files as fixtures

TRAIN10, TEST10 = fixtures.random_part(60, 10, seed=1), fixtures.random_part(20, 10, seed=2)


@pytest.fixture
def cifar10(tmp_path, config):
    """The config of a small CIFAR-10, stored as an official folder."""
    files = fixtures.official_files("cifar10", "python", TRAIN10, TEST10)
    config.archive = str(fixtures.write_folder(tmp_path, "cifar10", "python", files))
    return config


def test_other_image_sizes_are_resized(cifar10):
    cifar10.image_size = 16
    data = datasets.load(cifar10, seed=0)
    first = TRAIN10.images[0]
    assert data.train.images.shape == (60, 16, 16, 3)
    assert data.test.images.shape == (20, 16, 16, 3)
    expected = np.asarray(Image.fromarray(first).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.train.images[0], expected)


def test_small_images_stay_small_in_memory_however_large_the_network_takes_them(cifar10, config):
    small = datasets.load(cifar10, seed=0)
    assert small.train.images.shape == (60, 32, 32, 3)
    assert small.enlarged_from == 0
    cifar10.image_size = 224
    data = datasets.load(cifar10, seed=0)
    np.testing.assert_array_equal(data.train.images, small.train.images)
    assert data.enlarged_from == 32
    # Both sizes share one file of the cache.
    assert len(list(Path(cifar10.cache_dir).iterdir())) == 1


def test_digits(config):
    from sklearn.datasets import load_digits

    config.name = "digits"
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (1437, 32, 32, 3)
    assert data.test.images.shape == (360, 32, 32, 3)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(np.bincount(data.test.labels), [36] * 10)
    # Both splits together are scikit-learn's digits: each occurs once, with its label.
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
    # The cache returns the same bits. Values in the config replace them.
    assert datasets.load(cifar10, seed=0).mean == data.mean
    cifar10.update({"mean": (0.5, 0.25, 0.125), "std": (1.0, 2.0, 4.0)})
    data = datasets.load(cifar10, seed=0)
    assert (data.mean, data.std) == ((0.5, 0.25, 0.125), (1.0, 2.0, 4.0))


def test_mean_and_deviation_are_rounded_only_once():
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), np.uint8)
    mean, std = source.channel_statistics(images)
    for channel in range(3):
        values = [Fraction(int(value), 255) for value in images[..., channel].ravel()]
        expected = sum(values) / len(values)
        assert mean[channel] == float(expected)
        variance = sum((value - expected) ** 2 for value in values) / len(values)
        assert std[channel] == math.sqrt(float(variance))


def test_a_channel_that_does_not_vary_has_deviation_one():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    images[:2, ..., 0] = 255
    mean, std = source.channel_statistics(images)
    assert mean == (0.5, 0.0, 0.0)
    assert std == (0.5, 1.0, 1.0)


class Spy:
    """Counts how often images are decoded instead of read from the cache."""

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
    # Same name and size: only the modification time differs.
    path = Path(cifar10.archive) / "test_batch"
    path.write_bytes(fixtures.python_batch("cifar10", other))
    data = datasets.load(cifar10, seed=0)
    assert spy.count == 2
    np.testing.assert_array_equal(data.test.images, other.images)
    # The new file replaced the outdated one.
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
def test_a_damaged_cache_is_noticed_and_made_again(cifar10, monkeypatch, damage, capsys):
    spy = Spy(monkeypatch)
    first = datasets.load(cifar10, seed=0)
    (path,) = Path(cifar10.cache_dir).iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert_same(datasets.load(cifar10, seed=0), first)
    assert f"warning: {path} is damaged" in capsys.readouterr().err
    assert spy.count == 2
    assert_same(datasets.load(cifar10, seed=0), first)
    assert spy.count == 2


def test_a_cache_never_unpickles(cifar10):
    datasets.load(cifar10, seed=0)
    (path,) = Path(cifar10.cache_dir).iterdir()
    marker = path.parent / "touched"
    np.savez(path, header=np.array([fixtures.Calls(Path.touch, marker)], dtype=object))
    assert len(datasets.load(cifar10, seed=0).train.labels) == 60
    assert not marker.exists()


def test_without_a_writable_cache_it_goes_on(cifar10, tmp_path, capsys):
    (tmp_path / "a_file").write_text("in the way")
    cifar10.cache_dir = str(tmp_path / "a_file" / "cache")
    assert len(datasets.load(cifar10, seed=0).train.labels) == 60
    assert f"cannot be cached in {cifar10.cache_dir}" in capsys.readouterr().err


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("") == Path("/home/someone/.cache/cifar_jax")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert cache_folder("") == Path("/var/cache/cifar_jax")
    assert cache_folder("~/mine") == Path("/home/someone/mine")


def test_processes_that_start_together_do_not_spoil_the_cache(cifar10, monkeypatch):
    code = (
        "import sys; from cifar_jax.data import datasets; from configs import default\n"
        "config = default.get_config().dataset\n"
        "config.archive, config.cache_dir = sys.argv[1:]\n"
        "sys.stdin.readline()\n"
        "for _ in range(5):\n"
        "    print(int(datasets.load(config, seed=0).train.images.sum()), flush=True)\n"
    )
    command = [sys.executable, "-c", code, cifar10.archive, cifar10.cache_dir]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) for _ in range(2)]
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
    # Every example should be drawn about equally often: 100 of 500 examples, so 40 of 200 times.
    # The standard deviation of that count is 5.7. Five of them either way is far beyond chance.
    drawn = np.zeros(500)
    for seed in range(200):
        drawn[list(choose(100, seed, 0))] += 1
    assert drawn.min() > 40 - 5 * 5.7
    assert drawn.max() < 40 + 5 * 5.7


def as_set(split: datasets.Split) -> set[tuple[bytes, int]]:
    """The examples as a set. Random images are all different, so each identifies its example."""
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


def test_a_validation_split_that_takes_all_of_a_class_is_refused(cifar10):
    # The six images of each class are drawn evenly: from the 51st on, a class has none left.
    cifar10.validation_examples = 51
    with pytest.raises(UserError, match=r"leaves none of class \d to train on"):
        datasets.load(cifar10, seed=0)
    cifar10.validation_examples = 50
    assert np.bincount(datasets.load(cifar10, seed=0).train.labels).tolist() == [1] * 10


def test_exactly_all_examples_are_allowed(cifar10):
    cifar10.update({"train_examples": 40, "validation_examples": 20})
    data = datasets.load(cifar10, seed=0)
    assert (len(data.train.labels), len(data.validation.labels)) == (40, 20)


@pytest.mark.parametrize("train_examples", [0, 7])
def test_a_cpu_uses_the_images_where_they_lie(cifar10, train_examples):
    cifar10.train_examples = train_examples
    dataset = datasets.load(cifar10, seed=0)
    for split in (dataset.train, dataset.test):
        placed = parallel.place(split.images).addressable_shards[0].data
        assert placed.unsafe_buffer_pointer() == split.images.ctypes.data


def test_a_dataset_cannot_be_changed_by_accident(cifar10):
    data = datasets.load(cifar10, seed=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"


@pytest.mark.parametrize(
    ("mode", "size"), [("L", (28, 28)), ("P", (20, 30)), ("RGBA", (64, 48)), ("1", (32, 32))]
)
def test_pictures_of_any_mode_and_shape_become_square_rgb(mode, size):
    picture = Image.effect_noise(size, 50).convert("RGB").convert(mode)
    image = source.square_rgb(picture, 32)
    assert image.shape == (32, 32, 3)
    assert image.dtype == np.uint8


def test_what_is_not_square_is_cropped_centrally():
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 4:12] = 200
    np.testing.assert_array_equal(source.square_rgb(Image.fromarray(picture), 8), 200)


def test_downscaling_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    image = source.square_rgb(Image.fromarray(stripes), 16)
    # Averaging turns stripes finer than a pixel grey. Picking pixels would keep them black or white.
    assert np.abs(image[:, 2:-2].astype(int) - 127.5).max() < 3


def test_more_images_than_the_memory_holds_are_refused_before_any_is_made(monkeypatch):
    monkeypatch.setattr(source.memory, "of_this_machine", lambda: 1000)
    images = np.zeros((6, 8, 8, 3), np.uint8)
    with pytest.raises(UserError, match="6 images of 9x9 pixels take"):
        source.resize_all(images, 9, "resizing")
    assert source.resize_all(images, 7, "resizing").shape == (6, 7, 7, 3)
