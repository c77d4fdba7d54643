"""Hostile and unusual picture files, each with a part of the expected message, or None if it can be read."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)
GREY = PICTURE.convert("L")


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, pixels=b"\0", chunks=(), depth=8, colour=2) -> bytes:
    """A handmade PNG, which may be invalid. `chunks` are additional chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def bad_crc() -> bytes:
    data = bytearray(encoded(PICTURE, "PNG"))
    data[data.index(b"IDAT") + 10] ^= 0x55
    return bytes(data)


def text_bomb() -> bytes:
    """200 MB of text in a compressed chunk of 200 KB."""
    return png(4, 4, b"\0" * 52, [(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 2 * 10**8, 1))])


def huge_text() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "long " * 100_000)
    return encoded(PICTURE, "PNG", pnginfo=info)


def frames(kind: str, count: int) -> bytes:
    several = [Image.new("RGB", (8, 8), (i % 256, 0, 0)) for i in range(count)]
    return encoded(several[0], kind, save_all=True, append_images=several[1:])


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[274] = orientation
    return encoded(PICTURE, "JPEG", exif=tags)


def palette_with_transparency() -> bytes:
    return encoded(PICTURE.quantize(8), "PNG", transparency=0)


def sixteen_bit() -> bytes:
    return encoded(Image.frombytes("I;16", (SIDE, SIDE), bytes(2 * SIDE * SIDE)), "PNG")


def floating_tiff(value: float) -> bytes:
    return encoded(Image.fromarray(np.full((SIDE, SIDE), value, np.float32)), "TIFF")


def tiff_loop() -> bytes:
    """A TIFF whose directory points to itself as the next one."""
    data = bytearray(encoded(PICTURE, "TIFF"))
    (start,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[start : start + 2])
    after = start + 2 + 12 * entries
    data[after : after + 4] = struct.pack("<I", start)
    return bytes(data)


def gif_of_no_size() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b";"


def bmp_of_no_size() -> bytes:
    data = bytearray(encoded(PICTURE, "BMP"))
    data[18:26] = struct.pack("<ii", 0, 0)
    return bytes(data)


