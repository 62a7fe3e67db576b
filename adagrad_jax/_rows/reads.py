"""Reads: the views that pick some of an array's rows.

Whatever their spelling, they see through a *window* along each axis: some indices, from
a start that the program or its data provide.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from adagrad_jax._rows.placement import placeholder
from adagrad_jax._rows.views import (
    Places,
    Reader,
    Table,
    View,
    as_column,
    cast,
    enumerated,
    equation_of,
    in_row,
    take,
    take_array,
    takes,
)

READS = {"gather", "dynamic_slice", "slice", "turn"}
"""Where the result of one of these is needed, its rows are read."""


def read(view: View, reader: Reader) -> jax.Array:
    """All of a view that picks some rows."""
    return take(view, Places(1, (None,) * len(view.shape)), reader)[0]


def show_indices(x: Any) -> None:
    """Has ``checkify`` see the program's own indices, before they are clipped.

    It looks at equations as they are traced. The results of these are not used, and so
    they are not computed when the program runs.
    """
    if not isinstance(x, View):
        return
    for arg in x.args:
        show_indices(arg)
    by_indices = x.name == "dynamic_slice" or (x.name == "gather" and not _is_lookup(x))
    if by_indices and x.eqn:
        operand, *indices = x.eqn.invars[0].aval, *x.args[1:]
        if any(isinstance(index, Tracer) for index in indices):
            x.eqn.primitive.bind(placeholder(operand), *indices, **x.params)


def waits(view: View) -> bool:
    """Whether to read no rows yet, since fewer of their numbers may be needed.

    ``stack[layer]`` picks a table for a lookup that follows. What picks rows of numbers
    reads them at once.
    """
    if view.name != "gather":
        return True
    sizes = view.params["slice_sizes"]
    num_windows = math.prod(view.args[1].shape[:-1])
    return num_windows == 1 or sum(size != 1 for size in sizes) > 1


def _clip(index: Any, last: int) -> jax.Array:
    """int32 indices from 0 to ``last``."""
    index = jnp.asarray(index)
    # A narrow dtype may not be able to hold the last index.
    last = max(0, min(last, jnp.iinfo(index.dtype).max))
    return jnp.clip(index, 0, last).astype(jnp.int32)


def _within(index: jax.Array, last: int) -> jax.Array:
    """Whether it is from 0 to ``last``."""
    return (index >= 0) & (index <= min(last, jnp.iinfo(index.dtype).max))


@dataclasses.dataclass(frozen=True)
class _Window:
    """Along an axis of ``axis_size``: ``start + step * i`` for all ``i < size``."""

    axis_size: int
    size: int
    start: Any = 0
    step: int = 1
    index: Any = None  # the i that is wanted of it, None if all are

    @property
    def whole(self) -> bool:
        return self.size == self.axis_size and self.step == 1

    @property
    def place(self) -> Any:
        """Of the index, in the array."""
        if self.whole:
            return self.index
        if self.index is not None:
            return self.start + self.step * self.index
        return self.start if self.size == 1 else None


def _take_windows(
    view: View, windows: Sequence[_Window], places: Places, reader: Reader, fixed: bool
) -> jax.Array:
    """Of the first operand of ``view``; what is whole along an axis is in place."""
    at = [
        None if window.place is None else _as_index(window.place, places.n)
        for window in windows
    ]
    rows = take(view.args[0], places.at(at, fixed), reader)
    rest = [window for window, index in zip(windows, at, strict=True) if index is None]
    for axis, window in enumerate(rest, 1):
        if not window.whole:
            rows = _cut(rows, window, axis)
    wanted = [size for axis, size in enumerate(view.shape) if places.all_of(axis)]
    return rows.reshape(places.n, *wanted)


def _as_index(place: Any, n: Any) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(place, jnp.int32), (n,))


def _cut(rows: jax.Array, window: _Window, axis: int) -> jax.Array:
    """Some columns of rows that were read as a whole."""
    if isinstance(window.start, int):
        end = window.start + (window.size - 1) * window.step + 1
        return lax.slice_in_dim(rows, window.start, end, window.step, axis)
    along = jnp.arange(window.size, dtype=jnp.int32)
    columns = jnp.broadcast_to(window.start, rows.shape[:1])[:, None] + along[None]
    shape = [rows.shape[0], *[1] * (rows.ndim - 1)]
    shape[axis] = window.size
    return jnp.take_along_axis(
        rows, columns.reshape(shape), axis, mode="promise_in_bounds"
    )


def _one_by_one(axes: Sequence[tuple[int, int]], x: Any) -> list[int]:
    """Those of (axis, size of a window) along which rows are to be had one by one."""
    return [
        axis for axis, size in axes if size != x.shape[axis] and not in_row(x, axis)
    ]


@takes("slice")
def _take_slice(view: View, places: Places, reader: Reader) -> jax.Array:
    axes = [axis for axis in _sliced(view) if places.all_of(axis)]
    if axes:
        return enumerated(view, places, axes, reader)
    starts = view.params["start_indices"]
    steps = view.params["strides"] or (1,) * len(starts)
    windows = [
        _Window(have, size, start, step, index)
        for have, size, start, step, index in zip(
            view.args[0].shape, view.shape, starts, steps, places.indices, strict=True
        )
    ]
    return _take_windows(view, windows, places, reader, fixed=True)


def _sliced(view: View) -> list[int]:
    return _one_by_one(list(enumerate(view.shape)), view.args[0])


@takes("dynamic_slice")
def _take_dynamic_slice(view: View, places: Places, reader: Reader) -> jax.Array:
    axes = [axis for axis in _sliced(view) if places.all_of(axis)]
    if axes:
        return enumerated(view, places, axes, reader)
    x, *starts = view.args
    windows = [
        _Window(have, size, _clip(start, have - size), index=index)
        for have, size, start, index in zip(
            x.shape, view.shape, starts, places.indices, strict=True
        )
    ]
    return _take_windows(view, windows, places, reader, fixed=False)


@takes("turn")
def _take_turn(view: View, places: Places, reader: Reader) -> jax.Array:
    stack, index = view.args
    return take(stack, places.at([places.full(index), *places.indices]), reader)


@takes("gather")
def _take_gather(view: View, places: Places, reader: Reader) -> jax.Array:
    numbers, indices = view.params["dimension_numbers"], jnp.asarray(view.args[1])
    batch = [a for a in range(len(view.shape)) if a not in numbers.offset_dims]
    axes = [axis for axis in batch if places.all_of(axis)]
    if places.n == 1 and axes == batch:
        # All windows in their order: no need to look indices up.
        starts = indices.reshape(-1, indices.shape[-1])
        gathered = _look_up if _is_lookup(view) else _take_gathered
        in_order = functools.partial(gathered, batch=batch, starts=starts)
        return enumerated(view, places, batch, reader, in_order)
    axes += [axis for axis in _gathered(view) if places.all_of(axis)]
    if axes:
        return enumerated(view, places, axes, reader)
    at = places.at([*(places.indices[axis] for axis in batch), None])
    return _take_gathered(view, places, reader, batch, take_array(indices, at))


def _is_lookup(view: View) -> bool:
    """Whether it is of whole rows along a table's first axis, as ``table[ids]``."""
    x, sizes = view.args[0], view.params["slice_sizes"]
    numbers = view.params["dimension_numbers"]
    return (
        isinstance(x, Table)
        and x.number is not None
        and x.row_sharding is None
        and x.row_axes in (None, 1)
        and numbers.start_index_map == (0,)
        and numbers.collapsed_slice_dims == (0,)
        and tuple(sizes[1:]) == x.shape[1:]
        and view.eqn is not None
    )


