"""What the HTML pages share: colours, sorting by a click, pieces of HTML. Each page is one file that needs
nothing else, and all that comes from outside is escaped in it.
"""

import json
import string
from html import escape
from pathlib import Path

__all__ = ["comparison", "evaluation"]

_FOLDER = Path(__file__).parent


def fill(template: Path, **values: str) -> str:
    """The common head (with `$title`) and a template, with their values and `$sorting`, that of tables."""
    common = {"css": _FOLDER / "style.css", "sorting": _FOLDER / "sorting.js"}
    values |= {name: path.read_text(encoding="utf-8") for name, path in common.items()}
    parts = (_FOLDER / "head.html", template)
    text = "".join(path.read_text(encoding="utf-8") for path in parts)
    return string.Template(text).substitute(values)


def sort_head(
    title: str, words: bool = False, first: str = "ascending", is_sorted: bool = False
) -> str:
    """The heading of a column of a table of class "sortable", in which each row is a body of its own.

    A column of words is sorted by its texts, one of numbers by the attribute data-value of its cells;
    `first` is the order that the first click gives.
    """
    attributes = ' data-words="1"' if words else ' class="number"'
    attributes += f' data-first="{first}"' + (f' aria-sort="{first}"' if is_sorted else "")
    return f'<th scope="col"{attributes}><button type="button">{escape(title)}</button></th>'


def json_text(obj) -> str:
    """JSON for a script element: no text in it can end the element."""
    return json.dumps(obj, separators=(",", ":")).replace("<", "\\u003c")


def svg_text(x: float, y: float, text: str, anchor: str) -> str:
    """A text in a chart; `anchor` is "start", "middle" or "end"."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
