"""Find where a traced function reads whole rows of a table, and evaluate it by them.

The function is a jaxpr: a list of equations, some of which (``jit``, ``remat``,
``scan``) hold another one. :func:`find_uses` follows each table from the inputs through
what leaves its rows as they are, and says of every equation that it goes into what that
is. Where it is something else the table is *dense*: its gradient may be anything.

:func:`evaluate` computes the function with a *tap* beside each read: an argument shaped
like the rows that were read, whose derivative is that of the rows. So the derivative
with respect to a tap is what a row-sparse gradient holds, and the table has none of its
own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from adagrad_jax._rows.row_sparse import row_or_none

# Functions that are no more than their equations. Not custom_jvp_call and
# custom_vjp_call, whose own derivative must be used.
_CALLS = {"jit", "pjit", "closed_call", "core_call"}
_REMAT = {"remat", "remat2", "checkpoint"}
_SAME_ROWS = {"convert_element_type", "copy", "sharding_constraint"}


@dataclasses.dataclass(frozen=True)
class Read:
    """A read of rows of table number ``table``.

    ``shape`` and ``dtype`` are the rows': ``(n, ...)``, with an axis in front for each
    ``scan`` around it; ``varying`` are the axes of a ``shard_map`` along which devices
    have rows of their own. ``fixed`` if the program names the rows, and not its data.
    """

    table: int
    shape: tuple[int, ...]
    dtype: Any
    varying: tuple[str, ...]
    fixed: bool

    def tap(self) -> jax.Array:
        """Zeros like the rows."""
        zeros = jnp.zeros(self.shape, self.dtype)
        return lax.pcast(zeros, self.varying, to="varying") if self.varying else zeros


@dataclasses.dataclass
class Uses:
    """What a function's equations do with its tables.

    Attributes:
      of: By an equation's position, what it is to the tables that go into it: "read",
        "same" rows in another form, "constant" if no derivative comes back, or the uses
        in the function that it holds.
      reads: All reads, inner functions' too, in the order of evaluation.
      dense: For each table that is dense the first equation that makes it so.
      results: For each result the table that it is, if it is one.
    """

    of: "dict[int, Literal['read', 'same', 'constant'] | Uses]" = dataclasses.field(
        default_factory=dict
    )
    reads: list[Read] = dataclasses.field(default_factory=list)
    dense: dict[int, core.JaxprEqn] = dataclasses.field(default_factory=dict)
    results: list[int | None] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table where :func:`evaluate` has it, cast to each of ``dtypes`` in turn."""

    value: jax.Array
    dtypes: tuple[Any, ...] = ()

    def cast(self, rows: jax.Array) -> jax.Array:
        """Rows of ``value`` as rows of the table."""
        for dtype in self.dtypes:
            rows = rows.astype(dtype)
        return rows


def find_uses(jaxpr: core.Jaxpr, tables: Sequence[int | None]) -> Uses:
    """What ``jaxpr`` does with its arguments that are tables.

    Args:
      jaxpr: The function.
      tables: For each argument the number of the table that it is, if it is one.
    """
    found = Uses()
    table_of = dict(zip(jaxpr.invars, tables, strict=True))
    for position, eqn in enumerate(jaxpr.eqns):
        numbers = [_lookup(table_of, atom) for atom in eqn.invars]
        present = [number for number in numbers if number is not None]
        if not present:
            continue
        name = eqn.primitive.name
        if name == "stop_gradient" or not _passes_derivatives_back(eqn):
            found.of[position] = "constant"
        elif name in _SAME_ROWS:
            found.of[position] = "same"
            table_of[eqn.outvars[0]] = present[0]
        elif len(present) == 1 and numbers[0] is not None and _reads_rows(eqn):
            found.of[position] = "read"
            found.reads.append(_read(eqn, numbers[0]))
        elif name in _CALLS | _REMAT | {"scan"}:
            inner = _find_inner_uses(eqn, numbers, found.dense)
            found.of[position] = inner
            found.reads.extend(inner.reads)
            table_of.update(zip(eqn.outvars, inner.results, strict=True))
        else:
            for number in present:
                found.dense.setdefault(number, eqn)
    found.results = [_lookup(table_of, atom) for atom in jaxpr.outvars]
    return found