# Name -> (content, a part of the message or None if it can be read).
FILES: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "empty.png": (lambda: b"", "is empty (0 bytes)"),
    "one_byte.jpg": (lambda: b"\xff", "is not a picture"),
    "zeros.png": (lambda: bytes(10_000), "is not a picture"),
    "text.png": (lambda: b"not a picture\n" * 50, "is not a picture"),
    "svg.png": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is not a picture"),
    "document.pdf": (lambda: b"%PDF-1.7\n%%EOF\n", "is not a picture"),
    "program.eps": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is not a picture",
    ),
    "page.html.jpg": (lambda: b"<!DOCTYPE html><title>404</title>", "is not a picture"),
    "phone.heic.jpg": (
        lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
        "is not a picture",
    ),
    "video.mp4.png": (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0" + bytes(99), "is not a picture"),
    "cut.png": (lambda: encoded(PICTURE, "PNG")[:900], "truncated"),
    "cut.jpg": (lambda: encoded(PICTURE, "JPEG")[:700], "truncated"),
    "cut.webp": (lambda: encoded(PICTURE, "WEBP", lossless=True)[:300], "cut.webp"),
    "cut.gif": (lambda: encoded(PICTURE, "GIF")[:500], "cut.gif"),
    "header_only.png": (lambda: b"\x89PNG\r\n\x1a\n", "header_only.png"),
    "bad_crc.png": (bad_crc, "bad_crc.png"),
    "no_pixels.png": (lambda: png(SIDE, SIDE, b""), "truncated"),
    "zero_by_zero.png": (lambda: png(0, 0), "zero_by_zero.png"),
    "zero_by_zero.gif": (gif_of_no_size, "zero_by_zero.gif"),
    "zero_by_zero.bmp": (bmp_of_no_size, "zero_by_zero.bmp"),
    "20000_by_20000.png": (lambda: png(20_000, 20_000), "too many pixels"),
    "bomb_60000.png": (lambda: png(60_000, 60_000), "too many pixels"),
    "million_wide.png": (lambda: png(2**31 - 1, 1), "too many pixels"),
    "text_bomb.png": (text_bomb, "text_bomb.png"),
    "float_range.tiff": (lambda: floating_tiff(300.0), "its grey values are not between 0 and 1"),
    "float_nan.tiff": (lambda: floating_tiff(float("nan")), "its grey values are not"),
    "one_pixel.png": (lambda: encoded(PICTURE.resize((1, 1)), "PNG"), None),
    "one_by_5000.png": (lambda: encoded(PICTURE.resize((1, 5000)), "PNG"), None),
    "5000_by_one.jpg": (lambda: encoded(PICTURE.resize((5000, 1)), "JPEG"), None),
    "cmyk.jpg": (lambda: encoded(PICTURE.convert("CMYK"), "JPEG"), None),
    "ycbcr.tiff": (lambda: encoded(PICTURE.convert("YCbCr"), "TIFF"), None),
    "lab.tiff": (lambda: encoded(Image.new("LAB", (8, 8)), "TIFF"), None),
    "sixteen_bit.png": (sixteen_bit, None),
    "one_bit.png": (lambda: encoded(PICTURE.convert("1"), "PNG"), None),
    "grey_alpha.png": (lambda: encoded(GREY.convert("LA"), "PNG"), None),
    "palette_transparent.png": (palette_with_transparency, None),
    "float.tiff": (lambda: floating_tiff(0.5), None),
    "animated.gif": (lambda: frames("GIF", 3), None),
    "animated.webp": (lambda: frames("WEBP", 3), None),
    "animated_apng.png": (lambda: frames("PNG", 3), None),
    "500_frames.tiff": (lambda: frames("TIFF", 500), None),
    "directory_loop.tiff": (tiff_loop, None),
    **{f"exif_{i}.jpg": (lambda i=i: exif(i), None) for i in range(1, 9)},
    "exif_garbage.jpg": (lambda: encoded(PICTURE, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff"), None),
    "exif_99.jpg": (lambda: exif(99), None),
    "profile_garbage.png": (lambda: encoded(PICTURE, "PNG", icc_profile=b"garbage"), None),
    "huge_text.png": (huge_text, None),
    "garbage_after.jpg": (lambda: encoded(PICTURE, "JPEG") + PIXELS.tobytes(), None),
    "jpeg_called.png": (lambda: encoded(PICTURE, "JPEG"), None),
    "two\nlines.png": (lambda: b"x", "'"),
    "ünïcode \U0001f438.png": (lambda: encoded(PICTURE, "PNG"), None),
    "undecodable_\udcff.png": (lambda: encoded(PICTURE, "PNG"), None),
}


def make(folder: Path) -> dict[str, tuple[Path, str | None]]:
    """Writes all files. Returns {name: (path, a part of the message or None)}, odd paths included."""
    folder.mkdir(parents=True)
    found = {}
    for name, (content, says) in FILES.items():
        (folder / name).write_bytes(content())
        found[name] = (folder / name, says)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "fifo.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "link.png").symlink_to("one_pixel.png")
    return found | {
        "folder.png": (folder / "folder.png", "no pictures in the folder"),
        "fifo.png": (folder / "fifo.png", "is a pipe"),
        "loop.png": (folder / "loop.png", "symbolic links"),
        "dangling.png": (folder / "dangling.png", "No such file"),
        "link.png": (folder / "link.png", None),
        "missing.png": (folder / "missing.png", "No such file"),
        "inside_a_file": (folder / "one_pixel.png" / "x.png", "Not a directory"),
        "/dev/zero": (Path("/dev/zero"), "device"),
        "/proc/self/mem": (Path("/proc/self/mem"), "/proc/self/mem"),
        "long name": (folder / ("long" * 100 + ".png"), "too long"),
    }
