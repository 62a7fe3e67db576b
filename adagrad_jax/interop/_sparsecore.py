"""jax-tpu-embedding: in a tree like ours, a table together with its slots."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.tree_util import GetAttrKey

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._frequency import ScaleByFrequencyState
from adagrad_jax._states import ABSENT, Path, is_in, nodes, pairs, replace
from adagrad_jax.interop._arrays import (
    at_leaf,
    converted,
    described,
    put_like,
    to_number,
    to_numpy,
)
from adagrad_jax.interop._fill import Found, fill, find_kept, known


def from_sparsecore(
    variables: Any,
    state: optax.OptState,
    params: optax.Params,
    *,
    step: int | None = None,
) -> Any:
    """Fills a state with the slots of jax-tpu-embedding's tables.

    To go on here, with :func:`adagrad_jax.dialects.sparsecore` or
    :func:`adagrad_jax.dialects.sparsecore_f2a`. The tables themselves are in
    ``variables``: ``{name: pair.table for name, pair in variables.items()}``. Leaves of
    which ``variables`` has nothing, as those of dense layers, are left where they were;
    beside F2A's tables they must have an optimizer of their own (``optax.partition``),
    for nobody has counted what has read them.

    Args:
      variables: A tree with the keys of ``params``, and in a table's place a pair of it
        and its slots, each of the table's shape: ``(table, (accumulator,))``, or
        ``(table, (accumulator, local_step))`` of F2A. That is ``EmbeddingVariables`` of
        tables that were unstacked,
        ``table_stacking.unshard_and_unstack_tables(specs, variables, num_shards)``.
      state: As in :func:`from_torch`.
      params: As in :func:`from_torch`.
      step: How many steps were taken, which ``variables`` do not know. Needed of F2A,
        and if the optimizer has a schedule or injected hyperparameters.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: As :func:`from_torch`; if there is no pair where one must be.
      ValueError: If a table or a slot is of another shape than expected; if the slots
        are another optimizer's; if ``variables`` has what ``params`` or ``state`` has
        not, or not what is counted together; if ``step`` is needed; if an accumulator
        or a count cannot be one.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np, optax
      >>> slots = np.full((3, 2), 0.5), np.array([[4.0, 4.0], [0.0, 0.0], [1.0, 1.0]])
      >>> params = {"items": jnp.zeros((3, 2))}
      >>> state = aj.interop.from_sparsecore(
      ...     {"items": (np.zeros((3, 2)), slots)},
      ...     aj.dialects.sparsecore_f2a(0.1).init(params),
      ...     params,
      ...     step=4,
      ... )
      >>> print(optax.tree.get(state, "read_counts")["items"])
      [4 0 1]

    References:
      jax-tpu-embedding 0.2.0, ``EmbeddingVariables`` and ``table_stacking``.
    """
    found = _find_slots(variables, state, params)
    steps = dict.fromkeys(found, None if step is None else to_number(step))
    sums = {name: leaf.kept[0] for name, leaf in found.items()}
    arrays = {name: leaf.pair.slots[0] for name, leaf in found.items()}
    state = fill(state, sums, arrays, steps)
    counts = {name: x.kept[1] for name, x in found.items() if len(x.kept) > 1}
    arrays = {name: _counts(name, found[name].pair) for name in counts}
    state = fill(state, counts, arrays, {})
    return replace(state, dict(_step_counts(state, params, counts, step)))


def to_sparsecore(state: optax.OptState, variables: Any, params: optax.Params) -> Any:
    """Fills the pairs of jax-tpu-embedding's tables and their slots with ours.

    To go on there: ``table_stacking.stack_and_shard_tables(specs, filled, num_shards)``
    makes the stacked tables of them that it trains.

    Args:
      state: Our state.
      variables: As in :func:`from_sparsecore`, of new tables; what is in them is
        replaced.
      params: As in :func:`from_torch`, for they are what the tables become.

    Returns:
      A tree like ``variables``, of NumPy arrays of its dtypes. A count of reads beyond
      16,777,216 is rounded as float32 has it.

    Raises:
      TypeError: As :func:`from_sparsecore`.
      ValueError: As :func:`from_sparsecore`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np
      >>> table = jnp.ones((2, 2))
      >>> optimizer = aj.dialects.sparsecore(0.1)
      >>> gradient = aj.RowSparse([1], jnp.full((1, 2), 2.0), (2, 2))
      >>> _, state = optimizer.update(gradient, optimizer.init(table))
      >>> new = np.zeros((2, 2), "float32"), (np.zeros((2, 2), "float32"),)
      >>> filled, (accumulator,) = aj.interop.to_sparsecore(state, new, table)
      >>> print(accumulator[1], filled[1])
      [4.1 4.1] [1. 1.]

    References:
      As :func:`from_sparsecore`.
    """
    new: dict[Path, Any] = {}
    for name, leaf in _find_slots(variables, state, params).items():
        ours = [leaf.param, *(kept.array for kept in leaf.kept)]
        for (path, field, theirs), array in zip(leaf.pair.arrays, ours, strict=True):
            array = np.asarray(array)
            if field == "local_step":
                array = np.broadcast_to(array[:, None], theirs.shape)
            new[path] = converted(name, field, array, theirs)
    return replace(variables, new)


def _step_counts(
    state: Any, params: Any, filled: dict[str, Found], step: int | None
) -> Iterator[tuple[Path, Any]]:
    """The new counts of steps, each with its place, beside the counts of reads."""
    for path, node in nodes(state):
        if not isinstance(node, ScaleByFrequencyState):
            continue
        if not any(is_in(path, leaf.place) for leaf in filled.values()):
            continue
        for name, leaf in find_kept(state, params, ScaleByFrequencyState).items():
            if is_in(path, leaf.place) and name not in filled:
                raise ValueError(
                    f"`variables` has nothing for {at_leaf(name)}, whose reads are "
                    "counted together with others': it would have none of the steps "
                    "taken, and make long ones; give it another optimizer, by "
                    "optax.partition."
                )
        number = to_number(known(step))
        yield (*path, GetAttrKey("count")), put_like(number, node.count)


class _Pair(NamedTuple):
    """A table and its slots: the path, the name and the array of each."""

    arrays: list[tuple[Path, str, np.ndarray]]

    @property
    def slots(self) -> list[np.ndarray]:
        return [array for _, _, array in self.arrays[1:]]


class _Leaf(NamedTuple):
    """A parameter, its pair, and what our state keeps in each of its slots' places."""

    param: Any
    pair: _Pair
    kept: list[Found]


