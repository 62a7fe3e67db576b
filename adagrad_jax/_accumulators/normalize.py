"""The division by the root, with epsilon in its place."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adagrad_jax._precision import at_least_float32

Normalize = Callable[[jax.Array, jax.Array], jax.Array]
"""``(gradient, sum_of_squares) -> gradient / root``, in the gradient's dtype.

The sum of squares broadcasts to the gradient. It is a pytree too, and so may be an
operand where rows are visited.
"""


class DivideByRoot(NamedTuple):
    """The :data:`Normalize` of Adagrad.

    The root is ``sqrt(sum_of_squares + inside) + outside``, and 0 / 0 is 0. Without a
    ``factor`` all of it is computed in float32 or wider. With one it is done as other
    frameworks do in 16 bits: the root in the dtype of the sum of squares, each
    operation rounded, epsilon too; ``factor * gradient / root`` in that of the factor.

    Attributes:
      inside: Epsilon, if it goes under the root, else 0.
      outside: Epsilon, if it is added to the root, else 0.
      factor: What multiplies the gradient before it is divided, an array of shape ().
    """

    inside: ArrayLike
    outside: ArrayLike
    factor: jax.Array | None = None

    def __call__(self, numerator: jax.Array, sum_of_squares: jax.Array) -> jax.Array:
        """Divides by the root."""
        if jnp.iscomplexobj(numerator):
            parts = [self(x, sum_of_squares) for x in (numerator.real, numerator.imag)]
            return jax.lax.complex(*parts)
        if self.factor is None:
            dtype = at_least_float32(numerator.dtype, sum_of_squares.dtype)
            dividend = numerator.astype(dtype)
            denominator = self._root(sum_of_squares.astype(dtype))
        else:
            dtype = self.factor.dtype
            dividend = self.factor * numerator.astype(dtype)
            denominator = self._root(sum_of_squares).astype(dtype)
        return (dividend / denominator).astype(numerator.dtype)

    def _root(self, sum_of_squares: jax.Array) -> jax.Array:
        """The root, with infinity for 0."""
        dtype = sum_of_squares.dtype
        radicand = sum_of_squares + jnp.asarray(self.inside, dtype)
        nothing = radicand == 0
        # The root is kept away from 0, not only its result replaced there: a derivative
        # through the step would be infinity * 0 = NaN otherwise.
        root = jnp.sqrt(jnp.where(nothing, 1, radicand))
        outside = jnp.asarray(self.outside, dtype)
        epsilon_alone = jnp.where(outside == 0, jnp.inf, outside)
        return jnp.where(nothing, epsilon_alone, root + outside)


def divide(
    gradient: jax.Array, sum_of_squares: jax.Array, normalize: Normalize
) -> jax.Array:
    """``normalize`` as a function of rows, which is the same for any of them."""
    return normalize(gradient, sum_of_squares)
