"""Optax transformations, and row-sparse training, inside Keras 3 itself.

For models of Keras 3 on its JAX backend: :class:`Optimizer` is a
``keras.optimizers.Optimizer`` around any Optax transformation, :class:`Adagrad` that
around this library's, and :class:`RowSparseTraining` lets ``fit`` train embedding
tables in the rows that a batch reads. It is the only module that imports Keras, which
``pip install adagrad_jax[keras]`` brings, and not imported by ``import adagrad_jax``.
"""

# Keras' own types are partly unknown.
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportIncompatibleMethodOverride=false, reportPrivateUsage=false

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._adagrad import scale_by_adagrad
from adagrad_jax._apply import apply_updates
from adagrad_jax._clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from adagrad_jax._rows.gradient import value_and_grad
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax.keras._built import unique_names
from adagrad_jax.keras._slots import Slots, restrict, slot_of

if keras.backend.backend() != "jax":
    raise ImportError(
        "adagrad_jax.keras3 needs Keras' JAX backend, got "
        f"{keras.backend.backend()!r}; set the environment variable KERAS_BACKEND=jax "
        "before Keras is imported."
    )

LearningRate = (
    float | keras.optimizers.schedules.LearningRateSchedule | Callable[[], ArrayLike]
)


@keras.saving.register_keras_serializable(package="adagrad_jax")
class Optimizer(keras.optimizers.Optimizer):
    r"""Any Optax transformation as an optimizer of Keras 3.

    .. math::

        \theta \leftarrow \theta - \eta \, u

    with :math:`u` the transformation's update and :math:`\eta` the learning rate.
    ``compile``, ``fit``, saving, callbacks that set the learning rate, and mixed
    precision work as with Keras' own optimizers, and so do their arguments. Gradients
    may be :class:`adagrad_jax.RowSparse`.

    A file has everything but the transformation itself, which is no data: to load a
    model, pass ``custom_objects={name: transformation}`` with the optimizer's name.

    Args:
      transformation: What makes the updates, such as ``optax.scale_by_lion()``.
      learning_rate: As for any Keras optimizer. None if the transformation has its own,
        as ``optax.lion(1e-4)`` has; callbacks cannot change that.
      name: The optimizer's name.
      **kwargs: ``weight_decay``, ``clipnorm``, ``clipvalue``, ``global_clipnorm``,
        ``use_ema``, ``ema_momentum``, ``ema_overwrite_frequency``,
        ``loss_scale_factor``, ``gradient_accumulation_steps``, as Keras has them.

    Raises:
      ValueError: If Keras does not like an argument.

    Example:
      >>> import keras, numpy as np, optax
      >>> from adagrad_jax import keras3
      >>> model = keras.Sequential([keras.layers.Dense(1)])
      >>> lion = keras3.Optimizer(optax.scale_by_lion(), learning_rate=0.01)
      >>> model.compile(optimizer=lion, loss="mse")
      >>> history = model.fit(np.ones((8, 2)), np.ones((8, 1)), verbose=0)
      >>> int(lion.iterations)
      1
    """

    def __init__(
        self,
        transformation: optax.GradientTransformation,
        learning_rate: LearningRate | None = 0.001,
        name: str = "optax",
        **kwargs: Any,
    ) -> None:
        rate = 1.0 if learning_rate is None else learning_rate
        super().__init__(learning_rate=rate, name=name, **kwargs)
        self._has_own_rate = learning_rate is None
        # In a box, so that Keras does not put its own containers for Optax' states.
        self._box = _Box(optax.with_extra_args_support(transformation))

    @property
    def learning_rate(self) -> Any:
        """As for any Keras optimizer; always 1 if the transformation has its own.

        Raises:
          AttributeError: If it is assigned to although the transformation has its own.
        """
        return super().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if self._has_own_rate:
            raise AttributeError(
                f"the learning rate of {self.name} is its transformation's own and "
                "cannot be set: pass `learning_rate`, and a transformation without one."
            )
        super(Optimizer, type(self)).learning_rate.fset(self, value)  # pyright: ignore

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the optimizer's variables; Keras calls it."""
        if self.built:
            return
        super().build(variables)
        keys = unique_names(variables)
        self._box.keys = dict(zip(map(id, variables), keys, strict=True))
        values = [variable.value for variable in variables]
        params = Slots(zip(keys, values, strict=True))
        leaves, structure = jax.tree_util.tree_flatten_with_path(
            self._box.transformation.init(params)
        )
        by_key = dict(zip(keys, variables, strict=True))
        self._box.state = structure.unflatten(
            [self._variable_like(leaf, *slot_of(path), by_key) for path, leaf in leaves]
        )

    def _variable_like(
        self,
        leaf: jax.Array,
        slot: str,
        key: str | None,
        variables: Mapping[str, keras.Variable],
    ) -> keras.Variable:
        owner = None if key is None else variables[key]

        def initializer(shape: Any, dtype: Any) -> jax.Array:
            return jnp.array(leaf, dtype).reshape(shape)

        same = owner is not None and tuple(owner.shape) == leaf.shape
        return self.add_variable(
            shape=leaf.shape,
            initializer=initializer,  # pyright: ignore[reportArgumentType]
            dtype=leaf.dtype.name,
            layout=getattr(owner, "_layout", None) if same else None,
            name=slot if key is None else f"{key.replace('/', '_')}_{slot}",
        )

    def _backend_update_step(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable],
        learning_rate: Any,
    ) -> None:
        keys = [self._box.keys[id(variable)] for variable in trainable_variables]
        values = [variable.value for variable in trainable_variables]
        cells = restrict(self._box.state, keys)
        params = Slots(zip(keys, values, strict=True))
        updates, state = self._box.transformation.update(
            Slots(zip(keys, grads, strict=True)),
            jax.tree.map(lambda cell: cell.value, cells),
            params,
        )
        if not self._has_own_rate:
            rate = jnp.asarray(learning_rate)
            updates = jax.tree.map(lambda u: -rate.astype(u.dtype) * u, updates)
        new: Any = apply_updates(params, updates)
        for key, variable in zip(keys, trainable_variables, strict=True):
            variable.assign(new[key])
        jax.tree.map(lambda cell, value: cell.assign(value), cells, state)

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        """Keras' clips are for arrays only."""
        if not any(isinstance(gradient, RowSparse) for gradient in grads):
            return super()._clip_gradients(grads)
        for clip, bound in (
            (clip_by_norm, self.clipnorm),
            (clip_by_global_norm, self.global_clipnorm),
            (clip_by_value, self.clipvalue),
        ):
            if bound:
                clipped: Any = clip(bound).update(grads, optax.EmptyState())[0]
                return clipped
        return grads

    def _backend_apply_gradients(
        self, grads: Sequence[Any], trainable_variables: Sequence[keras.Variable]
    ) -> None:
        if self.gradient_accumulation_steps:  # Keras accumulates in arrays
            grads = _to_dense(grads)
        super()._backend_apply_gradients(grads, trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Keras' dictionary; the transformation is to be found by ``name``."""
        own = {"learning_rate": None} if self._has_own_rate else {}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "Optimizer":
        """The optimizer whose ``get_config`` gave ``config``.

        Raises:
          ValueError: If ``custom_objects``, or those that Keras knows, have no
            transformation of this name.
        """
        config = dict(config)
        if cls is Optimizer:
            name = config["name"]
            found = keras.saving.get_registered_object(name, custom_objects)
            if found is None:
                raise ValueError(
                    f"the transformation of optimizer {name!r} is not in the file; "
                    f"pass custom_objects={{{name!r}: transformation}}."
                )
            config["transformation"] = found
        return super().from_config(config, custom_objects=custom_objects)


@keras.saving.register_keras_serializable(package="adagrad_jax")
class Adagrad(Optimizer):
    r"""``keras.optimizers.Adagrad``, for row-sparse gradients too.

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \theta_{t-1} - \eta_t \frac{g_t}{\sqrt{a_t + \epsilon}}

    Its numbers are those of Keras' own; see :func:`adagrad_jax.dialects.keras3`.

    Args:
      learning_rate: As for any Keras optimizer.
      initial_accumulator_value: The accumulators at the start, at least 0.
      epsilon: Added under the root.
      name: The optimizer's name.
      **kwargs: As in :class:`Optimizer`.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is out of range.

    Example:
      >>> import keras
      >>> from adagrad_jax import keras3
      >>> class Model(keras3.RowSparseTraining, keras.Sequential):
      ...     pass
      >>> model = Model([keras.layers.Embedding(1000, 8), keras.layers.Dense(1)])
      >>> model.compile(optimizer=keras3.Adagrad(0.1), loss="mse")
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        name: str = "adagrad",
        **kwargs: Any,
    ) -> None:
        transformation = scale_by_adagrad(
            initial_accumulator_value,
            epsilon,
            accumulator=Diagonal(dtype="parameter"),
            epsilon_in_sqrt=True,
        )
        super().__init__(transformation, learning_rate, name, **kwargs)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon

    def get_config(self) -> dict[str, Any]:
        """Keras' dictionary."""
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
        }


