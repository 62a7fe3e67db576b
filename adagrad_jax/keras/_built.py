"""What an optimizer object has made for the variables that it has met."""

# The arrays of variables are read here without marking them as taken.
# pyright: reportPrivateUsage=false

import copy
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adagrad_jax.keras._initializers import initial_value
from adagrad_jax.keras._slots import Slots, slot_of
from adagrad_jax.keras._variable import Cell, Variable, as_cell


@dataclasses.dataclass(frozen=True)
class Built:
    """What has been made for the variables met so far.

    Of the transformation's state the arrays are kept, by whose they are and the name of
    the slot. Its structure is the transformation's to say, which may be replaced.

    Attributes:
      weights: All that was made, in this order.
      slots: By the variable's key and the slot's name, the users' own among them.
      shared: What the transformation keeps for all variables together, by name.
      slot_names: In the order in which they first came.
      trained: The keys of the variables that have the transformation's slots, in order.
      keys: The key of each variable, its name if that is its alone, by its id.
      cells: The variables by key. One that was pickled has none, until a variable
        of that name comes.
      originals: The same as they were given; alive, so that no other gets their ids.
    """

    weights: tuple[Variable, ...] = ()
    slots: Mapping[str, Mapping[str, Variable]] = dataclasses.field(
        default_factory=dict
    )
    shared: Mapping[str, Variable] = dataclasses.field(default_factory=dict)
    slot_names: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    keys: Mapping[int, str] = dataclasses.field(default_factory=dict)
    cells: Mapping[str, Cell] = dataclasses.field(default_factory=dict)
    originals: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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
        state = transformation.init(built._params(new))
        for (key, slot), leaf in _placed(state)[0].items():
            if key is None and built.trained:
                _check_can_grow(slot, leaf, new)
            if built._at(key, slot) is None:
                owner = (
                    optimizer if key is None else _owner(optimizer, built.cells[key])
                )
                # The transformation may hold it, or have it from the parameters.
                weight = Variable.holding(jnp.copy(leaf), f"{owner}/{slot}")
                built = built.with_weight(weight, key, slot)
        return dataclasses.replace(built, trained=(*built.trained, *new))

    def _params(self, keys: Iterable[str]) -> Slots:
        return Slots((key, _trainable(self.cells[key])) for key in keys)

    def _at(self, key: str | None, slot: str) -> Variable | None:
        return (self.shared if key is None else self.slots.get(key, {})).get(slot)

    def with_weight(
        self, weight: Variable, key: str | None = None, slot: str | None = None
    ) -> "Built":
        """The same with one more, a slot of the variable of ``key``, or shared."""
        built = dataclasses.replace(self, weights=(*self.weights, weight))
        if slot is None:
            return built
        if key is None:
            return dataclasses.replace(built, shared={**self.shared, slot: weight})
        return dataclasses.replace(
            built,
            slots={**self.slots, key: {**self.slots.get(key, {}), slot: weight}},
            slot_names=tuple(dict.fromkeys((*self.slot_names, slot))),
        )

    def with_slot(
        self, variable: Any, name: str, initializer: Any
    ) -> tuple["Built", Variable]:
        """The same with this slot of ``variable``, and the slot, new or not."""
        built, (key,) = self.knowing([variable])
        slot = built._at(key, name)
        if slot is None:
            cell = built.cells[key]
            value = initial_value(initializer, cell._array.shape, cell._array.dtype)
            slot_name = f"{cell.name.removesuffix(':0')}/{name}"
            slot = Variable(value, trainable=False, name=slot_name)
            built = built.with_weight(slot, key, name)
        return built, slot

    def part(
        self, keys: Iterable[str], transformation: optax.GradientTransformation
    ) -> tuple[list[Variable], Any]:
        """What holds the state of these variables, and that state's structure.

        Raises:
          RuntimeError: If the transformation keeps what was not kept from the start.
          ValueError: If a slot that users added, or pickled, does not fit.
        """
        state = jax.eval_shape(transformation.init, self._params(dict.fromkeys(keys)))
        placed, structure = _placed(state)
        held: list[Variable] = []
        for (key, slot), leaf in placed.items():
            kept = self._at(key, slot)
            of = key or "all variables"
            if kept is None:
                raise RuntimeError(
                    f"{slot} of {of} must be kept from the first step, and that has "
                    "been taken; set what needs it before, or make another optimizer."
                )
            if key is not None and (kept.shape, kept.dtype) != (leaf.shape, leaf.dtype):
                raise ValueError(
                    f"the slot {slot} of {of} is of shape {kept.shape} and dtype "
                    f"{kept.dtype}, but must be {leaf.shape} and {leaf.dtype}; add it "
                    "with an initializer that gives that."
                )
            held.append(kept)
        return held, structure

    def copied(self) -> tuple["Built", dict[int, Variable]]:
        """The same with weights of its own, and these by the ids of the old ones."""
        new = {id(weight): copy.copy(weight) for weight in self.weights}
        slots = {
            key: {name: new[id(slot)] for name, slot in slots.items()}
            for key, slots in self.slots.items()
        }
        built = dataclasses.replace(
            self,
            weights=tuple(new.values()),
            slots=slots,
            shared={name: new[id(kept)] for name, kept in self.shared.items()},
        )
        return built, new

    def without_variables(self) -> "Built":
        """The same waiting for the variables, which will be known by their names."""
        base_names(self.cells[key] for key in self.slots if key in self.cells)
        return dataclasses.replace(self, keys={}, cells={}, originals={})

    def check_all_here(self) -> None:
        """Raises ValueError if a variable has been pickled, and not come since."""
        away = [key for key in self.trained if key not in self.cells]
        if away:
            raise ValueError(
                f"{', '.join(away)} must be given again after pickling; call "
                "`build(variables)` with variables of these names."
            )

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


def _placed(state: Any) -> tuple[dict[tuple[str | None, str], Any], Any]:
    """Its leaves by whose they are and the slot's name, and its structure."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    placed: dict[tuple[str | None, str], Any] = {}
    for path, leaf in leaves:
        name, key = slot_of(path)
        known = [other for owner, other in placed if owner == key]
        placed[key, _unused(name, known)] = leaf
    return placed, structure


def _check_can_grow(slot: str, leaf: Any, new: Sequence[str]) -> None:
    if np.ndim(leaf):
        raise ValueError(
            f"{', '.join(new)} came after the first step, but the transformation keeps "
            f"{slot}, of shape {np.shape(leaf)}, for all variables together; call "
            "`build` with all of them."
        )


def _owner(optimizer: str, cell: Cell) -> str:
    return f"{optimizer}/{cell.name.removesuffix(':0')}"


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
