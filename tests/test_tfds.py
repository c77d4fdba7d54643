"""Prepared TFDS folders, and CIFAR downloaded and prepared from a server on this machine.

Every network address but the loopback is refused. TensorFlow is in no requirements file, so where
these tests pass, nothing has needed it.
"""

import functools
import hashlib
import http.server
import io
import os
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_jax import datasets
from cifar_jax.errors import UserError
from cifar_jax.sources import tfds_folders, tfds_prepare
from configs import default
from tests import data_fixtures as fixtures

pytest.importorskip("tensorflow_datasets")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    connect = socket.socket.connect

    def only_loopback(self, address):
        assert address[0] == "127.0.0.1", f"a connection to {address} was tried"
        return connect(self, address)

    def resolve(host, *_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", only_loopback)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **named: (
            getaddrinfo(host, *rest, **named) if host == "127.0.0.1" else resolve(host)
        ),
    )


@pytest.fixture
def config(tmp_path):
    config = default.get_config().dataset
    config.data_dir = str(tmp_path / "tfds")
    config.cache_dir = str(tmp_path / "cache")
    return config


def pictures(count: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


NAMES = ["red", "green", "blue"]


def write_small(root: Path, shape=(32, 32, 3), name="small", splits=("train", "test"), **options):
    """A prepared set of 12 and 6 pictures; returns its folder and what is in it."""
    contents = {
        split: (pictures(12 // (place + 1), shape, place), np.arange(12 // (place + 1)) % 3)
        for place, split in enumerate(splits)
    }
    return fixtures.write_tfds(root, name, contents, NAMES, **options), contents


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_prepared_folder_is_read_as_it_was_written(config, file_format):
    folder, contents = write_small(Path(config.data_dir))
    if file_format == "tfrecord":
        fixtures.to_tfrecord(folder)
    config.name = "small"
    data = datasets.load(config, seed=0)
    for split in ("train", "test"):
        images, labels = contents[split]
        np.testing.assert_array_equal(getattr(data, split).images, images)
        np.testing.assert_array_equal(getattr(data, split).labels, labels)
        assert getattr(data, split).labels.dtype == np.int32
    assert data.class_names == tuple(NAMES)
    # The cache answers now; nothing of TFDS is asked again.
    for path in folder.glob("*record-*"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(datasets.load(config, seed=0).train.images, contents["train"][0])


def test_a_folder_converted_beside_its_first_format_is_read(config):
    folder, contents = write_small(Path(config.data_dir))
    fixtures.set_info(folder, fileFormat="riegeli", alternativeFileFormats=["array_record"])
    config.name = "small"
    images = datasets.load(config, seed=0).train.images
    np.testing.assert_array_equal(images, contents["train"][0])


def test_grey_images_become_rgb_and_other_sizes_are_resized(config):
    _, contents = write_small(Path(config.data_dir), shape=(28, 28, 1))
    config.update({"name": "small", "image_size": 28})
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.train.images, np.repeat(contents["train"][0], 3, axis=-1))
    config.image_size = 14
    data = datasets.load(config, seed=0)
    first = Image.fromarray(contents["test"][0][0, ..., 0]).convert("RGB")
    expected = np.asarray(first.resize((14, 14), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(data.test.images[0], expected)


def test_pictures_of_different_shapes(config):
    images = [pictures(1, (20 + 4 * i, 32, 3), i)[0] for i in range(4)]
    contents = {"train": (images, [0, 1, 2, 0]), "test": (images[:2], [1, 2])}
    fixtures.write_tfds(Path(config.data_dir), "small", contents, NAMES)
    config.name = "small"
    data = datasets.load(config, seed=0)
    assert data.train.images.shape == (4, 32, 32, 3)
    # 32 is the third one's height and its width.
    np.testing.assert_array_equal(data.train.images[3], images[3])


def test_jpeg_records_are_decoded(config):
    _, contents = write_small(Path(config.data_dir), picture_format="JPEG")
    config.name = "small"
    image = datasets.load(config, seed=0).train.images[0]
    file = io.BytesIO()
    Image.fromarray(contents["train"][0][0]).save(file, "JPEG")
    np.testing.assert_array_equal(image, np.asarray(Image.open(file)))


def test_validation_stands_in_for_a_missing_test_split(config):
    _, contents = write_small(Path(config.data_dir), splits=("train", "validation"))
    config.name = "small"
    data = datasets.load(config, seed=0)
    np.testing.assert_array_equal(data.test.images, contents["validation"][0])
    assert data.validation is None


def test_without_data_dir_the_environment_names_the_root(config, tmp_path, monkeypatch):
    write_small(tmp_path / "elsewhere")
    config.update({"name": "small", "data_dir": ""})
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert len(datasets.load(config, seed=0).train.labels) == 12
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_small(tmp_path / "home" / "tensorflow_datasets")
    assert len(datasets.load(config, seed=0).train.labels) == 12


def test_the_newest_version_is_taken_unless_one_is_named(config):
    root = Path(config.data_dir)
    folder, _ = write_small(root)
    for version in ("0.9.0", "1.10.0", "1.9.0", "incomplete.0DU7HK_2.0.0", "notes"):
        (folder.parent / version).mkdir()
        (folder.parent / version / "dataset_info.json").write_text("{}")
    assert tfds_folders.find_prepared(root, "small").name == "1.10.0"
    assert tfds_folders.find_prepared(root, "small:1.0.0") == folder
    assert tfds_folders.find_prepared(root, "small:3.0.0") is None
    assert tfds_folders.find_prepared(root, "small/variant") is None
    for name in ("", "../small", "small/../..", "a b", "small:new"):
        with pytest.raises(UserError, match="not the name of a data set"):
            tfds_folders.find_prepared(root, name)


def message_of(config) -> str:
    with pytest.raises(UserError) as error:
        datasets.load(config, seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_set_that_is_not_prepared_gets_a_line_and_no_network(config, monkeypatch):
    config.name = "mnist"
    # `only_loopback` and `resolve` above would fail or slow down what went to the network.
    monkeypatch.setattr(socket, "socket", None)
    message = message_of(config)
    assert "mnist is not prepared in" in message
    assert config.data_dir in message
    assert "config.dataset.data_dir" in message
    config.name = "cifr100"
    assert "did you mean cifar100?" in message_of(config)


def test_a_data_dir_inside_the_root_gets_the_root_named(config):
    root = Path(config.data_dir)
    folder, _ = write_small(root)
    config.name = "small"
    for inside in (folder, folder.parent):
        config.data_dir = str(inside)
        assert f"set config.dataset.data_dir={root}." in message_of(config)


def test_folders_that_do_not_serve_get_one_line(config):
    import tensorflow_datasets as tfds

    root = Path(config.data_dir)
    config.name = "small"
    folder, _ = write_small(root, splits=("train", "extra"))
    assert "has the splits extra, train" in message_of(config)
    config.labels = "coarse"
    assert "small has no coarse labels" in message_of(config)
    config.labels = "fine"
    fixtures.set_info(folder, fileFormat="riegeli")
    fixtures.set_info(folder, splits=[{"name": "train"}, {"name": "test"}])
    message = message_of(config)
    assert "tfds convert_format --dataset_version_dir=" in message
    # That the command exists, with these flags, is for TFDS to say. (It needs TensorFlow itself.)
    command = Path(tfds.__file__).parent / "scripts" / "cli" / "convert_format.py"
    assert {"dataset_version_dir", "out_file_format"} <= set(
        re.findall(r"^  (\w+):", command.read_text(), re.MULTILINE)
    )
    assert tfds.core.FileFormat("array_record")
    (folder / "features.json").unlink()
    assert "not a folder that TensorFlow Datasets can open" in message_of(config)
    (folder / "dataset_info.json").write_text("{")
    assert "not a folder that TensorFlow Datasets can open" in message_of(config)


def test_a_set_without_class_labels_gets_one_line(config):
    folder, _ = write_small(Path(config.data_dir))
    features = (folder / "features.json").read_text()
    label = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"
    assert label in features
    (folder / "features.json").write_text(
        features.replace(label, "tensorflow_datasets.core.features.text_feature.Text").replace(
            '"classLabel": {\n                    "numClasses": "3"\n                }',
            '"text": {}',
        )
    )
    config.name = "small"
    assert "no image classification set" in message_of(config)


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("damage", ["cut", "gone", "no picture"])
def test_a_damaged_folder_gets_one_line(config, file_format, damage):
    folder, _ = write_small(Path(config.data_dir))
    if file_format == "tfrecord":
        fixtures.to_tfrecord(folder)
    (shard,) = folder.glob("small-test.*")
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(content.replace(b"IDAT", b"IDAX"))
    config.name = "small"
    message = message_of(config)
    assert "the test split is damaged" in message
    assert str(folder) in message


def test_labels_that_are_no_class_get_one_line(config):
    contents = {"train": (pictures(3, (8, 8, 3), 0), [0, 1, 2])}
    # TFDS gives -1 to the examples of a test set whose labels are secret.
    contents["test"] = (pictures(2, (8, 8, 3), 1), [-1, -1])
    fixtures.write_tfds(Path(config.data_dir), "small", contents, NAMES)
    config.name = "small"
    assert "the test split has labels from -1 to -1" in message_of(config)


def test_names_of_cifar10_where_a_folder_has_none(config):
    contents = {split: (pictures(10, (32, 32, 3), 0), range(10)) for split in ("train", "test")}
    folder = fixtures.write_tfds(Path(config.data_dir), "cifar10", contents, fixtures.CIFAR10_NAMES)
    assert datasets.load(config, seed=0).class_names == tuple(fixtures.CIFAR10_NAMES)
    (folder / "label.labels.txt").unlink()
    assert datasets.load(config, seed=0).class_names == tuple(fixtures.CIFAR10_NAMES)


class Server:
    """Serves the official binary archives of small CIFAR sets, and says what was asked for."""

    def __init__(self, folder: Path, monkeypatch):
        self.requests = []
        self.parts = {}
        outer = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                outer.requests.append(self.path)

        handler = functools.partial(Handler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.known = {}
        for name, classes in (("cifar10", 10), ("cifar100", 100)):
            parts = fixtures.random_part(200, classes, 5), fixtures.random_part(100, classes, 6)
            self.parts[name] = parts
            file = f"cifar-{classes}-binary.tar.gz"
            path = fixtures.write_tar(
                folder / file,
                fixtures.official_files(name, "binary", *parts),
                fixtures.FOLDERS[name, "binary"],
            )
            checksum = hashlib.sha256(path.read_bytes()).hexdigest()
            self.known[name] = [f"{self.url}/{file}", checksum]
        monkeypatch.setattr(
            tfds_prepare, "archive_url_and_checksum", lambda name: tuple(self.known[name])
        )
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = Server(tmp_path / "served", monkeypatch)
    yield server
    server.server.shutdown()
    server.server.server_close()


def assert_holds(split: datasets.Split, part: fixtures.Part, kind: str) -> None:
    """The same images with the same labels, in any order (TFDS shuffles)."""

    def examples(images, labels):
        return sorted((i.tobytes(), int(label)) for i, label in zip(images, labels, strict=True))

    given = examples(part.images, getattr(part, kind))
    assert examples(split.images, split.labels) == given


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_whole_way_from_a_download(config, server, name, capsys):
    import tensorflow_datasets as tfds

    config.name = name
    data = datasets.load(config, seed=0)
    train, test = server.parts[name]
    assert_holds(data.train, train, "fine")
    assert_holds(data.test, test, "fine")
    assert len(server.requests) == 1
    # What is prepared is what TFDS itself would have: its version, read by its own function.
    folder = Path(config.data_dir) / name / "3.0.2"
    assert folder.is_dir()
    source = tfds.data_source(name, split="train", data_dir=config.data_dir, download=False)
    np.testing.assert_array_equal(source[0]["image"], data.train.images[0])
    assert source[0]["label"] == data.train.labels[0]
    place = int(source[0]["id"].decode().removeprefix("train_"))
    # The id is the place in the archive, whose five batches the fixture deals out in turn.
    order = np.arange(200)
    if name == "cifar10":
        order = np.concatenate([order[i::5] for i in range(5)])
    np.testing.assert_array_equal(source[0]["image"], train.images[order[place]])
    if name == "cifar100":
        assert data.class_names == tuple(fixtures.CIFAR100_NAMES["fine"])
        config.labels = "coarse"
        coarse = datasets.load(config, seed=0)
        assert coarse.class_names == tuple(fixtures.CIFAR100_NAMES["coarse"])
        assert_holds(coarse.train, train, "coarse")
    else:
        assert data.class_names == tuple(fixtures.CIFAR10_NAMES)
    # A second start, even without the cache, neither downloads nor prepares.
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    config.cache_dir += "2"
    datasets.load(config, seed=0)
    assert len(server.requests) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    # stdout belongs to the program's answer.
    assert capsys.readouterr().out == ""


def test_the_address_and_checksum_are_those_of_tfds():
    for name, number in (("cifar10", 10), ("cifar100", 100)):
        url, checksum = tfds_prepare.archive_url_and_checksum(name)
        assert url == f"https://www.cs.toronto.edu/~kriz/cifar-{number}-binary.tar.gz"
        assert len(bytes.fromhex(checksum)) == 32


def files_in(folder: str) -> list[Path]:
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(config, server):
    server.known["cifar10"][1] = "0" * 64
    message = message_of(config)
    assert f"instead of {'0' * 64}" in message
    assert server.url in message
    assert files_in(config.data_dir) == []


def test_an_unreachable_host_gets_one_line_with_the_ways_on(config, monkeypatch):
    # TFDS's own address; the fixture above lets no name be resolved.
    message = message_of(config)
    for part in (
        config.data_dir,
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "Name or service not known",
        "config.dataset.archive=",
        "config.dataset.data_dir=",
        "--config=configs/quickstart.py",
    ):
        assert part in message
    assert files_in(config.data_dir) == []


def test_what_the_host_answers_is_in_the_line(config, server):
    server.known["cifar10"][0] += ".gone"
    assert "404" in message_of(config)
    assert files_in(config.data_dir) == []


def test_a_download_that_breaks_off_leaves_nothing(config, server, monkeypatch):
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)

        def log_message(self, *_):
            pass

    server.server.RequestHandlerClass = Cut
    assert "cannot be downloaded" in message_of(config)
    assert files_in(config.data_dir) == []


def test_an_interrupted_preparation_leaves_nothing_half_done(config, server, monkeypatch):
    class Stop(KeyboardInterrupt):
        pass

    original = tfds_prepare._examples

    def interrupted(split, images, labels):
        yield from list(original(split, images, labels))[:50]
        raise Stop

    monkeypatch.setattr(tfds_prepare, "_examples", interrupted)
    with pytest.raises(Stop):
        datasets.load(config, seed=0)
    assert [path.name for path in files_in(config.data_dir)] == ["cifar-10-binary.tar.gz"]
    # The next start goes on with the archive that it has.
    monkeypatch.setattr(tfds_prepare, "_examples", original)
    assert len(datasets.load(config, seed=0).train.labels) == 200
    assert len(server.requests) == 1


def test_a_damaged_download_of_an_earlier_time_is_not_trusted(config, server):
    downloads = Path(config.data_dir) / "downloads" / "cifar10"
    downloads.mkdir(parents=True)
    (downloads / "cifar-10-binary.tar.gz").write_bytes(b"half of it")
    assert len(datasets.load(config, seed=0).train.labels) == 200
    assert len(server.requests) == 1


def test_another_process_may_prepare_the_same_set_meanwhile(config, server, monkeypatch):
    root = Path(config.data_dir)
    original = tfds_prepare._examples
    others = []

    def slower_than_another(split, images, labels):
        if not others:
            others.append("once")
            archive = root / "downloads" / "cifar10" / "cifar-10-binary.tar.gz"
            tfds_prepare.prepare_from_archive("cifar10", archive, root)
        yield from original(split, images, labels)

    monkeypatch.setattr(tfds_prepare, "_examples", slower_than_another)
    assert_holds(datasets.load(config, seed=0).train, server.parts["cifar10"][0], "fine")
    assert [path.name for path in (root / "cifar10").iterdir()] == ["3.0.2"]


def test_a_data_dir_that_cannot_be_written_gets_one_line(config, server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    config.data_dir = str(tmp_path / "file" / "tfds")
    assert "choose another folder with config.dataset.data_dir" in message_of(config)
    assert server.requests == []
