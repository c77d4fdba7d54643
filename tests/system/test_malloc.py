"""A program restarts itself once with the allocator's settings, with the same arguments."""

import os
import subprocess
import sys

import pytest

from cifar_jax.system import malloc
from tests.helpers.runs import ROOT

with_settings = pytest.mark.skipif(
    not malloc._is_glibc(), reason="only the GNU C library has such settings"
)
PROGRAM = """
import os, sys
from cifar_jax.system import malloc
print("starts", os.getpid(), flush=True)
malloc.restart_with_settings()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:])
"""


def lines(program: str = PROGRAM, **environment: str) -> list[str]:
    inherited = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", program, "--flag=a b", "é"]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


@with_settings
def test_a_program_starts_again_with_the_settings():
    first, second, end = lines()
    assert first == second  # the same process id: the program replaces itself
    assert end == f"{malloc.SETTINGS} ['--flag=a b', 'é']"


@with_settings
def test_a_program_that_cannot_be_started_again_goes_on():
    first, end = lines("import sys; sys.executable = '/dev/null'" + PROGRAM)
    assert first.startswith("starts ")
    assert end == f"{malloc.SETTINGS} ['--flag=a b', 'é']"


def test_settings_of_the_user_are_left_as_they_are():
    _, end = lines(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert end.startswith("glibc.malloc.check=0 ")
