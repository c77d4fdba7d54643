"""Picture files: every format gives the pixels it shows. A file that is no picture gives a one-line error."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cifar_jax.data.pictures import FITS, find_pictures, fitted, load_picture
from cifar_jax.errors import UserError
from tests.bad_input import pictures


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(picture, name="picture.png", **options):
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def test_a_picture_of_the_right_size_keeps_every_pixel(save):
    pixels = noise(32, 32)
    loaded = load_picture(save(pixels), 32)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, pixels)


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 32)])
def test_the_central_square_is_taken(save, height, width):
    pixels = noise(height, width)
    centre = pixels[:, 16:48] if width > height else pixels[16:48]
    np.testing.assert_array_equal(load_picture(save(pixels), 32), centre)


def test_what_is_outside_the_square_has_no_influence(save):
    # The resizing filter is wider than a pixel; it must not reach across the edge of the square.
    pixels = noise(64, 128)
    outside = pixels.copy()
    outside[:, :32], outside[:, 96:] = 0, 255
    first = load_picture(save(pixels, "first.png"), 16)
    np.testing.assert_array_equal(first, load_picture(save(outside, "second.png"), 16))


def test_shrinking_averages_and_does_not_alias(save):
    # Columns 0, 255, 0, 255, ...: averaging gives grey. Picking pixels gives all black or all white,
    # and moiré if the ratio is not a whole number.
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, 1::2] = 255
    for size in (25, 32, 47):
        loaded = load_picture(save(stripes), size).astype(int)
        inside = loaded[2:-2, 2:-2]
        assert abs(inside - 127.5).max() < 6, size


# Orientation -> the rotation or reflection that makes the stored pixels upright (EXIF 2.3, tag 274).
UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),  # clockwise
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_rotation_is_applied(save, orientation):
    pixels = noise(8, 8)
    exif = Image.Exif()
    exif[274] = orientation
    loaded = load_picture(save(pixels, exif=exif), 8)
    np.testing.assert_array_equal(loaded, UPRIGHT[orientation](pixels))


def test_damaged_exif_does_not_matter(save):
    pixels = noise(8, 8)
    loaded = load_picture(save(pixels, exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage"), 8)
    np.testing.assert_array_equal(loaded, pixels)


GRADIENT = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("g.png", "I;16"), ("g.tiff", "I;16"), ("g.tiff", "I;16B"), ("g.tiff", "I"), ("g.ppm", "I")],
)
def test_sixteen_bit_grey_is_scaled_not_clipped(save, name, mode):
    # Every 8-bit value times 257, so that 255 becomes 65535.
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    data = (GRADIENT.astype(int) * 257).astype(kind).tobytes()
    loaded = load_picture(save(Image.frombytes(mode, (16, 16), data), name), 16)
    np.testing.assert_array_equal(loaded, np.stack([GRADIENT] * 3, -1))


def test_floating_point_grey_is_scaled_and_other_ranges_are_refused(save):
    picture = Image.fromarray(GRADIENT.astype(np.float32) / 255)
    loaded = load_picture(save(picture, "f.tiff"), 16)
    np.testing.assert_array_equal(loaded, np.stack([GRADIENT] * 3, -1))
    for value in (2.0, -1.0, np.nan):
        path = save(Image.fromarray(np.full((4, 4), value, np.float32)), "f.tiff")
        with pytest.raises(UserError, match=r"f\.tiff: its grey values are not between 0 and 1"):
            load_picture(path, 4)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_becomes_three_equal_channels(save, mode):
    grey = GRADIENT if mode != "1" else 255 * (GRADIENT % 2)
    loaded = load_picture(save(Image.fromarray(grey).convert(mode)), 16)
    np.testing.assert_array_equal(loaded, np.stack([grey] * 3, -1))


def test_a_palette_gives_its_colours(save):
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    assert (load_picture(save(picture), 4) == [200, 100, 50]).all()


def test_cmyk_is_light_removed_by_ink(save):
    # Full cyan ink leaves green and blue light; black ink leaves none.
    for ink, colour in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
        path = save(Image.new("CMYK", (4, 4), ink), "c.tiff")
        assert (load_picture(path, 4) == colour).all()


def test_transparency_is_laid_on_white(save):
    half = np.full((2, 2, 4), (200, 0, 0, 128), np.uint8)
    # 128/255 of the colour plus the rest of white: 200 * 0.50196 + 255 * 0.49804, and 255 * 0.49804.
    expected = np.array([227.4, 127.0, 127.0])
    assert abs(load_picture(save(half), 2) - expected).max() <= 1
    hidden = np.full((2, 2, 4), (200, 0, 0, 0), np.uint8)
    assert (load_picture(save(hidden), 2) == 255).all()
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    assert (load_picture(save(palette, transparency=0), 2) == 255).all()
    sixteen = Image.frombytes("I;16", (1, 1), b"\x00\x10")
    assert (load_picture(save(sixteen, transparency=0x1000), 1) == 255).all()


def test_the_first_frame_of_an_animation(save):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tiff"):
        path = save(frames[0], name, save_all=True, append_images=frames[1:])
        assert (load_picture(path, 4) == (255, 0, 0)).all(), name


def png(width, height, pixels=b"\0"):
    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def assert_refused(path, words):
    with pytest.raises(UserError) as raised:
        load_picture(path, 32)
    message = str(raised.value)
    assert words in message
    assert os.path.basename(path) in message
    assert "\n" not in message


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "side", [10_000, 60_000]
)  # Pillow warns of the first and refuses the second
def test_decompression_bombs_are_refused(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side))
    assert_refused(path, "too many pixels")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"a text\n" * 100, "is not a picture"),
        (b"\x89PNG\r\n\x1a\n", "b.png"),
        (png(8, 8), "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not a picture"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, data, words):
    (tmp_path / "b.png").write_bytes(data)
    assert_refused(tmp_path / "b.png", words)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tiff", "webp", "bmp"])
def test_a_picture_cut_short_is_refused_and_not_filled_up(save, suffix):
    path = save(noise(64, 64), f"cut.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert_refused(path, "cut." + suffix)


def test_damage_anywhere_gives_a_picture_or_a_line(save):
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "tiff"):
        path = save(noise(16, 16), f"damaged.{suffix}")
        good = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            data = good.copy()
            data[rng.integers(0, min(len(data), 400), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(data.tobytes())
            try:
                assert load_picture(path, 8).shape == (8, 8, 3)
            except UserError as error:
                lines = str(error).splitlines()
                assert [path.name in line for line in lines] == [True]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Every odd picture of tests/bad_input: {name: (path, a part of the error or None)}."""
    return pictures.make(tmp_path_factory.mktemp("odd") / "pictures")


