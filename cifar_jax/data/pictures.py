"""Picture files of any kind as square uint8 RGB arrays, the input of a network.

A file that cannot be read gives a UserError with one line. Reading never blocks (on a pipe) and never
decodes a picture that would fill the memory.
"""

import contextlib
import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from cifar_jax.errors import UserError
from cifar_jax.system import files, threads

# Height and width of the largest network input, in pixels. It keeps a damaged number from filling memory.
LARGEST_IMAGE = 1024

# The ways to make a picture square. Of several at once, the mirror images are taken too.
FITS = {
    "crop+squash": ("crop", "squash"),
    "crop": ("crop",),
    "squash": ("squash",),
    "pad": ("pad",),
    "all": ("crop", "squash", "pad"),
}
DEFAULT_FIT = "crop+squash"

# Formats of Pillow that are not decoded: EPS is a program, which Ghostscript would run; for the others
# Pillow has no decoder (for WMF, only on Windows).
NOT_DECODED = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})
# Suffixes of photographs that Pillow may have no decoder for: it says so, instead of leaving them out.
PHOTOGRAPHS = frozenset({".heic", ".heif", ".hif", ".avif", ".jxl"})


def load_picture(path: str | os.PathLike, image_size: int) -> np.ndarray:
    """The central square of a picture file, RGB, resized: uint8 [image_size, image_size, 3].

    A picture that has this size already keeps its pixels exactly. Raises UserError as `open_picture`.
    """
    # Resized like the training images. Pillow's filter antialiases at any ratio.
    return np.array(square_rgb(open_picture(path), image_size))


def open_picture(path: str | os.PathLike) -> Image.Image:
    """A whole picture file, decoded, in mode "RGB".

    Applies EXIF rotation and takes the first frame of an animation. Transparent pixels become white: their
    stored colours are arbitrary. CMYK is converted by the plain formula, without colour profiles.

    Raises:
      UserError: the file is not a readable picture, or has more than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    picture = open_as_it_is(path)
    try:
        return to_rgb(picture)
    except UserError as error:
        raise UserError(f"{files.shown(path)}: {error}") from error


def open_as_it_is(path: str | os.PathLike) -> Image.Image:
    """`open_picture` without the conversion to RGB."""
    files.check_regular_file(path)
    return _decode(path)


def from_pil(picture: Image.Image) -> Image.Image:
    """`open_picture` of a picture that Pillow has opened already, at the frame that it shows."""
    if not picture.width or not picture.height:
        raise UserError(f"a picture has no pixels: it is {picture.width}x{picture.height}")
    try:
        picture.load()
    # As for files: nearly anything, if they are damaged or closed.
    except Exception as error:
        raise UserError(f"a picture cannot be read: {files.reason(error)}") from error
    return to_rgb(_upright(picture))


def square_rgb(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any mode and shape as uint8 [size, size, 3].

    It is cropped to its central square, then resized with antialiasing. Grey becomes three equal
    channels.
    """
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(central_square(picture, size, Image.Resampling.BICUBIC))


def central_square(picture: Image.Image, size: int, filter: Image.Resampling) -> Image.Image:
    """The central square of a picture, resized to `size` x `size` pixels."""
    side = min(picture.size)
    if picture.size != (side, side):
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    return picture if side == size else picture.resize((size, size), filter)


def fitted(picture: Image.Image, size: int, fit: str) -> np.ndarray:
    """The views of a picture that a network is asked about: uint8 [views, size, size, 3].

    Args:
      picture: in mode "RGB". A square picture has one view, with any `fit`.
      size: height and width of the views, in pixels.
      fit: "crop" (the central square), "pad" (the whole picture, on a square in the median colour of its
        edge), "squash" (the whole picture, with its proportions changed), "crop+squash" or "all": these
        views, then the mirror image of each.

    Raises:
      UserError: there is no such fit.
    """
    if not isinstance(fit, str) or fit not in FITS:
        raise UserError(f"fit is {fit!r}, but takes one of {', '.join(FITS)}")
    if picture.width == picture.height or fit == "crop":
        return square_rgb(picture, size)[None]
    if fit == "pad":
        return np.asarray(_padded(picture, size))[None]
    if fit == "squash":
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))[None]
    views = np.concatenate([fitted(picture, size, each) for each in FITS[fit]])
    return np.concatenate([views, views[:, :, ::-1]])


