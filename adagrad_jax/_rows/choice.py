"""Which parameters get a gradient of rows, and why the others do not."""

import dataclasses
import math
import pathlib
import sysconfig
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.extend import core

from adagrad_jax._rows.lookups import Read, Reason, Uses, find_uses
from adagrad_jax._rows.views import Table

SORTING = 96
"""To sort an id and to sum what it gets takes as long as to write so many numbers.

Measured by ``benchmarks.rows.small``.
"""

FEW_IDS = 1024
"""Fewer than these take no time worth counting, in rows of any length."""

TableFilter = Callable[[tuple[Any, ...], Any], bool]


def wherever_possible(path: Any, leaf: Any) -> bool:
    """As "auto", however many ids there are: for what is otherwise not the same."""
    del path
    return _has_rows(leaf)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen for each parameter, by its number.

    Attributes:
      row_axes: For those with a gradient of rows how many of their axes name a row.
      uses: What the function does with these.
      reasons: For others that have rows at all, why their gradient is an array.
      reads: Of all of them, as far as they were looked into.
    """

    row_axes: dict[int, int]
    uses: Uses
    reasons: dict[int, Reason]
    reads: dict[int, list[Read]]


def choose(
    jaxpr: core.Jaxpr,
    keyed: Sequence[tuple[Any, Any]],
    tables: Literal["auto"] | TableFilter,
    num_values: int,
    strict: bool = True,
    required: Collection[int] = (),
    preferred: Collection[int] = (),
) -> Choice:
    """Finds out which of a function's parameters get a gradient of rows.

    Args:
      jaxpr: The function of these parameters.
      keyed: Each parameter's path and the parameter.
      tables: As for ``value_and_grad``.
      num_values: How many of the function's results, the first ones, have derivatives.
      strict: Whether it is an error to choose what cannot have rows.
      required: Numbers of parameters that must have rows, whatever ``tables`` says.
      preferred: Of those that "auto" gives rows wherever possible.

    Raises:
      TypeError: If ``tables`` chooses what has no rows.
      ValueError: If ``tables`` chooses what is used otherwise than by rows.
    """
    automatic = tables == "auto" or tables is wherever_possible
    chosen = _candidates(keyed, "auto" if automatic else tables)
    candidates = sorted({*chosen, *required})
    must_have_rows = set(required) if automatic else set(candidates)

    def uses_of(row_axes: dict[int, Any]) -> Uses:
        args = [
            Table(i, var.aval, row_axes[i]) if i in row_axes else None
            for i, var in enumerate(jaxpr.invars)
        ]
        return find_uses(jaxpr, args, num_values)

    uses = uses_of(dict.fromkeys(candidates))
    reads = {i: [r for r in uses.reads if r.table == i] for i in candidates}
    row_axes = {i: _most_row_axes(reads[i]) for i in candidates}
    reasons = dict[int, Reason]()
    while True:
        reasons |= uses.dense
        if automatic:
            by_choice = row_axes.keys() - reasons.keys() - must_have_rows
            by_cost = by_choice - set(preferred) if tables == "auto" else set()
            reasons |= _without_gain(uses, row_axes, keyed, by_choice, by_cost)
        for i in must_have_rows & reasons.keys() if strict else ():
            how = "`row_sharding`" if i in required else "`tables`"
            raise ValueError(_why_dense(keyed[i][0], reasons[i], how))
        kept = {i: axes for i, axes in row_axes.items() if i not in reasons}
        if kept == row_axes and uses.row_axes == row_axes:
            return Choice(row_axes, uses, reasons, reads)
        row_axes = kept
        uses = uses_of(row_axes)
        uses.row_axes = row_axes
        reads |= {i: [r for r in uses.reads if r.table == i] for i in row_axes}


def _candidates(
    keyed: Sequence[tuple[Any, Any]], tables: Literal["auto"] | TableFilter
) -> list[int]:
    if tables == "auto":
        return [i for i, (_, leaf) in enumerate(keyed) if _has_rows(leaf)]
    chosen = [i for i, (path, leaf) in enumerate(keyed) if tables(path, leaf)]
    for i in chosen:
        if not _has_rows(keyed[i][1]):
            raise TypeError(
                f"`tables` chose {name_of(keyed[i][0])}, which must be an array of "
                "floating-point or complex numbers with an axis of rows, got "
                f"{jax.typeof(keyed[i][1])}; leave it to others."
            )
    return chosen


def _has_rows(leaf: Any) -> bool:
    shape, dtype = getattr(leaf, "shape", ()), getattr(leaf, "dtype", None)
    return bool(shape) and dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def _most_row_axes(reads: Sequence[Read]) -> int:
    return max((read.row_axes for read in reads), default=1)


def _without_gain(
    uses: Uses,
    row_axes: dict[int, int],
    keyed: Sequence[tuple[Any, Any]],
    numbers: Collection[int],
    by_cost: Collection[int],
) -> dict[int, Reason]:
    """Those for which an array is better, though rows are all that is read."""
    found = {}
    for i in numbers:
        reads = [read for read in uses.reads if read.table == i]
        num_rows = math.prod(keyed[i][1].shape[: row_axes[i]])
        width = math.prod(keyed[i][1].shape[row_axes[i] :])
        num_ids = sum(read.num_ids for read in reads)
        if not reads:
            found[i] = Reason(None, "it is not read")
        elif all(read.fixed for read in reads):
            # They are parameters of their own more often than a table's (layers in one
            # array): they do not make a table by themselves.
            found[i] = Reason(None, "only rows that the program fixes are read")
        elif i in by_cost and not _are_rows_faster(num_ids, num_rows, width):
            what = f"{num_ids:,} ids are read of {num_rows:,} rows of {width:,}"
            found[i] = Reason(None, f"{what}: an array is faster")
    return found


def _are_rows_faster(num_ids: Any, num_rows: int, width: int) -> bool:
    if not isinstance(num_ids, int):
        return True  # a symbolic dimension
    if num_ids < FEW_IDS:
        return num_ids < num_rows
    return num_ids * (width + SORTING) < num_rows * width


def _why_dense(path: Any, reason: Reason, how: str) -> str:
    return (
        f"{name_of(path)} was chosen by {how}, but its gradient is not row-sparse: "
        f"{describe(reason)}. Read it by table[ids] only, or let {how} leave it "
        "out: with an ordinary gradient its step takes the time of the whole table."
    )


def describe(reason: Reason) -> str:
    """What makes a parameter's gradient an ordinary array, and where."""
    if reason.where is None:
        return reason.what or "it is a result of the function"
    what = f" (for it needs {reason.what})" if reason.what else ""
    name = primitive_of(reason.where)
    place = place_of(reason.where)
    at = f", at {place}" if place else ""
    return f"`{name}` uses it otherwise than by whole rows{what}{at}"


