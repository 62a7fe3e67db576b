"""An optimizer as an object: it keeps the state and changes variables in place."""

# The arrays of variables are read and replaced here without marking them as taken.
# pyright: reportPrivateUsage=false

import copy
import dataclasses
import os
import pickle
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._around_update import Keras3Options, chain
from adagrad_jax._decay import decayed_rate
from adagrad_jax.keras import _saving
from adagrad_jax.keras._attributes import ALIASES, is_assignable, unknown
from adagrad_jax.keras._built import Built, base_names
from adagrad_jax.keras._gradients import check_none_missing, gradients_by, listed
from adagrad_jax.keras._hyperparameters import (
    OPTIONS,
    LearningRate,
    as_variable,
    checked_decay,
    checked_number,
    checked_options,
    deserialized,
    given_options,
    is_schedule,
    serialized,
    unique_name,
)
from adagrad_jax.keras._initializers import initial_value
from adagrad_jax.keras._slots import Slots
from adagrad_jax.keras._step import (
    GradsAndVars,
    Step,
    checked_arrays,
    scale_by_rate,
    split_pairs,
)
from adagrad_jax.keras._variable import Variable, arrays_lock, as_cell


@dataclasses.dataclass
class _Kept:
    """What a shallow copy of an optimizer shares with it, as in TensorFlow."""

    hyper: dict[str, Any]
    built: Built = Built()
    iterations: Variable | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Kept":
        built, new = self.built.copied()
        count = self.iterations
        hyper = copy.deepcopy(self.hyper, memo)
        return _Kept(hyper, built, None if count is None else new[id(count)])


