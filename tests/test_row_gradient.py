"""``value_and_grad`` and ``grad``: JAX's gradients, with the rows of tables by themselves.

Tables and factors are small integers: every partial sum is exact, in bfloat16 too, so
that the order in which duplicates are summed makes no difference and gradients can be
compared for equality. Only the frameworks, whose numbers are theirs, are compared to
within rounding.
"""

import collections
import dataclasses
import functools
import inspect
import math
import re
from typing import NamedTuple

import equinox as eqx
import flax.linen
import flax.nnx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.extend import core
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj

V, D = 6, 4
TABLE = (jnp.arange(24.0).reshape(V, D) * 7) % 5 - 2
IDS = jnp.array([1, 4, 1])
BFLOAT16 = jnp.bfloat16


def to_dense(gradients):
    return jax.tree.map(
        lambda g: g.to_dense() if isinstance(g, aj.RowSparse) else g, gradients
    )


def assert_equal(actual, expected, rtol=0.0):
    """Of the same structure, dtypes, shapes and values."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.result_type(a) == jnp.result_type(e)
        if jnp.result_type(e) == jax.dtypes.float0:  # NumPy cannot compare these
            assert a.shape == e.shape
        else:
            a, e = (np.asarray(x, np.promote_types(x.dtype, "f4")) for x in (a, e))
            np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol)


def check(fun, *args, rtol=0.0, tables="auto", **options):
    """Checks value, auxiliary data and gradients against JAX's; returns gradients."""
    expected = jax.value_and_grad(fun, **options)(*args)
    value, gradients = aj.value_and_grad(fun, tables=tables, **options)(*args)
    assert_equal((value, to_dense(gradients)), expected, rtol)

    @jax.jit
    def compiled(args):
        value, gradients = aj.value_and_grad(fun, tables=tables, **options)(*args)
        return value, to_dense(gradients)

    assert_equal(compiled(args), expected, rtol)
    alone = aj.grad(fun, tables=tables, **options)(*args)
    if options.get("has_aux"):
        alone, aux = alone
        assert_equal(aux, expected[0][1], rtol)
    assert_equal(to_dense(alone), expected[1], rtol)
    return gradients


def sum_of_squares(tree):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def is_row_sparse(leaf):
    return isinstance(leaf, aj.RowSparse)


# Random programs: reads of two tables by every spelling, in every nesting.


def for_each(read):
    """A read by one id, for ids of any rank."""

    def reads(table, ids):
        mapped = functools.partial(read, table)
        for _ in range(ids.ndim):
            mapped = jax.vmap(mapped)
        return mapped(ids)

    return reads


def rows_in_front(mode):
    """The same gather as of ``table[ids]``, but with the rows along the first axes."""

    def read(table, ids):
        inside = tuple(range(table.ndim - 1))
        numbers = lax.GatherDimensionNumbers(inside, (0,), (0,))
        sizes = (1, *table.shape[1:])
        return lax.gather(table, ids[..., None], numbers, sizes, mode=mode)

    return read


def coordinates(mode):
    """A gather that is told where a row starts along every axis, in reverse order.

    The rows of odd ids would start at 1, where only an empty row would fit.
    """

    def read(table, ids):
        axes = tuple(range(table.ndim))
        inside = tuple(axis + ids.ndim for axis in axes[:-1])
        numbers = lax.GatherDimensionNumbers(inside, (0,), axes[::-1])
        starts = jnp.stack([*[abs(ids) % 2 for _ in inside], ids], -1)
        sizes = (1, *table.shape[1:])
        return lax.gather(table, starts, numbers, sizes, mode=mode)

    return read


def within(table, ids):
    return jnp.clip(ids, 0, len(table) - 1)


READS = {
    "[ids]": lambda table, ids: table[ids],
    "[ids, ...]": lambda table, ids: table[ids, ...],
    "[id]": for_each(lambda table, i: table[i]),
    "take": lambda table, ids: jnp.take(table, ids, axis=0),
    "take clip": lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
    "take fill": lambda table, ids: jnp.take(table, ids, axis=0, mode="fill"),
    "take wrap": lambda table, ids: jnp.take(table, ids, axis=0, mode="wrap"),
    "get": lambda table, ids: table.at[ids].get(),
    "get clip": lambda table, ids: table.at[ids].get(mode="clip"),
    "get fill": lambda table, ids: table.at[ids].get(mode="fill", fill_value=1),
    "get promised": lambda table, ids: (
        table.at[within(table, ids)].get(mode="promise_in_bounds")
    ),
    "dynamic_slice of one": for_each(
        lambda table, i: lax.dynamic_slice_in_dim(table, i, 1)
    ),
    "dynamic_slice of all but one": for_each(
        lambda table, i: lax.dynamic_slice_in_dim(table, i, max(1, len(table) - 1))
    ),
    "dynamic_index": for_each(lax.dynamic_index_in_dim),
    "gather in front, clip": rows_in_front("clip"),
    "gather in front, fill": rows_in_front("fill"),
    "gather by coordinates, clip": coordinates("clip"),
    "gather by coordinates, fill": coordinates("fill"),
}
FIXED_READS = {
    "[0]": lambda table, ids: table[0],
    "[-1]": lambda table, ids: table[-1],
    "[1:3]": lambda table, ids: table[1:3],
    "[::2]": lambda table, ids: table[::2],
}
DENSE_READS = {
    "[ids, ids]": lambda table, ids: table[(within(table, ids),) * table.ndim],
    "sum": lambda table, ids: jnp.sum(table, axis=0),
    "table @ table.T": lambda table, ids: table @ table.T,
    "[::-1]": lambda table, ids: table[::-1],
    "2 * table": lambda table, ids: (2 * table)[ids],
}
assert not (READS.keys() & FIXED_READS.keys() & DENSE_READS.keys())


