"""The comparison page in a real browser, which Playwright clicks and reads."""

from pathlib import Path

import pytest

from tests.helpers import browser, cli
from tests.helpers.run_folders import write_run

# Makes a folder in a folder, because it contains a slash.
HOSTILE = "<img src=x onerror=alert(1)> \"&' </script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs compared by --mode=compare: two seeds, one with a hostile name, one unfinished, one broken."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    for seed in (0, 1):
        fields = {"model.name": "lenet", "seed": seed}
        write_run(folder / f"lenet-seed{seed}", [0.4, 0.6 + 0.1 * seed], seconds=60, **fields)
    write_run(folder / HOSTILE, [0.3, 0.35], **{"model.name": "linear"})
    write_run(folder / "running", [0.5], report=False, **{"model.name": "cnn", "num_epochs": 9})
    (folder / "broken").mkdir()
    (folder / "broken" / "config.json").write_text("{")
    # What a shell makes of --workdir runs/*
    paths = sorted(str(path) for path in folder.iterdir())
    answer = cli.call(
        folder.parent, "--mode=compare", "--workdir", *paths, "--target_accuracy=0.35"
    )
    assert answer.status == 1, answer
    assert answer.err.startswith("error: not shown: ")
    assert len(answer.err.splitlines()) == 1
    assert "time to 35" in answer.out
    assert "4 runs of 3 recipes on cifar10, 1 of them not finished" in answer.out
    return folder / "compare"


def test_the_command_writes_the_page_and_files_for_reports(folder):
    assert {path.name for path in folder.iterdir()} == {
        "index.html", "compare.md", "curves.png", "classes.png",
    }  # fmt: skip
    for name in ("curves.png", "classes.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert (
        "| lenet (seeds 0, 1) | lenet | 62,006 | 0.652 M |" in (folder / "compare.md").read_text()
    )


def test_the_page_has_no_address_of_another_place(folder):
    text = (folder / "index.html").read_text()
    assert "://" not in text
    assert "src=x" not in text.replace("&lt;img src=x", "")


@pytest.fixture(scope="module")
def page(folder, opened):
    return opened(folder / "index.html")


@pytest.fixture
def fresh(page):
    page.reload()
    return page


def names(page):
    return [text.strip() for text in page.locator("#runs tr.recipe th").all_inner_texts()]


def test_the_page_loads_nothing_else_and_logs_nothing(folder, page):
    page.get_by_role("button", name="none").click()
    page.get_by_role("button", name="all", exact=True).click()
    assert set(page.seen) == {(folder / "index.html").as_uri()}


def test_the_table_starts_sorted_by_accuracy_and_a_click_sorts_it(fresh):
    assert names(fresh) == ["lenet (seeds 0, 1)", "running", HOSTILE]
    assert fresh.locator("#runs tr.seed").count() == 2
    fresh.locator("#runs thead button", has_text="parameters").click()
    assert names(fresh) == ["running", HOSTILE, "lenet (seeds 0, 1)"]
    fresh.locator("#runs thead button", has_text="parameters").click()
    assert names(fresh) == ["lenet (seeds 0, 1)", HOSTILE, "running"]
    assert "65.00 ± 7.07 %" in fresh.locator("#runs tbody").first.inner_text()


def test_every_run_has_a_curve_in_its_own_colour_over_epochs_and_time(fresh):
    captions = fresh.locator("figcaption").all_inner_texts()
    assert [caption.rpartition(" ")[2] for caption in captions] == ["epochs", "time"] * 2
    for chart in fresh.locator("figure svg").all():
        lines = chart.locator("polyline")
        assert lines.count() == 4
        strokes = lines.evaluate_all("all => all.map((line) => line.getAttribute('stroke'))")
        assert len(set(strokes)) == 4
        # No curve leaves the chart.
        box = chart.bounding_box()
        for line in lines.all():
            inner = line.bounding_box()
            assert box["x"] <= inner["x"] <= inner["x"] + inner["width"] <= box["x"] + box["width"]
            assert inner["y"] >= box["y"]


def test_a_click_in_the_legend_hides_a_run_and_another_shows_it(fresh):
    def shown():
        return fresh.locator("svg g[data-run]:visible").count()

    assert shown() == 16
    button = fresh.locator(".legend button", has_text="running")
    button.click()
    assert (shown(), button.get_attribute("aria-pressed")) == (12, "false")
    button.click()
    assert shown() == 16
    # The button of a recipe switches all its seeds.
    fresh.locator(".legend button", has_text="lenet").click()
    assert shown() == 8
    fresh.locator(".legend button", has_text="seed 1").click()
    assert shown() == 12


def test_tables_show_accuracy_per_class_and_differing_fields(fresh):
    classes = fresh.locator("table.classes")
    assert classes.locator("tbody tr").count() == 10
    row = classes.locator("tbody tr").nth(1).locator("td").all_inner_texts()
    assert row == ["64.0", "34.0"]
    fields = fresh.locator("table.differences tbody th").all_inner_texts()
    assert fields == ["model.name", "num_epochs"]


@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_exceeds_the_window_and_no_texts_overlap(fresh, width):
    fresh.set_viewport_size({"width": width, "height": 900})
    assert fresh.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.overlapping_texts(fresh) == 0


def test_a_folder_that_cannot_be_read_is_named(fresh):
    assert Path("broken", "config.json").as_posix() in fresh.locator(".skipped").inner_text()
