"""What a Keras 3 optimizer does around its update: accumulate before, average after."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators import full_like
from adagrad_jax._checks import (
    check_fits_params,
    check_fits_state,
    check_hyperparameters,
    check_leaves,
    check_row_sparse,
)
from adagrad_jax._row_sparse import from_bcoo_leaves


class AccumulateGradientsState(NamedTuple):
    """What `accumulate_gradients` remembers.

    Attributes:
      calls: How often it was called, shape (), int32.
      gradient_sum: The gradients since the last update, a tree like theirs.
      inner_state: The wrapped transformation's.
    """

    calls: jax.Array
    gradient_sum: chex.ArrayTree
    inner_state: Any


def accumulate_gradients(
    inner: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Calls ``inner`` once every ``steps`` calls, with the mean of their gradients.

    ``optax.MultiSteps`` will not do: its sums are float32 for float64 parameters too,
    and drop imaginary parts.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            calls=jnp.zeros((), jnp.int32),
            gradient_sum=jax.tree.map(lambda p: full_like(p, 0), params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, AccumulateGradientsState]:
        updates = from_bcoo_leaves(updates)
        check_leaves(updates, "gradient")
        check_row_sparse(updates, "gradients are accumulated in arrays")
        check_fits_state(updates, state.gradient_sum, full_like)
        updates = jax.tree.map(jnp.asarray, updates)
        total = jax.tree.map(
            lambda s, g: s + g.astype(s.dtype), state.gradient_sum, updates
        )

        def apply(total: Any, inner_state: Any) -> tuple[Any, Any, Any]:
            mean = jax.tree.map(
                lambda s, g: (s / steps).astype(g.dtype), total, updates
            )
            new_updates, inner_state = inner.update(
                mean, inner_state, params, **extra_args
            )
            return new_updates, jax.tree.map(jnp.zeros_like, total), inner_state

        def wait(total: Any, inner_state: Any) -> tuple[Any, Any, Any]:
            return jax.tree.map(jnp.zeros_like, updates), total, inner_state

        calls = state.calls + 1
        new_updates, total, inner_state = jax.lax.cond(
            calls % steps == 0, apply, wait, total, state.inner_state
        )
        return new_updates, AccumulateGradientsState(calls, total, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AverageParamsState(NamedTuple):
    """What `average_params` remembers.

    Attributes:
      calls: How often it was called, shape (), int32.
      average: The moving average of the parameters, a tree like theirs.
    """

    calls: jax.Array
    average: chex.ArrayTree


def average_params(
    momentum: ArrayLike, overwrite_frequency: int | None, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Averages the parameters as they will be after these updates; the last in a chain.

    Args:
      momentum: The share of the average that stays at each call; 0 until the first
        update has been done.
      overwrite_frequency: After so many updates, again and again, the parameters
        become their average.
      steps: How many calls make one update.
    """
    check_hyperparameters(ema_momentum=momentum)
    if isinstance(momentum, int | float) and momentum > 1:
        raise ValueError(f"`ema_momentum` must be in [0, 1], got {momentum!r}.")

    def init_fn(params: optax.Params) -> AverageParamsState:
        return AverageParamsState(
            calls=jnp.zeros((), jnp.int32),
            average=jax.tree.map(lambda p: full_like(p, 0), params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, AverageParamsState]:
        del extra_args
        check_fits_params(updates, params)
        updates_done = state.calls // steps
        share = jnp.where(updates_done == 0, 0, jnp.asarray(momentum, float))

        def mix(average: jax.Array, param: jax.Array) -> jax.Array:
            kept = share.astype(param.dtype)
            return kept * average + (1 - kept) * param

        average = jax.tree.map(mix, state.average, optax.apply_updates(params, updates))
        if overwrite_frequency is not None:
            check_row_sparse(updates, "`ema_overwrite_frequency` changes all rows")
            overwrite = (updates_done + 1) % overwrite_frequency == 0
            updates = jax.tree.map(
                lambda u, a, p: jnp.where(
                    overwrite, (a - p).astype(jnp.result_type(u)), u
                ),
                updates,
                average,
                params,
            )
        return updates, AverageParamsState(state.calls + 1, average)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
