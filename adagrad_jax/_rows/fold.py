"""Visit each distinct row once.

How? On a CPU, in blocks that fit the cache, by a loop that ends with the last row in
use. On accelerators, in one pass.

Slots come in whole blocks, so that some are not in use. What such a slot has for a row
means nothing; it reads some row of a table, and is dropped where one is written: out of
sight of a checker of indices (``jax.experimental.checkify``), lest it take ours for the
user's.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from adagrad_jax._rows.blocks import add_at, block_size, end_of_all, read, set_at
from adagrad_jax._rows.placement import spec_of, varying_as, with_automatic_axes
from adagrad_jax._rows.sums import Sums

Reduction = Literal["sum", "max"]


class RowsOf(NamedTuple):
    """An operand of which a function of rows gets the rows that it is called with.

    Attributes:
      tables: A tree of arrays that have the table's first axes, those that name a row.
    """

    tables: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Marker:
    """An operand that stands for something known only where rows are visited."""

    name: str


ROW_NUMBERS = _Marker("ROW_NUMBERS")
"""An operand in whose place a function of rows gets the rows' numbers in the table.

What indexes the arrays at hand is not the function's business.
"""

Stage = tuple[Callable[..., jax.Array], tuple[Any, ...]]
"""A hashable ``function(rows, *operands) -> rows``, and its operands.

