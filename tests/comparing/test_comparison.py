"""Comparing runs. The runs' figures are made up, so each result can be worked out by hand."""

import json
import math
import os
import shutil

import pytest

from cifar_jax.comparing import comparison, curves, find, table
from cifar_jax.errors import UserError
from tests.helpers import cli
from tests.helpers.run_folders import write_run


@pytest.fixture
def runs_folder(tmp_path):
    """Two seeds of one recipe, another recipe, and a run that is still running."""
    folder = tmp_path / "runs"
    write_run(
        folder / "big-seed1", [0.4, 0.8, 0.7], seconds=20, **{"model.name": "lenet", "seed": 1}
    )
    write_run(folder / "big-seed0", [0.5, 0.6, 0.9], seconds=10, **{"model.name": "lenet"})
    write_run(folder / "small", [0.3, 0.5], seconds=2)
    going_on = {"model.name": "mlp", "model.hidden_sizes": (16, 8), "num_epochs": 9}
    write_run(folder / "going-on", [0.2], report=False, **going_on)
    return folder


def by_name(found):
    return {recipe.name: recipe for recipe in found.recipes}


def test_recipes_come_by_final_accuracy_and_seeds_together(runs_folder):
    found = comparison.compare([str(runs_folder / "*")])
    assert [recipe.name for recipe in found.recipes] == ["big", "small", "going-on"]
    big = found.recipes[0]
    assert [run.name for run in big.runs] == ["big-seed0", "big-seed1"]
    assert big.mean(lambda run: run.final_score) == pytest.approx(0.8)
    # 0.9 and 0.7 each differ by 0.1 from their mean, and n - 1 is 1.
    assert big.deviation(lambda run: run.final_score) == pytest.approx(0.02**0.5)
    assert big.score_per_class["plane"] == pytest.approx(0.8)
    assert big.score_per_class["car"] == pytest.approx(0.79)


def test_the_best_is_told_from_the_final_and_says_what_it_was_chosen_on(runs_folder):
    cells = cells_of(comparison.compare([str(runs_folder)]), "big")
    assert cells["final accuracy"].text == "80.00 ± 14.14 %"
    assert cells["best accuracy"].text == "85.00 ± 7.07 %"
    assert cells["best accuracy"].note == "on test"
    small = cells_of(comparison.compare([str(runs_folder)]), "small")
    assert small["best accuracy"].note == "epoch 2, on test"


def cells_of(found, name):
    columns = table.columns(found)
    cells = table.recipe_cells(columns, by_name(found)[name])
    return dict(zip((column.title for column in columns), cells, strict=True))


def test_times_to_an_accuracy(runs_folder):
    found = comparison.compare([str(runs_folder)], target=0.6)
    seed0, seed1 = by_name(found)["big"].runs
    assert (seed0.epochs_to(0.6), seed0.time_to(0.6)) == (2, 20)
    assert (seed1.epochs_to(0.6), seed1.time_to(0.6)) == (2, 40)
    assert cells_of(found, "big")["time to 60\N{NO-BREAK SPACE}%"].text == "30 s"
    assert cells_of(found, "small")["epochs to 60\N{NO-BREAK SPACE}%"].text == "-"
    # The first epoch that reaches the target counts, even though seed 1 falls below it in epoch 3.
    assert seed1.epochs_to(0.75) == 2


def test_the_target_is_what_half_of_the_runs_reach(runs_folder):
    # The runs' best accuracies are 0.9, 0.8, 0.5 and 0.2: two of four reach 80 %.
    found = comparison.compare([str(runs_folder)])
    assert found.target == 0.8
    shutil.rmtree(runs_folder / "going-on")
    write_run(runs_folder / "other", [0.579])
    shutil.rmtree(runs_folder / "big-seed0")
    # The runs' best accuracies are 0.8, 0.579 and 0.5: two of three reach 57 %.
    assert comparison.compare([str(runs_folder)]).target == 0.57


@pytest.mark.parametrize(("target", "says"), [(90, "did you mean 0.9?"), (0, "between 0 and 1")])
def test_a_target_that_is_no_fraction(runs_folder, target, says):
    with pytest.raises(UserError, match=says.replace("?", r"\?")):
        comparison.compare([str(runs_folder)], target)


def test_a_running_run_has_its_size_and_the_epochs_so_far(runs_folder):
    cells = cells_of(comparison.compare([str(runs_folder)]), "going-on")
    assert cells["epochs"].text == "1 of 9"
    assert cells["final accuracy"].text == "20.00 %"
    layers = 32 * 32 * 3 * 16 + 16 * 8 + 8 * 10
    assert cells["parameters"].value == layers + 16 + 8 + 10
    assert cells["multiply-adds"].value == layers
    assert cells["device"].text == "-"


