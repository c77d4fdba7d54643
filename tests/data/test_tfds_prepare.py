"""Downloading CIFAR from a server on this machine and preparing it as a TFDS folder.

Every network address but the loopback is refused. No requirements file lists TensorFlow, so these tests
also show that preparing does without it.
"""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest

from cifar_jax.data import datasets, tfds_prepare
from tests.helpers import data_files as fixtures

pytestmark = pytest.mark.usefixtures("no_network")


class Server:
    """Serves the official binary archives of small CIFAR sets and records each request."""

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
    """Asserts that both have the same images and labels, in any order (TFDS shuffles)."""

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
    # TFDS finds the folder under its own version number and reads the same examples from it.
    folder = Path(config.data_dir) / name / "3.0.2"
    assert folder.is_dir()
    source = tfds.data_source(name, split="train", data_dir=config.data_dir, download=False)
    np.testing.assert_array_equal(source[0]["image"], data.train.images[0])
    assert source[0]["label"] == data.train.labels[0]
    place = int(source[0]["id"].decode().removeprefix("train_"))
    # The id is the example's position in the archive. The helper deals CIFAR-10's images out to five
    # batches in turn.
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
    # A second start neither downloads nor prepares again, even with an empty cache.
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    config.cache_dir += "2"
    datasets.load(config, seed=0)
    assert len(server.requests) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    # Standard output is reserved for the program's result.
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
    message = fixtures.error_line(config)
    assert f"instead of {'0' * 64}" in message
    assert server.url in message
    assert files_in(config.data_dir) == []


def test_an_unreachable_host_gets_one_line_with_the_ways_on(config, monkeypatch):
    # This uses TFDS's real address; `no_network` makes name resolution fail.
    message = fixtures.error_line(config)
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
    assert "404" in fixtures.error_line(config)
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
    assert "cannot be downloaded" in fixtures.error_line(config)
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
    # The next start uses the archive that is already downloaded.
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
    assert "choose another folder with config.dataset.data_dir" in fixtures.error_line(config)
    assert server.requests == []
