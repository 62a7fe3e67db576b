"""The door through which the rest of the package sees a gradient of rows.

A gradient is visited row by row, each row once and with its entries summed. What is
done there is a function of some rows ``(k, ...)`` and of operands, each of which is
handed on whole, unless it is marked: of :func:`rows_of` tables the function gets the
rows that it is called with, and in the place of :data:`ROW_NUMBERS` their numbers in
the table. There are three things to do:

- :func:`map_rows`: other rows in the gradient, by what tables have there;
- :func:`replace_rows`: other rows in tables (:func:`map_and_replace_rows` does both),
  or :func:`add_rows`, which is less work;
- :func:`total`: one result of all rows, a sum or the largest.

A row is what has one place along the table's first ``gradient.row_axes`` axes, which
all tables must have; for an ordinary gradient, along the first axis.

Where rows live, how repeated ones are found and how many are visited at a time is known
behind the door only. An ordinary gradient, which has all rows, goes through it too, so
that who uses it need not tell the two kinds apart.
"""

# The door knows the type from inside.
# pyright: reportPrivateUsage=false

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from adagrad_jax._precision import squared_magnitude
from adagrad_jax._rows.fold import ROW_NUMBERS, Reduction, RowsOf
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._trees import LeafError

Tables = TypeVar("Tables")


def rows_of(tables: Any) -> RowsOf:
    """Marks a tree of tables as an operand of which the rows visited are wanted."""
    return RowsOf(tables)


def grouped(gradient: Any) -> Any:
    """The gradient, with its rows found and summed, once for all visits."""
    if isinstance(gradient, RowSparse):
        return gradient.grouped()
    return jnp.asarray(gradient)


def map_rows(gradient: Any, function: Callable[..., jax.Array], *operands: Any) -> Any:
    """``gradient`` with ``function(rows, *operands)`` in the place of its rows.

    It is computed when the rows are visited; so the tables that it reads must not be
    changed before, but by what visits them.

    Args:
      gradient: A :class:`RowSparse`, or an array.
      function: A hashable function of rows, which gives as many.
      *operands: Whole, or marked.
    """
    operands = _as_arrays(operands)
    if isinstance(gradient, RowSparse):
        _check_rows(gradient, operands)
        return gradient._put_off(function, *operands)
    gradient = jnp.asarray(gradient)
    return function(gradient, *_at_all_rows(gradient, operands))


def replace_rows(
    gradient: Any,
    function: Callable[..., Tables],
    tables: Tables,
    *operands: Any,
) -> Tables:
    """``tables`` with other rows where ``gradient`` has some.

    Args:
      gradient: A :class:`RowSparse`, or an array.
      function: A hashable ``(rows, rows_of_tables, *operands) -> rows_of_tables``.
      tables: A tree of arrays that have the gradient's rows.
      *operands: Whole, or marked.
    """
    operands, tables = _as_arrays(operands), jax.tree.map(jnp.asarray, tables)
    if isinstance(gradient, RowSparse):
        _check_rows(gradient, (RowsOf(tables), *operands))
        return gradient.visited(_Replace(function), "sum", tables, operands)[1]
    gradient = jnp.asarray(gradient)
    return function(gradient, tables, *_at_all_rows(gradient, operands))


def add_rows(update: Any, table: jax.Array) -> jax.Array:
    """``table`` plus an update, summed in the wider dtype of both.

    An ordinary update's sum has that dtype, that of one of rows the table's.
    """
    if not isinstance(update, RowSparse):
        return _added(jnp.asarray(update), table)
    if jnp.promote_types(update.dtype, table.dtype) != table.dtype:
        return replace_rows(update, _added, table)
    _check_rows(update, (RowsOf(table),))
    return update.added_to(table)


def map_and_replace_rows(
    gradient: Any,
    function: Callable[..., tuple[jax.Array, Tables]],
    tables: Tables,
    *operands: Any,
) -> tuple[Any, Tables]:
    """Both at once, where what is made of a row depends on what is replaced.

    Args:
      gradient: A :class:`RowSparse`, or an array.
      function: A hashable ``(rows, rows_of_tables, *operands)``, which gives new rows
        of the gradient and new ones of the tables.
      tables: A tree of arrays that have the gradient's rows.
      *operands: Whole, or marked.
    """
    if isinstance(gradient, RowSparse):
        function = _WithoutTerms(function)
        return map_replace_and_total(gradient, function, "sum", tables, *operands)[:2]
    operands, tables = _as_arrays(operands), jax.tree.map(jnp.asarray, tables)
    gradient = jnp.asarray(gradient)
    return function(gradient, tables, *_at_all_rows(gradient, operands))


