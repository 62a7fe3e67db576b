"""Decay: of the weights towards 0, and of the learning rate over time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._checks import (
    check_fits_params,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
    check_state,
)
from adagrad_jax._precision import at_least_float32, is_narrow
from adagrad_jax._rows.visit import map_rows, rows_of
from adagrad_jax._sixteen_bits import FactorIn
from adagrad_jax._trees import map_given


def add_decayed_weights(
    weight_decay: ArrayLike,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Adds ``weight_decay`` times the parameters to the updates.

    .. math::

        u \leftarrow u + \text{weight\_decay} \cdot \theta

    Its place in the chain decides what it is. Before :func:`adagrad_jax.adagrad` it is
    L2 regularisation, which enters the accumulator (PyTorch's ``weight_decay``);
    between :func:`adagrad_jax.scale_by_adagrad` and the learning rate it is decoupled
    weight decay (Keras 3's and AdamW's).

    Of a table with a :class:`RowSparse` gradient **only the rows in it decay**, so a
    row decays in the steps that read it and no others.

    Args:
      weight_decay: The strength, at least 0.
      mask: A tree of booleans, or a function from parameters to one: which leaves decay
        (all if None), as ``optax.masked`` takes it.

    Returns:
      An Optax transformation, stateless but for ``optax.masked``'s wrapper if there is
      a mask. It keeps the updates' dtypes and needs ``params`` in ``update``.

    Raises:
      TypeError: If ``weight_decay`` is no number, or a leaf is neither floating-point
        nor complex.
      ValueError: If ``weight_decay`` is negative, NaN or infinite; if ``update`` is
        called without ``params``, or with others than the updates belong to.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> decay = aj.add_decayed_weights(0.1, mask={"bias": False, "kernel": True})
      >>> params = {"bias": jnp.array(2.0), "kernel": jnp.array(3.0)}
      >>> zeros = {"bias": jnp.array(0.0), "kernel": jnp.array(0.0)}
      >>> updates, _ = decay.update(zeros, decay.init(params), params)
      >>> print(updates["bias"], updates["kernel"])
      0.0 0.3

    References:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    check_hyperparameters(weight_decay=weight_decay)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        factor_in: FactorIn | None = None,  # see _sixteen_bits.py
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        check_leaves(updates, "gradient")
        check_fits_params(updates, params)

        def decay(update: Any, param: Any) -> Any:
            factor = None
            if factor_in is not None and is_narrow(update.dtype):
                factor = factor_in(update.dtype)
            return map_rows(update, _add_decayed, rows_of(param), weight_decay, factor)

        return map_given(decay, updates, params), state

    init_fn = optax.identity().init
    transformation = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    if mask is not None:
        return optax.with_extra_args_support(optax.masked(transformation, mask))
    return transformation


def _add_decayed(
    update: jax.Array,
    param: jax.Array,
    weight_decay: ArrayLike,
    factor: jax.Array | None,
) -> jax.Array:
    """The update, and what decays: times ``factor``, in its dtype, if there is one."""
    if factor is None:
        rate = jnp.asarray(weight_decay, update.dtype)
        return update + rate * param.astype(update.dtype)
    rate = jnp.asarray(weight_decay, factor.dtype)
    decayed = rate * param.astype(factor.dtype) * factor
    return (update.astype(factor.dtype) + decayed).astype(update.dtype)


def inverse_time_decay(
    learning_rate: optax.ScalarOrSchedule, decay: ArrayLike
) -> optax.Schedule:
    r"""A learning rate that falls with time: Keras' ``decay``, PyTorch's ``lr_decay``.

    .. math::

        \eta_t = \frac{\text{learning\_rate}}{1 + \text{decay} \cdot t}
        \qquad (t = 0, 1, \dots)

    Args:
      learning_rate: The rate at t = 0, at least 0; or a schedule ``count -> rate``,
        whose value at t is divided.
      decay: How fast it falls, at least 0: by step ``1 / decay`` it has halved.

    Returns:
      A schedule ``count -> learning rate`` for :func:`adagrad_jax.adagrad`. Its value
      is float32, or float64 with ``jax_enable_x64``.

    Raises:
      TypeError: If ``learning_rate`` or ``decay`` is no number.
      ValueError: If either is a number that is negative, NaN or infinite.

    Example:
      >>> import adagrad_jax as aj
      >>> schedule = aj.inverse_time_decay(1.0, decay=0.5)
      >>> [float(schedule(t)) for t in (0, 2, 6)]
      [1.0, 0.5, 0.25]
    """
    check_learning_rate("learning_rate", learning_rate)
    check_hyperparameters(decay=decay)

    def schedule(count: ArrayLike) -> jax.Array:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        dtype = jnp.result_type(float)  # Python's float: float64 if JAX has it on
        elapsed = jnp.asarray(decay, dtype) * jnp.asarray(count, dtype)
        return jnp.asarray(rate, dtype) / (1 + elapsed)

    return schedule


def decayed_rate(
    rate: ArrayLike, decay: ArrayLike, count: ArrayLike, dtype: DTypeLike
) -> jax.Array:
    """``rate / (1 + decay * count)`` in a dtype, computed there as TensorFlow does.

    In 16 bits each operation is rounded. Only the count is not: from 2,049 on float16
    has no longer all of them, and TensorFlow's rate is 0 when it is infinite there.
    """
    if not is_narrow(dtype):
        wide = at_least_float32(dtype)
        divisor = 1 + jnp.asarray(decay, wide) * jnp.asarray(count, wide)
        return (jnp.asarray(rate, wide) / divisor).astype(dtype)
    slowness = jnp.asarray(decay, dtype).astype(jnp.float32)
    elapsed = (slowness * jnp.asarray(count, jnp.float32)).astype(dtype)
    return jnp.asarray(rate, dtype) / (1 + elapsed)


def scale_by_decayed_rate(
    learning_rate: optax.ScalarOrSchedule, decay: ArrayLike
) -> optax.GradientTransformation:
    """Scales by minus :func:`decayed_rate`; counts as Optax's schedules do."""

    def init_fn(params: optax.Params) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Any]:
        del params
        check_leaves(updates, "update")
        check_state(state, optax.ScaleByScheduleState)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def scale(update: Any) -> Any:
            return -decayed_rate(rate, decay, state.count, update.dtype) * update

        count = optax.safe_increment(state.count)
        return jax.tree.map(scale, updates), optax.ScaleByScheduleState(count)

    return optax.GradientTransformation(init_fn, update_fn)


def in_float32(value: Any) -> Any:
    """Rounds a Python number, or what a schedule gives, to float32."""
    if callable(value):
        return lambda count: jnp.asarray(value(count), jnp.float32)
    if isinstance(value, int | float):
        return float(np.float32(value))
    return value


def at_last_call(
    learning_rate: optax.ScalarOrSchedule, steps: int
) -> optax.ScalarOrSchedule:
    """Asks a schedule at the last of each ``steps`` calls."""
    if steps == 1 or not callable(learning_rate):
        return learning_rate
    return lambda count: learning_rate(count * steps + steps - 1)