def test_a_run_without_an_epoch_is_there_and_comes_last(runs_folder):
    write_run(runs_folder / "a", [], report=False)
    found = comparison.compare([str(runs_folder)])
    assert found.recipes[-1].name == "a"
    assert cells_of(found, "a")["time"].text == "-"
    (only,) = comparison.compare([str(runs_folder / "a")]).recipes
    assert only.name == "a"


def test_means_are_over_finished_runs(runs_folder):
    fields = {"model.name": "lenet", "seed": 2, "num_epochs": 3}
    write_run(runs_folder / "big-seed2", [0.1], report=False, **fields)
    cells = cells_of(comparison.compare([str(runs_folder)]), "big")
    assert (cells["final accuracy"].text, cells["final accuracy"].note) == (
        "80.00 ± 14.14 %",
        "2 of 3",
    )


def test_runs_on_other_images_are_not_averaged(tmp_path):
    for name, images in (
        ("pets-0", "sha256:1"),
        ("pets-1", None),  # not finished
        ("cars-0", "sha256:2"),
        ("moved-2", "sha256:1"),
        ("cifar10-0", "sha256:3"),
        ("cifar10-1", "sha256:4"),  # in another order
        ("cifar10-2", None),
        ("cifar100-0", "sha256:5"),
    ):
        data, seed = name.split("-")
        fields = {"dataset.name": data, "num_epochs": 2, "seed": int(seed)}
        if not data.startswith("cifar"):
            fields |= {"dataset.name": "folder", "dataset.path": data}
        scores = [0.5, 0.6] if images else [0.5]
        run = write_run(tmp_path / name, scores, report=bool(images), **fields)
        if images:
            report = json.loads((run / "report.json").read_text())
            report["dataset"]["fingerprint"] = {"test": images}
            (run / "report.json").write_text(json.dumps(report))
    found = comparison.compare([str(tmp_path)])
    groups = [[run.name for run in recipe.runs] for recipe in found.recipes]
    assert sorted(map(sorted, groups)) == [
        ["cars-0"],
        ["cifar10-0", "cifar10-1", "cifar10-2"],
        ["cifar100-0"],
        ["moved-2", "pets-0", "pets-1"],
    ]
    paths = comparison.differences(found.recipes)["dataset.path"]
    assert sorted(paths) == ["", "", "cars", "pets"]


def test_a_run_to_which_epochs_were_added_is_not_averaged_with_one_of_all(tmp_path):
    fields = {"lr_schedule.name": "cosine", "num_epochs": 4}
    for seed, lengths in enumerate(([4] * 4, [4] * 4, [2, 2, 4, 4])):
        run = write_run(tmp_path / f"seed{seed}", [0.1, 0.2, 0.3, 0.4], seed=seed, **fields)
        history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for entry, length in zip(history, lengths, strict=True):
            # 100 steps an epoch.
            part = (entry["step"] - 1) / (100 * length)
            entry["learning_rate"] = 0.1 * (1 + math.cos(math.pi * part)) / 2
        (run / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in history))
    found = comparison.compare([str(tmp_path)])
    assert [[run.name for run in recipe.runs] for recipe in found.recipes] == [
        ["seed0", "seed1"],
        ["seed2"],
    ]
    assert comparison.differences(found.recipes) == {"fewer epochs at first": [False, True]}


def test_a_run_repeated_with_its_seed_is_not_averaged(runs_folder):
    big = {"model.name": "lenet", "num_epochs": 3}
    write_run(runs_folder / "big-seed0-again", [0.5, 0.6, 0.9], **big)
    found = comparison.compare([str(runs_folder)])
    titles = [table.recipe_title(recipe) for recipe in found.recipes]
    assert titles == ["big-seed0-again", "big (seeds 0, 1)", "small", "going-on"]
    assert cells_of(found, "big")["final accuracy"].text == "80.00 ± 14.14 %"
    write_run(runs_folder / "big-seed1-again", [0.4, 0.8, 0.7], **big, seed=1)
    found = comparison.compare([str(runs_folder)])
    titles = [table.recipe_title(recipe) for recipe in found.recipes]
    assert titles[:2] == ["big (seeds 0, 1)", "big-seed0-again (seeds 0, 1)"]


def test_only_what_differs_is_listed(runs_folder):
    found = comparison.compare([str(runs_folder)])
    assert comparison.differences(found.recipes) == {
        "num_epochs": [3, 2, 9],
        "model.name": ["lenet", "linear", "mlp"],
        "model.hidden_sizes": [None, None, [16, 8]],
    }
    assert table.value_text([16]) == "(16,)"


def test_runs_are_found_by_patterns_folders_and_names_once(runs_folder):
    below = write_run(runs_folder / "more" / "deep", [0.1])
    (runs_folder / "notes.txt").write_text("not a run")
    (runs_folder / "compare").mkdir()
    for paths in (["*"], [""], ["big-seed0", "*", "more"]):
        workdirs, skipped = find.runs([str(runs_folder / path) for path in paths])
        assert (len(workdirs), skipped) == (5, [])
    assert comparison.compare([str(below), str(runs_folder / "small")]).folder == str(runs_folder)
    assert comparison.compare([str(below)]).folder == str(runs_folder / "more")


