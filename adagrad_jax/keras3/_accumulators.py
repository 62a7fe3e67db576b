"""Accumulators in Keras' files: what JSON can hold of them, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._accumulators.full_matrix import FullMatrix
from adagrad_jax._accumulators.norm import Norm
from adagrad_jax._accumulators.protocol import Accumulator
from adagrad_jax._accumulators.rounded import RoundedDiagonal
from adagrad_jax._accumulators.row_wise import RowWise
from adagrad_jax._accumulators.sm3 import SM3

_KNOWN = {
    known.__name__: known
    for known in (Diagonal, FullMatrix, Norm, RoundedDiagonal, RowWise, SM3)
}


def accumulator_config(accumulator: Accumulator | None) -> dict[str, Any] | None:
    """The name of its class, and its fields.

    Raises:
      TypeError: If it is no dataclass of numbers, strings and dtypes.
    """
    if accumulator is None:
        return None
    if not dataclasses.is_dataclass(accumulator):
        raise TypeError(
            "to be saved, `accumulator` must be a dataclass, got "
            f"{accumulator!r}; decorate its class with dataclasses.dataclass."
        )
    fields = {
        field.name: _as_json(field.name, getattr(accumulator, field.name))
        for field in dataclasses.fields(accumulator)
        if field.init
    }
    return {"name": type(accumulator).__name__, **fields}


def accumulator_of(
    config: Mapping[str, Any] | None, custom_objects: Mapping[str, Any] | None
) -> Any:
    """The accumulator that :func:`accumulator_config` wrote down.

    Raises:
      ValueError: If its class is not known.
    """
    if config is None:
        return None
    arguments = dict(config)
    name = arguments.pop("name")
    known = _KNOWN.get(name) or keras.saving.get_registered_object(name, custom_objects)
    if known is None:
        raise ValueError(
            f"the accumulator's class {name!r} is not known; pass "
            f"custom_objects={{{name!r}: {name}}}."
        )
    return known(**arguments)


def _as_json(field: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, jnp.ndarray | np.ndarray | np.generic) and value.ndim == 0:
        return value.item()
    try:
        return jnp.dtype(value).name
    except TypeError as error:
        raise TypeError(
            f"to be saved, `accumulator` may have numbers, strings and dtypes, got "
            f"{value!r} in its field {field!r}."
        ) from error
