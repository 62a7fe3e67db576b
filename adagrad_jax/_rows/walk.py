"""The walk through a function's equations, on which tables become views.

A table may be cast, sliced, stacked: what it becomes is a :class:`View`, and not
computed. Where something needs it, it is either read, if it picks some rows, or the
table must be there as a whole. What the walk does then, and what it does with all other
equations, is up to the :class:`Run`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax.extend import core

import adagrad_jax._rows.pieces  # pyright: ignore # noqa: F401 registers its views
import adagrad_jax._rows.reshapes  # pyright: ignore # noqa: F401 likewise
from adagrad_jax._rows.functions import Function, Kinds, function_in, scan_counts
from adagrad_jax._rows.placement import becomes_automatic
from adagrad_jax._rows.reads import READS, waits
from adagrad_jax._rows.views import (
    NotRows,
    Table,
    View,
    is_view,
    map_arrays,
    tables_in,
    turn_of,
    without_derivative,
)

_LARGEST_VIEW = 64
"""Equations of which a view may be made; what they share counts many times."""

_ARRAYS = {"gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2}
"""How many operands of an equation are arrays, and not indices."""

_MOVES = {"sharding_constraint", "reshard"}


class Wanted(NamedTuple):
    """What is wanted of some results.

    Attributes:
      values: Of which the value is.
      live: Of which there is a derivative.
    """

    values: Sequence[bool]
    live: Sequence[bool]


class Run(Protocol):
    """What is done on the walk."""

    kinds: Kinds

    def bind(self, eqn: core.JaxprEqn, args: Sequence[Any]) -> list[Any]:
        """The results of an equation."""
        ...

    def compute(self, view: View, args: Sequence[Any]) -> Any:
        """The result of a view's equation."""
        ...

    def read(self, view: View) -> Any:
        """The result of a view that picks rows; may raise :class:`NotRows`."""
        ...

    def dense(self, x: Any, where: core.JaxprEqn | None, what: str) -> None:
        """Tables in ``x`` are needed as a whole."""
        ...

    def moved(self, eqn: core.JaxprEqn, x: Any) -> Any:
        """What ``eqn``, which only makes axes of a mesh automatic, makes of ``x``."""
        ...

    def stopped(self, x: Any) -> Any:
        """An array, to which no derivative comes back."""
        ...

    def call(
        self, function: Function, args: Any, wanted: "Wanted", whole: Any
    ) -> list[Any]: ...

    def remat(self, function: Function, args: Any, wanted: "Wanted") -> list[Any]: ...

    def cond(
        self, function: Function, index: Any, args: Any, wanted: "Wanted"
    ) -> list[Any]: ...

    def scan(self, scan: "Scan") -> list[Any]: ...


