"""Starts an earlier run again with exactly its recipe: --config=configs/rerun.py:RUNDIR.

python main.py --config=configs/rerun.py:runs/NAME
"""

from cifar_jax.errors import UserError
from cifar_jax.storage import workdir
from configs import default


def get_config(run: str = ""):
    if not run:
        raise UserError("configs/rerun.py needs a run: --config=configs/rerun.py:RUNDIR")
    return workdir.read_config(run, default.get_config())
