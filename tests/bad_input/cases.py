"""What a user may get wrong: commands that must fail with one line, and a few that must work."""

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path

from tests.bad_input import data, pictures, weights
from tests.conftest import TrainedRun

# Stands for a folder that does not exist, a new one for each command.
NEW = "NEW"


@dataclasses.dataclass(frozen=True)
class Case:
    """A command line, and a part of the line that it must print, or "" if it must work."""

    what: str
    args: tuple[str, ...]
    says: str
    group: str = ""


# A flag after a good recipe -> a part of the message.
FLAGS = {
    "--mode=typo": "train|eval|predict",
    "--wokdir=x": "workdir",
    "typo": "unexpected argument 'typo'",
    "--json=maybe": "takes true or false",
    "--image=frog.png": "--image is for --mode=predict",
    "--fit=crop": "--fit is for --mode=predict",
    "--fit=stretch": "<crop+squash|crop|squash|pad|all>",
    "--weights=best": "--weights is for --mode=eval, --mode=predict and --mode=export",
    "--num_processes=two": "takes a whole number",
    "--num_processes=2": "could not join the other processes",
    "--coordinator_address=here": "is not HOST:PORT",
    "--distributed": "could not join the other processes",
    "--flagfile=/nothing": "/nothing",
    "--workdir=": "--workdir is empty",
    "--config=configs": "is a folder",
    "--config=configs/lenett.py": "did you mean 'configs/lenet.py'?",
    "--config=README.md": "Python file (.py)",
    "--config=": "give a recipe with --config=FILE",
    "--config=configs/rerun.py": "needs a run",
    "--config=configs/rerun.py:nothing": "there is no folder nothing",
}

# Broken recipes: name -> (content of the file, a part of the message).
RECIPES = {
    "syntax error": ("def get_config(:\n", "SyntaxError"),
    "import of nothing": ("import nothing_of_the_kind\n", "ModuleNotFoundError"),
    "raises": ("def get_config():\n    raise ValueError('two\\nlines')\n", "line 2: ValueError"),
    "recursion": ("def get_config():\n    return get_config()\n", "RecursionError"),
    "ends the program": ("import sys\nsys.exit(0)\n", "ends the program"),
    "returns nothing": ("def get_config():\n    pass\n", "returns NoneType"),
    "returns a dict": ("def get_config():\n    return {}\n", "returns dict"),
    "no function": ("x = 1\n", "has no function get_config"),
    "null bytes": ("\0\1", "null bytes"),
    "huge number": (
        "from configs import default\n"
        "def get_config():\n"
        "    config = default.get_config()\n"
        "    config.batch_size = 10**9999\n"
        "    return config\n",
        "batch_size is a number of thousands of digits",
    ),
}

