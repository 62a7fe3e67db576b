"""``tf.keras.optimizers.Adagrad`` on JAX arrays."""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import InOwnPrecision
from adagrad_jax._adagrad import scale_by_adagrad
from adagrad_jax._around_update import is_set
from adagrad_jax._clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from adagrad_jax._rows.visit import map_entries
from adagrad_jax._sixteen_bits import chain_with_rate
from adagrad_jax.keras._hyperparameters import LearningRate, serialized
from adagrad_jax.keras._optimizer import Optimizer


class Adagrad(Optimizer):
    r"""``tf.keras.optimizers.Adagrad`` of TensorFlow 2.0.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1}
            - \eta_t \frac{g_t}{\sqrt{a_t} + \epsilon}

    Its arguments, methods, weights and numbers are TensorFlow's. In addition there are
    Keras 3's arguments, as in the base class :class:`Optimizer`, and of a table that
    the loss of :meth:`minimize` reads by rows only these rows are changed. As in
    TensorFlow, ``learning_rate`` and ``decay`` are kept in float32 unless they are
    arrays, accumulators have the dtypes of their variables (also float16, where squares
    overflow at 256), and **gradients are clipped in** :meth:`minimize` **and**
    :meth:`get_gradients`, **not in** :meth:`apply_gradients`; the norm of a row-sparse
    one is that of its rows as they come, before repeated ones are summed.

    Args:
      learning_rate: :math:`\eta_t`, as in :class:`Optimizer`.
      initial_accumulator_value: The accumulators at the start, at least 0.
      epsilon: Added to the root. None and 0 mean 1e-7, as in TensorFlow. It may be
        assigned to.
      name: Prefix of the weights' names.
      **kwargs: ``clipnorm``, ``clipvalue``, ``decay``, ``lr``, those of Keras 3, and
        ``donate_variables``, as in :class:`Optimizer`.

    Raises:
      TypeError: If an argument is unknown, or no number.
      ValueError: If one is out of range.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> w = aj.keras.Variable([3.0, -1.0], name="w")
      >>> target = jnp.array([1.0, 2.0])
      >>> opt = aj.keras.Adagrad(learning_rate=0.5)
      >>> for _ in range(100):
      ...     step = opt.minimize(lambda: jnp.sum((w - target) ** 2), [w])
      >>> print(step, w.numpy().round(2))
      100 [1. 2.]
      >>> [weight.name for weight in opt.weights]
      ['Adagrad/iter:0', 'Adagrad/w/accumulator:0']

    References:
      TensorFlow r2.0, ``tf.keras.optimizers.Adagrad``. Duchi, Hazan and Singer, JMLR 12
      (2011), Section 1.2 and Figure 1.
    """

    _clips_when_computing: ClassVar[bool] = True
    _chain = staticmethod(chain_with_rate)

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: ArrayLike = 0.1,
        epsilon: ArrayLike | None = 1e-7,
        name: str | None = "Adagrad",
        **kwargs: Any,
    ) -> None:
        if learning_rate is None:
            raise TypeError("`learning_rate` must be given, got None.")
        number = isinstance(initial_accumulator_value, int | float)
        if number and not initial_accumulator_value >= 0:
            raise ValueError(
                "initial_accumulator_value must be non-negative: "
                f"{initial_accumulator_value}"
            )
        self._initial_accumulator_value = initial_accumulator_value
        self._epsilon = _or_default(epsilon)
        scale = self._scale(self._epsilon)
        super().__init__(scale, learning_rate, name, **kwargs)
        clips = {
            clip_by_norm: self._options.clipnorm,
            clip_by_value: self._options.clipvalue,
            clip_by_global_norm: self._options.global_clipnorm,
        }
        # Gradients are clipped as they come, of a loss that has been scaled.
        factor = self._options.loss_scale_factor or 1.0
        self._clips = [c(b * factor) for c, b in clips.items() if b is not None]
        self._clip_entries = jax.jit(
            lambda entries: optax.chain(*self._clips).update(
                entries, (optax.EmptyState(),) * len(self._clips)
            )[0]
        )

    @property
    def epsilon(self) -> ArrayLike:
        """What is added to the root; assigning takes effect at the next step."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: ArrayLike | None) -> None:
        value = _or_default(value)
        self._replace_transformation(self._scale(value))
        self._epsilon = value

    def get_config(self) -> dict[str, Any]:
        """TensorFlow 2.0's dictionary; Keras 3's arguments are in it if given.

        Example:
          >>> import adagrad_jax as aj
          >>> aj.keras.Adagrad(0.5, clipnorm=1.0).get_config()
          {'name': 'Adagrad', 'clipnorm': 1.0, 'learning_rate': 0.5, 'decay': 0.0,
           'initial_accumulator_value': 0.1, 'epsilon': 1e-07}
        """
        return {
            **super().get_config(),
            "initial_accumulator_value": serialized(self._initial_accumulator_value),
            "epsilon": serialized(self._epsilon),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "Adagrad":
        """As :meth:`Optimizer.from_config`, with TensorFlow's rules for old configs.

        ``lr`` becomes ``learning_rate``; without an ``initial_accumulator_value`` that
        is 0, not 0.1.
        """
        config = {"initial_accumulator_value": 0.0, **config}
        return super().from_config(config, custom_objects)  # pyright: ignore

    def _scale(self, epsilon: ArrayLike) -> optax.GradientTransformation:
        return scale_by_adagrad(
            self._initial_accumulator_value,
            epsilon,
            accumulator=InOwnPrecision(),
        )

    def _clip(self, gradients: list[Any]) -> list[Any]:
        if not self._clips:
            return gradients
        return map_entries(self._clip_entries, gradients)


def _or_default(epsilon: ArrayLike | None) -> ArrayLike:
    return epsilon if is_set(epsilon) else 1e-7
