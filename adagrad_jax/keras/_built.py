"""What an optimizer object has made for the variables that it has met."""

# The arrays of variables are read here without marking them as taken.
# pyright: reportPrivateUsage=false

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax.keras._slots import Slots, merge, restrict, slot_of
from adagrad_jax.keras._variable import Cell, Variable, as_cell


@dataclasses.dataclass(frozen=True)
class Built:
    """What has been made for the variables met so far.

    Attributes:
      state: The transformation's, with a Slots for each tree of parameters, and in
        place of each array its index in ``arrays``.
      arrays: What holds these arrays. (Variables are trees to JAX, so not ``state``.)
      weights: Those of them, and of what users have added, as they were made.
      trained: The keys of the variables that ``state`` has slots for, in order.
      keys: The key of each variable in Slots, its name if that is its alone, by its id.
      cells: The variables by key.
      originals: The same as they were given; alive, so that no other gets their ids.
      slots: By the variable's key and the slot's name.
    """

    state: Any = None
    arrays: tuple[Variable, ...] = ()
    weights: tuple[Variable, ...] = ()
    trained: tuple[str, ...] = ()
    keys: Mapping[int, str] = dataclasses.field(default_factory=dict)
    cells: Mapping[str, Cell] = dataclasses.field(default_factory=dict)
    originals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slots: Mapping[str, Mapping[str, Variable]] = dataclasses.field(
        default_factory=dict
    )

    def knowing(self, variables: Sequence[Any]) -> tuple["Built", list[str]]:
        """The same with keys for ``variables``, and these keys."""
        new = {id(v): (i, v) for i, v in enumerate(variables) if id(v) not in self.keys}
        cells = [as_cell(variable, i) for i, variable in new.values()]
        names = unique_names([*self.cells.values(), *cells])[len(self.cells) :]
        keys = {**self.keys, **dict(zip(new, names, strict=True))}
        originals = [variable for _, variable in new.values()]
        built = dataclasses.replace(
            self,
            keys=keys,
            cells={**self.cells, **dict(zip(names, cells, strict=True))},
            originals={**self.originals, **dict(zip(names, originals, strict=True))},
        )
        return built, [keys[id(variable)] for variable in variables]

    def grown(
        self,
        optimizer: str,
        variables: Sequence[Any],
        transformation: optax.GradientTransformation,
        *,
        closed: bool,
    ) -> "Built":
        """The same with slots for ``variables``.

        Args:
          optimizer: Its name, which the weights' names begin with.
          variables: Those to be trained, whether they have slots or not.
          transformation: Whose state it is.
          closed: Whether all variables must come at once, whatever the transformation.
        """
        built, keys = self.knowing(variables)
        new = [key for key in dict.fromkeys(keys) if key not in built.trained]
        if not new:
            return built
        if closed and built.trained:
            raise ValueError(
                f"{', '.join(new)} came after the first step, but what is accumulated "
                "or averaged must be so from the start; `build` with all variables."
            )
        part = transformation.init(Slots((k, _trainable(built.cells[k])) for k in new))
        leaves, structure = jax.tree_util.tree_flatten_with_path(part)
        made = [built._made(optimizer, *slot_of(p), leaf, new) for p, leaf in leaves]
        known = len(built.arrays)
        part = structure.unflatten(range(known, known + len(made)))
        grown = built.with_weights(
            weight for weight in made if weight[0] is not None or built.state is None
        )
        return dataclasses.replace(
            grown,
            state=part if built.state is None else merge(part, built.state),
            arrays=(*built.arrays, *(variable for _, _, variable in made)),
            trained=(*built.trained, *new),
        )

    def _made(
        self, optimizer: str, slot: str, key: str | None, leaf: Any, new: Sequence[str]
    ) -> tuple[str | None, str, Variable]:
        """Whose it is, the slot's name, and what holds this leaf of a new state."""
        # The transformation may hold it, or have taken it from the parameters.
        array = jnp.copy(leaf)
        if key is not None:
            name = full_name(optimizer, self.cells[key], slot)
            return key, slot, Variable.holding(array, name)
        if self.state is not None and array.ndim:
            raise ValueError(
                f"{', '.join(new)} came after the first step, but the "
                f"transformation keeps {slot}, of shape {array.shape}, for all "
                "variables together; call `build` with all of them."
            )
        return None, slot, Variable.holding(array, f"{optimizer}/{slot}")

    def with_weights(self, new: Iterable[tuple[str | None, str, Variable]]) -> "Built":
        """The same with more weights: whose each is, the slot's name, and itself."""
        slots = {key: dict(known) for key, known in self.slots.items()}
        weights = list(self.weights)
        for key, name, weight in new:
            weights.append(weight)
            if key is not None:
                known = slots.setdefault(key, {})
                known[_unused(name, known)] = weight
        return dataclasses.replace(self, weights=tuple(weights), slots=slots)

    def with_slot(
        self,
        optimizer: str,
        variable: Any,
        name: str,
        initializer: str | Callable[..., ArrayLike],
    ) -> tuple["Built", Variable]:
        """The same with this slot of ``variable``, and the slot, new or not."""
        built, (key,) = self.knowing([variable])
        if name not in built.slots.get(key, {}):
            cell = built.cells[key]
            value = initial_value(initializer, cell._array.shape, cell._array.dtype)
            slot_name = full_name(optimizer, cell, name)
            slot = Variable(value, trainable=False, name=slot_name)
            built = built.with_weights([(key, name, slot)])
        return built, built.slots[key][name]

    def slot(self, optimizer: str, variable: Any, name: str) -> Variable:
        """What is kept of ``variable`` under this name; raises KeyError if nothing."""
        slots = self.slots.get(self.keys.get(id(variable), ""), {})
        if name not in slots:
            of = getattr(variable, "name", repr(variable))
            known = ", ".join(slots) or "none: it has had no gradient here"
            raise KeyError(f"{optimizer} has no slot {name!r} of {of}; it has {known}.")
        return slots[name]

    def originals_with(self, gradients: Sequence[Any]) -> list[Any]:
        """Those trained variables, as they were given, that have a gradient."""
        pairs = zip(self.trained, gradients, strict=True)
        chosen = [
            self.originals[key] for key, gradient in pairs if gradient is not None
        ]
        if not chosen:
            raise ValueError(
                f"No gradients provided for any variable: {[*self.trained]}."
            )
        return chosen

    def check_none_missing(self, keys: Sequence[str]) -> None:
        """Raises ValueError unless these are all that are trained."""
        without = [key for key in self.trained if key not in keys]
        if without:
            raise ValueError(
                f"{', '.join(without)} must have a gradient, if only zeros: with "
                "`use_ema` every step averages all variables."
            )

    def part(self, keys: Iterable[str]) -> tuple[list[Variable], Any]:
        """What holds the state of these variables, and that state's structure."""
        places, structure = jax.tree.flatten(restrict(self.state, dict.fromkeys(keys)))
        return [self.arrays[place] for place in places], structure

    def decays(self, keys: Iterable[str], not_decayed: Sequence[Any]) -> Slots:
        """For each variable whether its weights decay.

        Args:
          keys: The variables' keys.
          not_decayed: Variables, and regular expressions for keys.
        """
        ids = {id(variable) for variable in not_decayed}
        names = [name for name in not_decayed if isinstance(name, str)]
        exempt = {key for i, key in self.keys.items() if i in ids}
        return Slots(
            (key, key not in exempt and not any(re.search(n, key) for n in names))
            for key in keys
        )


