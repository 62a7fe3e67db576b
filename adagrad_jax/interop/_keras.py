"""Keras: one list of arrays, which do not say what they are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax
from jax.tree_util import GetAttrKey

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._around_update import AccumulateGradientsState, AverageParamsState
from adagrad_jax._states import FIELDS, nodes, replace
from adagrad_jax.interop._arrays import (
    at_leaf,
    converted,
    put_like,
    to_number,
    to_numpy,
)
from adagrad_jax.interop._fill import (
    Found,
    fill,
    find_kept,
    known,
    listed,
    ordered,
    steps_taken,
)

# With a field ``calls``, which are more than updates if gradients are accumulated.
_COUNT_CALLS = (AverageParamsState, AccumulateGradientsState)


def from_keras(
    weights: Sequence[Any],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
    step: int | None = None,
) -> Any:
    """Fills a state with the weights of a Keras Adagrad, of TensorFlow or Keras 3.

    To go on here, with :func:`adagrad_jax.dialects.keras` or
    :func:`adagrad_jax.dialects.keras3`, where Keras stopped. A list of weights is

    - the number of iterations,
    - the learning rate, unless it is a schedule (not in TensorFlow 2.0),
    - averages of the parameters, if ``use_ema`` and our state has them too,
    - sums of gradients, if it has ``gradient_accumulation_steps`` and so has ours,
    - the accumulators.

    Args:
      weights: The list, of NumPy arrays or whatever becomes one. Arrays do not tell
        what they are: RMSprop's are as many, and of the same shapes. Keras 3's
        ``optimizer.variables`` have names, and pairs ``(name, array)`` may be given:
        without them a list for parameters that are all of shape (), and no learning
        rate, is refused, for it may be a rate with an accumulator missing. The rate
        is not taken.
      state: As in :func:`from_torch`.
      params: As in :func:`from_torch`.
      order: The paths of the leaves, as ``jax.tree_util.keystr`` writes them, in the
        order of the model's ``trainable_variables``. Otherwise as in
        :func:`from_torch`.
      step: How many updates were done, for schedules. By default ``weights[0]``; needed
        only if there are ``gradient_accumulation_steps`` and a schedule, for then that
        counts calls: ``weights[0] // gradient_accumulation_steps`` updates.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: As :func:`from_torch`.
      ValueError: If there are more or fewer weights than fit the state, or of other
        shapes, or it cannot be told what they are; if a path is unknown; if ``step``
        is needed; if an accumulator cannot be one, as in :func:`from_torch`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np, optax
      >>> weights = [np.array(7), np.array([1.0, 2.0]), np.array(3.0)]
      >>> params = {"bias": jnp.zeros(()), "kernel": jnp.zeros(2)}
      >>> optimizer = aj.dialects.keras(0.1, decay=0.5)
      >>> state = aj.interop.from_keras(
      ...     weights,
      ...     optimizer.init(params),
      ...     params,
      ...     order=["['kernel']", "['bias']"],
      ... )
      >>> optax.tree.get(state, "count")
      Array(7, dtype=int32)

    References:
      TensorFlow r2.0, ``tf.keras.optimizers.Optimizer.get_weights``; Keras 3,
      ``keras.optimizers.Optimizer.variables``.
    """
    found = _found_in(state, params)
    names = ordered(found[ScaleByAdagradState], order)
    head, groups = _groups(weights, found, names)
    iterations = to_number(head[0])
    if step is None and AccumulateGradientsState not in found:
        step = iterations
    updates = None if step is None else to_number(step)
    for kind, listed_arrays in groups.items():
        pairs = zip(names, listed_arrays, strict=True)
        arrays = {name: array for name, array in pairs if name is not None}
        steps = dict.fromkeys(arrays, updates) if kind is ScaleByAdagradState else {}
        state = fill(state, found[kind], arrays, steps)
    return replace(
        state,
        {
            (*path, GetAttrKey("calls")): put_like(iterations, node.calls)
            for path, node in nodes(state)
            if isinstance(node, _COUNT_CALLS)
        },
    )


def to_keras(
    state: optax.OptState,
    weights: Sequence[Any],
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
    step: int | None = None,
) -> list[np.ndarray]:
    """Fills the weights of a Keras Adagrad, of TensorFlow or Keras 3, with our state.

    To go on in Keras: ``optimizer.set_weights(...)`` in TensorFlow 2.0, and in Keras 3
    ``for variable, array in zip(optimizer.variables, ...): variable.assign(array)``.

    Args:
      state: Our state.
      weights: Those of the Keras optimizer once it is built, in which the learning
        rate stays.
      params: As in :func:`from_torch`.
      order: As in :func:`from_keras`.
      step: The number of iterations, ``weights[0]``. Needed unless the state counts
        them, for a schedule, an average or accumulated gradients.

    Returns:
      A list of arrays like ``weights``.

    Raises:
      TypeError: As :func:`from_torch`.
      ValueError: As :func:`from_keras`, and if the state has several counts.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np
      >>> params = jnp.array([3.0])
      >>> optimizer = aj.dialects.keras3(0.1, initial_accumulator_value=0.0)
      >>> _, state = optimizer.update(params, optimizer.init(params))
      >>> weights = [np.array(0), np.array(0.1), np.zeros(1)]
      >>> print(*aj.interop.to_keras(state, weights, params, step=1))
      1 0.1 [9.]

    References:
      As :func:`from_keras`.
    """
    found = _found_in(state, params)
    names = ordered(found[ScaleByAdagradState], order)
    head, groups = _groups(weights, found, names)
    if step is None:
        calls = [n.calls for _, n in nodes(state) if isinstance(n, _COUNT_CALLS)]
        taken = steps_taken(state, found[ScaleByAdagradState], None)
        numbers = {int(n) for n in calls} or {
            taken[name] for name in names if name is not None
        }
        if len(numbers) > 1:
            raise ValueError(
                f"`step` must be given, for the state has several counts, {numbers}, "
                "and Keras has one."
            )
        (step,) = numbers
    iterations = np.asarray(known(step), head[0].dtype)
    return [
        iterations,
        *(np.array(rate) for rate in head[1:]),
        *(
            np.array(theirs)
            if name is None
            else converted(name, FIELDS[kind], found[kind][name].array, theirs)
            for kind, arrays in groups.items()
            for name, theirs in zip(names, arrays, strict=True)
        ),
    ]


def _found_in(state: Any, params: Any) -> dict[type, dict[str, Found]]:
    """What our state has of what Keras keeps per variable, in the order of its list."""
    present = {type(node) for _, node in nodes(state)} | {ScaleByAdagradState}
    kinds = (AverageParamsState, AccumulateGradientsState, ScaleByAdagradState)
    return {kind: find_kept(state, params, kind) for kind in kinds if kind in present}


def _groups(
    weights: Sequence[Any],
    found: dict[type, dict[str, Found]],
    names: list[str | None],
) -> tuple[list[np.ndarray], dict[type, list[np.ndarray]]]:
    """Iterations and learning rate, and by what they are the arrays of all names."""
    called = [_called(weight) for weight in weights]
    weights = [_array(weight) for weight in weights]
    num_arrays = len(found) * len(names)
    num_others = max(0, len(weights) - num_arrays)
    head, arrays = weights[:num_others], iter(weights[num_others:])
    second = called[1] if len(called) > 1 else ""
    has_rate = num_others == 2
    right = num_others in (1, 2) and not any(array.ndim for array in head)
    if not right or second and (second == "learning_rate") != has_rate:
        got = [f"{c} {x.shape}".strip() for c, x in zip(called, weights, strict=True)]
        raise ValueError(
            "`weights` must be the iterations, the learning rate unless it is a "
            f"schedule, and {', '.join(FIELDS[kind] for kind in found)} of "
            f"{listed(names)}: {num_arrays + 1} or {num_arrays + 2} arrays, got "
            f"{len(weights)} of shapes {', '.join(got)}; give the same options as "
            "there, and the same variables in `order`, with None for each that has no "
            "accumulator here."
        )
    all_numbers = not any(array.ndim for array in weights)
    if names and all_numbers and not has_rate and not second:
        raise ValueError(
            "`weights` must have names where a learning rate cannot be told from what "
            f"is kept of {listed(names)}, got {len(weights)} arrays of shape (); give "
            "Keras 3's optimizer.variables, or pairs ('accumulator', array)."
        )
    for kind, leaves in found.items():
        for name in names:
            if name is not None and name not in leaves:
                raise ValueError(
                    f"{at_leaf(name)} has no {FIELDS[kind]}, which others have; give "
                    "all of them the same options, as Keras does."
                )
    return head, {kind: [next(arrays) for _ in names] for kind in found}


def _called(weight: Any) -> str:
    """The name in a pair, or a variable's own, or nothing."""
    name = weight[0] if _is_pair(weight) else getattr(weight, "name", None)
    return (name or "").rpartition("/")[2].partition(":")[0]  # TensorFlow's end in :0


def _array(weight: Any) -> np.ndarray:
    return to_numpy(weight[1] if _is_pair(weight) else weight, "each of `weights`")


def _is_pair(weight: Any) -> bool:
    return isinstance(weight, tuple) and len(weight) == 2 and isinstance(weight[0], str)
