"""The evaluation page in a real browser. The images that a click shows are checked by their pixels."""

import base64
import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from cifar_jax.inference.calibration import BINS, calibrate
from cifar_jax.inference.evaluate import Result
from cifar_jax.pages import evaluation, evaluation_choice
from cifar_jax.pages.evaluation_sheet import image_sheet
from tests.helpers import browser

HOSTILE = "<img src=x onerror=alert(1)> \"&' </script><!--<script> $$css {{ 7 * 7 }}"
NAMES = ("cat", "dog", HOSTILE, "no images")


def coloured(count: int, size: int) -> np.ndarray:
    """Images that each have one colour, which tells their index: uint8 [count, size, size, 3]."""
    places = np.arange(count)
    colours = np.stack([places % 256, 255 - places % 256, places // 256 * 60], axis=1)
    return np.broadcast_to(colours[:, None, None].astype(np.uint8), (count, size, size, 3))


def place_of(colour) -> int:
    return int(colour[0]) + 256 * round(int(colour[2]) / 60)


def result_of(labels, probabilities, names, augmented=None) -> Result:
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    loss = float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())
    calibration = calibrate(probabilities, labels)
    return Result(loss, confusion, names, probabilities, calibration, augmented=augmented)


def guesses(labels, classes: int, seed: int = 0) -> np.ndarray:
    """Probabilities, float32 [N, classes], of a network that predicts some of the images correctly."""
    logits = np.random.default_rng(seed).normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), labels] += 1.5
    odds = np.exp(1.5 * logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


LABELS = np.repeat([0, 1, 2], [90, 60, 50])
PROBABILITIES = guesses(LABELS, 4)
MANY = 120  # classes
MANY_LABELS = np.arange(600) % MANY


@pytest.fixture(scope="module")
def result():
    better = Result(0.4321, np.diag([100, 50, 50, 0]), NAMES, views="mirror")
    return result_of(LABELS, PROBABILITIES, NAMES, augmented=better)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, result, opened):
    """Pages in the browser: of `result`, of two results with many classes, of one without mistakes."""
    folder = tmp_path_factory.mktemp("eval")
    names = tuple(f"class {i}" for i in range(MANY))
    many = result_of(MANY_LABELS, guesses(MANY_LABELS, MANY), names)
    hundred_labels = MANY_LABELS[MANY_LABELS < 100]
    hundred = result_of(hundred_labels, guesses(hundred_labels, 100), names[:100])
    flawless = result_of(np.array([0, 1]), np.eye(2, dtype=np.float32), ("a", "b"))
    subtitle = f"of {HOSTILE}"
    arguments = {
        "few": (result, coloured(200, 32), LABELS, f"net on {HOSTILE}", subtitle),
        "many": (many, coloured(600, 8), MANY_LABELS, "net on many", subtitle),
        "hundred": (hundred, coloured(500, 8), hundred_labels, "net on a hundred", subtitle),
        "flawless": (flawless, coloured(2, 100), np.array([0, 1]), "net", subtitle),
    }
    return {
        name: opened(evaluation.write(str(folder / name), *args))
        for name, args in arguments.items()
    }


@pytest.fixture
def few(pages):
    pages["few"].set_viewport_size({"width": 1280, "height": 900})
    pages["few"].reload()
    return pages["few"]


def places_seen(page, where: str) -> list[int]:
    """The images in a part of the page, in order, found by their pixels. Each must be fully visible."""
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"))
    boxes = page.locator(f"{where} .picture span").evaluate_all(
        """all => all.map((e) => { const b = e.getBoundingClientRect();
           return [b.left + scrollX, b.top + scrollY, b.right + scrollX, b.bottom + scrollY]; })"""
    )
    places = []
    for left, top, right, bottom in np.rint(boxes).astype(int):
        inner = pixels[top + 3 : bottom - 3, left + 3 : right - 3].reshape(-1, 3)
        assert inner.shape[0] > 1000
        assert (inner == inner[0]).all()
        places.append(place_of(inner[0]))
    return places


def behind(labels, probabilities, i, j) -> np.ndarray:
    """The images of class i that are predicted as j, most confident first."""
    places = np.flatnonzero((labels == i) & (probabilities.argmax(axis=1) == j))
    return places[np.argsort(-probabilities[places, j], kind="stable")]


