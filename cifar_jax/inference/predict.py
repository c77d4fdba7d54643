"""Prediction: from pictures to probabilities. Needs weights only, no data set."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax.data import pictures
from cifar_jax.errors import UserError
from cifar_jax.inference.weights import Weights
from cifar_jax.models import create_model
from cifar_jax.steps import augment
from cifar_jax.system import files

# Images per forward pass. The last batch is padded, so that everything compiles once.
BATCH = 32


def probabilities(weights: Weights, images: np.ndarray) -> np.ndarray:
    """The probability of each class: images uint8 [N, S, S, 3] -> float32 [N, C].

    S is `picture_size(weights)`, or the network's image size.
    """
    forward = compiled(weights)
    batch = min(BATCH, len(images))
    rows = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        filled = np.concatenate([part, np.zeros((batch - len(part), *part.shape[1:]), np.uint8)])
        rows.append(np.asarray(forward(weights.variables, jnp.asarray(filled)))[: len(part)])
    return np.concatenate(rows)


def probabilities_of_views(weights: Weights, views: list[np.ndarray]) -> np.ndarray:
    """The probability of each class for each picture, by its views as `pictures.fitted` returns them.

    Of several views, it is the geometric mean of their probabilities, scaled to sum 1, which is the softmax
    of their mean log-probabilities.

    Args:
      weights: the network.
      views: N arrays, uint8 [views, S, S, 3].

    Returns:
      float32 [N, C].
    """
    rows = probabilities(weights, np.concatenate(views))
    ends = np.cumsum([len(each) for each in views])
    return np.stack([_mean(part) for part in np.split(rows, ends[:-1])])


def _mean(rows: np.ndarray) -> np.ndarray:
    """The geometric mean of probabilities [views, C], scaled to sum 1: [C]."""
    if len(rows) == 1:
        return rows[0]
    logs = np.log(np.maximum(rows.astype(np.float64), np.finfo(np.float32).tiny)).mean(axis=0)
    powers = np.exp(logs - logs.max())
    return (powers / powers.sum()).astype(np.float32)


def logits(weights: Weights, enlarged: bool = True) -> Callable:
    """The function (variables, images uint8 [N, height, width, 3]) -> logits float32 [N, ..., C].

    `enlarged` tells whether smaller images are enlarged to the network's image size first.
    """
    model = create_model(num_classes=len(weights.class_names), **weights.model)
    return _logits(model, weights.image_size if enlarged else None, weights.mean, weights.std)


def _logits(model, image_size: int | None, mean, std) -> Callable:
    def forward(variables, pixels):
        inputs = augment.network_input(pixels, image_size, mean, std)
        return model.apply(variables, inputs, train=False)

    return forward


def compiled(weights: Weights, enlarged: bool = True) -> Callable:
    """`logits` as probabilities, compiled once for all weights of the same network."""
    model = create_model(num_classes=len(weights.class_names), **weights.model)
    size = weights.image_size if enlarged else None
    return _compiled(model, size, tuple(weights.mean), tuple(weights.std))


@functools.lru_cache(maxsize=16)
def _compiled(model, image_size: int | None, mean, std) -> Callable:
    network = _logits(model, image_size, mean, std)
    return jax.jit(lambda variables, pixels: jax.nn.softmax(network(variables, pixels)))


def picture_size(weights: Weights) -> int:
    """Height and width in pixels that pictures are decoded to: the size of the stored training images.

    A network that was trained on enlarged 32x32 images has never seen finer detail.
    """
    return weights.dataset.get("enlarged_from", weights.image_size)


def top_classes(row: np.ndarray, class_names, count: int = 5) -> list[tuple[str, float]]:
    """The most probable classes of one row of probabilities [C], highest first."""
    order = np.argsort(-row, kind="stable")[:count]
    return [(class_names[i], float(row[i])) for i in order]


def predict_files(
    weights: Weights, paths: list[str], fit: str = pictures.DEFAULT_FIT
) -> tuple[list[dict], list[str]]:
    """Classifies picture files, and the pictures in folders, made square as `fit` says.

    Returns:
      (answers, errors): {"image": path, "classes": [{"name", "probability"}, ...]} for each picture
      that could be read, and a line for each other one.
    """
    found, errors = find_files(paths)
    read, views = [], []
    for file in found:
        try:
            picture = pictures.open_picture(file)
            views.append(pictures.fitted(picture, picture_size(weights), fit))
            read.append(file)
        except UserError as error:
            errors.append(str(error))
    if not read:
        return [], errors
    rows = probabilities_of_views(weights, views)
    answers = []
    for path, row in zip(read, rows, strict=True):
        top = top_classes(row, weights.class_names)
        classes = [{"name": name, "probability": probability} for name, probability in top]
        answers.append({"image": path, "classes": classes})
    return answers, errors


def find_files(paths: list[str]) -> tuple[list[str], list[str]]:
    """(files, and the pictures in folders; a line for each folder without any)."""
    found, errors = [], []
    for path in paths:
        try:
            found += pictures.find_pictures([path])
        except UserError as error:
            errors.append(str(error))
    return found, errors


def to_text(answers: list[dict]) -> str:
    """Each picture with its five most probable classes, as lines for people."""
    lines = []
    for answer in answers:
        classes = [f"{c['name']} {c['probability']:.1%}" for c in answer["classes"]]
        lines.append(f"{files.shown(answer['image'])}: {', '.join(classes)}")
    return "\n".join(lines)
