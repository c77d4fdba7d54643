"""A run that is killed again and again, at any moment, ends with the same bits as an untouched one.

So does one with other settings of JAX in its environment, or it warns about them.
"""

import json
import shutil

import jax
import pytest

from tests.helpers import runs

EPOCHS, STEPS = 3, 10
# Everything that draws random numbers or keeps a state; ten steps per epoch. The learning rate does not
# depend on the number of epochs.
FIELDS = {
    "num_epochs": EPOCHS,
    "batch_size": 16,
    "dataset.image_size": 8,
    "dataset.train_examples": 16 * STEPS + 5,
    "augment.crop_padding": 1,
    "augment.flip": True,
    "augment.cutout": 2,
    "augment.mixup": 0.4,
    "model.name": "mlp",
    "model.hidden_sizes": "(16,)",
    "model.batch_norm": True,
    "model.dropout": 0.2,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "lr_schedule.name": "step",
    "lr_schedule.boundaries": "(1, 2)",
    "lr_schedule.factor": 0.5,
    "lr_schedule.warmup_epochs": 0.5,
}
# How often a run saves is not part of its recipe. The interrupted run saves at every third step.
SAVES_OFTEN = {"steps_per_dispatch": 3, "checkpoint_minutes": 0}
# Without our defaults, each of these would change random numbers or results, or cause a stack trace.
SETTINGS = {
    "JAX_ENABLE_X64": "1",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_DISABLE_JIT": "1",
}


@pytest.fixture(scope="module")
def both(folder, fields):
    """(The workdir of an untouched run, that of an interrupted run, what was seen after each interruption).

    The untouched run is one epoch longer, saves only at the ends of epochs, and shares no compiled program
    with the other. JAX's settings in its environment must change no bit of it.
    """
    unhurt, hurt = folder / "unhurt", folder / "hurt"
    longer = fields | {"num_epochs": EPOCHS + 1}
    args = runs.arguments(unhurt, longer)
    untouched = runs.StartedPlainly(args, folder / "unhurt.log", **SETTINGS)
    seen = end_often(hurt, fields, folder)
    ended = untouched.wait()
    assert ended.status == 0, ended.output
    return unhurt, hurt, seen


@pytest.fixture(scope="module")
def unhurt(both):
    return both[0]


@pytest.fixture(scope="module")
def hurt(both):
    return both[1:]


def end_often(workdir, fields, folder):
    """Runs a recipe to its end through many interruptions. Returns what was seen after each of them."""
    args = runs.arguments(workdir, fields | SAVES_OFTEN)
    # An epoch has saves at its steps 3, 6, 9 and 10. A resumed run counts from where it resumes.
    points = {
        "before the first save": "before_save:1:SIGKILL",
        "in a save within an epoch": "before_commit:3:SIGKILL",
        "before metrics.jsonl": "before_metrics:1:SIGKILL",
        "before best.safetensors": "before_weights:1:SIGKILL",
        "after the files of a save": "before_commit_after_files:4:SIGKILL",
        "in the deletion of a save": "in_delete:1:SIGKILL",
        "by SIGTERM": "before_save:2:SIGTERM",
        "by SIGINT": "before_save:1:SIGINT",
        "not at all": "",
        "already": "",
    }
    seen = {}
    for name, point in points.items():
        before = runs.digests(workdir / "checkpoints") if name == "already" else {}
        ended = runs.run(args, folder / "log", point=point, cache=folder / "compiled")
        seen[name] = {
            "status": ended.status,
            "output": ended.output,
            "saved": runs.checkpoint_steps(workdir),
            "unfinished": runs.unfinished_saves(workdir),
            "files": sorted(path.name for path in workdir.iterdir()),
            "epochs": [e["epoch"] for e in runs.read_metrics(workdir)],
            "partial": runs.partial_checkpoints(workdir),
            "whole": before == runs.digests(workdir / "checkpoints"),
        }
    return seen


def test_kills_fell_where_they_were_meant_to(hurt):
    _, seen = hurt
    for name, after in seen.items():
        if name.startswith(("before", "in", "after")):
            assert after["status"] == -9, name
    assert seen["before the first save"]["saved"] == []
    in_save = seen["in a save within an epoch"]
    assert len(in_save["unfinished"]) == 1
    assert 0 < in_save["saved"][-1] < STEPS
    before_metrics = seen["before metrics.jsonl"]
    assert before_metrics["saved"][-1] == STEPS
    assert "metrics.jsonl" not in before_metrics["files"]
    before_weights = seen["before best.safetensors"]
    assert "metrics.jsonl" in before_weights["files"]
    assert "best.safetensors" not in before_weights["files"]
    # The files already held an epoch whose checkpoint was not committed.
    after_files = seen["after the files of a save"]
    assert after_files["saved"][-1] == 2 * STEPS - 1
    assert after_files["epochs"] == [1, 2]
    assert len(after_files["unfinished"]) == 1
    in_delete = seen["in the deletion of a save"]
    assert in_delete["saved"][-1] == 2 * STEPS
    assert len(in_delete["partial"]) == 1
    assert seen["not at all"]["partial"] == []


def test_final_state_has_the_same_bits(hurt, unhurt):
    workdir, seen = hurt
    assert seen["not at all"]["status"] == 0, seen["not at all"]["output"]
    last = EPOCHS * STEPS
    state = runs.read_state(workdir, last)
    assert int(state["step"]) == last
    assert {name.split("/")[0] for name in state} == {
        "step", "params", "batch_stats", "opt_state", "ema", "metrics",
    }  # fmt: skip
    runs.assert_same_bits(state, runs.read_state(unhurt, last))


