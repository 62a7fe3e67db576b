"""Adagrad of Optax."""

import optax as peer  # not the function below
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import InOwnPrecision
from adagrad_jax._adagrad import scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._checks import check_hyperparameters
from adagrad_jax._sixteen_bits import without_rate


def optax(
    learning_rate: peer.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
) -> peer.GradientTransformationExtraArgs:
    r"""``optax.adagrad``.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \eta_t \frac{g_t}{\sqrt{a_t + \epsilon}}

    Two things are better here: complex parameters have real accumulators, and a square
    so small that it underflows to 0 does not lose its step.

    Args:
      learning_rate: :math:`\eta_t`: a number, an array of shape (), or a schedule.
      initial_accumulator_value: The accumulators at the start, at least 0.
      eps: :math:`\epsilon`, added under the root.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is negative, NaN or infinite (Optax itself does not check).

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.optax(0.1)
      >>> weights = jnp.array([1.0])
      >>> updates, _ = optimizer.update(weights, optimizer.init(weights))
      >>> print(updates)
      [-0.0953]

    References:
      Optax, ``optax.adagrad`` and ``optax.scale_by_rss``.
    """
    check_hyperparameters(eps=eps)
    scale = scale_by_adagrad(
        initial_accumulator_value,
        eps,
        accumulator=InOwnPrecision(),
        epsilon_in_sqrt=True,
    )
    return peer.chain(without_rate(scale), scale_by_learning_rate(learning_rate))
