"""Find where a traced function reads rows of tables, and evaluate it by them.

The function is a jaxpr. :func:`walk` goes through its equations twice. First nothing is
computed: :func:`find_uses` says where rows of tables are read, and which tables are
*dense*, since they are needed as a whole. Then :func:`evaluate` computes the function
with a *tap* beside each read: an argument shaped like the rows that were read, whose
derivative is that of the rows. So the derivative with respect to a tap is what a
row-sparse gradient holds, and the table has none of its own.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from adagrad_jax._rows.functions import Function, Kinds, kinds
from adagrad_jax._rows.placement import (
    made_automatic,
    on_mesh_of,
    placed,
    placeholder,
    replicated,
    varying_as,
)
from adagrad_jax._rows.reads import read, show_indices
from adagrad_jax._rows.views import (
    Places,
    Table,
    View,
    equation_of,
    map_arrays,
    tables_in,
)
from adagrad_jax._rows.walk import Scan, Wanted, arrays_of, walk


@dataclasses.dataclass(frozen=True)
class Read:
    """A read of rows of table number ``table``.

    Attributes:
      table: Which one.
      places: ``(n,)``, with an axis in front for each ``scan`` around it.
      row: The shape of a row.
      aval: The type of the rows where they are read.
      fixed: Whether the program names the rows, and not its data.
      rounded_to: Through which dtypes rows came, before the one that they were read in.
      row_axes: How many axes of the table name a row.
      where: The equation that reads.
    """

    table: int | None
    places: tuple[Any, ...]
    row: tuple[int, ...]
    aval: Any
    fixed: bool
    rounded_to: tuple[Any, ...]
    row_axes: int
    where: core.JaxprEqn | None

    @property
    def num_ids(self) -> Any:
        return math.prod(self.places)

    def tap(self) -> jax.Array:
        """Zeros like the rows."""
        return varying_as(
            jnp.zeros((*self.places, *self.row), self.aval.dtype), self.aval
        )

    def no_ids(self, num_rows: int) -> jax.Array:
        """Ids of no rows."""
        return varying_as(jnp.full(self.places, num_rows, jnp.int32), self.aval)


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why a table's gradient is an ordinary array.

    Attributes:
      where: The equation that uses it otherwise than by rows, if it is one.
      what: What is used of it; without an equation, all of the reason.
    """

    where: core.JaxprEqn | None
    what: str = ""


@dataclasses.dataclass
class Uses:
    """What a function does with its tables.

    Attributes:
      kinds: How this JAX writes functions down.
      dense: For each table that is dense the first reason; all functions share it.
      reads: All reads, inner functions' too, in the order of evaluation.
      inner: Of the inner functions, in the order of evaluation.
      gives_views: Whether some result is a table still, or a view of one.
      row_axes: Of each table, if that was given.
    """

    kinds: Kinds
    dense: dict[int, Reason]
    reads: list[Read] = dataclasses.field(default_factory=list)
    inner: "list[Uses]" = dataclasses.field(default_factory=list)
    gives_views: bool = False
    row_axes: dict[int, int] | None = None

    def within(self) -> "Uses":
        """Of an inner function, which is the next."""
        inner = Uses(self.kinds, self.dense)
        self.inner.append(inner)
        return inner

    def include(self, inner: "Uses", turns: tuple[int, ...] = ()) -> None:
        """What an inner function does, at each of its turns."""
        self.reads += [
            dataclasses.replace(read, places=(*turns, *read.places))
            for read in inner.reads
        ]


def find_uses(jaxpr: core.Jaxpr, args: Sequence[Table | None], num_values: int) -> Uses:
    """What ``jaxpr`` does with those of its arguments that are tables.

    Args:
      jaxpr: The function.
      args: For each argument a table, with its type as its value, or None.
      num_values: How many of its results, the first ones, have a derivative.
    """
    uses = Uses(kinds(), {})
    avals = [var.aval for var in jaxpr.invars]
    types = [
        aval if arg is None else arg for arg, aval in zip(args, avals, strict=True)
    ]
    consts = [var.aval for var in jaxpr.constvars]
    walk(jaxpr, consts, types, _Finding(uses), _wanted(jaxpr, num_values))
    return uses


