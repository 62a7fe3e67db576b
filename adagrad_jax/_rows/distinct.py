"""Which entries of a gradient belong to the same row?

On a CPU that is told by hashing: each entry writes its position into a small scratch
array at its id's hash; the first one there represents the row, and entries that met
another row there try again with another hash. That is linear in the entries, and four
times as fast as sorting them. On accelerators, whose sorts are fast and whose loops
wait for the host, by sorting.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

from adagrad_jax._rows.blocks import block_size, read
from adagrad_jax._rows.placement import gathered, varying_as, with_automatic_axes


class Distinct(NamedTuple):
    """The distinct rows that ``n`` entries name. Each has a slot.

    Attributes:
      order: ``(n,)``, positions of entries; one slot's are neighbours if they were
        sorted, else it counts from 0.
      slot: ``(n,)``, the slot of entry ``order[i]``; the number of slots, for one that
        names no row.
      ids: The row of each slot; the number of rows, for slots not in use. There are
        whole blocks of them.
      num_used: How many slots are in use: those at the front.
    """

    order: jax.Array
    slot: jax.Array
    ids: jax.Array
    num_used: jax.Array


@functools.partial(jax.jit, static_argnums=1)
def find_distinct(ids: jax.Array, num_rows: int) -> Distinct:
    """Gives a slot to each distinct one of ``ids``, int32 from 0 to ``num_rows``.

    That number stands for no row.
    """

    def find(ids: jax.Array) -> Distinct:
        by_sorting = functools.partial(_by_sorting, num_rows=num_rows)
        if is_symbolic_dim(ids.size):  # no table of hashes is as large as that
            return in_order(by_sorting(ids))
        by_hashing = functools.partial(_by_hashing, num_rows=num_rows)
        return lax.platform_dependent(ids, cpu=by_hashing, default=by_sorting)

    return with_automatic_axes(find, (gathered(ids),))


def _by_hashing(ids: jax.Array, num_rows: int) -> Distinct:
    position = jnp.arange(ids.size, dtype=jnp.int32)
    first = _first_with_same_id(ids)
    return _slots(ids, position, first, first == position, num_rows)


def _by_sorting(ids: jax.Array, num_rows: int) -> Distinct:
    position = jnp.arange(ids.size, dtype=jnp.int32)
    ids, order = lax.sort((ids, position), num_keys=1, is_stable=True)
    is_first = jnp.concatenate([jnp.ones_like(ids[:1], bool), ids[1:] != ids[:-1]])
    return _slots(ids, order, position, is_first, num_rows)


def _slots(
    ids: jax.Array,
    order: jax.Array,
    same: jax.Array,
    is_first: jax.Array,
    num_rows: int,
) -> Distinct:
    """Counts the distinct ids that name a row, and gives them their slots.

    Args:
      ids: Of entries ``order``.
      order: Positions.
      same: For each entry one before it, or itself, before which are as many distinct
        ids as before the first entry with its id.
      is_first: Whether an entry is the first one with its id.
      num_rows: The number of rows, which names none.
    """
    # At most as many as there are rows, and padded to whole blocks.
    num_slots: Any = ids.size
    if not is_symbolic_dim(num_slots):
        num_slots = max(1, min(num_slots, num_rows))
    block = block_size(num_slots)
    num_slots = -(-num_slots // block) * block
    named = ids < num_rows
    is_first = is_first & named
    rank = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    # Those that name no row, or not a new one, come after the last.
    place = jnp.where(is_first, rank, num_slots)
    of_slots = jnp.full(num_slots + 1, num_rows, ids.dtype)
    of_slots = of_slots.at[place].set(ids, mode="promise_in_bounds")
    distinct = Distinct(
        order=order,
        slot=jnp.where(named, read(rank, same), num_slots),
        ids=of_slots[:num_slots],
        num_used=jnp.max(rank, initial=-1) + 1,
    )
    return varying_as(distinct, ids)


def in_order(distinct: Distinct) -> Distinct:
    """The same, whose ``order`` counts from 0."""
    order = distinct.order
    slot = jnp.zeros_like(order).at[order].set(distinct.slot, mode="promise_in_bounds")
    return distinct._replace(order=jnp.arange(order.size, dtype=order.dtype), slot=slot)


_GOLDEN_RATIO = 0x9E3779B1  # a prime near 2^32 times it


def _first_with_same_id(ids: jax.Array) -> jax.Array:
    """For each entry the position of the first one with the same id."""
    n = ids.size
    position = jnp.arange(n, dtype=jnp.int32)
    # Twice the entries: half as many would meet others more often than it saves memory.
    bits = math.ceil(math.log2(2 * max(n, 1)))

    def try_hash(state: tuple[Any, ...]) -> tuple[Any, ...]:
        multiplier, first = state
        # Multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4).
        hashed = (ids.astype(jnp.uint32) * multiplier) >> (32 - bits)
        place = jnp.where(first < 0, hashed.astype(jnp.int32), 1 << bits)
        scratch = jnp.full((1 << bits) + 1, n - 1, jnp.int32)
        scratch = scratch.at[place].min(position, mode="promise_in_bounds")
        candidate = read(scratch, place)
        same = read(ids, candidate) == ids
        # An odd multiplier times an odd constant is another odd multiplier.
        next_multiplier = multiplier * jnp.uint32(_GOLDEN_RATIO)
        return next_multiplier, jnp.where((first < 0) & same, candidate, first)

    none_yet = varying_as(jnp.full(n, -1, jnp.int32), ids)
    state = jnp.uint32(_GOLDEN_RATIO), none_yet
    return lax.while_loop(lambda state: jnp.any(state[1] < 0), try_hash, state)[1]
