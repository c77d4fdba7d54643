"""A trained network in Python: what it predicts for pictures, and how accurate it is on a data set."""

import dataclasses
import os

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cifar_jax import models
from cifar_jax.api import given
from cifar_jax.api.recipes import recipe as load_recipe
from cifar_jax.data import datasets, masks, pictures
from cifar_jax.errors import UserError
from cifar_jax.inference import (
    Result,
    SegmentationResult,
    Weights,
    evaluate,
    find_weights,
    predict,
    segment,
)
from cifar_jax.runtime import compile_cache, settings
from configs import default


def load(
    weights: str | os.PathLike = "",
    *,
    workdir: str | os.PathLike = "",
    recipe: str | os.PathLike | ConfigDict | None = None,
) -> "Network":
    """Loads a trained network.

    Args:
      weights: the name of a bundled network, the folder of a run (its best weights), a weights file, or
        "best" or "latest" of `workdir`. Without `weights`, `workdir` and a recipe that has `init_from`: the
        bundled resnet20_v2.
      workdir: the folder of a run.
      recipe: the recipe that the weights must be of, a config or as `cifar_jax.recipe` takes it. Weights of
        another library need it: its data set gives them class names, mean and deviation.

    Raises:
      UserError: there are no such weights, they are damaged, or they are of another recipe.
    """
    if recipe is not None and not isinstance(recipe, ConfigDict):
        recipe = load_recipe(recipe)
    weights = given.path(weights, "weights", may_be_empty=True)
    workdir = given.path(workdir, "workdir", may_be_empty=True)
    with settings.fixed():
        return Network(find_weights(weights, workdir, default.get_config(), recipe))


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network. `weights` holds its variables and everything that is needed to use them.

    A picture, below, is the path of a file, a PIL image, or a uint8 array of NumPy or JAX, [height, width, 3]
    (RGB) or [height, width] (grey). Several pictures are a list of them, or an array [N, height, width, 3].
    """

    weights: Weights

    def __repr__(self) -> str:
        model, data = self.weights.model["name"], self.weights.dataset["name"]
        return f"Network({model}, {len(self.class_names)} classes of {data})"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the C classes, in the order of `probabilities`."""
        return self.weights.class_names

    @property
    def picture_size(self) -> int:
        """Height and width in pixels to which pictures are resized."""
        return predict.picture_size(self.weights)

    def probabilities(self, images, fit: str = pictures.DEFAULT_FIT) -> np.ndarray:
        """The probability of each class, float32: [C] for one picture, [N, C] for several.

        Args:
          images: one picture or several.
          fit: how pictures that are not square are made square, a key of `pictures.FITS`.

        Raises:
          UserError: a picture cannot be read, or is no picture.
        """
        if models.segments(self.weights.model):
            raise UserError("this network gives a class to each pixel: call segment")
        opened, is_one = _opened(images)
        views = [pictures.fitted(picture, self.picture_size, fit) for picture in opened]
        with settings.fixed():
            rows = predict.probabilities_of_views(self.weights, views)
        return rows[0] if is_one else rows

    def predict(self, images, top: int = 5, fit: str = pictures.DEFAULT_FIT) -> list:
        """The most probable classes, as `probabilities`.

        Returns:
          [(class name, probability), ...] of one picture, highest first; of several, a list of such lists.

        Raises:
          UserError: as `probabilities`, or `top` is no whole number of at least 1.
        """
        given.check_count(top, "top")
        rows = self.probabilities(images, fit)
        if rows.ndim == 1:
            return predict.top_classes(rows, self.class_names, top)
        return [predict.top_classes(row, self.class_names, top) for row in rows]

    def segment(self, images) -> np.ndarray | list[np.ndarray]:
        """The class of each pixel, uint8 [height, width]: of one picture, or a list for several.

        Raises:
          UserError: a picture cannot be read, or the network is one of classification.
        """
        if not models.segments(self.weights.model):
            raise UserError("this network gives one class to a picture: call predict")
        opened, is_one = _opened(images)
        with settings.fixed():
            found = [segment.segment(self.weights, picture) for picture in opened]
        return found[0] if is_one else found

    def evaluate(
        self, data: datasets.Dataset | datasets.Split, config: ConfigDict | None = None
    ) -> Result | SegmentationResult:
        """Evaluates the network, on all devices. Every image counts once.

        Args:
          data: a data set, of which the test split is taken, or a split, of NumPy or JAX arrays: images
            uint8 [N, side, side, 3], labels integers [N], or [N, side, side] for segmentation.
          config: has `eval_batch_size` and `test_time_augmentation`; None: the defaults.

        Returns:
          The result: `accuracy`, `loss`, `accuracy_per_class`, `confusion`, `probabilities`; of a
          segmentation network `mean_iou`, `iou_per_class`, `accuracy`, `loss`, `confusion`, `predictions`.

        Raises:
          UserError: the arrays have another form, or other classes or another image size than the network.
        """
        if not isinstance(data, datasets.Dataset | datasets.Split):
            raise UserError(
                f"evaluate takes a data set, as cifar_jax.dataset returns it, or a split of it, not {data!r}"
            )
        if config is not None:
            given.check_config(config)
        split = data.test if isinstance(data, datasets.Dataset) else data
        _check_arrays(split.images, split.labels)
        names = getattr(data, "class_names", self.class_names)
        if names != self.class_names:
            theirs, ours = (", ".join(x[:3]) for x in (self.class_names, names))
            raise UserError(
                f"the weights were trained on other classes ({theirs}, ...) than the data set {data.name} "
                f"has ({ours}, ...): give a recipe of their data set with --config"
            )
        if (split.labels.ndim == 3) != models.segments(self.weights.model):
            raise UserError(
                "the network and the data set do not fit: one has a class for each pixel, the other for each "
                "image"
            )
        _check_labels(split, len(self.class_names))
        side = split.images.shape[1]
        if side not in (self.picture_size, self.weights.image_size):
            raise UserError(
                f"the images are {side}x{side}, but those of the network are "
                f"{self.picture_size}x{self.picture_size}: load the data set with "
                f"image_size={self.weights.image_size}"
            )
        with settings.fixed(), compile_cache.enabled():
            return evaluate.evaluate_weights(self.weights, split, config or default.get_config())


