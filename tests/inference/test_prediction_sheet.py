"""The sheet of predictions shows each picture and draws its probabilities as bars."""

import numpy as np
import pytest
from PIL import Image

from cifar_jax.errors import UserError
from cifar_jax.inference import prediction_sheet

BAR = np.array([0x00, 0x72, 0xB2])
CLASSES = [("frog", 0.5), ("cat", 0.3), ("deer", 0.1), ("dog", 0.06), ("bird", 0.04)]


def answer(path, classes=CLASSES):
    entries = [{"name": name, "probability": value} for name, value in classes]
    return {"image": str(path), "classes": entries}


@pytest.fixture
def picture(tmp_path):
    """A red picture, twice as wide as high, with a green square in the middle."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[..., 0] = 255
    pixels[:, 32:96] = (0, 255, 0)
    path = tmp_path / "wide.png"
    Image.fromarray(pixels).save(path)
    return path


def has_colour(sheet, colour):
    return (sheet == np.array(colour)).all(axis=-1)


def test_the_whole_picture_and_what_the_network_sees_of_it(picture, tmp_path):
    (path,) = prediction_sheet.write(
        str(tmp_path / "out.png"), [answer(picture)], image_size=32, fit="crop"
    )
    sheet = np.asarray(Image.open(path).convert("RGB"))
    red, green = (has_colour(sheet, colour) for colour in ((255, 0, 0), (0, 255, 0)))
    # The whole picture is 160 wide and 80 high, half of it green. The network's input, 160x160 here, is
    # all green.
    assert red.sum() == pytest.approx(80 * 80, rel=0.03)
    assert green.sum() == pytest.approx(80 * 80 + 160 * 160, rel=0.03)


def test_bars_are_as_long_as_the_probabilities(picture, tmp_path):
    (path,) = prediction_sheet.write(
        str(tmp_path / "out.png"), [answer(picture)], image_size=32, fit="crop"
    )
    sheet = np.asarray(Image.open(path).convert("RGB"))
    widths = has_colour(sheet, BAR).sum(axis=1)
    lengths = [group[0] for group in _runs_of(widths)]
    assert len(lengths) == 5
    for length, (_, probability) in zip(lengths, CLASSES, strict=True):
        assert length / lengths[0] == pytest.approx(probability / 0.5, abs=0.03)


def _runs_of(widths):
    """The widths of each bar's rows, without its first row: one array per bar."""
    rows = np.flatnonzero(widths)
    return [widths[group][1:] for group in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)]


def test_many_pictures_take_several_sheets(picture, tmp_path):
    answers = [answer(picture)] * (prediction_sheet.PER_SHEET + 1)
    written = prediction_sheet.write(str(tmp_path / "out.png"), answers, image_size=8, fit="crop")
    assert written == [str(tmp_path / "out.png"), str(tmp_path / "out-2.png")]
    first, second = (Image.open(path).size for path in written)
    assert first[1] > 10 * second[1]


def test_no_sheet_is_written_over_a_picture(picture):
    content = picture.read_bytes()
    second = picture.with_name("sheets-2.png")
    second.write_bytes(content)
    with pytest.raises(UserError, match="is one of the pictures"):
        prediction_sheet.write(str(picture), [answer(picture)], image_size=8, fit="crop")
    answers = [answer(second)] * (prediction_sheet.PER_SHEET + 1)
    with pytest.raises(UserError, match=r"sheets-2\.png is one"):
        prediction_sheet.write(
            str(picture.with_name("sheets.png")), answers, image_size=8, fit="crop"
        )
    assert picture.read_bytes() == second.read_bytes() == content
    assert not picture.with_name("sheets.png").exists()


def test_names_that_are_long_or_odd_are_drawn_without_a_word(picture, tmp_path, recwarn):
    odd = tmp_path / f"{'蛙' * 40} $x^2$.png"
    picture.rename(odd)
    prediction_sheet.write(
        str(tmp_path / "out.png"), [answer(odd, [("x" * 99, 1.0)])], image_size=32, fit="crop"
    )
    assert not recwarn.list


@pytest.mark.parametrize(
    ("path", "says"),
    [("out.jpg", "end with .png"), ("", "end with .png"), ("no/out.png", "no folder no")],
)
def test_where_it_cannot_be_written(path, says):
    with pytest.raises(UserError, match=says):
        prediction_sheet.check_path(path)


def test_every_view_is_drawn(picture, tmp_path):
    """Of six views, 64x64 each, two are green, two half green, and two half of the padded picture."""
    (path,) = prediction_sheet.write(str(tmp_path / "out.png"), [answer(picture)], 32, fit="all")
    sheet = np.asarray(Image.open(path).convert("RGB"))
    given, view = 80 * 80, 64 * 64
    # The padded picture is half as high as its square, and its padding has the colour of its edge: red.
    green = given + 2 * view + 2 * view / 4 + 2 * view / 2
    assert has_colour(sheet, (0, 255, 0)).sum() == pytest.approx(green, rel=0.1)
