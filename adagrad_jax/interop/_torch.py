r"""Checkpoints of other frameworks' Adagrads: their state in, ours out, and back.

There is one idea, and it is the same in both directions: **fill a fresh state with what
another one remembers**. For each framework there are two functions, ``from_x(theirs,
ours, params)``, which returns our state filled, and ``to_x(ours, theirs, params)``,
which returns theirs filled. The state to be filled is what the new optimizer gives
before its first step; whatever the other side does not know stays as it is there.

================  ====================================================================
framework         what its state is here
================  ====================================================================
PyTorch           ``optimizer.state_dict()`` of ``torch.optim.Adagrad``
Keras             ``optimizer.get_weights()`` of TensorFlow 2.0, or the values of
                  ``optimizer.variables`` of Keras 3: a list of arrays
Optax             the state of any chain with ``optax.scale_by_rss`` in it
FBGEMM            ``tables.split_optimizer_states()`` of exact (row-wise) Adagrad
================  ====================================================================

Our state may come from any chain: accumulators are looked for inside ``optax.chain``,
``partition``, ``masked``, ``inject_hyperparams`` and the like. What is carried over:

- *Accumulators*, matched to parameters by the leaf's path, and checked by shape. They
  take the dtype, and here the sharding, of those that they replace. Nothing is shared
  with the memory of the other side.
- *The number of steps taken*, to every schedule in the state, so that learning rates
  go on from where they were. Parts of ``optax.partition`` may have numbers of their
  own.

Hyperparameters are not: make the new optimizer with those of the old one, with the
function in :mod:`adagrad_jax.dialects` that is named after the framework.

Frameworks without trees number their parameters, so for those ``order`` says which is
which; else a bias and a kernel, which a dictionary sorts by name, may come in another
order than the layer has them. Shapes are checked, but two leaves of one shape look
alike.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._around_update import AccumulateGradientsState, AverageParamsState
from adagrad_jax._states import (
    COUNT_CALLS,
    FIELDS,
    Found,
    at_leaf,
    converted,
    described,
    fill,
    find_kept,
    known,
    map_nodes,
    nodes,
    put_like,
    refill,
    steps_taken,
    to_number,
    to_numpy,
)


def from_torch(
    state_dict: Mapping[str, Any],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
    axes: Mapping[str, Sequence[int]] | None = None,
    step: int | None = None,
) -> Any:
    """Fills a state with that of a ``torch.optim.Adagrad``.

    To go on here, with :func:`adagrad_jax.dialects.torch`, where PyTorch stopped.

    Args:
      state_dict: What the PyTorch optimizer's ``state_dict()`` gave; its tensors may
        also be NumPy arrays. Its ``lr`` and other hyperparameters are not taken.
      state: The state to be filled, from ``init(params)``.
      params: The parameters that ``init`` saw, or their shapes.
      order: The paths of the leaves, as ``jax.tree_util.keystr`` and error messages
        write them, in the order in which the PyTorch optimizer was given its
        parameters, group after group. By default the order of the tree. Leaves that
        are not named stay as they are, so that a state may be filled in parts.
      axes: For leaves whose axes PyTorch has in another order, by path, what
        ``numpy.transpose`` is to do with PyTorch's array to get ours: ``(1, 0)`` for
        the kernel of a Flax ``Dense`` from a ``Linear``, ``(2, 3, 1, 0)`` for that of
        a ``Conv`` from a ``Conv2d``. **Of a square kernel no check can tell whether
        it was forgotten.**
      step: How many steps were taken, if it is to be other than in ``state_dict``.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: If ``state_dict`` is none, or the state keeps of some leaf something
        that is not shaped like it or like its rows (:class:`adagrad_jax.SM3`).
      ValueError: If ``state_dict`` is another optimizer's or has other parameters or
        shapes; if a path is unknown; if an accumulator overflows our dtype; if a
        schedule counts for parameters whose numbers of steps differ.

    Example:
      A PyTorch ``Linear`` has its weight first, and transposed.

      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np, optax
      >>> state_dict = {
      ...     "state": {
      ...         0: {"step": 3.0, "sum": np.array([[1.0, 2.0]])},
      ...         1: {"step": 3.0, "sum": np.array([5.0])},
      ...     },
      ...     "param_groups": [{"lr": 0.1, "params": [0, 1]}],
      ... }
      >>> params = {"bias": jnp.zeros(1), "kernel": jnp.zeros((2, 1))}
      >>> optimizer = aj.dialects.torch(lr=0.1)
      >>> state = aj.interop.from_torch(
      ...     state_dict,
      ...     optimizer.init(params),
      ...     params,
      ...     order=["['kernel']", "['bias']"],
      ...     axes={"['kernel']": (1, 0)},
      ... )
      >>> print(optax.tree.get(state, "accumulator")["kernel"])
      [[1.]
       [2.]]

    References:
      PyTorch, ``torch.optim.Optimizer.state_dict``.
    """
    found = find_kept(state, params, ScaleByAdagradState)
    names = _ordered(found, order)
    entries = _torch_entries(state_dict, names)
    all_axes = _all_axes(axes, found)
    arrays = {
        name: _transposed(to_numpy(entry["sum"]), all_axes[name])
        for name, entry in zip(names, entries.values(), strict=True)
    }
    steps = {
        name: to_number(entry["step"] if step is None else step)
        for name, entry in zip(names, entries.values(), strict=True)
    }
    return fill(state, found, arrays, steps)


def to_torch(
    state: optax.OptState,
    state_dict: Mapping[str, Any],
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
    axes: Mapping[str, Sequence[int]] | None = None,
    step: int | None = None,
    as_tensor: Callable[[np.ndarray], Any] = np.asarray,
) -> dict[str, Any]:
    """Fills the ``state_dict()`` of a ``torch.optim.Adagrad`` with our state.

    To go on in PyTorch: ``optimizer.load_state_dict(aj.interop.to_torch(state,
    optimizer.state_dict(), params, as_tensor=torch.tensor))``.

    Args:
      state: Our state.
      state_dict: The new PyTorch optimizer's; its hyperparameters stay.
      params: As in :func:`from_torch`.
      order: As in :func:`from_torch`.
      axes: The same as for :func:`from_torch`, from PyTorch's axes to ours.
      step: How many steps were taken. Needed unless the optimizer has a schedule, or
        hyperparameters that ``optax.inject_hyperparams`` injects, which count them.
      as_tensor: Makes tensors of arrays: ``torch.tensor``, ``torch.from_numpy``.

    Returns:
      A dictionary like ``state_dict``. PyTorch's bfloat16, which NumPy lacks, becomes
      float32; ``load_state_dict`` gives it the parameter's dtype.

    Raises:
      TypeError: As :func:`from_torch`.
      ValueError: As :func:`from_torch`, and if ``step`` is needed.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np
      >>> weights = jnp.array([3.0])
      >>> optimizer = aj.dialects.torch(lr=0.1)
      >>> _, state = optimizer.update(weights, optimizer.init(weights))
      >>> state_dict = {
      ...     "state": {0: {"step": 0.0, "sum": np.zeros(1, np.float32)}},
      ...     "param_groups": [{"lr": 0.1, "params": [0]}],
      ... }
      >>> filled = aj.interop.to_torch(state, state_dict, weights, step=1)
      >>> print(filled["state"][0]["sum"])
      [9.]

    References:
      PyTorch, ``torch.optim.Optimizer.load_state_dict``.
    """
    found = find_kept(state, params, ScaleByAdagradState)
    names = _ordered(found, order)
    entries = _torch_entries(state_dict, names)
    all_axes = _all_axes(axes, found)
    steps = steps_taken(state, found, step)
    filled = dict(state_dict["state"])
    for name, (number, entry) in zip(names, entries.items(), strict=True):
        back = [int(axis) for axis in np.argsort(all_axes[name])]
        array = _transposed(to_numpy(found[name].array), back)
        array = converted(name, "sum", array, to_numpy(entry["sum"]))
        taken = np.asarray(known(steps[name]), np.float32)  # as PyTorch has it
        filled[number] = {
            **entry,
            "step": as_tensor(taken),
            "sum": as_tensor(array),
        }
    return {**state_dict, "state": filled}


def from_keras(
    weights: Sequence[Any],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
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
        what they are: RMSprop's are as many, and of the same shapes. The learning rate
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
        shapes; if a path is unknown; if ``step`` is needed.

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
    found = _keras_found(state, params)
    names = _ordered(found[ScaleByAdagradState], order)
    head, groups = _keras_groups(weights, found, names)
    iterations = to_number(head[0])
    if step is None and AccumulateGradientsState not in found:
        step = iterations
    updates = None if step is None else to_number(step)
    for kind, arrays in groups.items():
        steps = dict.fromkeys(names, updates) if kind is ScaleByAdagradState else {}
        state = fill(state, found[kind], arrays, steps)
    return map_nodes(
        lambda _, node: (
            node._replace(calls=put_like(iterations, node.calls))
            if isinstance(node, COUNT_CALLS)
            else node
        ),
        state,
    )


def to_keras(
    state: optax.OptState,
    weights: Sequence[Any],
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
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
    found = _keras_found(state, params)
    names = _ordered(found[ScaleByAdagradState], order)
    head, groups = _keras_groups(weights, found, names)
    if step is None:
        calls = [n.calls for _, n in nodes(state) if isinstance(n, COUNT_CALLS)]
        taken = steps_taken(state, found[ScaleByAdagradState], None)
        numbers = {int(n) for n in calls} or {taken[name] for name in names}
        if len(numbers) > 1:
            raise ValueError(
                f"`step` must be given, for the state has several counts, {numbers}, "
                "and Keras has one."
            )
        (step,) = numbers
    iterations = np.asarray(known(step), to_numpy(head[0]).dtype)
    return [
        iterations,
        *(np.array(to_numpy(rate)) for rate in head[1:]),
        *(
            converted(name, FIELDS[kind], found[kind][name].array, to_numpy(theirs))
            for kind, arrays in groups.items()
            for name, theirs in arrays.items()
        ),
    ]


def from_optax(
    opt_state: optax.OptState,
    state: optax.OptState,
    params: optax.Params,
    *,
    step: int | None = None,
) -> Any:
    """Fills a state with that of ``optax.adagrad``, or a chain with it inside.

    To go on with ours, :func:`adagrad_jax.dialects.optax`, where Optax stopped.
    Nothing need be ordered, for both have trees.

    Args:
      opt_state: The state with ``optax.ScaleByRssState`` in it.
      state: As in :func:`from_torch`.
      params: As in :func:`from_torch`.
      step: How many steps were taken. Needed only if the new optimizer counts them and
        the old one, having no schedule, did not.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: As :func:`from_torch`, and if an accumulator is complex and not real.
        (Those of complex parameters are complex there, with imaginary parts of 0.)
      ValueError: If either state has no accumulators or does not belong to ``params``;
        if ``step`` is needed.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> weights = jnp.array([3.0])
      >>> old, new = optax.adagrad(0.1), aj.dialects.optax(0.1)
      >>> _, opt_state = old.update(weights, old.init(weights))
      >>> state = aj.interop.from_optax(opt_state, new.init(weights), weights)
      >>> print(optax.tree.get(state, "accumulator"))
      [9.1]

    References:
      Optax, ``optax.scale_by_rss``.
    """
    return refill(
        opt_state, optax.ScaleByRssState, state, ScaleByAdagradState, params, step
    )


def to_optax(
    state: optax.OptState,
    opt_state: optax.OptState,
    params: optax.Params,
    *,
    step: int | None = None,
) -> Any:
    """Fills the state of ``optax.adagrad``, or a chain with it inside, with ours.

    Args:
      state: Our state.
      opt_state: What the Optax optimizer's ``init(params)`` gave.
      params: As in :func:`from_torch`.
      step: As in :func:`from_optax`.

    Returns:
      A state like ``opt_state``.

    Raises:
      TypeError: As :func:`from_optax`.
      ValueError: As :func:`from_optax`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> weights = jnp.array([3.0])
      >>> old, new = aj.dialects.optax(0.1), optax.adagrad(0.1)
      >>> _, state = old.update(weights, old.init(weights))
      >>> opt_state = aj.interop.to_optax(state, new.init(weights), weights)
      >>> print(optax.tree.get(opt_state, "sum_of_squares"))
      [9.1]

    References:
      As :func:`from_optax`.
    """
    return refill(
        state, ScaleByAdagradState, opt_state, optax.ScaleByRssState, params, step
    )


def from_fbgemm(
    states: Sequence[Sequence[Any]],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
    step: int | None = None,
) -> Any:
    """Fills a state with that of FBGEMM's tables, as TorchRec has them.

    To go on here, with :func:`adagrad_jax.dialects.fbgemm`. Where tables and dense
    parameters have optimizers of their own, fill the tables with this, ``order`` naming
    them, and the rest with :func:`from_torch`.

    Args:
      states: What ``split_optimizer_states()`` gave: for each table a list of its one
        array, of shape ``(num_rows,)`` in ``EXACT_ROWWISE_ADAGRAD``, for
        :class:`adagrad_jax.RowWise`, and ``(num_rows, dim)`` in ``EXACT_ADAGRAD``.
      state: As in :func:`from_torch`.
      params: As in :func:`from_torch`.
      order: The paths of the tables, as ``jax.tree_util.keystr`` writes them, in
        FBGEMM's order. Otherwise as in :func:`from_torch`.
      step: How many steps were taken, which FBGEMM does not know. Needed only if the
        optimizer has a schedule or injected hyperparameters.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: As :func:`from_torch`.
      ValueError: If there are more or fewer tables than expected, of other shapes, or
        with more than one array; if a path is unknown; if ``step`` is needed.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np, optax
      >>> tables = {"items": jnp.zeros((3, 8)), "users": jnp.zeros((2, 4))}
      >>> state = aj.interop.from_fbgemm(
      ...     [[np.array([1.0, 2.0])], [np.array([3.0, 4.0, 5.0])]],
      ...     aj.dialects.fbgemm(0.1).init(tables),
      ...     tables,
      ...     order=["['users']", "['items']"],
      ... )
      >>> print(optax.tree.get(state, "accumulator")["items"])
      [3. 4. 5.]

    References:
      FBGEMM, ``SplitTableBatchedEmbeddingBagsCodegen.split_optimizer_states``.
    """
    found = find_kept(state, params, ScaleByAdagradState)
    names = _ordered(found, order)
    steps = dict.fromkeys(names, None if step is None else to_number(step))
    return fill(state, found, _fbgemm_arrays(states, names), steps)


def to_fbgemm(
    state: optax.OptState,
    states: Sequence[Sequence[Any]],
    params: optax.Params,
    *,
    order: Sequence[str] | None = None,
) -> list[list[np.ndarray]]:
    """Fills the state of FBGEMM's tables with ours.

    To go on in FBGEMM, whose ``split_optimizer_states()`` are views of its memory:
    ``for [theirs], [ours] in zip(states, filled): theirs.copy_(torch.tensor(ours))``.

    Args:
      state: Our state.
      states: What ``split_optimizer_states()`` of the new tables gave.
      params: As in :func:`from_torch`.
      order: As in :func:`from_fbgemm`.

    Returns:
      A list like ``states``, of NumPy arrays.

    Raises:
      TypeError: As :func:`from_torch`.
      ValueError: As :func:`from_fbgemm`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, numpy as np
      >>> table = jnp.ones((2, 4))
      >>> optimizer = aj.dialects.fbgemm(0.1)
      >>> gradient = aj.RowSparse([1], jnp.full((1, 4), 2.0), (2, 4))
      >>> _, state = optimizer.update(gradient, optimizer.init(table))
      >>> [[filled]] = aj.interop.to_fbgemm(state, [[np.zeros(2)]], table)
      >>> print(filled)
      [0. 4.]

    References:
      As :func:`from_fbgemm`.
    """
    found = find_kept(state, params, ScaleByAdagradState)
    names = _ordered(found, order)
    return [
        [converted(name, "momentum1", found[name].array, to_numpy(theirs))]
        for name, theirs in _fbgemm_arrays(states, names).items()
    ]


# What the other frameworks' states consist of


def _torch_entries(state_dict: Any, names: list[str]) -> dict[Any, Any]:
    """The entries of ``state_dict`` that belong to the leaves, by PyTorch's numbers."""
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(
        state_dict
    ):
        raise TypeError(
            "`state_dict` must be what the state_dict() of a PyTorch optimizer gives, "
            f"with 'state' and 'param_groups', got {described(state_dict)}."
        )
    numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
    _check_length("`state_dict`", len(numbers), "parameters", names)
    entries: dict[Any, Any] = {}
    for name, number in zip(names, numbers, strict=True):
        entry = state_dict["state"].get(number, {})
        if not {"step", "sum"} <= set(entry):
            raise ValueError(
                f"`state_dict` must have 'step' and 'sum' for parameter {number}, "
                f"which is {at_leaf(name)}, as torch.optim.Adagrad's does, got "
                f"{described(entry)}; is it another optimizer's?"
            )
        entries[number] = entry
    return entries


