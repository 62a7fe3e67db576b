"""Adagrad of jax-tpu-embedding's tables on a TPU's SparseCores."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from adagrad_jax._adagrad import chain, scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._around_update import is_set
from adagrad_jax._checks import (
    check_fits_params,
    check_hyperparameter,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
)
from adagrad_jax._decay import in_float32
from adagrad_jax._frequency import scale_by_share_of_steps
from adagrad_jax._rows.visit import map_rows, rows_of
from adagrad_jax._trees import map_given


def sparsecore(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""``AdagradOptimizerSpec`` of jax-tpu-embedding.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \eta_t \frac{g_t}{\sqrt{a_t}}

    Without an epsilon: a row whose accumulators and gradient are 0 becomes NaN there,
    and stands still here. Repeated rows are summed first. Like jax-tpu-embedding it
    rounds ``learning_rate`` to float32; there tables are float32, here those of 16 bits
    have float32 accumulators. Bounds of the parameters (``embedding_var_limits``) are
    left out.

    Args:
      learning_rate: :math:`\eta_t`: a number, an array of shape (), or a schedule; its
        count, from 0, is the ``step`` of ``tpu_sparse_dense_matmul_grad``.
      initial_accumulator_value: The accumulators at the start, at least 0.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is negative, NaN or infinite.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.sparsecore(0.1, initial_accumulator_value=3.0)
      >>> table = jnp.zeros((3, 2))
      >>> gradient = aj.RowSparse([1], jnp.ones((1, 2)), (3, 2))
      >>> updates, _ = optimizer.update(gradient, optimizer.init(table))
      >>> print(updates.to_dense()[1])
      [-0.05 -0.05]

    References:
      jax-tpu-embedding 0.2.0, ``AdagradOptimizerSpec`` and
      ``sparse_dense_matmul_grad_with_adagrad``.
    """
    check_learning_rate("learning_rate", learning_rate)
    return chain(
        scale_by_adagrad(initial_accumulator_value, 0.0),
        scale_by_learning_rate(in_float32(learning_rate)),
    )


def sparsecore_f2a(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    rho: ArrayLike = 0.5,
    initial_accumulator_value: ArrayLike = 0.1,
    initial_local_step_value: ArrayLike = 0.0,
    l1_regularization_strength: ArrayLike = 0.0,
    l2_regularization_strength: ArrayLike = 0.0,
    max_lr_multiplier: ArrayLike = 1e6,
) -> optax.GradientTransformationExtraArgs:
    r"""``F2AOptimizerSpec`` of jax-tpu-embedding: frequency-aware Adagrad.

    .. math::

        a_t &= a_{t-1} + g_t^2, \qquad c_t[r] = c_{t-1}[r] + 1 \\
        m_t[r] &= \min\Big(\Big(\frac{\max(t, 1)}{c_t[r]}\Big)^{\text{rho}},\
                  \text{max\_lr\_multiplier}\Big) \\
        \theta_t[r] &= \theta_{t-1}[r] - \eta_t \Big(m_t[r] \frac{g_t[r]}{\sqrt{a_t[r]}}
            + \text{l1}\,\mathrm{sign}(\theta_{t-1}[r]) + \text{l2}\,\theta_{t-1}[r]
            \Big)

    for the rows :math:`r` in the gradient, with :math:`t` the ``step`` that
    ``tpu_sparse_dense_matmul_grad`` is told, here counted from 0. So in the k-th step,
    after the first, the multiplier of a row that every step reads is a little less than
    1, :math:`((k - 1) / k)^{\text{rho}}`; :func:`adagrad_jax.frequency_adagrad` counts
    from 1, and there it is 1. (Who does not tell jax-tpu-embedding the step has
    :math:`t = 1` for ever, and steps that fall with the counts.)

    The penalties are decoupled: neither accumulators nor multipliers see them. An
    ordinary gradient has all rows, and counts those in which any number is not 0.
    Otherwise as :func:`sparsecore`. Counts are integers here, one for each row; there
    they are float32 numbers, one for each of a row's, and stay at 16,777,216.

    Args:
      learning_rate: As in :func:`sparsecore`.
      rho: How much rare rows gain, at least 0.
      initial_accumulator_value: The accumulators at the start, at least 0.
      initial_local_step_value: The counts :math:`c_0`, a whole number, at least 0.
      l1_regularization_strength: Strength of the L1 penalty, at least 0.
      l2_regularization_strength: Strength of the L2 penalty, at least 0.
      max_lr_multiplier: The most that a step is multiplied by, more than 0.

    Returns:
      An Optax transformation. It needs ``params`` if there is a penalty.

    Raises:
      TypeError: If an argument is no number; if a leaf is complex, and there is a
        penalty.
      ValueError: If one is out of range, or ``initial_local_step_value`` no whole
        number.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> optimizer = aj.dialects.sparsecore_f2a(0.1, initial_accumulator_value=0.0)
      >>> table = jnp.zeros((3, 1))
      >>> state = optimizer.init(table)
      >>> for ids in [[0], [0], [0], [0], [0, 1]]:
      ...     rows = aj.RowSparse(ids, jnp.ones((len(ids), 1)), table.shape)
      ...     updates, state = optimizer.update(rows, state)
      >>> print(updates.to_dense().ravel())
      [-0.04 -0.2   0.  ]

    References:
      jax-tpu-embedding 0.2.0, ``F2AOptimizerSpec`` and
      ``sparse_dense_matmul_grad_with_f2a``; it cites no paper.
    """
    check_learning_rate("learning_rate", learning_rate)
    penalties = {
        "l1_regularization_strength": l1_regularization_strength,
        "l2_regularization_strength": l2_regularization_strength,
    }
    check_hyperparameters(rho=rho, **penalties)
    check_hyperparameter(
        "max_lr_multiplier", max_lr_multiplier, positive=True, infinity=True
    )
    _check_count("initial_local_step_value", initial_local_step_value)
    by_frequency = scale_by_share_of_steps(
        rho, max_lr_multiplier, first_step=0, initial_count=initial_local_step_value
    )
    strengths = tuple(penalties.values())
    return chain(
        scale_by_adagrad(initial_accumulator_value, 0.0),
        by_frequency,
        *([_add_penalties(*strengths)] if any(map(is_set, strengths)) else []),
        scale_by_learning_rate(in_float32(learning_rate)),
    )


def _check_count(name: str, value: Any) -> None:
    check_hyperparameters(**{name: value})
    if isinstance(value, Tracer):
        return
    if float(value) % 1 or float(value) >= 2**31:
        raise ValueError(
            f"`{name}` must be a whole number less than 2,147,483,648, for counts are "
            f"integers here, got {value!r}."
        )


def _add_penalties(
    l1: ArrayLike, l2: ArrayLike
) -> optax.GradientTransformationExtraArgs:
    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient", real_because="the L1 penalty takes signs")
        check_fits_params(updates, params)

        def add(update: Any, param: Any) -> Any:
            return map_rows(update, _with_penalties, rows_of(param), l1, l2)

        return map_given(add, updates, params)

    return optax.with_extra_args_support(optax.stateless(update_fn))


def _with_penalties(
    update: jax.Array, param: jax.Array, l1: ArrayLike, l2: ArrayLike
) -> jax.Array:
    param = param.astype(update.dtype)
    l1, l2 = (jnp.asarray(strength, update.dtype) for strength in (l1, l2))
    return update + (l1 * jnp.sign(param) + l2 * param)
