"""The 1,797 handwritten digits that scikit-learn ships: data for a machine with no network.

8x8 pixels and 16 shades of grey, upscaled; from the test part of "Optical Recognition of
Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998).
"""

from importlib import metadata

import numpy as np

from cifar_jax.data.source import Images, Source, resize_all

# The split is part of the data set, not of a run: it depends on no seed of the user's.
_TEST_PER_CLASS = 36
_SPLIT_SEED = 0


def digits_source(image_size: int) -> Source:
    """1,437 digits to train on and 360 (36 of each) to test on, always the same ones."""

    def read() -> Images:
        # Here, since it takes a second and is not needed again once the cache is written.
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = digits.target
        grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        images = resize_all(grey, image_size, "resizing digits")
        # Raw bits, since NumPy promises the same ones for ever, unlike its permutations.
        order = np.argsort(np.random.PCG64(_SPLIT_SEED).random_raw(len(labels)), kind="stable")
        by_class = [order[labels[order] == digit] for digit in range(10)]
        test = np.sort(np.concatenate([places[:_TEST_PER_CLASS] for places in by_class]))
        train = np.sort(np.concatenate([places[_TEST_PER_CLASS:] for places in by_class]))
        names = tuple(str(digit) for digit in range(10))
        return Images(images[train], labels[train], images[test], labels[test], names)

    return Source("scikit-learn's digits", [metadata.version("scikit-learn")], read)
