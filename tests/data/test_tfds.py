"""Folders that TensorFlow Datasets prepared: read as written, or refused in one line.

Every network address is refused. No requirements file lists TensorFlow, so these tests also show that
reading does without it.
"""

import io
import os
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import datasets, tfds_folders
from cifar_jax.errors import UserError
from tests.helpers import data_files as fixtures

pytestmark = pytest.mark.usefixtures("no_network")


def pictures(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


NAMES = ["red", "green", "blue"]


def write_small(root: Path, shape=(32, 32, 3), name="small", splits=("train", "test"), **options):
    """Prepares a set of 12 training and 6 test pictures. Returns its folder and its contents."""
    contents = {
        split: (pictures(12 // (place + 1), shape, place), np.arange(12 // (place + 1)) % 3)
        for place, split in enumerate(splits)
    }
    return fixtures.write_tfds(root, name, contents, NAMES, **options), contents


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_prepared_folder_is_read_as_it_was_written(config, file_format):
    folder, contents = write_small(Path(config.data_dir))
    if file_format == "tfrecord":
        fixtures.to_tfrecord(folder)
    config.name = "small"
    data = datasets.load(config, seed=0)
    for split in ("train", "test"):
        images, labels = contents[split]
        np.testing.assert_array_equal(getattr(data, split).images, images)
        np.testing.assert_array_equal(getattr(data, split).labels, labels)
        assert getattr(data, split).labels.dtype == np.int32
    assert data.class_names == tuple(NAMES)
    # The second load uses the cache: the records are overwritten, with the same size and time.
    for path in folder.glob("*record-*"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(datasets.load(config, seed=0).train.images, contents["train"][0])


def test_a_folder_converted_beside_its_first_format_is_read(config):
    folder, contents = write_small(Path(config.data_dir))
    fixtures.set_info(folder, fileFormat="riegeli", alternativeFileFormats=["array_record"])
    config.name = "small"
    images = datasets.load(config, seed=0).train.images
    np.testing.assert_array_equal(images, contents["train"][0])


def test_grey_images_become_rgb_and_other_sizes_are_resized(config):
    _, contents = write_small(Path(config.data_dir), shape=(28, 28, 1))
    config.update({"name": "small", "image_size": 28})
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.train.images, np.repeat(contents["train"][0], 3, axis=-1))
    config.image_size = 14
    data = datasets.load(config, seed=0)
    first = Image.fromarray(contents["test"][0][0, ..., 0]).convert("RGB")
    expected = np.asarray(first.resize((14, 14), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.test.images[0], expected)
    # If the network takes larger images, they are enlarged on the device, not here.
    config.image_size = 64
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (12, 32, 32, 3)
    assert data.enlarged_from == 32


def test_pictures_of_different_shapes(config):
    images = [pictures(1, (20 + 4 * i, 32, 3), i)[0] for i in range(4)]
    contents = {"train": (images, [0, 1, 2, 0]), "test": (images[:2], [1, 2])}
    fixtures.write_tfds(Path(config.data_dir), "small", contents, NAMES)
    config.name = "small"
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (4, 32, 32, 3)
    # The fourth picture is 32x32 already, so it is not resized.
    np.testing.assert_array_equal(data.train.images[3], images[3])


def test_jpeg_records_are_decoded(config):
    _, contents = write_small(Path(config.data_dir), picture_format="JPEG")
    config.name = "small"
    image = datasets.load(config, seed=0).train.images[0]
    file = io.BytesIO()
    Image.fromarray(contents["train"][0][0]).save(file, "JPEG")
    np.testing.assert_array_equal(image, np.asarray(Image.open(file)))


def test_validation_stands_in_for_a_missing_test_split(config):
    _, contents = write_small(Path(config.data_dir), splits=("train", "validation"))
    config.name = "small"
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.test.images, contents["validation"][0])
    assert data.validation is None


def test_without_data_dir_the_environment_names_the_root(config, tmp_path, monkeypatch):
    write_small(tmp_path / "elsewhere")
    config.update({"name": "small", "data_dir": ""})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(datasets.load(config, seed=0).train.labels) == 12
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_small(tmp_path / "home" / "tensorflow_datasets")
    assert len(datasets.load(config, seed=0).train.labels) == 12


def test_the_newest_version_is_taken_unless_one_is_named(config):
    root = Path(config.data_dir)
    folder, _ = write_small(root)
    for version in ("0.9.0", "1.10.0", "1.9.0", "incomplete.0DU7HK_2.0.0", "notes"):
        (folder.parent / version).mkdir()
        (folder.parent / version / "dataset_info.json").write_text("{}")
    assert tfds_folders.find_prepared(root, "small").name == "1.10.0"
    assert tfds_folders.find_prepared(root, "small:1.0.0") == folder
    assert tfds_folders.find_prepared(root, "small:3.0.0") is None
    assert tfds_folders.find_prepared(root, "small/variant") is None
    for name in ("", "../small", "small/../..", "a b", "small:new"):
        with pytest.raises(UserError, match="not the name of a data set"):
            tfds_folders.find_prepared(root, name)


def test_a_set_that_is_not_prepared_gets_a_line_and_no_network(config, monkeypatch):
    config.name = "mnist"
    # Without `socket.socket` even an attempt to connect would fail.
    monkeypatch.setattr(socket, "socket", None)
    message = fixtures.error_line(config)
    assert "mnist is not prepared in" in message
    assert config.data_dir in message
    assert "config.dataset.data_dir" in message
    config.name = "cifr100"
    assert "did you mean cifar100?" in fixtures.error_line(config)


def test_a_data_dir_inside_the_root_gets_the_root_named(config):
    root = Path(config.data_dir)
    folder, _ = write_small(root)
    config.name = "small"
    for inside in (folder, folder.parent):
        config.data_dir = str(inside)
        assert f"set config.dataset.data_dir={root}." in fixtures.error_line(config)


def test_folders_that_do_not_serve_get_one_line(config):
    import tensorflow_datasets as tfds

    root = Path(config.data_dir)
    config.name = "small"
    folder, _ = write_small(root, splits=("train", "extra"))
    assert "has the splits extra, train" in fixtures.error_line(config)
    config.labels = "coarse"
    assert "small has no coarse labels" in fixtures.error_line(config)
    config.labels = "fine"
    fixtures.set_info(folder, fileFormat="riegeli")
    fixtures.set_info(folder, splits=[{"name": "train"}, {"name": "test"}])
    message = fixtures.error_line(config)
    assert "tfds convert_format --dataset_version_dir=" in message
    # TFDS's source shows that the command has these flags. (Running it needs TensorFlow.)
    command = Path(tfds.__file__).parent / "scripts" / "cli" / "convert_format.py"
    assert {"dataset_version_dir", "out_file_format"} <= set(
        re.findall(r"^  (\w+):", command.read_text(), re.MULTILINE)
    )
    assert tfds.core.FileFormat("array_record")
    (folder / "features.json").unlink()
    assert "cannot be opened by TensorFlow Datasets" in fixtures.error_line(config)
    (folder / "dataset_info.json").write_text("{")
    assert "cannot be opened by TensorFlow Datasets" in fixtures.error_line(config)


def test_a_set_without_class_labels_gets_one_line(config):
    folder, _ = write_small(Path(config.data_dir))
    features = (folder / "features.json").read_text()
    label = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    assert label in features
    (folder / "features.json").write_text(
        features.replace(label, "tensorflow_datasets.core.features.text_feature.Text").replace(
            '"classLabel": {\n                    "numClasses": "3"\n                }',
            '"text": {}',
        )
    )
    config.name = "small"
    assert "not an image classification set" in fixtures.error_line(config)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("damage", ["cut", "gone", "no picture"])
def test_a_damaged_folder_gets_one_line(config, file_format, damage):
    folder, _ = write_small(Path(config.data_dir))
    if file_format == "tfrecord":
        fixtures.to_tfrecord(folder)
    (shard,) = folder.glob("small-test.*")
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content.replace(b"IDAT", b"IDAX"))
    config.name = "small"
    message = fixtures.error_line(config)
    assert "the test split is damaged" in message
    assert str(folder) in message


def test_labels_that_are_no_class_get_one_line(config):
    contents = {"train": (pictures(3, (8, 8, 3), 0), [0, 1, 2])}
    # TFDS uses -1 if a test set's labels are secret.
    contents["test"] = (pictures(2, (8, 8, 3), 1), [-1, -1])
    fixtures.write_tfds(Path(config.data_dir), "small", contents, NAMES)
    config.name = "small"
    assert "the test split has labels from -1 to -1" in fixtures.error_line(config)


def test_names_of_cifar10_where_a_folder_has_none(config):
    contents = {split: (pictures(10, (32, 32, 3), 0), range(10)) for split in ("train", "test")}
    folder = fixtures.write_tfds(Path(config.data_dir), "cifar10", contents, fixtures.CIFAR10_NAMES)
    assert datasets.load(config, seed=0).class_names == tuple(fixtures.CIFAR10_NAMES)
    (folder / "label.labels.txt").unlink()
    assert datasets.load(config, seed=0).class_names == tuple(fixtures.CIFAR10_NAMES)
