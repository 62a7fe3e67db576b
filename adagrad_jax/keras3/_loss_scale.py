"""Keras' ``LossScaleOptimizer`` around an optimizer that takes rows."""

# Keras' own types are partly unknown.
# pyright: reportUnknownParameterType=false, reportPrivateUsage=false

from typing import Any

import jax.numpy as jnp
import keras
from jax import lax

from adagrad_jax._finite import all_finite
from adagrad_jax.keras3._optimizer import Optimizer

LossScaleOptimizer = keras.optimizers.LossScaleOptimizer


def with_rows(optimizer: Any) -> Optimizer | None:
    """The optimizer of rows that ``optimizer`` is, or is around; None if of arrays."""
    # Not of classes derived from it, which may do otherwise.
    if type(optimizer) is LossScaleOptimizer:
        optimizer = optimizer.inner_optimizer
    return optimizer if isinstance(optimizer, Optimizer) else None


def apply_unscaled(
    optimizer: Any, optimizer_variables: Any, grads: Any, trainable: Any
) -> tuple[Any, Any]:
    """``optimizer.stateless_apply``, of gradients of which some are rows."""
    if type(optimizer) is not LossScaleOptimizer:
        return optimizer.stateless_apply(optimizer_variables, grads, trainable)
    own = optimizer._variables
    own_values = list(optimizer_variables[: len(own)])
    inner_variables = list(optimizer_variables[len(own) :])
    places = {id(variable): place for place, variable in enumerate(own)}
    scale_at = places[id(optimizer.dynamic_scale)]
    steps_at = places[id(optimizer.step_counter)]
    scale, steps = own_values[scale_at], own_values[steps_at]
    unscaled = [
        g if optimizer._overwrite_variable_with_gradient(v) else g / scale
        for g, v in zip(grads, optimizer._trainable_variables, strict=True)
    ]
    finite = all_finite(grads)

    def apply(state: tuple[Any, Any]) -> tuple[Any, Any]:
        trainable, variables = state
        return optimizer.inner_optimizer.stateless_apply(variables, unscaled, trainable)

    # A loop that is run through once or not at all changes tables in place; a
    # conditional would copy them.
    trainable, inner_variables = lax.fori_loop(
        0,
        finite.astype(jnp.int32),
        lambda _, state: apply(state),
        (list(trainable), inner_variables),
    )
    is_grown = steps == optimizer.dynamic_growth_steps - 1
    doubled = jnp.where(is_grown, scale * 2.0, scale)
    own_values[scale_at] = jnp.where(finite, doubled, scale * 0.5)
    own_values[steps_at] = jnp.where(finite & ~is_grown, steps + 1, 0)
    return trainable, own_values + inner_variables
