"""An optimizer as an object: it keeps the state and changes variables in place."""

# The arrays of variables are read and replaced here without marking them as taken.
# pyright: reportPrivateUsage=false

import dataclasses
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._around_update import Keras3Options, chain
from adagrad_jax._checks import check_hyperparameter
from adagrad_jax.keras import _saving
from adagrad_jax.keras._built import Built, base_names, initial_value
from adagrad_jax.keras._gradients import check_none_missing, gradients_by, listed
from adagrad_jax.keras._hyperparameters import (
    LearningRate,
    as_variable,
    checked_number,
    checked_options,
    deserialized,
    is_schedule,
    serialized,
)
from adagrad_jax.keras._slots import Slots
from adagrad_jax.keras._step import (
    GradsAndVars,
    Step,
    checked_arrays,
    scale_by_rate,
    split_pairs,
)
from adagrad_jax.keras._variable import Variable, arrays_lock, as_cell


class Optimizer:
    r"""Any Optax transformation as a Keras optimizer.

    It keeps the transformation's state, makes it for each variable when that gets its
    first gradient, and changes the variables in place:

    .. math::

        \theta \leftarrow \theta - \eta_t \, u_t

    with :math:`u_t` the transformation's update and :math:`\eta_t` the learning rate.
    What Keras 3 adds to every optimizer is here too, in Keras 3's order: unscaling the
    loss, accumulation, clipping, the update, weight decay, averaging. A step is one
    compiled function.

    Args:
      transformation: What makes the updates, such as ``optax.scale_by_adam()``.
      learning_rate: A number or an array of shape (); a :class:`Variable`, or a
        function without arguments, that is read at every step; a schedule, a function
        of the step, from 0. None if the transformation has its own, as
        ``optax.adam(1e-3)`` has, whose updates are added as they are.
      name: Prefix of the weights' names; by default the class name in small letters.
      donate_variables: Arrays that were taken from a variable, and those of other
        libraries' variables, become invalid with the next step, which then need not
        copy them.
      **kwargs: ``decay``: divides the learning rate by ``1 + decay * iterations``.
        ``lr``: old name of ``learning_rate``. And Keras 3's ``weight_decay``,
        ``clipnorm``, ``clipvalue``, ``global_clipnorm``, ``use_ema``, ``ema_momentum``,
        ``ema_overwrite_frequency``, ``loss_scale_factor`` and
        ``gradient_accumulation_steps``, as in :func:`adagrad_jax.dialects.keras3`.

    Raises:
      TypeError: If an argument is unknown or of a wrong type.
      ValueError: If one is out of range.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> w = aj.keras.Variable([1.0, 2.0], name="w")
      >>> opt = aj.keras.Optimizer(optax.trace(decay=0.9), learning_rate=0.1)
      >>> opt.minimize(lambda: jnp.sum(w * w), [w])
      Array(1, dtype=int32)
      >>> w, opt.get_slot_names()
      (<Variable 'w:0' shape=(2,) dtype=float32 value=[0.8 1.6]>, ['trace'])
    """

    # Whether clipping happens where gradients are computed, as in TensorFlow 2.0, and
    # not where they are applied, as in Keras 3.
    _clips_when_computing: ClassVar[bool] = False
    # What puts the transformation and the learning rate together.
    _chain = staticmethod(chain)

    def __init__(
        self,
        transformation: optax.GradientTransformation,
        learning_rate: LearningRate | None = None,
        name: str | None = None,
        *,
        donate_variables: bool = False,
        **kwargs: Any,
    ) -> None:
        options = checked_options(kwargs)
        learning_rate = options.pop("lr", learning_rate)
        self._decay: Any = checked_number("decay", options.pop("decay", 0.0))
        self._learning_rate: Any = None
        if learning_rate is not None:
            self._learning_rate = checked_number("learning_rate", learning_rate)
        self._given_options = options
        self._options = Keras3Options(**options)
        if learning_rate is None and (self._decay or self._options.weight_decay):
            raise ValueError(
                "`decay` and `weight_decay` need a `learning_rate`, got None: pass it, "
                "and a transformation without one, such as optax.scale_by_adam()."
            )
        self._transformation = transformation
        self._name = name or type(self).__name__.lower()
        self._donate_variables = donate_variables
        self._not_decayed: list[Any] = []
        self._iterations: Variable | None = None
        self._built = Built()
        self._steps: dict[tuple[int, ...], Step] = {}
        self._known_losses: set[Any] = set()
        self._lock = threading.RLock()

    # --- Hyperparameters --------------------------------------------------------------

    @property
    def learning_rate(self) -> Any:
        """The learning rate; assigning takes effect at the next step.

        Reading gives a :class:`Variable` where a number is kept, the schedule where one
        is, and the value of a function without arguments.

        Raises:
          AttributeError: If the transformation has its own.
        """
        rate = self._learning_rate
        if rate is None:
            raise AttributeError(
                f"{self._name} has no learning rate of its own, its transformation may "
                "have: pass `learning_rate` and a transformation without one, such as "
                "optax.scale_by_adam()."
            )
        if is_schedule(rate):
            return rate
        if callable(rate):
            return rate()
        self._learning_rate = as_variable("learning_rate", rate)
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        if self._learning_rate is None:
            _ = self.learning_rate  # raises
        value = checked_number("learning_rate", value)
        with self._lock:
            kept = self._learning_rate
            if isinstance(kept, Variable) and not callable(value):
                kept.assign(np.asarray(value, kept.dtype))
                return
            if is_schedule(kept) or is_schedule(value):
                self._steps.clear()
            self._learning_rate = value

    lr = learning_rate

    @property
    def decay(self) -> Variable:
        """How fast the learning rate falls; assigning takes effect at the next step."""
        self._decay = as_variable("decay", self._decay)
        return self._decay

    @decay.setter
    def decay(self, value: ArrayLike) -> None:
        check_hyperparameter("decay", value)
        self.decay.assign(np.asarray(value, np.float32))

    @property
    def name(self) -> str:
        """The prefix of the weights' names."""
        return self._name

    @property
    def iterations(self) -> Any:
        """A :class:`Variable`: the number of steps so far.

        With ``gradient_accumulation_steps`` an array: the number of updates so far.
        """
        steps = self._options.gradient_accumulation_steps
        counter = self._counter("iter")
        return counter if steps is None else counter.value // steps

    @iterations.setter
    def iterations(self, variable: Any) -> None:
        if self._iterations is not None:
            raise RuntimeError(
                "Cannot set `iterations` to a new Variable after the Optimizer weights "
                "have been created; use `iterations.assign`."
            )
        if not isinstance(variable, Variable):
            raise TypeError(f"`iterations` must be a Variable, got {variable!r}.")
        self._iterations = variable

    def _counter(self, name: str) -> Variable:
        if self._iterations is None:
            dtype = jax.dtypes.canonicalize_dtype(np.int64)
            self._iterations = Variable(0, trainable=False, name=name, dtype=dtype)
        return self._iterations

    # --- Weights ----------------------------------------------------------------------

    @property
    def weights(self) -> list[Variable]:
        """What the optimizer keeps, in the order made: iterations, then the slots."""
        counter = [] if self._iterations is None else [self._iterations]
        return [*counter, *self._built.weights]

    def variables(self) -> list[Variable]:
        """The same as :attr:`weights`."""
        return self.weights

    def get_weights(self) -> list[np.ndarray]:
        """The values of :attr:`weights`, as copies."""
        return [weight.numpy() for weight in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets :attr:`weights` to what ``get_weights`` gave, here or in TensorFlow.

        Args:
          weights: One array for each weight. If it is one short, it is taken for a list
            without iterations, which become 0. Values are converted to the dtypes here.

        Raises:
          ValueError: If there are too many or too few, or one is of another shape; then
            nothing has been changed.
        """
        variables = self.weights
        arrays = _saving.checked_list(self._name, variables, weights)
        with self._lock:
            for variable, array in zip(variables, arrays, strict=True):
                variable.assign(array)

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the slots of ``variables``, which else come with their gradients.

        Args:
          variables: Those that will be trained, in the order of their weights.

        Raises:
          TypeError: If one is no variable, or has no floating-point numbers.
        """
        with self._lock:
            self._built = self._grown(variables, self._chained())
            self._counter(f"{self._name}/iter")

    def add_weight(
        self,
        name: str,
        shape: Sequence[int] = (),
        dtype: DTypeLike | None = None,
        initializer: str | Callable[..., ArrayLike] = "zeros",
        trainable: bool | None = None,
        synchronization: Any = None,
        aggregation: Any = None,
    ) -> Variable:
        """A new variable among :attr:`weights`, for whatever use.

        Args:
          name: Its name.
          shape: Its shape.
          dtype: Its dtype, by default float32.
          initializer: "zeros", "ones", or a function ``(shape, dtype) -> array``.
          trainable: For the user's information.
          synchronization: Without a meaning here.
          aggregation: The same.
        """
        del synchronization, aggregation
        value = initial_value(initializer, tuple(shape), dtype or jnp.float32)
        weight = Variable(value, bool(trainable), name)
        self._built = self._built.with_weights([(None, name, weight)])
        return weight

    def add_slot(
        self,
        var: Any,
        slot_name: str,
        initializer: str | Callable[..., ArrayLike] = "zeros",
    ) -> Variable:
        """A new slot of ``var`` among :attr:`weights`; the old one if there is one.

        Args:
          var: A variable.
          slot_name: The slot's name.
          initializer: As in :meth:`add_weight`.
        """
        with self._lock:
            self.build([var])  # so that no slot of its own will have this name
            self._built, slot = self._built.with_slot(
                self._name, var, slot_name, initializer
            )
            return slot

    def get_slot(self, var: Any, slot_name: str) -> Variable:
        """What is kept of ``var`` under this name, as ``"accumulator"``.

        Raises:
          KeyError: If the optimizer has no such slot for it.
        """
        return self._built.slot(self._name, var, slot_name)

    def get_slot_names(self) -> list[str]:
        """The names of the slots that there are, of whatever variable."""
        return sorted({name for slots in self._built.slots.values() for name in slots})

    # --- Steps ------------------------------------------------------------------------

    def minimize(
        self,
        loss: Callable[[], ArrayLike],
        var_list: Any,
        grad_loss: ArrayLike | None = None,
        name: str | None = None,
    ) -> jax.Array:
        """One step that makes ``loss()`` smaller.

        Args:
          loss: A function without arguments, of which it is the gradient of the sum.
            Its Python runs once a step; what is expensive in it should be a function
            under ``jax.jit`` that gets the variables' values as arguments.
          var_list: Variables to differentiate by and to change: one, a list or tuple of
            them, or a function that returns that. A function is called after ``loss``
            has been called once more, which may make the variables.
          grad_loss: Weights of the loss's elements in that sum.
          name: Without a meaning here.

        Returns:
          The number of steps so far, an integer of shape ().

        Raises:
          TypeError: If ``loss`` cannot be called.
          ValueError: If ``var_list`` has something that is no :class:`Variable`, or
            ``loss`` reads none of it.
        """
        del name
        # No other optimizer may change the variables between gradient and step.
        with self._lock, arrays_lock:
            variables = listed(var_list, loss)
            gradients = self._clip(self._gradients(variables, loss, grad_loss))
            return self.apply_gradients(zip(gradients, variables, strict=True))

    def get_gradients(self, loss: Callable[[], ArrayLike], params: Any) -> list[Any]:
        """The gradients of ``loss()``, an array or :class:`RowSparse` for each of them.

        Args:
          loss: As in :meth:`minimize`.
          params: As ``var_list`` in :meth:`minimize`.

        Raises:
          ValueError: If ``loss`` does not read one of them, or is no function.
        """
        if not callable(loss):
            raise ValueError(
                f"`loss` must be a function without arguments, got {loss!r}: an array "
                "has `None` for gradient, for it does not know how it was computed."
            )
        with self._lock:
            params = listed(params, loss)
            gradients = self._clip(self._gradients(params, loss, None))
        check_none_missing(gradients, params)
        return gradients

    def get_updates(
        self, loss: Callable[[], ArrayLike], params: Any
    ) -> list[jax.Array]:
        """:meth:`apply_gradients` with :meth:`get_gradients`; its result in a list."""
        params = listed(params, loss)
        gradients = self.get_gradients(loss, params)
        return [self.apply_gradients(zip(gradients, params, strict=True))]

    def apply_gradients(
        self, grads_and_vars: GradsAndVars, name: str | None = None
    ) -> jax.Array:
        """One step with gradients that are known.

        Args:
          grads_and_vars: Pairs of a gradient and a variable. A gradient is an array of
            the variable's shape and dtype, a list, a :class:`RowSparse`, a BCOO, or
            None: that variable stays as it is. A variable is a :class:`Variable`, a
            ``jax.Ref``, or a variable of ``flax.nnx`` or Keras 3. One that comes twice
            is changed twice, one after the other.
          name: Without a meaning here.

        Returns:
          The number of steps so far, an integer of shape ().

        Raises:
          TypeError: If these are no pairs, or a variable is none.
          ValueError: If all gradients are None, or one does not fit its variable; then
            nothing has been changed.
        """
        del name
        gradients, variables = split_pairs(grads_and_vars)
        with self._lock:
            key = tuple(map(id, variables))
            step = self._steps.get(key)
            built, counter = self._built, self._iterations
            try:
                if step is None:
                    scheduled = is_schedule(self._learning_rate)
                    step = self._new_step(variables, scheduled)
                result = step(gradients, self._rate(), self.decay._array)
            except BaseException:
                self._built, self._iterations = built, counter
                raise
            self._steps[key] = step
            return result

    def stateless_apply(
        self,
        optimizer_variables: Sequence[ArrayLike],
        grads: Sequence[Any],
        trainable_variables: Sequence[ArrayLike],
        learning_rate: ArrayLike | None = None,
    ) -> tuple[list[jax.Array], list[jax.Array]]:
        """One step as a pure function, for ``jax.jit`` and the like.

        Args:
          optimizer_variables: The values of :attr:`weights`.
          grads: A gradient, or None, for each variable that ``build`` was called with.
          trainable_variables: The values of these variables.
          learning_rate: In place of :attr:`learning_rate`, which a compiled function
            would take for a constant unless it is a schedule.

        Returns:
          The new values of the variables, and of :attr:`weights`.

        Raises:
          ValueError: If the optimizer has not been built, or lengths or shapes differ.
        """
        built, weights = self._built, self.weights
        values, kept = checked_arrays(
            built, weights, grads, trainable_variables, optimizer_variables
        )
        if learning_rate is not None and self._learning_rate is None:
            _ = self.learning_rate  # raises
        scheduled = learning_rate is None and is_schedule(self._learning_rate)
        step = self._new_step(built.originals_with(grads), scheduled)
        rate = self._rate() if learning_rate is None else jnp.asarray(learning_rate)
        values, kept = step.of_arrays(values, kept, grads, rate, self.decay._array)
        return values, [kept[id(weight)] for weight in weights]

    def exclude_from_weight_decay(
        self,
        var_list: Sequence[Any] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        """Lets variables keep their size whatever ``weight_decay`` is.

        Args:
          var_list: Variables.
          var_names: Regular expressions: variables in whose names one is found.
        """
        one = isinstance(var_list, Variable)
        variables = [var_list] if one else list(var_list or [])
        names = [var_names] if isinstance(var_names, str) else list(var_names or [])
        with self._lock:
            self._not_decayed += [*variables, *names]
            self._steps.clear()

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """With ``use_ema``, gives each variable its average, when training is over."""
        if self._options.use_ema:
            slots = [self.get_slot(variable, "average") for variable in var_list]
            for variable, slot in zip(var_list, slots, strict=True):
                as_cell(variable, 0)._array = jnp.copy(slot._array)

    def scale_loss(self, loss: ArrayLike) -> ArrayLike:
        """``loss`` times ``loss_scale_factor``; :meth:`minimize` does so itself."""
        factor = self._options.loss_scale_factor
        return loss if factor is None else jnp.asarray(loss) * factor

    # --- Configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The arguments to make another one with, as TensorFlow 2.0 has them.

        A function without arguments is called for the learning rate. Of a schedule
        there are name and arguments. ``transformation`` is not in it.
        """
        config: dict[str, Any] = {"name": self._name}
        config.update({k: serialized(v) for k, v in self._given_options.items()})
        if self._donate_variables:
            config["donate_variables"] = True
        if self._learning_rate is not None:
            config["learning_rate"] = serialized(self._learning_rate)
        config["decay"] = serialized(self._decay)
        return config

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> "Optimizer":
        """The optimizer whose ``get_config`` gave ``config``.

        Args:
          config: A dictionary, TensorFlow's or that of this class.
          custom_objects: Schedule classes by their names, and ``transformation``.

        Raises:
          TypeError: If ``config`` has an unknown argument.
          ValueError: If it names a schedule that is not known.
        """
        config = dict(config)
        custom_objects = dict(custom_objects or {})
        if "transformation" in custom_objects:
            config["transformation"] = custom_objects["transformation"]
        if "lr" in config:
            config["learning_rate"] = config.pop("lr")
        if "learning_rate" in config:
            rate = config["learning_rate"]
            config["learning_rate"] = deserialized(rate, custom_objects)
        return cls(**config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes configuration and weights to one file, which is there whole or not.

        It is a NumPy archive without pickled objects; see :meth:`load`.

        Args:
          path: The file, usually ``.npz``; it is replaced if there is one.

        Raises:
          TypeError: If the configuration has something that JSON cannot hold.
          ValueError: If two variables have one name, so that a file cannot tell them
            apart.
        """
        with self._lock:
            self._counter(f"{self._name}/iter")
            built = self._built
            base_names(built.cells[key] for key in built.trained)  # or raises
            numbers = {"learning_rate": self._learning_rate, "decay": self._decay}
            config = _saving.config_of(self.get_config(), numbers, self._not_decayed)
            weights = _saving.by_name(self.weights, built.slots)
            _saving.write(path, config, built.trained, weights)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        variables: Sequence[Any],
        custom_objects: Mapping[str, Any] | None = None,
    ) -> "Optimizer":
        """The optimizer that was saved, to go on with the same numbers.

        The variables themselves are not in the file; save them as you like.

        Args:
          path: What :meth:`save` wrote.
          variables: The variables to train, by their names those that it trained.
          custom_objects: As in :meth:`from_config`.

        Raises:
          ValueError: If the file is no optimizer's, or variables are missing or of
            other shapes.
        """
        saved = _saving.read(path)
        optimizer = cls.from_config(saved.arguments(), custom_objects)
        optimizer.exclude_from_weight_decay(var_names=saved.config["excluded"])
        optimizer.build(saved.trained(variables))
        saved.restore(_saving.by_name(optimizer.weights, optimizer._built.slots))
        return optimizer

    # --- Inside -----------------------------------------------------------------------

    def _replace_transformation(
        self, transformation: optax.GradientTransformation
    ) -> None:
        """By one whose state is the same."""
        with self._lock:
            self._transformation = transformation
            self._steps.clear()

    def _chained(self) -> optax.GradientTransformationExtraArgs:
        options = self._options
        if self._clips_when_computing:
            options = dataclasses.replace(
                options, clipnorm=None, clipvalue=None, global_clipnorm=None
            )
        by_rate = optax.identity() if self._learning_rate is None else scale_by_rate()
        return options.around(
            self._transformation, by_rate, self._decays, chain=self._chain
        )

    def _decays(self, keys: Iterable[str]) -> Slots:
        """For each variable whether its weights decay."""
        return self._built.decays(keys, self._not_decayed)

    def _changed_whole(self, keys: Sequence[str]) -> set[str]:
        """Those variables of which a step changes rows that have no gradient."""
        if self._options.changes_all_rows:
            return set(keys)
        if self._options.weight_decay is None:
            return set()
        return {key for key, decays in self._decays(keys).items() if decays}

    def _gradients(
        self, variables: Any, loss: Callable[[], ArrayLike], weights: ArrayLike | None
    ) -> list[Any]:
        known = self._known_losses
        return gradients_by(variables, loss, weights, self.scale_loss, known)

    def _clip(self, gradients: list[Any]) -> list[Any]:
        return gradients

    def _rate(self) -> Any:
        """What the compiled step is to know of the learning rate."""
        rate = self._learning_rate
        if rate is None or is_schedule(rate):
            return None
        if callable(rate):
            rate = checked_number("learning_rate", rate())
            return rate if isinstance(rate, jax.Array) else np.float32(rate)
        return self.learning_rate._array

    def _grown(
        self, variables: Sequence[Any], transformation: optax.GradientTransformation
    ) -> Built:
        """What has been made, and with it the slots of ``variables``."""
        options = self._options
        closed = bool(options.gradient_accumulation_steps or options.use_ema)
        return self._built.grown(self._name, variables, transformation, closed=closed)

    def _new_step(self, variables: Sequence[Any], scheduled: bool) -> Step:
        transformation = self._chained()
        built = self._built = self._grown(variables, transformation)
        keys = [built.keys[id(variable)] for variable in variables]
        if self._options.use_ema:
            built.check_none_missing(keys)
        return Step(
            transformation,
            self._learning_rate if scheduled else None,
            keys,
            built,
            self._counter(f"{self._name}/iter"),
            whole=self._changed_whole(keys),
            donate_variables=self._donate_variables,
        )