_SLOTS = ("accumulator", "local_step")


def _find_slots(variables: Any, state: Any, params: Any) -> dict[str, _Leaf]:
    """Of each parameter, by its path, that has a pair in ``variables``."""
    sums = find_kept(state, params, ScaleByAdagradState)
    counts: dict[str, Found] = {}
    if any(isinstance(node.value, ScaleByFrequencyState) for node in nodes(state)):
        counts = find_kept(state, params, ScaleByFrequencyState)
    found: dict[str, _Leaf] = {}
    for path, param, value in pairs(params, variables):
        if value is ABSENT:
            continue
        name = jax.tree_util.keystr(path)
        if param is ABSENT:
            raise ValueError(
                f"`variables` must have the keys of `params`, which has nothing at "
                f"{name}; give a tree like it, such as {{'embeddings': variables}}."
            )
        if name not in sums:
            raise ValueError(
                f"`state` has no accumulator of {at_leaf(name)}, of which `variables` "
                "has a pair; leave that out of `variables`."
            )
        kept = [sums[name], *([counts[name]] if name in counts else [])]
        found[name] = _Leaf(param, _pair(name, path, param, value, len(kept)), kept)
    if not found:
        raise ValueError(
            f"`variables` must have a pair of a table and its slots for a leaf of "
            f"`params`, got {described(variables)}; give a tree with its keys."
        )
    return found


def _pair(name: str, path: Path, param: Any, value: Any, num_slots: int) -> _Pair:
    if not (isinstance(value, Sequence) and len(value) == 2) or not isinstance(
        value[1], Sequence
    ):
        raise TypeError(
            f"`variables` must have a pair of a table and its slots for "
            f"{at_leaf(name)}, got {described(value)}; give its EmbeddingVariables, or "
            "(table, (accumulator,))."
        )
    slots: Any = value[1]
    names = _SLOTS[:num_slots]
    fields = getattr(slots, "_fields", names)
    if len(slots) != num_slots or tuple(fields) != names:
        theirs = ", ".join(fields) if hasattr(slots, "_fields") else str(len(slots))
        raise ValueError(
            f"the slots of {at_leaf(name)} must be {', '.join(names)}, as `state` has "
            f"them, got {theirs}; (accumulator,) belongs to dialects.sparsecore, and "
            "(accumulator, local_step) to dialects.sparsecore_f2a."
        )
    leaves = jax.tree_util.tree_leaves_with_path(value)
    arrays: list[tuple[Path, str, np.ndarray]] = []
    for (inside, array), field in zip(leaves, ("table", *names), strict=True):
        array = to_numpy(array, f"{field} of {at_leaf(name)}")
        if array.shape != np.shape(param):
            raise ValueError(
                f"{field} of {at_leaf(name)} must be of the parameter's shape, "
                f"{np.shape(param)}, got {array.shape}; unstack what was stacked and "
                "sharded, by table_stacking.unshard_and_unstack_tables."
            )
        arrays.append(((*path, *inside), field, array))
    return _Pair(arrays)


def _counts(name: str, pair: _Pair) -> np.ndarray:
    """Of rows, which all numbers in a row have."""
    steps = pair.slots[1]
    rows = steps.reshape(len(steps), -1)
    first = rows[:, 0] if rows.shape[1] else np.zeros(len(rows), steps.dtype)
    whole = (first >= 0) & (first < 2**31) & (first == np.floor(first))
    bad = ~(whole & np.all(rows == first[:, None], axis=1))
    if np.any(bad):
        raise ValueError(
            f"local_step of {at_leaf(name)} must be a count of steps for each row, one "
            f"whole number in all of it, got {rows[bad][0]} in row "
            f"{np.flatnonzero(bad)[0]}; of other numbers, as initial_local_step_value "
            "may begin from there, give np.round."
        )
    return first
