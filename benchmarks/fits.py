"""The share of pictures that the bundled networks name right, by the way in which pictures are made square.

  python -m benchmarks.fits FOLDER...

Each folder has a subfolder of pictures per class, with the names of CIFAR-10's classes. "mean" is the mean
over the classes, which counts each class alike. docs/results.md has what this printed.
"""

import argparse
import os

import cifar_jax
from cifar_jax.data import pictures
from cifar_jax.inference import pretrained


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folders", nargs="+", help="a subfolder of pictures for each class of CIFAR-10"
    )
    for folder in parser.parse_args().folders:
        for name in pretrained.names():
            network = cifar_jax.load(name)
            classes = [each for each in network.class_names if os.path.isdir(f"{folder}/{each}")]
            if not classes:
                parser.error(f"{folder} has no subfolder named after a class of CIFAR-10")
            found = {each: pictures.find_pictures([f"{folder}/{each}"]) for each in classes}
            count = sum(map(len, found.values()))
            print(f"{os.path.basename(folder)}, {count} pictures of {len(classes)} classes, {name}")
            for fit in pictures.FITS:
                right = {
                    each: sum(top[0][0] == each for top in network.predict(paths, 1, fit))
                    for each, paths in found.items()
                }
                mean = sum(right[each] / len(found[each]) for each in classes) / len(classes)
                total = sum(right.values())
                print(f"  {fit:12} {total / count:6.1%} ({total})  mean {mean:6.1%}")


if __name__ == "__main__":
    main()
