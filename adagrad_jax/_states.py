"""Where things are in an optimizer's state, whatever it is a chain of.

``optax.chain``, ``partition``, ``masked``, ``inject_hyperparams``, ``MultiSteps`` and
the like put states into states. One walk, :func:`nodes`, gives all that a state
consists of with its path, and the paths tell the rest: what is around a node has the
beginning of its path, what is near it shares as much of it as can be, and what a node
keeps of a parameter has the parameter's path in the node's tree.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.tree_util import GetAttrKey

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._around_update import AccumulateGradientsState, AverageParamsState
from adagrad_jax._frequency import ScaleByFrequencyState
from adagrad_jax._ftrl import FtrlState
from adagrad_jax._lazy_decay import LazyWeightDecayState
from adagrad_jax._regularized import AdagradDAState, ProximalAdagradState

Path = tuple[Any, ...]

# Where each kind of state keeps something of every parameter.
FIELDS: dict[type, str] = {
    AverageParamsState: "average",
    AccumulateGradientsState: "gradient_sum",
    ScaleByAdagradState: "accumulator",
    ProximalAdagradState: "accumulator",
    ScaleByFrequencyState: "read_counts",
    AdagradDAState: "accumulator",
    FtrlState: "accumulator",
    optax.ScaleByRssState: "sum_of_squares",
}


class Node(NamedTuple):
    """Something that a state consists of: a state in it, a container, or a leaf.

    Attributes:
      path: Where it is in the state.
      value: The node itself.
    """

    path: Path
    value: Any


def nodes(state: Any, path: Path = ()) -> Iterator[Node]:
    """All that a state consists of, containers before what is in them."""
    yield Node(path, state)
    for key, child in _children(state):
        yield from nodes(child, (*path, *key))


def _children(tree: Any) -> list[tuple[Path, Any]]:
    """What a node holds, with its keys; a leaf holds nothing."""
    if _is_leaf(tree):
        return []
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is not tree)


def _is_leaf(tree: Any) -> bool:
    return jax.tree_util.all_leaves([tree])


def without_variables(tree: Any) -> Any:
    """With what they hold in place of flax.nnx's variables, which are trees to JAX.

    ``nnx.Optimizer`` keeps its state in them, and a model its parameters.
    """

    def is_variable(node: Any) -> bool:
        return hasattr(node, "get_value") and hasattr(node, "set_value")

    def held(node: Any) -> Any:
        return node.get_value() if is_variable(node) else node

    return jax.tree.map(held, tree, is_leaf=is_variable)


def replace(state: Any, new: Mapping[Path, Any]) -> Any:
    """The state with other leaves at these paths."""
    return jax.tree_util.tree_map_with_path(lambda path, old: new.get(path, old), state)


# What is kept of each parameter


ABSENT: Any = object()
"""In place of what a tree has not."""


class Kept(NamedTuple):
    """What a node keeps of a parameter.

    Attributes:
      path: The parameter's, among the parameters.
      param: The parameter; ABSENT for what the node has beyond them.
      value: What is kept of it: an array, or a tree of some; ABSENT if the node has
        nothing where a parameter is, or a tree of some.
      place: Where in the state ``value`` is.
    """

    path: Path
    param: Any
    value: Any
    place: Path


def kept_in(node: Node, params: Any) -> Iterator[Kept]:
    """What a node that has one of :data:`FIELDS` keeps of each parameter.

    Masked parameters are left out. Containers need not be of the same types, only have
    the same keys.
    """
    (field,) = (f for kind, f in FIELDS.items() if isinstance(node.value, kind))
    for path, param, kept in pairs(params, getattr(node.value, field)):
        yield Kept(path, param, kept, (*node.path, GetAttrKey(field), *path))


def kept_anywhere(state: Any, params: Any) -> Iterator[Kept]:
    """What a state of any kind, Optax's too, keeps of each parameter.

    A state is a NamedTuple, and whichever of its fields has the keys of all parameters
    keeps something of them.
    """
    for path, node in nodes(state):
        for field in getattr(node, "_fields", ()):
            found = list(pairs(params, getattr(node, field)))
            if any(ABSENT is x for pair in found for x in pair[1:]):
                continue
            for of, param, kept in found:
                yield Kept(of, param, kept, (*path, GetAttrKey(field), *of))


def pairs(params: Any, tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any, Any]]:
    """Each parameter's path, the parameter, and what a tree has in its place.

    Masked parameters are left out; in place of what only one of them has is ABSENT.
    """
    # A mask may be a prefix of the parameters, and so a whole branch one MaskedNode.
    if isinstance(tree, optax.MaskedNode):
        return
    if _is_leaf(params):
        yield path, params, tree
    elif _is_leaf(tree):
        yield path, ABSENT, tree
    else:
        parts, kept = dict(_children(params)), dict(_children(tree))
        for key in {**parts, **kept}:
            if key not in parts or key not in kept:
                yield path + key, parts.get(key, ABSENT), kept.get(key, ABSENT)
        for key in parts:
            if key in kept:
                yield from pairs(parts[key], kept[key], path + key)


def spread(value: Any, params: Any) -> list[Any]:
    """``value`` for each leaf of ``params``, of which it is a prefix.

    Containers need not be of the same types, only have the same keys; what is for none
    is None.

    Raises:
      ValueError: If it is no prefix.
    """
    if value is None or _is_leaf(value):
        return [value] * len(jax.tree.leaves(params))
    parts, values = _children(params), dict(_children(value))
    if not parts or {key for key, _ in parts} != set(values):
        keys = [jax.tree_util.keystr(key) for key in values]
        raise ValueError(f"it has {', '.join(keys)}.")
    return [one for key, part in parts for one in spread(values[key], part)]


# What is around a node, and near it


def labels(path: Path) -> list[Any]:
    """Of the parts of ``optax.partition`` around what is here, from the outside in."""
    return [
        path[i + 1].key
        for i, key in enumerate(path[:-1])
        if key == GetAttrKey("inner_states")
    ]


def injected(path: Path, among: Iterable[Node]) -> dict[str, Any]:
    """The hyperparameters that ``optax.inject_hyperparams`` keeps for what is here."""
    hyperparams: dict[str, Any] = {}
    for node in among:  # from the outside in
        found = getattr(node.value, "hyperparams", None)
        if isinstance(found, dict) and is_in(node.path, path):
            hyperparams |= found
    return hyperparams


def nearest(path: Path, among: Iterable[Node]) -> Node | None:
    """The node that shares most of this path, and of several the first.

    A chain's members are beside one another, so what one of them has is near the rest.
    """
    return max(among, key=lambda node: _shared(node.path, path), default=None)


def _shared(one: Path, other: Path) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def is_in(part: Path, path: Path) -> bool:
    """Whether what has this path is in what has the path ``part``."""
    return path[: len(part)] == part


@functools.cache
def _count_steps() -> tuple[type, ...]:
    """States with a field ``count`` of the updates done, for schedules.

    Others, like Adam's, also count, but what they count for is not in an Adagrad's:
    ``scale_by_frequency``'s is nothing without the counts of its rows.
    """
    # It has no public name; and made when this is imported, it would start JAX's
    # backends before a program has said which.
    wrapped = optax.schedules.WrappedSchedule(lambda count: count).init()
    return (
        optax.ScaleByScheduleState,
        optax.InjectHyperparamsState,
        optax.InjectStatefulHyperparamsState,
        LazyWeightDecayState,
        type(wrapped),
    )


class Counter(NamedTuple):
    """A count of the steps that were taken, for a schedule.

    Attributes:
      count: The count.
      place: Where in the state it is.
      part: The path of the part of the state whose steps it counts: the innermost part
        of ``optax.partition``, or all.
    """

    count: Any
    place: Path
    part: Path


def counters(state: Any) -> Iterator[Counter]:
    """All counts of steps in a state."""
    for path, node in nodes(state):
        if isinstance(node, _count_steps()):
            yield Counter(node.count, (*path, GetAttrKey("count")), _part(path))


def _part(path: Path) -> Path:
    for i in reversed(range(len(path) - 1)):
        if path[i] == GetAttrKey("inner_states"):
            return path[: i + 2]
    return ()
