"""`validate`: all mistakes of a config, found before anything is loaded."""

import functools

from ml_collections import ConfigDict

from cifar_jax import models
from cifar_jax.config.contradictions import Errors, contradictions
from cifar_jax.config.fields import Field, bounds_error, choice_error, to_config, type_error
from cifar_jax.config.recipe import flatten, model_options
from cifar_jax.config.words import nearest, shown
from cifar_jax.errors import UserError
from cifar_jax.system import memory


def validate(
    config: ConfigDict, fields: dict[str, Field], part: str | tuple[str, ...] = ""
) -> None:
    """Raises UserError with a line for each field that is wrong, all at once.

    A wrong field is reported once; the remaining checks see its default instead.

    Args:
      config: the recipe, with the command line's changes.
      fields: FIELDS of configs/default.py.
      part: such as ("dataset.", "seed"): only mistakes that concern these fields and no others.
    """
    default, checked = to_config(fields), to_config(fields)
    errors = _field_errors(config, default, checked)
    flat, defaults = flatten(checked), flatten(default)
    for check in (functools.partial(_value_errors, fields), contradictions):
        wrong = {name for names, _ in errors for name in names}
        flat |= {name: defaults[name] for name in wrong & fields.keys()}
        errors += [(names, words) for names, words in check(flat) if not wrong & {*names}]
    wrong = {name for names, _ in errors for name in names}
    if part:
        errors = [error for error in errors if all(name.startswith(part) for name in error[0])]
    else:
        errors += _model_errors(checked, wrong)
    if errors:
        raise UserError("\n".join(f"config: {words}" for _, words in errors))


def _field_errors(config, default, checked, prefix="") -> list:
    """Fields that are unknown, missing or of another type; copies the others into `checked`."""
    if not isinstance(config, ConfigDict):
        names = tuple(f"{prefix}{name}" for name in default)
        return [(names, f"{prefix.rstrip('.')} is {shown(config)}, but is a group of fields")]
    errors = []
    for name in config:
        if name not in default:
            field = f"{prefix}{name}"
            hint = nearest(field, [f"{prefix}{right}" for right in default])
            errors.append(((field,), f"there is no field {field}{hint}"))
    for name in default:
        field = f"{prefix}{name}"
        if name not in config:
            errors.append(((field,), f"{field} is missing: start from configs/default.py"))
        elif isinstance(default[name], ConfigDict):
            errors += _field_errors(config[name], default[name], checked[name], f"{field}.")
        elif config[name] is not None or default[name] is not None:
            takes = type_error(config[name], default.get_type(name))
            if takes:
                errors.append(((field,), f"{field} is {shown(config[name])}, but takes {takes}"))
            else:
                value = config[name]
                checked[name] = tuple(value) if isinstance(value, list) else value
    return errors


def _value_errors(fields: dict[str, Field], flat: dict) -> Errors:
    """Values of the right type that are none of the choices or out of bounds."""
    for name, field in fields.items():
        words = choice_error(name, flat[name], field) or bounds_error(name, flat[name], field)
        if words:
            yield (name,), words


def _model_errors(config, wrong: set[str]) -> list:
    """What is wrong with config.model, and whether the network fits images of this size."""
    if wrong & {"model.name"}:
        return []
    options = {k: v for k, v in model_options(config).items() if f"model.{k}" not in wrong}
    mistakes = models.mistakes(config.model.name, **options)
    if mistakes:
        return [(("model",), f"model: {words}") for words in mistakes]
    size, batch_size = config.dataset.image_size, config.batch_size
    is_usual = (
        size == 32 and batch_size > 1 and not {"hidden_sizes", "width", "fcn_stride"} & {*options}
    )
    if is_usual or wrong & {"dataset.image_size", "batch_size"}:
        return []  # known to fit; tracing a network takes up to half a second
    try:
        count = models.count_parameters(
            models.create_model(config.model.name, 10, **options), size, min(2, batch_size)
        )
    except UserError as error:
        return [(("model",), f"model: {error}")]
    # The parameters, their gradients and their updates, in float32.
    needed, there = 3 * 4 * count, memory.of_this_machine()
    if there and needed > there:
        words = (
            f"model: it has {count:,} parameters; to train them takes more than "
            f"{memory.in_words(needed)}, and this machine has {memory.in_words(there)}"
        )
        return [(("model",), words)]
    return []
