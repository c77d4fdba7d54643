"""Atomic writes: a file is written completely or not at all."""

import os
import subprocess
import sys

import pytest

from cifar_jax.errors import UserError
from cifar_jax.reporting import reports
from cifar_jax.system import files
from tests.helpers.runs import ROOT


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_and_fail(error):
        with files.atomic_path(path) as temporary, open(temporary, "w") as file:
            file.write("new, but not all of it")
            raise error

    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            write_and_fail(error)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    program = (
        "import os, signal, sys; from cifar_jax.system import files\n"
        "with files.atomic_path(sys.argv[1]) as temporary:\n"
        "    open(temporary, 'w').write('new'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], cwd=ROOT)
    assert result.returncode == -9
    assert path.read_text() == "old"


def test_a_written_file_replaces_the_old_one_with_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    path = tmp_path / ("n" * 250)  # nearly the longest name that file systems allow
    for text in ("old", "new"):
        reports.write_text(path, text)
        assert path.read_text() == text
    assert path.stat().st_mode == plain.stat().st_mode
    assert len(os.listdir(tmp_path)) == 2


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere/file")
    reports.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_text() == "text"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*/no/file: No such file or directory"):
        reports.write_text(tmp_path / "no" / "file", "text")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*/folder: Is a directory"):
        reports.write_text(tmp_path / "folder", "text")
    assert os.listdir(tmp_path) == ["folder"]