def evaluate(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    uses: Uses,
    taps: Iterator[jax.Array],
) -> tuple[list[Any], list[jax.Array]]:
    """Evaluates ``jaxpr``, taking the derivatives of rows from ``taps``.

    Args:
      jaxpr: The function.
      consts: The values of its ``constvars``.
      args: Its arguments; a :class:`Table` where it has a table.
      uses: What :func:`find_uses` says, for tables that are not dense.
      taps: An array for each of ``uses.reads``, of its shape and dtype.

    Returns:
      The results, and for each read the ids of its rows, as ``(..., n)`` int32.
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    all_ids: list[jax.Array] = []
    for position, eqn in enumerate(jaxpr.eqns):
        args = [a.val if isinstance(a, core.Literal) else env[a] for a in eqn.invars]
        use = uses.of.get(position)
        if isinstance(use, Uses):
            inner = _INNER[eqn.primitive.name]
            results, ids = inner(eqn, args, use, [next(taps) for _ in use.reads])
            all_ids.extend(ids)
        elif use == "read":
            rows, ids = _read_rows(eqn, args, next(taps))
            results = [rows]
            all_ids.append(ids)
        elif use == "same":
            results = [_same_rows(eqn, args[0])]
        else:
            results = _bind(eqn, [whole(arg) for arg in args])
        env.update(zip(eqn.outvars, results, strict=True))
    results = [a.val if isinstance(a, core.Literal) else env[a] for a in jaxpr.outvars]
    return results, all_ids


# Row reads: `gather`, `dynamic_slice` and `slice` in any spelling of theirs.


def _reads_rows(eqn: core.JaxprEqn) -> bool:
    """Whether the equation reads rows of its first argument, as a whole."""
    params, (_, *row) = eqn.params, _aval(eqn.invars[0]).shape
    if any(_aval(eqn.outvars[0]).sharding.spec):
        return False  # on a mesh with explicit axes, where the tap would need its own
    if eqn.primitive.name == "gather":
        numbers = params["dimension_numbers"]
        return (
            list(params["slice_sizes"][1:]) == row
            and not numbers.operand_batching_dims
            and 0 in numbers.start_index_map
        )
    if eqn.primitive.name == "dynamic_slice":
        return list(params["slice_sizes"][1:]) == row
    if eqn.primitive.name == "slice":
        steps = params["strides"] or [1] * (1 + len(row))
        return (
            not any(params["start_indices"][1:])
            and list(params["limit_indices"][1:]) == row
            and all(step == 1 for step in steps[1:])
        )
    return False


def _read(eqn: core.JaxprEqn, table: int) -> Read:
    (_, *row), rows = _aval(eqn.invars[0]).shape, _aval(eqn.outvars[0])
    # Not rows.size // row.size: a row may be empty.
    if eqn.primitive.name == "gather":
        n = math.prod(_aval(eqn.invars[1]).shape[:-1]) * eqn.params["slice_sizes"][0]
    else:
        n = rows.shape[0]
    varying = tuple(rows.mat.varying)  # mat: manual axis type
    fixed = eqn.primitive.name == "slice"
    return Read(table, (n, *row), rows.dtype, varying, fixed)


def _read_rows(
    eqn: core.JaxprEqn, args: Sequence[Any], tap: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The equation's result, with the tap's derivative, and the ids of its rows."""
    table, *indices = args
    num_rows = table.value.shape[0]
    rows = table.cast(_rows_as_kept(eqn, table, indices))
    if eqn.primitive.name == "gather":
        ids = _gathered_ids(eqn, indices[0], num_rows)
        if table.dtypes:
            rows = _filled(eqn, rows, ids, num_rows)
        # Where rows lie along other axes than the last, so must the tap.
        offsets = eqn.params["dimension_numbers"].offset_dims
        batch = indices[0].shape[:-1]
        ends = range(len(batch), rows.ndim)
        inside = [rows.shape[axis] for axis in offsets]
        tap = jnp.moveaxis(tap.reshape(*batch, *inside), ends, offsets)
    elif eqn.primitive.name == "dynamic_slice":
        start = _clip(jnp.asarray(indices[0]), num_rows - rows.shape[0])
        ids = start.astype(jnp.int32) + jnp.arange(rows.shape[0], dtype=jnp.int32)
    else:
        starts, ends, steps = (
            eqn.params[name] for name in ("start_indices", "limit_indices", "strides")
        )
        step = steps[0] if steps else 1
        ids = jnp.arange(starts[0], ends[0], step, dtype=jnp.int32)
    return _with_derivative_of(rows, tap), row_or_none(ids, num_rows)


def _rows_as_kept(
    eqn: core.JaxprEqn, table: Table, indices: Sequence[jax.Array]
) -> jax.Array:
    """The rows before they are cast, where the equation reads them from the cast."""
    if not table.dtypes:
        return _bind(eqn, [table.value, *indices])[0]
    # Not the equation itself, whose variables and fill value are of the other dtype.
    params = dict(eqn.params)
    if _fill_value(eqn) is not None:
        params["fill_value"] = 0  # filled later, see below
    return eqn.primitive.bind(table.value, *indices, **params)