def total(
    gradient: RowSparse,
    function: Callable[..., Any],
    reduction: Reduction,
    *operands: Any,
) -> Any:
    """What ``function(rows, *operands)`` gives, over all rows.

    Args:
      gradient: A gradient of rows.
      function: A hashable function of ``k`` rows, which gives a tree of floating-point
        arrays ``(k, ...)``.
      reduction: Whether the first axis is summed, or the largest along it is taken
        (of no rows that is minus infinity).
      *operands: Whole, or marked.
    """
    operands = _as_arrays(operands)
    _check_rows(gradient, operands)
    return gradient.visited(_Total(function), reduction, (), operands)[2]


def map_entries(function: Callable[[Any], Any], gradients: Any) -> Any:
    """``function`` of a tree of gradients, of the rows in them as they came.

    Repeated rows are not summed. ``function`` gets an array of the entries ``(n, ...)``
    in the place of each :class:`RowSparse`, and returns a tree like the one it gets.
    """
    entries = jax.tree.map(
        lambda g: g.values if isinstance(g, RowSparse) else g, gradients
    )
    return jax.tree.map(
        lambda g, new: g.with_values(new) if isinstance(g, RowSparse) else new,
        gradients,
        function(entries),
    )


def sum_of_squares(gradient: Any, dtype: DTypeLike) -> jax.Array:
    """Of all of an array's numbers, or of all rows' sums, in ``dtype``."""
    if not isinstance(gradient, RowSparse):
        return jnp.sum(squared_magnitude(jnp.asarray(gradient), dtype))
    return total(gradient, _SumOfSquares(jnp.dtype(dtype)), "sum")


def map_replace_and_total(
    gradient: RowSparse,
    function: Callable[..., tuple[jax.Array, Tables, Any]],
    reduction: Reduction,
    tables: Tables,
    *operands: Any,
) -> tuple[RowSparse, Tables, Any]:
    """All three in one visit, where a total too depends on what is replaced.

    In two visits the tables, read by one and changed by the other, would be copied.
    ``function`` gives new rows of both, and what is to be summed up of each row.
    """
    operands, tables = _as_arrays(operands), jax.tree.map(jnp.asarray, tables)
    _check_rows(gradient, (RowsOf(tables), *operands))
    return gradient.visited(function, reduction, tables, operands)


def _added(update: jax.Array, table: jax.Array) -> jax.Array:
    return table + update


@dataclasses.dataclass(frozen=True)
class _Replace:
    function: Callable[..., Any]

    def __call__(self, rows: jax.Array, tables: Any, *operands: Any) -> Any:
        return (), self.function(rows, tables, *operands), ()


@dataclasses.dataclass(frozen=True)
class _WithoutTerms:
    function: Callable[..., Any]

    def __call__(self, rows: jax.Array, tables: Any, *operands: Any) -> Any:
        return *self.function(rows, tables, *operands), ()


@dataclasses.dataclass(frozen=True)
class _Total:
    function: Callable[..., Any]

    def __call__(self, rows: jax.Array, tables: Any, *operands: Any) -> Any:
        return (), tables, self.function(rows, *operands)


@dataclasses.dataclass(frozen=True)
class _SumOfSquares:
    dtype: jnp.dtype

    def __call__(self, rows: jax.Array) -> jax.Array:
        squares = squared_magnitude(rows, self.dtype)
        return jnp.sum(squares, axis=range(1, rows.ndim))


def _as_arrays(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        jax.tree.map(jnp.asarray, operand) if isinstance(operand, RowsOf) else operand
        for operand in operands
    )


def _at_all_rows(gradient: jax.Array, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands as a function of all rows of a gradient gets them."""

    def resolved(operand: Any) -> Any:
        if isinstance(operand, RowsOf):
            return operand.tables
        if operand is ROW_NUMBERS:
            return jnp.arange(gradient.shape[0]) if gradient.ndim else None
        return operand

    return tuple(map(resolved, operands))


def _check_rows(gradient: RowSparse, operands: tuple[Any, ...]) -> None:
    """Raises unless each table has something for each row of the gradient."""
    axes = gradient.row_axes
    marked = [x.tables for x in operands if isinstance(x, RowsOf)]
    for table in jax.tree.leaves(marked):
        if table.shape[:axes] != gradient.shape[:axes]:
            raise LeafError(
                f"the first {axes} axes of this gradient, a RowSparse of shape "
                f"{gradient.shape}, name its rows, so {gradient.shape[:axes]} must be "
                "the beginning of the shape of what is kept of them, got "
                f"{table.shape}; `init` sees the parameter alone: tell what keeps "
                f"numbers of rows (RowWise, lazy_weight_decay) row_axes={axes}, or "
                "give it .to_dense()."
            )
