"""One Optax state for variables that come one by one.

An Optax state is made for a tree of parameters, all at once. An optimizer object meets
its variables as their first gradients come, and not all of them have one at each step.
So the tree of parameters is a :class:`Slots` here, a dictionary that can be told from
all others: wherever one lies in a state, it has something for each variable, and the
state can be cut down to some variables, or joined with that of new ones.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from jax.tree_util import GetAttrKey, SequenceKey


class Slots(dict[str, Any]):
    """A tree of parameters, or of what a transformation keeps for each of them."""


@dataclasses.dataclass(frozen=True)
class SlotKey:
    """A path's step into a :class:`Slots`."""

    key: str

    def __str__(self) -> str:
        return f"[{self.key!r}]"


jax.tree_util.register_pytree_with_keys(
    Slots,
    lambda slots: ([(SlotKey(k), v) for k, v in slots.items()], tuple(slots)),
    lambda keys, values: Slots(zip(keys, values, strict=True)),
    lambda slots: (tuple(slots.values()), tuple(slots)),
)


def restrict(state: Any, keys: Iterable[str]) -> Any:
    """``state`` with nothing but these variables' slots."""
    keys = list(keys)

    def pick(node: Any) -> Any:
        return Slots((k, node[k]) for k in keys) if isinstance(node, Slots) else node

    return jax.tree.map(pick, state, is_leaf=_is_slots)


def merge(state: Any, part: Any) -> Any:
    """``state`` with everything that is in ``part`` in its place."""

    def join(old: Any, new: Any) -> Any:
        return Slots({**old, **new}) if isinstance(old, Slots) else new

    return jax.tree.map(join, state, part, is_leaf=_is_slots)


def with_counters_of(state: Any, other: Any) -> Any:
    """The slots of ``state``, and of ``other`` all that is no variable's own."""

    def choose(node: Any, counter: Any) -> Any:
        return node if isinstance(node, Slots) else counter

    return jax.tree.map(choose, state, other, is_leaf=_is_slots)


def slot_of(path: tuple[Any, ...]) -> tuple[str, str | None]:
    """The name of what lies at this path of a state, and whose it is, if anyone's.

    The name is that of the last field on the way to the :class:`Slots`, with what comes
    after it, if the slot is itself a tree.
    """
    owners = [i for i, key in enumerate(path) if isinstance(key, SlotKey)]
    before, after = (path[: owners[0]], path[owners[0] + 1 :]) if owners else (path, ())
    fields = [key.name for key in before if isinstance(key, GetAttrKey)]
    name = "_".join([*(fields[-1:] or ["state"]), *map(_name, after)])
    return name, path[owners[0]].key if owners else None


def _is_slots(node: Any) -> bool:
    return isinstance(node, Slots)


def _name(key: Any) -> str:
    if isinstance(key, GetAttrKey):
        return key.name
    return str(key.idx if isinstance(key, SequenceKey) else getattr(key, "key", key))
