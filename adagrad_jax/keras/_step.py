"""One step of an optimizer object: a compiled pure function, and its arguments."""

# The arrays of variables are read and replaced here without marking them as taken.
# pyright: reportPrivateUsage=false

import functools
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from adagrad_jax._apply import apply_updates
from adagrad_jax._decay import decayed_rate
from adagrad_jax._rows.packed import Packed
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._trees import is_bcoo
from adagrad_jax.keras._built import Built
from adagrad_jax.keras._slots import Slots, merge, restrict, with_counters_of
from adagrad_jax.keras._variable import Cell, Variable, arrays_lock

Schedule = Callable[[jax.Array], ArrayLike]
GradsAndVars = Iterable[Any]  # of pairs (gradient, variable)


class Step:
    """One step of the variables of these keys, compiled at its first call.

    ``whole`` are the keys of those of which it changes all rows, whatever their
    gradients are.
    """

    def __init__(
        self,
        transformation: optax.GradientTransformationExtraArgs,
        schedule: Schedule | None,
        keys: Sequence[str],
        built: Built,
        counter: Variable,
        *,
        whole: Container[str],
        donate_variables: bool,
    ) -> None:
        self.slots, structure = built.part(keys, transformation)
        self.counter = counter
        cells = {key: built.cells[key] for key in keys}
        self._cells = list(cells.values())
        self._donate_variables = donate_variables
        function = _pure(transformation, schedule, keys, cells, structure, whole)
        self._function = function
        # Arrays that were not taken from their variables are nobody's but ours.
        self._compiled = jax.jit(function, donate_argnums=(0, 1))
        self._compiled_keeping_values = jax.jit(function, donate_argnums=1)

    def __call__(
        self, gradients: Sequence[Any], rate: Any, decay: jax.Array
    ) -> jax.Array:
        with arrays_lock:
            slots = self._given_up(self.slots)
            rest = slots, gradients, self.counter._array, rate, decay
            if self._keeps_all_values():
                values = [cell._array for cell in self._cells]
                values, slots, count = self._compiled_keeping_values(values, *rest)
            else:
                values = self._given_up(self._cells)
                values, slots, count = self._compiled(values, *rest)
            if isinstance(count, Tracer):
                raise TypeError(
                    "an optimizer's variables cannot change while a function is "
                    "traced; inside jax.jit and the like use `stateless_apply`."
                )
            for cell, value in zip(self._cells, values, strict=True):
                cell._array = value
            for slot, value in zip(self.slots, slots, strict=True):
                slot._array = value
            self.counter._array = count
        return count

    def of_arrays(
        self,
        values: Sequence[jax.Array],
        weights: Mapping[int, jax.Array],
        gradients: Sequence[Any],
        rate: Any,
        decay: jax.Array,
    ) -> tuple[list[jax.Array], dict[int, jax.Array]]:
        """The same of arrays, in place of what variables hold, which stays as it is.

        Args:
          values: Those of all variables that are trained.
          weights: Those of the optimizer's weights, by the ``id`` of each.
          gradients: One for each of the variables, None for those not in this step.
          rate: As in a step.
          decay: As in a step.
        """
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        given = [packed(gradients[i], values[i]) for i in present]
        new_values, slots, count = self._function(
            [values[i] for i in present],
            [weights[id(slot)] for slot in self.slots],
            [jax.tree.map(jnp.asarray, gradient) for gradient in given],
            weights[id(self.counter)],
            rate,
            decay,
        )
        after = dict(zip(present, new_values, strict=True))
        ids = [id(weight) for weight in [*self.slots, self.counter]]
        return (
            [after.get(i, value) for i, value in enumerate(values)],
            {**weights, **dict(zip(ids, [*slots, count], strict=True))},
        )

    def _keeps_all_values(self) -> bool:
        """Whether all arrays have been taken: new ones cost less than copies then."""
        if self._donate_variables:
            return False
        return all(cell._taken is cell._array for cell in self._cells)

    def _given_up(self, cells: Iterable[Cell]) -> list[jax.Array]:
        """Their arrays, or copies of those that others may hold."""
        if self._donate_variables:
            return [cell._array for cell in cells]
        arrays: list[jax.Array] = []
        for cell in cells:
            array = cell._array
            arrays.append(jnp.copy(array) if cell._taken is array else array)
        return arrays


def _pure(
    transformation: optax.GradientTransformationExtraArgs,
    schedule: Schedule | None,
    keys: Sequence[str],
    cells: Mapping[str, Cell],
    structure: Any,
    whole: Container[str],
) -> Callable[..., tuple[list[jax.Array], list[jax.Array], jax.Array]]:
    """A step as a function of arrays: new values, slots and count of steps."""
    turns = _turns(keys)

    def function(
        values: Sequence[jax.Array],
        slots: Sequence[jax.Array],
        gradients: Sequence[Any],
        count: jax.Array,
        rate: Any,
        decay: jax.Array,
    ) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
        params = Slots(zip(cells, values, strict=True))
        state = before_all = structure.unflatten(slots)
        rate = rate if schedule is None else jnp.asarray(schedule(count))
        rate_in = _rate_in(rate, decay, count)
        for turn in turns:
            updates = Slots(
                (key, _unpacked(gradients[i], params[key], cells[key], key in whole))
                for key, i in turn.items()
            )
            before = restrict(params, turn)
            # Whatever counts steps counts one, in however many turns it is taken.
            now = restrict(with_counters_of(state, before_all), turn)
            updates, part = transformation.update(
                updates, now, before, learning_rate=rate_in
            )
            after: Any = apply_updates(before, updates)
            params.update((key, _constrained(after[key], cells[key])) for key in turn)
            state = merge(state, part)
        slots = jax.tree.leaves(state)
        return list(params.values()), slots, count + jnp.ones((), count.dtype)

    return function


