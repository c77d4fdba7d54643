"""The progress bar."""

import io
import sys

from cifar_jax.reporting import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_and_elsewhere(monkeypatch):
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(3, 20, steps=390, done=100) as bar:
            bar.update(390, loss=1.234, accuracy=0.567, images_per_second=1234.5)
    assert pipe.getvalue() == ""
    text = terminal.getvalue()
    assert "epoch  3/20" in text
    assert "100/390" in text  # resumed in the middle of an epoch
    assert "390/390" in text
    assert "loss 1.234, 56.7 %, 1,234 img/s" in text
