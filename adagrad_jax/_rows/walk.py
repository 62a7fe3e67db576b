"""The walk through a function's equations, on which tables become views.

A table may be cast, sliced, stacked: what it becomes is a :class:`View`, and not
computed. Where something needs it, it is either read, if it picks some rows, or the
table must be there as a whole. What the walk does then, and what it does with all other
equations, is up to the :class:`Run`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax.numpy as jnp
from jax.extend import core

import adagrad_jax._rows.pieces  # pyright: ignore # noqa: F401 registers its views
from adagrad_jax._rows.functions import Function, Kinds, function_in, scan_counts
from adagrad_jax._rows.meshes import becomes_automatic
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

    def held(self, x: Any) -> Any:
        """``x``, where a derivative would be an error."""
        ...

    def call(
        self, function: Function, args: Any, wanted: Any, whole: Any
    ) -> list[Any]: ...

    def remat(self, function: Function, args: Any, wanted: Any) -> list[Any]: ...

    def cond(
        self, function: Function, index: Any, args: Any, wanted: Any
    ) -> list[Any]: ...

    def scan(self, scan: "Scan") -> list[Any]: ...


def walk(
    jaxpr: core.Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    run: Run,
    wanted: Sequence[bool] | None = None,
    *,
    views: bool = False,
    num_values: int | None = None,
) -> list[Any]:
    """The results of ``jaxpr``.

    Args:
      jaxpr: The function.
      consts: The values of its ``constvars``.
      args: Its arguments; tables and views may be among them.
      run: What is done on the way.
      wanted: Which results are; None stands for others. All, if it is None.
      views: Whether results may be tables and views.
      num_values: How many results have a derivative, the first ones; None for all.
    """
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    wanted = [True] * len(jaxpr.outvars) if wanted is None else wanted
    used = {
        atom
        for atom in (
            *(atom for eqn in jaxpr.eqns for atom in eqn.invars),
            *(atom for atom, want in zip(jaxpr.outvars, wanted, strict=True) if want),
        )
        if not isinstance(atom, core.Literal)
    }
    steps = _Steps(run)

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        operands = [value(atom) for atom in eqn.invars]
        results = steps.step(eqn, operands, [var in used for var in eqn.outvars])
        env.update(zip(eqn.outvars, results, strict=True))
    results = []
    for number, (atom, want) in enumerate(zip(jaxpr.outvars, wanted, strict=True)):
        result = value(atom) if want else None
        if num_values is not None and number >= num_values:
            result = without_derivative(result)
        results.append(result if views else steps.whole(result, None))
    return results


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
        self, eqn: core.JaxprEqn, operands: list[Any], wanted: Sequence[bool]
    ) -> list[Any]:
        """The results of an equation, which may be views."""
        name = eqn.primitive.name
        if not _has_tables(operands):
            operands = [self.whole(x, eqn) for x in operands]
            if name == "broadcast_in_dim" and len(operands) == 1:
                # What is as large as a table may be needed at some of its rows only.
                return [View.of(eqn, operands)]
            return self._run.bind(eqn, operands)
        if name == "stop_gradient" or not passes_derivatives_back(eqn):
            operands = [without_derivative(x) for x in operands]
            if name == "stop_gradient":
                return operands
        function = function_in(eqn, self._run.kinds)
        if function is not None:
            return self._call(eqn, function, operands, wanted)
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
        wanted: Sequence[bool],
    ) -> list[Any]:
        if function.kind == "call":
            return self._run.call(
                function, operands, wanted, lambda x: self.whole(x, eqn)
            )
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
        # Nothing can be differentiated through a while loop; what is tried is an error.
        arrays = [self.whole(without_derivative(x), eqn) for x in operands]
        arrays = [
            self._run.held(array) if _has_tables([x]) else array
            for x, array in zip(operands, arrays, strict=True)
        ]
        return self._run.bind(eqn, arrays)


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan over arrays, through which tables and views only pass.

    Attributes:
      function: What is done at each turn.
      consts: What all turns share.
      carry: What is carried; a view, if all turns pass it on.
      xs: What turns get one by one; views, of which they get theirs.
      wanted: Which of what turns give is wanted.
      out_avals: The types of the results.
    """

    function: Function
    consts: list[Any]
    carry: list[Any]
    xs: list[Any]
    wanted: list[bool]
    out_avals: list[Any]

    @classmethod
    def of(
        cls,
        eqn: core.JaxprEqn,
        function: Function,
        args: list[Any],
        wanted: Sequence[bool],
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
            list(wanted[num_carry:]),
            [var.aval for var in eqn.outvars],
        )

    @property
    def length(self) -> int:
        return self.function.params["length"]

    @property
    def wanted_inside(self) -> list[bool]:
        """Which results of a turn are needed."""
        return [*(not _is_put_off(x) for x in self.carry), *self.wanted]

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
            [y for y, want in zip(ys, self.wanted, strict=True) if want],
        )

    def results(self, carry: Iterable[Any], ys: Iterable[Any]) -> list[Any]:
        """Those of the equation."""
        carry, ys = iter(carry), iter(ys)
        return [
            *(x if _is_put_off(x) else next(carry) for x in self.carry),
            *(next(ys) if want else None for want in self.wanted),
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


def passes_derivatives_back(eqn: core.JaxprEqn) -> bool:
    """Whether its results have derivatives, or it may write into a Ref that has."""
    is_ref = [hasattr(_aval(atom), "inner_aval") for atom in eqn.invars]
    return any(is_ref) or any(map(_differentiable, eqn.outvars))


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