def _turns(keys: Sequence[str]) -> list[dict[str, int]]:
    """From key to place, in as many parts as the most frequent key needs."""
    turns: list[dict[str, int]] = []
    for place, key in enumerate(keys):
        for turn in turns:
            if key not in turn:
                turn[key] = place
                break
        else:
            turns.append({key: place})
    return turns


def scale_by_rate() -> optax.GradientTransformationExtraArgs:
    """Scales by minus the learning rate that ``update`` is given, dtype -> rate."""

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        learning_rate: Callable[[Any], jax.Array],
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del params, extra_args
        return jax.tree.map(lambda u: -learning_rate(u.dtype) * u, updates), state

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    # `learning_rate` is not optional here, as Optax' own type has it.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def _rate_in(
    rate: Any, decay: jax.Array, count: jax.Array
) -> Callable[[Any], jax.Array]:
    """The learning rate in a dtype, computed there as TensorFlow does."""
    return functools.partial(decayed_rate, rate, decay, count)


def _unpacked(gradient: Any, param: jax.Array, cell: Cell, whole: bool) -> Any:
    """The gradient, row-sparse where it may be; raises if it does not fit."""
    if isinstance(gradient, Packed):
        gradient = gradient.unpacked()
    elif is_bcoo(type(gradient)):
        try:
            gradient = RowSparse.from_bcoo(gradient)
        except (TypeError, ValueError) as error:
            raise type(error)(f"gradient of {cell.name}: {error}") from error
    if isinstance(gradient, RowSparse) and cell.constraint is not None:
        raise RuntimeError(
            "Cannot use a constraint function on a sparse variable: the gradient "
            f"of {cell.name} is row-sparse; pass .to_dense() of it."
        )
    for what in ("shape", "dtype"):
        found, wanted = getattr(gradient, what), getattr(param, what)
        if found != wanted:
            raise ValueError(
                f"the gradient of {cell.name} has {what} {found}, its variable has "
                f"{wanted}; they must be the same."
            )
    return (
        gradient.to_dense() if whole and isinstance(gradient, RowSparse) else gradient
    )


def _constrained(value: jax.Array, cell: Cell) -> jax.Array:
    if cell.constraint is None:
        return value
    return jnp.asarray(cell.constraint(value), value.dtype).reshape(value.shape)


def split_pairs(grads_and_vars: GradsAndVars) -> tuple[list[Any], list[Any]]:
    """Gradients that are not None, and their variables."""
    gradients: list[Any] = []
    variables: list[Any] = []
    without: list[Any] = []
    try:
        for pair in grads_and_vars:
            if not isinstance(pair, (tuple, list)):  # faster than |
                raise TypeError(f"{pair!r} is no pair.")
            gradient, variable = pair
            if gradient is None:
                without.append(variable)
            else:
                gradients.append(packed(gradient, variable))
                variables.append(variable)
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`grads_and_vars` must be pairs of a gradient and a variable, as "
            f"zip(gradients, variables) gives them: {error}"
        ) from error
    if without:
        names = [getattr(variable, "name", repr(variable)) for variable in without]
        if not gradients:
            raise ValueError(f"No gradients provided for any variable: {names}.")
        warnings.warn(
            f"Gradients do not exist for variables {names} when minimizing the loss.",
            stacklevel=3,
        )
    return gradients, variables


@functools.cache  # for a step may have a thousand gradients
def _is_array(kind: type) -> bool:
    return issubclass(kind, jax.Array | np.ndarray) or is_bcoo(kind)


def packed(gradient: Any, variable: Any = None) -> Any:
    """As it may enter jax.jit."""
    if _is_array(type(gradient)) or isinstance(gradient, jax.Array):
        return gradient
    if isinstance(gradient, RowSparse):
        return Packed.of(gradient)
    if isinstance(gradient, Variable):
        return gradient.value
    return np.asarray(gradient, getattr(variable, "dtype", None))


def checked_arrays(
    built: Built,
    weights: Sequence[Variable],
    grads: Sequence[Any],
    trainable_variables: Sequence[ArrayLike],
    optimizer_variables: Sequence[ArrayLike],
) -> tuple[list[jax.Array], dict[int, jax.Array]]:
    """The variables' values, and those of the weights by ``id``.

    Raises:
      ValueError: If there are not as many as were built, or of other shapes.
    """
    for name, given, known in (
        ("grads", grads, built.trained),
        ("trainable_variables", trainable_variables, built.trained),
        ("optimizer_variables", optimizer_variables, weights),
    ):
        if len(given) != len(known) or not built.trained:
            raise ValueError(
                f"`{name}` has {len(given)} entries, but the optimizer was built "
                f"for {len(known)}; call `build(variables)` with all variables."
            )
    built.check_all_here()
    arrays = [*map(jnp.asarray, trainable_variables)]
    kept = [*map(jnp.asarray, optimizer_variables)]
    cells = [*(built.cells[key] for key in built.trained), *weights]
    for cell, array in zip(cells, [*arrays, *kept], strict=True):
        if cell._array.shape != array.shape:
            raise ValueError(
                f"{cell.name} is of shape {cell._array.shape}, the array given "
                f"for it of shape {array.shape}."
            )
    return arrays, dict(zip(map(id, weights), kept, strict=True))
