"""Adagrad of TensorFlow and Keras."""

import functools

import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import InOwnPrecision
from adagrad_jax._adagrad import scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._around_update import Keras3Options, given, is_set
from adagrad_jax._checks import (
    check_hyperparameter,
    check_hyperparameters,
    check_learning_rate,
)
from adagrad_jax._clipping import clip_by_norm, clip_by_value
from adagrad_jax._decay import at_last_call, in_float32, scale_by_decayed_rate
from adagrad_jax._sixteen_bits import chain_with_rate

_scale_in_own_precision = functools.partial(
    scale_by_adagrad, accumulator=InOwnPrecision()
)


def keras(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike | None = 1e-7,
    *,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    decay: ArrayLike = 0.0,
    lr: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""``tf.keras.optimizers.Adagrad`` of TensorFlow 2.0.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \frac{\text{learning\_rate}}{1 + \text{decay}\,(t-1)}
        \cdot \frac{g_t}{\sqrt{a_t} + \epsilon}

    An update is a ``minimize`` there, which clips (``apply_gradients`` does not). The
    norm of a :class:`RowSparse` gradient is taken after repeated rows have been summed;
    TensorFlow takes it before, so that it depends on how a gradient is written. Like
    TensorFlow it rounds ``learning_rate`` and ``decay`` to float32, also for float64
    parameters; an array keeps its own dtype.

    Args:
      learning_rate: A number, an array of shape (), or a schedule.
      initial_accumulator_value: The accumulators at the start, at least 0.
      epsilon: Added to the root. None and 0 mean 1e-7, as they do there.
      clipnorm: Bound on the norm of each gradient, before ``clipvalue``.
      clipvalue: Bound on the absolute value of each number in a gradient.
      decay: How fast the learning rate falls with the steps taken.
      lr: Old name of ``learning_rate``; counts if both are given.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is negative, NaN or infinite.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.keras(0.1, decay=0.5)
      >>> weights = jnp.array([1.0])
      >>> updates, _ = optimizer.update(weights, optimizer.init(weights))
      >>> print(updates)
      [-0.0953]

    References:
      TensorFlow r2.0, ``tf.keras.optimizers.Adagrad``.
    """
    check_learning_rate("learning_rate", learning_rate)
    if lr is not None:
        check_learning_rate("lr", lr)
    check_hyperparameters(
        decay=decay,
        **given(epsilon=epsilon, clipnorm=clipnorm, clipvalue=clipvalue),
    )
    learning_rate = in_float32(learning_rate if lr is None else lr)
    by_rate = scale_by_learning_rate(learning_rate)
    if is_set(decay):
        by_rate = scale_by_decayed_rate(learning_rate, in_float32(decay))
    epsilon = epsilon if is_set(epsilon) else 1e-7
    scale = _scale_in_own_precision(initial_accumulator_value, epsilon)
    return optax.chain(
        *([clip_by_norm(clipnorm)] if clipnorm is not None else []),
        *([clip_by_value(clipvalue)] if clipvalue is not None else []),
        chain_with_rate([], [scale], by_rate),
    )


def keras3(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike = 1e-7,
    *,
    weight_decay: ArrayLike | None = None,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    global_clipnorm: ArrayLike | None = None,
    use_ema: bool = False,
    ema_momentum: ArrayLike = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: ArrayLike | None = None,
    gradient_accumulation_steps: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""``keras.optimizers.Adagrad`` of Keras 3.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = (1 - \eta_t\,\text{weight\_decay})\,\theta_{t-1}
        - \eta_t \frac{g_t}{\sqrt{a_t + \epsilon}}

    with :math:`\eta_t` the ``learning_rate``, kept in float32 as there. To exclude
    parameters from weight decay (``exclude_from_weight_decay`` there), give them a
    transformation without it by ``optax.partition``.

    Args:
      learning_rate: A number, an array of shape (), or a schedule. The count it gets
        is the number of calls, also when only every n-th of them updates.
      initial_accumulator_value: The accumulators at the start, at least 0.
      epsilon: Added under the root.
      weight_decay: Decoupled: the accumulators do not see it. Needs ``params``.
      clipnorm: Bound on the norm of each gradient. Only one kind of clipping may be
        given; 0 means none, as there.
      clipvalue: Bound on the absolute value of each number in a gradient.
      global_clipnorm: Bound on the joint norm of all gradients.
      use_ema: Whether to keep an exponential moving average of the parameters,
        ``optax.tree.get(state, "average")``. Needs ``params``. Each step then takes
        the time of whole tables, also with row-sparse gradients.
      ema_momentum: The share of the average that stays at each call, in [0, 1].
      ema_overwrite_frequency: After so many updates, again and again, the parameters
        become their average. None: never.
      loss_scale_factor: What the loss was multiplied by; gradients are divided by it.
      gradient_accumulation_steps: Sum up gradients, and update with their mean at
        every n-th call only. At least 2.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number; if a gradient is a :class:`RowSparse`,
        and ``weight_decay``, ``gradient_accumulation_steps`` or
        ``ema_overwrite_frequency`` is given, which are about whole parameters.
      ValueError: If one is out of range, or two kinds of clipping are given.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.keras3(0.1, weight_decay=0.5)
      >>> weights = jnp.array([1.0])
      >>> updates, _ = optimizer.update(weights, optimizer.init(weights), weights)
      >>> print(updates)
      [-0.1453]

    References:
      Keras 3, ``keras.optimizers.Adagrad`` and ``keras.optimizers.Optimizer``.
    """
    check_learning_rate("learning_rate", learning_rate)
    options = Keras3Options(
        weight_decay=weight_decay,
        clipnorm=clipnorm,
        global_clipnorm=global_clipnorm,
        clipvalue=clipvalue,
        use_ema=use_ema,
        ema_momentum=ema_momentum,
        ema_overwrite_frequency=ema_overwrite_frequency,
        loss_scale_factor=loss_scale_factor,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )
    clips = given(
        clipnorm=clipnorm, clipvalue=clipvalue, global_clipnorm=global_clipnorm
    )
    clips = [name for name, bound in clips.items() if is_set(bound)]
    if len(clips) > 1:
        raise ValueError(
            "only one of `clipnorm`, `clipvalue` and `global_clipnorm` may be given, "
            f"got {', '.join(clips)}."
        )
    steps = gradient_accumulation_steps or 1
    return options.around(
        _scale_in_own_precision(
            initial_accumulator_value, epsilon, epsilon_in_sqrt=True
        ),
        scale_by_learning_rate(at_last_call(in_float32(learning_rate), steps)),
        chain=chain_with_rate,
    )


def tf1(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
) -> optax.GradientTransformationExtraArgs:
    r"""``tf.compat.v1.train.AdagradOptimizer``.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \eta_t \frac{g_t}{\sqrt{a_t}}

    Like TensorFlow it rounds ``learning_rate`` to float32.

    Args:
      learning_rate: :math:`\eta_t`: a number, an array of shape (), or a schedule.
      initial_accumulator_value: The accumulators at the start, more than 0.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If ``learning_rate`` is negative, NaN or infinite, or
        ``initial_accumulator_value`` is not positive.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.tf1(0.1, initial_accumulator_value=3.0)
      >>> weights = jnp.array([1.0])
      >>> updates, _ = optimizer.update(weights, optimizer.init(weights))
      >>> print(updates)
      [-0.05]

    References:
      TensorFlow r2.0, ``tf.compat.v1.train.AdagradOptimizer``.
    """
    check_hyperparameter(
        "initial_accumulator_value", initial_accumulator_value, positive=True
    )
    check_learning_rate("learning_rate", learning_rate)
    scale = _scale_in_own_precision(initial_accumulator_value, 0.0)
    by_rate = scale_by_learning_rate(in_float32(learning_rate))
    return chain_with_rate([], [scale], by_rate)
