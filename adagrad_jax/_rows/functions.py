"""Functions that equations hold, as this JAX writes them down.

Which equation is a plain call, a ``remat``, a ``scan`` is found out from a specimen of
each: JAX renames them from version to version, and its flags change them. A function
with a derivative rule of its own (``custom_vjp``, ``custom_jvp``, ``linear_call``) is
like none of them; so it is not looked into, for that would be to ignore its rule.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core


@dataclasses.dataclass(frozen=True)
class Function:
    """What an equation calls.

    Attributes:
      kind: "call", "remat", "scan", "cond" or "while".
      jaxprs: The function, with its constants; of "cond" one for each branch.
      params: How it is called.
    """

    kind: str
    jaxprs: list[tuple[core.Jaxpr, Sequence[Any]]]
    params: dict[str, Any]

    @property
    def jaxpr(self) -> core.Jaxpr:
        return self.jaxprs[0][0]

    @property
    def consts(self) -> Sequence[Any]:
        return self.jaxprs[0][1]


Kinds = dict[tuple[Any, ...], str]


def kinds() -> Kinds:
    """What the equations are like that hold functions, in this JAX, as it is set."""
    x = jnp.zeros(2)

    def one(x: jax.Array) -> jax.Array:
        return x + 1

    specimens: list[tuple[str, Callable[..., Any]]] = [
        ("call", jax.jit(one)),
        ("remat", jax.checkpoint(one)),
        ("scan", lambda x: lax.scan(lambda c, _: (one(c), None), x, None, 2)[0]),
        ("cond", lambda x: lax.cond(x[0] > 0, one, lambda x: x, x)),
        ("while", lambda x: lax.while_loop(lambda x: x[0] < 1, one, x)),
    ]
    traced: Any = jax.jit(one).trace(x)
    if callable(traced):
        specimens.append(("call", traced))
    found = {}
    for kind, specimen in specimens:
        for eqn in jax.make_jaxpr(specimen)(x).eqns:
            if any(_jaxprs(_params(eqn))):
                found[_signature(eqn)] = kind
    return found


def function_in(eqn: core.JaxprEqn, kinds: Kinds) -> Function | None:
    """The function that an equation calls, if it is no more than its equations."""
    kind = kinds.get(_signature(eqn))
    if kind is None:
        return None
    params = _params(eqn)
    return Function(kind, list(_jaxprs(params)), params)


def scan_counts(function: Function) -> tuple[int, int]:
    """How many arguments of a scan all turns share, and how many are carried."""
    params = function.params
    if "ft_in" in params:  # jax 0.12
        consts, carry, _ = params["ft_in"].unpack()
        return len(consts), len(carry)
    return params["num_consts"], params["num_carry"]


def _signature(eqn: core.JaxprEqn) -> tuple[Any, ...]:
    return eqn.primitive, type(eqn.params.get("_prim"))


def _params(eqn: core.JaxprEqn) -> dict[str, Any]:
    # `call_hi_primitive` stands for many primitives, whose parameters are inside.
    return vars(eqn.params["_prim"]) if "_prim" in eqn.params else eqn.params


def _jaxprs(params: dict[str, Any]) -> Iterator[tuple[core.Jaxpr, Sequence[Any]]]:
    for value in params.values():
        for inner in value if isinstance(value, tuple | list) else [value]:
            if isinstance(inner, core.ClosedJaxpr):
                yield inner.jaxpr, inner.consts
            elif isinstance(inner, core.Jaxpr):
                yield inner, ()
