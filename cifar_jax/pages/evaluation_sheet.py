"""Packs all images of the evaluation page into one, so that the page holds a single data URI."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Height and width of an image in the page, in CSS pixels. Larger images are shrunk, smaller ones enlarged.
SIDE = 64


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Images side by side in one large image.

    Attributes:
      uri: the large image as a data URI.
      columns: images per row.
      pitch: pixels from one image to the next.
      side: height and width of an image in pixels.
    """

    uri: str
    columns: int
    pitch: int
    side: int


def image_sheet(images: np.ndarray, indices: Sequence[int]) -> Sheet:
    """Puts some of the images side by side, row by row.

    Args:
      images: uint8 [N, size, size, 3].
      indices: which images, in [0, N).
    """
    side = min(images.shape[1], SIDE)
    # PNG keeps small images exactly. For larger ones it takes four times as many bytes as JPEG. JPEG
    # works on blocks of 8 pixels: a whole number of blocks per image keeps neighbours apart.
    exact = side <= 32
    pitch = side if exact else -(-side // 8) * 8
    columns = max(1, int(np.ceil(np.sqrt(len(indices)))))
    rows = max(1, -(-len(indices) // columns))
    sheet = np.zeros((rows * pitch, columns * pitch, 3), np.uint8)
    for i, index in enumerate(indices):
        top, left = i // columns * pitch, i % columns * pitch
        margin = (0, pitch - side)
        image = np.pad(shrunk(images[index], side), (margin, margin, (0, 0)), mode="edge")
        sheet[top : top + pitch, left : left + pitch] = image
    return Sheet(data_uri(sheet, exact), columns, pitch, side)


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """A square image, made smaller if it is larger than `side`."""
    if image.shape[0] <= side:
        return image
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3))


def data_uri(pixels: np.ndarray, exact: bool) -> str:
    """Pixels uint8 [height, width, 3] as a PNG or, if they need not be exact, as a JPEG."""
    buffer = io.BytesIO()
    if exact:
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if exact else 'jpeg'};base64,{text}"
