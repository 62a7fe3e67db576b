"""Sum what was said of each row, then visit each distinct row once.

A batch names rows of a table by ids, some of them many times, and Adagrad must square a
row's whole gradient: entries of one row are summed first. Two questions follow, and
what answers them best depends on the hardware.

*Which entries belong together?* On a CPU, by hashing: each entry writes its position
into a small scratch array at its id's hash; the first one there represents the row, and
entries that met another row there try again with another hash. That is linear in the
entries, and four times as fast as sorting them. On accelerators, whose sorts are fast
and whose loops wait for the host, by sorting.

*How are the rows visited?* On a CPU, in blocks that fit the cache, by a loop that ends
with the last row in use: neither padding nor the table's size costs anything. Each loop
takes the sums of its block anew, which is cheaper than to keep them: the memory for all
would have to be cleared first. On accelerators, in one pass with a segmented sum, since
a scatter-add of repeated rows is slow there (jax#38806, xla#46225, xla#26371).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

Carry = TypeVar("Carry")


class RowsOf(NamedTuple):
    """An operand of which a function of rows gets the rows that it is called with.

    Attributes:
      tables: A tree of arrays that have the table's first axis.
    """

    tables: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Marker:
    """An operand that stands for something known only where rows are visited."""

    name: str


ROW_NUMBERS = _Marker("ROW_NUMBERS")
"""An operand in whose place a function of rows gets the rows' numbers in the table.

They are the numbers that random bits and counters may depend on: what indexes the
arrays at hand is not the function's business.
"""

FIRST_SLOT = _Marker("FIRST_SLOT")
"""The same for the slot of the first of the rows; their slots are consecutive."""

Stage = tuple[Callable[..., jax.Array], tuple[Any, ...]]
"""A hashable ``function(rows, *operands) -> rows``, and its operands.

Rows are ``(k, ...)``. Operands are whole but for those marked as :class:`RowsOf`, or
one of the constants above. What it makes of rows out of range is ignored.
"""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Changing:
    """Stands, among the tables that a stage reads, for one that the fold changes.

    A stage that reads the rows which it makes an update for would otherwise make XLA
    copy the table, to have it as it was before. No row is visited twice, so these rows
    still are as they were.
    """

    leaf: int


class Distinct(NamedTuple):
    """The distinct rows that ``n`` entries name. Each has a slot.

    Attributes:
      order: ``(n,)``, positions of entries; one slot's are neighbours if they were
        sorted, else it counts from 0.
      slot: ``(n,)``, the slot of entry ``order[i]``.
      ids: The row of each slot. Slots not in use have the number of rows, so they are
        out of range, and there are whole blocks of them.
      num_used: How many slots are in use: those at the front.
    """

    order: jax.Array
    slot: jax.Array
    ids: jax.Array
    num_used: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
    """For each distinct row the sum of its entries.

    Attributes:
      entries: ``(n, ...)``.
      distinct: What :func:`find_distinct` says of their ids.
      dtype: What sums are rounded to, once, and before any stage; entries may be more
        precise.
    """

    entries: jax.Array
    distinct: Distinct
    dtype: Any = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnums=1)
def find_distinct(ids: jax.Array, num_rows: int) -> Distinct:
    """Gives a slot to each distinct one of ``ids``, int32 from 0 to ``num_rows``."""
    return lax.platform_dependent(
        ids,
        cpu=functools.partial(_by_hashing, num_rows=num_rows),
        default=functools.partial(_by_sorting, num_rows=num_rows),
    )


def of_slots(distinct: Distinct) -> Distinct:
    """For entries that are in the order of the slots, one for each."""
    position = jnp.arange(distinct.ids.size, dtype=jnp.int32)
    return distinct._replace(order=position, slot=position)


def fold(
    step: Callable[..., Carry],
    carry: Carry,
    sums: Sums,
    stages: tuple[Stage, ...] = (),
    operands: tuple[Any, ...] = (),
) -> Carry:
    """Visits all distinct rows, some at a time.

    Args:
      step: A hashable ``(carry, rows, ids, *operands) -> carry``, called with the sums
        of some rows, as the stages made them; where ids are out of range, rows are
        meaningless.
      carry: A tree of arrays; tables in it are updated in place if XLA can.
      sums: Of the entries of each row.
      stages: What to apply to the sums, in order.
      operands: For ``step``, whole or marked as for a stage.
    """
    leaf_of = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(carry))}

    def mark(operand: Any) -> Any:
        if not isinstance(operand, RowsOf):
            return operand
        return jax.tree.map(
            lambda x: _Changing(leaf_of[id(x)]) if id(x) in leaf_of else x, operand
        )

    functions = tuple(function for function, _ in stages)
    stage_operands = tuple(tuple(map(mark, others)) for _, others in stages)
    return _fold(step, functions, carry, sums, stage_operands, operands)


def all_rows(sums: Sums, stages: tuple[Stage, ...] = ()) -> jax.Array:
    """The row of every slot; anything for those whose ids are out of range."""
    functions = tuple(function for function, _ in stages)
    stage_operands = tuple(operands for _, operands in stages)
    return _all_rows(functions, sums, stage_operands)


def at_rows(
    ids: jax.Array, operands: tuple[Any, ...], first_slot: Any = None
) -> tuple[Any, ...]:
    """The operands as a function of the rows at ``ids`` gets them."""

    def resolved(operand: Any) -> Any:
        if isinstance(operand, RowsOf):
            return jax.tree.map(lambda table: take_rows(table, ids), operand.tables)
        if isinstance(operand, _Marker):
            return ids if operand == ROW_NUMBERS else first_slot
        return operand

    return tuple(map(resolved, operands))


def result_of(
    function: Callable[..., Any], rows: Any, operands: tuple[Any, ...]
) -> Any:
    """The shapes and dtypes of what ``function(rows, *operands)`` gives."""
    ids = jax.ShapeDtypeStruct(rows.shape[:1], jnp.int32)
    return jax.eval_shape(
        lambda rows, ids, operands: function(rows, *at_rows(ids, operands)),
        rows,
        ids,
        operands,
    )


def take_rows(table: jax.Array, ids: jax.Array) -> jax.Array:
    """Some of a table's rows; anything where ids are out of range."""
    if not table.shape[0]:
        return jnp.zeros((ids.size, *table.shape[1:]), table.dtype)
    return table.at[ids].get(mode="clip")