def _filled(
    eqn: core.JaxprEqn, rows: jax.Array, ids: jax.Array, num_rows: int
) -> jax.Array:
    """``rows`` with the fill value, which is of their dtype, where none was read."""
    fill = _fill_value(eqn)
    if fill is None:
        return rows
    numbers, window = eqn.params["dimension_numbers"], eqn.params["slice_sizes"][0]
    batch = [axis for axis in range(rows.ndim) if axis not in numbers.offset_dims]
    read = ids.reshape(*(rows.shape[axis] for axis in batch), window)[..., 0] < num_rows
    read = lax.broadcast_in_dim(read, rows.shape, batch)
    return lax.select(read, rows, jnp.full_like(rows, fill))


def _fill_value(eqn: core.JaxprEqn) -> Any:
    filling = eqn.params.get("mode") == lax.GatherScatterMode.FILL_OR_DROP
    return eqn.params["fill_value"] if filling else None


def _gathered_ids(eqn: core.JaxprEqn, indices: jax.Array, num_rows: int) -> jax.Array:
    """Which row, or rows, each index of a gather reads; ``num_rows`` for none."""
    axes = eqn.params["dimension_numbers"].start_index_map
    window = eqn.params["slice_sizes"][0]
    first = indices[..., axes.index(0)]
    last_first = num_rows - window
    if eqn.params["mode"] == lax.GatherScatterMode.CLIP:
        first = _clip(first, last_first).astype(jnp.int32)
    else:
        # All of a window is dropped if some of it is out of range, and so is a row that
        # would start anywhere but at 0 along its own axes.
        first = row_or_none(first, last_first + 1)
        inside = first <= last_first
        for column, axis in enumerate(axes):
            inside &= (indices[..., column] == 0) | (axis == 0)
        first = jnp.where(inside, first, num_rows)
    ids = first.reshape(-1, 1) + jnp.arange(window, dtype=jnp.int32)[None]
    return ids.reshape(-1)


def _clip(ids: jax.Array, last: int) -> jax.Array:
    return jnp.clip(ids, 0, min(last, jnp.iinfo(ids.dtype).max))


@jax.custom_jvp
def _with_derivative_of(rows: jax.Array, tap: jax.Array) -> jax.Array:
    del tap
    return rows


@_with_derivative_of.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]


# Equations that are no reads.


def _same_rows(eqn: core.JaxprEqn, table: Table) -> Table:
    if eqn.primitive.name == "convert_element_type":
        # Later, of the rows that are read: a table would be cast as a whole.
        dtype = eqn.params["new_dtype"]
        return dataclasses.replace(table, dtypes=(*table.dtypes, dtype))
    (value,) = _bind(eqn, [table.value])
    return dataclasses.replace(table, value=value)


def whole(arg: Any) -> Any:
    """The array that ``arg`` is or stands for."""
    return arg.cast(arg.value) if isinstance(arg, Table) else arg


def _bind(eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
    """Evaluates one equation, with its context and its place in the user's code."""
    value_of = {
        atom: arg
        for atom, arg in zip(eqn.invars, args, strict=True)
        if not isinstance(atom, core.Literal)
    }
    inputs, results = list(value_of), eqn.outvars
    names = core.DebugInfo(
        "value_and_grad", eqn.primitive.name, ("",) * len(inputs), ("",) * len(results)
    )
    alone = core.Jaxpr((), inputs, results, [eqn], eqn.effects, names)
    return core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*value_of.values())


# Functions inside functions.


def _find_inner_uses(
    eqn: core.JaxprEqn,
    numbers: list[int | None],
    dense: dict[int, core.JaxprEqn],
) -> Uses:
    """The uses in the function that ``eqn`` holds; adds to ``dense``."""
    name, (jaxpr, _) = eqn.primitive.name, _inner_jaxpr(eqn)
    if name == "scan":
        # Tables that every turn sees; others are carried or split along their rows.
        num_consts, _ = _scan_counts(eqn)
        for number in numbers[num_consts:]:
            if number is not None:
                dense.setdefault(number, eqn)
        numbers = [*numbers[:num_consts], *[None] * len(numbers[num_consts:])]
    uses = find_uses(jaxpr, numbers)
    for number, reason in uses.dense.items():
        dense.setdefault(number, reason)
    if name not in _CALLS:
        for number in uses.results:
            if number is not None:
                dense.setdefault(number, eqn)
        uses.results = [None] * len(uses.results)
    if name == "scan":
        length = eqn.params["length"]
        uses.reads = [
            dataclasses.replace(read, shape=(length, *read.shape))
            for read in uses.reads
        ]
    return uses


