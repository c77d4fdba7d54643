"""Broken archives and prepared folders, each with a part of the expected message."""

import dataclasses
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers import data_files as fixtures

TRAIN, TEST = fixtures.random_part(60, 10, seed=1), fixtures.random_part(20, 10, seed=2)
NAMES = ["red", "green", "blue"]


@dataclasses.dataclass(frozen=True)
class Data:
    """The fields of `config.dataset` that select it, and a part of the message, or "" if it can be read."""

    fields: dict
    says: str


def archives(folder: Path) -> dict[str, Data]:
    """Official CIFAR-10 archives. If code in one of them runs, it writes `folder`/ran."""
    folder.mkdir(parents=True)
    files = {form: fixtures.official_files("cifar10", form, TRAIN, TEST) for form in FORMS}
    found = {}

    def add(name, path, says, dataset="cifar10"):
        found[name] = Data({"name": dataset, "archive": path}, says)

    def packed(name, says, changes, form="python"):
        """An unpacked folder with some files changed (None: left out)."""
        content = {k: v for k, v in {**files[form], **changes}.items() if v is not None}
        add(name, fixtures.write_folder(folder / name, "cifar10", form, content), says)

    def tar(name, says, members):
        """A tar file of members, each (TarInfo or name, content)."""
        path = folder / f"{name}.tar"
        with tarfile.open(path, "w") as archive:
            for member, content in members:
                info = tarfile.TarInfo(member) if isinstance(member, str) else member
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        add(name, path, says)

    whole = fixtures.write_tar(folder / "whole.tar.gz", files["binary"], "cifar-10-batches-bin")
    data = whole.read_bytes()
    for name, content, says in (
        ("empty file", b"", "is empty (0 bytes)"),
        ("text", b"no archive\n" * 99, "cannot be read"),
        ("cut short", data[: len(data) // 2], "cannot be read"),
        ("wrong checksum", data[:-8] + bytes(4) + data[-4:], "cannot be read"),
        ("a byte flipped", data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], "cannot be read"),
    ):
        path = folder / f"{name.replace(' ', '_')}.tar.gz"
        path.write_bytes(content)
        add(name, path, says)
    add("missing", folder / "nothing.tar.gz", "does not exist")
    os.mkfifo(folder / "fifo")
    add("FIFO", folder / "fifo", "is a pipe")
    add("of CIFAR-10 as CIFAR-100", whole, "holds cifar10, but config", dataset="cifar100")
    add("for digits", whole, "archive is for cifar10 and cifar100", dataset="digits")
    (folder / "nothing").mkdir()
    add("empty folder", folder / "nothing", "contains none of")

    members = list(files["python"].items())
    tar("members outside", "", [(f"../../../{name}", content) for name, content in members])
    tar("absolute members", "", [(f"/{folder}/out/{name}", content) for name, content in members])
    link = tarfile.TarInfo("data_batch_1")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar("link to a file outside", "lacks data_batch_1", [(link, b""), *members[1:]])
    device = tarfile.TarInfo("data_batch_1")
    device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 5
    tar("a device", "lacks data_batch_1", [(device, b""), *members[1:]])

    code = fixtures.Calls(Path.write_text, folder / "ran", "the code ran")
    packed(
        "code in a pickle",
        "not a pickle in the official layout (it asks for",
        {"data_batch_2": pickle.dumps(code, 2)},
    )
    code = fixtures.Calls(os.system, f"touch {folder / 'ran'}")
    packed("a command in a pickle", "asks for", {"batches.meta": pickle.dumps({b"x": code}, 2)})
    packed("pickle cut", "is not a pickle", {"test_batch": files["python"]["test_batch"][:-9]})
    packed("batch missing", "lacks data_batch_4", {"data_batch_4": None})
    beyond = dataclasses.replace(TEST, fine=TEST.fine + 1)
    batch = {"test_batch": fixtures.python_batch("cifar10", beyond)}
    packed("label out of range", "fine label 10", batch)
    packed("empty split", "has 0 bytes", {"test_batch.bin": b""}, "binary")
    cut = {"test_batch.bin": files["binary"]["test_batch.bin"][:-1]}
    packed("wrong number of bytes", "multiple of the 3073 bytes", cut, "binary")
    return found


FORMS = ("python", "binary")


def prepared(folder: Path) -> dict[str, Data]:
    """Folders of TensorFlow Datasets."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (count, 8, 8, 3), np.uint8), np.arange(count) % 3)
        for split, count in (("train", 40), ("test", 6))
    }
    good = fixtures.write_tfds(folder / "good", "small", splits, NAMES)
    found = {}

    def add(name, says, dataset="small", root=None):
        found[name] = Data({"name": dataset, "data_dir": root or folder / name}, says)

    def changed(name, says, change, form="array_record"):
        copy = folder / name / "small" / good.name
        shutil.copytree(good, copy)
        if form == "tfrecord":
            fixtures.to_tfrecord(copy)
        change(copy)
        add(name, says)

    def test_shard(copy: Path) -> Path:
        (shard,) = copy.glob("small-test.*")
        return shard

    def rewrite(name, change):
        def apply(copy):
            path = copy / name if name else test_shard(copy)
            path.write_bytes(change(path.read_bytes()))

        return apply

    add("not prepared", "mnist is not prepared in", dataset="mnist", root=folder / "good")
    add("misspelt", "did you mean small?", dataset="smal", root=folder / "good")
    add("another version", "small:9.9.9 is not prepared", "small:9.9.9", folder / "good")
    add("a path for a name", "is not the name of a data set", "../small", folder / "good")
    add("lines in a name", "is not the name of a data set", "a\nb", folder / "good")
    add("the set for the root", "set config.dataset.data_dir=", root=good)
    add("root is a file", "is not prepared", root=good / "dataset_info.json")
    add("root is a device", "is not prepared", root=Path("/dev/null"))
    changed(
        "info garbage",
        "cannot be opened by TensorFlow Datasets",
        rewrite("dataset_info.json", lambda _: b"{"),
    )
    changed(
        "info binary",
        "cannot be opened by TensorFlow Datasets",
        rewrite("dataset_info.json", lambda _: bytes(range(256))),
    )
    changed(
        "features garbage",
        "cannot be opened by TensorFlow Datasets",
        rewrite("features.json", lambda _: b"["),
    )
    newer = rewrite(
        "features.json", lambda old: old.replace(b"image_feature.Image", b"image.Newer")
    )
    changed("features of a newer version", "cannot be opened by TensorFlow Datasets", newer)
    changed("features missing", "cannot be opened", lambda copy: (copy / "features.json").unlink())
    changed("shard missing", "the test split is damaged", lambda copy: test_shard(copy).unlink())
    half = rewrite("", lambda old: old[: len(old) // 2])
    changed("shard cut", "the test split is damaged", half)
    changed("shard empty", "the test split is damaged", rewrite("", lambda _: b""))
    changed("shard garbage", "the test split is damaged", rewrite("", lambda old: bytes(len(old))))
    picture = rewrite("", lambda old: old.replace(b"IDAT", b"IDAX"))
    changed("record damaged", "the test split is damaged", picture)
    changed("tfrecord missing", "is damaged", lambda c: test_shard(c).unlink(), "tfrecord")
    changed("tfrecord cut", "is damaged", half, "tfrecord")
    changed("tfrecord picture damaged", "is damaged", picture, "tfrecord")
    length = rewrite("", lambda old: b"\xff" * 8 + old[8:])
    changed("tfrecord of a huge record", "is damaged", length, "tfrecord")
    changed("tfrecord is read", "", lambda copy: None, "tfrecord")
    changed(
        "another file format",
        "tfds convert_format",
        lambda c: fixtures.set_info(c, fileFormat="riegeli"),
    )
    changed(
        "file format unknown",
        "cannot be opened",
        lambda c: fixtures.set_info(c, fileFormat="parquet9"),
    )
    changed("splits gone", "has the splits (none)", lambda copy: fixtures.set_info(copy, splits=[]))
    counts = rewrite("dataset_info.json", lambda old: old.replace(b'"6"', b'"7"'))
    changed("fewer images than it says", "the test split is damaged", counts)
    counts = rewrite("dataset_info.json", lambda old: old.replace(b'"6"', b'"0"'))
    changed("empty split", "the test split holds no images", counts)
    counts = rewrite("dataset_info.json", lambda old: old.replace(b'"6"', b'"600000000000"'))
    changed("more images than memory", "and this machine has", counts)
    secret = {**splits, "test": (splits["test"][0], [-1] * 6)}
    fixtures.write_tfds(folder / "no labels", "small", secret, NAMES)
    add("no labels", "the test split has labels from -1 to -1")
    return found


def with_masks(folder: Path) -> dict[str, Data]:
    """Folders of pictures and masks for segmentation, each with one mistake but for the first."""
    folder.mkdir(parents=True)
    found = {}

    def add(name, says, change=lambda copy: None, path=None, **fields):
        """A folder of twelve pictures with masks of the classes 0 and 1, changed."""
        copy = folder / name.replace(" ", "_")
        for kind in ("images", "masks"):
            (copy / kind).mkdir(parents=True)
        for i in range(12):
            mask = np.arange(256).reshape(16, 16) // 8 % 2
            Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(copy / f"images/{i}.png")
            Image.fromarray(mask.astype(np.uint8)).save(copy / f"masks/{i}.png")
        change(copy)
        fields = {"name": "segmentation_folder", "path": path or copy, **fields}
        found[name] = Data(fields, says)

    def mask(values, name="3.png"):
        return lambda copy: Image.fromarray(np.uint8(values)).save(copy / "masks" / name)

    def all_masks(value):
        return lambda copy: [mask(np.full((16, 16), value), f"{i}.png")(copy) for i in range(12)]

    def jpeg(copy):
        Image.open(copy / "masks/3.png").save(copy / "masks/3.jpg", quality=95)
        (copy / "masks/3.png").unlink()

    def tested(copy):
        """Test masks without any class."""
        shutil.copytree(copy, copy / "train")
        shutil.copytree(copy / "train", copy / "test")
        for path in (copy / "test/masks").iterdir():
            Image.fromarray(np.full((16, 16), 255, np.uint8)).save(path)

    add("right", "")
    add("missing", "there is no folder", path=folder / "nothing")
    add("a file", "is a file, not a folder", path=folder / "right/images/0.png")
    add("no masks", "has no folder masks beside images", lambda c: shutil.rmtree(c / "masks"))
    add("no images", "has no folder images beside masks", lambda c: shutil.rmtree(c / "images"))
    add("one folder", "has no masks: put pictures into", path=folder / "right/images")
    add("a picture without a mask", "3.png has no mask", lambda c: (c / "masks/3.png").unlink())
    add("a mask without a picture", "3.png has no picture", lambda c: (c / "images/3.png").unlink())
    add("two masks of a name", "have the same name", mask(np.zeros((16, 16)), "3_mask.png"))
    add("a mask of another size", "3.png has 16x8 pixels, but its", mask(np.zeros((8, 16))))
    add(
        "a number too high",
        "has the class number 2, but the classes are 0 to 1",
        mask(np.full((16, 16), 2)),
        classes="a, b",
    )
    add(
        "a mask in colours",
        "3.png is in colours: set",
        mask(np.arange(768).reshape(16, 16, 3) % 256),
    )
    add(
        "a colour that is not in the table",
        "has the colour #000000, which is not in",
        classes="a #010101, b #ff0000",
    )
    add("a broken mask", "is not a picture", lambda c: (c / "masks/3.png").write_bytes(b"x" * 50))
    add("a mask as JPEG", "3.jpg is a JPEG, whose compression changes classes", jpeg)
    add("test masks of void alone", "no pixel of the test split has a class", tested)
    add("masks of one class", "have only one class", all_masks(0))
    add("masks of void alone", "have only one class", all_masks(255))
    no_test = lambda copy: shutil.copytree(copy / "images", copy / "train/images")  # noqa: E731
    add("train without test", "but no folder test or val", no_test)
    add("too few", "too few to train on some and test on", test_share=1.0)
    return found