Rows are ``(k, ...)``, and some of them may stand for none. Operands are whole but for
those marked as :class:`RowsOf`, or the constant above.
"""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Changing:
    """Stands, among the tables that a stage reads, for one that the visit changes.

    A stage that reads the rows which it makes an update for would otherwise make XLA
    copy the table, to have it as it was before. No row is visited twice, so these rows
    still are as they were.
    """

    leaf: int


@dataclasses.dataclass(frozen=True)
class Visit:
    """What is done at some rows.

    Attributes:
      stages: Functions that are applied to the sums, in order.
      function: ``(rows, rows_of_tables, *operands) -> (mapped, rows_of_tables, terms)``
        for ``(k, ...)`` rows, some of which may stand for none: other rows, new ones of
        the tables, and what is to be summed up. Each is a tree, maybe empty.
      reduction: Whether terms are added, or the largest is kept (of no rows that is
        minus infinity).
      adds: Whether what the function gives for the tables is added to their rows.
    """

    stages: tuple[Callable[..., jax.Array], ...]
    function: Callable[..., tuple[Any, Any, Any]]
    reduction: Reduction
    adds: bool = False


class Visited(NamedTuple):
    """What a visit of all rows gives.

    Attributes:
      mapped: Other rows, one for each slot.
      tables: With new rows.
      totals: Of the terms.
    """

    mapped: Any
    tables: Any
    totals: Any


class Operands(NamedTuple):
    """Those of each stage, and those of the function."""

    of_stages: tuple[tuple[Any, ...], ...]
    of_function: tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Place:
    """Where some rows are.

    Attributes:
      ids: ``(k,)``, the row that each of them is; the number of rows, for none.
      in_use: ``(k,)``, which of them are rows.
      first_slot: The first one's; they are consecutive.
      row_axes: As in :class:`Sums`.
      first_row: As in :class:`Sums`.
    """

    ids: jax.Array
    in_use: jax.Array
    first_slot: Any
    row_axes: int = dataclasses.field(metadata={"static": True})
    first_row: jax.Array | None = None

    @property
    def numbers(self) -> jax.Array:
        """Those of the rows, in the whole table; for none, that of some row."""
        ids = jnp.where(self.in_use, self.ids, 0)
        return ids if self.first_row is None else self.first_row + ids


def index_of(ids: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, ...]:
    """Row-major ids over axes of this shape, as an index for each of these."""
    index: tuple[jax.Array, ...] = ()
    for size in reversed(shape[1:]):
        size = jnp.asarray(size, ids.dtype)
        ids, index = lax.div(ids, size), (lax.rem(ids, size), *index)
    return ids, *index


def to_visit(
    stages: tuple[Stage, ...],
    function: Callable[..., tuple[Any, Any, Any]],
    reduction: Reduction,
    tables: Any,
    operands: tuple[Any, ...],
    adds: bool = False,
) -> tuple[Visit, Operands]:
    """What is to be done to ``tables``, for :func:`fold`, and with which operands."""
    leaf_of = {id(leaf): number for number, leaf in enumerate(jax.tree.leaves(tables))}

    def mark(operand: Any) -> Any:
        if not isinstance(operand, RowsOf):
            return operand
        return jax.tree.map(
            lambda x: _Changing(leaf_of[id(x)]) if id(x) in leaf_of else x, operand
        )

    functions = tuple(function for function, _ in stages)
    visit = Visit(functions, function, reduction, adds)
    of_stages = tuple(tuple(map(mark, others)) for _, others in stages)
    return visit, Operands(of_stages, operands)


@functools.partial(jax.jit, static_argnums=0)
def fold(visit: Visit, sums: Sums, tables: Any, operands: Operands) -> Visited:
    """Visits all distinct rows, each once, some at a time.

    ``tables``, a tree of arrays, are updated in place if XLA can.
    """
    num_slots = sums.distinct.ids.size

    def at_place(
        so_far: Visited, rows: Any, place: Place, operands: Any, add: Any
    ) -> Visited:
        rows = _staged(visit, rows.astype(sums.dtype), so_far.tables, place, operands)
        old = jax.tree.map(lambda table: take_rows(table, place), so_far.tables)
        others = at_rows(place, operands.of_function)
        mapped, new, terms = visit.function(rows, old, *others)
        put = functools.partial(
            lax.dynamic_update_slice_in_dim, start_index=place.first_slot, axis=0
        )
        write = functools.partial(add if visit.adds else set_rows, place)
        return Visited(
            jax.tree.map(put, so_far.mapped, mapped),
            jax.tree.map(write, so_far.tables, new),
            _include(so_far.totals, terms, place.in_use, visit.reduction),
        )

    def in_blocks(so_far: Visited, sums: Sums, operands: Operands) -> Visited:
        # What rows become takes their place: other memory would have to be cleared.
        in_place = _is_like(so_far.mapped, sums.rows)
        if in_place:
            so_far = so_far._replace(mapped=varying_as(sums.rows, so_far.mapped))

        def block(state: tuple[jax.Array, Visited]) -> tuple[jax.Array, Visited]:
            start, so_far = state
            left = dataclasses.replace(sums, rows=so_far.mapped) if in_place else sums
            rows, place = _slots(left, start, block_size(num_slots))
            so_far = at_place(so_far, rows, place, operands, add_rows)
            return start + rows.shape[0], so_far

        num_used = sums.distinct.num_used
        start, end = jnp.zeros((), num_used.dtype), end_of_all(num_used)
        return lax.while_loop(lambda s: s[0] < end, block, (start, so_far))[1]

    def in_one_pass(so_far: Visited, sums: Sums, operands: Operands) -> Visited:
        return at_place(so_far, *_slots(sums, 0, num_slots), operands, _add_apart)

    def run(*args: Any) -> Visited:
        return lax.platform_dependent(*args, cpu=in_blocks, default=in_one_pass)

    nothing = before_all(visit, sums, tables, operands)
    args = varying_as(nothing, sums, operands), sums, operands
    specs = jax.tree.map(spec_of, args[0])
    return with_automatic_axes(run, args, specs)


def _is_like(mapped: Any, rows: jax.Array) -> bool:
    if not isinstance(mapped, jax.Array):
        return False
    return (mapped.shape, mapped.dtype) == (rows.shape, rows.dtype)


def before_all(visit: Visit, sums: Sums, tables: Any, operands: Operands) -> Visited:
    """What a visit begins with."""

    def of_one(rows: jax.Array, tables: Any, operands: Operands) -> Any:
        ids = jnp.zeros(rows.shape[:1], jnp.int32)
        place = Place(ids, ids == 0, 0, sums.row_axes)
        rows = _staged(visit, rows, tables, place, operands)
        old = jax.tree.map(lambda table: take_rows(table, place), tables)
        return visit.function(rows, old, *at_rows(place, operands.of_function))

    num_slots, *inside = sums.rows.shape
    row = jax.ShapeDtypeStruct((1, *inside), sums.dtype)
    plain = jax.tree.map(_plain, (tables, operands))
    mapped, _, terms = jax.eval_shape(of_one, row, *plain)
    nothing = 0 if visit.reduction == "sum" else -jnp.inf
    return Visited(
        jax.tree.map(lambda x: jnp.zeros((num_slots, *x.shape[1:]), x.dtype), mapped),
        tables,
        jax.tree.map(lambda x: jnp.full(x.shape[1:], nothing, x.dtype), terms),
    )


def _plain(x: Any) -> jax.ShapeDtypeStruct:
    """Its type, without what that tells of devices, which is not known of one row."""
    aval = jax.typeof(x)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)


def _include(so_far: Any, terms: Any, in_use: jax.Array, reduction: Reduction) -> Any:
    def one(so_far: jax.Array, terms: jax.Array) -> jax.Array:
        named = jnp.expand_dims(in_use, range(1, terms.ndim))
        if reduction == "sum":
            return so_far + jnp.sum(jnp.where(named, terms, 0), axis=0)
        return jnp.maximum(so_far, jnp.max(jnp.where(named, terms, -jnp.inf), axis=0))

    return jax.tree.map(one, so_far, terms)


def all_rows(sums: Sums, stages: tuple[Stage, ...] = ()) -> jax.Array:
    """The row of every slot; anything for those whose ids are out of range."""
    visit, operands = to_visit(stages, _no_function, "sum", (), ())
    return _all_rows(visit, sums, operands)


def _no_function(rows: jax.Array, tables: Any) -> tuple[Any, Any, Any]:
    return rows, tables, ()


def at_rows(place: Place, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands as a function of the rows there gets them."""

    def resolved(operand: Any) -> Any:
        if isinstance(operand, RowsOf):
            return jax.tree.map(lambda table: take_rows(table, place), operand.tables)
        return place.numbers if isinstance(operand, _Marker) else operand

    return tuple(map(resolved, operands))


