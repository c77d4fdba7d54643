"""Views of a config: flat, and reduced to the fields that decide what a run computes."""

from ml_collections import ConfigDict

# Where and how a run works, not what it computes. A resumed run may change these.
NOT_PART_OF_THE_RECIPE = (
    "dataset.data_dir",
    "dataset.archive",
    "dataset.path",
    "dataset.cache_dir",
    "deterministic",
    "autotune_level",
    "test_time_augmentation",
    "steps_per_dispatch",
    "checkpoint_minutes",
    "profile",
)


def flatten(config: ConfigDict) -> dict:
    """The fields as {"optimizer.name": "sgd", ...}, with lists for tuples as in JSON."""
    flat = {}

    def visit(prefix, fields):
        for name, value in fields.items():
            if isinstance(value, dict):
                visit(f"{prefix}{name}.", value)
            else:
                flat[prefix + name] = list(value) if isinstance(value, tuple) else value

    visit("", config.to_dict())
    return flat


def recipe(config: ConfigDict) -> dict:
    """The flat fields that decide what a run computes."""
    fields = flatten(config)
    return {name: fields[name] for name in fields if name not in NOT_PART_OF_THE_RECIPE}


def differences(old: dict, new: dict) -> list[str]:
    """The fields in which two recipes, as `recipe` gives them, differ: "name: old -> new"."""
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def model_options(config: ConfigDict) -> dict:
    """The keyword arguments of config.model that are set, without the name."""
    return {k: v for k, v in config.model.items() if k != "name" and v is not None}
