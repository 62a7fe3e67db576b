"""Add updates to parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from adagrad_jax._checks import check_fits_params, check_leaves
from adagrad_jax._row_sparse import RowSparse, add_to_rows, from_bcoo_leaves


def apply_updates(params: optax.Params, updates: optax.Updates) -> optax.Params:
    r"""Adds ``updates`` to ``params``, :class:`RowSparse` ones to their rows only.

    .. math::

        \theta \leftarrow \theta + u

    As ``optax.apply_updates``, which works too, but for this: updates are checked
    against their parameters, and BCOO ones are taken. Inside ``jax.jit``, with
    ``params`` donated, a table with a row-sparse update is changed in place.

    Args:
      params: A tree of arrays.
      updates: A tree like it.

    Returns:
      The new parameters, of the old ones' shapes and dtypes; sums are taken in the
      wider of both dtypes.

    Raises:
      TypeError: If an update is neither floating-point nor complex.
      ValueError: If the trees, or shapes in them, differ.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> update = aj.RowSparse([1], jnp.array([[5.0, 5.0]]), shape=(3, 2))
      >>> print(aj.apply_updates(jnp.ones((3, 2)), update))
      [[1. 1.]
       [6. 6.]
       [1. 1.]]
    """
    updates = from_bcoo_leaves(updates)
    check_leaves(updates, "update")
    remedy = "pass the parameters that the updates were computed for"
    check_fits_params(updates, params, "update", remedy)

    def add(update: Any, param: Any) -> Any:
        param = jnp.asarray(param)
        if isinstance(update, RowSparse):
            return update.fold(add_to_rows, param)
        return jnp.asarray(param + update).astype(param.dtype)

    return jax.tree.map(add, updates, params)