def evaluate(
    jaxpr: core.ClosedJaxpr,
    args: Sequence[Any],
    uses: Uses,
    taps: Sequence[jax.Array],
    num_values: int,
) -> tuple[list[Any], list[jax.Array]]:
    """Evaluates ``jaxpr``, taking the derivatives of rows from ``taps``.

    Args:
      jaxpr: The function.
      args: Its arguments; a :class:`Table` where it has one, none of them dense.
      uses: What :func:`find_uses` says.
      taps: An array for each of ``uses.reads``, from its ``tap``.
      num_values: As for :func:`find_uses`.

    Returns:
      The results, and for each read the ids of its rows, as its ``places``.
    """
    run = _Computing(uses, taps)
    wanted = _wanted(jaxpr.jaxpr, num_values)
    results = walk(jaxpr.jaxpr, jaxpr.consts, args, run, wanted)
    return results, run.ids


_REMAT_OPTIONS = "policy", "prevent_cse"


def _wanted(jaxpr: core.Jaxpr, num_values: int) -> Wanted:
    number = len(jaxpr.outvars)
    return Wanted([True] * number, [i < num_values for i in range(number)])


class _Finding:
    """The walk by which nothing is computed; a type stands for each array."""

    def __init__(self, uses: Uses) -> None:
        self.uses, self.kinds = uses, uses.kinds

    def bind(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        del args
        return [var.aval for var in eqn.outvars]

    def compute(self, view: View, args: Sequence[Any]) -> Any:
        del args
        return view.aval

    def read(self, view: View) -> Any:
        reads: list[Read] = []

        def note(table: Table, rows: jax.Array, ids: jax.Array, places: Places) -> Any:
            reads.append(
                Read(
                    table=table.number,
                    places=ids.shape,
                    row=rows.shape[1:],
                    aval=jax.typeof(rows),
                    fixed=places.fixed,
                    rounded_to=places.dtypes[:-1],
                    row_axes=table.ndim + 1 - rows.ndim,
                    where=view.eqn,
                )
            )
            return rows

        with on_mesh_of(view.aval):
            jax.make_jaxpr(lambda: read(map_arrays(placeholder, view), note))()
        self.uses.reads += reads
        return view.aval

    def dense(self, x: Any, where: core.JaxprEqn | None, what: str) -> None:
        for table in tables_in(x):
            if table.number is not None:
                self.uses.dense.setdefault(table.number, Reason(where, what))

    def moved(self, eqn: core.JaxprEqn, x: Any) -> Any:
        return jax.make_jaxpr(lambda: made_automatic(eqn, placeholder(x)))().out_avals[
            0
        ]

    def stopped(self, x: Any) -> Any:
        return x

    def call(
        self,
        function: Function,
        args: Sequence[Any],
        wanted: Wanted,
        whole: Callable[[Any], Any],
    ) -> list[Any]:
        del whole
        return self._inside(function.jaxpr, function.consts, args, wanted, views=True)

    def remat(
        self, function: Function, args: Sequence[Any], wanted: Wanted
    ) -> list[Any]:
        return self._inside(function.jaxpr, function.consts, args, wanted)

    def cond(
        self,
        function: Function,
        index: Any,
        args: Sequence[Any],
        wanted: Wanted,
    ) -> list[Any]:
        del index
        results: list[Any] = []
        for jaxpr, consts in function.jaxprs:
            results = self._inside(jaxpr, consts, args, wanted)
        return results

    def scan(self, scan: Scan) -> list[Any]:
        turn = jax.typeof(jnp.zeros((), jnp.int32))
        args, function = scan.args_at(turn, *scan.types), scan.function
        wanted, turns = scan.wanted_inside, (scan.length,)
        self._inside(function.jaxpr, function.consts, args, wanted, turns)
        return scan.result_types

    def _inside(
        self,
        jaxpr: core.Jaxpr,
        consts: Sequence[Any],
        args: Sequence[Any],
        wanted: Wanted,
        turns: tuple[Any, ...] = (),
        views: bool = False,
    ) -> list[Any]:
        """Of a function that is called here, what it uses, in each of its turns."""
        uses = self.uses.within()
        results = walk(jaxpr, consts, args, _Finding(uses), wanted, views=views)
        uses.gives_views = any(isinstance(x, Table | View) for x in results)
        self.uses.include(uses, turns)
        return results


class _Computing:
    """The walk that computes, with the derivatives of rows from taps."""

    def __init__(self, uses: Uses, taps: Sequence[jax.Array]) -> None:
        self.kinds, self.ids = uses.kinds, list[jax.Array]()
        self._taps, self._inner = iter(taps), iter(uses.inner)

    def bind(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        return _bind(eqn, args)

    def compute(self, view: View, args: Sequence[Any]) -> Any:
        return _bind(equation_of(view), args)[0]

    def read(self, view: View) -> Any:
        ids_here: list[jax.Array] = []

        def tapped(
            table: Table, rows: jax.Array, ids: jax.Array, places: Places
        ) -> Any:
            del table, places
            ids_here.append(ids)
            return _with_derivative_of(rows, placed(next(self._taps), jax.typeof(rows)))

        with on_mesh_of(view.aval):
            show_indices(view)
            rows = read(view, tapped)
        self.ids += [replicated(ids) for ids in ids_here]
        return rows

    def dense(self, x: Any, where: core.JaxprEqn | None, what: str) -> None:
        if any(table.number is not None for table in tables_in(x)):
            raise RuntimeError(
                "a table that was found to be read by rows is needed as a whole, by "
                f"{where}: please report this, and keep it dense by `tables=`."
            )

    def moved(self, eqn: core.JaxprEqn, x: Any) -> Any:
        return made_automatic(eqn, x)

    def stopped(self, x: Any) -> Any:
        return lax.stop_gradient(x)

    def _taps_for(self, uses: Uses) -> list[jax.Array]:
        return [next(self._taps) for _ in uses.reads]

    def call(
        self,
        function: Function,
        args: Sequence[Any],
        wanted: Wanted,
        whole: Callable[[Any], Any],
    ) -> list[Any]:
        uses = next(self._inner)
        taps = self._taps_for(uses)
        views = any(isinstance(x, View) and any(tables_in(x)) for x in args)
        if uses.gives_views or views or function.consts:
            run = _Computing(uses, taps)
            results = walk(
                function.jaxpr, function.consts, args, run, wanted, views=True
            )
            self.ids += run.ids
            return results
        args = [whole(x) if isinstance(x, View) else x for x in args]
        types = tuple(
            dataclasses.replace(arg, value=None) if isinstance(arg, Table) else None
            for arg in args
        )
        arrays = [arg.value if isinstance(arg, Table) else arg for arg in args]
        compiled = _compiled(
            function.jaxpr, types, Wanted(tuple(wanted.values), tuple(wanted.live))
        )
        results, ids = compiled(arrays, taps)
        self.ids += ids
        return results

    def remat(
        self, function: Function, args: Sequence[Any], wanted: Wanted
    ) -> list[Any]:
        uses = next(self._inner)

        def body(arrays: list[Any], taps: list[jax.Array]) -> Any:
            run = _Computing(uses, taps)
            inside = _merged(args, arrays)
            results = walk(function.jaxpr, function.consts, inside, run, wanted)
            return results, run.ids

        params = function.params  # jax_remat3 of jax 0.10 does not have both
        options = {name: params[name] for name in _REMAT_OPTIONS if name in params}
        remat = jax.checkpoint(body, **options)
        results, ids = remat(arrays_of(args), self._taps_for(uses))
        self.ids += ids
        return results

    def cond(
        self,
        function: Function,
        index: Any,
        args: Sequence[Any],
        wanted: Wanted,
    ) -> list[Any]:
        uses = [next(self._inner) for _ in function.jaxprs]
        sizes = {
            table.number: math.prod(table.shape[: table.row_axes])
            for arg in args
            for table in tables_in(arg)
        }

        def branch(number: int) -> Callable[..., Any]:
            jaxpr, consts = function.jaxprs[number]

            def run_branch(arrays: list[Any], taps: list[list[jax.Array]]) -> Any:
                run = _Computing(uses[number], taps[number])
                results = walk(jaxpr, consts, _merged(args, arrays), run, wanted)
                mine = iter(run.ids)
                ids = [
                    varying_as(next(mine), read.aval)
                    if other is uses[number]
                    else read.no_ids(sizes[read.table])
                    for other in uses
                    for read in other.reads
                ]
                return results, ids

            return run_branch

        branches = [branch(number) for number in range(len(uses))]
        taps = [self._taps_for(branch) for branch in uses]
        results, ids = lax.switch(index, branches, arrays_of(args), taps)
        self.ids += ids
        return results

    def scan(self, scan: Scan) -> list[Any]:
        uses, function = next(self._inner), scan.function

        def body(carry: list[Any], x: Any) -> Any:
            turn, xs, taps = x
            run = _Computing(uses, taps)
            args = scan.args_at(turn, carry, xs)
            results = walk(
                function.jaxpr, function.consts, args, run, scan.wanted_inside
            )
            carry, ys = scan.split(results)
            return carry, (ys, run.ids)

        carry, xs = scan.arrays
        turns = jnp.arange(scan.length, dtype=jnp.int32)
        options = {name: function.params[name] for name in ("reverse", "unroll")}
        carry, (ys, ids) = lax.scan(
            body,
            carry,
            (turns, xs, self._taps_for(uses)),
            length=scan.length,
            **options,
        )
        self.ids += ids
        return scan.results(carry, ys)


@functools.lru_cache(maxsize=128)
def _compiled(
    jaxpr: core.Jaxpr, types: tuple[Table | None, ...], wanted: Wanted
) -> Callable[..., tuple[list[Any], list[jax.Array]]]:
    """Evaluates a function that ``jax.jit`` has traced, under ``jax.jit``.

    JAX hands out one jaxpr for all calls of one function: so where the gradient is
    taken outside of ``jax.jit``, step after step, what is compiled is used again.
    ``types`` has, for each argument that is one, its table without the value.
    """

    def function(
        arrays: list[Any], taps: list[jax.Array]
    ) -> tuple[list[Any], list[jax.Array]]:
        uses, avals = Uses(kinds(), {}), [var.aval for var in jaxpr.invars]
        tables = [
            None if table is None else dataclasses.replace(table, value=aval)
            for table, aval in zip(types, avals, strict=True)
        ]
        args = [aval if t is None else t for t, aval in zip(tables, avals, strict=True)]
        walk(jaxpr, (), args, _Finding(uses), wanted)
        args = [
            array if table is None else dataclasses.replace(table, value=array)
            for table, array in zip(types, arrays, strict=True)
        ]
        run = _Computing(uses, taps)
        return walk(jaxpr, (), args, run, wanted), run.ids

    return jax.jit(function)


def _merged(args: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """``args``, with ``arrays`` for those that are not put off."""
    remaining = iter(arrays)
    return [x if isinstance(x, Table | View) else next(remaining) for x in args]


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


@jax.custom_jvp
def _with_derivative_of(rows: jax.Array, tap: jax.Array) -> jax.Array:
    del tap
    return rows


@_with_derivative_of.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return primals[0], tangents[1]
