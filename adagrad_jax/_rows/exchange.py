"""Rows of a table that lies on many devices, read and visited where they are.

Each device has a block of a table's rows (:class:`RowSharding`) and a part of the ids.
It finds its distinct ids, and orders them by owner and by a one-to-one hash of the row.
In a *pass* it sends every owner the next of them, in a buffer of fixed size, by
``all_to_all``; rows come back the same way, and gradients, summed per device first, go
with the ids.

What does not fit is left to further passes. How far a pass goes is agreed on: up to the
smallest hash, over all devices and owners, up to which a full buffer reaches. So no
buffer overflows, all entries of a row are in one pass and each sum is complete before
it is squared, each pass gets on whatever the ids are, and if all fits, there is one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from adagrad_jax._rows.blocks import read
from adagrad_jax._rows.distinct import find_distinct, in_order
from adagrad_jax._rows.fold import (
    Operands,
    RowsOf,
    Visit,
    Visited,
    fold,
    index_of,
)
from adagrad_jax._rows.placement import gathered, varying_as, with_automatic_axes
from adagrad_jax._rows.row_sharding import RowSharding
from adagrad_jax._rows.sums import Sums

State = TypeVar("State")

_NO_BOUND = 0xFFFFFFFF
_ODD = 0x9E3779B1  # near 2^32 times the golden ratio; odd: one-to-one modulo 2^32


class Queue(NamedTuple):
    """What a device has to send: its distinct ids, in the order in which they go.

    Attributes:
      order: ``(n,)``, the slot of each.
      row: ``(n,)``, its row at its owner; the number of an owner's rows, for none.
      key: ``(n,)``, the hash of that; ascending for each owner.
      start: ``(N,)``, where what each owner has yet to get begins,
      end: ``(N,)``, and ends.
    """

    order: jax.Array
    row: jax.Array
    key: jax.Array
    start: jax.Array
    end: jax.Array


class Agreed(NamedTuple):
    """What all devices know of the next pass.

    Attributes:
      bound: The largest hash that is sent.
      left: How many ids some device has yet to send some owner, at most.
    """

    bound: jax.Array
    left: jax.Array


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Between the devices that have a table's rows.

    Attributes:
      row_sharding: Which has which.
      num_rows: How many rows there are.
      num_ids: How many ids a device has.
    """

    row_sharding: RowSharding
    num_rows: int
    num_ids: int

    @property
    def num_devices(self) -> int:
        return self.row_sharding.num_shards

    @property
    def num_own(self) -> int:
        """How many rows a device has."""
        return self.num_rows // self.num_devices

    @property
    def buffer(self) -> int:
        """How many ids fit a pass, from one device to another.

        Where that is few, chance makes some pair of devices have more than twice the
        mean; by Bernstein's inequality, likely no pair has more than this.
        """
        mean = self.row_sharding.capacity * self.num_ids / self.num_devices / 2
        pairs = 2 * math.log(self.num_devices)
        room = max(2 * mean, mean + math.sqrt(2 * mean * pairs) + pairs / 3)
        return min(math.ceil(room), self.num_ids, self.num_own)

    @property
    def first_row(self) -> jax.Array:
        """The number of this device's first row."""
        return lax.axis_index(self.row_sharding.axes) * jnp.int32(self.num_own)

    def queue(self, ids: jax.Array) -> Queue:
        """Of distinct ids; ``num_rows`` stands for none."""
        owner, row = ids // self.num_own, ids % self.num_own
        row = jnp.where(owner < self.num_devices, row, self.num_own)
        key = row.astype(jnp.uint32) * jnp.uint32(_ODD)
        slot = jnp.arange(ids.size, dtype=jnp.int32)
        owner, key, row, order = lax.sort((owner, key, row, slot), num_keys=2)
        devices = jnp.arange(self.num_devices, dtype=owner.dtype)
        start, end = (jnp.searchsorted(owner, devices, side=s) for s in _SIDES)
        return Queue(order, row, key, start, end)

    def agree(self, queue: Queue) -> Agreed:
        last = queue.start + (self.buffer - 1)
        is_full = last + 1 < queue.end
        at_most = read(queue.key, jnp.minimum(last, queue.key.size - 1))
        bound = jnp.min(jnp.where(is_full, at_most, jnp.uint32(_NO_BOUND)))
        left = jnp.max(queue.end - queue.start).astype(jnp.uint32)
        bound, rest = lax.pmin(jnp.stack([bound, ~left]), self.row_sharding.axes)
        return Agreed(bound, ~rest)

    def window(self, queue: Queue, agreed: Agreed) -> tuple[jax.Array, jax.Array]:
        """The places in the queue that go next, ``(N, buffer)``, and which count."""
        steps = jnp.arange(self.buffer, dtype=queue.start.dtype)
        at = queue.start[:, None] + steps[None]
        inside = at < queue.end[:, None]
        at = jnp.minimum(at, queue.key.size - 1)
        return at, inside & (read(queue.key, at) <= agreed.bound)

    def swap(self, buffers: jax.Array) -> jax.Array:
        """Gives each device what each has for it."""
        return lax.all_to_all(buffers, self.row_sharding.axes, 0, 0, tiled=True)

    def ask(self, queue: Queue, at: jax.Array, valid: jax.Array) -> jax.Array:
        """Which of its rows every device wants of this one, ``(N, buffer)``."""
        return self.swap(jnp.where(valid, read(queue.row, at), self.num_own))

    def in_passes(
        self,
        one_pass: Callable[[State, Queue, jax.Array, jax.Array], tuple[State, Queue]],
        state: State,
        queue: Queue,
    ) -> tuple[State, Queue]:
        """``one_pass(state, queue, at, valid)`` until all devices have sent all."""

        def body(carry: tuple[State, Queue, Agreed]) -> tuple[State, Queue, Agreed]:
            state, queue, agreed = carry
            at, valid = self.window(queue, agreed)
            state, queue = one_pass(state, queue, at, valid)
            queue = sent(queue, valid)
            return state, queue, self.agree(queue)

        carry = state, queue, self.agree(queue)
        return lax.while_loop(lambda carry: carry[2].left > 0, body, carry)[:2]

    def by_device(
        self, function: Callable[..., Any], args: Any, in_specs: Any, out_specs: Any
    ) -> Any:
        """``function(*args)`` on each device, of its parts of the arrays."""
        axes = set(self.row_sharding.axes)

        def call(*args: Any) -> Any:
            context = jax.sharding.get_abstract_mesh()
            mesh = self.row_sharding.mesh if context.empty else None
            mapped = jax.shard_map(
                function,
                mesh=mesh,
                in_specs=in_specs,
                out_specs=out_specs,
                axis_names=axes,
                check_vma=False,
            )
            return varying_as(mapped(*args), args)

        return with_automatic_axes(call, args, out_specs)


