"""A table seen another way: what is computed of it only where its rows are read.

Programs read tables through slices, reshapes, casts, masks, with a row of zeros in
front, several of them stacked in one array. Such a :class:`View` is an equation that is
not evaluated. Where rows of it are wanted, :func:`take` asks its operands for rows at
other places, down to a :class:`Table`, whose rows are then read at last.

Each equation that can be a view is one function, which says where the rows that it is
asked for are in its operands, and what is done to them on the way. What none of them
expresses raises :class:`NotRows`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from adagrad_jax._rows.exchange import read_rows
from adagrad_jax._rows.placement import split_as
from adagrad_jax._rows.row_sharding import RowSharding

LONGEST_ROW = 1024
"""Numbers along the last axis up to which it is a row's own, though it is indexed too.

Rows of a table ``(V, D)`` that is read as ``table[ids, columns]`` are those of ``D``
numbers; but ``(L, V)`` may be ``L`` tables of one number in a row.
"""


class NotRows(Exception):
    """What is asked for is no rows of a table; the message says what it is instead."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A parameter of which rows are read, wherever it goes.

    Attributes:
      number: Which one it is; None if no derivative comes back to it.
      value: The array; where nothing is computed, its type.
      row_axes: How many of its leading axes name a row; None if that is what we are to
        find out.
      row_sharding: Which device has which rows, if that is ours to mind.
    """

    number: int | None
    value: Any
    row_axes: int | None = None
    row_sharding: RowSharding | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        return self.value.dtype


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The only result of an equation which is not evaluated, unless it must be.

    Attributes:
      name: Of its primitive.
      params: Its parameters.
      args: Its operands: tables, views, arrays.
      aval: The result's type.
      eqn: The equation, if it is one of the program's.
      size: How many equations and operands it is made of.
    """

    name: str
    params: dict[str, Any]
    args: list[Any]
    aval: Any
    eqn: core.JaxprEqn | None = None
    size: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        sizes = (arg.size if isinstance(arg, View) else 1 for arg in self.args)
        object.__setattr__(self, "size", 1 + sum(sizes))

    @classmethod
    def of(cls, eqn: core.JaxprEqn, args: Sequence[Any]) -> "View":
        (result,) = eqn.outvars
        return cls(eqn.primitive.name, eqn.params, list(args), result.aval, eqn)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.aval.shape

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        return self.aval.dtype


def equation_of(view: View) -> core.JaxprEqn:
    """The program's equation that a view is."""
    if view.eqn is None:
        raise NotRows(f"{view.name} of it")
    return view.eqn


def turn_of(stack: "Table | View", index: Any, aval: Any) -> View:
    """What a scan over ``stack`` sees at one turn: ``stack[index]``."""
    return View("turn", {}, [stack, index], aval)


def tables_in(x: Any) -> Iterator[Table]:
    """The tables that it is a view of."""
    if isinstance(x, Table):
        yield x
    elif isinstance(x, View):
        for arg in x.args:
            yield from tables_in(arg)


def without_derivative(stopped: Callable[[Any], Any], x: Any) -> Any:
    """The same, to nothing of which a derivative comes back."""
    return _map(lambda t: dataclasses.replace(t, number=None), stopped, x)


def map_arrays(function: Callable[[Any], Any], x: Any) -> Any:
    """The same view of other arrays, tables' own too."""
    return _map(
        lambda table: dataclasses.replace(table, value=function(table.value)),
        function,
        x,
    )


def _map(on_table: Callable[..., Any], on_array: Callable[..., Any], x: Any) -> Any:
    if isinstance(x, Table):
        return on_table(x)
    if isinstance(x, View):
        args = [_map(on_table, on_array, arg) for arg in x.args]
        return View(x.name, x.params, args, x.aval, x.eqn)
    return on_array(x)


