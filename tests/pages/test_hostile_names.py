"""Names of classes, recipes, folders, runs and data sets that would become markup without escaping."""

import json

import numpy as np
import pytest

from cifar_jax.inference.calibration import calibrate
from cifar_jax.inference.evaluate import Result
from cifar_jax.pages import evaluation
from tests.helpers import cli
from tests.helpers.run_folders import write_run

# As the name of a folder it is a folder in a folder, because there is a slash in it.
HOSTILE = "</script><img src=x onerror=alert(1)>"


def assert_harmless(page, scripts: int):
    """No name became an element or ran, and none ended one of the page's scripts early."""
    page.locator("button").last.click()
    page.wait_for_timeout(300)  # for an image to fail and to open a dialog
    assert {line for line in page.seen if not line.startswith("data:")} == {page.url}
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == scripts


@pytest.fixture
def compared(tmp_path, opened):
    """The page of --mode=compare in the browser."""
    folder = tmp_path / HOSTILE
    for seed in (0, 1):
        fields = {"model.name": "lenet", "dataset.name": HOSTILE, "seed": seed}
        run = write_run(folder / f"{HOSTILE}-seed{seed}", [0.4, 0.6], **fields)
        report = json.loads((run / "report.json").read_text())
        accuracies = {HOSTILE: 0.5, "cat": 0.7}
        report["dataset"]["class_names"] = list(accuracies)
        report["test"]["accuracy_per_class"] = accuracies
        (run / "report.json").write_text(json.dumps(report))
    write_run(folder / HOSTILE / HOSTILE, [0.3], **{"model.name": "linear"})
    broken = folder / f"broken {HOSTILE}"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    answer = cli.call(tmp_path, "--mode=compare", f"--workdir={folder}")
    assert "Traceback" not in answer.err
    return opened(folder / "compare" / "index.html")


@pytest.fixture(params=[3, 101])
def evaluated(request, tmp_path, opened):
    """The page of an evaluation in the browser: with a matrix, and with too many classes for one."""
    count = request.param
    names = (HOSTILE, "cat", *(f"{HOSTILE} {i}" for i in range(2, count)))
    labels = np.arange(2 * count) % count
    probabilities = np.random.default_rng(0).dirichlet(np.ones(count), len(labels))
    confusion = np.zeros((count, count), int)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    calibration = calibrate(probabilities, labels)
    result = Result(1.0, confusion, names, probabilities.astype(np.float32), calibration)
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    title, subtitle = f"net on {HOSTILE}", f"weights: {HOSTILE}"
    path = evaluation.write(str(tmp_path / HOSTILE), result, images, labels, title, subtitle)
    return opened(path)


def test_hostile_names_in_a_comparison_are_text(compared):
    # The headline names the data set, the subtitle the folder, the table and the legend recipes and runs.
    assert compared.locator("h1").inner_text().endswith(f" on {HOSTILE}, cifar10")
    assert compared.title() == compared.locator("h1").inner_text()
    assert compared.locator("h1 + p").inner_text().endswith(HOSTILE)
    assert HOSTILE in compared.locator(".skipped").inner_text()
    rows = compared.locator("#runs tr.recipe th").all_inner_texts()
    assert rows == [f"{HOSTILE} (seeds 0, 1)", f"{HOSTILE}/{HOSTILE}"]
    buttons = compared.locator(".legend button").all_inner_texts()
    assert buttons == [HOSTILE, "seed 0", "seed 1", f"{HOSTILE}/{HOSTILE}", "all", "none"]
    curves = compared.locator("svg polyline title").all_text_contents()
    assert curves[:3] == [f"{HOSTILE}-seed0", f"{HOSTILE}-seed1", f"{HOSTILE}/{HOSTILE}"]
    classes = compared.locator("table.classes")
    assert HOSTILE in classes.locator("tbody th").all_inner_texts()
    assert HOSTILE in classes.locator("thead th").all_inner_texts()
    assert HOSTILE in compared.locator("table.differences td").all_inner_texts()
    assert_harmless(compared, scripts=2)


def test_hostile_names_in_an_evaluation_are_text(evaluated):
    page = evaluated
    assert page.locator("h1").inner_text() == f"net on {HOSTILE}"
    assert page.locator("h1 + p").inner_text() == f"weights: {HOSTILE}"
    assert HOSTILE in page.locator("table.classes tbody th").all_inner_texts()
    table = page.locator(".matrix, .frequent")
    assert HOSTILE in table.locator("tbody th").all_inner_texts()
    # From the data of the script.
    assert HOSTILE in page.locator(".mistakes").inner_text()
    assert HOSTILE in page.locator("#panel h3").inner_text()
    assert_harmless(page, scripts=3)