_SIDES = "left", "right"


def sent(queue: Queue, valid: jax.Array) -> Queue:
    """What is left in the queue."""
    number = jnp.sum(valid, axis=1, dtype=queue.start.dtype)
    return queue._replace(start=queue.start + number)


def split_evenly(
    x: jax.Array, row_sharding: RowSharding, fill: int, axis: int = 0
) -> jax.Array:
    """``x``, with so much more along an axis that the devices divide it."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = 0, -x.shape[axis] % row_sharding.num_shards
    return jnp.pad(x, pad, constant_values=fill)


def read_rows(
    table: jax.Array, ids: jax.Array, row_axes: int, row_sharding: RowSharding
) -> jax.Array:
    """The rows ``(n, ...)`` of ``n`` ids; anything, for those of none.

    ``ids`` count rows along the first ``row_axes`` axes, row-major.
    """
    num_rows, n = math.prod(table.shape[:row_axes]), ids.size
    if 0 in (num_rows, n):
        return jnp.zeros((n, *table.shape[row_axes:]), table.dtype)
    ids = split_evenly(ids, row_sharding, num_rows)
    exchange = Exchange(row_sharding, num_rows, ids.size // row_sharding.num_shards)

    def read_own(table: jax.Array, ids: jax.Array) -> jax.Array:
        distinct = in_order(find_distinct(ids, num_rows))
        num_slots = distinct.ids.size

        def one_pass(rows: Any, queue: Queue, at: Any, valid: Any) -> Any:
            wanted = jnp.minimum(exchange.ask(queue, at, valid), exchange.num_own - 1)
            answer = read(table, index_of(wanted, table.shape[:row_axes]))
            to = jnp.where(valid, read(queue.order, at), num_slots)
            answer = exchange.swap(answer)
            return rows.at[to].set(answer, mode="promise_in_bounds"), queue

        rows = jnp.zeros((num_slots + 1, *table.shape[row_axes:]), table.dtype)
        rows, _ = exchange.in_passes(one_pass, rows, exchange.queue(distinct.ids))
        return read(rows, distinct.slot)

    spec = row_sharding.spec
    return exchange.by_device(read_own, (table, ids), (spec, spec), spec)[:n]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Arrived:
    """Entries that went to the devices which have their rows.

    Arrays have an axis of devices in front, along which they are split.

    Attributes:
      first: What the first pass brought.
      rest: What each device has for further ones, slot by slot.
      queue: The order of these.
      exchange: Between whom.
    """

    first: Sums
    rest: jax.Array
    queue: Queue
    exchange: Exchange = dataclasses.field(metadata={"static": True})


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def arrive(
    ids: jax.Array,
    entries: jax.Array,
    num_rows: int,
    row_axes: int,
    dtype: Any,
    row_sharding: RowSharding,
) -> Arrived:
    """Sends what a gradient has of each row to where the row is."""
    ids = split_evenly(ids, row_sharding, num_rows)
    entries = split_evenly(entries, row_sharding, 0)
    exchange = Exchange(row_sharding, num_rows, ids.size // row_sharding.num_shards)

    def send(ids: jax.Array, entries: jax.Array) -> Arrived:
        sums = Sums.of(ids, entries, num_rows, row_axes, dtype)
        rows = sums.rows.astype(entries.dtype)  # not rounded yet: their sums will be
        queue = exchange.queue(sums.distinct.ids)
        at, valid = exchange.window(queue, exchange.agree(queue))
        first = _brought(exchange, queue, rows, at, valid, row_axes, dtype)
        return _stacked(Arrived(first, rows, sent(queue, valid), exchange))

    spec = row_sharding.spec
    return exchange.by_device(send, (ids, entries), (spec, spec), spec)


def _stacked(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[None], tree)


def _own(tree: Any) -> Any:
    return jax.tree.map(lambda x: x[0], tree)


def _brought(
    exchange: Exchange,
    queue: Queue,
    rows: jax.Array,
    at: jax.Array,
    valid: jax.Array,
    row_axes: int,
    dtype: Any,
) -> Sums:
    """What a pass brings, at the owners."""
    ids = exchange.ask(queue, at, valid).reshape(-1)
    used = jnp.expand_dims(valid, range(2, rows.ndim + 1))
    entries = exchange.swap(jnp.where(used, read(rows, read(queue.order, at)), 0))
    entries = entries.reshape(ids.size, *rows.shape[1:])
    how = exchange.num_own, row_axes, dtype, exchange.first_row
    return Sums.of(ids, entries, *how)


_BOTH = {"sum": jnp.add, "max": jnp.maximum}
_OF_ALL = {"sum": lax.psum, "max": lax.pmax}


@functools.partial(jax.jit, static_argnums=0)
def fold_arrived(
    visit: Visit, arrived: Arrived, tables: Any, operands: Operands
) -> Visited:
    """:func:`fold` at each device, in as many passes as it takes.

    What is ``mapped`` is :class:`Arrived` again: of the first pass where it is, of the
    others back where its entries came from.
    """
    exchange, spec = arrived.exchange, arrived.exchange.row_sharding.spec

    def visit_own(arrived: Arrived, tables: Any, operands: Operands) -> Any:
        arrived = _own(arrived)
        visited = fold(visit, arrived.first, tables, operands)

        def one_pass(state: Any, queue: Queue, at: Any, valid: Any) -> Any:
            (tables, totals, returned), first = state, arrived.first
            sums = _brought(
                exchange, queue, arrived.rest, at, valid, first.row_axes, first.dtype
            )
            visited = fold(visit, sums, tables, operands)
            if not isinstance(visited.mapped, tuple):
                mapped, is_mine = _sent_back(exchange, visited.mapped, sums)
                to = jnp.where(valid, read(queue.order, at), n - 1)
                returned = returned.at[to].set(mapped, mode="promise_in_bounds")
                queue = _only(queue, at, is_mine | ~valid, exchange.num_own)
            totals = jax.tree.map(_BOTH[visit.reduction], totals, visited.totals)
            return (visited.tables, totals, returned), queue

        # One more place than slots, for what is returned to none.
        n = arrived.rest.shape[0] + 1
        returned = jax.tree.map(
            lambda x: jnp.zeros((n, *x.shape[1:]), x.dtype), visited.mapped
        )
        state = visited.tables, visited.totals, returned
        state, queue = exchange.in_passes(one_pass, state, arrived.queue)
        tables, totals, returned = state
        axes, of_all = exchange.row_sharding.axes, _OF_ALL[visit.reduction]
        totals = jax.tree.map(lambda x: of_all(x, axes), totals)
        queue = queue._replace(start=arrived.queue.start)
        mapped = _remade(arrived, visited.mapped, returned, queue)
        return Visited(_stacked(mapped), tables, totals)

    specs = jax.tree.map(
        lambda x: spec if isinstance(x, RowsOf) else PartitionSpec(),
        operands,
        is_leaf=lambda x: isinstance(x, RowsOf),
    )
    return exchange.by_device(
        visit_own,
        (arrived, tables, operands),
        (spec, spec, specs),
        Visited(spec, spec, PartitionSpec()),
    )


def _sent_back(
    exchange: Exchange, mapped: jax.Array, sums: Sums
) -> tuple[jax.Array, jax.Array]:
    """To one device that sent entries of a row, what the row became; else zeros."""
    distinct = in_order(sums.distinct)
    slot, num_slots = distinct.slot, mapped.shape[0]
    position = jnp.arange(slot.size, dtype=jnp.int32)
    first = jnp.full(num_slots + 1, slot.size, jnp.int32)
    first = first.at[slot].min(position, mode="promise_in_bounds")
    is_first = (read(first, slot) == position) & (slot < num_slots)
    rows = read(mapped, jnp.minimum(slot, num_slots - 1))
    rows = jnp.where(jnp.expand_dims(is_first, range(1, rows.ndim)), rows, 0)
    shape = exchange.num_devices, exchange.buffer
    rows = exchange.swap(rows.reshape(*shape, *rows.shape[1:]))
    return rows, exchange.swap(is_first.reshape(shape))


def _only(queue: Queue, at: jax.Array, kept: jax.Array, none: int) -> Queue:
    """The queue, where what is not kept of the places ``at`` names no row any more."""
    extra = jnp.append(queue.row, none)
    to = jnp.where(kept, queue.row.size, at)
    extra = extra.at[to].set(none, mode="promise_in_bounds")
    return queue._replace(row=extra[:-1])


def _remade(arrived: Arrived, mapped: Any, returned: Any, queue: Queue) -> Any:
    if isinstance(mapped, tuple):
        return ()
    first = dataclasses.replace(arrived.first, rows=mapped, dtype=mapped.dtype)
    return dataclasses.replace(arrived, first=first, rest=returned[:-1], queue=queue)


@jax.jit
def entries_of(arrived: Arrived) -> tuple[jax.Array, jax.Array]:
    """Their ids, of which the number of rows stands for none, and the entries.

    Of entries that are mapped, each row is there once.
    """
    exchange, spec = arrived.exchange, arrived.exchange.row_sharding.spec
    num_rows, num_own = exchange.num_rows, exchange.num_own

    def own_entries(arrived: Arrived) -> tuple[jax.Array, jax.Array]:
        arrived = _own(arrived)
        ids, rows = arrived.first.distinct.ids, arrived.first.rows
        named = ids < num_own
        rows = jnp.where(jnp.expand_dims(named, range(1, rows.ndim)), rows, 0)
        ids = jnp.where(named, exchange.first_row + ids, num_rows)
        order, row, _, start, end = arrived.queue
        place = jnp.arange(row.size, dtype=end.dtype)
        owner = jnp.searchsorted(end, place, side="right").astype(jnp.int32)
        is_left = place >= read(start, jnp.minimum(owner, exchange.num_devices - 1))
        is_left &= (owner < exchange.num_devices) & (row < num_own)
        rest = jnp.where(is_left, owner * num_own + row, num_rows)
        return (
            jnp.concatenate([ids, rest]),
            jnp.concatenate([rows, read(arrived.rest, order)]),
        )

    return exchange.by_device(own_entries, (arrived,), (spec,), (spec, spec))


def join(
    parts: list[tuple[jax.Array, jax.Array]],
    num_rows: int,
    row_sharding: RowSharding | None,
) -> tuple[jax.Array, jax.Array]:
    """All ids and entries, ``(..., n)`` and ``(..., n, *row)``, after one another."""
    if row_sharding is not None:
        return _joined(parts, num_rows, row_sharding)
    ids = [gathered(ids.reshape(-1)) for ids, _ in parts]
    values = [gathered(x.reshape(ids.size, *x.shape[ids.ndim :])) for ids, x in parts]
    return jnp.concatenate(ids), jnp.concatenate(values)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _joined(
    parts: list[tuple[jax.Array, jax.Array]], num_rows: int, row_sharding: RowSharding
) -> tuple[jax.Array, jax.Array]:
    """On each device those of its part: axes in front of the last are a scan's."""
    padded, specs = [], []
    for ids, entries in parts:
        axis = ids.ndim - 1
        entries = split_evenly(entries, row_sharding, 0, axis)
        padded.append((split_evenly(ids, row_sharding, num_rows, axis), entries))
        specs.append(PartitionSpec(*[None] * axis, row_sharding.axis))

    def join(parts: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, jax.Array]:
        ids = [ids.reshape(-1) for ids, _ in parts]
        entries = [x.reshape(i.size, *x.shape[i.ndim :]) for i, x in parts]
        return jnp.concatenate(ids), jnp.concatenate(entries)

    exchange, spec = Exchange(row_sharding, num_rows, 0), row_sharding.spec
    return exchange.by_device(join, (padded,), (specs,), (spec, spec))
