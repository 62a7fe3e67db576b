"""Arrays of other frameworks to ours, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# What may be below 0, other than sums of squares.
_SIGNED = ("average", "gradient_sum", "table")


def to_numpy(value: Any, what: str = "an array") -> np.ndarray:
    array = value
    if hasattr(array, "detach"):  # a PyTorch tensor, which may be anywhere
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy lacks
            array = array.float()
    try:
        array = np.asarray(array)
    except ValueError:  # a list of lists that differ in length
        array = np.asarray(None)
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(
            f"{what} must be of numbers, got {described(value)}, of dtype "
            f"{array.dtype}."
        )
    return array


def to_number(value: Any) -> int:
    array = to_numpy(value, "a number of steps")
    is_real = array.shape == () and not np.iscomplexobj(array)
    if not is_real or array != np.floor(array) or not 0 <= array < 2**31:
        raise ValueError(
            "a number of steps must be one integer from 0 to 2,147,483,647, got "
            f"{array if array.shape == () else described(value)}."
        )
    return int(array)


def converted(name: str, field: str, array: Any, like: Any) -> np.ndarray:
    """A copy of the array, of the dtype of another, whose shape it must have."""
    array = to_numpy(array, f"{field} of {at_leaf(name)}")
    if array.shape != np.shape(like):
        raise ValueError(
            f"{field} of {at_leaf(name)} is to be of shape {np.shape(like)}, got "
            f"{array.shape}; check that both optimizers have the same parameters and "
            "kind of accumulator, and that `order` (and PyTorch's `axes`) are right."
        )
    if np.iscomplexobj(array) and not jnp.iscomplexobj(like):
        if np.any(array.imag):
            raise TypeError(
                f"{field} of {at_leaf(name)} must be real, got complex numbers; an "
                "accumulator here is the sum of squared magnitudes."
            )
        array = np.real(array)
    with np.errstate(over="ignore"):
        new = array.astype(like.dtype)
    if np.any(np.isinf(new) & ~np.isinf(array)):
        raise ValueError(
            f"{field} of {at_leaf(name)} overflows {like.dtype}, got "
            f"{np.max(np.abs(array))}; keep it in a wider dtype, such as "
            "Diagonal(dtype=jnp.float32)."
        )
    if field not in _SIGNED:
        _check_is_sum_of_squares(f"{field} of {at_leaf(name)}", array, new)
    return new


def _check_is_sum_of_squares(what: str, array: np.ndarray, new: np.ndarray) -> None:
    """Checks values, infinity being one, and what became of them in another dtype."""
    bad = ~(np.real(array) >= 0)
    if np.any(bad):
        raise ValueError(
            f"{what} must be sums of squares, which are 0 or more, got "
            f"{array[bad][0]}; take the state of an Adagrad, from before its training "
            "went wrong."
        )
    lost = (new == 0) & (array != 0)
    if np.any(lost):
        raise ValueError(
            f"{what} becomes 0 in {new.dtype}, got {array[lost][0]}; keep it in a "
            "dtype with smaller numbers, such as Diagonal(dtype=jnp.float32)."
        )


def put_like(array: Any, like: Any) -> jax.Array:
    """The array where another is, with its dtype; ours alone, so it may be aliased."""
    array = np.asarray(array, like.dtype)
    sharding = None
    if isinstance(like, jax.ShapeDtypeStruct):
        sharding = like.sharding
    elif isinstance(like, jax.Array) and not isinstance(like, Tracer):
        # What is not committed to a device may still be moved by what it meets.
        sharding = like.sharding if like.committed else None
    return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)


def at_leaf(name: str) -> str:
    return f"the leaf at {name}" if name else "the one leaf of the tree"


def described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(repr, value)) or '(none)'}"
    if np.isscalar(value):
        return repr(value)
    shape = getattr(value, "shape", None)
    of = f" of {len(value)}" if type(value) in (list, tuple) else ""
    return f"a {type(value).__name__}{of if shape is None else f' of shape {shape}'}"
