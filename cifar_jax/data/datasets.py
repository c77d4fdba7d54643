"""A data set as arrays: train, test and (if asked for) validation splits, names and statistics.

The same config and seed give the same arrays on every machine. All of a data set fits in memory
(CIFAR: 180 MB), so it is decoded once, kept in a cache on disk and loaded whole.
"""

import dataclasses

import numpy as np

from cifar_jax.data import cache, sources
from cifar_jax.errors import UserError
from cifar_jax.system import files

# What keeps the draws of different purposes apart under one seed.
_VALIDATION, _SUBSET = 0, 1


@dataclasses.dataclass(frozen=True)
class Split:
    """Images uint8 [N, height, width, 3] (RGB, C-contiguous) and their labels int32 [N].

    Those that `load` gives are `aligned`.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """`mean` and `std` are per channel (red, green, blue), for pixels scaled to [0, 1].

    They are taken over all pixels of the whole training set, also where only a part of it is
    trained on. For CIFAR-10 they are 0.4914, 0.4822, 0.4465 and 0.2470, 0.2435, 0.2616. The
    deviations 0.2023, 0.1994, 0.2010 that circulate are the mean of each image's own deviation.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    class_names: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    # Height and width of the images where they are smaller than config.image_size, to be enlarged on
    # the device; 0: they are of that size.
    enlarged_from: int = 0


def load(config, seed: int) -> Dataset:
    """Load what `config` (the `dataset` part of the config, see configs/default.py) describes.

    `seed` decides which examples make up the validation split and the part to train on. Raises
    UserError, with one line that says what to do, for all that can be wrong with the data.
    """
    source = sources.locate(config)
    images = cache.read_through(
        files.cache_folder(config.cache_dir),
        config.name,
        source,
        [config.labels, sources.decoded_size(config)],
    )
    size = images.train_images.shape[1]
    validation, train = _choose(images.train_labels, config, seed)
    return Dataset(
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
    )


def balanced_choice(labels: np.ndarray, count: int, seed: int, purpose: int) -> np.ndarray:
    """Places of `count` examples, ascending, as equally many of each class as there are.

    Drawn by `seed` and `purpose` alone, and nested: for one seed, a larger count (over classes
    that are not exhausted) contains a smaller one.
    """
    # Raw bits, since NumPy promises the same ones for ever, unlike its permutations.
    bits = np.random.PCG64(np.random.SeedSequence([seed, purpose]))
    order = np.argsort(bits.random_raw(len(labels)), kind="stable")
    # The rank of an example within its class: taking by rank takes from all classes in turn.
    by_class = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels[by_class])
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Which classes give one more than others, when the count does not divide, is drawn as well.
    turns = bits.random_raw(len(sizes))[labels[by_class]]
    return np.sort(by_class[np.lexsort((turns, ranks))][:count])


def _choose(labels: np.ndarray, config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the validation and of the training examples; no place is in both.

    The validation split is drawn first: it stays the same whatever `train_examples` is.
    """
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
    if config.train_examples == 0:
        return validation, rest
    return validation, rest[balanced_choice(labels[rest], config.train_examples, seed, _SUBSET)]


def _take(images: np.ndarray, labels: np.ndarray, places: np.ndarray) -> Split:
    if len(places) < len(labels):
        images, labels = images[places], labels[places]
    return Split(aligned(images), aligned(labels))


def aligned(array: np.ndarray) -> np.ndarray:
    """The array at a multiple of 64 bytes, where XLA's CPU devices use it in place, without a copy each."""
    memory = np.empty(array.nbytes + 63, np.uint8)
    start = -memory.ctypes.data % 64
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
