"""FBGEMM: an array for each table, and nothing that counts steps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax.interop._arrays import (
    converted,
    described,
    to_number,
    to_numpy,
)
from adagrad_jax.interop._fill import check_length, fill, find_kept, listed, ordered


def from_fbgemm(
    states: Sequence[Sequence[Any]],
    state: optax.OptState,
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
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
        with more than one array; if a path is unknown; if ``step`` is needed; if an
        accumulator cannot be one, as in :func:`from_torch`.

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
    names = ordered(found, order)
    arrays = {k: x for k, x in _arrays(states, names) if k is not None}
    steps = dict.fromkeys(arrays, None if step is None else to_number(step))
    return fill(state, found, arrays, steps)


def to_fbgemm(
    state: optax.OptState,
    states: Sequence[Sequence[Any]],
    params: optax.Params,
    *,
    order: Sequence[str | None] | None = None,
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
    names = ordered(found, order)
    return [
        [
            to_numpy(theirs)
            if name is None
            else converted(name, "momentum1", found[name].array, to_numpy(theirs))
        ]
        for name, theirs in _arrays(states, names)
    ]


def _arrays(
    states: Sequence[Any], names: list[str | None]
) -> list[tuple[str | None, Any]]:
    """The array of each table."""
    states = list(states)
    check_length("`states`", len(states), "tables", names)
    arrays: list[tuple[str | None, Any]] = []
    for name, entry in zip(names, states, strict=True):
        if not isinstance(entry, Sequence) or len(entry) != 1:
            raise ValueError(
                f"`states` must have a list of one array for {listed([name])}, as "
                "EXACT_ADAGRAD and EXACT_ROWWISE_ADAGRAD do, got "
                f"{described(entry)}; is it another optimizer's?"
            )
        arrays.append((name, entry[0]))
    return arrays
