"""Renders the pages from the Jinja2 templates in `templates/`, which hold all markup.

Other modules hand over plain data. Jinja2 escapes every value, because the names of classes, runs and
folders come from outside.
"""

import functools
import os
from pathlib import Path

from cifar_jax.reporting import reports
from cifar_jax.storage import workdir

_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values) -> str:
    """Returns the text of a page.

    Args:
      template: the name of a file in `templates/`.
      values: numbers and strings, and lists, dicts and dataclasses of them.
    """
    return _environment().get_template(template).render(values)


def write_index(folder: str, text: str) -> str:
    """Writes a page as index.html into `folder`, which is made if it is missing. Returns its path."""
    workdir.make_folder(folder)
    path = os.path.join(folder, "index.html")
    reports.write_text(path, text)
    return path


@functools.cache
def _environment():
    # Imported here, because a start of training must not wait for it.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "g": "{:g}".format,
        "percent": lambda fraction: f"{100 * fraction:.2f} %",
        "percent_in_text": lambda fraction: f"{100 * fraction:.2f}\N{NO-BREAK SPACE}%",
        "thousands": "{:,}".format,
    }
    # `tojson` also escapes "<", so no text in the data can end the script element.
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment
