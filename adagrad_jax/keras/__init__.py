"""Optimizers as objects that keep their state and change variables in place.

:class:`Adagrad` is ``tf.keras.optimizers.Adagrad`` of TensorFlow 2.0 on JAX arrays,
:class:`Optimizer` does the same for any other Optax transformation. Both are thin: a
step is the pure transformation, compiled. :mod:`adagrad_jax.keras3` is for models of
Keras 3 itself.
"""

from adagrad_jax.keras import schedules as schedules
from adagrad_jax.keras._adagrad import Adagrad as Adagrad
from adagrad_jax.keras._optimizer import Optimizer as Optimizer
from adagrad_jax.keras._variable import Variable as Variable

__all__ = ["Adagrad", "Optimizer", "Variable", "schedules"]