def _all_axes(
    axes: Mapping[str, Sequence[int]] | None, found: Mapping[str, "Found"]
) -> dict[str, tuple[int, ...]]:
    """For every leaf its axes in PyTorch's array, those not given in their order."""
    axes = axes or {}
    _check_paths("axes", axes, found)
    all_axes: dict[str, tuple[int, ...]] = {}
    for name, leaf in found.items():
        in_order = tuple(range(np.ndim(leaf.array)))
        all_axes[name] = tuple(axes.get(name, in_order))
        if sorted(all_axes[name]) != list(in_order):
            raise ValueError(
                f"`axes` of {at_leaf(name)} must be each of {in_order} once, got "
                f"{all_axes[name]}."
            )
    return all_axes


def _transposed(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    # An array with more or fewer axes is met by the check of its shape.
    return np.transpose(array, axes) if array.ndim == len(axes) else array


def _keras_found(state: Any, params: Any) -> dict[type, dict[str, "Found"]]:
    """What our state has of what Keras keeps per variable, in the order of its list."""
    present = {type(node) for _, node in nodes(state)} | {ScaleByAdagradState}
    kinds = (AverageParamsState, AccumulateGradientsState, ScaleByAdagradState)
    return {kind: find_kept(state, params, kind) for kind in kinds if kind in present}


def _keras_groups(
    weights: Sequence[Any],
    found: dict[type, dict[str, "Found"]],
    names: list[str],
) -> tuple[list[Any], dict[type, dict[str, Any]]]:
    """Iterations and learning rate, and by what they are the arrays of the leaves."""
    weights = list(weights)
    num_arrays = len(found) * len(names)
    num_others = max(0, len(weights) - num_arrays)
    head, arrays = weights[:num_others], iter(weights[num_others:])
    if len(head) not in (1, 2) or any(np.ndim(to_numpy(x)) for x in head):
        raise ValueError(
            "`weights` must be the iterations, the learning rate unless it is a "
            f"schedule, and {', '.join(FIELDS[kind] for kind in found)} of "
            f"{', '.join(map(at_leaf, names))}: {num_arrays + 1} or {num_arrays + 2} "
            f"arrays, got {len(weights)} of shapes "
            f"{', '.join(str(np.shape(to_numpy(x))) for x in weights)}; are optimizer "
            "and `order` the same as there?"
        )
    for kind, leaves in found.items():
        for name in names:
            if name not in leaves:
                raise ValueError(
                    f"{at_leaf(name)} has no {FIELDS[kind]}, which others have; give "
                    "all of them the same options, as Keras does."
                )
    groups = {kind: {name: next(arrays) for name in names} for kind in found}
    return head, groups


def _fbgemm_arrays(states: Sequence[Any], names: list[str]) -> dict[str, Any]:
    states = list(states)
    _check_length("`states`", len(states), "tables", names)
    arrays: dict[str, Any] = {}
    for name, entry in zip(names, states, strict=True):
        if not isinstance(entry, Sequence) or len(entry) != 1:
            raise ValueError(
                f"`states` must have a list of one array for {at_leaf(name)}, as "
                "EXACT_ADAGRAD and EXACT_ROWWISE_ADAGRAD do, got "
                f"{described(entry)}; is it another optimizer's?"
            )
        arrays[name] = entry[0]
    return arrays


def _ordered(found: Mapping[str, Any], order: Sequence[str] | None) -> list[str]:
    if order is None:
        return list(found)
    if isinstance(order, str):
        raise TypeError(f"`order` must be a list of paths, got the text {order!r}.")
    _check_paths("order", order, found)
    for name in order:
        if list(order).count(name) > 1:
            raise ValueError(f"`order` must name each leaf once, got {name!r} twice.")
    return list(order)


def _check_paths(argument: str, paths: Any, known: Mapping[str, Any]) -> None:
    for path in paths:
        if path not in known:
            raise ValueError(
                f"`{argument}` must have paths of leaves with an accumulator, "
                f"{', '.join(map(repr, known))}, got {path!r}."
            )


def _check_length(what: str, length: int, noun: str, names: list[str]) -> None:
    if length != len(names):
        raise ValueError(
            f"{what} must be of {len(names)} {noun}, {', '.join(map(at_leaf, names))}, "
            f"got {length}; name those that it has, in its order, in `order`."
        )
