"""Hurts runs at random, restarts them until they finish, and compares each with an unhurt run.

  python -m tests.faults.run --kills=200 --seed=0

Prints one line per fault and a summary. If anything differs, exits with status 1 and keeps the files.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from tests.faults import hurting
from tests.helpers import runs
from tests.helpers.events import shown

EPOCHS, STEPS, BATCH = 4, 12, 16
# Everything that draws random numbers or keeps a state.
FIELDS = {
    "num_epochs": EPOCHS,
    "batch_size": BATCH,
    "eval_batch_size": 200,
    "dataset.image_size": 8,
    "dataset.train_examples": BATCH * STEPS + 5,
    "dataset.validation_examples": 50,
    "augment.crop_padding": 1,
    "augment.flip": True,
    "augment.cutout": 2,
    "augment.mixup": 0.4,
    "model.name": "mlp",
    "model.hidden_sizes": "(32,)",
    "model.batch_norm": True,
    "model.dropout": 0.2,
    "label_smoothing": 0.1,
    "ema_decay": 0.9,
    "lr_schedule.name": "step",
    "lr_schedule.boundaries": "(1, 2)",
    "lr_schedule.factor": 0.5,
    "lr_schedule.warmup_epochs": 0.5,
}
# How often a run saves is not part of its recipe. The hurt run saves at every second step.
SAVES_OFTEN = {"steps_per_dispatch": 2, "checkpoint_minutes": 0}
# Kind of fault -> (how often it is drawn, the exit statuses it may cause). Status 0 is always possible,
# because a fault may come too late.
KINDS = {
    "kill": (40, {-signal.SIGKILL}),
    "kill at a file": (25, {-signal.SIGKILL}),
    "kill in a write": (10, {-signal.SIGKILL}),
    "SIGTERM": (5, {143}),
    "SIGINT": (5, {130}),
    "SIGTERM twice": (3, {143}),
    "SIGINT twice": (3, {130}),
    "disk full": (6, {1}),
    "none": (0, {0}),
}
# After this many faults, a run may finish.
MOST_FAULTS = 14
TIMES = ("seconds", "images_per_second")
_CRASHES = (
    "Traceback",
    "Fatal Python error",
    "Segmentation fault",
    "Exception ignored",
    "Check fail",
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One start of a run and the fault in it."""

    kind: str
    # When to send a signal: seconds after the start of the process, or of its training.
    seconds: float = 0.0
    in_training: bool = False
    # Strike at this many-th file, from 1.
    count: int = 0
    # Without compiled programs and decoded images of earlier starts.
    cold: bool = False
    # The error of the clock in seconds.
    clock: float = 0.0

    def __str__(self) -> str:
        words = [self.kind]
        words += [f"after {self.seconds:.2f} s"] if self.seconds else []
        words += ["of training"] if self.in_training else []
        words += [f"no. {self.count}"] if self.count else []
        words += ["nothing cached"] if self.cold else []
        words += [f"clock wrong by {self.clock:.0e} s"] if self.clock else []
        return ", ".join(words)


