"""Masks: the class of each pixel of a picture, as numbers, and the names and colours of the classes.

A mask is uint8 [height, width]: numbers of classes from 0, and `VOID` where a pixel has no class.
"""

import colorsys
import dataclasses
import os
import re
import threading

import numpy as np
from PIL import Image

from cifar_jax.data import pictures
from cifar_jax.errors import UserError
from cifar_jax.system import files

VOID = 255
# The data sets with masks. A TFDS set has them if config.dataset.labels is `LABELS`.
MOSAIC, SEGMENTATION_FOLDER = SETS = ("mosaic", "segmentation_folder")
LABELS = "mask"
# Raise it when masks are read in another way: those in the cache are then read again.
READING = 3
# So much of a PNG file says how many bits a pixel has.
HEAD_BYTES = 26
MOST_CLASSES = 254
# Marks numbers and colours that are no class while a mask is read.
_UNKNOWN = 254
WHITE = (255, 255, 255)

# Those of Matplotlib's "tab20", the darker ones first.
_COLOURS = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
    (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150), (197, 176, 213),
    (196, 156, 148), (247, 182, 210), (199, 199, 199), (219, 219, 141), (158, 218, 229),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the fields `dataset.classes` and `dataset.void` say.

    Attributes:
      names: of the classes, in the order of their numbers; () if they are not given.
      colours: (red, green, blue) of each class in the masks; () if masks hold numbers.
      void: the number or the colour of pixels without a class; None if there is none.
    """

    names: tuple[str, ...] = ()
    colours: tuple[tuple[int, int, int], ...] = ()
    void: int | tuple[int, int, int] | None = None


def parse_classes(classes: str, void: str) -> Classes:
    """Reads "sky #00FFFF, road #808080" or "sky, road", and "#000000" or "255".

    Raises:
      ValueError: what is wrong, in words that follow "dataset.".
    """
    names, colours = [], []
    for entry in filter(None, map(str.strip, classes.split(","))):
        name, _, colour = entry.rpartition("#")
        if not name:
            names.append(entry.lstrip("#"))
            continue
        names.append(name.strip())
        colours.append(_colour(f"#{colour}", "classes"))
    if not all(names) or len({*names}) < len(names):
        raise ValueError("classes must give each class a name of its own")
    if len(names) == 1 or len(names) > MOST_CLASSES:
        raise ValueError(f"classes has {len(names)} entries, but takes 2 to {MOST_CLASSES}")
    if colours and len(colours) < len(names):
        raise ValueError("classes has a colour for some classes, but not for all of them")
    if len({*colours}) < len(colours):
        raise ValueError("classes gives two classes the same colour")
    if void.startswith("#"):
        if not colours:
            raise ValueError("void is a colour, but classes has no colours")
        value = _colour(void, "void")
        if value in colours:
            raise ValueError("void is the colour of a class")
    elif void:
        if colours:
            raise ValueError(f"void is {void!r}, but classes has colours: give one, as #000000")
        if not void.isdecimal() or not int(void) <= 255:
            raise ValueError(
                f"void is {void!r}, but takes a number up to 255 or a colour as #000000"
            )
        value = int(void)
    else:
        value = None if colours else VOID
    return Classes(tuple(names), tuple(colours), value)


def _colour(text: str, field: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{field}: {text[:20]!r} is not a colour such as #00FFFF")
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


def names_and_colours(classes: Classes, reader: "Reader", place: str) -> tuple[tuple, tuple]:
    """The names and colours of the classes: as given, else as the masks that were read have them.

    Raises UserError if the masks, which are in `place`, have only one class.
    """
    names = classes.names or tuple(str(number) for number in range(reader.highest + 1))
    if len(names) < 2:
        raise UserError(
            f"the masks in {place} have only one class, 0 (config.dataset.void is the number of pixels "
            "without a class)"
        )
    colours = classes.colours or default_colours(len(names))
    if not classes.colours and reader.palette is not None:
        colours = tuple(map(tuple, reader.palette[: len(names)].tolist()))
    return names, colours


def default_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """A colour for each of `count` classes, in the order of their numbers."""
    more = [
        tuple(round(255 * x) for x in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.5 + i % 3 / 6, 0.9))
        for i in range(max(0, count - len(_COLOURS)))
    ]
    return (*_COLOURS, *more)[:count]


class Reader:
    """Reads mask files as class numbers. What it finds out on the way, it tells afterwards.

    Attributes:
      highest: the highest class number that was read.
      palette: the colours in the masks' palettes, uint8 [256, 3]; None if none has one. Of different
        palettes, the smallest: the same in any order of reading.

    Several threads may read at once.
    """

    def __init__(self, classes: Classes):
        self._classes = classes
        self.highest = -1
        self.palette = None
        self._lock = threading.Lock()
        if classes.colours:
            self._table = np.full(2**24, _UNKNOWN, np.uint8)
            for number, colour in enumerate(classes.colours):
                self._table[_packed(np.array(colour))] = number
            if classes.void is not None:
                self._table[_packed(np.array(classes.void))] = VOID
        else:
            self._table = np.arange(256, dtype=np.uint8)
            self._table[len(classes.names) or MOST_CLASSES :] = _UNKNOWN
            if classes.void is not None:
                self._table[classes.void] = VOID

    def read(self, path: str | os.PathLike, size: tuple[int, int]) -> np.ndarray:
        """`numbers` of a file. Raises UserError, which names it, also if it cannot be read."""
        picture = pictures.open_as_it_is(path)
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
        try:
            return self.numbers(picture, size, head)
        except UserError as error:
            raise UserError(f"{files.shown(path)} {error}") from None

    def numbers(self, picture: Image.Image, size: tuple[int, int], head: bytes) -> np.ndarray:
        """The class numbers of a mask: uint8 [height, width].

        Args:
          picture: the mask.
          size: width and height of the picture that it belongs to.
          head: the first HEAD_BYTES of its file.

        Raises:
          UserError: it is a JPEG, has another size, or values that are no class. The message follows the
            mask's name.
        """
        if picture.format in ("JPEG", "MPO"):
            raise UserError("is a JPEG, whose compression changes classes: save masks as PNG")
        if picture.size != size:
            raise UserError(
                f"has {picture.width}x{picture.height} pixels, but its picture has {size[0]}x{size[1]}"
            )
        if self._classes.colours:
            values = self._colours(picture)
        else:
            values = self._numbers(picture) // _scale_of_greys(head)
        numbers = self._table[values]
        unknown = values[numbers == _UNKNOWN]
        if unknown.size:
            raise UserError(f"has {self._words(int(unknown.flat[0]))}")
        found = counted(numbers)
        if found.size:
            with self._lock:
                self.highest = max(self.highest, int(found.max()))
        return numbers

    def _colours(self, picture: Image.Image) -> np.ndarray:
        return _packed(np.asarray(picture.convert("RGB"), np.int32))

    def _numbers(self, picture: Image.Image) -> np.ndarray:
        if picture.mode == "P":
            palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
            palette = np.pad(palette, ((0, 256 - len(palette)), (0, 0)))
            with self._lock:
                others = [] if self.palette is None else [self.palette]
                self.palette = min([palette, *others], key=np.ndarray.tobytes)
        values = np.asarray(picture).astype(np.int64)
        if values.ndim == 3:
            values, others = values[..., 0], values[..., 1:3]
            if picture.mode not in ("LA", "PA") and (others != values[..., None]).any():
                raise UserError(
                    "is in colours: set config.dataset.classes to the names and colours of the classes, as "
                    "in 'sky #00FFFF, road #808080'"
                )
        if not 0 <= values.min() <= values.max() <= 255:
            raise UserError(f"has the class number {values.max()}, above 255")
        return values

    def _words(self, value: int) -> str:
        if not self._classes.colours:
            count = len(self._classes.names) or MOST_CLASSES
            return (
                f"the class number {value}, but the classes are 0 to {count - 1} (config.dataset.void is the "
                "number of pixels without a class)"
            )
        return (
            f"the colour #{value:06X}, which is not in config.dataset.classes (config.dataset.void is the "
            "colour of pixels without a class)"
        )


def counted(labels: np.ndarray) -> np.ndarray:
    """The labels that count: class numbers [N] as they are, of masks those that are not void."""
    return labels if labels.ndim == 1 else labels[labels != VOID]


def _scale_of_greys(head: bytes) -> int:
    """The factor by which Pillow spreads the numbers in a grey PNG of 2 or 4 bits over 0 to 255."""
    is_grey_png = head.startswith(b"\x89PNG") and head[25:26] == b"\0"
    return {2: 85, 4: 17}.get(head[24], 1) if is_grey_png else 1


def _packed(colours: np.ndarray) -> np.ndarray:
    """[..., 3] -> [...]: red, green and blue in one number."""
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def square(mask: np.ndarray, size: int) -> np.ndarray:
    """The central square of a mask [height, width], resized by nearest neighbour: [size, size].

    Aligned with `pictures.square_rgb` of its picture.
    """
    return np.asarray(
        pictures.central_square(Image.fromarray(mask), size, Image.Resampling.NEAREST)
    )


def coloured(mask: np.ndarray, colours) -> np.ndarray:
    """The colours of a mask's classes, white where it is void: uint8 [..., height, width, 3]."""
    return _palette(colours)[mask]


def overlay(images: np.ndarray, mask: np.ndarray, colours) -> np.ndarray:
    """Masks over their images, uint8 [..., height, width, 3]. Void pixels show the image alone."""
    share = np.where(mask == VOID, 0, 0.6)[..., None]
    mixed = (1 - share) * images + share * coloured(mask, colours)
    return np.rint(mixed).astype(np.uint8)


def to_picture(mask: np.ndarray, colours) -> Image.Image:
    """A mask as a picture with a palette: its values are class numbers, and it shows their colours."""
    picture = Image.fromarray(np.ascontiguousarray(mask, np.uint8), "P")
    picture.putpalette(_palette(colours).tobytes())
    return picture


def _palette(colours) -> np.ndarray:
    palette = np.full((256, 3), WHITE, np.uint8)
    palette[: len(colours)] = colours
    return palette
