"""Adagrad of PyTorch."""

from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._adagrad import scale_by, scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._around_update import decay_whole_params, is_set
from adagrad_jax._checks import check_hyperparameters, check_learning_rate, check_leaves
from adagrad_jax._decay import inverse_time_decay
from adagrad_jax._sixteen_bits import chain_with_rate


def torch(
    lr: optax.ScalarOrSchedule = 0.01,
    lr_decay: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    initial_accumulator_value: ArrayLike = 0.0,
    eps: ArrayLike = 1e-10,
    *,
    maximize: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""``torch.optim.Adagrad``.

    .. math::

        g'_t = \pm g_t + \text{weight\_decay}\,\theta_{t-1}, \qquad
        a_t = a_{t-1} + g_t'^2, \qquad
        \theta_t = \theta_{t-1} - \frac{\text{lr}}{1 + (t-1)\,\text{lr\_decay}}
        \cdot \frac{g'_t}{\sqrt{a_t} + \text{eps}}

    For parameter groups use ``optax.partition``.

    Args:
      lr: A number, an array of shape (), or a schedule.
      lr_decay: How fast the learning rate falls with the steps taken.
      weight_decay: L2 regularisation: it enters the accumulators. Needs ``params``.
      initial_accumulator_value: The accumulators at the start, at least 0.
      eps: Added to the root.
      maximize: Whether to go up the gradient instead of down.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number; if a parameter is complex, which PyTorch
        takes for a pair of real ones (wrap with
        ``optax.contrib.split_real_and_imaginary``); if a gradient is a
        :class:`RowSparse`, and ``weight_decay`` is not 0, as there.
      ValueError: If an argument is negative, NaN or infinite.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.torch(lr=0.1)
      >>> weights = jnp.array([1.0, 10.0])
      >>> updates, _ = optimizer.update(weights, optimizer.init(weights))
      >>> print(updates)
      [-0.1 -0.1]

    References:
      PyTorch, ``torch.optim.Adagrad``.
    """
    check_learning_rate("lr", lr)
    check_hyperparameters(lr_decay=lr_decay, weight_decay=weight_decay, eps=eps)
    learning_rate = inverse_time_decay(lr, lr_decay) if is_set(lr_decay) else lr
    scale = scale_by_adagrad(
        initial_accumulator_value, eps, accumulator=Diagonal(dtype="parameter")
    )
    by_rate = scale_by_learning_rate(learning_rate)
    transformation = optax.chain(
        *([scale_by(-1.0)] if maximize else []),
        *([decay_whole_params(weight_decay)] if is_set(weight_decay) else []),
        chain_with_rate([], [scale], by_rate, rate_dtype=jnp.float32),
    )

    def init(params: optax.Params) -> Any:
        check_leaves(
            params,
            "parameter",
            real_because="PyTorch takes a complex parameter for two real ones; do so "
            "with optax.contrib.split_real_and_imaginary(dialects.torch(...))",
        )
        return transformation.init(params)

    return optax.GradientTransformationExtraArgs(init, transformation.update)