# Fields (separated by spaces) -> a part of the message.
FIELDS = {
    "bach_size=3": "did you mean 'config.batch_size'?",
    "learning_rate=3": "did you mean 'config.lr_schedule.learning_rate'?",
    "batch_size=big": "takes a whole number",
    "batch_size": "Missing value",
    "batch_size=0": "batch_size is 0, but must be at least 1",
    "batch_size=-1": "batch_size is -1, but must be at least 1",
    f"batch_size={10**18}": "batch_size is 1000000000000000000, but must be at most",
    f"batch_size={'9' * 5000}": "batch_size",
    "batch_size=1.5": "takes a whole number",
    "batch_size=2000": "larger than the training set of 1437 examples",
    f"num_epochs={10**12}": "num_epochs is 1000000000000, but must be at most",
    "num_epochs=2147483647": "steps of training",
    "seed=-1": "seed is -1",
    "augment.flip=maybe": "takes true or false",
    "optimizer=sgd": "is a group of fields",
    "optimizer.name=sdg": "did you mean 'sgd'?",
    "ema_decay=nan": "ema_decay is nan",
    "label_smoothing=1.0": "label_smoothing is 1.0",
    "lr_schedule.learning_rate=inf": "must be finite",
    "lr_schedule.learning_rate=1e39": "takes numbers up to",
    "lr_schedule.learning_rate=1e38": "the loss is not finite at step",
    "lr_schedule.boundaries=(2,1)": "must increase",
    "lr_schedule.boundaries=(1,'a')": "lr_schedule.boundaries",
    "lr_schedule.boundaries=(1": "lr_schedule.boundaries",
    "lr_schedule.warmup_epochs=5.0": "is longer than num_epochs",
    "dataset.mean=1": "dataset.mean is [1], but takes three numbers",
    "dataset.std=(0,1,1)": "dataset.std",
    "dataset.labels=coarse": "only cifar100 has",
    "dataset.labels=mask": "dataset.labels=mask has a class for each pixel: set model.fcn_stride",
    "dataset.name=mosaic": "mosaic has a class for each pixel: set model.fcn_stride",
    "model.name=resnet8_v1 model.fcn_stride=4": "'digits' has a class for each image",
    "dataset.name=mosaic model.name=resnet8_v1 model.fcn_stride=3": "takes one of 1, 2, 4, 8, 16, 32",
    "dataset.name=mosaic model.name=resnet8_v1 model.fcn_stride=8": "have the strides 1, 2, 4",
    "dataset.name=mosaic model.name=mlp model.fcn_stride=1": 'has no option "fcn_stride"',
    "dataset.classes=sky": "dataset.classes has 1 entries, but takes 2 to 254",
    "dataset.image_size=0": "dataset.image_size is 0",
    "dataset.train_examples=2000": "ask for more than the 1,437 training images",
    "dataset.cache_dir=/dev/null": "",
    f"dataset.name={'é' * 5000}": "cannot be read: File name too long",
    "augment.cutout=9": "augment.cutout 9 is larger than dataset.image_size 8",
    "augment.mixup=1e-30": "augment.mixup",
    "model.name=linea": 'did you mean "linear"',
    "model.dropout=0.5": 'has no option "dropout"',
    "model.name=lenet": "the images are too small for this network",
    "model.name=mlp model.hidden_sizes=(1000000000,)": "and this machine has",
    "model.name=mlp model.hidden_sizes=('a',)": "model.hidden_sizes",
    "model.name=mlp model.batch_norm=True batch_size=1": "more than one value per channel",
    "model.name=cnn model.width=nan": "model.width",
    "init_from=nothing": "config.init_from: nothing: No such file",
    "init_from=README.md": "config.init_from: README.md is damaged, or neither a safetensors",
    "init_from=configs": "config.init_from: configs is a folder without best.safetensors",
    "profile=/dev/null/x": "/dev/null/x",
    "bach_size=3 seed=x augment.flip=2 ema_decay=2.0 model.name=linea": "ema_decay is 2.0",
}


def of_group(group: str, folder: Path, trained: TrainedRun) -> list[Case]:
    """The cases of a group. Writes files into `folder`; uses `trained` without changing it."""
    folder.mkdir(parents=True)
    return [dataclasses.replace(case, group=group) for case in GROUPS[group](folder, trained)]


def _flags(folder: Path, trained: TrainedRun) -> list[Case]:
    recipe, new = f"--config={trained.recipe}", f"--workdir={NEW}"
    cases = [
        Case(flag, (new, flag) if flag.startswith("--config=") else (recipe, new, flag), says)
        for flag, says in FLAGS.items()
    ]
    os.mkfifo(folder / "fifo.py")
    return [
        *cases,
        Case("no recipe", (), "give a recipe with --config=FILE"),
        Case("two recipes", (recipe, "--config=configs/lenet.py"), "--config is given twice"),
        Case("a field without a recipe", ("--config.seed=1",), "put --config"),
        Case("a FIFO for a recipe", (f"--config={folder / 'fifo.py'}",), "is a pipe"),
    ]


def _recipes(folder: Path, trained: TrainedRun) -> list[Case]:
    del trained
    cases = []
    for place, (what, (text, says)) in enumerate(RECIPES.items()):
        path = folder / f"recipe{place}.py"
        path.write_text(text)
        cases.append(Case(what, (f"--config={path}", f"--workdir={NEW}"), says))
    return cases


def _fields(folder: Path, trained: TrainedRun) -> list[Case]:
    del folder
    cases = []
    for fields, says in FIELDS.items():
        flags = [f"--config.{field}" for field in fields.split()]
        what = fields if len(fields) < 90 else f"{fields[:40]}... ({len(fields)} characters)"
        args = (f"--config={trained.recipe}", f"--workdir={NEW}", *flags)
        cases.append(Case(what, args, says))
    return cases


def _data(sets, folder: Path, trained: TrainedRun) -> list[Case]:
    cases = []
    for what, found in sets(folder / "sets").items():
        fields = [f"--config.dataset.{name}={value}" for name, value in found.fields.items()]
        recipe = (f"--config={trained.recipe}", f"--workdir={NEW}", "--config.batch_size=8")
        cases.append(Case(what, (*recipe, *fields), found.says))
    return cases


def _segmentation_folders(folder: Path, trained: TrainedRun) -> list[Case]:
    network = ("--config.model.name=resnet8_v1", "--config.model.fcn_stride=4")
    cases = _data(data.with_masks, folder, trained)
    return [dataclasses.replace(case, args=(*case.args, *network)) for case in cases]