def _trainable(cell: Cell) -> jax.Array:
    array = cell._array
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(
            f"variable {cell.name} must have floating-point numbers to be trained, "
            f"got dtype {array.dtype}."
        )
    return array


def initial_value(
    initializer: str | Callable[..., ArrayLike], shape: tuple[int, ...], dtype: Any
) -> ArrayLike:
    known = {"zeros": jnp.zeros, "ones": jnp.ones}
    function = known.get(initializer) if isinstance(initializer, str) else initializer
    if function is None:
        raise ValueError(
            f"Unknown initializer: {initializer}; known: {', '.join(known)}."
        )
    return function(shape, dtype)


def full_name(optimizer: str, cell: Cell, slot: str) -> str:
    return f"{optimizer}/{cell.name.removesuffix(':0')}/{slot}"


def unique_names(variables: Sequence[Any]) -> list[str]:
    """The variables' names, numbered where they are the same."""
    names: dict[str, None] = {}
    for i, variable in enumerate(variables):
        name = as_cell(variable, i).name.removesuffix(":0")
        names[_unused(name, names)] = None
    return list(names)


def base_names(variables: Iterable[Any]) -> list[str]:
    """The variables' names; raises ValueError if two are the same."""
    names = [as_cell(v, i).name.removesuffix(":0") for i, v in enumerate(variables)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two variables have the name {name!r}, and so cannot be told apart in "
                "a file; give each its own, as in Variable(value, name=...)."
            )
    return names


def _unused(name: str, known: Iterable[str]) -> str:
    known, number = set(known), 0
    candidate = name
    while candidate in known:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