def set_rows(table: jax.Array, ids: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` with other rows at distinct ``ids``; those out of range are dropped."""
    return table.at[ids].set(rows.astype(table.dtype), mode="drop", unique_indices=True)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _fold(
    step: Callable[..., Carry],
    functions: tuple[Callable[..., jax.Array], ...],
    carry: Carry,
    sums: Sums,
    stage_operands: tuple[tuple[Any, ...], ...],
    operands: tuple[Any, ...],
) -> Carry:
    entries, distinct = sums.entries, sums.distinct

    def visit(carry: Carry, rows: jax.Array, ids: jax.Array, first_slot: Any) -> Carry:
        leaves = jax.tree.leaves(carry)
        current = jax.tree.map(
            lambda x: leaves[x.leaf] if isinstance(x, _Changing) else x,
            stage_operands,
            is_leaf=lambda x: isinstance(x, _Changing),
        )
        rows = _through(functions, current, rows.astype(sums.dtype), ids)
        return step(carry, rows, ids, *at_rows(ids, operands, first_slot))

    def in_blocks(carry: Carry) -> Carry:
        size = _block_size(distinct.ids.size)

        def block(state: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
            start, carry = state
            ids = lax.dynamic_slice_in_dim(distinct.ids, start, size)
            # Or else XLA may add what a stage adds before the entries are summed.
            rows = lax.optimization_barrier(
                _sum_slots(entries, distinct.slot - start, size)
            )
            return start + size, visit(carry, rows, ids, start)

        start, end = jnp.zeros((), distinct.num_used.dtype), _end(distinct.num_used)
        return lax.while_loop(lambda s: s[0] < end, block, (start, carry))[1]

    def in_one_pass(carry: Carry) -> Carry:
        return visit(carry, _sum_neighbours(entries, distinct), distinct.ids, 0)

    return lax.platform_dependent(carry, cpu=in_blocks, default=in_one_pass)


@functools.partial(jax.jit, static_argnums=0)
def _all_rows(
    functions: tuple[Callable[..., jax.Array], ...],
    sums: Sums,
    stage_operands: tuple[tuple[Any, ...], ...],
) -> jax.Array:
    entries, distinct = sums.entries, sums.distinct
    num_slots = distinct.ids.size
    rows = lax.platform_dependent(
        cpu=lambda: _sum_slots(entries, distinct.slot, num_slots),
        default=lambda: _sum_neighbours(entries, distinct),
    ).astype(sums.dtype)
    return _through(functions, stage_operands, rows, distinct.ids)


@jax.custom_batching.custom_vmap
def _end(num_used: jax.Array) -> jax.Array:
    """Where the loop over slots may end: for all that ``jax.vmap`` runs, at the last.

    If each had an end of its own, a turn would copy all tables, to keep the one that
    it makes or the one before. What is beyond a model's own end names no row.
    """
    return num_used


@_end.def_vmap
def _end_of_all(size: int, batched: Any, num_used: jax.Array) -> tuple[jax.Array, bool]:
    del size, batched
    return _end(jnp.max(num_used)), False  # of an outer vmap, too


def _through(
    functions: tuple[Callable[..., jax.Array], ...],
    stage_operands: tuple[tuple[Any, ...], ...],
    rows: jax.Array,
    ids: jax.Array,
) -> jax.Array:
    for function, operands in zip(functions, stage_operands, strict=True):
        rows = function(rows, *at_rows(ids, operands))
    return rows


def _by_hashing(ids: jax.Array, num_rows: int) -> Distinct:
    position = jnp.arange(ids.size, dtype=jnp.int32)
    first = _first_with_same_id(ids)
    is_first = first == position
    rank = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    return Distinct(
        order=position,
        slot=_read(rank, first),
        ids=_compact(ids, is_first, rank, num_rows),
        num_used=jnp.max(rank, initial=-1) + 1,
    )


def _by_sorting(ids: jax.Array, num_rows: int) -> Distinct:
    position = jnp.arange(ids.size, dtype=jnp.int32)
    ids, order = lax.sort((ids, position), num_keys=1, is_stable=True)
    is_first = jnp.concatenate([jnp.ones_like(ids[:1], bool), ids[1:] != ids[:-1]])
    rank = jnp.cumsum(is_first, dtype=jnp.int32) - 1
    return Distinct(
        order=order,
        slot=rank,
        ids=_compact(ids, is_first, rank, num_rows),
        num_used=jnp.max(rank, initial=-1) + 1,
    )


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
        candidate = _read(scratch, place)
        same = _read(ids, candidate) == ids
        # An odd multiplier times an odd constant is another odd multiplier.
        next_multiplier = multiplier * jnp.uint32(_GOLDEN_RATIO)
        return next_multiplier, jnp.where((first < 0) & same, candidate, first)

    state = jnp.uint32(_GOLDEN_RATIO), jnp.full(n, -1, jnp.int32)
    return lax.while_loop(lambda state: jnp.any(state[1] < 0), try_hash, state)[1]


def _compact(
    ids: jax.Array, is_first: jax.Array, rank: jax.Array, num_rows: int
) -> jax.Array:
    """The distinct ids, in the order of their ranks, padded to whole blocks."""
    # One more than there are rows: entries out of range have a slot too.
    most = max(1, min(ids.size, num_rows + 1))
    block = _block_size(most)
    padded = -(-most // block) * block
    place = jnp.where(is_first, rank, padded)
    return jnp.full(padded, num_rows, ids.dtype).at[place].set(ids, mode="drop")


def _block_size(num_slots: int) -> int:
    """How many rows one turn of the loop on a CPU visits."""
    # A turn looks at the slots of all entries, so there should be few turns; but a
    # batch that repeats rows should not pay for a block that it does not fill.
    turns = min(max(-(-num_slots // 256), 1), 8)
    return -(-num_slots // turns)


def _sum_slots(entries: jax.Array, slot: jax.Array, num_slots: int) -> jax.Array:
    """Sums the entries of slots 0 to ``num_slots``, and drops those of others."""
    dtype = _sum_dtype(entries.dtype)
    sums = jnp.zeros((num_slots, *entries.shape[1:]), dtype)
    return sums.at[slot].add(
        entries.astype(dtype), mode="drop", wrap_negative_indices=False
    )


@jax.jit  # to be traced once for all that use it: a scan is long
def _sum_neighbours(entries: jax.Array, distinct: Distinct) -> jax.Array:
    """The same for all slots at once, without adding two entries to one place."""
    if entries.shape[0] == 0:
        return _sum_slots(entries, distinct.slot, distinct.ids.size)
    slot = distinct.slot
    ordered = entries[distinct.order].astype(_sum_dtype(entries.dtype))
    _, running = lax.associative_scan(_add_if_same_slot, (slot, ordered))
    is_last = jnp.concatenate([slot[1:] != slot[:-1], jnp.ones_like(slot[:1], bool)])
    position = jnp.arange(slot.size, dtype=jnp.int32)
    place = jnp.where(is_last, slot, distinct.ids.size)
    last = jnp.zeros(distinct.ids.size, jnp.int32).at[place].set(position, mode="drop")
    return running[last]


def _add_if_same_slot(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    left_slot, left_sum = left
    slot, own_sum = right
    # In lax: a scan calls this many times, and jax.numpy takes longer to trace.
    same = lax.broadcast_in_dim(lax.eq(left_slot, slot), own_sum.shape, [0])
    return slot, lax.select(same, lax.add(own_sum, left_sum), own_sum)


def _sum_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """float32 for what has less precision, else ``dtype`` itself."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype


def _read(array: jax.Array, index: jax.Array) -> jax.Array:
    return array.at[index].get(mode="promise_in_bounds")
