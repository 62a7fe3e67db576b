"""``tf.keras.optimizers.Adagrad`` on JAX arrays."""

import functools
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
from adagrad_jax.keras._hyperparameters import LearningRate
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
      epsilon: Added to the root. None and 0 mean 1e-7, as in TensorFlow.
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
        self._scaling: dict[str, Any] = {
            "initial_accumulator_value": _checked_start(initial_accumulator_value),
            "epsilon": _or_default(epsilon),
        }
        super().__init__(_scale(**self._scaling), learning_rate, name, **kwargs)

    @property
    def initial_accumulator_value(self) -> ArrayLike:
        """Where accumulators start; it may be assigned to before the first step."""
        return self._scaling["initial_accumulator_value"]

    @initial_accumulator_value.setter
    def initial_accumulator_value(self, value: ArrayLike) -> None:
        if self._built.trained:
            raise RuntimeError(
                f"accumulators of {', '.join(self._built.trained)} have started from "
                f"{self.initial_accumulator_value}, so that it cannot become {value}; "
                "assign to get_slot(variable, 'accumulator')."
            )
        self._set_scaling("initial_accumulator_value", _checked_start(value))

    @property
    def epsilon(self) -> ArrayLike:
        """What is added to the root; assigning takes effect at the next step."""
        return self._scaling["epsilon"]

    @epsilon.setter
    def epsilon(self, value: ArrayLike | None) -> None:
        self._set_scaling("epsilon", _or_default(value))

    def _set_scaling(self, name: str, value: Any) -> None:
        with self._lock:
            scaling = {**self._scaling, name: value}
            self._transformation = _scale(**scaling)  # or raises
            self._scaling = scaling
            self._steps.clear()

    def get_config(self) -> dict[str, Any]:
        """TensorFlow 2.0's dictionary; Keras 3's arguments are in it if given.

        Example:
          >>> import adagrad_jax as aj
          >>> aj.keras.Adagrad(0.5, clipnorm=1.0).get_config()
          {'name': 'Adagrad', 'clipnorm': 1.0, 'learning_rate': 0.5, 'decay': 0.0,
           'initial_accumulator_value': 0.1, 'epsilon': 1e-07}
        """
        return super().get_config()

    def _made_of(self) -> dict[str, Any]:
        return {}

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), **self._scaling}

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

    def _clip(self, gradients: list[Any]) -> list[Any]:
        # Gradients are clipped as they come, of a loss that has been scaled.
        factor = self._options.loss_scale_factor or 1.0
        bounds = {name: getattr(self._options, name) for name in _CLIPS}
        bounds = {n: bound * factor for n, bound in bounds.items() if bound is not None}
        if not bounds:
            return gradients
        return map_entries(functools.partial(_clipped, bounds), gradients)


_CLIPS = {
    "clipnorm": clip_by_norm,
    "clipvalue": clip_by_value,
    "global_clipnorm": clip_by_global_norm,
}


@jax.jit
def _clipped(bounds: dict[str, Any], entries: Any) -> Any:
    # Their names in the order of clipping, for JAX has sorted them.
    clips = [_CLIPS[name](bounds[name]) for name in _CLIPS if name in bounds]
    return optax.chain(*clips).update(entries, (optax.EmptyState(),) * len(clips))[0]


def _scale(
    initial_accumulator_value: ArrayLike, epsilon: ArrayLike
) -> optax.GradientTransformation:
    return scale_by_adagrad(
        initial_accumulator_value, epsilon, accumulator=InOwnPrecision()
    )


def _checked_start(value: Any) -> Any:
    if isinstance(value, int | float) and not value >= 0:
        raise ValueError(f"initial_accumulator_value must be non-negative: {value}")
    return value


def _or_default(epsilon: ArrayLike | None) -> ArrayLike:
    return epsilon if is_set(epsilon) else 1e-7
