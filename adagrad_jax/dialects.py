r"""Adagrad as other frameworks mean it, with their names, defaults and rounding.

Each function takes the arguments of the optimizer that it stands for and returns an
Optax transformation that gives the same numbers, up to the last few bits:

=========  ==============================  =======  ======  ============================
function   update                          acc. at  rate    also
                                           start
=========  ==============================  =======  ======  ============================
`keras`    lr * g / (sqrt(a) + 1e-7)       0.1      0.001   clipnorm, clipvalue, decay
`keras3`   lr * g / sqrt(a + 1e-7)         0.1      0.001   weight decay, clipping,
                                                            averaging, accumulation
`optax`    lr * g / sqrt(a + 1e-7)         0.1      --
`torch`    lr * g / (sqrt(a) + 1e-10)      0        0.01    lr_decay, weight_decay,
                                                            maximize
`tf1`      lr * g / sqrt(a)                0.1      --
`fbgemm`   lr * g / (sqrt(a_row) + 1e-8)   0        0.01    weight decay of rows,
                                                            max_norm
=========  ==============================  =======  ======  ============================

with a = a + g^2 before each update (a_row: the mean of g^2 over the row). In 16 bits
they round what their peers round, and when (docs/numerics.md). All but `fbgemm` keep
accumulators in the parameter's own precision, as the peers do, also where squares
overflow, as in float16 at 256; :func:`adagrad_jax.adagrad` does neither.

Where a peer divides by 0 and gets NaN or infinity (epsilon 0, no gradient yet) the
update here is 0. Arguments without a meaning for the numbers (``name``, ``foreach``,
``use_locking``) are left out.
"""

import functools
from collections.abc import Iterable
from typing import Any, Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import GradientTransformationExtraArgs, Params, ScalarOrSchedule, chain

from adagrad_jax._accumulators.diagonal import Diagonal, InOwnPrecision
from adagrad_jax._accumulators.row_wise import RowWise
from adagrad_jax._adagrad import (
    scale_by,
    scale_by_adagrad,
    scale_by_learning_rate,
)
from adagrad_jax._around_update import Keras3Options, decay_whole_params, given, is_set
from adagrad_jax._checks import (
    check_hyperparameter,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
)
from adagrad_jax._clipping import cap_row_norms, clip_by_norm, clip_by_value
from adagrad_jax._decay import (
    add_decayed_weights,
    at_last_call,
    in_float32,
    inverse_time_decay,
    scale_by_decayed_rate,
)
from adagrad_jax._sixteen_bits import chain_with_rate, without_rate

_scale_in_own_precision = functools.partial(
    scale_by_adagrad, accumulator=InOwnPrecision()
)


def keras(
    learning_rate: ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike | None = 1e-7,
    *,
    clipnorm: ArrayLike | None = None,
    clipvalue: ArrayLike | None = None,
    decay: ArrayLike = 0.0,
    lr: ScalarOrSchedule | None = None,
) -> GradientTransformationExtraArgs:
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
    return chain(
        *([clip_by_norm(clipnorm)] if clipnorm is not None else []),
        *([clip_by_value(clipvalue)] if clipvalue is not None else []),
        chain_with_rate([], [scale], by_rate),
    )


def keras3(
    learning_rate: ScalarOrSchedule = 0.001,
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
) -> GradientTransformationExtraArgs:
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


def optax(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
) -> GradientTransformationExtraArgs:
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
    scale = _scale_in_own_precision(
        initial_accumulator_value, eps, epsilon_in_sqrt=True
    )
    return chain(without_rate(scale), scale_by_learning_rate(learning_rate))


def torch(
    lr: ScalarOrSchedule = 0.01,
    lr_decay: ArrayLike = 0.0,
    weight_decay: ArrayLike = 0.0,
    initial_accumulator_value: ArrayLike = 0.0,
    eps: ArrayLike = 1e-10,
    *,
    maximize: bool = False,
) -> GradientTransformationExtraArgs:
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
    transformation = chain(
        *([scale_by(-1.0)] if maximize else []),
        *([decay_whole_params(weight_decay)] if is_set(weight_decay) else []),
        chain_with_rate([], [scale], by_rate, rate_dtype=jnp.float32),
    )

    def init(params: Params) -> Any:
        check_leaves(
            params,
            "parameter",
            real_because="PyTorch takes a complex parameter for two real ones; do so "
            "with optax.contrib.split_real_and_imaginary(dialects.torch(...))",
        )
        return transformation.init(params)

    return GradientTransformationExtraArgs(init, transformation.update)


