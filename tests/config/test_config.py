"""Every field is checked, every mistake is named, and JSON keeps a config."""

import importlib.util
import json
import math
import os

import pytest
from ml_collections import ConfigDict

from cifar_jax import config as config_lib
from cifar_jax.api import recipes as recipe_files
from cifar_jax.errors import UserError
from configs import default

FIELDS = default.FIELDS


def recipes():
    """The recipes in configs/ that need no argument."""
    paths = (os.path.abspath(path) for path, _ in recipe_files.list_recipes())
    return [path for path in paths if os.path.basename(path) != "rerun.py"]


def load(path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def set_field(config, name, value):
    *groups, field = name.split(".")
    for group in groups:
        config = config[group]
    config[field] = value


def complaints(config) -> list[str]:
    """The lines that validation prints about a config."""
    with pytest.raises(UserError) as caught:
        config_lib.validate(config, default.FIELDS)
    return str(caught.value).splitlines()


def changed(**fields):
    config = default.get_config()
    for name, value in fields.items():
        set_field(config, name.replace("__", "."), value)
    return config


def test_the_fields_a_resumed_run_may_change_are_there():
    assert set(config_lib.NOT_PART_OF_THE_RECIPE) <= set(FIELDS)


def test_the_config_has_every_field_with_its_default():
    flat = config_lib.flatten(default.get_config())
    assert flat.keys() == FIELDS.keys()
    for name, field in FIELDS.items():
        assert flat[name] == (
            list(field.default) if field.kind is tuple and field.default else field.default
        )


def test_the_default_is_valid():
    config_lib.validate(default.get_config(), default.FIELDS)


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.low is not None])
def test_a_number_out_of_bounds_is_named(name):
    low, high = FIELDS[name].low, FIELDS[name].high
    if FIELDS[name].kind is float:
        wrong = [low - 1.0, high + 1.0 if high < 1e9 else math.inf, math.nan, math.inf]
    else:
        wrong = [low - 1, high + 1, 10**18, 10**5000]
    for value in wrong:
        config = default.get_config()
        set_field(config, name, value)
        (line,) = complaints(config)
        assert line.startswith(f"config: {name} ")
        assert len(line) < 200


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.choices])
def test_a_misspelt_choice_is_named_with_the_nearest(name):
    right = FIELDS[name].choices[0]
    config = default.get_config()
    set_field(config, name, right + "x")
    lines = complaints(config)
    assert f"config: {name} is '{right}x'" in lines[0]
    assert f"did you mean '{right}'?" in lines[0]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer__beta1": 1.0}, "optimizer.beta1"),
        ({"optimizer__epsilon": 0.0}, "optimizer.epsilon"),
        ({"lr_schedule__boundaries": (10, 5)}, "lr_schedule.boundaries [10, 5] must increase"),
        ({"lr_schedule__boundaries": (5, 5)}, "must increase"),
        ({"lr_schedule__boundaries": (0, 5)}, "must be positive"),
        ({"lr_schedule__boundaries": (1, "a")}, "lr_schedule.boundaries is (1, 'a'), but takes"),
        ({"lr_schedule__boundaries": (float("inf"),)}, "finite numbers"),
        ({"lr_schedule__boundaries": (float("nan"),)}, "finite numbers"),
        ({"lr_schedule__warmup_epochs": 201.0}, "longer than num_epochs"),
        ({"dataset__mean": (0.5,)}, "dataset.mean is [0.5], but takes three numbers"),
        ({"dataset__std": (0.5, 0.5, 0.0)}, "dataset.std"),
        ({"dataset__std": (True, True, True)}, "dataset.std"),
        ({"dataset__labels": "coarse"}, "only cifar100"),
        ({"augment__cutout": 33}, "augment.cutout 33 is larger than dataset.image_size 32"),
        ({"augment__crop_padding": 33}, "augment.crop_padding 33 is larger than"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"ema_decay": 1 - 1e-12}, "ema_decay"),  # 1 in float32
        ({"optimizer__epsilon": 1e-60}, "optimizer.epsilon"),  # 0 in float32
        ({"dataset__std": (1e-60, 1.0, 1.0)}, "dataset.std"),
        ({"dataset__train_examples": 49_000, "dataset__validation_examples": 1_001}, "50,000"),
        ({"dataset__name": "digits", "dataset__validation_examples": 1437}, "1,437 training"),
        ({"dataset__train_examples": 100}, "batch_size 128 is larger than the training set of 100"),
        ({"batch_size": 50_001}, "batch_size 50001 is larger than the training set of 50000"),
        ({"dataset__name": "a\0b"}, "null bytes"),
        ({"lr_schedule__boundaries": tuple(range(1, 2000))}, "lr_schedule.boundaries has 1999"),
        ({"lr_schedule__factor": 1e30}, "lr_schedule.factor 1e+30 at 2 boundaries"),
        ({"lr_schedule__boundaries": (10**400,)}, "lr_schedule.boundaries is (1000"),
        ({"model__name": "mlp", "model__hidden_sizes": (10**9,)}, "has 3,083,000,000,010 param"),
        ({"model__name": "mlp", "model__hidden_sizes": (1,) * 300}, "300 layers"),
        ({"model__name": "cnn", "model__width": 1e9}, "model.width"),
        ({"model__name": "cnn", "model__dropout": 1 - 1e-12}, "model.dropout"),
        ({"model__name": "lenet", "dataset__image_size": 8}, "too small"),
        ({"model__name": "mlp", "model__batch_norm": True, "batch_size": 1}, "more than one value"),
        ({"model__name": "mobilenet_v3"}, 'did you mean "mobilenet_v2"'),
        ({"model__name": "mlp", "model__hidden_sizes": ("a",)}, "model.hidden_sizes"),
        ({"model__name": "mlp", "model__hidden_sizes": (0,)}, "model.hidden_sizes"),
        ({"model__name": "mlp", "model__dropout": 1.0}, "model.dropout"),
        ({"model__stem": "cifar"}, "stem"),
        ({"model__name": "lenet", "model__whitening": True}, 'no option "whitening"'),
        ({"optimizer__whitening_bias_epochs": 3.0}, "set model.whitening"),
        (
            {
                "model__name": "airbench94",
                "model__whitening": False,
                "optimizer__whitening_bias_epochs": 3.0,
            },
            "set model.whitening",
        ),
        ({"augment__flip": False, "augment__alternating_flip": True}, "set augment.flip"),
        (
            {"optimizer__name": "adamw", "optimizer__head_lr_factor": 2.0},
            "optimizer.head_lr_factor is for sgd and muon, not adamw",
        ),
        (
            {"optimizer__name": "muon", "init_from": "resnet20_v2"},
            "spoils the weights of init_from",
        ),
        ({"batch_size": None}, "batch_size is None, but takes a whole number"),
        ({"augment__flip": None}, "augment.flip is None, but takes True or False"),
        ({"dataset__name": None}, "dataset.name is None, but takes a text"),
        ({"ema_decay": None}, "ema_decay is None, but takes a number"),
    ],
)
def test_a_contradiction_is_named(fields, says):
    (line,) = complaints(changed(**fields))
    assert says in line


