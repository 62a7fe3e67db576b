"""Optax: a tree like ours, so that paths say which is which."""

from typing import Any

import optax

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax.interop._arrays import at_leaf
from adagrad_jax.interop._fill import fill, find_kept, steps_taken


def from_optax(
    opt_state: optax.OptState,
    state: optax.OptState,
    params: optax.Params,
    *,
    step: int | None = None,
) -> Any:
    """Fills a state with that of ``optax.adagrad``, or a chain with it inside.

    To go on with ours, :func:`adagrad_jax.dialects.optax`, where Optax stopped.
    Nothing need be ordered, for both have trees. An accumulator of a leaf of which
    ``state`` keeps none, as of a frozen one, is left where it was.

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
        if ``step`` is needed; if an accumulator cannot be one, as in
        :func:`from_torch`.

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
    return _refill(
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
    return _refill(
        state, ScaleByAdagradState, opt_state, optax.ScaleByRssState, params, step
    )


def _refill(
    source: Any, their_kind: type, target: Any, kind: type, params: Any, step: Any
) -> Any:
    """Fills a JAX state from another, path by path."""
    theirs = find_kept(source, params, their_kind)
    found = find_kept(target, params, kind)
    for name in found:
        if name not in theirs:
            raise ValueError(
                f"only one of the states has an accumulator of {at_leaf(name)}, that "
                "which is to be filled; freeze this leaf there, too (optax.masked)."
            )
    theirs = {name: theirs[name] for name in found}
    arrays = {name: leaf.array for name, leaf in theirs.items()}
    return fill(target, found, arrays, steps_taken(source, theirs, step))
