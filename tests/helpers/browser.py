"""Opens pages in headless Chromium, controlled by Playwright."""

import contextlib
import functools
import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextlib.contextmanager
def started():
    """Starts the browser. Yields a function that opens a file and returns its page.

    `page.seen` lists what the browser asked for, what it complained of, and a line for each dialog.
    Skips the test if Playwright or Chromium is missing.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("Chromium is missing (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        # Chromium's sandbox does not start in containers, and the pages are our own.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield functools.partial(_open, browser)
        browser.close()


def _open(browser, path: str | Path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.seen = []
    page.on("request", lambda request: page.seen.append(request.url))
    page.on("console", lambda message: page.seen.append(message.text))
    page.on("pageerror", lambda error: page.seen.append(str(error)))

    def close(dialog):
        page.seen.append(f"a dialog: {dialog.message}")
        dialog.dismiss()  # otherwise the page waits for ever

    page.on("dialog", close)
    page.goto(Path(path).as_uri())
    return page


def overlapping_texts(page) -> int:
    """The number of pairs of texts that overlap in the page's charts."""
    return page.evaluate(
        """() => [...document.querySelectorAll("svg")].flatMap((svg) => {
          const boxes = [...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect());
          return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
            a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
        }).length"""
    )