class RowSparseTraining:
    """Mixed into a Keras model, trains its embedding tables row-sparsely.

    ``fit`` then takes gradients with :func:`adagrad_jax.value_and_grad`: a table that
    the model reads by rows only, as ``keras.layers.Embedding`` does, gets a
    :class:`adagrad_jax.RowSparse` gradient, and an :class:`Optimizer` of this module
    changes no other rows. Other optimizers get ordinary arrays. Mind that Keras' weight
    decay and moving average are about whole tables in each step.

    Put it first: ``class Model(RowSparseTraining, keras.Model)``, and use that class
    where you would use ``keras.Model``, for functional models too.

    Example:
      >>> import keras, numpy as np
      >>> from adagrad_jax import keras3
      >>> class Model(keras3.RowSparseTraining, keras.Model):
      ...     pass
      >>> ids = keras.Input((3,), dtype="int32")
      >>> rows = keras.layers.Embedding(1000, 4)(ids)
      >>> model = Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(rows)))
      >>> model.compile(optimizer=keras3.Adagrad(0.1), loss="mse")
      >>> history = model.fit(np.ones((8, 3), "int32"), np.ones((8, 1)), verbose=0)
    """

    def train_step(self, state: Any, data: Any) -> Any:
        """One step of ``fit``; Keras calls it."""
        model: Any = self
        trainable, non_trainable, optimizer_variables, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        differentiate = value_and_grad(model.compute_loss_and_updates, has_aux=True)
        (_, aux), grads = differentiate(
            trainable,
            non_trainable,
            metrics,
            x,
            y,
            sample_weight,
            training=True,
            optimizer_variables=optimizer_variables,
        )
        unscaled_loss, predicted, non_trainable, metrics = aux
        if not isinstance(model.optimizer, Optimizer):
            grads = _to_dense(grads)
        trainable, optimizer_variables = model.optimizer.stateless_apply(
            optimizer_variables, grads, trainable
        )
        logs, metrics = model._update_metrics_variables(
            metrics, unscaled_loss, x, y, predicted, sample_weight
        )
        return logs, (trainable, non_trainable, optimizer_variables, metrics)


@dataclasses.dataclass
class _Box:
    """What Keras need not know.

    Attributes:
      transformation: The optimizer's.
      keys: For each model variable, by its id, its key in Slots.
      state: The transformation's, with a Keras variable for each array.
    """

    transformation: optax.GradientTransformationExtraArgs
    keys: dict[int, str] = dataclasses.field(default_factory=dict)
    state: Any = None


def _to_dense(gradients: Sequence[Any]) -> list[Any]:
    return [g.to_dense() if isinstance(g, RowSparse) else g for g in gradients]
