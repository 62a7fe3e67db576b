"""The sum of gradients of rows over devices, each of which has rows of its own.

Ids may not be added, and rows only to the same row's: every device sends all others its
distinct rows, each with its entries summed, and joins what it gets.
"""

# It knows the type from inside.
# pyright: reportPrivateUsage=false

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

from adagrad_jax._precision import at_least_float32, widest
from adagrad_jax._rows.fold import all_rows
from adagrad_jax._rows.placement import varying_as, varying_axes
from adagrad_jax._rows.row_sparse import RowSparse

AxisName = Any  # a hashable, or a tuple of some


def sum_over(
    gradient: RowSparse, axis_name: AxisName, *, mean: bool = False
) -> RowSparse:
    """The sum, or the mean, of what the devices along the named axes have.

    Each row's sum is rounded to the table's dtype once, after the last device's entry.
    """
    by_rows = gradient.row_sharding
    if by_rows is not None:  # along other axes: what arrived there is with others
        own = RowSparse(gradient.ids, gradient.values, gradient.shape)
        gradient = own.astype(gradient.dtype)
    ids, rows = _distinct_rows(gradient)
    ids, rows = _of_all((ids, rows), axis_name)
    if mean:
        rows = rows / jnp.asarray(lax.axis_size(axis_name), rows.dtype)
    total = RowSparse.on_devices(ids, rows, gradient.shape, by_rows)
    return total.astype(gradient.dtype)


def _distinct_rows(gradient: RowSparse) -> tuple[jax.Array, jax.Array]:
    """This device's rows, each once, and their sums, not rounded yet if possible."""
    sums: Any = gradient._group()
    if not gradient._stages:  # else they want what the table's dtype holds
        dtype = widest(sums.rows.dtype, at_least_float32(sums.dtype))
        sums = dataclasses.replace(sums, dtype=dtype)
    rows = all_rows(sums, gradient._stages)
    # Slots come in whole blocks, but no more are in use than there are ids and rows.
    n, most = gradient._ids.size, gradient.num_rows
    most = n if is_symbolic_dim(n) else min(n, most)
    ids, rows = sums.distinct.ids[:most], rows[:most]
    named = jnp.expand_dims(ids < gradient.num_rows, range(1, rows.ndim))
    return ids, jnp.where(named, rows, jnp.zeros((), rows.dtype))


def _of_all(tree: Any, axis_name: AxisName) -> Any:
    """Each array with those of all devices after one another, the same on all."""
    axes = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    # Where types say over which axes an array varies, an axis' index varies over it.
    tree = varying_as(tree, [lax.axis_index(axis) for axis in axes])

    def gather(x: jax.Array) -> jax.Array:
        if 0 in x.shape:  # which XLA does not gather
            size = lax.axis_size(axis_name) * x.shape[0]
            return jnp.zeros((size, *x.shape[1:]), x.dtype)
        to = "invarying" if varying_axes(x) else "varying"
        return lax.all_gather(x, axis_name, tiled=True, to=to)

    return jax.tree.map(gather, tree)