def _look_up(
    view: View, places: Places, reader: Reader, batch: list[int], starts: jax.Array
) -> jax.Array:
    """By the equation as it is: it may be looked at for indices out of range."""
    del batch
    table, indices = view.args
    last = table.shape[0] - 1
    ids = _clip(starts[:, 0], last)
    if view.params["mode"] != lax.GatherScatterMode.CLIP:
        ids = jnp.where(_within(starts[:, 0], last), ids, table.shape[0])
    rows = equation_of(view).primitive.bind(table.value, indices, **view.params)
    rest = view.params["dimension_numbers"].offset_dims
    rows = jnp.moveaxis(rows, rest, range(rows.ndim - len(rest), rows.ndim))
    rows = rows.reshape(places.n, *table.shape[1:])
    return reader(table, rows, ids, dataclasses.replace(places, fixed=False))


def _take_gathered(
    view: View, places: Places, reader: Reader, batch: list[int], starts: jax.Array
) -> jax.Array:
    """Of one window for each of the places, which is at ``starts``."""
    axes = [axis for axis in _gathered(view) if places.all_of(axis)]
    if axes:
        return enumerated(view, places, axes, reader)
    shape, sizes = view.args[0].shape, view.params["slice_sizes"]
    numbers, mode = view.params["dimension_numbers"], view.params["mode"]
    within = jnp.ones(places.n, bool)
    start_of, of_view = dict[int, Any](), dict(_offsets(view))
    for axis, start in zip(numbers.start_index_map, starts.T, strict=True):
        last = shape[axis] - sizes[axis]
        within &= _within(start, last)
        start_of[axis] = _clip(start, last)
    for axis, of_batch in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        start_of[axis] = places.indices[batch[of_batch]]
    windows = [
        _Window(
            *(shape[axis], sizes[axis], start_of.get(axis, 0)),
            index=places.indices[of_view[axis]] if axis in of_view else None,
        )
        for axis in range(len(shape))
    ]
    if mode != lax.GatherScatterMode.CLIP:
        places = places.where(within)
    rows = _take_windows(view, windows, places, reader, fixed=False)
    if mode == lax.GatherScatterMode.CLIP:
        return rows
    # What is promised to be within, but is not, has a value, and no derivative.
    instead = lax.stop_gradient(rows)
    if mode == lax.GatherScatterMode.FILL_OR_DROP:
        instead = jnp.full_like(rows, _fill_value(view, places))
    return lax.select(as_column(within, rows), rows, instead)


def _offsets(view: View) -> list[tuple[int, int]]:
    """Of a gather: each axis of the operand that is one of the result, and which."""
    numbers = view.params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(view.args[0].shape)) if axis not in gone]
    return list(zip(kept, numbers.offset_dims, strict=True))


def _gathered(view: View) -> list[int]:
    """Of a gather: the result's axes along which a window is of several rows."""
    sizes, of_view = view.params["slice_sizes"], dict(_offsets(view))
    axes = _one_by_one([(a, sizes[a]) for a in of_view if sizes[a] != 1], view.args[0])
    return [of_view[axis] for axis in axes]


def _fill_value(view: View, places: Places) -> Any:
    """In the dtype in which it was to be read."""
    fill, dtype = view.params["fill_value"], view.dtype
    if fill is None and jnp.issubdtype(dtype, jnp.inexact):
        fill = jnp.nan
    elif fill is None:
        unsigned = jnp.issubdtype(dtype, jnp.unsignedinteger)
        limits = None if dtype == jnp.bool_ else jnp.iinfo(dtype)
        fill = True if limits is None else limits.max if unsigned else limits.min
    return cast(jnp.asarray(fill, dtype), places.dtypes)
