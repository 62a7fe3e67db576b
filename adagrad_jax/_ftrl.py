"""Follow the regularised leader, proximally: what click models are trained with."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._checks import check_hyperparameter, check_hyperparameters
from adagrad_jax._regularized import Numbers, regularized, soft_threshold, two_sums
from adagrad_jax._trees import ArrayTree


class FtrlState(NamedTuple):
    """What :func:`ftrl` remembers from step to step.

    Attributes:
      count: How many steps were taken, int32, of shape ().
      accumulator: A tree like the parameters, the sums of the gradients' squares.
      linear: A tree like the parameters, the linear terms :math:`z`.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)
    accumulator: ArrayTree
    linear: ArrayTree


def ftrl(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    learning_rate_power: ArrayLike = -0.5,
    initial_accumulator_value: ArrayLike = 0.1,
    l1_regularization_strength: ArrayLike = 0.0,
    l2_regularization_strength: ArrayLike = 0.0,
    *,
    l2_shrinkage_regularization_strength: ArrayLike = 0.0,
    beta: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""FTRL-proximal, with the arguments and numbers of ``tf.keras.optimizers.Ftrl``.

    .. math::

        a_t &= a_{t-1} + g_t^2 \\
        z_t &= z_{t-1} + g_t + 2\,\text{l2\_shrinkage}\,\theta_{t-1}
               - \frac{a_t^p - a_{t-1}^p}{\eta_t}\,\theta_{t-1} \\
        \theta_t &= \frac{-\mathrm{sign}(z_t) \max(|z_t| - \text{l1},\, 0)}
                        {(\beta + a_t^p) / \eta_t + 2\,\text{l2}}

    with :math:`p = -\text{learning\_rate\_power}`. Without penalties, from parameters
    and accumulators of 0 and with :math:`p = 1/2` it is :func:`adagrad`; with L1 it is
    the sparsest of the family, for the threshold is for the sum of all gradients, and
    the distances are from the parameters along the way, not from 0.

    The convention for ``l2`` is TensorFlow's, whose penalty is
    :math:`\text{l2} \lVert\theta\rVert^2`: twice that of :func:`proximal_adagrad`, of
    McMahan's :math:`\lambda_2` and of FBGEMM's; halve theirs. **The first step forgets
    most of the parameters' initial values** (the part that
    :math:`a_0` would hold is not in :math:`z_0 = 0`), as TensorFlow's does; FTRL is
    meant for weights that start at 0.

    Of a table with a :class:`RowSparse` gradient only the rows in it are computed anew.

    Args:
      learning_rate: :math:`\eta_t > 0`: a number, an array of shape (), or a schedule
        ``count -> learning rate`` with count 0 at the first step. Where a schedule is 0
        parameters stand still, and gradients are summed up.
      learning_rate_power: :math:`-p \le 0`; 0 is a constant learning rate.
      initial_accumulator_value: :math:`a_0 \ge 0`.
      l1_regularization_strength: Strength of the L1 penalty, at least 0.
      l2_regularization_strength: Strength of the L2 penalty, at least 0.
      l2_shrinkage_regularization_strength: Strength of an L2 penalty that is not in
        closed form but in the gradients that are summed up, at least 0; the
        accumulators do not see it.
      beta: :math:`\beta \ge 0` of the paper, which slows down the first steps.

    Returns:
      An Optax transformation with a :class:`FtrlState`. It needs ``params`` in
      ``update``, and gives updates in their dtype. It should be the last of a chain.

    Raises:
      TypeError: If a hyperparameter is no number, or a leaf is not real floating-point.
      ValueError: If a hyperparameter is out of range; if ``update`` is called without
        ``params``, or with others than the gradients belong to.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.ftrl(1.0, initial_accumulator_value=0.0,
      ...                     l1_regularization_strength=0.5)
      >>> weights = jnp.zeros(2)
      >>> gradient = jnp.array([0.4, -2.0])
      >>> updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
      >>> print(aj.apply_updates(weights, updates))
      [0.   0.75]

    References:
      McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013,
      Algorithm 1; TensorFlow's ``tf.keras.optimizers.Ftrl``.
    """
    if not callable(learning_rate):
        check_hyperparameter("learning_rate", learning_rate, positive=True)
    check_hyperparameters(
        l1_regularization_strength=l1_regularization_strength,
        l2_regularization_strength=l2_regularization_strength,
        l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
        beta=beta,
    )
    _check_power(learning_rate_power)
    root = isinstance(learning_rate_power, float) and learning_rate_power == -0.5
    return regularized(
        _Ftrl(root),
        FtrlState,
        learning_rate,
        initial_accumulator_value,
        lambda rate, count: Numbers(
            rate,
            l1_regularization_strength,
            l2_regularization_strength,
            (learning_rate_power, l2_shrinkage_regularization_strength, beta),
        ),
    )


@dataclasses.dataclass(frozen=True)
class _Ftrl:
    root: bool  # the usual power, which has a function of its own, and an exact one

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        return two_sums(param, initial_accumulator_value)

    def remember(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> Any:
        accumulator, linear = memory
        dtype = linear.dtype
        rate, (power, shrinkage, _) = numbers.learning_rate, numbers.others
        gradient, param = gradient.astype(dtype), param.astype(dtype)
        total = accumulator + gradient * gradient
        growth = self._power(total, power) - self._power(accumulator, power)
        linear += gradient + 2 * jnp.asarray(shrinkage, dtype) * param
        rate = jnp.asarray(rate, dtype)
        standing = rate == 0
        distance = growth / jnp.where(standing, 1, rate) * param
        return total, linear - jnp.where(standing, 0, distance)

    def minimum(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> jax.Array:
        del gradient
        accumulator, linear = memory
        rate, l1, l2 = (jnp.asarray(number, linear.dtype) for number in numbers[:3])
        power, _, beta = numbers.others
        curvature = self._power(accumulator, power) + jnp.asarray(beta, linear.dtype)
        standing = rate == 0
        curvature = curvature / jnp.where(standing, 1, rate) + 2 * l2
        flat = curvature == 0
        step = -soft_threshold(linear, l1) / jnp.where(flat, 1, curvature)
        return jnp.where(standing, param.astype(step.dtype), jnp.where(flat, 0, step))

    def _power(self, accumulator: jax.Array, learning_rate_power: Any) -> jax.Array:
        # The root is kept away from 0, where it has no derivative.
        nothing = accumulator == 0
        positive = jnp.where(nothing, 1, accumulator)
        if self.root:
            return jnp.where(nothing, 0, jnp.sqrt(positive))
        power = -jnp.asarray(learning_rate_power, accumulator.dtype)
        return jnp.where(nothing & (power != 0), 0, positive**power)


def _check_power(power: Any) -> None:
    try:
        check_hyperparameter("learning_rate_power", -power)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`learning_rate_power` must be a finite number <= 0, got {power!r}."
        ) from None
