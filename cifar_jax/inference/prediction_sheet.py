"""Predictions drawn as a PNG: each picture, every view that the network sees, and its most probable classes.

Many pictures are split over several sheets.
"""

import dataclasses
import os
import warnings

import numpy as np
from PIL import Image

from cifar_jax.data import pictures
from cifar_jax.errors import UserError
from cifar_jax.reporting import plots
from cifar_jax.system import files

SUFFIX = ".png"
# Pictures per file. Larger files are too large for image viewers.
PER_SHEET = 60

# Measures in pixels of the file.
_SIDE = 160  # of a picture
_NAMES, _BARS, _PERCENT = 115, 150, 60
_GAP, _HEAD, _FOOT = 16, 30, 24
_HEIGHT = _HEAD + _SIDE + _FOOT + _GAP
_INK, _FAINT, _BAR = "#1d2126", "#646c76", "#0072B2"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
      title: the name of the file.
      given: the whole picture, resized to fit: uint8 [height, width, 3].
      given_size: its original width and height.
      seen: the inputs of the network: uint8 [views, size, size, 3].
      classes: (name, probability), most probable first.
    """

    title: str
    given: np.ndarray
    given_size: tuple[int, int]
    seen: np.ndarray
    classes: list[tuple[str, float]]


def check_path(path: str) -> None:
    """Raises UserError if it is clear already that a sheet cannot be written to this path."""
    folder = os.path.dirname(path) or "."
    if not path.lower().endswith(SUFFIX):
        raise UserError(
            f"--output={files.shown(path)}: predictions are drawn as a PNG: the name must end with "
            f"{SUFFIX}"
        )
    if os.path.isdir(path):
        raise UserError(f"--output={files.shown(path)} is a folder: name a file in it")
    if not os.path.isdir(folder):
        raise UserError(f"--output: there is no folder {files.shown(folder)}")


def write(path: str, answers: list[dict], image_size: int, fit: str) -> list[str]:
    """Draws the answers of `predict.predict_files`. Returns the files: `path`, path-2, and so on.

    Args:
      path: a .png file.
      answers: of `predict_files`. The pictures are read again.
      image_size: height and width in pixels of the pictures as the network gets them.
      fit: how they were made square, as in `pictures.fitted`.
    """
    stem, suffix = os.path.splitext(path)
    starts = range(0, len(answers), PER_SHEET)
    names = [path, *(f"{stem}-{i}{suffix}" for i in range(2, len(starts) + 1))]
    given = {os.path.realpath(answer["image"]) for answer in answers}
    for name in names:
        if os.path.realpath(name) in given:
            raise UserError(
                f"--output: {files.shown(name)} is one of the pictures: choose another name"
            )
    for name, start in zip(names, starts, strict=True):
        shown = answers[start : start + PER_SHEET]
        draw(name, [_cell(answer, image_size, fit) for answer in shown])
    return names


def _cell(answer: dict, image_size: int, fit: str) -> Cell:
    picture = pictures.open_picture(answer["image"])
    seen = pictures.fitted(picture, image_size, fit)
    # Small pictures are enlarged without smoothing, so that their pixels are visible.
    scale = _SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return Cell(
        title=os.path.basename(answer["image"]),
        given=np.asarray(picture.resize(size, kind)),
        given_size=picture.size,
        seen=seen,
        classes=[(entry["name"], entry["probability"]) for entry in answer["classes"]],
    )


def draw(path: str | os.PathLike, cells: list[Cell]) -> None:
    """Writes one sheet as a PNG, atomically."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = 1 if len(cells) <= 3 else 2
    rows = -(-len(cells) // columns)
    blocks = [_block(cell.seen) for cell in cells]
    seen_width = max(block.shape[1] for block in blocks)
    cell_width = _SIDE + seen_width + 3 * _GAP + _NAMES + _BARS + _PERCENT
    width, height = columns * cell_width + _GAP, rows * _HEIGHT + _GAP
    sheet = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / plots.DPI, height / plots.DPI))
    # Axes over the whole figure, in units of the file's pixels: nothing is resampled.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()

    def text(x, y, words, size=9, colour=_INK, **options):
        axes.text(x, y, words, fontsize=size, color=colour, parse_math=False, **options)

    for index, cell in enumerate(cells):
        left, top = index % columns * cell_width + _GAP, index // columns * _HEIGHT + _GAP
        text(left, top + 15, _cut(files.shown(cell.title), 70), size=10, weight="bold")
        top += _HEAD
        size = cell.seen.shape[1]
        for x, width, image, words in (
            (left, _SIDE, cell.given, f"as given, {cell.given_size[0]}x{cell.given_size[1]}"),
            (
                left + _SIDE + _GAP,
                seen_width,
                blocks[index],
                f"as the network sees it, {size}x{size}",
            ),
        ):
            x += (width - image.shape[1]) // 2
            y = top + (_SIDE - image.shape[0]) // 2
            sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
            middle = x + image.shape[1] / 2
            text(middle, top + _SIDE + 15, words, size=7.5, colour=_FAINT, ha="center")
        x = left + _SIDE + seen_width + 2 * _GAP + _NAMES
        for place, (name, probability) in enumerate(cell.classes):
            y = top + (place + 0.5) * _SIDE / 5
            text(x - 8, y, _cut(name, 18), ha="right", va="center")
            bar = Rectangle((x, y - 9), max(1, probability * _BARS), 18, color=_BAR, linewidth=0)
            axes.add_patch(bar)
            text(x + probability * _BARS + 7, y, f"{probability:.1%}", va="center")
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    with warnings.catch_warnings():
        # Letters that are missing in the font are drawn as boxes; users cannot change that.
        warnings.filterwarnings("ignore", message="Glyph")
        plots.save(path, figure)


def _block(views: np.ndarray) -> np.ndarray:
    """One view as large as the picture; or several, half as large, above their mirror images."""
    if len(views) == 1:
        return _fit(views[0], _SIDE)
    cell, columns = _SIDE // 2, len(views) // 2
    block = np.full((_SIDE, columns * cell, 3), 255, np.uint8)
    for index, view in enumerate(views):
        image = _fit(view, cell - 4)
        y, x = (place * cell + (cell - len(image)) // 2 for place in divmod(index, columns))
        block[y : y + len(image), x : x + len(image)] = image
    return block


def _fit(image: np.ndarray, side: int) -> np.ndarray:
    """A square image resized to `side`, or enlarged to the largest whole multiple below it."""
    zoom = side // len(image)
    if zoom:
        return image.repeat(zoom, axis=0).repeat(zoom, axis=1)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else f"{words[: length - 1]}…"
