"""A folder of a user's pictures as a data set: what is read, its order, its split, and what is refused."""

import json
import os
import threading

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data import datasets, folders
from tests.helpers import data_files as fixtures


@pytest.fixture
def config(config, tmp_path):
    config.name = "folder"
    config.path = str(tmp_path / "pictures")
    config.image_size = 8
    return config


def fill(folder, count, grey=0):
    """Writes `count` pictures of one colour each. The red value is the picture's number."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        # Writes them in a different order from that of their names.
        number = (7 * i + 3) % count if count % 7 else i
        Image.new("RGB", (8, 8), (number, grey, 0)).save(folder / f"{number:03}.png")


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 10, 10 and 20 pictures."""
    for name, count in (("cat", 10), ("ant", 10), ("dog", 20)):
        fill(tmp_path / "pictures" / name, count, grey=ord(name[0]))
    return tmp_path / "pictures"


def colours(split):
    """(red, green) of each picture. Checks that all pixels of a picture are equal."""
    assert (split.images == split.images[:, :1, :1]).all()
    return [tuple(pixel) for pixel in split.images[:, 0, 0, :2].tolist()]


def test_a_share_of_each_class_is_to_test_on_and_order_is_that_of_names(pictures, config):
    data = datasets.load(config, seed=0)
    assert data.class_names == ("ant", "cat", "dog")
    assert np.bincount(data.test.labels).tolist() == [2, 2, 4]
    assert np.bincount(data.train.labels).tolist() == [8, 8, 16]
    train, test = colours(data.train), colours(data.test)
    everything = [
        (i, ord(c)) for c, count in (("a", 10), ("c", 10), ("d", 20)) for i in range(count)
    ]
    assert sorted([*train, *test]) == sorted(everything)
    for split, found in ((data.train, train), (data.test, test)):
        assert found == sorted(found, key=lambda pixel: pixel[::-1])
        for label, (_, green) in zip(split.labels, found, strict=True):
            assert data.class_names[label][0] == chr(green)


def test_the_split_has_a_seed_of_its_own_and_moving_the_folder_changes_nothing(
    pictures, config, tmp_path
):
    first = colours(datasets.load(config, seed=0).test)
    assert colours(datasets.load(config, seed=1).test) == first
    os.rename(pictures, tmp_path / "moved")
    config.path = str(tmp_path / "moved")
    assert colours(datasets.load(config, seed=0).test) == first
    config.split_seed = 1
    assert colours(datasets.load(config, seed=0).test) != first


def test_a_class_has_the_pictures_of_all_folders_below_it_and_those_without_a_suffix(
    tmp_path, config
):
    root = tmp_path / "pictures"
    for folder, grey in (("a/images", 1), ("a/images/more", 2), ("a/.hidden", 3), ("a/@eaDir", 4)):
        fill(root / folder, 5, grey)
    fill(root / "b", 5, grey=5)
    (root / "b" / "000.png").rename(root / "b" / "first")
    (root / "b" / "LICENSE").write_text("not a picture")
    (root / "b" / "sizes").write_bytes(bytes(range(256)))
    data = datasets.load(config, seed=0)
    read = [pixel for split in (data.train, data.test) for pixel in colours(split)]
    assert sorted(read) == [(i, grey) for i in range(5) for grey in (1, 2, 5)]
    assert [pixel for pixel in colours(data.train) if pixel[1] == 5][-1] == (0, 5)  # the last name
    # A link to a folder above would be read again and again.
    (root / "a" / "images" / "again").symlink_to(root / "a")
    assert len(datasets.load(config, seed=0).train.labels) == len(data.train.labels)


def test_train_and_test_folders_are_the_splits_and_the_second_start_reads_the_cache(
    tmp_path, config, monkeypatch
):
    for split, count in (("train", 3), ("val", 2)):
        for name in ("a", "b"):
            fill(tmp_path / "pictures" / split / name, count)
    data = datasets.load(config, seed=0)
    assert (len(data.train.labels), len(data.test.labels)) == (6, 4)
    assert data.class_names == ("a", "b")
    monkeypatch.setattr("cifar_jax.data.pictures.load_picture", None)
    np.testing.assert_array_equal(datasets.load(config, seed=0).train.images, data.train.images)
    monkeypatch.undo()
    # An added picture is noticed: the cache is not used.
    fill(tmp_path / "pictures" / "train" / "a", 4)
    assert len(datasets.load(config, seed=0).train.labels) == 7


