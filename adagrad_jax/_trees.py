"""A map over trees whose function has several results."""

from collections.abc import Callable
from typing import Any

import jax


class LeafError(ValueError):
    """Says what is wrong with one leaf, whose path who maps over a tree can add."""


def at(path: tuple[Any, ...]) -> str:
    """Where a leaf is, for an error's message."""
    return f"at {jax.tree_util.keystr(path)}" if path else "(the tree is one leaf)"


def map_unzip(
    function: Callable[..., tuple[Any, ...]], num_results: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """``jax.tree.map``, with a tree for each of the function's results.

    Args:
      function: Gets a leaf of ``tree``, and what others have in its place.
      num_results: How many results it has.
      tree: Any tree; it may have no leaves.
      *others: Trees that have, where ``tree`` has a leaf, a leaf or a tree.

    Raises:
      ValueError: With the leaf's path, for a :class:`LeafError` of the function.
    """
    leaves, structure = jax.tree.flatten(tree)
    in_place = [structure.flatten_up_to(other) for other in others]
    results: list[tuple[Any, ...]] = []
    for i, args in enumerate(zip(leaves, *in_place, strict=True)):
        try:
            results.append(function(*args))
        except LeafError as error:
            path = jax.tree_util.tree_leaves_with_path(tree)[i][0]
            raise ValueError(f"gradient {at(path)}: {error}") from error
    return tuple(
        structure.unflatten([result[i] for result in results])
        for i in range(num_results)
    )
