"""The progress bar of training."""

import importlib.util
import sys

import tqdm

from cifar_jax.reporting import reports


class Progress:
    """A bar for the `steps` between two evaluations, in a terminal or a notebook; elsewhere nothing.

    The bar disappears when it is closed. The caller then prints `reports.epoch_line`.
    """

    def __init__(self, epoch: int, num_epochs: int, steps: int, done: int = 0):
        bar, is_shown = _kind()
        self._bar = bar(
            desc=f"epoch {epoch:{len(str(num_epochs))}}/{num_epochs}",
            total=steps,
            initial=done,
            disable=not is_shown,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"
            " [{elapsed}<{remaining}{postfix}]",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def update(self, done: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Moves the bar to `done` steps; `accuracy` is a fraction."""
        if self._bar.disable:
            return
        self._bar.n = done
        self._bar.set_postfix_str(
            f"loss {loss:.3f}, {reports.percent(accuracy).strip()}, {images_per_second:,.0f} img/s"
        )


def _kind() -> tuple[type, bool]:
    """(the class of the bar, whether it is shown): a widget in a notebook that has ipywidgets."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if type(shell).__name__ != "ZMQInteractiveShell":  # that of Jupyter
        return tqdm.tqdm, sys.stderr.isatty()
    if importlib.util.find_spec("ipywidgets"):
        from tqdm import notebook

        return notebook.tqdm, True
    return tqdm.tqdm, True
