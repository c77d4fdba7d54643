"""Data sets with masks: mosaics, folders and TFDS sets; what is read and what is refused."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import cifar_jax
from cifar_jax.data import datasets, folders, masks, mosaic, pictures
from cifar_jax.data.masks import VOID
from cifar_jax.data.source import Images, Source
from tests.helpers import data_files as fixtures


@pytest.fixture
def folder(config, tmp_path):
    """Ten pictures of 20x16 pixels and masks, in `images` and `masks`: quarters of three classes and void."""
    config.name, config.path, config.image_size = "segmentation_folder", str(tmp_path / "f"), 8
    for name in ("images", "masks"):
        (tmp_path / "f" / name).mkdir(parents=True)
    for i in range(10):
        mask = quarters(i)
        grey = np.where(mask == VOID, 240, 80 * mask.astype(int)).astype(np.uint8)
        Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "f/images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "f/masks" / f"{i}.png")
    return tmp_path / "f"


def quarters(i=0):
    """uint8 [16, 20]: the class numbers 0, 1, 2 and void, in an order that depends on i."""
    values = np.roll(np.uint8([0, 1, 2, VOID]), i).reshape(2, 2)
    return values.repeat(8, 0).repeat(10, 1)


def test_a_folder_of_class_numbers(folder, config):
    data = datasets.load(config, seed=0)
    assert data.class_names == ("0", "1", "2")
    assert data.colours == masks.default_colours(3)
    assert (len(data.train.images), len(data.test.images)) == (8, 2)
    assert data.train.labels.dtype == np.uint8
    # Each class has its own grey in the pictures: cropped and resized alike.
    centre = np.s_[
        :, 1:3, 1:3
    ]  # away from the borders between quarters, which bicubic resizing blurs
    for split in (data.train, data.test):
        assert split.labels.shape == split.images.shape[:3]
        found = np.rint(split.images[centre][..., 0] / 80).astype(int)
        np.testing.assert_array_equal(np.where(found == 3, VOID, found), split.labels[centre])


def test_folders_inside_images_and_masks_change_nothing(folder, config):
    flat = datasets.load(config, seed=0)
    for name in ("images", "masks"):
        (folder / name / "z/may").mkdir(parents=True)
        for i in range(5, 10):
            os.rename(folder / name / f"{i}.png", folder / name / "z/may" / f"{i}.png")
    nested = datasets.load(config, seed=0)
    for split in ("train", "test"):
        np.testing.assert_array_equal(getattr(nested, split).images, getattr(flat, split).images)
        np.testing.assert_array_equal(getattr(nested, split).labels, getattr(flat, split).labels)


def test_names_a_palette_and_another_number_for_void(folder, config):
    palette = [7, 8, 9] * 256
    for path in (folder / "masks").iterdir():
        mask = Image.open(path).point(lambda value: 3 if value == VOID else value)
        mask = Image.fromarray(np.asarray(mask), "P")
        mask.putpalette(palette)
        mask.save(path)
    config.classes, config.void = "sky, wet road, car", "3"
    data = datasets.load(config, seed=0)
    assert data.class_names == ("sky", "wet road", "car")
    assert data.colours == ((7, 8, 9),) * 3
    assert set(np.unique(data.train.labels)) == {0, 1, 2, VOID}


def test_of_different_palettes_the_same_is_taken_in_any_order():
    pictures = [masks.to_picture(quarters(), [(i, 9, 9)] * 3) for i in (3, 1, 2)]
    for order in (pictures, pictures[::-1]):
        reader = masks.Reader(masks.parse_classes("", ""))
        for picture in order:
            reader.numbers(picture, (20, 16), b"")
        names, colours = masks.names_and_colours(masks.Classes(), reader, "")
        assert (names, colours) == (("0", "1", "2"), ((1, 9, 9),) * 3)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_mask_of_few_bits_has_its_numbers(tmp_path, bits):
    numbers = (np.arange(16).reshape(2, 8) % 2**bits).astype(np.uint8)
    rows = np.unpackbits(numbers[..., None], axis=-1)[..., 8 - bits :].reshape(2, -1)
    pixels = b"".join(b"\0" + row.tobytes() for row in np.packbits(rows, axis=-1))

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    reader = masks.Reader(masks.parse_classes("", ""))
    np.testing.assert_array_equal(reader.read(tmp_path / "mask.png", (8, 2)), numbers)


def test_another_share_to_test_on_is_read_anew(folder, config):
    # Names of which the last one and the last two are drawn: the same files, in the same order.
    for trial in range(1000):
        names = [f"{trial}-{i}.png" for i in range(5)]
        drawn = [sorted(folders.drawn_to_test("", names, share, 0)) for share in (0.2, 0.4)]
        if drawn == [names[4:], names[3:]]:
            break
    for kind in ("images", "masks"):
        for i, path in enumerate(sorted((folder / kind).iterdir())):
            path.rename(path.with_name(names[i])) if i < 5 else path.unlink()
    for share, count in ((0.2, 1), (0.4, 2)):
        config.test_share = share
        data = datasets.load(config, seed=0)
        assert (len(data.train.images), len(data.test.images)) == (5 - count, count)


def test_python_loads_what_has_masks(folder):
    data = cifar_jax.dataset("segmentation_folder", path=str(folder), image_size=8)
    assert data.train.labels.shape == (8, 8, 8)
    few = cifar_jax.dataset("mosaic", train_scenes=3, test_scenes=2, image_size=16)
    assert few.test.labels.shape == (2, 16, 16)


def test_pictures_and_masks_side_by_side_in_colours_with_splits(config, tmp_path):
    config.name, config.path, config.image_size = "segmentation_folder", str(tmp_path), 20
    config.classes, config.void = "sky #0000FF, road #808080", "#000000"
    colours = np.uint8([[0, 0, 255], [128, 128, 128], [0, 0, 0]])
    numbers = np.arange(400).reshape(20, 20) % 3
    for split, count in (("train", 3), ("validation", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            Image.fromarray(np.full((20, 20, 3), 50 * i, np.uint8)).save(
                tmp_path / split / f"{i:04}_sat.jpg"
            )
            Image.fromarray(colours[np.roll(numbers, i)]).save(
                tmp_path / split / f"{i:04}_mask.png"
            )
    data = datasets.load(config, seed=0)
    assert data.colours == ((0, 0, 255), (128, 128, 128))
    expected = [np.where(np.roll(numbers, i) == 2, VOID, np.roll(numbers, i)) for i in range(3)]
    np.testing.assert_array_equal(data.train.labels, expected)
    np.testing.assert_array_equal(data.test.labels, expected[:2])


def test_a_broken_mask_is_refused_or_skipped(folder, config, capfd):
    (folder / "masks/3.png").write_bytes(b"no picture")
    assert "3.png is not a picture" in fixtures.error_line(config)
    config.broken_pictures = "skip"
    data = datasets.load(config, seed=0)
    assert len(data.train.images) + len(data.test.images) == 9
    assert "skipped: " in capfd.readouterr().err


def test_a_validation_split_without_any_class_is_refused(folder, config):
    (folder / "train").mkdir()
    for name in ("images", "masks"):
        (folder / name).rename(folder / "train" / name)
    shutil.copytree(folder / "train", folder / "test")
    for i in range(1, 10):
        Image.fromarray(np.full((16, 20), VOID, np.uint8)).save(folder / f"train/masks/{i}.png")
    config.validation_examples = 9
    # The one picture with classes is in the validation split, or the only one that is left to train on.
    assert "no pixel of the pictures that were drawn for the" in fixtures.error_line(config)


@pytest.mark.parametrize(
    ("classes", "void", "says"),
    [
        ("sky", "", "2 to 254"),
        ("sky, sky", "", "name of its own"),
        ("sky #00FFFF, road", "", "not for all"),
        ("sky #00FFFF, road #00ffff", "", "the same colour"),
        ("sky #0FF, road #808080", "", "is not a colour such as"),
        ("sky #00FFFF, road #808080", "255", "give one, as #000000"),
        ("sky #00FFFF, road #808080", "#808080", "the colour of a class"),
        ("sky, road", "#808080", "classes has no colours"),
        ("sky, road", "256", "a number up to 255"),
    ],
)
def test_what_is_wrong_with_the_table_of_classes(classes, void, says):
    with pytest.raises(ValueError, match=says):
        masks.parse_classes(classes, void)


def test_masks_are_aligned_with_pictures_when_resized():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 25:35] = 200
    picture = Image.fromarray(np.stack([mask] * 3, -1))
    for size in (8, 20, 40, 64):
        seen = pictures.square_rgb(picture, size)[..., 0]
        resized = masks.square(mask, size)
        # Where the resized picture is clearly one or the other, so is the mask.
        assert (resized[seen > 150] == 200).all()
        assert (resized[seen < 50] == 0).all()


def test_a_mask_file_has_class_numbers_and_shows_colours(tmp_path):
    mask = np.uint8([[0, 1], [2, VOID]])
    path = tmp_path / "m.png"
    path.write_bytes(pictures.to_png(masks.to_picture(mask, masks.default_colours(3))))
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), mask)
        shown = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(shown[0, 1], masks.default_colours(3)[1])
    np.testing.assert_array_equal(shown[1, 1], masks.WHITE)


# --- Mosaics ------------------------------------------------------------------------------------


def scenes(config, train=20, test=10, size=24):
    """Scenes of tiles of one colour each: red is the class; green is 0 in training, 200 in test images."""
    config.train_scenes, config.test_scenes, config.tiles = train, test, "plain"
    labels = np.arange(12, dtype=np.int32) % 4

    def images(green):
        pixels = np.zeros((12, 8, 8, 3), np.uint8)
        pixels[..., 0], pixels[..., 1] = 10 * labels[:, None, None], green
        return pixels

    tiles = Images(images(0), labels, images(200), labels, tuple("abcd"))
    source = Source("plain", [], lambda: tiles)
    return mosaic.mosaic_source(config, size, source, source.read).read()


def test_each_pixel_has_the_class_of_the_image_that_it_comes_from(config):
    found = scenes(config)
    for images, labels, green in (
        (found.train_images, found.train_labels, 0),
        (found.test_images, found.test_labels, 200),
    ):
        np.testing.assert_array_equal(images[..., 0], 10 * labels)
        # Test scenes are made from test images alone.
        assert (images[..., 1] == green).all()
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
    assert found.train_images.shape == (20, 24, 24, 3)
    assert len(found.colours) == 4


def test_more_scenes_keep_the_first_and_another_seed_draws_others(config):
    few, many = scenes(config), scenes(config, train=30)
    np.testing.assert_array_equal(many.train_images[:20], few.train_images)
    config.split_seed = 1
    assert (scenes(config).train_images != few.train_images).any()


def test_scenes_of_digits_come_in_several_sizes(config):
    config.name, config.tiles, config.image_size = "mosaic", "digits", 32
    config.train_scenes, config.test_scenes = 30, 5
    data = datasets.load(config, seed=0)
    assert data.class_names == tuple("0123456789")
    assert (len(data.train.images), len(data.test.images)) == (30, 5)
    assert 2 < np.mean([len(np.unique(mask)) for mask in data.train.labels]) < 10
    config.validation_examples = 10
    data = datasets.load(config, seed=0)
    assert (len(data.train.images), len(data.validation.images)) == (20, 10)


# --- TensorFlow Datasets ------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_a_prepared_set_with_a_segmentation_mask(config, tmp_path):
    rng = np.random.default_rng(0)
    examples = {
        split: [
            (rng.integers(0, 256, (16, 20, 3), np.uint8), (quarters(i) % 4 + 1)[..., None])
            for i in range(count)
        ]
        for split, count in (("train", 4), ("test", 2))
    }
    fixtures.write_tfds_masks(tmp_path, "pets", examples)
    config.name, config.data_dir, config.labels, config.image_size = (
        "pets",
        str(tmp_path),
        "mask",
        16,
    )
    config.classes, config.void = "nothing, pet, background, border", "4"
    data = datasets.load(config, seed=0)
    expected = [masks.square(quarters(i) % 4 + 1, 16) for i in range(4)]
    expected = np.where(np.equal(expected, 4), VOID, expected)
    np.testing.assert_array_equal(data.train.labels, expected)
    assert data.class_names[1] == "pet"
    config.classes, config.void = "pet, background", ""
    assert "the mask of picture 0 of train has the class number" in fixtures.error_line(config)
    config.labels = "fine"
    assert datasets.load(config, seed=0).train.labels.tolist() == [0, 1, 0, 1]
    # Masks of 0 and 255, which is void.
    for pairs in examples.values():
        pairs[:] = [
            (picture, np.where(mask > 2, 255, 0).astype(np.uint8)) for picture, mask in pairs
        ]
    fixtures.write_tfds_masks(tmp_path, "binary", examples)
    config.name, config.labels, config.classes = "binary", "mask", ""
    assert "have only one class, 0 (config.dataset.void is" in fixtures.error_line(config)
