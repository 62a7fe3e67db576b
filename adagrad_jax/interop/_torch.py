"""PyTorch: each parameter has a number, and under it a sum and a step of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax.interop._arrays import (
    at_leaf,
    converted,
    described,
    to_number,
    to_numpy,
)
from adagrad_jax.interop._fill import (
    Found,
    check_length,
    check_paths,
    fill,
    find_kept,
    known,
    listed,
    ordered,
    steps_taken,
)


def from_torch(
    state_dict: Mapping[str, Any],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
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
        are not named stay as they are, so that a state may be filled in parts. None
        stands for a parameter of which the state keeps nothing, as of a frozen one.
      axes: For leaves whose axes PyTorch has in another order, by path, what
        ``numpy.transpose`` is to do with PyTorch's array to get ours: ``(1, 0)`` for
        the kernel of a Flax ``Dense`` from a ``Linear``, ``(2, 3, 1, 0)`` for that of
        a ``Conv`` from a ``Conv2d``. **Of a square kernel no check can tell whether
        it was forgotten.**
      step: How many steps were taken, if it is to be other than in ``state_dict``.

    Returns:
      A state like ``state``.

    Raises:
      TypeError: If ``state_dict`` is none, or has something other than numbers; if the
        state keeps of some leaf something that is not shaped like it or like its rows
        (:class:`adagrad_jax.SM3`).
      ValueError: If ``state_dict`` is another optimizer's or has other parameters or
        shapes, one twice, or the state of one in no group; if a path is unknown; if
        an accumulator is NaN or negative, or becomes infinite or 0 in our dtype; if a
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
    names = ordered(found, order)
    entries = _entries(state_dict, names)
    all_axes = _all_axes(axes, found)
    arrays = {
        name: _transposed(
            to_numpy(entry["sum"], f"sum of {at_leaf(name)}"), all_axes[name]
        )
        for name, (_, entry) in entries.items()
    }
    steps = {
        name: to_number(entry["step"] if step is None else step)
        for name, (_, entry) in entries.items()
    }
    return fill(state, found, arrays, steps)


def to_torch(
    state: optax.OptState,
    state_dict: Mapping[str, Any],
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
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
    names = ordered(found, order)
    entries = _entries(state_dict, names)
    all_axes = _all_axes(axes, found)
    steps = steps_taken(state, found, step)
    filled = dict(state_dict["state"])
    for name, (number, entry) in entries.items():
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


def _entries(
    state_dict: Any, names: list[str | None]
) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """For each leaf PyTorch's number of it, and what ``state_dict`` has under that."""
    if not _is_state_dict(state_dict):
        raise TypeError(
            "`state_dict` must be what the state_dict() of a PyTorch optimizer gives, "
            "with a dictionary 'state' and a list 'param_groups' of dictionaries with "
            f"'params', got {described(state_dict)}."
        )
    numbers = [n for group in state_dict["param_groups"] for n in group["params"]]
    _check_numbers(numbers, state_dict["state"], names)
    check_length("`state_dict`", len(numbers), "parameters", names)
    entries: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for name, number in zip(names, numbers, strict=True):
        if name is None:
            continue
        entry = state_dict["state"].get(number, {})
        if not isinstance(entry, Mapping) or not {"step", "sum"} <= set(entry):
            raise ValueError(
                f"`state_dict` must have 'step' and 'sum' for parameter {number}, "
                f"which is {at_leaf(name)}, as torch.optim.Adagrad's does, got "
                f"{described(entry)}; is it another optimizer's?"
            )
        entries[name] = number, entry
    return entries


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"state", "param_groups"} <= set(value):
        return False
    groups = value["param_groups"]
    return (
        isinstance(value["state"], Mapping)
        and isinstance(groups, list | tuple)
        and all(isinstance(g, Mapping) and "params" in g for g in groups)
    )


def _check_numbers(numbers: list[Any], state: Any, names: list[str | None]) -> None:
    """Checks that each parameter is in one group, and nothing is kept of others."""
    for number in numbers:
        if (times := numbers.count(number)) > 1:
            # That there are as many as names is checked elsewhere.
            its = [m for n, m in zip(numbers, names, strict=False) if n == number]
            raise ValueError(
                f"`state_dict` must have each parameter in one group, got {number} "
                f"{times} times, for {listed(its)}; leave it in one of the lists "
                "'params'."
            )
    surplus = [number for number in state if number not in numbers]
    if surplus and len(numbers) == len(names):
        raise ValueError(
            f"`state_dict` must have a state of no parameter but those in its groups, "
            f"{numbers}, which are {listed(names)}, got also {surplus}; take 'state' "
            "and 'param_groups' from one state_dict()."
        )


def _all_axes(
    axes: Mapping[str, Sequence[int]] | None, found: Mapping[str, Found]
) -> dict[str, tuple[int, ...]]:
    """For every leaf its axes in PyTorch's array, those not given in their order."""
    axes = axes or {}
    check_paths("axes", axes, found)
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