class FaultTest:
    """Runs of one recipe, one after another in a folder, each hurt and restarted until it finishes."""

    def __init__(self, folder: Path, seed: int):
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = collections.Counter()
        self.others = collections.Counter()
        self.starts = self.rounds = 0
        self.differences = []
        folder.mkdir(parents=True, exist_ok=True)

    def start_unhurt(self) -> None:
        """Starts the run to compare with. It shares no compiled programs and saves once per epoch."""
        fields = FIELDS | {"dataset.cache_dir": self.folder / "unhurt_images"}
        args = runs.arguments(self.folder / "unhurt", fields)
        self.unhurt = runs.StartedPlainly(args, self.folder / "unhurt.log")

    def round(self, most_faults: int = MOST_FAULTS, kills_left: int = 10**9) -> None:
        """Hurts a new run, restarts it until it finishes, and compares it with the unhurt run."""
        self.rounds += 1
        self.workdir = self.folder / f"run {self.rounds} é"
        before, faults, damaged = len(self.differences), 0, None
        while True:
            is_last = faults >= most_faults or self.kills.total() >= kills_left
            fault = Fault("none") if is_last else self.draw()
            damaged = damaged or self.damage()
            has_saved = any(self.is_sound(step) for step in self.steps())
            ended, phase = self.start(fault)
            self.check(fault, ended, damaged, has_saved)
            if f"checkpoint {damaged} in" in ended.output:
                damaged = None
            where = phase if ended.status else "to its end"
            print(f"run {self.rounds}: {fault}: {where}, status {ended.status}", flush=True)
            if ended.status == 0 or is_last:
                break
            faults += 1
            if ended.status == -signal.SIGKILL:
                self.kills[phase] += 1
            else:
                self.others[fault.kind] += 1
        self.compare()
        if len(self.differences) == before:
            shutil.rmtree(self.workdir)

    def draw(self) -> Fault:
        kinds, weights = zip(*((kind, weight) for kind, (weight, _) in KINDS.items()), strict=True)
        (kind,) = self.random.choices(kinds, weights)
        cold = self.random.random() < 0.15
        at_a_time = kind == "kill" or kind.startswith("SIG")
        in_training = at_a_time and self.random.random() < 0.6
        most = 2.0 if in_training else 4.0
        return Fault(
            kind,
            seconds=self.random.uniform(0.0, most) if at_a_time else 0.0,
            in_training=in_training,
            # Early files more often, because hurt starts do not get far.
            count=0 if at_a_time else int(300 ** self.random.random()),
            cold=cold,
            clock=self.random.choice((0, 0, -1e9, 1e8)),
        )

    def start(self, fault: Fault) -> tuple[runs.Ended, str]:
        """Starts the run. Returns how it ended and its last phase."""
        self.starts += 1
        caches = self.folder / (f"caches {self.starts}" if fault.cold else "caches")
        fields = FIELDS | SAVES_OFTEN | {"dataset.cache_dir": caches / "images"}
        # The project's own cache, which repairs what a kill left in it.
        args = runs.arguments(self.workdir, fields, f"--compiled={caches / 'programs'}")
        log, note = self.folder / "log", self.folder / "note"
        for path in (log, note):
            path.unlink(missing_ok=True)
        place = fault.kind if fault.kind in hurting.PLACES else ""
        process = runs.context().Process(
            target=hurting.child,
            args=(args, log, caches / "programs", note, place, fault.count, fault.clock),
        )
        process.start()
        if fault.seconds:
            # Before the first line of the program, Python itself handles signals.
            while process.exitcode is None and not self.is_time(fault, note):
                process.join(0.01)
            process.join(fault.seconds)
            number = {"kill": signal.SIGKILL}.get(fault.kind)
            number = number or signal.Signals[fault.kind.partition(" ")[0]]
            for _ in range(2 if fault.kind.endswith("twice") else 1):
                if process.exitcode is None:
                    os.kill(process.pid, number)
                    process.join(self.random.uniform(0, 0.05))
        process.join(runs.DEADLINE_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            self.differ(f"{fault}: it did not end")
        if fault.cold:
            shutil.rmtree(caches, ignore_errors=True)
        output = log.read_text() if log.exists() else ""
        return runs.Ended(process.exitcode, output), hurting.read_phase(note)

    def is_time(self, fault: Fault, note: Path) -> bool:
        """Whether the time of a fault has begun."""
        if fault.in_training:
            return hurting.read_phase(note) not in hurting.BEFORE_TRAINING
        return fault.kind == "kill" or note.exists()

    def damage(self) -> int | None:
        """Sometimes damages the newest checkpoint, if the one before is intact. Returns its step, or None."""
        newest = self.steps()[-2:]
        is_time = self.random.random() < 0.12
        if not is_time or len(newest) < 2 or not all(self.is_sound(step) for step in newest):
            return None
        folder = self.workdir / "checkpoints" / str(newest[-1])
        # After a kill right at the commit, Orbax's own files about the commit do not exist yet.
        names = [*json.loads((folder / "sha256.json").read_text()), "sha256.json"]
        path = folder / self.random.choice(sorted(names))
        how = self.random.choice(("cut", "removed", "byte flipped"))
        data = bytearray(path.read_bytes())
        if how == "cut":
            path.write_bytes(data[: self.random.randrange(len(data))])
        elif how == "removed":
            path.unlink()
        else:
            data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
            path.write_bytes(data)
        self.others[f"checkpoint file {how}"] += 1
        name = path.relative_to(self.workdir)
        print(f"run {self.rounds}: {name}: {how}", flush=True)
        return newest[-1]

    def steps(self) -> list[int]:
        """The steps of the checkpoints, ascending."""
        there = (self.workdir / "checkpoints").exists()
        return runs.checkpoint_steps(self.workdir) if there else []

    def is_sound(self, step: int) -> bool:
        folder = self.workdir / "checkpoints" / str(step)
        try:
            wanted = json.loads((folder / "sha256.json").read_text())
        except (FileNotFoundError, ValueError):
            return False
        paths = {name: folder / name for name in wanted}
        return all(
            path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == wanted[name]
            for name, path in paths.items()
        )

    def check(self, fault: Fault, ended: runs.Ended, damaged: int | None, has_saved) -> None:
        """Checks what a user sees: the exit status, the last line, and the warning about damage."""
        _, statuses = KINDS[fault.kind]
        lines = ended.output.splitlines() or [""]
        if ended.status not in {0, *statuses}:
            self.differ(f"{fault}: exit status {ended.status}", ended.output)
        if any(word in ended.output for word in _CRASHES):
            self.differ(f"{fault}: crashed", ended.output)
        if ended.status in (130, 143) and "--workdir=" not in lines[-1]:
            self.differ(f"{fault}: it does not say how to resume", ended.output)
        if ended.status == 1 and not lines[-1].startswith("error: "):
            self.differ(f"{fault}: it does not say what is wrong", ended.output)
        if damaged and "resuming" in ended.output:
            said = [line for line in lines if f"checkpoint {damaged} in" in line]
            if len(said) != 1:
                self.differ(
                    f"{fault}: damage to checkpoint {damaged} is not reported", ended.output
                )
        if has_saved and "first steps done" in ended.output and "resuming" not in ended.output:
            self.differ(f"{fault}: it started over", ended.output)

    def compare(self) -> None:
        """Records everything that differs from the unhurt run, and partial or temporary files."""
        unhurt, last = self.folder / "unhurt", EPOCHS * STEPS
        ended = self.unhurt.wait()
        assert ended.status == 0, ended.output
        try:
            runs.assert_same_bits(
                runs.read_state(self.workdir, last), runs.read_state(unhurt, last)
            )
            assert runs.read_metrics(self.workdir) == runs.read_metrics(unhurt), "metrics.jsonl"
            ours, theirs = (folder / runs.BEST for folder in (self.workdir, unhurt))
            assert ours.read_bytes() == theirs.read_bytes(), runs.BEST
            ours, theirs = (_report(folder) for folder in (self.workdir, unhurt))
            assert ours == theirs, "report.json"
            ours, theirs = (shown(folder / "tensorboard") for folder in (self.workdir, unhurt))
            ours, theirs = ({k: v for k, v in x.items() if k not in TIMES} for x in (ours, theirs))
            assert ours == theirs, f"tensorboard {ours} {theirs}"
            assert set(os.listdir(self.workdir)) == set(os.listdir(unhurt)), "files"
            for path in self.workdir.rglob("*"):
                assert not path.name.endswith((".tmp", ".damaged")), path
                assert runs.UNFINISHED not in path.name, path
            for path in self.workdir.glob("*.png"):
                Image.open(path).load()
            config = json.loads((self.workdir / "config.json").read_text())
            assert config["num_epochs"] == EPOCHS
            assert all(self.is_sound(step) for step in runs.checkpoint_steps(self.workdir)[-2:])
        except Exception as error:
            self.differ(f"run {self.rounds}: {type(error).__name__}: {error}")

    def differ(self, what: str, output: str = "") -> None:
        self.differences.append(what)
        print(f"DIFFERENCE: {what}\n{output}", flush=True)

    def summary(self) -> dict:
        return {
            "runs": self.rounds,
            "starts": self.starts,
            "restarts": self.starts - self.rounds,
            "kills": self.kills.total(),
            "kills by phase": dict(self.kills.most_common()),
            "other faults": dict(self.others.most_common()),
            "differences": len(self.differences),
        }


def _report(folder: Path) -> dict:
    """report.json without what depends on time and machine."""
    report = json.loads((folder / "report.json").read_text())
    report["final"] = {k: v for k, v in report["final"].items() if k not in TIMES}
    return {
        name: report[name] for name in ("model", "parameters", "dataset", "final", "best", "test")
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no new run after this time"
    )
    options = parser.parse_args()
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    test = FaultTest(folder, options.seed)
    test.start_unhurt()
    while test.kills.total() < options.kills and time.monotonic() - begin < options.seconds:
        test.round(kills_left=options.kills)
    print(json.dumps(test.summary() | {"seconds": round(time.monotonic() - begin)}, indent=2))
    if test.differences:
        print(f"the files of runs that differ are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
