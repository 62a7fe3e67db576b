"""A map over trees whose function has several results."""

from collections.abc import Callable
from typing import Any

import jax


def map_unzip(
    function: Callable[..., tuple[Any, ...]], num_results: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """``jax.tree.map``, with a tree for each of the function's results.

    Args:
      function: Gets a leaf of ``tree``, and what others have in its place.
      num_results: How many results it has.
      tree: Any tree; it may have no leaves.
      *others: Trees that have, where ``tree`` has a leaf, a leaf or a tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    in_place = [structure.flatten_up_to(other) for other in others]
    results = [function(*args) for args in zip(leaves, *in_place, strict=True)]
    return tuple(
        structure.unflatten([result[i] for result in results])
        for i in range(num_results)
    )