def _pictures(folder: Path, trained: TrainedRun) -> list[Case]:
    weights_file = f"--weights={trained.workdir / 'best.safetensors'}"
    cases = []
    for name, (path, says) in pictures.make(folder / "pictures").items():
        what = name if name.isprintable() else ascii(name)
        cases.append(Case(what, ("--mode=predict", weights_file, f"--image={path}"), says or ""))
    return cases


def _weights(folder: Path, trained: TrainedRun) -> list[Case]:
    best, recipe = trained.workdir / "best.safetensors", f"--config={trained.recipe}"
    picture = folder / "good.png"
    pictures.PICTURE.save(picture)
    image = f"--image={picture}"
    cases = []
    for what, (path, says) in weights.make(folder / "weights", best).items():
        args = ("--mode=predict", f"--weights={path}", image)
        cases.append(Case(what, args, says))
        if what in (
            "newer_format",
            "nan",
            "missing_tensor",
            "a_bit_flipped",
            "wrong_shape",
            "pickle",
        ):
            for mode in ("eval", "predict", "export"):
                workdir = folder / f"{what}_{mode}"
                shutil.copytree(best.parent, workdir)
                shutil.copy(path, workdir / best.name)
                args = (f"--mode={mode}", f"--workdir={workdir}", *([image] * (mode == "predict")))
                cases.append(Case(f"{what}, --mode={mode} of a workdir", args, says))
            start = f"--config.init_from={path}"
            args = (recipe, f"--workdir={NEW}", start)
            cases.append(Case(f"{what}, init_from", args, says))
    start = (recipe, f"--workdir={NEW}", f"--config.init_from={best}")
    of_another = "--config.model.name=mlp"
    cases.append(
        Case("init_from of another model", (*start, of_another), "of linear, which do not fit")
    )
    predict = ("--mode=predict", image)
    for what, args, says in (
        ("output is no .png", (*predict, "--output=sheet.jpg"), "end with .png"),
        ("output in no folder", (*predict, "--output=no/sheet.png"), "there is no folder no"),
        ("missing", (*predict, "--weights=nothing"), "there is no file 'nothing'"),
        (
            "missing, as init_from",
            (*predict, "--config=configs/lenet.py", "--config.init_from=nothing"),
            "config.init_from takes a run, a file",
        ),
        ("a folder", (*predict, "--weights=configs"), "is a folder without best.safetensors"),
        (
            "bundled, of another network than the recipe's",
            (*predict, "--config=configs/lenet.py"),
            "the recipe's network is lenet, but that of the weights resnet20_v2 is resnet20_v2",
        ),
        (
            "the same, exported",
            ("--mode=export", "--config=configs/resnet18.py"),
            "the recipe's network is resnet18",
        ),
        (
            "of another image size than the recipe's",
            ("--mode=eval", f"--weights={best}", recipe, "--config.dataset.image_size=16"),
            "the recipe's image size is 16",
        ),
        (
            "normalised otherwise than the recipe",
            ("--mode=eval", f"--weights={best}", recipe, "--config.dataset.mean=(0.5,0.5,0.5)"),
            "the recipe's mean is (0.5, 0.5, 0.5)",
        ),
        (
            "of another data set than the recipe's",
            (*predict, "--config=configs/resnet20_v2.py", "--config.dataset.name=cifar100"),
            "the recipe's data set is cifar100",
        ),
        (
            "named twice",
            ("--mode=eval", f"--weights={best}", recipe, f"--config.init_from={best}"),
            "both name weights for --mode=eval",
        ),
        ("best without a workdir", (*predict, "--weights=best"), "needs a --workdir"),
        ("no picture", (*predict[:1], f"--weights={best}"), "needs a picture"),
    ):
        cases.append(Case(what, args, says))
    return cases


def _exports(folder: Path, trained: TrainedRun) -> list[Case]:
    export = ("--mode=export", f"--workdir={trained.workdir}")
    file = folder / "file"
    file.write_text("")
    return [
        Case(what, args, says)
        for what, args, says in (
            ("no such file", ("--mode=export", "--weights=nothing"), "there is no file 'nothing'"),
            ("no such run", ("--mode=export", "--workdir=nothing"), "nothing"),
            ("unknown format", (*export, "--format=tflite"), "onnx|stablehlo|jax|safetensors"),
            ("no format", (*export, f"--output={folder / 'net'}"), "give a --format"),
            ("unknown ending", (*export, f"--output={folder / 'net.pb'}"), "give a --format"),
            (
                "ending of another format",
                (*export, "--format=jax", f"--output={folder / 'net.onnx'}"),
                "has the suffix of --format=onnx, not jax",
            ),
            ("a folder", (*export, "--format=jax", f"--output={folder}"), "is a folder"),
            ("in no folder", (*export, f"--output={folder / 'no' / 'net.jax'}"), "cannot write"),
            ("in a file", (*export, f"--output={file / 'net.mlirbc'}"), "cannot write"),
            ("in /proc", (*export, "--output=/proc/net.safetensors"), "cannot write"),
            ("a long name", (*export, f"--output={'x' * 300}.jax"), "cannot write"),
            ("a picture", (*export, "--image=frog.png"), "--image is for --mode=predict"),
        )
    ]


