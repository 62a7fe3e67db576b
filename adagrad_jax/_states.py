"""What an optimizer's state keeps of each parameter: to find it, and to replace it.

States come from any chain: ``optax.chain``, ``partition``, ``masked``,
``inject_hyperparams`` and the like. What is kept of a parameter is found by the kind of
the node that it is in and by the parameter's path in that node's tree.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._around_update import AccumulateGradientsState, AverageParamsState
from adagrad_jax._lazy_decay import LazyWeightDecayState

Path = tuple[Any, ...]

# Where each kind of state keeps something of every parameter.
FIELDS: dict[type, str] = {
    AverageParamsState: "average",
    AccumulateGradientsState: "gradient_sum",
    ScaleByAdagradState: "accumulator",
    optax.ScaleByRssState: "sum_of_squares",
}


@functools.cache
def _count_steps() -> tuple[type, ...]:
    """States with a field ``count`` of the updates done, for schedules.

    Others, like Adam's, also count, but what they count for is not in an Adagrad's.
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


# With a field ``calls``, which are more than updates if gradients are accumulated.
COUNT_CALLS = (AverageParamsState, AccumulateGradientsState)


class Found(NamedTuple):
    """An array that a state keeps of a parameter.

    Attributes:
      array: The array.
      path: Where in the state the node is that it is kept in.
    """

    array: Any
    path: Path


