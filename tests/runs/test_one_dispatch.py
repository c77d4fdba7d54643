"""A run of a single dispatch, evaluated only at its end, gives the same bits as a run of many dispatches."""

import json

import pytest

from cifar_jax import config
from cifar_jax.comparing import comparison as compare
from cifar_jax.training import loop
from configs import default
from tests.helpers import runs

EPOCHS, STEPS = 3, 4
FIELDS = {
    "num_epochs": EPOCHS,
    "batch_size": 16,
    "dataset.image_size": 14,
    "dataset.train_examples": 16 * STEPS + 5,
    "augment.crop_padding": 1,
    "augment.padding_mode": "reflect",
    "augment.flip": True,
    "augment.alternating_flip": True,
    "augment.brightness": 0.1,
    "model.name": "cnn",
    "model.downsample": "stride",
    "lr_schedule.name": "linear",
}


@pytest.fixture(scope="module")
def workdirs(folder, fields):
    """The workdirs of a run of many dispatches, of one dispatch, and one that a signal interrupted."""

    def run(name, more, point="", status=0):
        args = runs.arguments(folder / name, fields | more)
        ended = runs.run(args, folder / "log", point=point, cache=folder / "compiled")
        assert ended.status == status, ended.output
        return folder / name

    many = run("many", {"steps_per_dispatch": 1})
    one = run("one", {"steps_per_dispatch": 1000, "eval_every_epochs": 0})
    # Passes the end of the first epoch, where nothing is evaluated, and is stopped in the second.
    hurt = {"steps_per_dispatch": 3, "eval_every_epochs": 2, "checkpoint_minutes": 0}
    run("hurt", hurt, "before_save:2:SIGTERM", 143)
    assert runs.checkpoint_steps(folder / "hurt") == [3, 6]
    return many, one, run("hurt", hurt)


def test_states_have_the_same_bits(workdirs):
    states = [runs.read_state(workdir, EPOCHS * STEPS) for workdir in workdirs]
    runs.assert_same_bits(states[0], states[1])
    runs.assert_same_bits(states[0], states[2])


def test_there_is_a_line_of_metrics_for_each_evaluation(workdirs):
    many, one, hurt = map(runs.read_metrics, workdirs)
    assert [entry["epoch"] for entry in many] == [1, 2, 3]
    assert one == many[2:]
    assert hurt == many[1:]
    for workdir in workdirs:
        report = json.loads((workdir / "report.json").read_text())
        assert report["final"]["epoch"] == report["test"]["images"] // 360 * 3 == 3
        assert report["seconds"] > 0


def test_a_comparison_counts_epochs_not_lines(workdirs):
    comparison = compare.compare([str(workdir) for workdir in workdirs], None)
    for run in comparison.runs:
        assert (run.epochs, run.finished) == (EPOCHS, True)
        assert run.score_per_class
        final = run.history[-1]["test_accuracy"]
        assert (
            run.time_to(final)
            == run.times[[e["epoch"] for e in run.history].index(run.epochs_to(final))]
        )


@pytest.mark.parametrize(
    ("every", "num_epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (0, 4, [4]), (9, 4, [4])],
)
def test_epochs_are_evaluated_at_each_multiple_and_at_the_end(every, num_epochs, expected):
    recipe = default.get_config()
    recipe.update(eval_every_epochs=every, num_epochs=num_epochs)
    config.validate(recipe, default.FIELDS)
    found = [loop.epochs_evaluated(recipe, done) for done in range(num_epochs)]
    assert sorted({end for _, end in found}) == expected
    assert all(begin <= done < end for done, (begin, end) in enumerate(found))
