"""What a gradient of rows is made of, checked."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


def row_or_none(ids: jax.Array | np.ndarray, num_rows: int) -> jax.Array:
    """int32, and ``num_rows`` where ids are out of range."""
    if num_rows == 0:  # an unsigned dtype has no -1 to compare with
        return jnp.zeros(ids.shape, jnp.int32)
    # A narrow dtype may not be able to hold the last row's number.
    last = min(num_rows - 1, jnp.iinfo(ids.dtype).max)
    within = (ids >= 0) & (ids <= last)
    return jnp.where(within, ids.astype(jnp.int32), num_rows)


def scalar(done: str, value: Any) -> ArrayLike:
    is_number = isinstance(value, int | float | complex | np.number)
    if is_number or (isinstance(value, jax.Array | np.ndarray) and value.ndim == 0):
        return value
    raise TypeError(
        f"a RowSparse can be {done} by a scalar only, got {value!r} of type "
        f"{type(value).__name__}; .to_dense() is an ordinary array."
    )


def check_inexact(name: str, dtype: DTypeLike) -> None:
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"`{name}` must be floating-point or complex, got dtype {dtype}."
        )


def check_parts(
    ids: jax.Array | np.ndarray, values: jax.Array, shape: tuple[int, ...]
) -> None:
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"`ids` must be integers, got dtype {ids.dtype}; convert them where they "
            "are made, so that no row is lost to rounding."
        )
    check_inexact("values", values.dtype)
    if ids.ndim != 1:
        raise ValueError(
            f"`ids` must be of one axis, got shape {ids.shape}; pass ids.ravel() and "
            "values.reshape(-1, *shape[row_axes:])."
        )
    row_axes = len(shape) - values.ndim + 1
    if not shape or not 1 <= row_axes <= len(shape):
        row_axes = 1  # what is most often meant
    if not shape or math.prod(shape[:row_axes]) > jnp.iinfo(jnp.int32).max:
        raise ValueError(
            f"`shape` must have a first axis of rows, fewer than 2**31, got {shape}"
            f"{f', with {row_axes} axes that name a row' if row_axes > 1 else ''}."
        )
    if values.shape != (ids.size, *shape[row_axes:]):
        raise ValueError(
            f"`values` must be of shape {(ids.size, *shape[1:])}, for {ids.size} ids "
            f"and a table of shape {shape} (or, where several of its first axes name a "
            f"row, of the axes after them), got {values.shape}."
        )
