"""Maps over trees of gradients, in which None stands for no gradient."""

from collections.abc import Callable
from typing import Any

import jax


def is_none(x: Any) -> bool:
    """For ``is_leaf=``: what is without a gradient has its place in the tree, too."""
    return x is None


def map_given(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``jax.tree.map``, where others may have anything in the place of a None."""
    return jax.tree.map(
        lambda x, *args: None if x is None else function(x, *args),
        tree,
        *others,
        is_leaf=is_none,
    )


def map_unzip(
    function: Callable[..., tuple[Any, ...]], num_results: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """:func:`map_given`, with a tree for each of the function's results.

    Args:
      function: Gets a leaf of ``tree``, and what others have in its place.
      num_results: How many results it has.
      tree: Any tree; it may have no leaves.
      *others: Trees that have, where ``tree`` has a leaf, a leaf or a tree.
    """
    leaves, structure = jax.tree.flatten(tree, is_leaf=is_none)
    in_place = [structure.flatten_up_to(other) for other in others]
    none = (None,) * num_results
    results = [
        none if args[0] is None else function(*args)
        for args in zip(leaves, *in_place, strict=True)
    ]
    return tuple(
        structure.unflatten([result[i] for result in results])
        for i in range(num_results)
    )
