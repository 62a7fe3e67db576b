"""The numbers that an optimizer object is made with, and what stands for them later."""

import dataclasses
import inspect
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from adagrad_jax._around_update import Keras3Options
from adagrad_jax._checks import check_hyperparameter
from adagrad_jax.keras import schedules
from adagrad_jax.keras._step import Schedule
from adagrad_jax.keras._variable import Variable

LearningRate = ArrayLike | Variable | Schedule | Callable[[], ArrayLike]

OPTIONS = tuple(field.name for field in dataclasses.fields(Keras3Options))
_names: Counter[str] = Counter()


def unique_name(kind: type) -> str:
    """Keras' names for what was given none: "adagrad", then "adagrad_1"."""
    name = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
    _names[name] += 1
    return name if _names[name] == 1 else f"{name}_{_names[name] - 1}"


def given_options(options: Keras3Options) -> dict[str, Any]:
    """Those that are not what they would be by default."""
    fields = dataclasses.fields(options)
    given = {
        field.name: (getattr(options, field.name), field.default) for field in fields
    }
    return {name: v for name, (v, default) in given.items() if v is not default}


def checked_options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that were given, in this order, or TensorFlow's errors."""
    for name, value in kwargs.items():
        if name not in ("lr", "decay", *OPTIONS):
            raise TypeError(f"Unexpected keyword argument passed to optimizer: {name}")
        if isinstance(value, int | float) and not value >= 0:
            raise ValueError(f"Expected {name} >= 0, received: {value}")
    return {name: value for name, value in kwargs.items() if value is not None}


def checked_number(name: str, value: Any) -> Any:
    """``value``, if it is a number (also a negative one), or will give one."""
    if callable(value) or isinstance(value, Variable):
        return value
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise TypeError(
            f"`{name}` must be a number, a Variable, or a function of the step or of "
            f"nothing, got {value!r} of type {type(value).__name__}; what a config has "
            "only the name of belongs into `custom_objects`."
        )
    check_hyperparameter(name, abs(value))
    return value


def checked_decay(value: Any) -> Any:
    """``value``, if it is a number that is not negative; a Variable is read later."""
    checked_options({"decay": value})
    if callable(value):
        raise TypeError(f"`decay` must be a number, got {value!r}.")
    return checked_number("decay", value)


def is_schedule(rate: Any) -> bool:
    """Whether it must be given the step."""
    if not callable(rate):
        return False
    try:
        parameters = inspect.signature(rate).parameters.values()
    except ValueError:  # some built-in functions have none
        return False
    return any(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for p in parameters
    )


def as_variable(name: str, value: Any) -> Variable:
    """TensorFlow keeps numbers in float32, but arrays in their own dtype."""
    if isinstance(value, Variable):
        return value
    dtype = value.dtype if isinstance(value, jax.Array) else jnp.float32
    with jax.ensure_compile_time_eval():  # it may be read first inside jit
        return Variable(value, trainable=False, name=name, dtype=dtype)


def serialized(value: Any) -> Any:
    """A hyperparameter as a config holds it."""
    if hasattr(value, "get_config"):
        return schedules.serialize(value)
    if is_schedule(value):
        return getattr(value, "__name__", type(value).__name__)
    if callable(value):
        value = value()
    is_array = isinstance(value, Variable | jax.Array | np.ndarray | np.floating)
    return float(value) if is_array else value


def deserialized(value: Any, custom_objects: Mapping[str, Any]) -> Any:
    """The learning rate that a config holds as ``value``."""
    if isinstance(value, Mapping):
        return schedules.deserialize(value, custom_objects)
    if isinstance(value, str) and value in custom_objects:
        return custom_objects[value]
    return value
