"""Maps over trees of gradients, in which None stands for no gradient."""

import sys
from collections.abc import Callable
from typing import Any

import jax

ArrayTree = Any
"""Arrays, in a tree like the parameters."""


class LeafError(ValueError):
    """Says what is wrong with one leaf, whose path who maps over a tree can add."""


def at(path: tuple[Any, ...]) -> str:
    """Where a leaf is, for an error's message."""
    return f"at {jax.tree_util.keystr(path)}" if path else "(the tree is one leaf)"


def is_bcoo(kind: type) -> bool:
    """Whether it is JAX's sparse array, whose module takes long to import."""
    sparse = sys.modules.get("jax.experimental.sparse")
    return sparse is not None and issubclass(kind, sparse.BCOO)


def is_none(x: Any) -> bool:
    """For ``is_leaf=``: what is without a gradient has its place in the tree, too."""
    return x is None


def map_given(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``jax.tree.map``, where others may have anything in the place of a None.

    The leaf's path is added to a :class:`LeafError` of the function.
    """
    return map_unzip(lambda *args: (function(*args),), 1, tree, *others)[0]


def map_unzip(
    function: Callable[..., tuple[Any, ...]], num_results: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """:func:`map_given`, with a tree for each of the function's results.

    Args:
      function: Gets a leaf of ``tree``, and what others have in its place.
      num_results: How many results it has.
      tree: Any tree; it may have no leaves.
      *others: Trees that have, where ``tree`` has a leaf, a leaf or a tree.

    Raises:
      ValueError: With the leaf's path, for a :class:`LeafError` of the function.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    in_place = [structure.flatten_up_to(other) for other in others]
    results: list[tuple[Any, ...]] = []
    for i, args in enumerate(zip(leaves, *in_place, strict=True)):
        try:
            none = args[0] is None
            results.append((None,) * num_results if none else function(*args))
        except LeafError as error:
            paths = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_none)
            raise ValueError(f"gradient {at(paths[i][0])}: {error}") from error
    return tuple(
        structure.unflatten([result[i] for result in results])
        for i in range(num_results)
    )