def test_several_mistakes_give_a_line_each():
    wrong = {"batch_size": 0, "num_epochs": 0, "optimizer__name": "sdg", "model__dtype": "float16"}
    lines = complaints(changed(**wrong))
    assert len(lines) == 4
    for name in ("batch_size", "num_epochs", "optimizer.name", "model.dtype"):
        assert sum(name in line for line in lines) == 1


def test_every_kind_of_mistake_is_told_at_once():
    config = changed(num_epochs=0, augment__cutout=40, model__name="lenet", model__stem="cifar")
    config = ConfigDict({**config.to_dict(), "batch_size": "big", "learning_rate": 0.1})
    config.model.activation = "relu"
    lines = complaints(config)
    for words in (
        "there is no field learning_rate",
        "batch_size is 'big'",
        "num_epochs is 0",
        "augment.cutout 40",
        'no option "stem"',
        'no option "activation"',
    ):
        assert sum(words in line for line in lines) == 1, (words, lines)
    assert len(lines) == 6


def test_nothing_is_said_of_a_field_together_with_one_that_is_wrong():
    # The program cannot know which field is wrong.
    (line,) = complaints(changed(num_epochs=0, lr_schedule__warmup_epochs=9.0))
    assert "num_epochs is 0" in line


def test_boundaries_after_the_last_epoch_are_for_a_longer_run():
    config_lib.validate(changed(num_epochs=10), default.FIELDS)