def walk(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    run: Run,
    wanted: Wanted,
    *,
    views: bool = False,
) -> list[Any]:
    """The results of ``jaxpr``.

    Args:
      jaxpr: The function.
      consts: The values of its ``constvars``.
      args: Its arguments; tables and views may be among them.
      run: What is done on the way.
      wanted: Which results are, and of which there is a derivative; None stands for
        those that are not.
      views: Whether results may be tables and views.
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    used, live = _used(jaxpr, wanted.values), _live(jaxpr, wanted.live)
    steps = _Steps(run)

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [value(atom) for atom in eqn.invars]
        here = Wanted(
            [v in used for v in eqn.outvars], [v in live for v in eqn.outvars]
        )
        results = steps.step(eqn, operands, here)
        env.update(zip(eqn.outvars, results, strict=True))
    results = []
    for atom, want, is_live in zip(
        jaxpr.outvars, wanted.values, wanted.live, strict=True
    ):
        result = value(atom) if want else None
        result = result if is_live else without_derivative(run.stopped, result)
        results.append(result if views else steps.whole(result, None))
    return results


def _used(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[Any]:
    """The variables whose values are needed."""
    needed = [a for a, want in zip(jaxpr.outvars, wanted, strict=True) if want]
    atoms = [*needed, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    return {atom for atom in atoms if not isinstance(atom, core.Literal)}


def _live(jaxpr: core.Jaxpr, wanted: Sequence[bool]) -> set[Any]:
    """The variables to which a derivative comes back."""
    live = {
        atom
        for atom, want in zip(jaxpr.outvars, wanted, strict=True)
        if want and not isinstance(atom, core.Literal)
    }
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name == "stop_gradient":
            continue
        # What is written into a Ref may be read from it anywhere.
        has_ref = any(hasattr(_aval(atom), "inner_aval") for atom in eqn.invars)
        if has_ref or any(v in live and _differentiable(v) for v in eqn.outvars):
            live |= {a for a in eqn.invars if not isinstance(a, core.Literal)}
    return live


class _Steps:
    """The equations of one function, one after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._computed = dict[int, tuple[Any, Any]]()

    def whole(self, x: Any, where: core.JaxprEqn | None) -> Any:
        """The array that ``x`` is or stands for."""
        if not isinstance(x, Table | View):
            return x
        if id(x) not in self._computed:
            self._computed[id(x)] = x, self._compute(x, where)
        return self._computed[id(x)][1]

    def _compute(self, x: Table | View, where: core.JaxprEqn | None) -> Any:
        if isinstance(x, Table):
            self._run.dense(x, where, "")
            return x.value
        if x.name in READS:
            try:
                return self._run.read(x)
            except NotRows as error:
                self._run.dense(x, x.eqn or where, str(error))
        return self._run.compute(x, [self.whole(arg, where) for arg in x.args])

    def step(
        self, eqn: core.JaxprEqn, operands: list[Any], wanted: Wanted
    ) -> list[Any]:
        """The results of an equation, which may be views."""
        name = eqn.primitive.name
        if not _has_tables(operands):
            operands = [self.whole(x, eqn) for x in operands]
            if name == "broadcast_in_dim" and len(operands) == 1:
                # What is as large as a table may be needed at some of its rows only.
                return [View.of(eqn, operands)]
            return self._run.bind(eqn, operands)
        if name == "stop_gradient" or not _passes_derivatives_back(eqn, wanted):
            operands = [without_derivative(self._run.stopped, x) for x in operands]
            if name == "stop_gradient":
                return operands
        function = function_in(eqn, self._run.kinds)
        if function is not None:
            results = self._call(eqn, function, operands, wanted)
            if results is not None:
                return results
        if name == "reshard" and becomes_automatic(eqn):
            move = functools.partial(self._run.moved, eqn)
            return [map_arrays(move, operands[0])]
        if name in _MOVES and isinstance(operands[0], Table):
            (value,) = self._run.bind(eqn, [operands[0].value])
            return [dataclasses.replace(operands[0], value=value)]
        return self._view(eqn, operands)

    def _view(self, eqn: core.JaxprEqn, operands: list[Any]) -> list[Any]:
        name = eqn.primitive.name
        arrays = _ARRAYS.get(name, len(operands))
        operands = [
            x if number < arrays and not (name == "scatter" and number == 1)
            else self.whole(x, eqn)
            for number, x in enumerate(operands)
        ]  # fmt: skip
        if is_view(name) and _has_tables(operands):
            view = View.of(eqn, operands)
            if view.size <= _LARGEST_VIEW:
                return [view if waits(view) else self.whole(view, eqn)]
        return self._run.bind(eqn, [self.whole(x, eqn) for x in operands])

    def _call(
        self,
        eqn: core.JaxprEqn,
        function: Function,
        operands: list[Any],
        wanted: Wanted,
    ) -> list[Any] | None:
        """The results of a function of tables; None if it is nothing special."""
        if function.kind == "call":
            return self._run.call(
                function, operands, wanted, lambda x: self.whole(x, eqn)
            )
        if not any(t.number is not None for x in operands for t in tables_in(x)):
            return None
        operands = [x if _has_tables([x]) else self.whole(x, eqn) for x in operands]
        if function.kind == "remat":
            return self._run.remat(function, operands, wanted)
        if function.kind == "cond":
            index, *operands = operands
            index = self.whole(index, eqn)
            return self._run.cond(function, index, operands, wanted)
        if function.kind == "scan":
            scan = Scan.of(eqn, function, operands, wanted, self)
            return self._run.scan(scan)
        # A while loop of whose results there is a derivative: an error, which is JAX's.
        return None


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan over arrays, through which tables and views only pass.

    Attributes:
      function: What is done at each turn.
      consts: What all turns share.
      carry: What is carried; a view, if all turns pass it on.
      xs: What turns get one by one; views, of which they get theirs.
      wanted: What is of the results.
      out_avals: The types of the results.
    """

    function: Function
    consts: list[Any]
    carry: list[Any]
    xs: list[Any]
    wanted: Wanted
    out_avals: list[Any]

    @classmethod
    def of(
        cls,
        eqn: core.JaxprEqn,
        function: Function,
        args: list[Any],
        wanted: Wanted,
        steps: _Steps,
    ) -> "Scan":
        num_consts, num_carry = scan_counts(function)
        num_shared = num_consts + num_carry
        carry = [
            x if inside is result else steps.whole(x, eqn)
            for x, inside, result in zip(
                args[num_consts:num_shared],
                function.jaxpr.invars[num_consts:num_shared],
                function.jaxpr.outvars[:num_carry],
                strict=True,
            )
        ]
        return cls(
            function,
            args[:num_consts],
            carry,
            args[num_shared:],
            wanted,
            [var.aval for var in eqn.outvars],
        )

    @property
    def length(self) -> int:
        return self.function.params["length"]

    @property
    def wanted_inside(self) -> Wanted:
        """What is wanted of a turn."""
        carried = [not _is_put_off(x) for x in self.carry]
        return Wanted(
            [*carried, *self._ys], [*carried, *self.wanted.live[len(carried) :]]
        )

    @property
    def _ys(self) -> Sequence[bool]:
        return self.wanted.values[len(self.carry) :]

    @property
    def arrays(self) -> tuple[list[Any], list[Any]]:
        """What is carried, and what turns get, but for views."""
        return arrays_of(self.carry), arrays_of(self.xs)

    @property
    def types(self) -> tuple[list[Any], list[Any]]:
        """Of the same, at a turn."""
        avals = [var.aval for var in self.function.jaxpr.invars[len(self.consts) :]]
        kept = [
            (aval, number < len(self.carry))
            for number, (x, aval) in enumerate(
                zip([*self.carry, *self.xs], avals, strict=True)
            )
            if not _is_put_off(x)
        ]
        return (
            [aval for aval, carried in kept if carried],
            [aval for aval, carried in kept if not carried],
        )

    def args_at(self, turn: Any, carry: Iterable[Any], xs: Iterable[Any]) -> list[Any]:
        """The arguments of a turn."""
        carry, xs = iter(carry), iter(xs)
        avals = [var.aval for var in self.function.jaxpr.invars]
        of_xs = avals[len(avals) - len(self.xs) :]
        return [
            *self.consts,
            *(x if _is_put_off(x) else next(carry) for x in self.carry),
            *(
                turn_of(x, turn, aval) if _is_put_off(x) else next(xs)
                for x, aval in zip(self.xs, of_xs, strict=True)
            ),
        ]

    def split(self, results: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """What a turn carries on, and what it gives."""
        carry, ys = results[: len(self.carry)], results[len(self.carry) :]
        return (
            [y for x, y in zip(self.carry, carry, strict=True) if not _is_put_off(x)],
            [y for y, want in zip(ys, self._ys, strict=True) if want],
        )

    def results(self, carry: Iterable[Any], ys: Iterable[Any]) -> list[Any]:
        """Those of the equation."""
        carry, ys = iter(carry), iter(ys)
        return [
            *(x if _is_put_off(x) else next(carry) for x in self.carry),
            *(next(ys) if want else None for want in self._ys),
        ]

    @property
    def result_types(self) -> list[Any]:
        carry = self.out_avals[: len(self.carry)]
        return [
            *(
                x if _is_put_off(x) else aval
                for x, aval in zip(self.carry, carry, strict=True)
            ),
            *self.out_avals[len(self.carry) :],
        ]


def _passes_derivatives_back(eqn: core.JaxprEqn, wanted: Wanted) -> bool:
    """Whether its results have derivatives, or it may write into a Ref that has."""
    is_ref = [hasattr(_aval(atom), "inner_aval") for atom in eqn.invars]
    return any(is_ref) or any(
        live and _differentiable(var)
        for var, live in zip(eqn.outvars, wanted.live, strict=True)
    )


def _differentiable(var: Any) -> bool:
    # Tokens and the like have no dtype.
    return jnp.issubdtype(getattr(var.aval, "dtype", None) or bool, jnp.inexact)


def _aval(atom: Any) -> Any:
    return atom.aval


def _is_put_off(x: Any) -> bool:
    return isinstance(x, Table | View)


def _has_tables(operands: Sequence[Any]) -> bool:
    return any(True for x in operands for _ in tables_in(x))


def arrays_of(args: Sequence[Any]) -> list[Any]:
    """Those of ``args`` that are no tables nor views."""
    return [x for x in args if not _is_put_off(x)]