def tf1(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
) -> GradientTransformationExtraArgs:
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


def fbgemm(
    learning_rate: ScalarOrSchedule = 0.01,
    eps: ArrayLike = 1e-8,
    *,
    optimizer: Literal[
        "exact_row_wise_adagrad", "exact_adagrad"
    ] = "exact_row_wise_adagrad",
    weight_decay: ArrayLike = 0.0,
    weight_decay_mode: Literal["NONE", "L2", "DECOUPLE"] = "NONE",
    max_norm: ArrayLike | None = None,
    initial_accumulator_value: ArrayLike = 0.0,
) -> GradientTransformationExtraArgs:
    r"""The exact Adagrad of FBGEMM's embedding tables (TorchRec).

    .. math::

        a_t[r] = a_{t-1}[r] + \frac{1}{D} \sum_d g_t[r, d]^2, \qquad
        \theta_t[r] = \theta_{t-1}[r] - \eta_t \frac{g_t[r]}{\sqrt{a_t[r]} + \text{eps}}

    row by row, or with ``"exact_adagrad"`` number by number. "Exact" is that repeated
    rows are summed first. Weight decay is of the rows in a row-sparse gradient only:
    "L2" adds :math:`\text{weight\_decay} \cdot \theta` to :math:`g`, "DECOUPLE"
    multiplies :math:`\theta` by :math:`1 - \eta_t \cdot \text{weight\_decay}`.
    Accumulators of 16-bit tables are float32. (FBGEMM 1.8 ignores both on a CPU for
    tables that serve one feature, and ``max_norm`` on any CPU.)

    Args:
      learning_rate: :math:`\eta_t`: a number, an array of shape (), or a schedule.
      eps: Added to the root.
      optimizer: Whether a row has one accumulator, :class:`RowWise`, or each number in
        it: the values of ``EmbOptimType``.
      weight_decay: Its strength, at least 0.
      weight_decay_mode: What it is, by the name in ``WeightDecayMode``.
      max_norm: Bound on the norm of each row that was changed, as in
        :func:`adagrad_jax.cap_row_norms`; None and 0 mean none.
      initial_accumulator_value: The accumulators at the start, at least 0.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is negative, NaN or infinite, or a name is unknown.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.fbgemm(0.1)
      >>> table = jnp.ones((3, 2))
      >>> gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (3, 2))
      >>> updates, _ = optimizer.update(gradient, optimizer.init(table))
      >>> print(updates.to_dense()[1])
      [-0.1 -0.1]

    References:
      FBGEMM, ``SplitTableBatchedEmbeddingBagsCodegen`` with ``EXACT_ROWWISE_ADAGRAD``
      or ``EXACT_ADAGRAD``.
    """
    check_learning_rate("learning_rate", learning_rate)
    check_hyperparameters(
        eps=eps, weight_decay=weight_decay, **given(max_norm=max_norm)
    )
    accumulators = {
        "exact_row_wise_adagrad": RowWise(),
        "exact_adagrad": Diagonal(),
    }
    _check_name("optimizer", optimizer, accumulators)
    _check_name("weight_decay_mode", weight_decay_mode, ("NONE", "L2", "DECOUPLE"))
    decay = [add_decayed_weights(weight_decay)]
    scale = scale_by_adagrad(
        initial_accumulator_value, eps, accumulator=accumulators[optimizer]
    )
    return chain_with_rate(
        decay if weight_decay_mode == "L2" else [],
        [scale, *(decay if weight_decay_mode == "DECOUPLE" else [])],
        scale_by_learning_rate(learning_rate),
        [cap_row_norms(max_norm)] if is_set(max_norm) else [],
        rate_dtype=jnp.float32,
    )


def _check_name(argument: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(known)}, got {name!r}."
        )