def test_coarse_labels_of_a_version_of_cifar100():
    tiles = {"dataset__name": "mosaic", "dataset__tiles": "cifar100:3.0.2", "model__fcn_stride": 1}
    fields = changed(**tiles, dataset__labels="coarse")
    config_lib.validate(fields, default.FIELDS)
    fields = changed(dataset__name="cifar100:3.0.2", dataset__labels="coarse")
    config_lib.validate(fields, default.FIELDS)


def test_fields_that_are_not_there_and_fields_that_are_missing():
    config = default.get_config()
    config.augment.cutut = 8
    assert complaints(config) == [
        "config: there is no field augment.cutut; did you mean 'augment.cutout'?"
    ]
    del config.augment["cutut"], config["seed"]
    assert complaints(config) == ["config: seed is missing: start from configs/default.py"]


def test_a_number_or_a_list_where_a_group_or_a_text_belongs():
    config = ConfigDict(default.get_config().to_dict())
    config = ConfigDict({**config.to_dict(), "augment": 3, "init_from": 4, "seed": True})
    lines = complaints(config)
    for name in ("augment is 3", "init_from is 4", "seed is True"):
        assert sum(f"config: {name}" in line for line in lines) == 1
    assert len(lines) == 3


@pytest.mark.parametrize("path", recipes(), ids=os.path.basename)
def test_a_recipe_is_valid_and_survives_json(path):
    config = load(path)
    config_lib.validate(config, default.FIELDS)
    again = config_lib.from_json(config_lib.to_json(config), default.get_config())
    assert again.to_dict() == config.to_dict()
    assert config_lib.differences(*map(config_lib.recipe, (config, again))) == []


def test_recipes_are_listed_with_a_line_each():
    listed = dict(recipe_files.list_recipes())
    assert os.path.relpath(os.path.join(recipe_files.RECIPES, "quickstart.py")) in listed
    assert not any(os.path.basename(path) == "default.py" for path in listed)
    assert all(listed.values())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a config"),
        ('{"seed": ', "not a config"),
        ("[1]", "group of fields"),
        ('{"augment": 1}', "group of fields"),
        ('{"sed": 1}', "did you mean 'seed'?"),
        ('{"seed": "one"}', "seed"),
        ('{"format": 3, "seed": 1}', "format version 3, but this program reads 1 to 2"),
        ('{"format": "new"}', "format version 'new'"),
        ('{"format": true}', "format version True"),
        ('{"format": 0}', "format version 0"),
        ("[" * 100_000, "not a config"),
    ],
)
def test_a_damaged_config_file_is_told_in_one_line(text, says):
    with pytest.raises(UserError) as caught:
        config_lib.from_json(text, default.get_config())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fields_that_an_older_file_lacks_have_their_default():
    config = config_lib.from_json(json.dumps({"seed": 7}), default.get_config())
    assert config.seed == 7
    assert config.batch_size == default.get_config().batch_size


def test_differences_name_fields_of_the_recipe_only():
    old = default.get_config()
    new = changed(
        optimizer__name="adam",
        lr_schedule__boundaries=(1, 2),
        dataset__data_dir="/there",
        dataset__archive="/that",
        dataset__cache_dir="/cache",
        steps_per_dispatch=3,
        checkpoint_minutes=1.0,
    )
    assert config_lib.differences(*map(config_lib.recipe, (old, new))) == [
        "lr_schedule.boundaries: [100, 150] -> [1, 2]",
        "optimizer.name: sgd -> adam",
    ]


def test_a_list_and_a_tuple_are_the_same_recipe():
    old, new = changed(dataset__mean=(0.5, 0.5, 0.5)), changed()
    assert config_lib.differences(*map(config_lib.recipe, (old, new))) != []
    again = config_lib.from_json(
        config_lib.to_json(changed(dataset__mean=(0.5, 0.5, 0.5))), default.get_config()
    )
    assert again.dataset.mean == (0.5, 0.5, 0.5)
