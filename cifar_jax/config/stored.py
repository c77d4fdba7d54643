"""A config as JSON, as a workdir keeps it in config.json."""

import copy
import json

from ml_collections import ConfigDict

from cifar_jax.config.words import nearest, shown
from cifar_jax.errors import UserError

# Format version of config.json and report.json. Raise it when an older program would misread a workdir.
# Version 2 has the history in a file of its own, not in each checkpoint.
FORMAT = 2


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON that `from_json` reads."""
    return json.dumps({"format": FORMAT, **config.to_dict()}, indent=2) + "\n"


def from_json(text: str, default: ConfigDict) -> ConfigDict:
    """A config with the fields of `default` and the values in `text`.

    Raises:
      UserError: the text is not a config, has another format, or names an unknown field.
    """
    config = copy.deepcopy(default)
    try:
        values = json.loads(text)
        check_format(values)
        if isinstance(values, dict):
            values.pop("format", None)
        with config.unlocked():
            _update(config, values)
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"not a config of this version: {error}") from None
    return config


def check_format(values) -> None:
    """Raises UserError if the JSON of a workdir's file has an unknown format version.

    Files without a version are older than versions, and count as version 1.
    """
    version = values.get("format", 1) if isinstance(values, dict) else 1
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise UserError(
            f"it has format version {shown(version)}, but this program reads 1 to {FORMAT}: use the "
            "program that wrote it, or a newer one"
        )


def _update(config, values):
    if not isinstance(values, dict):
        raise ValueError(f"{shown(values)} where a group of fields should be")
    for name, value in values.items():
        if name not in config:
            raise ValueError(f"there is no field {name!r}{nearest(name, config)}")
        if isinstance(config[name], ConfigDict):
            _update(config[name], value)
        else:
            config[name] = tuple(value) if isinstance(value, list) else value