@dataclasses.dataclass(frozen=True)
class Places:
    """``n`` places along some axes of an array, at each of which there is a row.

    Attributes:
      n: How many.
      indices: For each axis ``(n,)`` indices, all in bounds; None for all of the axis.
      live: ``(n,)`` whether the row is of any use; None if all are. A row that is not,
        because something else has its place, is computed but not named.
      dtypes: What the numbers are then cast to, in turn.
      fixed: Whether the program names the places, and not its data.
    """

    n: Any
    indices: tuple[Any, ...]
    live: Any = None
    dtypes: tuple[Any, ...] = ()
    fixed: bool = True

    def at(self, indices: Sequence[Any], fixed: bool = True) -> "Places":
        """Others, for an operand."""
        return dataclasses.replace(
            self, indices=tuple(indices), fixed=self.fixed and fixed
        )

    def where(self, hit: jax.Array) -> "Places":
        """The same, of which only some are of use."""
        live = hit if self.live is None else self.live & hit
        return dataclasses.replace(self, live=live)

    def all_of(self, axis: int) -> bool:
        return self.indices[axis] is None

    def full(self, index: Any) -> jax.Array:
        """One index for all places."""
        return jnp.full(self.n, index, jnp.int32)


Reader = Callable[[Table, jax.Array, jax.Array, Places], jax.Array]
"""Called with a table, some of its rows, their ids ``(n,)`` and where they are.

It returns the rows. Ids count rows along all ``row_axes``, the last of these fastest;
the number of rows stands for none.
"""

Take = Callable[[Any, Places, Reader], jax.Array]

_TAKE: dict[str, Take] = {}


def takes(*names: str) -> Callable[[Take], Take]:
    """Says of a function that it is how rows of a view by these primitives are had."""

    def register(function: Take) -> Take:
        _TAKE.update(dict.fromkeys(names, function))
        return function

    return register


def take(x: Any, places: Places, reader: Reader) -> jax.Array:
    """The rows of ``x`` at ``places``: ``(n, ...)``, with the axes that are whole."""
    if isinstance(x, Table):
        if x.number is not None or x.row_sharding is not None:
            return _take_rows(x, places, reader)
        x = x.value
    if isinstance(x, View):
        return _TAKE[x.name](x, places, reader)
    return cast(take_array(jnp.asarray(x), places), places.dtypes)


def is_view(name: str) -> bool:
    """Whether equations of this primitive can be views."""
    return name in _TAKE


def enumerated(
    x: Any,
    places: Places,
    axes: Sequence[int],
    reader: Reader,
    take_each: Take = take,
) -> jax.Array:
    """The rows, where they can only be had one by one along ``axes``."""
    sizes = [x.shape[axis] for axis in axes]
    total = math.prod(sizes)

    def repeated(values: Any) -> Any:
        if values is None:
            return None
        return jnp.broadcast_to(values[:, None], (places.n, total)).reshape(-1)

    indices = [repeated(index) for index in places.indices]
    for number, axis in enumerate(axes):
        along = lax.broadcasted_iota(jnp.int32, (places.n, *sizes), 1 + number)
        indices[axis] = along.reshape(-1)
    each = dataclasses.replace(
        places.at(indices), n=places.n * total, live=repeated(places.live)
    )
    rows = take_each(x, each, reader)
    rows = rows.reshape(places.n, *sizes, *rows.shape[1:])
    rest = [a for a, index in enumerate(places.indices) if index is None]
    behind = [*axes, *(axis for axis in rest if axis not in axes)]
    return rows.transpose(0, *(1 + behind.index(axis) for axis in rest))


