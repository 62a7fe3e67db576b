"""Views that are put together: each of their rows is from one of several arrays.

Only the piece that has a row names it: a row of padding, or one that was set to
something else, is none of the table's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from adagrad_jax._rows.views import (
    NotRows,
    Places,
    Reader,
    View,
    as_column,
    cast,
    enumerated,
    in_row,
    take,
    takes,
)


@takes("concatenate")
def _take_concatenated(view: View, places: Places, reader: Reader) -> jax.Array:
    axis = view.params["dimension"]
    index = places.indices[axis]
    if index is None:
        inside = sum(other is None for other in places.indices[:axis])
        rows = [take(part, places, reader) for part in view.args]
        return lax.concatenate(rows, 1 + inside)
    result, start = None, 0
    for part in view.args:
        size = part.shape[axis]
        hit = (index >= start) & (index < start + size)
        here = _inside(places, axis, index - start, size).where(hit)
        rows = take(part, here, reader)
        result = rows if result is None else _choose(hit, rows, result)
        start += size
    return jnp.asarray(result)


@takes("pad")
def _take_padded(view: View, places: Places, reader: Reader) -> jax.Array:
    x, value = view.args
    padding, here, hit = view.params["padding_config"], places, jnp.ones(places.n, bool)
    for axis, (low, _, between) in enumerate(padding):
        index, step = places.indices[axis], 1 + int(between)
        if index is None or padding[axis] == (0, 0, 0):
            continue
        place, off = (index - int(low)) // step, (index - int(low)) % step
        hit &= (place >= 0) & (place < x.shape[axis]) & (off == 0)
        here = _inside(here, axis, place, x.shape[axis])
    rows = take(x, here.where(hit), reader)
    value = cast(jnp.asarray(value), places.dtypes)
    inside = [padding[axis] for axis, i in enumerate(places.indices) if i is None]
    rows = lax.pad(rows, value, [(0, 0, 0), *inside])
    return _choose(hit, rows, jnp.full_like(rows, value))


@takes("scatter")
def _take_set(view: View, places: Places, reader: Reader) -> jax.Array:
    """Of an array with some rows set to others: ``x.at[...].set(...)``."""
    x, indices, _ = view.args
    numbers = view.params["dimension_numbers"]
    plain = not numbers.operand_batching_dims and view.params["update_jaxpr"] is None
    if not plain:
        raise NotRows("rows of which some were changed otherwise than by .set")
    starts = jnp.asarray(indices).reshape(-1, indices.shape[-1])
    axes = numbers.scatter_dims_to_operand_dims
    if starts.shape[0] != 1:
        return _take_set_rows(view, places, reader, starts)
    sizes = _window_sizes(view)
    start: list[Any] = [0] * x.ndim
    hit = jnp.ones((), bool)
    for number, axis in enumerate(axes):
        last = x.shape[axis] - sizes[axis]
        if view.params["mode"] != lax.GatherScatterMode.CLIP:
            hit &= (starts[0, number] >= 0) & (starts[0, number] <= last)
        start[axis] = jnp.clip(starts[0, number], 0, last).astype(jnp.int32)
    return _take_around(view, places, reader, start, sizes, hit)


@takes("dynamic_update_slice")
def _take_updated(view: View, places: Places, reader: Reader) -> jax.Array:
    x, update, *starts = view.args
    start = [
        jnp.clip(at, 0, have - size).astype(jnp.int32)
        for at, have, size in zip(starts, x.shape, update.shape, strict=True)
    ]
    return _take_around(
        view, places, reader, start, list(update.shape), jnp.ones((), bool)
    )


def _window_sizes(view: View) -> list[int]:
    """Of a scatter: how much of each axis one of its windows is."""
    numbers, update = view.params["dimension_numbers"], view.args[2]
    inside = iter(update.shape[axis] for axis in numbers.update_window_dims)
    gone = numbers.inserted_window_dims
    return [1 if axis in gone else next(inside) for axis in range(view.ndim)]


def _take_around(
    view: View,
    places: Places,
    reader: Reader,
    start: Sequence[Any],
    sizes: Sequence[int],
    hit: jax.Array,
) -> jax.Array:
    """Of an array with the second operand in a window at ``start``, if ``hit``."""
    x, update = view.args[0], view.args[2 if view.name == "scatter" else 1]
    partial = [axis for axis in range(x.ndim) if sizes[axis] != x.shape[axis]]
    unnamed = [axis for axis in partial if places.all_of(axis)]
    rows_apart = [axis for axis in unnamed if not in_row(x, axis)]
    if rows_apart:
        return enumerated(view, places, rows_apart, reader)
    hits, there = jnp.broadcast_to(hit, (places.n,)), places
    for axis in partial:
        if axis not in unnamed:
            place = places.indices[axis] - start[axis]
            hits &= (place >= 0) & (place < sizes[axis])
            there = _inside(there, axis, place, sizes[axis])
    old = take(x, places if unnamed else places.where(~hits), reader)
    update = _of_shape(update, sizes)
    new = take(update, there.where(hits), reader)
    chosen = as_column(hits, old)
    for axis in unnamed:  # some columns of each row
        behind = 1 + sum(index is None for index in places.indices[:axis])
        column = lax.broadcasted_iota(jnp.int32, old.shape, behind) - start[axis]
        chosen &= (column >= 0) & (column < sizes[axis])
        place = jnp.arange(x.shape[axis]) - start[axis]
        new = jnp.take(new, jnp.clip(place, 0, sizes[axis] - 1), behind)
    return lax.select(chosen, new, old)


def _of_shape(update: Any, sizes: Sequence[int]) -> Any:
    """With all axes of what it is put into."""
    if tuple(update.shape) == tuple(sizes):
        return update
    aval = jax.ShapeDtypeStruct(tuple(sizes), update.dtype)
    return View("reshape", {}, [update], aval)


def _take_set_rows(
    view: View, places: Places, reader: Reader, starts: jax.Array
) -> jax.Array:
    """Where several rows are set: the last that was says what a row is."""
    x, _, update = view.args
    numbers = view.params["dimension_numbers"]
    axes = numbers.scatter_dims_to_operand_dims
    if sorted(axes) != sorted(numbers.inserted_window_dims):
        raise NotRows("rows of which several windows were set")
    apart = [axis for axis in axes if places.all_of(axis)]
    if any(in_row(x, axis) for axis in apart):
        raise NotRows("rows of which some columns were set, one by one")
    if apart:
        return enumerated(view, places, apart, reader)
    m, sizes = starts.shape[0], [x.shape[axis] for axis in axes]
    wanted = _number(sizes, [places.indices[axis] for axis in axes])
    each = [starts[:, number] for number in range(len(axes))]
    if view.params["mode"] == lax.GatherScatterMode.CLIP:
        each = [jnp.clip(s, 0, n - 1) for s, n in zip(each, sizes, strict=True)]
    within = jnp.ones(m, bool)
    for start, size in zip(each, sizes, strict=True):
        within &= (start >= 0) & (start < size)
    set_to = jnp.where(within, _number(sizes, each), -1)
    order = jnp.argsort(set_to, stable=True)
    after = jnp.searchsorted(set_to[order], wanted, side="right")
    last = order[jnp.clip(after - 1, 0)]
    hit = set_to[last] == wanted
    update = _in_front(update, numbers.update_window_dims, m)
    inside = [places.indices[a] for a in range(x.ndim) if a not in axes]
    new = take(update, places.at([last.astype(jnp.int32), *inside]).where(hit), reader)
    old = take(x, places.where(~hit), reader)
    return _choose(hit, new, old)


def _number(sizes: Sequence[int], indices: Sequence[jax.Array]) -> jax.Array:
    """Of a place: how many are before it."""
    number = jnp.zeros(indices[0].shape, jnp.int32)
    for size, index in zip(sizes, indices, strict=True):
        number = number * size + index.astype(jnp.int32)
    return number


def _in_front(update: Any, window: Sequence[int], m: int) -> Any:
    """With its windows along the first axis."""
    batch = [axis for axis in range(update.ndim) if axis not in window]
    order = (*batch, *window)
    shape = tuple(update.shape[axis] for axis in order)
    if order != tuple(range(update.ndim)):
        aval = jax.ShapeDtypeStruct(shape, update.dtype)
        update = View("transpose", {"permutation": order}, [update], aval)
    sizes = (m, *shape[len(batch) :])
    return _of_shape(update, sizes)


def _inside(places: Places, axis: int, index: Any, size: int) -> Places:
    """Along one axis other places, if need be the next that there is."""
    if not size:
        index = places.full(0)
    indices = list(places.indices)
    indices[axis] = jnp.clip(index, 0, max(size - 1, 0)).astype(jnp.int32)
    return dataclasses.replace(places, indices=tuple(indices))


def _choose(hit: jax.Array, rows: jax.Array, others: jax.Array) -> jax.Array:
    return lax.select(as_column(hit, rows), rows, others)
