"""Loops over blocks of slots, on a CPU, and reading and writing of rows by them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim


def block_size(num_slots: Any) -> Any:
    """How many slots one turn of a loop on a CPU sums or visits."""
    if is_symbolic_dim(num_slots):
        return num_slots
    # A turn that sums looks at the slots of all entries, so there should be few turns;
    # but a batch that repeats rows should not pay for a block that it does not fill.
    turns = min(max(-(-num_slots // 256), 1), 4)
    return -(-num_slots // turns)


@jax.custom_batching.custom_vmap
def end_of_all(num_used: jax.Array) -> jax.Array:
    """Where the loop over slots may end: for all that ``jax.vmap`` runs, at the last.

    If each had an end of its own, a turn would copy all tables, to keep the one that
    it makes or the one before.
    """
    return num_used


@end_of_all.def_vmap
def _end_of_all(size: int, batched: Any, num_used: jax.Array) -> tuple[jax.Array, bool]:
    del size, batched
    return end_of_all(jnp.max(num_used)), False  # of an outer vmap, too


def read(array: jax.Array, index: Any) -> jax.Array:
    return array.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _dropping(put: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """``put(array, index, rows)``, which drops what is elsewhere.

    No checker of indices looks into it.
    """
    put_at = jax.custom_batching.custom_vmap(put)

    @put_at.def_vmap
    def put_each_at(axis_size: int, batched: Any, *args: Any) -> tuple[Any, bool]:
        del axis_size
        in_axes = jax.tree.map(lambda is_batched: 0 if is_batched else None, batched)
        return jax.vmap(put, in_axes)(*args), True

    return put_at


@_dropping
def add_at(array: jax.Array, index: Any, rows: jax.Array) -> jax.Array:
    return array.at[index].add(rows, mode="drop", wrap_negative_indices=False)


@_dropping
def set_at(array: jax.Array, index: Any, rows: jax.Array) -> jax.Array:
    return array.at[index].set(rows, mode="drop", wrap_negative_indices=False)
