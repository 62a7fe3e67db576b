"""Optax transformations, and row-sparse training, inside Keras 3 itself.

For models of Keras 3 on its JAX backend: :class:`Optimizer` is a
``keras.optimizers.Optimizer`` around any Optax transformation, :class:`Adagrad` that
around this library's, and :class:`RowSparseTraining` lets ``fit`` train embedding
tables in the rows that a batch reads. It is the only module that imports Keras, which
``pip install adagrad_jax[keras]`` brings, and not imported by ``import adagrad_jax``.
"""

import keras

if keras.backend.backend() != "jax":
    raise ImportError(
        "adagrad_jax.keras3 needs Keras' JAX backend, got "
        f"{keras.backend.backend()!r}; set the environment variable KERAS_BACKEND=jax "
        "before Keras is imported."
    )

# Only now: they are made for this backend.
from adagrad_jax.keras3._optimizer import Adagrad as Adagrad  # noqa: E402
from adagrad_jax.keras3._optimizer import Optimizer as Optimizer  # noqa: E402
from adagrad_jax.keras3._training import (  # noqa: E402
    RowSparseTraining as RowSparseTraining,
)

__all__ = ["Adagrad", "Optimizer", "RowSparseTraining"]