def _workdirs(folder: Path, trained: TrainedRun) -> list[Case]:
    cases = []
    recipe = f"--config={trained.recipe}"

    def add(what, says, *args):
        cases.append(Case(what, tuple(str(arg) for arg in args), says))

    def copy(name, **changes) -> Path:
        """A copy of the run. Changes fields of its JSON files (a dict) or their whole content (bytes)."""
        workdir = folder / name
        shutil.copytree(trained.workdir, workdir)
        for file, change in changes.items():
            path = workdir / f"{file}.json"
            if isinstance(change, dict):
                path.write_text(json.dumps(json.loads(path.read_text()) | change))
            else:
                path.write_bytes(change)
        return workdir

    add("missing", "there is no folder", f"--workdir={folder / 'nothing'}")
    add("without a run", "there is no run in", f"--workdir={folder}")
    add("a file", "is a file", recipe, f"--workdir={trained.recipe}")
    add("inside a file", "cannot make", recipe, f"--workdir={trained.recipe}/run")
    add("a device", "/dev/null is a file", recipe, "--workdir=/dev/null")
    add(
        "of another recipe",
        "seed: 0 -> 1",
        recipe,
        "--config.seed=1",
        f"--workdir={trained.workdir}",
    )
    for name, content in (
        ("empty", b""),
        ("garbage", b"{"),
        ("list", b"[1]"),
        ("binary", b"\xff\0"),
    ):
        workdir = copy(f"config_{name}", config=content)
        add(f"config.json {name}", "config.json", f"--workdir={workdir}")
        add(f"config.json {name}, eval", "config.json", "--mode=eval", f"--workdir={workdir}")
    workdir = copy("misspelt", config={"sed": 1})
    add("config.json with an unknown field", "did you mean 'seed'?", f"--workdir={workdir}")
    workdir = copy("range", config={"batch_size": -3})
    add("config.json with a bad value", "batch_size is -3", f"--workdir={workdir}")
    image = f"--image={folder / 'good.png'}"
    pictures.PICTURE.save(folder / "good.png")
    for file in ("config", "report"):
        workdir = copy(f"newer_{file}", **{file: {"format": 3}})
        says = f"{file}.json: it has format version 3"
        for what, args in {
            "train": (f"--workdir={workdir}",),
            "train with a recipe": (recipe, f"--workdir={workdir}"),
            "eval": ("--mode=eval", f"--workdir={workdir}"),
            "predict": ("--mode=predict", image, f"--workdir={workdir}"),
            "rerun": (f"--config=configs/rerun.py:{workdir}", f"--workdir={NEW}"),
            "init_from": (recipe, f"--config.init_from={workdir}", f"--workdir={NEW}"),
        }.items():
            add(f"newer {file}.json, {what}", says, *args)
    workdir = copy("no_best")
    (workdir / "best.safetensors").unlink()
    add("no best weights", "has no best.safetensors yet", "--mode=eval", f"--workdir={workdir}")
    workdir = copy("no_checkpoint")
    shutil.rmtree(workdir / "checkpoints")
    latest = ("--mode=eval", f"--workdir={workdir}", "--weights=latest")
    add("no checkpoint", "has no checkpoint yet", *latest)
    workdir = copy("report_garbage", report=b"{")
    add("report.json garbage", "report.json", "--mode=eval", f"--workdir={workdir}")
    other = ("--config.dataset.name=cifar10", "--config.dataset.data_dir=/dev/null")
    args = ("--mode=eval", recipe, *other, f"--workdir={trained.workdir}")
    add("eval without the data set", "cifar10", *args)
    os.mkfifo(folder / "fifo_for_a_workdir")
    add("a FIFO", "is a file", recipe, f"--workdir={folder / 'fifo_for_a_workdir'}")
    return cases


GROUPS = {
    "flags": _flags,
    "recipes": _recipes,
    "fields": _fields,
    "archives": functools.partial(_data, data.archives),
    "prepared sets": functools.partial(_data, data.prepared),
    "segmentation folders": _segmentation_folders,
    "pictures": _pictures,
    "weights": _weights,
    "exports": _exports,
    "workdirs": _workdirs,
}

# Cases that print several lines: the list of recipes, and several mistakes at once.
SEVERAL_LINES = {"no recipe", "--config=", *(fields for fields in FIELDS if fields.count("=") > 4)}