def _padded(picture: Image.Image, size: int) -> Image.Image:
    """The whole picture in the middle of a square in the median colour of its edge."""
    pixels = np.asarray(picture)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    square = Image.new("RGB", (size, size), tuple(int(value) for value in np.median(edge, axis=0)))
    # Resized first: the square of a very long picture would not fit in memory.
    width, height = (max(1, round(side * size / max(picture.size))) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(picture, ((size - width) // 2, (size - height) // 2))
    return square


def find_pictures(paths: list[str]) -> list[str]:
    """The paths, with each folder replaced by the pictures directly in it, in the order of names.

    Raises UserError as `pictures_in`.
    """
    found = []
    for path in paths:
        found += pictures_in(path) if os.path.isdir(path) else [path]
    return found


def pictures_in(folder: str, nested: bool = False) -> list[str]:
    """The paths of the pictures in a folder, and then, if `nested`, in each of its subfolders.

    A picture is a file that is not hidden and has a suffix that Pillow knows, one of `PHOTOGRAPHS`, or no
    suffix but a content that Pillow knows.

    Raises:
      UserError: there is no picture, or a folder cannot be listed.
    """
    formats = set(_formats())
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}
    suffixes |= PHOTOGRAPHS

    def below(inside: str, above: tuple[str, ...] = ()) -> list[str]:
        above += (os.path.realpath(inside),)
        try:
            with os.scandir(inside) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if not (entry.name.startswith(".") or entry.is_dir())
                    and _is_picture(entry, suffixes)
                )
            deeper = [os.path.join(inside, name) for name in files.subfolders(inside) if nested]
        except OSError as error:
            raise UserError(f"{files.shown(inside)}: {files.reason(error)}") from error
        found = [os.path.join(inside, name) for name in names]
        for path in deeper:
            if os.path.realpath(path) not in above:  # a link that leads back
                found += below(path, above)
        return found

    found = below(folder)
    if not found:
        raise UserError(f"no pictures in the folder {files.shown(folder)}")
    return found


def _is_picture(entry: os.DirEntry, suffixes: set[str]) -> bool:
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix or not entry.is_file():
        return suffix in suffixes
    # Only the header is read.
    try:
        with refused_bombs(), Image.open(entry.path, formats=_formats()):
            return True
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except Exception:
        return False


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in NOT_DECODED]


def _decode(path: str | os.PathLike) -> Image.Image:
    """The first frame, decoded and upright."""
    try:
        # Pillow warns above its limit and refuses above twice that. Here both are refused, as soon as
        # the header is read. Users cannot act on other warnings (odd metadata).
        with open(path, "rb") as file, refused_bombs():
            picture = Image.open(file, formats=_formats())
            picture.load()
            return _upright(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{files.shown(path)} has too many pixels: at most {Image.MAX_IMAGE_PIXELS:,} are read"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{files.shown(path)} is not a picture that Pillow can read") from error
    # On a damaged file, Pillow's decoders may raise nearly anything (struct.error, SyntaxError, ...).
    except Exception as error:
        raise UserError(f"{files.shown(path)} cannot be read: {files.reason(error)}") from error


@threads.shared
@contextlib.contextmanager
def refused_bombs():
    """Turns Pillow's warning about too many pixels into an error, and hides its other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _upright(picture: Image.Image) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(picture)
        upright.format = picture.format  # Pillow drops it
        return upright
    # Damaged metadata leave the pixels readable.
    except Exception:
        return picture


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode of Pillow as "RGB", scaled, not clipped. UserError if the range of values is unknown."""
    if picture.mode.startswith("I") or picture.mode == "F":
        return _grey_to_rgb(picture)
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def to_png(picture: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _grey_to_rgb(picture: Image.Image) -> Image.Image:
    """Grey with 16 bits ("I;16" in any byte order, "I") or in floating point ("F", from 0 to 1)."""
    grey = np.asarray(picture)
    white = 1.0 if picture.mode == "F" else 65535.0
    if not (grey.min() >= 0 and grey.max() <= white):  # "not" catches NaN too
        raise UserError(f"its grey values are not between 0 and {white:g}; save it as 8-bit RGB")
    scaled = np.rint(grey.astype(np.float64) * (255 / white)).astype(np.uint8)
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        scaled[grey == transparent] = 255
    return Image.fromarray(scaled).convert("RGB")