def remedy_for(reason: Reason) -> str:
    """What to do about it, where something can be done."""
    if reason.where is None:
        return "name it by `tables=` to have rows all the same"
    if _has_a_rule(reason.where):
        return (
            "it has a derivative rule of its own, which may need all rows: look rows "
            "up outside of it, and hand it these"
        )
    return "read it by table[ids] only, or keep another array for the other use"


def primitive_of(eqn: core.JaxprEqn) -> str:
    """Its name; of one that stands for many, that of what it stands for."""
    inner = eqn.params.get("_prim")
    return eqn.primitive.name if inner is None else type(inner).__name__


def _has_a_rule(eqn: core.JaxprEqn) -> bool:
    name = primitive_of(eqn).lower()
    return name.startswith("custom") or name == "linear_call"


def place_of(eqn: core.JaxprEqn) -> str:
    """Where in the user's code an equation is from; "" if that is not known."""
    traceback = eqn.source_info.traceback
    frames = [
        frame
        for frame in (traceback.frames if traceback else ())
        if not _is_in(frame.file_name, _OURS)
    ]
    # The innermost call, better from a file of the user's than from a library's.
    for frame in sorted(frames, key=lambda frame: _is_in(frame.file_name, _INSTALLED)):
        return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return ""


def _is_in(file_name: str, folders: Sequence[pathlib.Path]) -> bool:
    return any(pathlib.Path(file_name).is_relative_to(folder) for folder in folders)


_OURS = [pathlib.Path(jax.__file__).parent, pathlib.Path(__file__).parents[1]]
_INSTALLED = [
    pathlib.Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")
]


def name_of(path: Any) -> str:
    """A parameter, in a message."""
    return f"the leaf at {jax.tree_util.keystr(path)}" if path else "the argument"