def test_metrics_are_the_same_and_have_no_epoch_twice(hurt, unhurt):
    workdir, seen = hurt
    entries = runs.read_metrics(workdir)
    assert entries == runs.read_metrics(unhurt)[:EPOCHS]
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    for name, after in seen.items():
        assert after["epochs"] == sorted(set(after["epochs"])), name


def test_signals_save_and_say_how_to_resume(hurt):
    workdir, seen = hurt
    for name, status, saved in (("by SIGTERM", 143, 26), ("by SIGINT", 130, 29)):
        after = seen[name]
        assert after["status"] == status, after["output"]
        assert after["saved"][-1] == saved
        assert after["unfinished"] == []
        assert f"{name.removeprefix('by ')}: saved at step {saved}" in after["output"]
        assert f"--workdir={workdir}" in after["output"]
        assert "Traceback" not in after["output"]


def test_a_restart_says_where_it_resumes(hurt):
    _, seen = hurt
    assert "after epoch 0, step 6 of 10" in seen["before metrics.jsonl"]["output"]
    assert "after epoch 1, step 0 of 10" in seen["before best.safetensors"]["output"]
    assert "after epoch 2, step 9 of 10" not in seen["by SIGINT"]["output"]
    assert "after epoch 2, step 6 of 10" in seen["by SIGINT"]["output"]


def test_a_finished_run_trains_nothing_more(hurt):
    _, seen = hurt
    after = seen["already"]
    assert after["status"] == 0
    assert "all 3 epochs are done already" in after["output"]
    assert "epoch 3/3" not in after["output"]
    assert after["whole"]


def test_more_epochs_give_the_same_as_one_longer_run(hurt, unhurt, folder, fields):
    workdir, _ = hurt
    longer = folder / "longer"
    shutil.copytree(workdir, longer)
    args = runs.arguments(longer, fields | SAVES_OFTEN | {"num_epochs": EPOCHS + 1})
    ended = runs.run(args, folder / "log", cache=folder / "compiled")
    assert ended.status == 0, ended.output
    assert "epoch 4/4" in ended.output
    assert "epoch 3/4" not in ended.output
    last = (EPOCHS + 1) * STEPS
    runs.assert_same_bits(runs.read_state(longer, last), runs.read_state(unhurt, last))
    assert runs.read_metrics(longer) == runs.read_metrics(unhurt)
    assert (longer / runs.BEST).read_bytes() == (unhurt / runs.BEST).read_bytes()
    reports = [json.loads((path / "report.json").read_text()) for path in (longer, unhurt)]
    assert reports[0]["test"] == reports[1]["test"]
    assert json.loads((longer / "config.json").read_text())["num_epochs"] == EPOCHS + 1


def test_a_run_goes_on_with_its_own_recipe_only(trained, tmp_path):
    shutil.copytree(trained.workdir, tmp_path / "run")
    recipe, report = (tmp_path / "run" / name for name in ("config.json", "report.json"))
    config, reported = json.loads(recipe.read_text()), report.read_bytes()

    def ended(*args):
        args = [f"--workdir={tmp_path / 'run'}", "--config.num_epochs=2", *args]
        return runs.run([f"--config={trained.recipe}", *args], tmp_path / "log")

    config["label_smoothing"] = 0.5
    recipe.write_text(json.dumps(config))
    answer = ended("--config.label_smoothing=0.5")
    assert answer.status == 1
    assert "another recipe (label_smoothing: 0.0 -> 0.5)" in answer.output
    assert json.loads(recipe.read_text())["num_epochs"] == 1
    recipe.unlink()
    answer = ended("--config.seed=9")
    assert answer.status == 1
    assert "another recipe (seed: 0 -> 9)" in answer.output
    assert not recipe.exists()
    answer = ended("--config.num_epochs=1")
    assert answer.status == 0, answer.output
    assert "all 1 epochs are done already" in answer.output
    assert recipe.exists()
    assert report.read_bytes() == reported


POINT = "before_metrics:2:SIGINT"  # after the last epoch; the first write is that of the start


def test_added_epochs_change_a_cosine_and_a_late_signal_stops_no_run(trained, tmp_path):
    args = [f"--config={trained.recipe}", f"--workdir={tmp_path / 'run'}"]
    args += ["--config.lr_schedule.name=cosine"]
    # Only evaluated: a kill came before the first epoch ended.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text('{"format": 2, "eval": {}}')
    ended = runs.run(args, tmp_path / "log")
    assert ended.status == 0, ended.output
    assert "from here on the learning rate" not in ended.output
    ended = runs.run([*args, "--config.num_epochs=2"], tmp_path / "log", point=POINT)
    assert "from here on the learning rate is that of 2 epochs" in ended.output
    assert ended.status == 130
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["final"]["epoch"] == 2


def _precisely(precision, args, log):
    jax.config.update("jax_default_matmul_precision", precision)
    runs.plotless_child(args, log, 1, "", None)


def test_a_resume_under_another_precision_says_so(trained, tmp_path):
    shutil.copytree(trained.workdir, tmp_path / "run")
    args = [f"--config={trained.recipe}", f"--workdir={tmp_path / 'run'}", "--config.num_epochs=2"]
    args += [f"--config.dataset.cache_dir={tmp_path / 'images'}"]
    process = runs.context().Process(target=_precisely, args=("bfloat16", args, tmp_path / "log"))
    process.start()
    process.join(runs.DEADLINE_SECONDS)
    printed = (tmp_path / "log").read_text()
    assert process.exitcode == 0, printed
    assert "warning: JAX_DEFAULT_MATMUL_PRECISION was '' and is now 'bfloat16'" in printed
