"""Every field is checked, every mistake is named, and a config survives the way through JSON."""

import importlib.util
import json
import os

import pytest
from ml_collections import ConfigDict

from cifar_jax import command_line
from cifar_jax import config as config_lib
from cifar_jax.errors import UserError
from configs import default

# Fields whose value is free within their type: names, paths and switches; the rest of these is
# looked at together with other fields.
FREE = {
    "augment.flip",
    "dataset.archive",
    "dataset.cache_dir",
    "dataset.data_dir",
    "dataset.mean",
    "dataset.name",
    "dataset.std",
    "init_from",
    "lr_schedule.boundaries",
    "optimizer.decay_bias_and_norm",
    "optimizer.nesterov",
    "profile",
    "sync_batch_norm",
}


def recipes():
    """Those of configs/ that need no argument."""
    paths = (os.path.abspath(path) for path, _ in command_line.list_recipes())
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
    """The lines of what is wrong with a config."""
    with pytest.raises(UserError) as caught:
        config_lib.validate(config, default.get_config())
    return str(caught.value).splitlines()


def changed(**fields):
    config = default.get_config()
    for name, value in fields.items():
        set_field(config, name.replace("__", "."), value)
    return config


def test_every_field_is_checked_or_free_on_purpose():
    fields = set(config_lib.flatten(default.get_config()))
    # The model's own fields are checked where the model is made.
    model = {field for field in fields if field.startswith("model.")}
    checked = set(config_lib.CHOICES) | set(config_lib.RANGES)
    assert checked | FREE | model == fields
    assert not checked & FREE
    assert set(config_lib.NOT_PART_OF_THE_RECIPE) <= fields
    assert set(config_lib.EXCLUDED) <= set(config_lib.RANGES)


def test_the_default_is_valid():
    config_lib.validate(default.get_config(), default.get_config())


@pytest.mark.parametrize("name", config_lib.RANGES)
def test_a_number_out_of_bounds_is_named(name):
    low, high = config_lib.RANGES[name]
    kind = type(config_lib.flatten(default.get_config())[name])
    wrong = [low - 1, *([high + 1] if high != float("inf") else [])]
    if kind is float:
        wrong += [float("nan"), float("inf")]
    for value in wrong:
        config = default.get_config()
        set_field(config, name, kind(value))
        assert complaints(config)[0].startswith(f"config: {name} ")


@pytest.mark.parametrize("name", config_lib.CHOICES)
def test_a_misspelt_choice_is_named_with_the_nearest(name):
    right = config_lib.CHOICES[name][0]
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
        ({"augment__cutout": 33}, "augment.cutout"),
        ({"model__name": "mobilenet_v3"}, 'did you mean "mobilenet_v2"'),
        ({"model__name": "mlp", "model__hidden_sizes": ("a",)}, "model.hidden_sizes"),
        ({"model__name": "mlp", "model__hidden_sizes": (0,)}, "model.hidden_sizes"),
        ({"model__name": "mlp", "model__dropout": 1.0}, "model.dropout"),
        ({"model__stem": "cifar"}, "stem"),
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
    lines = complaints(changed(batch_size=0, num_epochs=0, optimizer__name="sdg"))
    assert len(lines) == 3
    for name in ("batch_size", "num_epochs", "optimizer.name"):
        assert sum(name in line for line in lines) == 1


def test_fields_that_are_not_there_and_fields_that_are_missing():
    config = default.get_config()
    config.augment.cutut = 8
    assert complaints(config) == ["config: there is no field augment.cutut; did you mean 'cutout'?"]
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
    config_lib.validate(config, default.get_config())
    again = config_lib.from_json(config_lib.to_json(config), default.get_config())
    assert again.to_dict() == config.to_dict()
    assert config_lib.differences(config, again) == []


def test_recipes_are_listed_with_a_line_each():
    listed = dict(command_line.list_recipes())
    assert os.path.relpath(os.path.join(command_line.RECIPES, "quickstart.py")) in listed
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
    ],
)
def test_a_damaged_config_file_is_told_in_one_line(text, says):
    with pytest.raises(UserError, match="not a config of this version") as caught:
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
    assert config_lib.differences(old, new) == [
        "lr_schedule.boundaries: [100, 150] -> [1, 2]",
        "optimizer.name: sgd -> adam",
    ]


def test_a_list_and_a_tuple_are_the_same_recipe():
    assert config_lib.differences(changed(dataset__mean=(0.5, 0.5, 0.5)), changed()) != []
    again = config_lib.from_json(
        config_lib.to_json(changed(dataset__mean=(0.5, 0.5, 0.5))), default.get_config()
    )
    assert again.dataset.mean == (0.5, 0.5, 0.5)
