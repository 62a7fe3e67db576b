"""A function, as it is called, as a jaxpr of the parameters in its arguments."""

import dataclasses
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.extend import core

Positions = int | tuple[int, ...]


def as_positions(argnums: int | Sequence[int]) -> Positions:
    """``argnums``, checked."""
    if isinstance(argnums, Sequence):
        return tuple(map(operator.index, argnums))
    return operator.index(argnums)


@dataclasses.dataclass(frozen=True)
class Call:
    """A call, as a function of the leaves of some of its arguments.

    Attributes:
      keyed: Each of these leaves, with its key path.
      unflatten: From leaves to these arguments.
      function: Of the leaves, and of those of all other arguments that stand for an
        array by its type.
      types: These.
    """

    keyed: list[tuple[Any, Any]]
    unflatten: Callable[[Sequence[Any]], Any]
    function: Callable[[list[Any]], Any]
    types: list[jax.ShapeDtypeStruct]

    @classmethod
    def of(
        cls,
        fun: Callable[..., Any],
        positions: Positions,
        args: Sequence[Any],
        kwargs: dict[str, Any],
    ) -> "Call":
        alone = isinstance(positions, int)
        chosen = (positions,) if isinstance(positions, int) else positions
        _check_positional(args, positions, chosen)
        keyed, structure = jax.tree_util.tree_flatten_with_path(
            tuple(args[position] for position in chosen)
        )
        others = [
            None if i in {p % len(args) for p in chosen} else arg
            for i, arg in enumerate(args)
        ]
        rest, of_rest = jax.tree.flatten((others, kwargs))
        types = [leaf for leaf in rest if _is_type(leaf)]

        def function(leaves: list[Any]) -> Any:
            all_args, all_kwargs = list(args), kwargs
            if types:  # else the arguments themselves, and not other objects like them
                arrays = iter(leaves[len(keyed) :])
                all_args, all_kwargs = of_rest.unflatten(
                    next(arrays) if _is_type(leaf) else leaf for leaf in rest
                )
            mine = structure.unflatten(leaves[: len(keyed)])
            for position, arg in zip(chosen, mine, strict=True):
                all_args[position] = arg
            return fun(*all_args, **all_kwargs)

        def unflatten(leaves: Sequence[Any]) -> Any:
            tree = structure.unflatten(leaves)
            return tree[0] if alone else tree

        if alone:
            keyed = [(path[1:], leaf) for path, leaf in keyed]
        return cls(keyed, unflatten, function, types)

    @property
    def leaves(self) -> list[Any]:
        return [*(leaf for _, leaf in self.keyed), *self.types]

    def __call__(self, leaves: list[Any]) -> Any:
        return self.function(leaves)


def _is_type(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _check_positional(
    args: Sequence[Any], argnums: Positions, positions: Sequence[int]
) -> None:
    if not positions:
        raise ValueError("argnums must name an argument to differentiate by, got ().")
    needed = max(max(positions) + 1, -min(positions))
    if needed > len(args):
        raise TypeError(
            f"differentiating by argnums={argnums} needs at least {needed} positional "
            f"arguments, got {len(args)}; pass them by position."
        )


@dataclasses.dataclass(frozen=True)
class Traced:
    """A function of leaves as a jaxpr, whose first results are its value's leaves.

    Attributes:
      jaxpr: Of the leaves.
      leaves: What it is to be called with.
      unflatten: From the jaxpr's results to the value, with ``has_aux`` a pair of it
        and the auxiliary data.
      has_aux: Whether ``unflatten`` gives a pair.
      num_values: How many results are of the value: the first ones.
    """

    jaxpr: core.ClosedJaxpr
    leaves: list[Any]
    unflatten: Callable[[list[Any]], Any]
    has_aux: bool
    num_values: int


def trace(
    call: Call,
    has_aux: bool,
    instead: Mapping[int, jax.ShapeDtypeStruct] = types.MappingProxyType({}),
) -> Traced:
    """Traces ``call``, of which only what it returns is needed.

    Of leaves with these numbers, it is to see these types instead.
    """
    structure, constants, num_values = None, [], 0

    def arrays_only(leaves: list[Any]) -> list[Any]:
        nonlocal structure, constants, num_values
        result = call(leaves)
        if has_aux and not (isinstance(result, tuple | list) and len(result) == 2):
            raise TypeError(
                "with has_aux=True `fun` must return a pair (value, auxiliary data), "
                f"got {result!r} of type {type(result).__name__}."
            )
        value, aux = result if has_aux else (result, None)
        results, structure = jax.tree.flatten((value, aux))
        num_values = len(jax.tree.leaves(value))
        # Auxiliary data may be anything: what is not computed here is only passed on.
        constants = [
            None if i < num_values or isinstance(leaf, Tracer) else (leaf,)
            for i, leaf in enumerate(results)
        ]
        return [
            leaf
            for leaf, constant in zip(results, constants, strict=True)
            if constant is None
        ]

    leaves = [instead.get(i, leaf) for i, leaf in enumerate(call.leaves)]
    jaxpr = jax.make_jaxpr(arrays_only)(leaves)

    def unflatten(results: list[Any]) -> Any:
        arrays = iter(results)
        merged = [
            next(arrays) if constant is None else constant[0] for constant in constants
        ]
        value, aux = jax.tree.unflatten(structure, merged)
        return (value, aux) if has_aux else value

    return Traced(jaxpr, call.leaves, unflatten, has_aux, num_values)
