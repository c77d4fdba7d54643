"""The start of a training run must not wait for the template engine of the pages."""

import subprocess
import sys

from tests.helpers.runs import ROOT


def test_no_mode_imports_the_template_engine_at_its_start():
    code = "import sys, cifar_jax.cli, cifar_jax.pages.evaluation, cifar_jax.pages.comparison"
    check = "sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", f"{code}; {check}"], cwd=ROOT).returncode == 0
