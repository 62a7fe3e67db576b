"""The forms that random programs are made of, and what each must give.

A program hands a table ``p`` and some ``ids`` through *views*, which make another array
of the table, and *surroundings*, which put ``jit``, ``scan`` and the like around all
that comes after them, to a *read*; then something is *done* with what was read. Views,
reads and what is done are Python expressions, so that their names are what they are.

Beside each stands what the gradient of ``p`` must be: ``ROWS``, a ``RowSparse`` which
names exactly the rows that were read; or why it may be, or is, an ordinary array.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

ROWS = "rows"


class Either(str):
    """Why a form need not give rows, but may."""


class Dense(str):
    """Why a form cannot give rows."""


class Form(NamedTuple):
    """One of the forms.

    Attributes:
      name: How it is called, in an expression's case the expression.
      apply: Of what it makes a function ``(p, ids) -> array``: a view and surroundings
        of another one, that comes after them; a read, and what is done, of nothing.
      ranks: For each rank of ``p`` that it takes the rank that comes after it.
      gives: ``ROWS``, or an ``Either`` or ``Dense``.
      some: Whether rows may be named that have no derivative, since they are read
        nevertheless.
    """

    name: str
    apply: Callable[..., Any]
    ranks: dict[int, int]
    gives: str = ROWS
    some: bool = False


class Given(NamedTuple):
    """What expressions know as ``k``: arrays that are given to the program."""

    scale: jax.Array  # (), is differentiated too
    other: jax.Array  # (5, D), another table
    layer: jax.Array  # (), int32
    flag: jax.Array  # (), bool
    phase: jax.Array  # (), int32
    rows: jax.Array  # (4,) int32: repeated, negative and out of range


def mask(p: jax.Array, k: Given) -> jax.Array:
    """Two of three rows, as the data says."""
    kept = (jnp.arange(len(p), dtype=jnp.int32) + k.phase) % 3 > 0
    return kept.reshape(-1, *[1] * (p.ndim - 1))


def zeros(p: jax.Array, n: int = 1) -> jax.Array:
    return jnp.zeros((n, *p.shape[1:]), p.dtype)


def other(p: jax.Array, k: Given) -> jax.Array:
    """The other table, with rows like those of ``p``."""
    return jnp.tile(k.other, (1, 32))[:, : p.shape[1]].astype(p.dtype)


def each(read: Callable[[Any], Any], ids: jax.Array) -> jax.Array:
    """``read`` by one id, for ids of any rank."""
    for _ in range(ids.ndim):
        read = jax.vmap(read)
    return read(ids)


def both(ids: jax.Array) -> jax.Array:
    return jnp.stack([ids, jnp.flip(ids)])


def inside(p: jax.Array, ids: jax.Array) -> jax.Array:
    return jnp.clip(ids, 0, len(p) - 1)


NAMES = {
    **dict(jax=jax, jnp=jnp, lax=lax, np=np),
    **{f.__name__: f for f in (mask, zeros, other, each, both, inside)},
}
ANY = {1: 1, 2: 2, 3: 3}
TABLE = {2: 2}


def view(name, ranks, gives=ROWS, some=False):
    function = eval(f"lambda p, k: {name}", NAMES)

    def apply(rest, k):
        return lambda p, ids: rest(function(p, k), ids)

    return Form(name, apply, ranks, gives, some)


def read(name, ranks, gives=ROWS, some=False):
    function = eval(f"lambda p, ids, k: {name}", NAMES)

    def apply(k):
        return lambda p, ids: function(p, ids, k)

    return Form(name, apply, dict.fromkeys(ranks, 0), gives, some)


VIEWS = [
    view("p.astype(jnp.float32)", ANY),
    view("p.astype(jnp.bfloat16)", ANY),
    view("p.astype(jnp.float16)", ANY),
    view("p[1:]", ANY),
    view("p[1::2]", ANY),
    view("p[:-1]", ANY),
    view("p[::-1]", ANY),
    view("p[None][0]", ANY),
    view("p[jnp.newaxis, :-1].squeeze(0)", ANY),
    view("3 * p + 1", ANY),
    view("jnp.tanh(p / 64)", ANY),
    view("p * k.scale.astype(p.dtype)", ANY),
    view("jnp.concatenate([zeros(p), p])", ANY),
    view("jnp.concatenate([p, 1 + zeros(p, 2)])", ANY),
    view("jnp.concatenate([p, p])", ANY),
    view("jnp.pad(p, [(1, 2)] + [(0, 0)] * (p.ndim - 1))", ANY),
    view("p.at[0].set(0.0)", ANY),
    view("p.at[-1].set(4.0)", ANY),
    view("p.at[k.rows].set(2.0)", ANY),
    view("p.at[jnp.array([2, 0])].set(zeros(p, 2) + 1)", ANY),
    view("jnp.where(mask(p, k), p, 0)", ANY),
    view("jnp.where(mask(p, k), p, lax.stop_gradient(p))", ANY),
    view("lax.stop_gradient(p)", ANY),
    view("p[:, :2]", TABLE),
    view("p[:, 1:]", TABLE),
    view("p.T", TABLE),
    view("jnp.concatenate([p, other(p, k)])", TABLE),
    view("jnp.concatenate([other(p, k), p])", TABLE),
    view("p[1]", {3: 2}),
    view("p[k.layer]", {3: 2}),
    view("p[:, 1]", {3: 2}),
    view("p.reshape(-1, p.shape[-1])", {3: 2}),
    view("p[:4].reshape(2, -1)", TABLE),
    view("jnp.concatenate([p, 2 * p], 1).reshape(-1, p.shape[1])", TABLE),
    view(
        "p.reshape(1, *p.shape)",
        {1: 2, 2: 3},
        Either("of what has a single row, each lookup reads all"),
    ),
    view("p[:, None]", {1: 2, 2: 3}),
    view("p[:, ::-1]", TABLE, Either("its rows would have to be turned around")),
    view("p.reshape(-1)", {2: 1}, Either("rows are taken apart")),
    view("p[:, 0]", {2: 1}, Either("one column of a table")),
    view("jnp.cumsum(p, axis=-1)", TABLE, Either("rows of it are made of rows of p")),
    view("p + jnp.sum(p)", ANY, Dense("every row is read")),
    view("jnp.sort(p, axis=0)", ANY, Dense("any row may be any other")),
    view("jnp.cumsum(p, axis=0)", ANY, Dense("every row is read")),
]

READS = [
    read("p[ids]", ANY),
    read("p[ids, ...]", ANY),
    read("p.at[ids].get(mode='clip')", ANY),
    read("p.at[ids].get(mode='fill', fill_value=0)", ANY),
    read("p.at[ids].get(mode='fill', fill_value=7)", ANY),
    read("p.at[inside(p, ids)].get(mode='promise_in_bounds')", ANY),
    read("jnp.take(p, ids, axis=0)", ANY),
    read("jnp.take(p, ids, axis=0, mode='clip')", ANY),
    read("jnp.take(p, ids, axis=0, mode='wrap')", ANY),
    read("jnp.take(p, ids, axis=0, mode='fill', fill_value=3)", ANY),
    read("each(lambda i: p[i], ids)", ANY),
    read("each(lambda i: lax.dynamic_index_in_dim(p, i), ids)", ANY),
    read("each(lambda i: lax.dynamic_slice_in_dim(p, i, 1 + (len(p) > 1)), ids)", ANY),
    read("p[ids.size]", ANY),
    read("p[-1]", ANY),
    read("p[1:3]", ANY),
    read("p[ids] * p[0]", {1}, some=True),
    read("p[ids] + lax.stop_gradient(jnp.sum(p))", ANY),
    read("lax.stop_gradient(p[ids])", ANY, some=True),
    read("p[jnp.argmax(p, axis=0)]", {1}),
    read("p[ids, :2]", {2}),
    read("p[ids, jnp.ones_like(ids)]", {2}),
    read("p[ids[..., None], jnp.array([1, 0], ids.dtype)]", {2}),
    read("p[:, ids]", {2, 3}),
    read("jnp.take(p, ids, axis=1)", {2, 3}),
    read("p[k.layer.astype(ids.dtype), ids]", {3}),
    read("p[0, ids]", {3}),
    read("p[jnp.ones_like(ids), ids]", {3}),
    read("p[k.layer][ids]", {3}),
    read("jax.vmap(lambda table, i: table[i])(p, both(ids)[jnp.arange(len(p)) % 2])",
         {2, 3}),
    read("p[ids] @ p.T", {2}, Dense("tied: the whole table is an output layer")),
    read("jax.nn.one_hot(ids, len(p), dtype=p.dtype) @ p", {2},
         Dense("a product of the whole table")),
    read("jnp.take_along_axis(p, ids.reshape(-1, 1), axis=0)", {2},
         Either("an element of each column, by ids for each")),
]  # fmt: skip


# What stands around a read.


def around(ranks=ANY, gives=ROWS, some=False):
    def form(function):
        def apply(rest, k):
            return function(rest, k)

        SURROUNDINGS.append(Form(function.__name__, apply, ranks, gives, some))
        return function

    return form


SURROUNDINGS: list[Form] = []


@around()
def jit(read, k):
    return jax.jit(read)


@around()
def jit_traced(read, k):
    """What was traced can be called, if it closes over no array: JAX fails then."""

    def call(p, ids):
        traced = jax.jit(read).trace(p, ids)
        closed = len(traced.jaxpr.in_avals) > 2 or traced.jaxpr.consts
        return (jax.jit(read) if closed else traced)(p, ids)

    return call


@around()
def jit_of_the_view_only(read, k):
    return lambda p, ids: read(jax.jit(lambda p: p)(p), ids)


@around()
def remat(read, k):
    return jax.checkpoint(read)


@around()
def remat_of_a_closure(read, k):
    def call(p, ids):
        return jax.checkpoint(
            lambda ids: read(p, ids), policy=jax.checkpoint_policies.dots_saveable
        )(ids)

    return call


@around()
def scan(read, k):
    """Over microbatches."""

    def scanned(p, ids):
        def turn(count, ids):
            rows = read(p, ids)
            return count + 1, count.astype(rows.dtype) * rows

        return lax.scan(turn, k.scale, both(ids))[1]

    return scanned


@around()
def scan_that_sums(read, k):
    def scanned(p, ids):
        rows = jax.eval_shape(read, p, ids)

        def turn(total, ids):
            return total + read(p, ids), None

        start = jnp.zeros(rows.shape, rows.dtype)
        return lax.scan(turn, start, both(ids), reverse=True, unroll=2)[0]

    return scanned


@around()
def scan_of_remat(read, k):
    def scanned(p, ids):
        turn = jax.checkpoint(lambda carry, ids: (carry, read(p, ids)))
        return lax.scan(turn, None, both(ids))[1]

    return scanned


@around()
def fori_loop(read, k):
    def looped(p, ids):
        rows = jax.eval_shape(read, p, ids)
        start = jnp.zeros(rows.shape, rows.dtype)
        return lax.fori_loop(0, 2, lambda _, total: total + read(p, ids), start)

    return looped


@around()
def lax_map(read, k):
    return lambda p, ids: lax.map(lambda ids: read(p, ids), both(ids))


@around()
def vmap(read, k):
    return lambda p, ids: jax.vmap(read, (None, 0))(p, both(ids))


@around()
def vmap_of_last_axes(read, k):
    return lambda p, ids: jax.vmap(read, (None, -1), -1)(
        p, jnp.stack([ids, jnp.flip(ids)], -1)
    )


@around()
def cond(read, k):
    """Only one of the branches reads."""

    def call(p, ids):
        rows = jax.eval_shape(read, p, ids)
        return lax.cond(
            k.flag, read, lambda p, ids: jnp.ones(rows.shape, rows.dtype), p, ids
        )

    return call


@around()
def cond_of_closures(read, k):
    """Both branches read, but other rows."""

    def call(p, ids):
        return lax.cond(
            k.flag, lambda: read(p, ids), lambda: 2 * read(p, jnp.flip(ids) // 2)
        )

    return call


@around(some=True)
def cond_by_ids(read, k):
    """By ``vmap`` a ``select``, with both branches computed."""

    def call(p, ids):
        return lax.cond(
            jnp.sum(ids) % 2 == 0, read, lambda p, ids: 2 * read(p, ids), p, ids
        )

    return call


@around()
def switch(read, k):
    def call(p, ids):
        one, two = (lambda p, ids: read(p, ids)), (lambda p, ids: 2 * read(p, ids // 2))
        return lax.switch(k.phase, [one, two, one], p, ids)

    return call


@around()
def while_loop_for_the_ids(read, k):
    """Which reads the table, but nothing is differentiated through it."""

    def call(p, ids):
        count = lax.while_loop(
            lambda n: (n < 2) & (jnp.sum(p[n]) > -1e4), lambda n: n + 1, 0
        )
        return read(p, ids + count.astype(ids.dtype) - jnp.ones_like(ids))

    return call


@around()
def twice(read, k):
    return lambda p, ids: read(p, ids) + 2 * read(p, jnp.flip(ids) // 2)


@around({3: 2})
def layers(read, k):
    """A scan over stacked tables."""

    def scanned(p, ids):
        return lax.scan(lambda carry, p: (carry, read(p, ids)), None, p)[1]

    return scanned


@around({3: 2})
def layers_with_their_ids(read, k):
    def scanned(p, ids):
        def turn(carry, x):
            return carry, read(*x)

        stacked = both(ids)[jnp.arange(len(p)) % 2]
        return lax.scan(jax.checkpoint(turn), None, (p, stacked), reverse=True)[1]

    return scanned


@around({3: 2})
def layers_by_number(read, k):
    """How else one scans over stacked tables."""

    def scanned(p, ids):
        def turn(carry, layer):
            return carry, read(p[layer], ids)

        return lax.scan(turn, None, jnp.arange(len(p)))[1]

    return scanned


@around({3: 2})
def vmap_of_tables(read, k):
    return lambda p, ids: jax.vmap(read, (0, None))(p, ids)


@around({3: 2})
def vmap_of_tables_and_ids(read, k):
    return lambda p, ids: jax.vmap(read)(p, both(ids)[jnp.arange(len(p)) % 2])


@around({3: 2})
def vmap_of_middle_axes(read, k):
    return lambda p, ids: jax.vmap(read, (1, None), 0)(p, ids)


@around(gives=Dense("the rule of a function of the table must be used"))
def custom_jvp(read, k):
    """With a rule that gives twice the derivative."""
    with_rule = jax.custom_jvp(read)

    @with_rule.defjvp
    def _(primals, tangents):
        p, ids = primals
        rows, tangent = jax.jvp(lambda p: read(p, ids), (p,), tangents[:1])
        return rows, 2 * tangent

    return with_rule


@around(gives=Dense("the rule of a function of the table must be used"))
def custom_vjp(read, k):
    """With a rule that gives a derivative of 2 in each place."""
    with_rule = jax.custom_vjp(read)

    with_rule.defvjp(
        lambda p, ids: (read(p, ids), p), lambda p, _: (jnp.full_like(p, 2), None)
    )
    return with_rule


@around(gives=Dense("the table is carried, and could be another in each turn"))
def carried(read, k):
    def scanned(p, ids):
        def turn(p, ids):
            return 2 * p, read(p, ids)

        return lax.scan(turn, p, both(ids))[1]

    return scanned


# What is done with what was read: `x` in float32, with numbers `w` of its shape.


def done(name, gives=ROWS, some=False):
    function = eval(f"lambda x, w: {name}", NAMES)
    return Form(name, lambda: function, {}, gives, some)


def matrix(rows: jax.Array) -> jax.Array:
    """(D, 2), for rows of D numbers."""
    numbers = 1 + jnp.arange(2 * rows.shape[-1]) % 3
    return numbers.reshape(-1, 2).astype(jnp.float32)


NAMES["matrix"] = matrix
DONE = [
    done("jnp.sum(w * x)"),
    done("jnp.sum(w * x * x)"),
    done("jnp.sum(w * x) + jnp.sum(x * x)"),
    done("jnp.sum(w * jax.nn.relu(x))"),
    done("jnp.sum(w * jnp.tanh(x / 64))"),
    done("jnp.sum(jnp.atleast_2d(x) @ matrix(jnp.atleast_2d(x)))"),
    # A zero that was padded may be the other factor.
    done("jnp.sum(x.reshape(-1) * x.reshape(-1)[::-1])", some=True),
]