ODD = [*pictures.FILES, "fifo.png", "loop.png", "/dev/zero", "/proc/self/mem", "inside_a_file"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_odd_picture_is_read_or_named_in_a_line(odd, name):
    path, says = odd[name]
    if says is None:
        assert load_picture(path, 8).shape == (8, 8, 3)
        return
    with pytest.raises(UserError) as raised:
        load_picture(path, 8)
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


def test_paths_that_are_no_files(tmp_path):
    assert_refused(tmp_path / "missing.png", "No such file")
    assert_refused(tmp_path, "folder")
    os.mkfifo(tmp_path / "pipe.png")
    assert_refused(tmp_path / "pipe.png", "pipe")  # must not wait for a writer
    assert_refused("/dev/null", "device")
    (tmp_path / "loop.png").symlink_to("loop.png")
    assert_refused(tmp_path / "loop.png", "symbolic links")
    (tmp_path / "dangling.png").symlink_to("nothing.png")
    assert_refused(tmp_path / "dangling.png", "No such file")
    assert_refused(tmp_path / ("long" * 100 + ".png"), "too long")


def test_a_line_stays_a_line_whatever_the_name(tmp_path):
    with pytest.raises(UserError) as raised:
        load_picture(tmp_path / "two\nlines.png", 32)
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError):
        load_picture("zero\0byte.png", 32)


def test_permission_denied(save):
    path = save(noise(8, 8))
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(65534)
    try:
        assert_refused(path, "Permission denied")
    finally:
        os.seteuid(user)


def test_folders_are_expanded_by_name(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub.png").mkdir(parents=True)
    for name in (
        "b.png",
        "a.JPG",
        "c.webp",
        "notes.txt",
        "data.h5",
        ".hidden.png",
        "sub.png/x.png",
    ):
        (folder / name).touch()
    given = [str(tmp_path / "z.txt"), str(folder), str(tmp_path / "missing")]
    assert find_pictures(given) == [
        given[0],
        *(str(folder / name) for name in ("a.JPG", "b.png", "c.webp")),
        given[2],
    ]


def test_photographs_that_pillow_may_not_read_are_not_left_out(tmp_path):
    for name in ("a.png", "b.HEIC", "c.avif", "d.nef"):
        (tmp_path / name).write_bytes(b"nothing")
    found = find_pictures([str(tmp_path)])
    assert [os.path.basename(path) for path in found] == ["a.png", "b.HEIC", "c.avif"]
    assert_refused(found[1], "not a picture that Pillow can read")


def test_a_folder_without_pictures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="no pictures in the folder"):
        find_pictures([str(tmp_path)])


def test_every_way_to_make_a_picture_square():
    """Four columns of one colour each: which of them a view holds, and where, is known."""
    colours = np.array([[10, 20, 30], [50, 60, 70], [90, 100, 110], [130, 140, 150]], np.uint8)
    pixels = np.repeat(np.repeat(colours[None], 16, axis=0), 8, axis=1)
    picture = Image.fromarray(pixels)  # 32 wide, 16 high
    (crop,) = fitted(picture, 16, "crop")
    np.testing.assert_array_equal(crop, pixels[:, 8:24])
    (squash,) = fitted(picture, 32, "squash")
    np.testing.assert_array_equal(squash, np.repeat(pixels, 2, axis=0))
    (pad,) = fitted(picture, 32, "pad")
    np.testing.assert_array_equal(pad[8:24], pixels)
    # Of the edge's 96 pixels, each colour has 16 above and below; the outer two also have a side.
    np.testing.assert_array_equal(pad[:8], np.full((8, 32, 3), (70, 80, 90)))
    for several, single in (
        ("all", ["crop", "squash", "pad"]),
        ("crop+squash", ["crop", "squash"]),
    ):
        views = fitted(picture, 16, several)
        first = np.concatenate([fitted(picture, 16, fit) for fit in single])
        np.testing.assert_array_equal(views, np.concatenate([first, first[:, :, ::-1]]))


def test_a_square_picture_has_one_view_with_every_fit():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))
    for fit in FITS:
        np.testing.assert_array_equal(fitted(picture, 8, fit), np.asarray(picture)[None])


def test_a_fit_that_is_not_there():
    with pytest.raises(UserError, match="fit is 'cover', but takes one of crop"):
        fitted(Image.new("RGB", (2, 3)), 2, "cover")


def test_the_padding_of_a_very_long_picture_takes_no_memory():
    picture = Image.new("RGB", (1_000_000, 1), "red")  # its square would have 3 TB
    assert (fitted(picture, 8, "all") == (255, 0, 0)).all()
