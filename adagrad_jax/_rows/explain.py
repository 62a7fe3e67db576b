"""What gradients will be of rows, and why the others are not: nothing is computed."""

import dataclasses
import functools
import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np

from adagrad_jax._rows.choice import (
    TableFilter,
    describe,
    place_of,
    primitive_of,
    remedy_for,
)
from adagrad_jax._rows.sharded import Plan, RowShardings, check_row_sharding, plan
from adagrad_jax._rows.trace import Call, as_positions


@dataclasses.dataclass(frozen=True)
class LeafExplanation:
    """What :func:`explain` says of a parameter.

    Attributes:
      path: Its key path, as ``jax.tree_util.keystr`` writes it.
      shape: Its shape.
      dtype: Its dtype.
      gradient: "rows" for a :class:`RowSparse`, "dense" for an ordinary array.
      row_axes: How many of its leading axes name a row; 0 if it is dense.
      num_ids: How many rows a step reads, repeated ones each time.
      num_reads: In how many places of the function.
      bytes_touched: Of how many bytes of the parameter a step needs to know, at most.
      bytes_total: How many it has.
      exchanged: Along which axes of a mesh its rows are exchanged; none, if no
        ``row_sharding`` and no type says that they lie on several devices.
      reason: Why it is dense; None if it is not.
      primitive: The name of the operation that is the reason, if it is one.
      where: That operation's place in the code, as "file:line (function)".
      remedy: What to write instead.
      warnings: What will make a step slow though the gradient is of rows.
    """

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    gradient: Literal["rows", "dense"]
    row_axes: int
    num_ids: int
    num_reads: int
    bytes_touched: int
    bytes_total: int
    exchanged: tuple[str, ...] = ()
    reason: str | None = None
    primitive: str | None = None
    where: str | None = None
    remedy: str | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same, of what JSON has."""
        return dataclasses.asdict(self) | {
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "exchanged": list(self.exchanged),
            "warnings": list(self.warnings),
        }


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What :func:`explain` says of a function; ``print`` it.

    Attributes:
      leaves: Of each parameter, in the order of the tree.
    """

    leaves: tuple[LeafExplanation, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same, of what JSON has."""
        return {"leaves": [leaf.to_dict() for leaf in self.leaves]}

    def __str__(self) -> str:
        header = ("leaf", "shape", "dtype", "gradient", "ids", "reads", "touched", "of")
        rows = [header, *(_cells(leaf) for leaf in self.leaves)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row, leaf in zip(rows, [None, *self.leaves], strict=True):
            cells = [
                cell.ljust(width) if number < 4 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
            lines += [f"    {line}" for line in _remarks(leaf)] if leaf else []
        return "\n".join(lines)


def explain(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    *,
    tables: Literal["auto"] | TableFilter = "auto",
    row_sharding: RowShardings | None = None,
) -> Callable[..., Explanation]:
    """Which gradients :func:`value_and_grad` gives by rows, and why not the others.

    Args:
      fun: As for :func:`value_and_grad`, like the other arguments.
      argnums: As there.
      has_aux: As there.
      tables: As there; but what cannot be as it chooses is explained, not raised.
      row_sharding: As there; but what it chooses and cannot have rows is explained.

    Returns:
      A function of the arguments of ``fun``, of which arrays may also be given by a
      ``jax.ShapeDtypeStruct``. It computes nothing, and returns an :class:`Explanation`
      to be printed, or to be read by its fields: a :class:`LeafExplanation` for each
      parameter. Bytes are those of the parameter alone, without its accumulators.

    Raises:
      TypeError: As :func:`value_and_grad`.
      ValueError: If a parameter cannot lie as ``row_sharding`` says, or does not.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> def loss(params, ids):
      ...     return jnp.sum(params["table"][ids] @ params["head"])
      >>> params = {
      ...     "table": jax.ShapeDtypeStruct((1_000_000, 64), jnp.float32),
      ...     "head": jax.ShapeDtypeStruct((64, 10), jnp.float32),
      ... }
      >>> ids = jax.ShapeDtypeStruct((8192,), jnp.int32)
      >>> explanation = aj.explain(loss)(params, ids)
      >>> [(leaf.path, leaf.gradient) for leaf in explanation.leaves]
      [("['head']", 'dense'), ("['table']", 'rows')]
      >>> explanation.leaves[1].num_ids, explanation.leaves[1].bytes_touched
      (8192, 2097152)
    """
    check_row_sharding(row_sharding)
    positions = as_positions(argnums)

    @functools.wraps(fun)
    def explain_fun(*args: Any, **kwargs: Any) -> Explanation:
        call = Call.of(fun, positions, args, kwargs)
        planned = plan(call, has_aux, tables, row_sharding, strict=False)
        return Explanation(
            tuple(_explained(i, *pair, planned) for i, pair in enumerate(call.keyed))
        )

    return explain_fun


def _explained(number: int, path: Any, leaf: Any, planned: Plan) -> LeafExplanation:
    choice, table = planned.choice, planned.tables.get(number)
    by_rows = table.row_sharding if table else None
    aval = jax.typeof(leaf) if not isinstance(leaf, jax.ShapeDtypeStruct) else leaf
    dtype = np.dtype(aval.dtype)
    row_axes = choice.row_axes.get(number, 0)
    reads = choice.reads.get(number, [])
    reason = choice.reasons.get(number)
    total = math.prod(aval.shape) * dtype.itemsize
    num_ids = sum(read.num_ids for read in reads)
    row = math.prod(aval.shape[row_axes:]) * dtype.itemsize
    where = reason.where if reason else None
    return LeafExplanation(
        path=jax.tree_util.keystr(path),
        shape=tuple(aval.shape),
        dtype=dtype,
        gradient="rows" if row_axes else "dense",
        row_axes=row_axes,
        num_ids=num_ids,
        num_reads=len(reads),
        bytes_touched=min(num_ids * row, total) if row_axes else total,
        bytes_total=total,
        exchanged=by_rows.axes if by_rows else (),
        reason=None if row_axes else describe(reason) if reason else _NO_TABLE,
        primitive=primitive_of(where) if where else None,
        where=place_of(where) or None if where else None,
        remedy=remedy_for(reason) if reason else None,
        warnings=tuple(_warnings(aval.shape, dtype, row_axes)),
    )


_NO_TABLE = "it was not asked for, or has no rows of floating-point numbers"


def _warnings(shape: tuple[int, ...], dtype: np.dtype, row_axes: int) -> list[str]:
    found = []
    if row_axes and dtype.itemsize < 4 and _converts_as_a_whole():
        found.append(
            f"the CPU compiler of this jaxlib converts a {dtype} table to float32 as a "
            "whole to write some of its rows, and a bfloat16 accumulator too; jaxlib "
            "0.12 does not"
        )
    if row_axes == len(shape) > 1:
        found.append(
            "each row is a single number, since whole columns are read: the table "
            "would better lie the other way round"
        )
    return found


def _converts_as_a_whole() -> bool:
    version = importlib.metadata.version("jaxlib")
    is_old = tuple(map(int, version.split(".")[:2])) < (0, 11)
    return is_old and jax.default_backend() == "cpu"


def _cells(leaf: LeafExplanation) -> tuple[str, ...]:
    reads = (f"{leaf.num_ids:,}", f"{leaf.num_reads:,}") if leaf.num_reads else ("", "")
    touched, total = (_bytes(x) for x in (leaf.bytes_touched, leaf.bytes_total))
    path = leaf.path or "(the argument)"
    shape = str(leaf.shape)
    return path, shape, str(leaf.dtype), leaf.gradient, *reads, touched, total


def _bytes(size: int) -> str:
    number, unit = float(size), "B"
    for larger in ("kB", "MB", "GB"):
        if number >= 1000:
            number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def _remarks(leaf: LeafExplanation) -> list[str]:
    remarks = [f"slow: {warning}" for warning in leaf.warnings]
    if leaf.exchanged:
        remarks.insert(0, f"rows lie, and are exchanged, along {leaf.exchanged}")
    if leaf.reason:
        remarks.insert(0, leaf.reason)
    if leaf.remedy:
        remarks.insert(1, leaf.remedy)
    return remarks
