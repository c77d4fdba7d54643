"""The profile of a run, read as Perfetto reads it."""

import collections
import gzip
import json


def test_a_profile_holds_the_dispatches_and_what_they_computed(trained, tmp_path):
    answer = trained.call(
        f"--config={trained.recipe}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.profile={tmp_path / 'profile'}",
        "--config.steps_per_dispatch=3",
    )
    assert answer.status == 0, answer
    (path,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    assert f"profile: open {path} at" in answer.out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    with gzip.open(path) as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    dispatches = [event for event in events if event["name"] == "train"]
    assert 3 <= len(dispatches) <= 5
    # The trace holds the programs of each of three steps in three dispatches.
    operations = collections.Counter(
        event["name"] for event in events if "hlo_op" in event.get("args", {})
    )
    assert sum(count >= 9 for count in operations.values()) > 5
    # Profiling changes no number.
    metrics = [(run / "metrics.jsonl").read_text() for run in (tmp_path / "run", trained.workdir)]
    losses = [json.loads(text)["train_loss"] for text in metrics]
    assert losses[0] == losses[1]


def test_a_run_of_two_dispatches_says_that_it_has_no_profile(trained, tmp_path):
    answer = trained.call(
        f"--config={trained.recipe}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.profile={tmp_path / 'profile'}",
        "--config.steps_per_dispatch=1000",
    )
    assert answer.status == 0, answer
    assert "profile: none, because training took no more than 2 dispatches" in answer.out


def test_a_profile_that_cannot_be_written_is_told_in_one_line(trained, tmp_path):
    (tmp_path / "file").write_text("")
    answer = trained.call(
        f"--config={trained.recipe}",
        f"--workdir={tmp_path / 'run'}",
        f"--config.profile={tmp_path / 'file'}",
    )
    assert answer.refusal().startswith(f"config.profile={tmp_path / 'file'}: ")
