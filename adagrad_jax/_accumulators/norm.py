"""One accumulator per leaf."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import InDType
from adagrad_jax._accumulators.normalize import Normalize, divide
from adagrad_jax._precision import at_least_float32
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import grouped, map_rows, sum_of_squares


@dataclasses.dataclass(frozen=True)
class Norm(InDType):
    r"""One accumulator for a whole parameter: AdaGrad-Norm.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t = a_{t-1} + \lVert g_t \rVert_2^2

    with the norm over all numbers of the parameter, so that they all have one learning
    rate: stochastic gradient descent whose rate need not be tuned.

    Args:
      dtype: As in :class:`Diagonal`.

    Raises:
      TypeError: If ``dtype`` is none of those.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.Norm())
      >>> gradient = jnp.array([3.0, 4.0])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(state.accumulator, update)
      25.0 [0.6 0.8]

    References:
      Ward, Wu and Bottou, "AdaGrad Stepsizes: Sharp Convergence Over Nonconvex
      Landscapes", ICML 2019, Algorithm 1 (:math:`b_t^2` there is :math:`a_t`).
    """

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """One number."""
        return jnp.full((), initial_accumulator_value, self._dtype_of(param))

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the gradient's squared norm, then divides it by the root of the sum."""
        accumulator = self._remember(gradient, accumulator)
        return normalize(gradient, accumulator), accumulator

    def update_rows(
        self, gradient: RowSparse, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[RowSparse, jax.Array]:
        """The same; rows that are not in the gradient add nothing to its norm."""
        gradient = grouped(gradient)
        accumulator = self._remember(gradient, accumulator)
        return map_rows(gradient, divide, accumulator, normalize), accumulator

    def _remember(
        self, gradient: jax.Array | RowSparse, accumulator: jax.Array
    ) -> jax.Array:
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        total = accumulator.astype(dtype) + sum_of_squares(gradient, dtype)
        return total.astype(accumulator.dtype)