def nodes(state: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All that a state consists of, containers before what is in them."""
    yield path, state
    if not jax.tree_util.all_leaves([state]):
        for key, child in jax.tree_util.tree_leaves_with_path(
            state, is_leaf=lambda node: node is not state
        ):
            yield from nodes(child, (*path, *key))


def map_nodes(function: Callable[[Path, Any], Any], state: Any, path: Path = ()) -> Any:
    """Replaces all that a state consists of, containers before what is in them."""
    state = function(path, state)
    if jax.tree_util.all_leaves([state]):
        return state
    return jax.tree_util.tree_map_with_path(
        lambda key, child: map_nodes(function, child, (*path, *key)),
        state,
        is_leaf=lambda node: node is not state,
    )


def find_kept(state: Any, params: Any, kind: type) -> dict[str, Found]:
    """What the state keeps of each parameter, by its path, in the tree's order."""
    shapes = {
        jax.tree_util.keystr(path): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    field = FIELDS[kind]
    found: dict[str, Found] = {}
    for path, node in nodes(state):
        if not isinstance(node, kind):
            continue
        for leaf_path, array in jax.tree_util.tree_leaves_with_path(
            getattr(node, field)
        ):
            name = _owner(leaf_path, shapes)
            if name is None:
                raise ValueError(
                    f"the state has an {field} of "
                    f"{at_leaf(jax.tree_util.keystr(leaf_path))}, which `params` has "
                    "not; give the parameters that `init` saw."
                )
            shape, ours = shapes[name], np.shape(array)
            one = name == jax.tree_util.keystr(leaf_path)
            if not one or ours not in (shape, shape[:1]):
                raise TypeError(
                    f"what is kept of {at_leaf(name)} must be one array of the "
                    f"parameter's shape, {shape}, or its rows', {shape[:1]}, as other "
                    f"frameworks keep it, got one of shape {ours} at "
                    f"{jax.tree_util.keystr(leaf_path)}; use Diagonal() or RowWise() "
                    "for it (optax.partition)."
                )
            if name in found:
                raise ValueError(
                    f"the state has two {field}s of {at_leaf(name)}; give the part of "
                    "the state with the right one."
                )
            found[name] = Found(array, path)
    if not found:
        raise ValueError(
            f"there is no {kind.__name__} in the state, {described(state)}; give the "
            "whole state of an optimizer that has one."
        )
    return {name: found[name] for name in shapes if name in found}


def _owner(path: Path, names: Mapping[str, Any]) -> str | None:
    """The parameter of which something is kept at this path, or in it."""
    for end in range(len(path) + 1):
        name = jax.tree_util.keystr(path[:end])
        if name in names:
            return name
    return None


def refill(
    source: Any, their_kind: type, target: Any, kind: type, params: Any, step: Any
) -> Any:
    """Fills a JAX state from another, path by path."""
    theirs = find_kept(source, params, their_kind)
    found = find_kept(target, params, kind)
    for name in {**theirs, **found}:
        if name not in theirs or name not in found:
            raise ValueError(
                f"only one of the states has an accumulator of {at_leaf(name)}; both "
                "must be for the same parameters."
            )
    arrays = {name: leaf.array for name, leaf in theirs.items()}
    return fill(target, found, arrays, steps_taken(source, theirs, step))


def steps_taken(
    state: Any, found: dict[str, Found], step: int | None
) -> dict[str, int | None]:
    """How many steps each parameter has taken, None where nothing counts them."""
    if step is not None:
        return dict.fromkeys(found, to_number(step))
    counts = [
        (_part(path), int(np.asarray(node.count)))
        for path, node in nodes(state)
        if isinstance(node, _count_steps())
    ]
    steps: dict[str, int | None] = {}
    for name, leaf in found.items():
        own = {count for part, count in counts if leaf.path[: len(part)] == part}
        if len(own) > 1:
            raise ValueError(
                f"`step` must be given, for the state has several counts of the steps "
                f"of {at_leaf(name)}: {sorted(own)}."
            )
        steps[name] = own.pop() if own else None
    return steps


def _part(path: Path) -> Path:
    """Where the innermost part of ``optax.partition`` begins that has this path."""
    for i in reversed(range(len(path) - 1)):
        if path[i] == jax.tree_util.GetAttrKey("inner_states"):
            return path[: i + 2]
    return ()


def fill(
    state: Any,
    found: dict[str, Found],
    arrays: Mapping[str, Any],
    steps: Mapping[str, int | None],
) -> Any:
    """The state with these arrays in place of those found, and its schedules set."""
    nodes = {found[name].path for name in arrays}

    def fill(path: Path, node: Any) -> Any:
        if path in nodes:
            field = FIELDS[type(node)]

            def leaf(leaf_path: Path, old: Any) -> Any:
                name = jax.tree_util.keystr(leaf_path)
                if name not in arrays:
                    return old
                return put_like(converted(name, field, arrays[name], old), old)

            new = jax.tree_util.tree_map_with_path(leaf, getattr(node, field))
            return node._replace(**{field: new})
        if isinstance(node, _count_steps()):
            part = _part(path)
            own = {
                name: step
                for name, step in steps.items()
                if found[name].path[: len(part)] == part
            }
            if len(set(own.values())) > 1:
                different = ", ".join(f"{n} of {at_leaf(m)}" for m, n in own.items())
                raise ValueError(
                    "leaves with one schedule must have taken as many steps, got "
                    f"{different}; give each its own by optax.partition, or `step`."
                )
            if own:
                (step,) = set(own.values())
                return node._replace(count=put_like(known(step), node.count))
        return node

    return map_nodes(fill, state)


def to_numpy(array: Any) -> np.ndarray:
    if hasattr(array, "detach"):  # a PyTorch tensor, which may be anywhere
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":  # which NumPy lacks
            array = array.float()
    array = np.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(f"an array of numbers was expected, got {described(array)}.")
    return array


def to_number(value: Any) -> int:
    array = to_numpy(value)
    if array.shape != () or array < 0 or array != np.floor(array):
        raise ValueError(
            f"a number of steps must be one integer >= 0, got {described(value)}."
        )
    return int(array)


def known(step: int | None) -> int:
    if step is None:
        raise ValueError(
            "`step` must be given, the number of steps taken: the state to be filled "
            "has it, but the other one does not."
        )
    return step


def converted(name: str, field: str, array: Any, like: Any) -> np.ndarray:
    """A copy of the array, of the dtype of another, whose shape it must have."""
    array = to_numpy(array)
    if array.shape != np.shape(like):
        raise ValueError(
            f"{field} of {at_leaf(name)} is to be of shape {np.shape(like)}, got "
            f"{array.shape}; check that both optimizers have the same parameters and "
            "kind of accumulator, and that `order` (and PyTorch's `axes`) are right."
        )
    if np.iscomplexobj(array) and not jnp.iscomplexobj(like):
        if np.any(array.imag):
            raise TypeError(
                f"{field} of {at_leaf(name)} must be real, got complex numbers; an "
                "accumulator here is the sum of squared magnitudes."
            )
        array = array.real
    with np.errstate(over="ignore"):
        new = array.astype(like.dtype)
    if np.any(np.isinf(new) & ~np.isinf(array)):
        raise ValueError(
            f"{field} of {at_leaf(name)} overflows {like.dtype}, got "
            f"{np.max(np.abs(array))}; keep it in a wider dtype, such as "
            "Diagonal(dtype=jnp.float32)."
        )
    return new


def put_like(array: Any, like: Any) -> jax.Array:
    """The array where another is, with its dtype; ours alone, so it may be aliased."""
    array = np.asarray(array, like.dtype)
    sharding = None
    if isinstance(like, jax.ShapeDtypeStruct):
        sharding = like.sharding
    elif isinstance(like, jax.Array) and not isinstance(like, Tracer):
        # What is not committed to a device may still be moved by what it meets.
        sharding = like.sharding if like.committed else None
    return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)


def at_leaf(name: str) -> str:
    return f"the leaf at {name}" if name else "the one leaf of the tree"


def described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"the keys {', '.join(map(repr, value)) or '(none)'}"
    if np.isscalar(value):
        return repr(value)
    shape = getattr(value, "shape", None)
    of = f" of {len(value)}" if type(value) in (list, tuple) else ""
    return f"a {type(value).__name__}{of if shape is None else f' of shape {shape}'}"
