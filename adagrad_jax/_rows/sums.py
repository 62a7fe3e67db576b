"""Sum what was said of each row: Adagrad must square a row's whole gradient.

On a CPU in the place of the entries, for memory of their own would have to be cleared
first; and some slots at a time, by a loop that ends with the last one in use, so that
neither padding nor the table's size costs anything. On accelerators by a segmented sum,
since a scatter-add of repeated rows is slow there (jax#38806, xla#46225, xla#26371).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim

from adagrad_jax._rows.blocks import add_at, block_size, end_of_all, read
from adagrad_jax._rows.distinct import Distinct, find_distinct
from adagrad_jax._rows.placement import gathered, varying_as, with_automatic_axes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """For each distinct row the sum of its entries.

    Attributes:
      rows: ``(num_slots, ...)``, that of each slot; anything, for slots that are not in
        use.
      distinct: What :func:`find_distinct` says of the entries' ids.
      row_axes: How many axes of a table, the first ones, name a row. Ids are row-major
        over them.
      dtype: What sums are rounded to, once, and before any stage; rows may be more
        precise.
      first_row: The number of the first of the rows at hand, in a table of which these
        are a part; None, if they are all.
    """

    rows: jax.Array
    distinct: Distinct
    row_axes: int = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})
    first_row: jax.Array | None = None

    @classmethod
    def of(
        cls,
        ids: jax.Array,
        entries: jax.Array,
        num_rows: int,
        row_axes: int,
        dtype: Any,
        first_row: jax.Array | None = None,
    ) -> "Sums":
        """Of entries ``(n, ...)``, whose ids are from 0 to ``num_rows``, for none."""
        distinct = find_distinct(ids, num_rows)
        rows = _sum_rows(entries, distinct)
        return cls(rows, distinct, row_axes, dtype, first_row)


@jax.jit
def _sum_rows(entries: jax.Array, distinct: Distinct) -> jax.Array:
    """The sum of each slot's entries, in float32 or wider."""

    def run(entries: jax.Array, distinct: Distinct) -> jax.Array:
        return lax.platform_dependent(
            entries, distinct, cpu=_sum_in_place, default=_sum_neighbours
        )

    if jnp.finfo(entries.dtype).bits < 32:
        entries = entries.astype(jnp.float32)
    return with_automatic_axes(run, (gathered(entries), distinct))


def _sum_in_place(entries: jax.Array, distinct: Distinct) -> jax.Array:
    """A slot's first entry is not before the slot's own place.

    So what a block of slots takes the place of has been summed, in it or before.
    """
    num_slots = distinct.ids.size
    size = block_size(num_slots)

    def block(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        start, rows = state
        sums = jnp.zeros((size, *rows.shape[1:]), rows.dtype)
        # With a place for what is dropped each block would read all entries.
        sums = add_at(sums, distinct.slot - start, rows)
        return start + size, lax.dynamic_update_slice_in_dim(rows, sums, start, axis=0)

    if not is_symbolic_dim(num_slots):
        more = max(0, num_slots - entries.shape[0])
        entries = jnp.pad(entries, [(0, more)] + [(0, 0)] * (entries.ndim - 1))
        slot = jnp.pad(distinct.slot, (0, more), constant_values=num_slots)
        distinct = distinct._replace(slot=slot)
    place = jnp.arange(distinct.slot.size, dtype=jnp.int32)
    # Nothing to add up, if each entry is in its slot's place, as distinct ids' are.
    named = distinct.slot < jnp.asarray(num_slots, jnp.int32)
    moved = jnp.any((distinct.slot != place) & named)
    end = end_of_all(jnp.where(moved, distinct.num_used, 0))
    state = jnp.zeros_like(end), varying_as(entries, distinct)
    return lax.while_loop(lambda s: s[0] < end, block, state)[1][:num_slots]


def _sum_neighbours(entries: jax.Array, distinct: Distinct) -> jax.Array:
    """The same for all slots at once, without adding two entries to one place."""
    num_slots, slot = distinct.ids.size, distinct.slot
    ordered = read(entries, distinct.order)
    if is_symbolic_dim(slot.size) or slot.size == 0:  # a scan needs to know how long
        sums = jnp.zeros((num_slots, *entries.shape[1:]), entries.dtype)
        return add_at(sums, slot, ordered)
    _, running = lax.associative_scan(_add_if_same_slot, (slot, ordered))
    is_last = jnp.concatenate([slot[1:] != slot[:-1], jnp.ones_like(slot[:1], bool)])
    position = jnp.arange(slot.size, dtype=jnp.int32)
    place = jnp.where(is_last, slot, num_slots)
    last = jnp.zeros(num_slots + 1, jnp.int32)
    last = last.at[place].set(position, mode="promise_in_bounds")
    return read(running, last[:num_slots])


def _add_if_same_slot(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    left_slot, left_sum = left
    slot, own_sum = right
    # In lax: a scan calls this many times, and jax.numpy takes longer to trace.
    same = lax.broadcast_in_dim(lax.eq(left_slot, slot), own_sum.shape, [0])
    return slot, lax.select(same, lax.add(own_sum, left_sum), own_sum)
