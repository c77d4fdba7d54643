"""A data set as arrays: training, test and optional validation split, class names and statistics.

The same config and seed give the same arrays on every machine. A data set fits in memory (CIFAR: 180 MB), so
it is decoded once, cached on disk, and loaded whole.
"""

import dataclasses

import numpy as np

from cifar_jax.data import locate, masks
from cifar_jax.errors import UserError

# Give each purpose its own random numbers under one seed.
_VALIDATION, _SUBSET = 0, 1


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, height, width, 3] (RGB, C-contiguous) and their labels int32 [N].

    For segmentation, labels are masks uint8 [N, height, width], as in `masks`.
    `load` returns `aligned` arrays.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    `mean` and `std` are per channel (red, green, blue), for pixels scaled to [0, 1]. They are computed
    over all pixels of the whole training set, even if a run trains on a part of it. For CIFAR-10 they
    are 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616. (The widely used deviations 0.2023, 0.1994,
    0.2010 are averages of each image's own deviation.)
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Height and width of images that are smaller than config.image_size and enlarged on the device;
    # 0: the images have that size.
    enlarged_from: int = 0
    # (red, green, blue) of each class of a segmentation set; () for classification.
    colours: tuple[tuple[int, int, int], ...] = ()


def load(config, seed: int) -> Dataset:
    """Loads the data set of a config.

    Args:
      config: config.dataset.
      seed: draws the validation split and, with `train_examples`, the part to train on.

    Raises:
      UserError: anything is wrong with the data; the message says what to do.
    """
    images = locate.cached(config, locate.locate(config))
    size = images.train_images.shape[1]
    if images.test_labels.ndim == 3 and len(images.test_labels) * config.image_size**2 >= 2**31:
        raise UserError(
            f"the test pictures of {config.name} have more pixels than can be counted "
            f"({2**31 - 1:,}): set a smaller config.dataset.image_size."
        )
    validation, train = _choose(images.train_labels, config, seed)
    dataset = Dataset(
        name=config.name,
        train=_take(images.train_images, images.train_labels, train),
        test=Split(aligned(images.test_images), aligned(images.test_labels)),
        validation=(
            _take(images.train_images, images.train_labels, validation) if len(validation) else None
        ),
        class_names=images.class_names,
        mean=images.mean if config.mean is None else tuple(float(value) for value in config.mean),
        std=images.std if config.std is None else tuple(float(value) for value in config.std),
        enlarged_from=size if size < config.image_size else 0,
        colours=images.colours,
    )
    _check_draw(dataset)
    return dataset


def describe(dataset: Dataset) -> dict:
    """The facts about the data that give the weights their meaning, as JSON values."""
    description = {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "mean": [float(x) for x in dataset.mean],
        "std": [float(x) for x in dataset.std],
        "train_examples": len(dataset.train.images),
    }
    if dataset.enlarged_from:
        description["enlarged_from"] = dataset.enlarged_from
    if dataset.colours:
        description["colours"] = [list(colour) for colour in dataset.colours]
    return description


def balanced_choice(labels: np.ndarray, count: int, seed: int, purpose: int) -> np.ndarray:
    """Ascending places of `count` examples, as equal in number over the classes as possible.

    The draw depends on `seed` and `purpose` only, and is nested: with one seed, a larger count contains
    a smaller one (as long as no class is exhausted).
    """
    # NumPy guarantees raw bits across its versions, but not permutations.
    bits = np.random.PCG64(np.random.SeedSequence([seed, purpose]))
    order = np.argsort(bits.random_raw(len(labels)), kind="stable")
    # Taking examples by their rank within a class takes from all classes in turn.
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels[by_class])
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # If the count is not divisible, chance decides which classes give one more.
    turns = bits.random_raw(len(sizes))[labels[by_class]]
    return np.sort(by_class[np.lexsort((turns, ranks))][:count])


def _choose(labels: np.ndarray, config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Disjoint places of (validation, training) examples.

    The validation split is drawn first, so it does not depend on `train_examples`.
    """
    if labels.ndim > 1:
        labels = np.zeros(len(labels), np.int32)  # masks: no classes to balance
    wanted = config.train_examples + config.validation_examples
    available = len(labels)
    if wanted > available or config.validation_examples >= available:
        raise UserError(
            f"config.dataset.train_examples={config.train_examples} and validation_examples="
            f"{config.validation_examples} ask for more than the {available} training examples of "
            f"{config.name}."
        )
    validation = balanced_choice(labels, config.validation_examples, seed, _VALIDATION)
    rest = np.delete(np.arange(available), validation)
    gone = np.setdiff1d(labels, labels[rest])
    if gone.size:
        raise UserError(
            f"config.dataset.validation_examples={config.validation_examples} are drawn evenly from the "
            f"classes, which leaves none of class {gone[0]} to train on: set fewer"
        )
    if config.train_examples == 0:
        return validation, rest
    return validation, rest[balanced_choice(labels[rest], config.train_examples, seed, _SUBSET)]


def _check_draw(dataset: Dataset) -> None:
    """Raises UserError if no pixel of the masks that were drawn has a class."""
    for name, split in (("validation", dataset.validation), ("train", dataset.train)):
        if split and split.labels.ndim > 1 and split.labels.min() == masks.VOID:
            raise UserError(
                f"no pixel of the pictures that were drawn for the {name} split has a class: change "
                "config.dataset.validation_examples, train_examples or config.seed"
            )


def _take(images: np.ndarray, labels: np.ndarray, places: np.ndarray) -> Split:
    if len(places) < len(labels):
        images, labels = images[places], labels[places]
    return Split(aligned(images), aligned(labels))


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy aligned to 64 bytes, which all of XLA's CPU devices can use without copying it again."""
    memory = np.empty(array.nbytes + 63, np.uint8)
    start = -memory.ctypes.data % 64
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