@pytest.mark.parametrize(("i", "j"), [(0, 0), (0, 1), (1, 2), (2, 0)])
def test_a_click_on_a_number_shows_its_images(few, i, j):
    expected = behind(LABELS, PROBABILITIES, i, j)
    button = few.locator(f'.matrix [data-cell="{i},{j}"]')
    assert button.inner_text() == str(len(expected))
    button.click()
    assert places_seen(few, "#panel") == expected[:24].tolist()
    shares = few.locator("#panel figcaption").all_inner_texts()
    assert shares == [f"{100 * PROBABILITIES[place, j]:.1f} %" for place in expected[:24]]
    heading = f"{NAMES[i]}, predicted correctly" if i == j else f"{NAMES[i]} → {NAMES[j]}"
    assert few.locator("#panel h3").inner_text() == heading
    counted = f"24 of {len(expected)} " if len(expected) > 24 else f"All {len(expected)} "
    assert few.locator("#panel p").inner_text().startswith(counted)
    pressed = few.locator(".matrix [aria-pressed=true]")
    assert pressed.evaluate_all("all => all.map((b) => b.dataset.cell)") == [f"{i},{j}"]


def test_a_cell_without_images_has_no_button(few, result):
    assert few.locator(".matrix [data-cell]").count() == np.count_nonzero(result.confusion) < 16
    assert few.locator(".matrix tbody tr").nth(3).locator("button").count() == 0


def test_the_keyboard_moves_in_the_matrix(few):
    few.locator('.matrix [data-cell="0,0"]').click()
    assert few.locator(".matrix button[tabindex='0']").count() == 1
    few.keyboard.press("ArrowDown")
    few.keyboard.press("ArrowRight")
    assert few.evaluate("document.activeElement.dataset.cell") == "1,1"
    assert few.locator("#panel h3").inner_text() == "cat, predicted correctly"
    few.keyboard.press("ArrowRight")
    few.keyboard.press("Enter")
    assert few.locator("#panel h3").inner_text() == f"dog → {HOSTILE}"
    assert places_seen(few, "#panel") == behind(LABELS, PROBABILITIES, 1, 2)[:24].tolist()
    # Tab leaves the matrix. Shift+Tab returns to the same number.
    few.keyboard.press("Tab")
    assert few.evaluate("document.activeElement.closest('.matrix')") is None
    few.keyboard.press("Shift+Tab")
    assert few.evaluate("document.activeElement.dataset.cell") == "1,2"


def test_the_most_confident_mistakes_come_first(few):
    predicted, confidence = PROBABILITIES.argmax(axis=1), PROBABILITIES.max(axis=1)
    wrong = np.flatnonzero(predicted != LABELS)
    expected = wrong[np.argsort(-confidence[wrong], kind="stable")][:24]
    assert len(expected) == 24 < len(wrong)
    assert places_seen(few, ".mistakes") == expected.tolist()
    texts = few.locator(".mistakes figcaption").all_inner_texts()
    assert texts == [
        f"{NAMES[LABELS[p]]}\n→ {NAMES[predicted[p]]}\n{100 * confidence[p]:.1f} %"
        for p in expected
    ]


def test_a_click_on_a_frequent_confusion_shows_its_images(few, result):
    chips = few.locator(".chips [data-cell]")
    counts = [int(text.rpartition(" ")[2]) for text in chips.all_inner_texts()]
    wrong = result.confusion - np.diag(np.diag(result.confusion))
    assert counts == sorted(wrong[wrong > 0].tolist(), reverse=True)[:10]
    chips.last.click()
    i, j = map(int, chips.last.get_attribute("data-cell").split(","))
    assert few.locator("#panel .picture").count() == min(24, counts[-1])
    assert few.locator("#panel h3").inner_text() == f"{NAMES[i]} → {NAMES[j]}"


def test_the_matrix_scrolls_to_a_confusion_that_is_clicked_elsewhere(pages):
    page = pages["hundred"]
    chip = page.locator(".chips [data-cell]").last
    chip.click()
    cell = page.locator(f'.matrix [data-cell="{chip.get_attribute("data-cell")}"]')
    box, around = cell.bounding_box(), page.locator(".scroll:has(.matrix)").bounding_box()
    assert around["x"] < box["x"] < box["x"] + box["width"] < around["x"] + around["width"]
    assert around["y"] < box["y"] < box["y"] + box["height"] < around["y"] + around["height"]