def test_pictures_are_decoded_to_the_size_of_the_network_in_threads(tmp_path, config, monkeypatch):
    from cifar_jax.data import pictures

    threads = set()
    load = pictures.load_picture

    def spy(path, size):
        threads.add(threading.current_thread())
        return load(path, size)

    monkeypatch.setattr(pictures, "load_picture", spy)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    for name in ("a", "b"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pixels).save(folder / f"{i}.png")
    config.image_size = 40
    data = datasets.load(config, seed=0)
    square = Image.fromarray(pixels[:, 10:60]).resize((40, 40), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(data.train.images[1], np.asarray(square))
    assert data.enlarged_from == 0
    assert threading.main_thread() not in threads


def test_broken_pictures_are_refused_or_skipped_and_listed(pictures, config, capfd):
    (pictures / "dog" / "100.jpg").write_bytes(b"no picture")
    (pictures / "cat" / "005.png").write_bytes((pictures / "cat" / "004.png").read_bytes()[:40])
    (pictures / "cat" / "gone.png").symlink_to("nowhere.png")
    (pictures / "cat" / "notes.txt").write_text("not taken for a picture")
    line = fixtures.error_line(config)
    assert line.startswith("3 pictures cannot be read")
    assert "broken_pictures=skip" in line
    for name in ("100.jpg", "005.png", "gone.png"):
        assert name in line
    config.broken_pictures = "skip"
    for _ in range(2):  # the second time from the cache
        data = datasets.load(config, seed=0)
        assert len(data.train.labels) + len(data.test.labels) == 39
        lines = capfd.readouterr().err.splitlines()
        assert sum(line.startswith("skipped: ") for line in lines) == 3


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (None, "there is no folder"),
        ({}, "has no subfolders"),
        ({"a": 5}, "only one class ('a')"),
        ({"a": 5, "b": 0}, "no pictures in the folder"),
        ({"a": 5, "b": 1}, "the class 'b' in"),
        (
            {"train/a": 1, "train/b": 1, "test/a": 1, "test/c": 1},
            "'b' is in train, but not in test",
        ),
        ({"train/a": 1, "train/b": 1}, "no folder test or val"),
        ({"train/a": 1, "test/a": 1}, "only one class"),
    ],
)
def test_a_folder_that_is_no_data_set_is_told_in_a_line(tmp_path, config, folders, says):
    if folders is not None:
        (tmp_path / "pictures").mkdir()
    for name, count in (folders or {}).items():
        fill(tmp_path / "pictures" / name, count)
    assert says in fixtures.error_line(config)


def test_a_file_and_a_class_of_broken_pictures_only(tmp_path, config):
    (tmp_path / "pictures").write_text("a file")
    assert "is a file" in fixtures.error_line(config)
    os.unlink(tmp_path / "pictures")
    fill(tmp_path / "pictures" / "a", 4)
    (tmp_path / "pictures" / "b").mkdir()
    for i in range(4):
        (tmp_path / "pictures" / "b" / f"{i}.png").write_bytes(b"broken")
    config.broken_pictures = "skip"
    assert "no train picture of the class 'b' can be read" in fixtures.error_line(config)


def test_train_evaluate_and_predict_on_a_folder(trained, pictures, tmp_path):
    workdir = tmp_path / "run"
    fields = {"dataset.name": "folder", "dataset.path": pictures, "batch_size": 16}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    answer = trained.call(f"--config={trained.recipe}", *flags, f"--workdir={workdir}")
    assert answer.status == 0, answer
    reported = json.loads((workdir / "report.json").read_text())["test"]
    found = trained.call("--mode=eval", f"--workdir={workdir}", "--weights=latest", "--json").json()
    assert found["confusion_matrix"] == reported["confusion_matrix"]
    assert sum(map(sum, found["confusion_matrix"])) == 8
    answer = trained.call(
        "--mode=predict", f"--workdir={workdir}", f"--image={pictures / 'cat'}", "--json"
    )
    assert len(answer.json()["predictions"]) == 10
    names = {entry["name"] for entry in answer.json()["predictions"][0]["classes"]}
    assert names == {"ant", "cat", "dog"}
    # Two test pictures change places: mean, deviation and numbers stay, but not what the figures are of.
    tested = [path for path in sorted(pictures.glob("*/*.png")) if is_tested(path)]
    first, last = tested[0], tested[-1]
    swapped = first.read_bytes(), last.read_bytes()
    last.write_bytes(swapped[0])
    first.write_bytes(swapped[1])
    answer = trained.call("--mode=eval", f"--workdir={workdir}")
    assert answer.err.startswith("warning: the test images, their labels or their order differ")
    longer = trained.call(
        f"--config={trained.recipe}", *flags, f"--workdir={workdir}", "--config.num_epochs=2"
    )
    assert (
        "the test images, their labels or their order differ from those that the run in"
        in longer.refusal()
    )


def is_tested(path):
    """Whether a picture is drawn to be tested on, by the sources' rule."""
    return str(path) in folders.drawn_to_test(
        path.parent.name, [str(each) for each in path.parent.glob("*.png")], 0.2, 0
    )


def test_a_class_whose_name_is_not_utf8(pictures, config):
    os.rename(os.fsencode(pictures / "cat"), os.fsencode(pictures) + b"/caf\xe9")
    assert "is not valid UTF-8: rename it" in fixtures.error_line(config)


def test_folders_that_systems_leave_are_no_classes(pictures, config):
    for name in ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", ".DS_Store"):
        (pictures / name / "._cat").mkdir(parents=True)
    assert datasets.load(config, seed=0).class_names == ("ant", "cat", "dog")


@pytest.mark.parametrize("train", ["Train", "TRAINING"])
@pytest.mark.parametrize("test", ["Testing", "valid", "Validation", "VAL"])
def test_split_folders_may_have_other_usual_names(tmp_path, config, train, test):
    for split, count in ((train, 3), (test, 2), ("__MACOSX", 1)):
        for name in ("a", "b"):
            fill(tmp_path / "pictures" / split / name, count)
    data = datasets.load(config, seed=0)
    assert data.class_names == ("a", "b")
    assert (len(data.train.labels), len(data.test.labels)) == (6, 4)