def test_a_folder_without_permission_is_told_apart_from_an_empty_one(runs_folder, without_rights):
    (runs_folder / "big-seed0").rename(runs_folder / "lost+found")  # of a disk
    for name in ("small", "lost+found"):
        (runs_folder / name).chmod(0)
    with without_rights():
        workdirs, skipped = find.runs(["runs"])
        alone = find.runs(["runs/small"])
    assert (len(workdirs), skipped) == (2, ["runs/small: Permission denied"])
    assert alone == ([], skipped)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("config.json", "{", "config.json"),
        ("config.json", '{"seed": -1}', "seed"),
        ("metrics.jsonl", '{"epoch": 1}\n', "line 1 is not an epoch"),
        ("metrics.jsonl", "[]\n", "line 1"),
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl"),
        ("report.json", "[]", "report.json is not a report"),
        ("report.json", '{"test": []}', "report.json is not a report"),
    ],
)
def test_a_damaged_run_is_left_out_with_a_line(runs_folder, name, text, says):
    (runs_folder / "small" / name).write_text(text)
    found = comparison.compare([str(runs_folder), str(runs_folder / "nothing")])
    assert by_name(found).keys() == {"big", "going-on"}
    missing, damaged = found.skipped
    assert missing.endswith("nothing: there is no such folder")
    assert str(runs_folder / "small") in damaged
    assert says in damaged
    assert "\n" not in damaged


def test_what_a_report_lacks_is_left_out(runs_folder):
    # --mode=eval writes the first kind if the run has no report yet. The second is from an earlier,
    # shorter run.
    (runs_folder / "small" / "report.json").write_text('{"eval": {}, "test": {}}')
    stale = '{"final": {"epoch": 1}, "test": {"accuracy_per_class": {"a": 1}}}'
    (runs_folder / "going-on" / "report.json").write_text(stale)
    (runs_folder / "big-seed0" / "report.json").write_text(stale)
    found = by_name(comparison.compare([str(runs_folder)]))
    assert found["small"].score_per_class == {}
    assert found["going-on"].score_per_class == {"a": 1}
    assert found["big"].runs[0].score_per_class == {}


def test_every_run_has_a_colour_of_its_own():
    def recipe(i):
        runs = [comparison.RunResult(f"{i}-{j}", None, [], {}, None, None) for j in range(3)]
        return comparison.Recipe(str(i), tuple(runs))

    colours = curves.run_colours([recipe(i) for i in range(12)])
    assert len(set(colours.values())) == 36


@pytest.mark.parametrize(
    ("times", "unit", "texts"),
    [
        ([[1.0, 40.0], [30.0]], "s", ["0", "10", "20", "30", "40"]),
        ([[300.0]], "min", ["0", "1", "2", "3", "4", "5"]),
        ([[90000.0], [18000.0]], "h", ["0", "5", "10", "15", "20", "25"]),
    ],
)
def test_an_axis_of_times_has_the_unit_that_fits(times, unit, texts):
    found = curves.time_axis(times)
    assert found[:2] == (unit, False)
    assert [text for _, text in found[2]] == texts


def test_very_different_times_are_on_a_logarithmic_axis():
    unit, log, ticks = curves.time_axis([[1.0, 7200.0], [10.0]])
    assert (unit, log) == ("", True)
    assert (ticks[0], ticks[-1]) == ((1, "1 s"), (3600, "1 h"))


def test_markdown_shows_names_as_they_are(runs_folder):
    os.rename(runs_folder / "small", runs_folder / "a|b <i>_c_")
    text = table.to_markdown(comparison.compare([str(runs_folder)]), ["curves.png"])
    assert r"| a\|b \<i\>\_c\_ |" in text
    assert "![curves.png](curves.png)" in text
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    header = next(row for row in rows if row.startswith("| run"))
    assert {row.count("|") for row in rows[: 2 + 3]} == {header.count("|")}


def test_the_command_says_what_it_lacks(tmp_path):
    (tmp_path / "empty").mkdir()
    for args, says in (
        ((), "needs runs"),
        ((f"--workdir={tmp_path / 'empty'}",), "there is no run to compare in"),
        ((f"--workdir={tmp_path}/none*",), "there is no run to compare in"),
        ((f"--workdir={tmp_path}", "--target_accuracy=x"), "--target_accuracy=x"),
        ((f"--workdir={tmp_path}", "--config=configs/lenet.py"), "no --config"),
    ):
        said = cli.call(tmp_path, "--mode=compare", *args).refusal()
        assert says in said
        assert "\n" not in said
    assert not (tmp_path / "compare").exists()
