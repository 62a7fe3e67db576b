"""Optax transformations as optimizers of Keras 3, this library's Adagrad among them."""

# Keras' own types are partly unknown.
# pyright: reportUnknownParameterType=false, reportUntypedBaseClass=false
# pyright: reportIncompatibleMethodOverride=false, reportPrivateUsage=false

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import InOwnPrecision
from adagrad_jax._accumulators.protocol import Accumulator
from adagrad_jax._adagrad import scale_by_adagrad
from adagrad_jax._apply import apply_updates
from adagrad_jax._clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from adagrad_jax._lazy_decay import catch_up_weight_decay, lazy_weight_decay
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._sixteen_bits import chain_with_rate
from adagrad_jax.keras._built import unique_names
from adagrad_jax.keras._slots import Slots, merge, restrict, slot_of
from adagrad_jax.keras3._accumulators import accumulator_config, accumulator_of

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
        by_key = Slots(zip(keys, variables, strict=True))
        transformation = self._box.transformation
        self._box.state = self._variables_for(transformation, by_key)
        # Averages and accumulated gradients are of whole variables, and a constraint is
        # put on whole ones: in them no row may be behind.
        whole = self.use_ema or self.gradient_accumulation_steps
        if self._box.lazily and self.weight_decay and not whole:
            lazy = Slots(
                (key, variable)
                for key, variable in by_key.items()
                if self._use_weight_decay(variable) and variable.constraint is None
            )
            self._box.decay = self._variables_for(lazy_weight_decay(0.0, 0.0), lazy)

    def _variables_for(
        self, transformation: optax.GradientTransformation, by_key: Slots
    ) -> Any:
        """The state of a transformation of these, with a variable for each array."""
        params = Slots((key, variable.value) for key, variable in by_key.items())
        leaves, structure = jax.tree_util.tree_flatten_with_path(
            transformation.init(params)
        )
        return structure.unflatten(
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
        by_key = Slots(zip(keys, grads, strict=True))
        updates, state = self._updates(by_key, _values(cells), params, learning_rate)
        if self._box.in_rows and self._lazily_decayed():
            updates = self._decay_rows(updates, params, learning_rate)
        new: Any = apply_updates(params, updates)
        for key, variable in zip(keys, trainable_variables, strict=True):
            variable.assign(new[key])
        _assign(cells, state)

    def _updates(
        self, grads: Any, state: Any, params: Any, learning_rate: Any
    ) -> tuple[Any, Any]:
        """The transformation's, times the learning rate if it has none of its own."""
        updates, state = self._box.transformation.update(grads, state, params)
        if not self._has_own_rate:
            updates, _ = _by_rate(learning_rate).update(updates, optax.EmptyState())
        return updates, state

    def _decay_rows(self, updates: Any, params: Any, learning_rate: Any) -> Any:
        """The updates, with the decay of the rows that they change in them."""
        keys = [key for key in updates if key in self._box.decay.of_rows]
        cells = restrict(self._box.decay, keys)
        decay = lazy_weight_decay(jnp.asarray(learning_rate), self.weight_decay)
        decayed, state = decay.update(
            restrict(updates, keys), _values(cells), restrict(params, keys)
        )
        _assign(cells, state)
        return merge(updates, decayed)

    def _apply_weight_decay(self, variables: Sequence[keras.Variable]) -> None:
        if self._decays_lazily:
            if self._box.in_rows:
                later = set(map(id, self._lazily_decayed()))
                variables = [v for v in variables if id(v) not in later]
            else:  # a step of the user's own, which knows of no rows
                self._catch_up_decay()
        super()._apply_weight_decay(variables)

    @property
    def _decays_lazily(self) -> bool:
        """Whether weight decay is put off, if only of no variable."""
        return self._box.decay is not None

    def _lazily_decayed(self) -> list[keras.Variable]:
        """The variables whose weight decay is put off until their rows are read."""
        if not self._decays_lazily:
            return []
        keys, lazy = self._box.keys, self._box.decay.of_rows
        return [v for v in self._trainable_variables if keys[id(v)] in lazy]

    def _decay_lazily(self) -> None:
        """Has weight decay put off until rows are read: for who catches up with it.

        :class:`RowSparseTraining` does. Once the optimizer is built, it is too late.
        """
        self._box.lazily = self._box.lazily or not self.built

    @contextlib.contextmanager
    def _step_of_rows(self) -> Generator[None]:
        """A step whose rows :meth:`_catch_up_decay` has been called for."""
        self._box.in_rows = True
        try:
            yield
        finally:
            self._box.in_rows = False

    def _catch_up_decay(self, rows: Sequence[Any] | None = None) -> None:
        """Does to rows what weight decay has put off.

        Args:
          rows: For each of :meth:`_lazily_decayed` the rows that will be read, or a
            slice that has all of them. None for all rows of all variables.
        """
        variables = self._lazily_decayed()
        if not variables:
            return
        by_key = Slots((self._box.keys[id(v)], v) for v in variables)
        params, state = Slots(_values(by_key)), _values(self._box.decay)
        if rows is None:
            params, state = _catch_up_all(params, state)
        else:
            wanted = Slots(zip(by_key, rows, strict=True))
            params, state = catch_up_weight_decay(params, state, wanted)
        _assign(by_key, params)
        _assign(self._box.decay, state)

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
            grads = to_dense(grads)
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
      accumulator: What is remembered of each variable, such as
        :class:`adagrad_jax.RowWise`; None for what Keras does, one number for each, in
        the variable's dtype. A file has it with the model; one of a class of your own
        is found by the class' name among ``custom_objects``.
      **kwargs: As in :class:`Optimizer`.

    Raises:
      TypeError: If an argument is no number, or ``accumulator`` no accumulator.
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
        *,
        accumulator: Accumulator | None = None,
        **kwargs: Any,
    ) -> None:
        transformation = scale_by_adagrad(
            initial_accumulator_value,
            epsilon,
            accumulator=accumulator or InOwnPrecision(),
            epsilon_in_sqrt=True,
        )
        super().__init__(transformation, learning_rate, name, **kwargs)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = epsilon
        self.accumulator = accumulator

    def _updates(
        self, grads: Any, state: Any, params: Any, learning_rate: Any
    ) -> tuple[Any, Any]:
        """In 16 bits Keras multiplies by the rate before it divides."""
        scale = self._box.transformation
        chained = chain_with_rate([], [scale], _by_rate(learning_rate))
        state = (state, optax.EmptyState())
        updates, state = chained.update(grads, state, params)
        return updates, state[0]

    def get_config(self) -> dict[str, Any]:
        """Keras' dictionary.

        Raises:
          TypeError: If the accumulator cannot be written down: one of your own must be
            a dataclass of numbers, strings and dtypes, as this library's are.
        """
        return {
            **super().get_config(),
            "initial_accumulator_value": self.initial_accumulator_value,
            "epsilon": self.epsilon,
            "accumulator": accumulator_config(self.accumulator),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "Adagrad":
        """The optimizer whose ``get_config`` gave ``config``.

        Raises:
          ValueError: If the accumulator is of a class that neither this library, nor
            ``custom_objects``, nor Keras knows.
        """
        accumulator = accumulator_of(config.get("accumulator"), custom_objects)
        config = {**config, "accumulator": accumulator}
        return super().from_config(config, custom_objects)  # pyright: ignore


@dataclasses.dataclass
class _Box:
    """What Keras need not know.

    Attributes:
      transformation: The optimizer's.
      keys: For each model variable, by its id, its key in Slots.
      state: The transformation's, with a Keras variable for each array.
      lazily: Whether weight decay is to be put off.
      decay: The state of ``lazy_weight_decay``, likewise, for the variables whose decay
        is put off; None if there are none.
      in_rows: Whether a step of rows is being made, as against one of whole variables.
    """

    transformation: optax.GradientTransformationExtraArgs
    keys: dict[int, str] = dataclasses.field(default_factory=dict)
    state: Any = None
    lazily: bool = False
    decay: Any = None
    in_rows: bool = False


_catch_up_all = jax.jit(lambda params, state: catch_up_weight_decay(params, state))


def to_dense(gradients: Sequence[Any]) -> list[Any]:
    """The gradients, all of them arrays."""
    return [g.to_dense() if isinstance(g, RowSparse) else g for g in gradients]


def _by_rate(learning_rate: Any) -> optax.GradientTransformation:
    rate = jnp.asarray(learning_rate)

    def scaled(update: Any, param: Any) -> Any:
        del param
        return -rate.astype(update.dtype) * update

    return optax.stateless_with_tree_map(scaled)


def _values(cells: Any) -> Any:
    return jax.tree.map(lambda cell: cell.value, cells)


def _assign(cells: Any, values: Any) -> None:
    jax.tree.map(lambda cell, value: cell.assign(value), cells, values)
