"""Runs docs/tour.ipynb and keeps what it printed and drew in it.

  python docs/run_notebook.py

It needs `pip install nbclient ipykernel ipywidgets`.
"""

from pathlib import Path

import nbclient
import nbformat

DOCS = Path(__file__).resolve().parent
NOTEBOOK = DOCS / "tour.ipynb"


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600).execute(cwd=str(DOCS))
    # Progress bars are gone when the run has ended, and times would change at every run.
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_bar(output)]
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


def is_bar(output) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


if __name__ == "__main__":
    main()
