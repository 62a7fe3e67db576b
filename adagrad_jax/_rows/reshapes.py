"""Reshapes: the same numbers, as they lie, with other axes.

What matters is whether a row stays together. An axis within rows may be taken apart and
its parts picked from the whole row; several rows may be one; what is neither is read
number by number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adagrad_jax._rows.views import (
    NotRows,
    Places,
    Reader,
    View,
    enumerated,
    in_row,
    take,
    take_array,
    takes,
)


@takes("reshape")
def _take_reshaped(view: View, places: Places, reader: Reader) -> jax.Array:
    x, at = view.args[0], list[Any]()
    sizes, picked = list[int](), list[Any]()  # of what is read of x, and what of it
    for old, new in _same_numbers(x.shape, view.shape):
        named = [a for a in new if not places.all_of(a) and view.shape[a] != 1]
        in_rows = len(old) == 1 and in_row(x, old[0]) and at != [None] * len(at)
        if not named or in_rows:
            kept = [a for a in new if a in named or places.all_of(a)]
            at += [None] * len(old)
            sizes += [view.shape[a] for a in kept]
            picked += [places.indices[a] for a in kept]
            continue
        free = [a for a in new if places.all_of(a) and view.shape[a] != 1]
        if free:
            finer = _with_axes_in_common(view, old[-1], new[-1])
            if finer is not None:
                return take(finer, places, reader)
            return enumerated(view, places, free, reader)
        at += _unraveled(view, places, [x.shape[a] for a in old], new)
        sizes += [1 for a in new if places.all_of(a)]
        picked += [None for a in new if places.all_of(a)]
    rows = take(x, places.at(at), reader).reshape(places.n, *sizes)
    if all(index is None for index in picked):
        return rows
    each = jnp.arange(places.n, dtype=jnp.int32)
    return take_array(rows, places.at((each, *picked)))


def _unraveled(
    view: View, places: Places, sizes: Sequence[int], axes: Sequence[int]
) -> list[Any]:
    """What is at some indices of the view along ``axes``, along axes of ``sizes``."""
    flat, index = places.full(0), list[Any]()
    for axis in axes:
        if view.shape[axis] != 1:
            flat = flat * view.shape[axis] + places.indices[axis]
    for size in reversed(sizes):
        index.append(flat % size)
        flat = flat // size
    return index[::-1]


def _with_axes_in_common(view: View, old: int, new: int) -> View | None:
    """The same in two reshapes, where the longer of two axes is several of the other.

    Pairs of rows in one, or halves of rows, are then more than numbers.
    """
    x = view.args[0]
    before, after = x.shape[old], view.shape[new]
    several, rest = divmod(max(before, after), min(before, after))
    shape, axis = (x.shape, old) if before > after else (view.shape, new)
    shape = (*shape[:axis], several, min(before, after), *shape[axis + 1 :])
    if rest or several == 1 or shape in (x.shape, view.shape):
        return None
    aval = jax.ShapeDtypeStruct(shape, view.dtype)
    inner = View("reshape", {}, [x], aval)
    return View("reshape", view.params, [inner], view.aval, view.eqn)


def _same_numbers(
    old: tuple[int, ...], new: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """Groups of axes, before and after, that have as many numbers, the least ones."""
    if 0 in old:
        raise NotRows("a reshape of nothing")
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        axes: tuple[list[int], list[int]] = ([], [])
        sizes = [1, 1]
        while not (axes[0] or axes[1]) or sizes[0] != sizes[1]:
            if j < len(new) and (sizes[0] > sizes[1] or i == len(old)):
                axes[1].append(j)
                sizes[1] *= new[j]
                j += 1
            else:
                axes[0].append(i)
                sizes[0] *= old[i]
                i += 1
        groups.append(axes)
    return groups
