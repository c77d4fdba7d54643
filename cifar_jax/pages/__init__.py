"""The HTML pages that --mode=eval and --mode=compare write for a browser.

Each page is one file that needs no server, no network and no other file. Take from here: the modules
`evaluation`, `segmentation` and `comparison`. Each of them has `write`.
"""

__all__ = ["comparison", "evaluation", "segmentation"]