class _UndoneIfItFails:
    """Within it slots and counter are made, but not if it raises."""

    __slots__ = ("_before", "_kept")

    def __init__(self, kept: _Kept) -> None:
        self._kept = kept
        self._before = kept.built, kept.iterations

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._kept.built, self._kept.iterations = self._before


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

    All arguments but ``transformation`` and ``name`` are attributes too. What is
    assigned to one takes effect at the next step, and is in :meth:`get_config`;
    assigning to another is an ``AttributeError``.

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
        decay = options.pop("decay", 0.0)
        hyper: dict[str, Any] = {"decay": checked_decay(decay)}
        if learning_rate is not None:
            hyper["learning_rate"] = checked_number("learning_rate", learning_rate)
        self._kept = _Kept(hyper)
        self._options = Keras3Options(**options)
        self._check_rated(decay)
        self._transformation = transformation
        self._name = name or unique_name(type(self))
        self._donate_variables = donate_variables
        self._not_decayed: list[Any] = []
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
        rate = self._rate_given()
        if is_schedule(rate):
            return rate
        if callable(rate):
            return rate()
        return self._number("learning_rate")

    @learning_rate.setter
    def learning_rate(self, value: LearningRate) -> None:
        kept = self._rate_given()
        value = checked_number("learning_rate", value)
        with self._lock:
            if isinstance(kept, Variable) and not callable(value):
                kept.assign(np.asarray(value, kept.dtype))
                return
            if is_schedule(kept) or is_schedule(value):
                self._steps.clear()
            self._hyper["learning_rate"] = value

    lr = learning_rate

    @property
    def decay(self) -> Variable:
        """How fast the learning rate falls; assigning takes effect at the next step."""
        return self._number("decay")

    @decay.setter
    def decay(self, value: ArrayLike) -> None:
        value = np.asarray(checked_decay(value), np.float32)
        self._check_rated(float(value))
        self.decay.assign(value)

    def __getattr__(self, name: str) -> Any:
        """Of the hyperparameters those that have no property of their own."""
        if name in ("lr", "learning_rate"):
            self._rate_given()  # raises
        if name in OPTIONS:
            return getattr(self._options, name)
        if name in ALIASES:
            return getattr(self, ALIASES[name])
        raise unknown(self, name, self._hyperparameters())

    def __setattr__(self, name: str, value: Any) -> None:
        """Hyperparameters take effect at the next step, whichever they are."""
        name = ALIASES.get(name, name)
        if name in OPTIONS:
            self._set_options(**{name: value})
        elif is_assignable(type(self), name):
            object.__setattr__(self, name, value)
        else:
            raise unknown(self, name, self._hyperparameters())

    def __delattr__(self, name: str) -> None:
        """As if it had not been given."""
        if name in OPTIONS:
            self._set_options(**{name: None})
        else:
            object.__delattr__(self, name)

    def _set_options(self, **changed: Any) -> None:
        options = given_options(self._options)
        options = {k: v for k, v in options.items() if k not in changed}
        with self._lock:
            before = self._options
            self._options = Keras3Options(**options, **checked_options(changed))
            try:
                self._check_rated(0)
                self._check_kept()
            except (RuntimeError, ValueError) as error:
                self._options = before
                raise type(error)(f"`{', '.join(changed)}`: {error}") from error
            self._steps.clear()

    def _check_rated(self, decay: Any) -> None:
        """Raises if something that is multiplied by the learning rate would not be."""
        if "learning_rate" not in self._hyper and (decay or self._options.weight_decay):
            raise ValueError(
                "`decay` and `weight_decay` need a `learning_rate`, got None: pass it, "
                "and a transformation without one, such as optax.scale_by_adam()."
            )

    def _check_kept(self) -> None:
        """Raises if steps to come need what was not kept from the start."""
        here = [key for key in self._built.trained if key in self._built.cells]
        if here:
            self._built.part(here, self._chained())

    def _get_hyper(self, name: str, dtype: DTypeLike | None = None) -> Any:
        """TensorFlow's, as subclasses and recipes call it."""
        value = getattr(self, name)
        return (
            value if dtype is None or is_schedule(value) else jnp.asarray(value, dtype)
        )

    def _set_hyper(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def _serialize_hyperparameter(self, name: str) -> Any:
        return self.get_config()[name]

    def _decayed_lr(self, dtype: DTypeLike = jnp.float32) -> jax.Array:
        rate, count = self._rate_given(), self.iterations.value
        rate = rate(count) if is_schedule(rate) else self._rate()
        return decayed_rate(jnp.asarray(rate), self.decay._array, count, dtype)

    def _create_hypers(self, scope: str = "") -> None:
        """Keeps numbers in variables from now on, as reading one or a step does."""
        for name, value in sorted(self._hyper.items()):
            if not callable(value):
                self._hyper[name] = as_variable(f"{scope}{name}", value)

    def _number(self, name: str, *, in_step: bool = False) -> Variable:
        value = self._kept.hyper[name]
        if not isinstance(value, Variable):
            self._create_hypers(f"{self._name}/" if in_step else "")
            value = self._kept.hyper[name]
        return value

    def _rate_given(self) -> Any:
        """The learning rate as it is kept."""
        if "learning_rate" not in self._hyper:
            raise AttributeError(
                f"{self._name} has no learning rate of its own, its transformation may "
                "have: pass `learning_rate` and a transformation without one, such as "
                "optax.scale_by_adam()."
            )
        return self._hyper["learning_rate"]

    def _hyperparameters(self) -> list[str]:
        kind = type(self)
        own = [n for n in ("initial_accumulator_value", "epsilon") if hasattr(kind, n)]
        return ["learning_rate", *own, "decay", *OPTIONS, "donate_variables"]

    @property
    def donate_variables(self) -> bool:
        """Whether arrays become invalid with the next step, whoever has taken them."""
        return self._donate_variables

    @donate_variables.setter
    def donate_variables(self, value: bool) -> None:
        with self._lock:
            self._donate_variables = value
            self._steps.clear()

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
        if self._kept.iterations is not None:
            raise RuntimeError(
                "Cannot set `iterations` to a new Variable after the Optimizer weights "
                "have been created; use `iterations.assign`."
            )
        if not isinstance(variable, Variable):
            raise TypeError(f"`iterations` must be a Variable, got {variable!r}.")
        self._kept.iterations = variable
        self._built = self._built.with_weight(variable)

    def _counter(self, name: str) -> Variable:
        count = self._kept.iterations
        if count is None:
            dtype = jax.dtypes.canonicalize_dtype(np.int64)
            count = Variable(0, trainable=False, name=name, dtype=dtype)
            self._kept.iterations = count
            self._built = self._built.with_weight(count)
        return count

    @property
    def _hyper(self) -> dict[str, Any]:
        return self._kept.hyper

    @property
    def _built(self) -> Built:
        return self._kept.built

    @_built.setter
    def _built(self, built: Built) -> None:
        self._kept.built = built

    # --- Weights ----------------------------------------------------------------------

    @property
    def weights(self) -> list[Variable]:
        """What the optimizer keeps, iterations and slots, in the order made."""
        return [*self._built.weights]

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
        with self._lock, _UndoneIfItFails(self._kept):
            self._counter(f"{self._name}/iter")
            self._built = self._grown(variables, self._chained())

    def add_weight(
        self,
        name: str,
        shape: Sequence[int] | int,
        dtype: DTypeLike | None = None,
        initializer: Any = "zeros",
        trainable: bool | None = None,
        synchronization: Any = None,
        aggregation: Any = None,
    ) -> Variable:
        """A new variable, for whatever use; not among :attr:`weights`.

        Args:
          name: Its name.
          shape: Its shape.
          dtype: Its dtype, by default float32.
          initializer: One of Keras' names, such as "zeros" or "glorot_uniform" (what is
            random comes from ``numpy.random``, whose seed repeats it); a function
            ``(shape, dtype) -> array``; or the value itself.
          trainable: For the user's information.
          synchronization: Without a meaning here.
          aggregation: The same.

        Raises:
          TypeError: If ``initializer`` is none.
          ValueError: If it is an unknown name, or gives another shape.
        """
        del synchronization, aggregation
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        value = initial_value(initializer, shape, dtype or jnp.float32)
        if value.shape != shape:
            raise ValueError(
                f"weight {name} must be of shape {shape}, but its initializer gave "
                f"{value.shape}."
            )
        return Variable(value, trainable is not False, name or "Variable")

    def add_slot(
        self, var: Any, slot_name: str, initializer: Any = "zeros"
    ) -> Variable:
        """A new slot of ``var`` among :attr:`weights`; the old one if there is one.

        One that the transformation needs, as ``"accumulator"``, is used from the first
        step on, and so begins as it is set here.

        Args:
          var: A variable.
          slot_name: The slot's name.
          initializer: As in :meth:`add_weight`.

        Raises:
          TypeError: If ``var`` is no variable, or ``initializer`` is none.
          ValueError: If ``initializer`` is an unknown name.
        """
        if not isinstance(slot_name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"`slot_name` must be a string, got {slot_name!r}.")
        with self._lock:
            self._built, slot = self._built.with_slot(var, slot_name, initializer)
            return slot

    def get_slot(self, var: Any, slot_name: str) -> Variable:
        """What is kept of ``var`` under this name, as ``"accumulator"``.

        Raises:
          KeyError: If the optimizer has no such slot for it.
        """
        return self._built.slot(self._name, var, slot_name)

    def get_slot_names(self) -> list[str]:
        """The names of the slots, of whatever variables, in the order made."""
        return [*self._built.slot_names]

    # --- Steps ------------------------------------------------------------------------

    def minimize(
        self,
        loss: Callable[[], Any],
        var_list: Any,
        grad_loss: Any = None,
        name: str | None = None,
    ) -> jax.Array:
        """One step that makes ``loss()`` smaller.

        Args:
          loss: A function without arguments that gives an array, or a list, tuple or
            dictionary of them, of which it is the gradient of the sum. Its Python runs
            once a step; what is expensive in it should be a function under ``jax.jit``
            that gets the variables' values as arguments.
          var_list: Variables to differentiate by and to change: one, or lists, tuples
            and dictionaries of them, in each other as may be, or a function that
            returns that. A function is called after ``loss`` has been called once
            more, which may make the variables.
          grad_loss: Weights of the loss's elements in that sum: of the loss's shape, or
            (), and dtype; of a list or dictionary of losses the same of them.
          name: Without a meaning here.

        Returns:
          The number of steps so far, an integer of shape ().

        Raises:
          TypeError: If ``loss`` cannot be called, or gives no array; or if this is
            called while a function is traced, as under ``jax.jit``.
          ValueError: If ``var_list`` has something that is no :class:`Variable`,
            ``loss`` reads none of it, or ``grad_loss`` does not fit.
        """
        del name
        # No other optimizer may change the variables between gradient and step.
        with self._lock, arrays_lock:
            pairs = self._compute_gradients(loss, var_list, grad_loss)
            return self.apply_gradients(pairs)

    def get_gradients(self, loss: Callable[[], Any], params: Any) -> list[Any]:
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
            pairs = self._compute_gradients(loss, params)
        check_none_missing(pairs)
        return [gradient for gradient, _ in pairs]

    def _compute_gradients(
        self, loss: Callable[[], Any], var_list: Any, grad_loss: Any = None
    ) -> list[tuple[Any, Variable]]:
        variables = listed(var_list, loss)
        known = self._known_losses
        gradients = gradients_by(variables, loss, grad_loss, self.scale_loss, known)
        return [*zip(self._clip(gradients), variables, strict=True)]

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
        key = tuple(map(id, variables))
        with self._lock, _UndoneIfItFails(self._kept):
            step = self._steps.get(key)
            if step is None:
                scheduled = is_schedule(self._hyper.get("learning_rate"))
                step = self._new_step(variables, scheduled)
            result = step(gradients, self._rate(), self._decay_array())
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
        if learning_rate is not None:
            self._rate_given()  # or raises
        scheduled = learning_rate is None and is_schedule(
            self._hyper.get("learning_rate")
        )
        step = self._new_step(built.originals_with(grads), scheduled)
        rate = self._rate() if learning_rate is None else jnp.asarray(learning_rate)
        values, kept = step.of_arrays(values, kept, grads, rate, self._decay_array())
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
        return {name: serialized(value) for name, value in self._arguments().items()}

    def _arguments(self) -> dict[str, Any]:
        """Those that it could have been made with, as they are now."""
        given = {"name": self._name, **given_options(self._options)}
        if self._donate_variables:
            given["donate_variables"] = True
        # As TensorFlow orders them.
        names = [name for name in ("learning_rate", "decay") if name in self._hyper]
        return {**given, **{name: self._hyper[name] for name in names}}

    def __copy__(self) -> "Optimizer":
        """It shares iterations, slots, learning rate and decay, as in TensorFlow."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, _steps={})
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> "Optimizer":
        """It has weights of its own, and trains the same variables."""
        new = copy.copy(self)
        own = copy.deepcopy(self._kept, memo), threading.RLock(), set[Any]()
        new._kept, new._lock, new._known_losses = own
        new._not_decayed = [*self._not_decayed]
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        """What is pickled knows its variables by their names."""
        kept = dataclasses.replace(self._kept, built=self._built.without_variables())
        arguments = {**self._made_of(), **self._arguments()}
        return _unpickled, (type(self), arguments, kept, self._exempt_names())

    def _made_of(self) -> dict[str, Any]:
        """What is no hyperparameter among the arguments."""
        try:
            pickle.dumps(self._transformation)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise TypeError(
                f"{self._name} cannot be pickled, for its transformation is made of "
                f"functions that cannot ({error}); use save(path), then load with "
                "custom_objects={'transformation': ...}."
            ) from error
        return {"transformation": self._transformation}

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
            built.without_variables()  # or raises
            exempt = self._exempt_names()
            config = _saving.config_of(self.get_config(), self._hyper, exempt)
            config["slots"] = [
                (key, s) for key in built.slots for s in built.slots[key]
            ]
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
        for variable, slot in saved.slots(variables):
            optimizer.add_slot(variable, slot)
        saved.restore(_saving.by_name(optimizer.weights, optimizer._built.slots))
        return optimizer

    # --- Inside -----------------------------------------------------------------------

    def _exempt_names(self) -> list[str]:
        """Regular expressions for the names of what does not decay."""
        return [
            v if isinstance(v, str) else f"^{re.escape(base_names([v])[0])}$"
            for v in self._not_decayed
        ]

    def _chained(self) -> optax.GradientTransformationExtraArgs:
        options = self._options
        if self._clips_when_computing:
            options = dataclasses.replace(
                options, clipnorm=None, clipvalue=None, global_clipnorm=None
            )
        rated = "learning_rate" in self._hyper
        by_rate = scale_by_rate() if rated else optax.identity()
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

    def _clip(self, gradients: list[Any]) -> list[Any]:
        return gradients

    def _rate(self) -> Any:
        """What the compiled step is to know of the learning rate."""
        rate = self._kept.hyper.get("learning_rate")
        if isinstance(rate, Variable):
            return rate._array
        if rate is None or is_schedule(rate):
            return None
        if callable(rate):
            rate = checked_number("learning_rate", rate())
            return rate if isinstance(rate, jax.Array) else np.float32(rate)
        return self._number("learning_rate", in_step=True)._array

    def _decay_array(self) -> jax.Array:
        return self._number("decay", in_step=True)._array

    def _grown(
        self, variables: Sequence[Any], transformation: optax.GradientTransformation
    ) -> Built:
        """What has been made, and with it the slots of ``variables``."""
        options = self._options
        closed = bool(options.gradient_accumulation_steps or options.use_ema)
        return self._built.grown(self._name, variables, transformation, closed=closed)

    def _new_step(self, variables: Sequence[Any], scheduled: bool) -> Step:
        transformation = self._chained()
        counter = self._counter(f"{self._name}/iter")
        built = self._built = self._grown(variables, transformation)
        keys = [built.keys[id(variable)] for variable in variables]
        if self._options.use_ema:
            built.check_none_missing(keys)
        return Step(
            transformation,
            self._hyper["learning_rate"] if scheduled else None,
            keys,
            built,
            counter,
            whole=self._changed_whole(keys),
            donate_variables=self._donate_variables,
        )


def _unpickled(
    kind: type[Optimizer], arguments: dict[str, Any], kept: _Kept, exempt: list[str]
) -> Optimizer:
    optimizer = kind(**arguments)
    optimizer._kept = kept
    optimizer.exclude_from_weight_decay(var_names=exempt)
    return optimizer
