"""Adagrad: divide each gradient by the root of the sum of its squares so far."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._accumulators.normalize import DivideByRoot
from adagrad_jax._accumulators.protocol import Accumulator, TakesRows
from adagrad_jax._checks import (
    check_accumulator,
    check_alike,
    check_fits_state,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
    check_row_sparse,
    check_state,
    map_leaves,
)
from adagrad_jax._precision import is_narrow
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._sixteen_bits import FactorIn
from adagrad_jax._trees import ArrayTree, map_unzip


class ScaleByAdagradState(NamedTuple):
    """What :func:`scale_by_adagrad` remembers from step to step.

    Attributes:
      accumulator: A tree shaped like the parameters; in a leaf's place is what the
        ``accumulator`` argument keeps of that leaf (for :class:`Diagonal` an array of
        the leaf's shape, the sum of the squares of its gradients).
    """

    accumulator: ArrayTree


def scale_by_adagrad(
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike = 1e-7,
    *,
    accumulator: Accumulator = Diagonal(),  # noqa: B008 (frozen, so safe to share)
    epsilon_in_sqrt: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides gradients by the root of the sum of their squares so far.

    The part of :func:`adagrad` before the learning rate, to be chained with others:

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t = a_{t-1} + |g_t|^2, \qquad
        u_t = \frac{g_t}{\sqrt{a_t} + \epsilon}

    or :math:`u_t = g_t / \sqrt{a_t + \epsilon}` if ``epsilon_in_sqrt``. Where the
    denominator is 0 the update is 0, so it is never NaN for want of a gradient.

    Args:
      initial_accumulator_value: :math:`a_0 \ge 0`. The larger, the smaller the first
        steps; from 0 the very first step is ``learning_rate`` for every parameter.
      epsilon: :math:`\epsilon \ge 0`, which bounds the division where :math:`a_t` is
        small.
      accumulator: What is remembered of each parameter; see :class:`Diagonal`.
        For different ones in different leaves use ``optax.partition``.
      epsilon_in_sqrt: Where epsilon goes: TensorFlow and PyTorch add it to the root,
        Optax and Keras 3 under it.

    Returns:
      An Optax transformation with a :class:`ScaleByAdagradState`. Updates keep the
      gradients' shapes and dtypes; the arithmetic is in float32, or float64 if either
      gradient or accumulator is. Accumulators are sharded like their parameters.

    Raises:
      TypeError: If a hyperparameter is no number, ``accumulator`` no accumulator, a
        leaf neither floating-point nor complex, or a gradient complex where its
        parameter (if given) is real.
      ValueError: If a hyperparameter is negative, NaN or infinite, or gradients have
        another tree or other shapes than the parameters that ``init`` saw.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> optimizer = optax.chain(
      ...     aj.clip_by_global_norm(1.0), aj.scale_by_adagrad(), optax.scale(-0.1)
      ... )
      >>> gradient = jnp.array([3.0, 4.0])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(update, optax.tree.get(state, "accumulator"))
      [-0.0885 -0.0930] [0.4600 0.7400]

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Section 1.2 and Figure 1.
    """
    check_hyperparameters(
        initial_accumulator_value=initial_accumulator_value, epsilon=epsilon
    )
    check_accumulator(accumulator)
    divide = DivideByRoot(*((epsilon, 0.0) if epsilon_in_sqrt else (0.0, epsilon)))

    def init_fn(params: optax.Params) -> ScaleByAdagradState:
        check_leaves(params, "parameter")
        return ScaleByAdagradState(
            accumulator=map_leaves(
                lambda p: accumulator.init(p, initial_accumulator_value),
                params,
                "parameter",
            )
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        factor_in: FactorIn | None = None,  # see _sixteen_bits.py
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdagradState]:
        del extra_args
        check_leaves(updates, "gradient")
        if not isinstance(accumulator, TakesRows):
            check_row_sparse(updates, f"{accumulator!r} takes whole gradients only")
        check_state(state, ScaleByAdagradState)
        check_fits_state(updates, state.accumulator, accumulator.init)
        check_alike(updates, params)
        update = functools.partial(_update_leaf, accumulator, divide, factor_in)
        new, kept = map_unzip(update, 2, updates, state.accumulator)
        return new, ScaleByAdagradState(kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _update_leaf(
    accumulator: Accumulator,
    normalize: DivideByRoot,
    factor_in: FactorIn | None,
    gradient: Any,
    kept: Any,
) -> tuple[Any, Any]:
    rows = isinstance(gradient, RowSparse)
    dtype = gradient.dtype if rows else jnp.result_type(gradient)
    if factor_in is not None and is_narrow(dtype):
        normalize = normalize._replace(factor=factor_in(dtype))
    if isinstance(gradient, RowSparse) and isinstance(accumulator, TakesRows):
        return accumulator.update_rows(gradient, kept, normalize)
    return accumulator.update(jnp.asarray(gradient), kept, normalize)


def adagrad(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike = 1e-7,
    *,
    accumulator: Accumulator = Diagonal(),  # noqa: B008 (frozen, so safe to share)
    epsilon_in_sqrt: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""The Adagrad optimizer, as TensorFlow's ``tf.keras.optimizers.Adagrad`` has it.

    Each parameter has its own learning rate, which falls with the gradients that it has
    seen: rare features take large steps, frequent ones small steps.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t = a_{t-1} + |g_t|^2, \qquad
        \theta_t = \theta_{t-1} - \eta_t \frac{g_t}{\sqrt{a_t} + \epsilon}

    with :math:`\eta_t` the ``learning_rate``. Other frameworks differ in the defaults
    and in epsilon's place; :mod:`adagrad_jax.dialects` has each as it is there.

    Rates differ only once :math:`a_t` has outgrown :math:`a_0`. A mean over a batch
    makes gradients small: of 256 examples, what one of them reads has a gradient below
    1/256, its square below 2e-5, and beside 0.1 Adagrad is SGD with the rate
    :math:`\eta / \sqrt{0.1}`. Then start lower, from 1e-6 say, or from 0 (and lower
    ``learning_rate``). :func:`adagrad_jax.diagnostics.report` tells.

    Args:
      learning_rate: :math:`\eta_t \ge 0`: a number, an array of shape (), or a schedule
        ``count -> learning rate`` with count 0 at the first step.
      initial_accumulator_value: As in :func:`scale_by_adagrad`.
      epsilon: As in :func:`scale_by_adagrad`.
      accumulator: As in :func:`scale_by_adagrad`.
      epsilon_in_sqrt: As in :func:`scale_by_adagrad`.

    Returns:
      An Optax transformation whose updates are to be added to the parameters, with
      :func:`apply_updates`.

    Raises:
      TypeError: As :func:`scale_by_adagrad`, and if ``learning_rate`` is no number.
      ValueError: As :func:`scale_by_adagrad`, and if ``learning_rate`` is a number that
        is negative, NaN or infinite.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp, optax
      >>> loss = lambda w: jnp.sum((w - jnp.array([1.0, -2.0])) ** 2)
      >>> optimizer = aj.adagrad(learning_rate=0.5)
      >>> w = jnp.zeros(2)
      >>> state = optimizer.init(w)
      >>> for _ in range(100):
      ...     updates, state = optimizer.update(jax.grad(loss)(w), state)
      ...     w = aj.apply_updates(w, updates)
      >>> print(w.round(2))
      [ 1. -2.]

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Section 1.2 and Figure 1.
    """
    return chain(
        scale_by_adagrad(
            initial_accumulator_value,
            epsilon,
            accumulator=accumulator,
            epsilon_in_sqrt=epsilon_in_sqrt,
        ),
        scale_by_learning_rate(learning_rate),
    )


def chain(
    *transformations: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """``optax.chain``, which knows its own state."""
    chained = optax.chain(*transformations)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        # Or a chain would take the gradients apart, given in the state's place.
        check_state(state, tuple)
        return chained.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(chained.init, update_fn)


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule,
) -> optax.GradientTransformation:
    """``optax.scale_by_learning_rate``, checked, and keeping each update's dtype."""
    check_learning_rate("learning_rate", learning_rate)
    if callable(learning_rate):
        return optax.scale_by_learning_rate(learning_rate)
    return scale_by(-learning_rate)


def scale_by(factor: Any) -> optax.GradientTransformation:
    """``optax.scale``, but arrays promote no update, and a BCOO is refused."""

    def scale(update: Any) -> Any:
        if isinstance(factor, int | float):
            return factor * update
        return jnp.asarray(factor).astype(update.dtype) * update

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "update")
        return jax.tree.map(scale, updates)

    return optax.stateless(update)
