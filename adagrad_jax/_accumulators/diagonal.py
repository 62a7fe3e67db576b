"""One accumulator per parameter."""

import dataclasses

import jax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import AccumulatorDType, InDType, full_like
from adagrad_jax._accumulators.normalize import Normalize
from adagrad_jax._accumulators.protocol import RowAccumulator
from adagrad_jax._precision import at_least_float32, is_narrow, squared_magnitude


@dataclasses.dataclass(frozen=True)
class Diagonal(InDType, RowAccumulator):
    r"""One accumulator per parameter: the diagonal form of Adagrad, and the usual one.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad a_t = a_{t-1} + |g_t|^2

    elementwise, so that each coordinate has a learning rate of its own, which falls the
    more the larger its gradients have been.

    Args:
      dtype: What to keep the accumulators in. ``None`` keeps float32 for parameters of
        less precision (and complex64), else the parameter's own (real) precision: a
        float16 square overflows at 256, a bfloat16 sum soon stops growing.
        ``"parameter"`` keeps the parameter's own precision even so, as other frameworks
        do; a floating-point dtype is taken as it is.

    Raises:
      TypeError: If ``dtype`` is none of these.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> weights = jnp.ones((2, 3), jnp.bfloat16)
      >>> aj.scale_by_adagrad().init(weights).accumulator.dtype
      dtype('float32')
      >>> half = aj.Diagonal(dtype=jnp.bfloat16)  # half the memory, less exact
      >>> aj.scale_by_adagrad(accumulator=half).init(weights).accumulator.dtype
      dtype(bfloat16)

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Figure 1 with ``diag(G_t)``.
    """

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array like ``param``, sharded like it, full of the initial value."""
        return full_like(param, initial_accumulator_value, self._dtype_of(param))

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the gradient's squares, then divides it by their root."""
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        total = accumulator.astype(dtype) + squared_magnitude(gradient, dtype)
        # What divides is what is kept, rounded as it is kept.
        accumulator = total.astype(accumulator.dtype)
        return self.precondition(gradient, accumulator, normalize), accumulator

    def precondition(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> jax.Array:
        """Divides the gradient by the root of what is remembered."""
        return normalize(gradient, accumulator)


@dataclasses.dataclass(frozen=True)
class InOwnPrecision(Diagonal):
    """A :class:`Diagonal` that also squares and adds as it keeps.

    TensorFlow, Keras and Optax round a 16-bit gradient's square before they add it.
    """

    dtype: AccumulatorDType = "parameter"

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """As :class:`Diagonal`'s; with more than 16 bits it is just that."""
        if not (is_narrow(gradient.dtype) and gradient.dtype == accumulator.dtype):
            return super().update(gradient, accumulator, normalize)
        accumulator = accumulator + gradient * gradient
        return self.precondition(gradient, accumulator, normalize), accumulator
