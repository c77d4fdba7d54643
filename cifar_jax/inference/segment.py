"""Segmentation of pictures of any size: the class of each pixel, written as masks and overlays."""

import os

import jax.numpy as jnp
import numpy as np
from PIL import Image

from cifar_jax.data import masks, pictures
from cifar_jax.errors import UserError
from cifar_jax.inference import predict
from cifar_jax.inference.weights import Weights
from cifar_jax.reporting import plots
from cifar_jax.storage import workdir
from cifar_jax.system import files

# The folder of masks and overlays, where none is given.
FOLDER = "predictions"
# The longer side of a picture as the network gets it, at most, as a multiple of its image size.
LONGEST = 4
# Pixels of the longer side of a picture in an overlay.
_SHOWN = 640


def segment(weights: Weights, picture: Image.Image) -> np.ndarray:
    """The class of each pixel: uint8 [height, width].

    The network gets the whole picture, its shorter side resized to the size of the training images. (If the
    longer side then had more than `LONGEST` times as many pixels, it is resized to that instead.) The
    probabilities are resized to the size of the picture, and the most probable class is taken.

    Args:
      weights: a segmentation network.
      picture: in mode "RGB".
    """
    side = predict.picture_size(weights)
    scale = min(side / min(picture.size), LONGEST * side / max(picture.size))
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    seen = picture.resize(size, Image.Resampling.BICUBIC) if size != picture.size else picture
    forward = predict.compiled(weights, enlarged=False)
    (probabilities,) = forward(weights.variables, jnp.asarray(np.asarray(seen)[None]))
    best, result = None, np.zeros(picture.size[::-1], np.uint8)
    for number, values in enumerate(np.moveaxis(np.asarray(probabilities), -1, 0)):
        # One class at a time: all of them at the size of a photograph would fill the memory.
        resized = Image.fromarray(np.ascontiguousarray(values)).resize(
            picture.size, Image.Resampling.BILINEAR
        )
        values = np.asarray(resized)
        if best is None:
            best = values.copy()
            continue
        result[values > best] = number
        np.maximum(best, values, out=best)
    return result


def colours(weights: Weights) -> tuple[tuple[int, int, int], ...]:
    """The colour of each class."""
    found = weights.dataset.get("colours")
    return tuple(map(tuple, found)) if found else masks.default_colours(len(weights.class_names))


def check_folder(path: str) -> None:
    """Raises UserError if it is clear already that masks cannot be written into this folder."""
    if os.path.splitext(path)[1]:
        raise UserError(
            f"--output={files.shown(path)}: masks and overlays are written into a folder: give a name "
            "without a suffix"
        )
    if os.path.exists(path) and not os.path.isdir(path):
        raise UserError(f"--output={files.shown(path)} is a file, not a folder")


def segment_files(weights: Weights, paths: list[str], folder: str) -> tuple[list[dict], list[str]]:
    """Segments picture files, and the pictures in folders.

    Writes NAME_mask.png and NAME_overlay.png of each picture into the folder: the mask has the size of the
    picture, with a palette; the overlay shows the picture, the mask over it, and a legend.

    Returns:
      (answers, errors): {"image": path, "classes": [{"name", "share"}, ...], "mask": path, "overlay":
      path} for each picture that could be read, and a line for each other one. The classes are those
      that occur, the largest share of pixels first.
    """
    found, errors = predict.find_files(paths)
    names = _names(found)
    given = {os.path.realpath(path) for path in found}
    answers = []
    for path, name in zip(found, names, strict=True):
        written = [os.path.join(folder, f"{name}_{what}.png") for what in ("mask", "overlay")]
        for output in written:
            if os.path.realpath(output) in given:
                raise UserError(
                    f"--output: {files.shown(output)} is one of the pictures: choose another folder"
                )
        try:
            picture = pictures.open_picture(path)
        except UserError as error:
            errors.append(str(error))
            continue
        mask = segment(weights, picture)
        counts = np.bincount(mask.ravel(), minlength=len(weights.class_names))
        order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
        shares = [(i, counts[i] / mask.size) for i in order]
        workdir.make_folder(folder)
        files.write_bytes(written[0], pictures.to_png(masks.to_picture(mask, colours(weights))))
        _draw(written[1], picture, mask, weights, shares)
        classes = [{"name": weights.class_names[i], "share": float(share)} for i, share in shares]
        answers.append(
            {"image": path, "classes": classes, "mask": written[0], "overlay": written[1]}
        )
    return answers, errors


def _names(paths: list[str]) -> list[str]:
    """A name of its own for each picture: that of its file, with a number if several have it."""
    names, taken = [], set()
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        name = next(n for n in (stem, *(f"{stem}-{i}" for i in range(2, 10**6))) if n not in taken)
        taken.add(name)
        names.append(name)
    return names


def _draw(path: str, picture: Image.Image, mask: np.ndarray, weights: Weights, shares) -> None:
    """Writes the overlay of one picture as a PNG."""
    scale = _SHOWN / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    shown = np.asarray(
        picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    )
    resized = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    palette = colours(weights)
    legend = [(f"{weights.class_names[i]} {share:.1%}", palette[i]) for i, share in shares]
    both = np.stack([shown, masks.overlay(shown, resized, palette)])
    plots.plot_images(path, both, ("as given", "classes"), legend)


def to_text(answers: list[dict]) -> str:
    """Each picture with its classes and their shares, and the files, as lines for people."""
    lines = []
    for answer in answers:
        classes = [f"{c['name']} {c['share']:.1%}" for c in answer["classes"]]
        lines.append(f"{files.shown(answer['image'])}: {', '.join(classes)}")
        lines += [f"  {files.shown(answer[what])}" for what in ("mask", "overlay")]
    return "\n".join(lines)
