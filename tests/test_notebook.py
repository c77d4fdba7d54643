"""The notebook of the tour runs, and is kept small, with what it printed."""

from pathlib import Path

import nbclient
import nbformat

from tests.helpers import runs

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "tour.ipynb"


def printed(notebook) -> str:
    """What the cells print, and the types of other outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text") or f"[{', '.join(output.data)}]" for output in outputs)


def test_it_runs(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", runs.flags(1))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    nbclient.NotebookClient(notebook, timeout=runs.DEADLINE_SECONDS).execute(cwd=str(DOCS))
    text = printed(notebook)
    assert "equal bits: True" in text
    assert "did you mean 'resnet20_v2'" in text
    assert text.count("image/png") == 5
    # In a notebook, the bar of an epoch is a widget.
    assert "application/vnd.jupyter.widget-view+json" in text


def test_it_is_kept_with_its_outputs_and_small():
    assert NOTEBOOK.stat().st_size < 300_000
    text = printed(nbformat.read(NOTEBOOK, as_version=4))
    assert "equal bits: True" in text
    assert text.count("image/png") == 5
    assert "widget" not in text
