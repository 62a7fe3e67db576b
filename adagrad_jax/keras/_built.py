"""What an optimizer object has made for the variables that it has met."""

# The arrays of variables are read here without marking them as taken.
# pyright: reportPrivateUsage=false

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from adagrad_jax.keras._slots import Slots, merge, slot_of
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
        new: Sequence[str],
        transformation: optax.GradientTransformation,
    ) -> "Built":
        """The same with slots for the variables of these keys."""
        if not new:
            return self
        params = Slots((key, self.cells[key]._array) for key in new)
        for key, array in params.items():
            if not jnp.issubdtype(array.dtype, jnp.inexact):
                raise TypeError(
                    f"variable {self.cells[key].name} must have floating-point numbers "
                    f"to be trained, got dtype {array.dtype}."
                )
        leaves, structure = jax.tree_util.tree_flatten_with_path(
            transformation.init(params)
        )
        variables: list[Variable] = []
        named: list[tuple[str | None, str, Variable]] = []
        for path, leaf in leaves:
            # The transformation may hold it, or have taken it from the parameters.
            array = jnp.copy(leaf)
            slot, key = slot_of(path)
            if key is None and self.state is not None and array.ndim:
                raise ValueError(
                    f"{', '.join(new)} came after the first step, but the "
                    f"transformation keeps {slot}, of shape {array.shape}, for all "
                    "variables together; call `build` with all of them."
                )
            name = (
                f"{optimizer}/{slot}"
                if key is None
                else full_name(optimizer, self.cells[key], slot)
            )
            variable = Variable.holding(array, name)
            variables.append(variable)
            if key is not None or self.state is None:
                named.append((key, slot, variable))
        known = len(self.arrays)
        part = structure.unflatten(range(known, known + len(variables)))
        grown = self.with_weights(named)
        return dataclasses.replace(
            grown,
            state=part if self.state is None else merge(part, self.state),
            arrays=(*self.arrays, *variables),
            trained=(*self.trained, *new),
        )

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