def test_classes_start_with_the_least_accurate_and_a_click_sorts_them(few, result):
    names = few.locator("table.classes tbody th")
    accuracies = np.diag(result.confusion)[:3] / result.confusion.sum(axis=1)[:3]
    order = [NAMES[i] for i in np.argsort(accuracies)]
    assert names.all_inner_texts() == [*order, "no images"]
    few.locator("table.classes thead button", has_text="accuracy").click()
    assert names.all_inner_texts() == [*order[::-1], "no images"]
    few.locator("table.classes thead button", has_text="images").click()
    assert names.all_inner_texts() == ["cat", "dog", HOSTILE, "no images"]


def test_the_top_of_the_page_shows_the_key_figures(few, result):
    assert few.locator("h1").inner_text() == f"net on {HOSTILE}"
    figures = few.locator(".figures").inner_text()
    right = (PROBABILITIES.argmax(axis=1) == LABELS).mean()
    assert f"accuracy\n{100 * right:.2f} %\nof 200 images" in figures
    assert f"{result.loss:.4f}" in figures
    assert "test-time augmentation\n100.00 %\nmirror; loss 0.4321" in figures


def test_the_bars_of_the_reliability_diagram_show_the_calibration(few):
    confidence = PROBABILITIES.max(axis=1).astype(float)
    right = PROBABILITIES.argmax(axis=1) == LABELS
    rects = few.locator("svg rect").evaluate_all(
        """all => all.map((r) => [r.getAttribute("class"), r.dataset.bin,
           ...["x", "y", "width", "height"].map((key) => r[key].baseVal.value)])"""
    )
    (frame,) = (np.array(rect[2:]) for rect in rects if rect[0] == "frame")
    # (left, top, width, height) by kind and bin, in units of the frame's width and height.
    bars = {
        (kind, int(bin)): (np.array(box) - [*frame[:2], 0, 0]) / np.tile(frame[2:], 2)
        for kind, bin, *box in rects
        if kind != "frame"
    }
    edges = np.linspace(0, 1, BINS + 1)
    rows = iter(few.locator("table.bins tbody tr").all_inner_texts())
    gaps = 0
    for i, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = (confidence > low) & (confidence <= high)
        assert (("accuracy", i) in bars) == inside.any()
        if not inside.any():
            continue
        accuracy, mean = right[inside].mean(), confidence[inside].mean()
        left, top, width, height = bars["accuracy", i]
        assert (left + width / 2, top, height) == pytest.approx(
            ((low + high) / 2, 1 - accuracy, accuracy), abs=1e-3
        )
        _, top, _, height = bars["gap", i]
        assert (top, height) == pytest.approx(
            (1 - max(accuracy, mean), abs(accuracy - mean)), abs=1e-3
        )
        most = max(bar[3] for (kind, _), bar in bars.items() if kind == "count")
        counted = inside.sum() / np.histogram(confidence, edges)[0].max()
        assert bars["count", i][3] / most == pytest.approx(counted, abs=1e-2)
        assert next(rows).split("\t")[1:4] == [
            str(inside.sum()), f"{100 * mean:.2f} %", f"{100 * accuracy:.2f} %",
        ]  # fmt: skip
        gaps += inside.sum() * abs(accuracy - mean)
    words = few.locator("h2:text('Calibration') + p").inner_text().replace("\xa0", " ")
    assert f"expected calibration error is {gaps / len(right) * 100:.2f} %" in words


def test_with_many_classes_a_table_lists_the_most_frequent_confusions(pages):
    page = pages["many"]
    probabilities = guesses(MANY_LABELS, MANY)
    assert page.locator(".matrix").count() == 0
    rows = page.locator("table.frequent tbody")
    assert rows.count() == 100
    cells = page.locator("table.frequent [data-cell]")
    counts = [int(text) for text in cells.all_inner_texts()]
    assert counts == sorted(counts, reverse=True)
    cells.nth(7).click()
    i, j = map(int, cells.nth(7).get_attribute("data-cell").split(","))
    expected = behind(MANY_LABELS, probabilities, i, j)
    assert len(expected) == counts[7]
    assert places_seen(page, "#panel") == expected.tolist()