def scan(read):
    def scanned(table, ids):
        def turn(count, ids):
            return count + 1.0, count * read(table, ids).astype(jnp.float32)

        return lax.scan(turn, 1.0, jnp.stack([ids, jnp.flip(ids)]))[1]

    return scanned


def fori_loop(read):
    def looped(table, ids):
        rows = jax.eval_shape(read, table, ids)
        start = jnp.zeros(rows.shape, rows.dtype)
        return lax.fori_loop(0, 2, lambda _, sum: sum + read(table, ids), start)

    return looped


def cast(read):
    return lambda table, ids: read(table.astype(BFLOAT16), ids).astype(jnp.float32)


def cond(read):
    return lambda table, ids: lax.cond(
        jnp.sum(ids) % 2 == 0, read, lambda *args: 2 * read(*args), table, ids
    )


def custom_jvp(read):
    """With a rule that gives -1 times the derivative."""
    read_with_rule = jax.custom_jvp(read)

    @read_with_rule.defjvp
    def _(primals, tangents):
        table, ids = primals
        rows, tangent = jax.jvp(lambda table: read(table, ids), (table,), tangents[:1])
        return rows, -tangent

    return read_with_rule


WRAPPERS = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "scan": scan,
    "fori_loop": fori_loop,
    "vmap": lambda read: (
        lambda table, ids: jax.vmap(read, (None, 0))(
            table, jnp.stack([ids, jnp.flip(ids)])
        )
    ),
    "vmap of last axes": lambda read: (
        lambda table, ids: jax.vmap(read, (None, -1), -1)(
            table, jnp.stack([ids, jnp.flip(ids)], -1)
        )
    ),
    "cast": cast,
}
DENSE_WRAPPERS = {
    "cond": cond,
    "custom_jvp": custom_jvp,
    "vmap of the table": lambda read: (
        lambda table, ids: jax.vmap(read, (0, None))(jnp.stack([table, -table]), ids)
    ),
}


@st.composite
def tables(draw):
    row = draw(st.sampled_from([(), (1,), (2,), (2, 3)]))
    shape = (draw(st.integers(1, 5)), *row)
    values = draw(st.lists(st.integers(-2, 2), min_size=30, max_size=30))
    return np.array(values, np.float32)[: math.prod(shape)].reshape(shape)


@st.composite
def ids_arrays(draw):
    """Duplicates, negative ones, and out of range on both sides of every table."""
    dtype = draw(st.sampled_from(["int8", "uint8", "int32", "uint32"]))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    lowest = 0 if dtype.startswith("u") else -7
    size = math.prod(shape)
    values = draw(st.lists(st.integers(lowest, 7), min_size=size, max_size=size))
    return np.array(values, dtype).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Step:
    """One read of a random program, its wrappers from the inside out."""

    table: str
    read: str
    wrappers: tuple[str, ...]
    ids: np.ndarray

    def run(self, tables):
        read = (READS | FIXED_READS | DENSE_READS)[self.read]
        for name in self.wrappers:
            read = (WRAPPERS | DENSE_WRAPPERS)[name](read)
        return read(tables[self.table], jnp.asarray(self.ids))


def steps(reads, wrappers=tuple(WRAPPERS)):
    return st.builds(
        Step,
        table=st.sampled_from(["a", "b"]),
        read=st.sampled_from(list(reads)),
        wrappers=st.lists(st.sampled_from(list(wrappers)), max_size=3).map(tuple),
        ids=ids_arrays(),
    )


@settings(max_examples=150)
@given(
    tables=st.fixed_dictionaries({"a": tables(), "b": tables()}),
    sparse=st.lists(steps([*READS, *FIXED_READS]), min_size=1, max_size=3),
    dense=st.lists(
        st.one_of(
            steps(DENSE_READS),
            steps([*READS, *FIXED_READS], [*WRAPPERS, *DENSE_WRAPPERS]),
        ),
        max_size=1,
    ),
    with_jit=st.booleans(),
)
def test_random_programs(tables, sparse, dense, with_jit):
    def loss(params):
        results = [step.run(params["tables"]) for step in [*sparse, *dense]]
        terms = []
        for result in results:
            factors = 1.0 - jnp.arange(result.size).reshape(result.shape) % 3
            terms.append(jnp.sum(factors * params["scale"] * jnp.square(result)))
        return sum(terms), (results, params["tables"])

    kinds = {}

    def gradients(params):
        result, gradients = aj.value_and_grad(loss, has_aux=True)(params)
        kinds.update(jax.tree.map(is_row_sparse, gradients["tables"]))
        return result, to_dense(gradients)

    params = {"tables": tables, "scale": np.float32(2)}
    actual = (jax.jit(gradients) if with_jit else gradients)(params)
    assert_equal(actual, jax.value_and_grad(loss, has_aux=True)(params))
    for name in "ab":
        if any(step.table == name for step in dense):
            # An ordinary array, unless vmap has made gathers of the conditionals.
            assert not kinds[name] or any("cond" in s.wrappers for s in dense)
        else:
            mine = [step for step in sparse if step.table == name]
            assert kinds[name] == any(step.read in READS for step in mine)
