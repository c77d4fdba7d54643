"""The 1,797 handwritten digits in scikit-learn, which need no download.

They have 8x8 pixels and 16 shades of grey, and are upscaled. They are the test part of "Optical
Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI, 1998).
"""

from importlib import metadata

import numpy as np

from cifar_jax.data.source import Images, Source, resize_all

# The split belongs to the data set, not to a run, so the user's seed does not change it.
_TEST_PER_CLASS = 36
_SPLIT_SEED = 0


def digits_source(image_size: int) -> Source:
    """1,437 digits to train on and 360 (36 of each) to test on, always the same split."""

    def read() -> Images:
        # Imported here because it takes a second, and not needed once the images are cached.
        from sklearn.datasets import load_digits

        digits = load_digits()
        labels = digits.target
        grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        images = resize_all(grey, image_size, "resizing digits")
        # NumPy guarantees raw bits across its versions, but not permutations.
        order = np.argsort(np.random.PCG64(_SPLIT_SEED).random_raw(len(labels)), kind="stable")
        by_class = [order[labels[order] == digit] for digit in range(10)]
        test = np.sort(np.concatenate([places[:_TEST_PER_CLASS] for places in by_class]))
        train = np.sort(np.concatenate([places[_TEST_PER_CLASS:] for places in by_class]))
        names = tuple(str(digit) for digit in range(10))
        return Images(images[train], labels[train], images[test], labels[test], names)

    return Source("scikit-learn's digits", [metadata.version("scikit-learn")], read)