def _take_rows(table: Table, places: Places, reader: Reader) -> jax.Array:
    named = [a for a, index in enumerate(places.indices) if index is not None]
    k = table.row_axes or _row_axes(table.shape, named)
    if not named or named[0] >= k:
        raise NotRows("")
    num_rows = math.prod(table.shape[:k])
    if num_rows > np.iinfo(np.int32).max:
        raise NotRows("rows of which there are 2**31 or more")
    free = [axis for axis in range(k) if places.all_of(axis)]
    if free and places.fixed and k == table.ndim:
        raise NotRows("some columns of all of its rows")
    if free:
        table = dataclasses.replace(table, row_axes=k)
        return enumerated(table, places, free, reader)
    ids = jnp.zeros(places.n, jnp.int32)
    for size, index in zip(table.shape[:k], places.indices, strict=False):
        ids = ids * size + index
    if places.live is not None:
        ids = jnp.where(places.live, ids, num_rows)
    if table.row_sharding is not None:
        rows = read_rows(table.value, ids, k, table.row_sharding)
        rows = split_as(rows, ids)
    else:
        whole = (None,) * (len(table.shape) - k)
        rows = take_array(table.value, places.at((*places.indices[:k], *whole)))
    rows = cast(rows, places.dtypes)
    if table.number is not None:
        rows = reader(table, rows, ids, places)
    inside = places.indices[k:]
    if all(index is None for index in inside):
        return rows
    each = jnp.arange(places.n, dtype=jnp.int32)
    return take_array(rows, places.at((each, *inside)))


def _row_axes(shape: tuple[int, ...], named: Sequence[int]) -> int:
    """How many leading axes name a row, where indices are along the ``named`` ones."""
    k = max(named, default=-1) + 1
    inside = k == len(shape) > 1 and shape[-1] <= LONGEST_ROW
    return k - 1 if inside and len(named) > 1 else k


def in_row(x: Any, axis: int) -> bool:
    """Whether an axis lies within rows, however it is indexed."""
    if not 0 < axis == x.ndim - 1 or x.shape[axis] > LONGEST_ROW:
        return False
    while isinstance(x, View):
        if x.name == "transpose" and x.params["permutation"][-1] != x.ndim - 1:
            return False
        x = next((arg for arg in x.args if any(tables_in(arg))), None)
    return True


def take_array(x: jax.Array, places: Places) -> jax.Array:
    named = [a for a, index in enumerate(places.indices) if index is not None]
    if not named:
        return jnp.broadcast_to(x, (places.n, *x.shape))
    if 0 in x.shape:  # of nothing, nothing can be in bounds
        rest = [x.shape[a] for a in range(x.ndim) if a not in named]
        return jnp.zeros((places.n, *rest), x.dtype)
    index = tuple(slice(None) if i is None else i for i in places.indices)
    rows = x.at[index].get(mode="promise_in_bounds", wrap_negative_indices=False)
    # NumPy's rule: the places' axis is in front, unless the indexed ones are adjacent.
    adjacent = named[-1] - named[0] + 1 == len(named)
    return jnp.moveaxis(rows, named[0], 0) if adjacent else rows


def cast(rows: jax.Array, dtypes: tuple[Any, ...]) -> jax.Array:
    for dtype in dtypes:
        rows = rows.astype(dtype)
    return rows


def as_column(mask: jax.Array, like: jax.Array) -> jax.Array:
    """A mask of places, for rows."""
    return jnp.broadcast_to(jnp.expand_dims(mask, range(1, like.ndim)), like.shape)


# Equations that change the rows of their operands, or where these are.

_ELEMENTWISE = """
    abs add atan2 cbrt clamp copy cos cosh div erf exp exp2 expm1 imag integer_pow
    log log1p logistic max min mul neg pow real rem round rsqrt sign sin sinh sqrt
    square sub tan tanh and or not xor eq ne lt le gt ge is_finite floor ceil
"""


@takes(*_ELEMENTWISE.split())
def _take_elementwise(view: View, places: Places, reader: Reader) -> jax.Array:
    each = dataclasses.replace(places, dtypes=())
    rows = [take(arg, each, reader) if np.ndim(arg) else arg for arg in view.args]
    primitive = equation_of(view).primitive
    return cast(primitive.bind(*rows, **view.params), places.dtypes)


@takes("convert_element_type")
def _take_converted(view: View, places: Places, reader: Reader) -> jax.Array:
    # Not here, but where a row is read, which then has a derivative as precise.
    dtypes = (view.dtype, *places.dtypes)
    return take(view.args[0], dataclasses.replace(places, dtypes=dtypes), reader)


@takes("sharding_constraint")
def _take_same(view: View, places: Places, reader: Reader) -> jax.Array:
    return take(view.args[0], places, reader)