def test_a_network_without_mistakes_has_a_page(pages):
    page = pages["flawless"]
    assert page.locator(".mistakes .picture").count() == 0
    assert "The network makes no mistakes on these images." in page.locator("body").inner_text()
    assert page.locator("#panel h3").inner_text() == "a, predicted correctly"
    assert page.locator("#panel figcaption").inner_text() == "100.0 %"


@pytest.mark.parametrize("name", ["few", "hundred", "many", "flawless"])
def test_the_page_loads_nothing_else_and_logs_nothing(pages, name):
    page = pages[name]
    page.locator("[data-cell]").last.click()
    assert {line for line in page.seen if not line.startswith("data:")} == {page.url}
    assert page.locator("img, iframe, object, link:not([rel=icon])").count() == 0


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("name", ["few", "hundred", "many"])
def test_nothing_exceeds_the_window_or_overlaps(pages, name, width):
    page = pages[name]
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.overlapping_texts(page) == 0
    overlaps = page.evaluate(
        """() => ["body > *", ".split > *", "#panel figure", ".mistakes figure",
            ".figures > div"].flatMap((which) => {
          const boxes = [...document.querySelectorAll(which)].map((e) => e.getBoundingClientRect());
          return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) => a.left < b.right - 0.5 &&
            b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5).map(() => which));
        })"""
    )
    assert overlaps == []


@pytest.mark.parametrize("size", [8, 28, 32, 50, 100])
def test_images_lie_side_by_side_on_one_sheet(size):
    places = [3, 200, 7, 90, 41]
    made = image_sheet(coloured(201, size), places)
    kind, text = re.fullmatch(r"data:image/(\w+);base64,(.+)", made.uri).groups()
    assert kind == ("png" if size <= 32 else "jpeg")
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int)
    side = min(size, 64)
    assert made.side == side
    for i, place in enumerate(places):
        top, left = i // made.columns * made.pitch, i % made.columns * made.pitch
        seen = sheet[top : top + side, left : left + side]
        assert seen.shape == (side, side, 3)
        away = np.abs(seen - coloured(201, 1)[place]).max()
        assert away <= (0 if size <= 32 else 3)


def test_too_many_images_leave_the_most_confident_of_each_cell(monkeypatch):
    monkeypatch.setattr(evaluation_choice, "MOST_IMAGES", 40)
    predicted, confidence = PROBABILITIES.argmax(axis=1), PROBABILITIES.max(axis=1)
    cells = [(i, j) for i in range(3) for j in range(4)]
    kept, mistakes = evaluation_choice.choose_images(LABELS, predicted, confidence, cells)
    shown = {place for places in kept.values() for place in places}
    assert set(mistakes) <= shown
    assert len(shown) == 40
    for i, j in cells:
        expected = behind(LABELS, PROBABILITIES, i, j)
        assert kept[i, j][:1] == expected[:1].tolist()
        assert kept[i, j] == [place for place in expected if place in shown]


def test_eval_writes_the_page_and_prints_its_path(trained, tmp_path):
    answer = trained.call(
        "--mode=eval", f"--weights={trained.workdir / 'best.safetensors'}", cwd=tmp_path, draws=True
    )
    assert answer.status == 0, answer
    assert answer.out.splitlines()[-1] == "written: eval/index.html eval/confusion_best.png"
    assert {path.name for path in (tmp_path / "eval").iterdir()} == {
        "index.html", "confusion_best.png",
    }  # fmt: skip
    text = (tmp_path / "eval" / "index.html").read_text()
    assert "<h1>linear on digits test</h1>" in text
    assert "after epoch 1, chosen on test" in text
    assert "://" not in text


def test_a_page_that_cannot_be_written_gives_an_error_of_one_line(trained, tmp_path):
    (tmp_path / "eval").write_text("a file")
    said = trained.call(
        "--mode=eval", f"--weights={trained.workdir / 'best.safetensors'}", cwd=tmp_path
    ).refusal()
    assert "eval" in said
    assert "\n" not in said


def test_many_classes_without_mistakes_give_a_page_without_images():
    labels = np.arange(evaluation_choice.MOST_CLASSES + 1)
    names = tuple(map(str, labels))
    flawless = result_of(labels, np.eye(len(labels), dtype=np.float32), names)
    page = evaluation.to_html(flawless, coloured(len(labels), 8), labels, "net", "")
    assert "100.00" in page
    assert "data:image/png" in page