def result_of(
    function: Callable[..., Any], rows: Any, row_axes: int, operands: tuple[Any, ...]
) -> Any:
    """The shapes and dtypes of what ``function(rows, *operands)`` gives."""

    def call(rows: jax.Array, operands: tuple[Any, ...]) -> Any:
        ids = jnp.zeros(rows.shape[:1], jnp.int32)
        place = Place(ids, ids == 0, 0, row_axes)
        return function(rows, *at_rows(place, operands))

    return jax.eval_shape(call, rows, jax.tree.map(_plain, operands))


def take_rows(table: jax.Array, place: Place) -> jax.Array:
    """Some of a table's rows; any one, for none."""
    axes = table.shape[: place.row_axes]
    if 0 in axes:
        return jnp.zeros((place.ids.size, *table.shape[place.row_axes :]), table.dtype)
    last = jnp.asarray(math.prod(axes) - 1, place.ids.dtype)
    return read(table, index_of(jnp.minimum(place.ids, last), axes))


def set_rows(place: Place, table: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` with other rows there."""
    index = index_of(place.ids, table.shape[: place.row_axes])
    return set_at(table, index, rows.astype(table.dtype))


def add_rows(place: Place, table: jax.Array, rows: jax.Array) -> jax.Array:
    """``table`` with something added to its rows there, which are read and written."""
    index = index_of(place.ids, table.shape[: place.row_axes])
    return add_at(table, index, rows.astype(table.dtype))


def _add_apart(place: Place, table: jax.Array, rows: jax.Array) -> jax.Array:
    """The same, where additions in place would be atomic, without need."""
    rows = take_rows(table, place) + rows.astype(table.dtype)
    return set_rows(place, table, rows)


@functools.partial(jax.jit, static_argnums=0)
def _all_rows(visit: Visit, sums: Sums, operands: Operands) -> jax.Array:
    def run(sums: Sums, operands: Operands) -> jax.Array:
        rows, place = _slots(sums, 0, sums.distinct.ids.size)
        return _staged(visit, rows.astype(sums.dtype), (), place, operands)

    return with_automatic_axes(run, (sums, operands))


def _slots(sums: Sums, start: Any, size: int) -> tuple[jax.Array, Place]:
    """Some slots' rows, and where these are."""
    distinct = sums.distinct
    rows = lax.dynamic_slice_in_dim(sums.rows, start, size)
    ids = lax.dynamic_slice_in_dim(distinct.ids, start, size)
    in_use = start + jnp.arange(size, dtype=jnp.int32) < distinct.num_used
    return rows, Place(ids, in_use, start, sums.row_axes, sums.first_row)


def _staged(
    visit: Visit, rows: jax.Array, tables: Any, place: Place, operands: Operands
) -> jax.Array:
    """The rows as the stages make them, where ``tables`` are as they are by now."""
    leaves = jax.tree.leaves(tables)
    of_stages = jax.tree.map(
        lambda x: leaves[x.leaf] if isinstance(x, _Changing) else x,
        operands.of_stages,
        is_leaf=lambda x: isinstance(x, _Changing),
    )
    for function, others in zip(visit.stages, of_stages, strict=True):
        rows = function(rows, *at_rows(place, others))
    return rows
