"""To fill a state: what it keeps of each parameter found, ordered, and replaced."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from adagrad_jax._states import (
    ABSENT,
    FIELDS,
    Kept,
    Path,
    counters,
    is_in,
    kept_in,
    nodes,
    replace,
)
from adagrad_jax.interop._arrays import (
    at_leaf,
    converted,
    described,
    put_like,
    to_number,
)


class Found(NamedTuple):
    """An array that a state keeps of a parameter.

    Attributes:
      array: The array.
      field: What it is called there.
      place: Where in the state it is.
    """

    array: Any
    field: str
    place: Path


def find_kept(state: Any, params: Any, kind: type) -> dict[str, Found]:
    """What states of this kind keep of each parameter, by its path, in their order."""
    field = FIELDS[kind]
    found: dict[str, Found] = {}
    for node in nodes(state):
        if not isinstance(node.value, kind):
            continue
        for kept in kept_in(node, params):
            for path, array in _arrays_in(kept):
                _check_is_one(kept, path, array, field)
                name = jax.tree_util.keystr(kept.path)
                if name in found:
                    raise ValueError(
                        f"the state has two {field.rstrip('s')}s of {at_leaf(name)}; "
                        "give the part of the state with the right one."
                    )
                found[name] = Found(array, field, kept.place)
    if not found:
        raise ValueError(
            f"there is no {kind.__name__} in the state, {described(state)}; give the "
            "whole state of an optimizer that has one."
        )
    names = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    return {name: found[name] for name in names if name in found}


def _arrays_in(kept: Kept) -> list[tuple[Path, Any]]:
    if kept.value is ABSENT:
        return []
    return jax.tree_util.tree_leaves_with_path(kept.value)


def _check_is_one(kept: Kept, path: Path, array: Any, field: str) -> None:
    """Checks an array that is at this path in what is kept of a parameter."""
    where = jax.tree_util.keystr(kept.path + path)
    if kept.param is ABSENT:
        raise ValueError(
            f"the state has an {field} of {at_leaf(where)}, which `params` has not; "
            "give the parameters that `init` saw."
        )
    shape, ours = np.shape(kept.param), np.shape(array)
    if path or not ours and shape or ours != shape[: len(ours)]:
        raise TypeError(
            f"what is kept of {at_leaf(jax.tree_util.keystr(kept.path))} must be one "
            f"array of the parameter's shape, {shape}, or its rows', {shape[:1]}, as "
            f"other frameworks keep it, got one of shape {ours} at {where}; use "
            "Diagonal() or RowWise() for it (optax.partition)."
        )


def fill(
    state: Any,
    found: Mapping[str, Found],
    arrays: Mapping[str, Any],
    steps: Mapping[str, int | None],
) -> Any:
    """The state with these arrays in place of those found, and its schedules set."""
    new = {
        leaf.place: put_like(
            converted(name, leaf.field, arrays[name], leaf.array), leaf.array
        )
        for name, leaf in found.items()
        if name in arrays
    }
    for counter in counters(state):
        own = {
            name: step
            for name, step in steps.items()
            if is_in(counter.part, found[name].place)
        }
        if len(set(own.values())) > 1:
            different = ", ".join(f"{n} of {at_leaf(m)}" for m, n in own.items())
            raise ValueError(
                "leaves with one schedule must have taken as many steps, got "
                f"{different}; give each its own by optax.partition, or `step`."
            )
        if own:
            (step,) = set(own.values())
            new[counter.place] = put_like(known(step), counter.count)
    return replace(state, new)


def steps_taken(
    state: Any, found: Mapping[str, Found], step: int | None
) -> dict[str, int | None]:
    """How many steps each parameter has taken, None where nothing counts them."""
    if step is not None:
        return dict.fromkeys(found, to_number(step))
    counts = [(c.part, int(np.asarray(c.count))) for c in counters(state)]
    steps: dict[str, int | None] = {}
    for name, leaf in found.items():
        own = {count for part, count in counts if is_in(part, leaf.place)}
        if len(own) > 1:
            raise ValueError(
                f"`step` must be given, for the state has several counts of the steps "
                f"of {at_leaf(name)}: {sorted(own)}."
            )
        steps[name] = own.pop() if own else None
    return steps


def known(step: int | None) -> int:
    if step is None:
        raise ValueError(
            "`step` must be given, the number of steps taken: the state to be filled "
            "has it, but the other one does not."
        )
    return step


def ordered(
    found: Mapping[str, Any], order: Sequence[str | None] | None
) -> list[str | None]:
    """The leaves' paths in the other framework's order, None for what we have not."""
    if order is None:
        return list(found)
    if isinstance(order, str):
        raise TypeError(f"`order` must be a list of paths, got the text {order!r}.")
    names = [name for name in order if name is not None]
    check_paths("order", names, found, "; write None for one that has none here")
    for name in names:
        if list(order).count(name) > 1:
            raise ValueError(f"`order` must name each leaf once, got {name!r} twice.")
    return list(order)


def check_paths(
    argument: str, paths: Any, leaves: Mapping[str, Any], remedy: str = ""
) -> None:
    for path in paths:
        if path not in leaves:
            raise ValueError(
                f"`{argument}` must have paths of leaves with an accumulator, "
                f"{', '.join(map(repr, leaves))}, got {path!r}{remedy}."
            )


def check_length(what: str, length: int, noun: str, names: list[str | None]) -> None:
    if length != len(names):
        raise ValueError(
            f"{what} must be of {len(names)} {noun}, {listed(names)}, got {length}; "
            "name those that it has, in its order, in `order`, with None for each that "
            "has no accumulator here."
        )


def listed(names: Sequence[str | None]) -> str:
    return ", ".join("None" if name is None else at_leaf(name) for name in names)