def _call(
    eqn: core.JaxprEqn, args: Sequence[Any], uses: Uses, taps: list[jax.Array]
) -> tuple[list[Any], list[jax.Array]]:
    inner = eqn.params.get("jaxpr")
    passes_table_on = any(number is not None for number in uses.results)
    if passes_table_on or not isinstance(inner, core.ClosedJaxpr):
        return evaluate(*_inner_jaxpr(eqn), args, uses, iter(taps))
    casts = tuple(arg.dtypes if isinstance(arg, Table) else None for arg in args)
    arrays = [arg.value if isinstance(arg, Table) else arg for arg in args]
    return _compiled(inner, casts)(arrays, taps)


@functools.lru_cache(maxsize=128)
def _compiled(
    inner: core.ClosedJaxpr, casts: tuple[tuple[Any, ...] | None, ...]
) -> Callable[..., tuple[list[Any], list[jax.Array]]]:
    """Evaluates a function that ``jax.jit`` has traced, under ``jax.jit``.

    JAX hands out one jaxpr for all calls of one function: so where the gradient is
    taken outside of ``jax.jit``, step after step, what is compiled is used again.
    ``casts`` are for each argument that is a table its ``dtypes``.
    """
    numbers = [None if cast is None else i for i, cast in enumerate(casts)]
    uses = find_uses(inner.jaxpr, numbers)

    def function(
        arrays: list[Any], taps: list[jax.Array]
    ) -> tuple[list[Any], list[jax.Array]]:
        args = [
            array if cast is None else Table(array, cast)
            for array, cast in zip(arrays, casts, strict=True)
        ]
        return evaluate(inner.jaxpr, inner.consts, args, uses, iter(taps))

    return jax.jit(function)


def _remat(
    eqn: core.JaxprEqn, args: Sequence[Any], uses: Uses, taps: list[jax.Array]
) -> tuple[list[Any], list[jax.Array]]:
    is_table = [isinstance(arg, Table) for arg in args]

    def body(arrays: list[Any], taps: list[jax.Array]) -> Any:
        remaining = iter(arrays)
        merged = [
            arg if table else next(remaining)
            for arg, table in zip(args, is_table, strict=True)
        ]
        return evaluate(*_inner_jaxpr(eqn), merged, uses, iter(taps))

    arrays = [arg for arg, table in zip(args, is_table, strict=True) if not table]
    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
    remat = jax.checkpoint(body, policy=policy, prevent_cse=prevent_cse)
    return remat(arrays, taps)


def _scan(
    eqn: core.JaxprEqn, args: Sequence[Any], uses: Uses, taps: list[jax.Array]
) -> tuple[list[Any], list[jax.Array]]:
    num_consts, num_carry = _scan_counts(eqn)
    consts, args = args[:num_consts], args[num_consts:]

    def body(carry: list[Any], x: Any) -> Any:
        xs, taps = x
        results, ids = evaluate(
            *_inner_jaxpr(eqn), [*consts, *carry, *xs], uses, iter(taps)
        )
        return results[:num_carry], (results[num_carry:], ids)

    carry, (ys, ids) = lax.scan(
        body,
        list(args[:num_carry]),
        (list(args[num_carry:]), taps),
        **{name: eqn.params[name] for name in ("length", "reverse", "unroll")},
    )
    return [*carry, *ys], ids


_INNER = {
    **dict.fromkeys(_CALLS, _call),
    **dict.fromkeys(_REMAT, _remat),
    "scan": _scan,
}


def _inner_jaxpr(eqn: core.JaxprEqn) -> tuple[core.Jaxpr, Sequence[Any]]:
    """The function that an equation holds, and its constants."""
    inner: Any = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if isinstance(inner, core.ClosedJaxpr):
        return inner.jaxpr, inner.consts
    return inner, ()


def _scan_counts(eqn: core.JaxprEqn) -> tuple[int, int]:
    """How many arguments of a scan all turns share, and how many are carried."""
    if "ft_in" in eqn.params:  # jax 0.12
        consts, carry, _ = eqn.params["ft_in"].unpack()
        return len(consts), len(carry)
    return eqn.params["num_consts"], eqn.params["num_carry"]


def _lookup(table_of: dict[Any, int | None], atom: Any) -> int | None:
    return None if isinstance(atom, core.Literal) else table_of.get(atom)


def _passes_derivatives_back(eqn: core.JaxprEqn) -> bool:
    """Whether its results have derivatives, or it may write into a Ref that has."""
    is_ref = [hasattr(_aval(atom), "inner_aval") for atom in eqn.invars]
    return any(is_ref) or any(map(_differentiable, eqn.outvars))


def _differentiable(var: Any) -> bool:
    # Tokens and the like have no dtype.
    return jnp.issubdtype(getattr(var.aval, "dtype", None) or bool, jnp.inexact)


def _aval(atom: Any) -> Any:
    return atom.aval
