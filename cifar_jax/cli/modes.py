"""The modes of the program: each is a function from the parsed flags to the exit status."""

from cifar_jax.cli import many_runs, one_run

MODES = {
    "train": one_run.run_train,
    "eval": one_run.run_evaluate,
    "predict": one_run.run_predict,
    "export": one_run.run_export,
    "compare": many_runs.run_compare,
    "sweep": many_runs.run_sweep,
}
