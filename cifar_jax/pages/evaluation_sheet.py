"""One picture that holds all images of the page of an evaluation, side by side."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

# Pixels of an image's side in the page. Larger images are shrunk, smaller ones get larger pixels.
SIDE = 64


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Images side by side in one picture.

    Attributes:
      uri: the picture as a data URI.
      columns: how many images are in a row.
      pitch: pixels from one image to the next.
      side: pixels of an image's side.
    """

    uri: str
    columns: int
    pitch: int
    side: int


def picture_sheet(images: np.ndarray, places: Sequence[int]) -> Sheet:
    """Puts images side by side, row by row.

    Args:
      images: uint8 [N, size, size, 3].
      places: the images to take, as places in [0, N).
    """
    side = min(images.shape[1], SIDE)
    # Small images are kept to the bit, as a PNG. For larger ones that takes four times the bytes of a JPEG.
    # A JPEG works on blocks of 8 pixels: with a whole number of blocks each, no image runs into the next.
    exact = side <= 32
    pitch = side if exact else -(-side // 8) * 8
    columns = max(1, int(np.ceil(np.sqrt(len(places)))))
    rows = max(1, -(-len(places) // columns))
    sheet = np.zeros((rows * pitch, columns * pitch, 3), np.uint8)
    for i, place in enumerate(places):
        top, left = i // columns * pitch, i % columns * pitch
        margin = (0, pitch - side)
        image = np.pad(_shrunk(images[place], side), (margin, margin, (0, 0)), mode="edge")
        sheet[top : top + pitch, left : left + pitch] = image
    return Sheet(_data_uri(sheet, exact), columns, pitch, side)


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[0] <= side:
        return image
    picture = Image.fromarray(image)
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3))


def _data_uri(pixels: np.ndarray, exact: bool) -> str:
    buffer = io.BytesIO()
    if exact:
        Image.fromarray(pixels).save(buffer, "PNG")
    else:
        Image.fromarray(pixels).save(buffer, "JPEG", quality=90, subsampling=0)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'png' if exact else 'jpeg'};base64,{text}"