def _check_arrays(images, labels) -> None:
    """Raises UserError unless these are images and labels, or masks, as `Network.evaluate` takes them."""
    if all(isinstance(array, np.ndarray | jax.Array) for array in (images, labels)):
        side = images.shape[1:2]
        are_images = images.dtype == np.uint8 and images.shape[1:] == (*side, *side, 3)
        are_integers = labels.dtype.kind in "iu" and labels.dtype.isnative
        if are_images and are_integers and labels.ndim and labels.shape[1:] in ((), side + side):
            return
    arrived = [
        f"{name} {array.dtype} {list(array.shape)}"
        if hasattr(array, "dtype")
        else f"{name} that are a {type(array).__name__}"
        for name, array in (("images", images), ("labels", labels))
    ]
    raise UserError(
        "evaluate takes images uint8 [N, side, side, 3] with values from 0 to 255, and labels that are "
        "integers [N], or masks [N, side, side], as arrays of NumPy or JAX, not "
        + " and ".join(arrived)
    )


def _check_labels(split: datasets.Split, classes: int) -> None:
    """Raises UserError unless each image has a label, or a mask, of these classes."""
    if not len(split.images):
        raise UserError("there are no images to evaluate on")
    if len(split.labels) != len(split.images):
        raise UserError(f"there are {len(split.images)} images, but {len(split.labels)} labels")
    labels = masks.counted(np.asarray(split.labels))
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.size:
        raise UserError(f"a label is {wrong[0]}, but the network's classes are 0 to {classes - 1}")


def _opened(images) -> tuple[list[Image.Image], bool]:
    """(the pictures, each in mode "RGB"; whether it was one and not several)."""
    images = _in_numpy(images)
    if (isinstance(images, np.ndarray) and images.ndim == 4) or isinstance(images, list | tuple):
        if not len(images):
            raise UserError("there are no pictures: the list is empty")
        return [_open(image) for image in images], False
    return [_open(images)], True


def _in_numpy(image):
    """An array of JAX as one of NumPy; anything else as it is, also what `jax.jit` traces."""
    is_array = isinstance(image, jax.Array) and not isinstance(image, jax.core.Tracer)
    return np.asarray(image) if is_array else image


def _open(image) -> Image.Image:
    image = _in_numpy(image)
    if isinstance(image, str | os.PathLike):
        return pictures.open_picture(given.path(image, "a picture"))
    if isinstance(image, Image.Image):
        return pictures.from_pil(image)
    if not isinstance(image, np.ndarray):
        raise UserError(
            f"a picture is a path, a PIL image or a uint8 array, not {type(image).__name__}"
        )
    is_picture = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    if image.dtype != np.uint8 or not is_picture or not image.size:
        raise UserError(
            "an array of a picture is uint8 [height, width, 3] with values from 0 to 255, not "
            f"{image.dtype} {list(image.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