@takes("select_n")
def _take_selected(view: View, places: Places, reader: Reader) -> jax.Array:
    which, *cases = view.args
    if not which.ndim:
        return lax.select_n(which, *(take(case, places, reader) for case in cases))
    named = [a for a, index in enumerate(places.indices) if index is not None]
    before = [a for a in range(max(named, default=0)) if places.all_of(a)]
    if before and not _is_same_along_rows(which, places):
        return enumerated(view, places, before, reader)
    chosen = take(which, dataclasses.replace(places, dtypes=()), reader)
    rows = []
    for number, case in enumerate(cases):
        here = places
        if _is_same_along_rows(which, places):
            case_of = chosen.reshape(places.n, -1)[:, 0].astype(jnp.int32)
            here = places.where(case_of == number)
        rows.append(take(case, here, reader))
    return lax.select_n(chosen, *rows)


def _is_same_along_rows(which: Any, places: Places) -> bool:
    """Whether all of a row is from one of the cases, whatever the data."""
    inside = [axis for axis, index in enumerate(places.indices) if index is None]
    if isinstance(which, View) and which.name == "broadcast_in_dim":
        sizes = np.ones(which.ndim, int)
        sizes[list(which.params["broadcast_dimensions"])] = np.shape(which.args[0])
        return all(sizes[axis] == 1 for axis in inside)
    return all(which.shape[axis] == 1 for axis in inside)


@takes("squeeze")
def _take_squeezed(view: View, places: Places, reader: Reader) -> jax.Array:
    x, rest = view.args[0], iter(places.indices)
    gone = [axis % len(x.shape) for axis in view.params["dimensions"]]
    at = [places.full(0) if a in gone else next(rest) for a in range(len(x.shape))]
    return take(x, places.at(at), reader)


@takes("broadcast_in_dim")
def _take_broadcast(view: View, places: Places, reader: Reader) -> jax.Array:
    x, axes = view.args[0], view.params["broadcast_dimensions"]
    at: list[Any] = []
    for size, axis in zip(np.shape(x), axes, strict=True):
        index = places.indices[axis]
        same = size == view.shape[axis]
        at.append(index if same or index is None else places.full(0))
    rows = take(x, places.at(at), reader)
    rest = [axis for axis in range(len(view.shape)) if places.all_of(axis)]
    mine = [axis for axis in axes if places.all_of(axis)]
    shape = (places.n, *(view.shape[axis] for axis in rest))
    return lax.broadcast_in_dim(
        rows, shape, (0, *(1 + rest.index(axis) for axis in mine))
    )


@takes("transpose")
def _take_transposed(view: View, places: Places, reader: Reader) -> jax.Array:
    order = view.params["permutation"]
    at: list[Any] = [None] * len(order)
    for axis, index in zip(order, places.indices, strict=True):
        at[axis] = index
    rows = take(view.args[0], places.at(at), reader)
    rest = [axis for axis, index in enumerate(at) if index is None]
    return rows.transpose(0, *(1 + rest.index(axis) for axis in order if axis in rest))


@takes("tile")
def _take_tiled(view: View, places: Places, reader: Reader) -> jax.Array:
    x, reps = view.args[0], view.params["reps"]
    at = [
        None if index is None else index % size
        for size, index in zip(x.shape, places.indices, strict=True)
    ]
    rows = take(x, places.at(at), reader)
    inside = [reps[axis] for axis, index in enumerate(at) if index is None]
    return jnp.tile(rows, (1, *inside))


@takes("rev")
def _take_reversed(view: View, places: Places, reader: Reader) -> jax.Array:
    turned = view.params["dimensions"]
    at = [
        size - 1 - index if axis in turned and index is not None else index
        for axis, (size, index) in enumerate(
            zip(view.shape, places.indices, strict=True)
        )
    ]
    rows = take(view.args[0], places.at(at), reader)
    rest = [axis for axis, index in enumerate(at) if index is None]
    return lax.rev(rows, [1 + rest.index(axis) for axis in turned if axis in rest])
