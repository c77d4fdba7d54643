"""Picture files of any kind -> square uint8 RGB arrays, as a network takes them. What cannot be
read is named in one line, nothing blocks, and nothing is decoded that would fill the memory.
"""

import contextlib
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from cifar_jax.errors import UserError
from cifar_jax.system import files

# Height and width in pixels of the largest network input; a damaged number must not claim terabytes.
LARGEST_IMAGE = 1024

# Formats of Pillow that are no pictures to decode: EPS is a program, which Pillow has Ghostscript
# run; of the others it knows the name but has no decoder (WMF: only on Windows).
NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


def load_picture(path: str | os.PathLike, image_size: int) -> np.ndarray:
    """The central square of a picture file, RGB: uint8 [height, width, channel] of `image_size`.

    The picture is that of `open_picture`, which raises UserError for what is none. One of `image_size`
    already keeps its pixels to the bit.
    """
    # As the training images were made. Pillow widens its filter by the shrinking factor, so every
    # pixel of the square counts and nothing aliases, at any ratio.
    return np.array(square_rgb(open_picture(path), image_size))


def open_picture(path: str | os.PathLike) -> Image.Image:
    """A whole picture file, decoded, of mode "RGB".

    EXIF rotation is applied and the first frame of an animation is taken. Transparency is laid on
    white: cut-out pictures are made for white pages, and the colours stored under transparent
    pixels are arbitrary, mostly black. CMYK is converted by the plain formula (no colour profiles).

    Raises:
        UserError: one line that names the file, for whatever is no readable picture, and for one of
            more pixels than Pillow takes without a warning (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    files.check_regular_file(path)
    picture = _decode(path)
    try:
        return _to_rgb(picture)
    except ValueError as error:
        raise UserError(
            f"{files.shown(path)}: {files.reason(error)}; save it as 8-bit RGB"
        ) from error


def square_rgb(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any mode and shape as uint8 [size, size, 3].

    What is not square is cropped to its central square, then resized with antialiasing. Grey
    becomes three equal channels.
    """
    side = min(picture.size)
    if picture.size != (side, side):
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def find_pictures(paths: list[str]) -> list[str]:
    """Files as they are; a folder replaced by the pictures in it, by name (not in subfolders).

    In a folder, a picture is a file with a suffix that Pillow knows and a name that is not hidden.

    Raises:
        UserError: a folder has no picture in it or cannot be listed.
    """
    found = []
    for path in paths:
        found += pictures_in(path) if os.path.isdir(path) else [path]
    return found


def pictures_in(folder: str) -> list[str]:
    """As `find_pictures`, of one folder."""
    formats = set(_formats())
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and os.path.splitext(entry.name)[1].lower() in suffixes
                and not entry.is_dir()
            )
    except OSError as error:
        raise UserError(f"{files.shown(folder)}: {files.reason(error)}") from error
    if not names:
        raise UserError(f"no pictures in the folder {files.shown(folder)}")
    return [os.path.join(folder, name) for name in names]


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in NOT_DECODED]


def _decode(path: str | os.PathLike) -> Image.Image:
    """The first frame, decoded and upright."""
    try:
        # Pillow warns above its limit and refuses above twice that: here both are refused, as soon
        # as the header is read. Other warnings (odd metadata) are nothing a user can act on.
        with open(path, "rb") as file, refused_bombs():
            picture = Image.open(file, formats=_formats())
            picture.load()
            return _upright(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{files.shown(path)} has too many pixels: at most {Image.MAX_IMAGE_PIXELS:,} are read"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{files.shown(path)} is no picture that Pillow reads") from error
    # Pillow's decoders raise nearly anything on a damaged file (struct.error, SyntaxError, ...).
    except Exception as error:
        raise UserError(f"{files.shown(path)} cannot be read: {files.reason(error)}") from error


@contextlib.contextmanager
def refused_bombs():
    """Has Pillow's warning of too many pixels raised, and no other shown.

    Python keeps what it warns of in one place for all threads: who decodes in several holds this
    around all of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    # Damaged metadata do not make the pixels unreadable.
    except Exception:
        return picture


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of Pillow -> "RGB", scaled and not clipped; ValueError for an unknown range."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _grey_to_rgb(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def _grey_to_rgb(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits ("I;16" of any byte order, "I") or in floating point ("F", from 0 to 1)."""
    grey = np.asarray(picture)
    white = 1.0 if picture.mode == "F" else 65535.0
    if not (grey.min() >= 0 and grey.max() <= white):  # "not": NaN is outside too
        raise ValueError(f"its grey values are not between 0 and {white:g}")
    scaled = np.rint(grey.astype(np.float64) * (255 / white)).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")
