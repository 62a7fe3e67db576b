"""Add updates to parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adagrad_jax._accumulators.rounded import (
    counter_based,
    round_stochastically,
    width_of_line,
)
from adagrad_jax._checks import check_fits_params, check_leaves
from adagrad_jax._precision import at_least_float32
from adagrad_jax._rows.visit import ROW_NUMBERS, add_rows, replace_rows
from adagrad_jax._trees import is_none, map_given


def apply_updates(
    params: optax.Params, updates: optax.Updates, *, key: jax.Array | None = None
) -> optax.Params:
    r"""Adds ``updates`` to ``params``, :class:`RowSparse` ones to their rows only.

    .. math::

        \theta \leftarrow \theta + u

    As ``optax.apply_updates``, which works too, but for this: updates are checked
    against their parameters, and where one is None, or without a derivative (JAX's
    float0), the parameter stays as it is. Inside ``jax.jit``, with ``params`` donated,
    a table with a row-sparse update is changed in place.

    With a ``key``, sums for bfloat16 and float16 parameters are rounded stochastically:
    up or down at random, so that their mean is exact. Rounded to the nearest, a
    bfloat16 weight does not move at all if an update is less than about 1/512 of it;
    so it moves, on average by as much as it should.

    Args:
      params: A tree of arrays.
      updates: A tree like it.
      key: A JAX random key of any kind, another in each step:
        ``jax.random.fold_in(key, step)``. The same key gives the same numbers, and a
        :class:`RowSparse` update those of its dense form.

    Returns:
      The new parameters, of the old ones' shapes and dtypes; sums are taken in the
      wider of both dtypes, with a key in float32 or wider.

    Raises:
      TypeError: If an update is neither floating-point nor complex, or is a BCOO.
      ValueError: If the trees, or shapes in them, differ.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> update = aj.RowSparse([1], jnp.array([[5.0, 5.0]]), shape=(3, 2))
      >>> print(aj.apply_updates(jnp.ones((3, 2)), update))
      [[1. 1.]
       [6. 6.]
       [1. 1.]]
      >>> weights, small = jnp.ones(10_000, jnp.bfloat16), jnp.full(10_000, 0.001)
      >>> stuck = aj.apply_updates(weights, small)
      >>> moved = aj.apply_updates(weights, small, key=jax.random.key(0))
      >>> [round(float(w.astype(jnp.float32).mean()), 4) for w in (stuck, moved)]
      [1.0, 1.001]

    References:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, "Deep Learning with Limited
      Numerical Precision", ICML 2015, on stochastic rounding.
    """
    updates = map_given(_given, updates)
    check_leaves(updates, "update")
    remedy = "pass the parameters that the updates were computed for"
    check_fits_params(updates, params, "update", remedy)
    leaves, structure = jax.tree.flatten(updates, is_leaf=is_none)
    key = None if key is None else counter_based(key)
    return structure.unflatten(
        [
            param
            if update is None
            else _add(jnp.asarray(param), update, _key_of(key, number, param))
            for number, (update, param) in enumerate(
                zip(leaves, structure.flatten_up_to(params), strict=True)
            )
        ]
    )


def _given(update: Any) -> Any:
    """None for what JAX says of numbers that have no derivative."""
    return None if getattr(update, "dtype", None) == jax.dtypes.float0 else update


def _add(param: jax.Array, update: Any, key: jax.Array | None) -> jax.Array:
    if key is not None:
        add = _AddAndRound(width_of_line(param, update))
        return replace_rows(update, add, param, key, ROW_NUMBERS)
    return add_rows(update, param).astype(param.dtype)


@dataclasses.dataclass(frozen=True)
class _AddAndRound:
    width: int | None

    def __call__(
        self,
        update: jax.Array,
        param: jax.Array,
        key: jax.Array,
        numbers: jax.Array | None,
    ) -> jax.Array:
        dtype = at_least_float32(param.dtype, update.dtype)
        total = param.astype(dtype) + update.astype(dtype)
        return round_stochastically(total, param.dtype, key, numbers, self.width)


def _key_of(key: jax.Array | None, number: int, param: Any) -> jax.Array | None:
    """A leaf's own key, if its precision asks for one."""
    dtype = jnp.result_type(param)
    if key is None or not jnp.issubdtype(dtype, jnp.floating):
        return None
    if jnp.finfo(dtype).bits != 16:
        return None
    return jax.random.fold_in(key, number)
