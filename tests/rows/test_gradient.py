"""``value_and_grad`` and ``grad``: JAX's gradients, with tables by their rows.

Tables and factors are small integers: every partial sum is exact, in bfloat16 too, so
that the order in which duplicates are summed makes no difference and gradients can be
compared for equality. Only the frameworks, whose numbers are theirs, are compared to
within rounding.
"""

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
from jax import lax
from jax.experimental import checkify
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from adagrad_jax._rows.packed import Packed
from tests.compiling import FUSED_AS_USUAL

V, D = 32, 4
TABLE = (jnp.arange(1.0 * V * D).reshape(V, D) * 7) % 5 - 2
IDS = jnp.array([1, 4, 1])
BFLOAT16 = jnp.bfloat16


def to_dense(gradients):
    """By JAX's own scatter, which needs less compiling than ``RowSparse.to_dense``."""

    def convert(leaf):
        if not isinstance(leaf, aj.RowSparse):
            return leaf
        row = leaf.values.shape[1:]
        rows = jnp.zeros((math.prod(leaf.shape) // max(math.prod(row), 1), *row))
        rows = rows.astype(leaf.values.dtype)
        rows = rows.at[leaf.ids].add(leaf.values, mode="drop")
        return rows.reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree.map(convert, gradients)


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


def check(
    fun, *args, rtol=0.0, eager=True, tables="auto", compiler_options=None, **options
):
    """Checks value and gradients against JAX's, and returns the gradients.

    Under ``jit``, and also, as that takes time, operation by operation.
    """
    expected = jax.value_and_grad(fun, **options)
    actual = aj.value_and_grad(fun, tables=tables, **options)

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def compiled(args):
        value, gradients = actual(*args)
        gradients = jax.tree.map(
            lambda leaf: Packed.of(leaf) if is_row_sparse(leaf) else leaf, gradients
        )
        return expected(*args), (value, gradients)

    expected, (value, gradients) = compiled(args)
    gradients = jax.tree.map(
        lambda leaf: leaf.unpacked() if isinstance(leaf, Packed) else leaf,
        gradients,
        is_leaf=lambda leaf: isinstance(leaf, Packed),
    )
    assert_equal((value, to_dense(gradients)), expected, rtol)
    if eager:
        value, gradients = actual(*args)
        assert_equal((value, to_dense(gradients)), expected, rtol)
    return gradients


def is_row_sparse(leaf):
    return isinstance(leaf, aj.RowSparse)


def sum_of_squares(tree):
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


# Reads by every spelling; random programs of them are in test_programs.py.


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


def windows(mode):
    """A gather of two rows at a time; all of a window or nothing is in range."""

    def read(table, ids):
        inside = tuple(axis + ids.ndim for axis in range(table.ndim))
        numbers = lax.GatherDimensionNumbers(inside, (), (0,))
        sizes = (min(2, len(table)), *table.shape[1:])
        return lax.gather(table, ids[..., None], numbers, sizes, mode=mode)

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
    "get promised": lambda table, ids: table.at[within(table, ids)].get(
        mode="promise_in_bounds"
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
    "gather of windows, clip": windows("clip"),
    "gather of windows, fill": windows("fill"),
}
FIXED_READS = {
    "[0]": lambda table, ids: table[0],
    "[-1]": lambda table, ids: table[-1],
    "[1:3]": lambda table, ids: table[1:3],
    "[::2]": lambda table, ids: table[::2],
}
DENSE_READS = {
    "sum": lambda table, ids: jnp.sum(table, axis=0),
    "table @ its rows": lambda table, ids: jnp.tensordot(
        table, table[0], table.ndim - 1
    ),
    "[::-1]": lambda table, ids: table[::-1],
}


def scan(read):
    def scanned(table, ids):
        def turn(count, ids):
            return count + 1.0, count * read(table, ids).astype(jnp.float32)

        return lax.scan(turn, 1.0, jnp.stack([ids, jnp.flip(ids)]))[1]

    return scanned


def cast(read):
    return lambda table, ids: read(table.astype(BFLOAT16), ids).astype(jnp.float32)


# JAX itself refuses the others: it counts negative ids from the end in their own dtype.
TAKE_NARROW_IDS = ["[id]", "dynamic_slice of one", "dynamic_index", "take clip"]
TAKE_NARROW_IDS += [read for read in READS if read.startswith("gather")]


@pytest.mark.parametrize(
    "read, dtype",
    [(read, jnp.int8) for read in TAKE_NARROW_IDS]
    + [(read, jnp.uint8) for read in [*TAKE_NARROW_IDS, "[ids]", "get fill"]],
)
def test_ids_narrower_than_the_number_of_rows(read, dtype):
    """Neither the last row's number nor any for "no row" has a place in their dtype."""
    table = jnp.arange(600.0).reshape(300, 2) % 5
    ids = jnp.array([3, 101, 45, 3, jnp.iinfo(dtype).max], dtype)
    check(
        lambda table: sum_of_squares(READS[read](table, ids)),
        table,
        eager=False,
        compiler_options=FUSED_AS_USUAL,
    )


@pytest.mark.parametrize("read", READS)
def test_no_ids(read):
    ids = jnp.zeros((2, 0), jnp.int32)
    check(lambda table: jnp.sum(READS[read](table, ids)), TABLE, eager=False)


def test_empty_rows():
    read = READS["gather in front, fill"]
    gradient = check(lambda table: jnp.sum(read(table, IDS)), jnp.zeros((V, 0)))
    assert gradient.values.shape == (3, 0)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_values_have_the_dtype_of_the_table(dtype):
    gradient = check(lambda table: sum_of_squares(table[IDS]), TABLE.astype(dtype))
    assert gradient.dtype == gradient.values.dtype == dtype
    assert_equal(gradient.to_dense(), to_dense(gradient))
    assert gradient.ids.dtype == jnp.int32


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ids", [[1, 2**40, -(2**40), -1], [2**32 + 1]])
def test_64_bits(ids):
    """An id beyond int32 names no row; cut to 32 bits it might."""
    table, ids = TABLE.astype(jnp.float64), jnp.array(ids)
    gradient = check(
        lambda table: sum_of_squares(jnp.take(table, ids, axis=0, fill_value=0)), table
    )
    assert gradient.values.dtype == jnp.float64 and gradient.ids.dtype == jnp.int32


# What a read, or what is no read, carries besides its ids.


def into_a_ref(table):
    ref = jax.new_ref(jnp.zeros_like(table))
    jax.ref.addupdate(ref, ..., table)
    return jnp.sum(ref[...] ** 2)


def handed_to_jit(table):
    ref = jax.new_ref(jnp.zeros_like(table))
    jax.jit(lambda ref, table: jax.ref.addupdate(ref, ..., table))(ref, table)
    return jnp.sum(ref[...] ** 2)


def written_in_scan(table):
    ref = jax.new_ref(jnp.zeros_like(table))

    def turn(carry, factor):
        jax.ref.addupdate(ref, ..., factor * table)
        return carry, None

    lax.scan(turn, 0, jnp.array([1.0, 2.0]))
    return jnp.sum(ref[...] ** 2)


def written_in_fori_loop(table):
    ref = jax.new_ref(jnp.zeros_like(table))

    def turn(i, carry):
        jax.ref.addupdate(ref, ..., table)
        return carry

    lax.fori_loop(0, 2, turn, 0)
    return jnp.sum(ref[...] ** 2)


INTO_REFS = {
    "plain": into_a_ref,
    "jit": jax.jit(into_a_ref),
    "handed to jit": handed_to_jit,
    "scan": written_in_scan,
    "fori_loop": written_in_fori_loop,
}  # not under remat, where JAX itself fails


@pytest.mark.parametrize("name", INTO_REFS)
def test_a_table_that_goes_into_a_ref_is_dense(name):
    fun = INTO_REFS[name]
    gradient = check(
        lambda table: fun(table) + jnp.sum(table[IDS]), jnp.ones((5, 2)), eager=False
    )
    assert not is_row_sparse(gradient)
    np.testing.assert_array_equal(gradient[0] != 0, True)


def test_a_ref_that_the_table_does_not_go_into():
    def loss(table):
        ref = jax.new_ref(jnp.zeros(()))
        jax.ref.addupdate(ref, ..., jnp.sum(table[IDS]))
        return ref[...] ** 2

    assert is_row_sparse(check(loss, TABLE))


@pytest.mark.parametrize("dtype", [jnp.float16, BFLOAT16, jnp.float32])
@pytest.mark.parametrize("fill", [-1e9, 0.0, None])
def test_a_fill_value_is_of_the_dtype_that_was_read(dtype, fill):
    """Though the cast is done behind the read."""
    ids = jnp.array([[9, 1], [2, 1]])

    def loss(table):
        rows = table.astype(jnp.float32).at[ids].get(mode="fill", fill_value=fill)
        return jnp.sum(jnp.nan_to_num(rows))

    assert is_row_sparse(check(loss, TABLE.astype(dtype)))


def test_a_complex_fill_value_of_real_rows():
    def loss(table):
        rows = table.astype(jnp.complex64).at[jnp.array([9, 1])]
        return jnp.sum(jnp.abs(rows.get(mode="fill", fill_value=3 + 4j)))

    assert is_row_sparse(check(loss, TABLE))


def twice(table, cotangents=(1.001, -1.0)):
    """Reads row 1 twice."""
    rows = table.astype(jnp.float32)[jnp.array([1, 1])]
    return jnp.sum(rows * jnp.array(cotangents)[:, None])


@pytest.mark.parametrize("dtype", [jnp.float16, BFLOAT16])
def test_sums_are_rounded_once(dtype):
    """Entries keep the precision in which rows were read; `dtype` is of their sums."""
    table = jnp.ones((3, 2), dtype)
    gradient = check(twice, table)
    assert gradient.dtype == dtype and gradient.values.dtype == jnp.float32
    assert gradient.to_bcoo().dtype == jnp.float32
    expected = jax.grad(twice)(table)
    assert expected[1, 0] not in (0, 1)
    once = gradient.coalesce()
    assert once.dtype == once.values.dtype == dtype
    across = aj.RowSparse.from_bcoo(gradient.to_bcoo()).astype(dtype)
    for same in (gradient, once, across, gradient.summed(), gradient.astype(dtype)):
        np.testing.assert_array_equal(same.to_dense(), expected)
    wide = gradient.astype(jnp.float32).to_dense()
    np.testing.assert_array_equal(wide, expected.astype(jnp.float32))
    np.testing.assert_array_equal((3 * gradient).to_dense(), 3 * expected)


def test_sums_over_microbatches_are_rounded_once():
    table = jnp.ones((3, 2), BFLOAT16)
    parts = [aj.grad(twice)(table, (x, 0.0)) for x in (1.001, -1.0)]
    total = parts[0] + parts[1]
    assert total.dtype == BFLOAT16 and total.values.dtype == jnp.float32
    np.testing.assert_array_equal(total.to_dense(), jax.grad(twice)(table))


def test_what_follows_sees_rounded_sums():
    """Whatever XLA keeps in more precision: as of the dense gradient."""
    table = jnp.ones((3, 2), BFLOAT16)
    optimizer = aj.scale_by_adagrad(0.0)

    @jax.jit
    def accumulators(table):
        state = optimizer.init(table)
        ours, theirs = aj.grad(twice)(table), jax.grad(twice)(table)
        return [optimizer.update(g, state)[1].accumulator for g in (ours, theirs)]

    ours, theirs = accumulators(table)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [jnp.float16, BFLOAT16])
def test_jax_checks_find_nothing(dtype):
    whole = functools.partial(twice, cotangents=(3.0, -1.0))  # sums are exact
    with jax.enable_checks(True):
        check(whole, TABLE.astype(dtype))
        check(lambda table: whole(jax.jit(lambda t: t)(table)), TABLE.astype(dtype))


# Which leaves are row-sparse.


def squares_in(read):
    return lambda table: sum_of_squares(read(table))


@jax.custom_jvp
def with_jvp_rule(table):
    return table[IDS]


@with_jvp_rule.defjvp
def _(primals, tangents):
    return with_jvp_rule(*primals), 100 * tangents[0][IDS]


@jax.custom_vjp
def with_vjp_rule(table):
    return table[IDS]


with_vjp_rule.defvjp(
    lambda table: (table[IDS], len(table)),
    lambda length, rows: (jnp.full((length, D), 100.0),),
)


def of_rows(function):
    """A function of rows only, whose own rule must be used too."""
    function = jax.custom_jvp(function)
    function.defjvp(lambda xs, ts: (function(*xs), 100 * ts[0]))
    return function


SPARSE = {
    **{
        name: lambda table, read=read: read(table, IDS)
        for name, read in READS.items()
        if name != "dynamic_slice of all but one"
    },
    "ids from the table's shape": lambda table: table[jnp.arange(len(table) // 2)],
    "ids from the table": lambda table: table[jnp.argmax(table[IDS], -1)],
    "ids of rank 0": lambda table: table[IDS[0]],
    "beside fixed rows": lambda table: (table[IDS], table[0], table[2:4]),
    "twice": lambda table: table[IDS] * table[IDS + 1],
    "all columns": lambda table: table[IDS, :],
    "jit": jax.jit(lambda table: table[IDS]),
    "jit of jit": jax.jit(lambda table: jax.jit(lambda t: t)(table)[IDS]),
    "vmap": lambda table: jax.vmap(lambda i: table[i])(IDS),
    "vmap of vmap": lambda table: jax.vmap(jax.vmap(lambda i: table[i]))(IDS[None]),
    "vmap of slices of rows": lambda table: jax.vmap(
        lambda i: lax.dynamic_slice_in_dim(table, i, 2)
    )(IDS),
    "remat": jax.checkpoint(lambda table: jnp.square(table[IDS])),
    "remat in scan": lambda table: lax.scan(
        jax.checkpoint(lambda sum, i: (sum + table[i], sum)), jnp.zeros(D), IDS
    )[0],
    "scan": lambda table: lax.scan(
        lambda sum, i: (sum + table[i], table[i]), jnp.zeros(D), IDS
    ),
    "scan in scan": lambda table: lax.scan(
        lambda sum, _: lax.scan(lambda sum, i: (sum + table[i], ()), sum, IDS),
        jnp.zeros(D),
        length=2,
    )[0],
    "scan backwards": lambda table: lax.scan(
        lambda sum, i: (2 * sum + table[i], ()), jnp.zeros(D), IDS[:2], reverse=True
    )[0],
    "cast": lambda table: table.astype(BFLOAT16)[IDS].astype(jnp.float32),
    "cast and back": lambda table: table.astype(BFLOAT16).astype(jnp.float32)[IDS],
    "cast in jit": lambda table: jax.jit(lambda table: table.astype(BFLOAT16))(table)[
        IDS
    ].astype(jnp.float32),
    "a rule of a function of rows": lambda table: of_rows(jnp.square)(table[IDS]),
    "beside stop_gradient": lambda table: (
        table[IDS] * jnp.sum(lax.stop_gradient(table))
    ),
    "beside comparisons": lambda table: table[IDS] * jnp.where(table > 0, 2.0, 1)[:3],
    "beside argmax": lambda table: table[jnp.argmax(table, 0)],
    "beside its shape": lambda table: table[IDS] * jnp.zeros_like(table)[1:2] + 1,
    "in both branches": lambda table: lax.cond(True, lambda x: x, jnp.sin, table[IDS]),
    "read in branches": lambda table: lax.cond(
        IDS[0] == 1, lambda t: t[IDS], lambda t: t[:3], table
    ),
    "while_loop without a derivative": lambda table: (
        table[IDS] * lax.stop_gradient(
            lax.while_loop(lambda x: x[0] < 9, lambda x: x + table[3], table[3])[None]
        )
    ),
    "carried by scan as it is": lambda table: lax.scan(
        lambda carry, i: ((carry[0], carry[1] + carry[0][i]), ()),
        (table, jnp.zeros(D)),
        IDS,
    )[0][1],
    "2 * table": lambda table: (2 * table)[IDS],
    "backwards": lambda table: table[::-1][IDS],
    "parts of rows": lambda table: table[IDS, 1:3],
    "slices of parts of rows": lambda table: lax.dynamic_slice(
        table, (IDS[0], 1), (1, 2)
    ),
    "fixed parts of rows": lambda table: (table[IDS], table[1:3, ::2]),
    "columns": lambda table: jnp.take(table, IDS, axis=1),
    "elements": lambda table: table[IDS, IDS % D],
    "reshaped": lambda table: table.reshape(V // 2, 2, D)[IDS - 1],
    "stacked": lambda table: table.reshape(2, V // 2, D)[1][IDS],
    "transposed": lambda table: table.T[:, IDS],
    "assigned to": lambda table: table.at[IDS].set(0.0)[IDS + 1],
}  # fmt: skip
MORE_IDS_THAN_ROWS = {
    "all rows": lambda table: table[jnp.arange(len(table))],
    "most rows": lambda table: READS["dynamic_slice of all but one"](table, IDS),
    "scanned along its rows": lambda table: lax.scan(
        lambda sum, row: (sum + row, ()), table[IDS[0]], table
    )[0],
}
FIXED = {
    name: lambda table, read=read: read(table, IDS)
    for name, read in FIXED_READS.items()
} | {"fixed rows in jit": jax.jit(lambda table: table[1:3] * table[:1])}
DENSE = {
    **{
        name: lambda table, read=read: (read(table, IDS), table[IDS])
        for name, read in DENSE_READS.items()
    },
    "tied softmax": lambda table: (table[IDS] @ table.T, table[IDS]),
    "carried by scan": lambda table: lax.scan(
        lambda tables, i: (tables[::-1], tables[0][i]), (table, 2 * table), IDS
    )[1],
    "summed along its rows": lambda table: (
        jax.vmap(lambda row, i: row * table[i])(table[:3], IDS),
        jnp.cumsum(table, axis=0)[IDS],
    ),
    "custom_jvp": with_jvp_rule,
    "custom_vjp": with_vjp_rule,
    "remat of itself": lambda table: jax.checkpoint(lambda table: table)(table)[IDS],
    "sorted": lambda table: jnp.sort(table, axis=0)[IDS],
    "in aux only as a sum": lambda table: table[IDS] + 0 * jnp.sum(table),
}  # fmt: skip


EAGER = ["[ids]", "take fill", "dynamic_slice of one", "jit", "vmap", "remat"]
EAGER += [
    "remat in scan",
    "scan",
    "cast in jit",
    "tied softmax",
    "read in branches",
    "custom_vjp",
]


@pytest.mark.parametrize(
    "name, kind",
    [(name, aj.RowSparse) for name in SPARSE]
    + [(name, jax.Array) for name in [*MORE_IDS_THAN_ROWS, *FIXED, *DENSE]],
)
def test_what_is_row_sparse(name, kind):
    loss = squares_in((SPARSE | MORE_IDS_THAN_ROWS | FIXED | DENSE)[name])
    assert isinstance(check(loss, TABLE, eager=name in EAGER), kind)


def test_nothing_is_tested_in_two_classes():
    classes = SPARSE, MORE_IDS_THAN_ROWS, FIXED, DENSE
    names = [name for names in classes for name in names]
    assert len(names) == len(set(names))
    assert set(EAGER) <= (SPARSE | DENSE).keys()


@pytest.mark.parametrize("name", [*SPARSE, *MORE_IDS_THAN_ROWS, *FIXED])
def test_what_can_be_chosen(name):
    others = MORE_IDS_THAN_ROWS | FIXED

    def gradient(table):
        loss = squares_in((SPARSE | others)[name])
        return to_dense(aj.grad(loss, tables=lambda path, leaf: True)(table))

    if name in others:
        loss = squares_in(others[name])
        check(loss, TABLE, eager=False, tables=lambda path, leaf: True)
    jax.eval_shape(gradient, TABLE)  # or it raises


@pytest.mark.parametrize("name", DENSE)
def test_what_cannot_be_chosen(name):
    with pytest.raises(ValueError, match="^the argument was chosen by `tables`, but"):
        aj.grad(squares_in(DENSE[name]), tables=lambda path, leaf: True)(TABLE)


@pytest.mark.parametrize("read", [with_jvp_rule, with_vjp_rule])
def test_the_rule_of_a_function_that_takes_the_table_is_used(read):
    """Both rules are wrong: 100 cannot come from anywhere else."""
    gradient = aj.grad(lambda table: jnp.sum(read(table)))(TABLE)
    assert jnp.max(gradient) >= 100


def test_ids_and_values_are_what_was_read():
    """In the order of the reads, duplicates apart, each by its own derivative."""

    def loss(table):
        factors = jnp.array([[1.0], [2.0], [3.0]])
        return jnp.sum(table[IDS] * factors) + 5 * jnp.sum(table[jnp.array([[-1]])])

    gradient = aj.grad(loss)(TABLE)
    assert gradient.ids.tolist() == [1, 4, 1, V - 1]
    np.testing.assert_array_equal(gradient.values[:, 0], [1, 2, 3, 5])
    assert gradient.shape == TABLE.shape


def test_a_row_that_is_read_is_among_the_ids_though_its_gradient_is_zero():
    def loss(table):
        return jnp.sum(table[jnp.array([2, 5])] * jnp.array([[0.0], [1.0]]))

    gradient = aj.grad(loss)(TABLE)
    assert gradient.ids.tolist() == [2, 5]
    np.testing.assert_array_equal(gradient.values[:, 0], [0, 1])


def test_nan_stays_in_its_row():
    def loss(table, factors):
        return jnp.sum(table[IDS] * factors[:, None])

    gradient = aj.grad(loss)(TABLE, jnp.array([1.0, jnp.nan, 2.0]))
    dense = gradient.to_dense()
    assert jnp.all(jnp.isnan(dense[4]))
    np.testing.assert_array_equal(np.delete(dense, 4, 0)[:5, 0], [0, 3, 0, 0, 0])
    assert not jnp.any(np.delete(dense, 4, 0)[5:])


def test_the_value_of_a_row_out_of_range_reaches_no_gradient():
    """It is nan, and so is its derivative; what it would belong to does not exist."""

    def loss(table):
        rows = jnp.take(table, jnp.array([1, V + 3]), axis=0, mode="fill")
        return jnp.sum(jnp.square(rows))

    gradient = check(loss, TABLE)
    assert gradient.ids.tolist() == [1, V]
    assert not jnp.any(jnp.isnan(gradient.to_dense()))


def test_a_leaf_that_is_never_read():
    params = {"table": TABLE, "unread": jnp.ones((3, 2))}

    def loss(params):
        return sum_of_squares(params["table"][IDS])

    gradients = check(loss, params)
    assert isinstance(gradients["unread"], jax.Array)
    gradients = check(loss, params, tables=lambda path, leaf: True)
    assert gradients["unread"].ids.shape == (0,)
    assert gradients["unread"].values.shape == (0, 2)
    assert gradients["unread"].shape == (3, 2)


@pytest.mark.parametrize(
    "whole",
    [
        lambda t: t,
        jax.jit(lambda t: t),
        lambda t: t.astype(BFLOAT16),
        lax.stop_gradient,
    ],
)
def test_a_table_in_the_auxiliary_data(whole):
    def loss(table):
        return sum_of_squares(table[IDS]), {"table": whole(table), "again": table}

    gradient = check(loss, TABLE, has_aux=True)
    assert isinstance(gradient, aj.RowSparse)
    (_, aux), _ = aj.value_and_grad(loss, has_aux=True)(TABLE)
    assert_equal(aux, {"table": whole(TABLE), "again": TABLE})


def test_a_sum_of_the_table_in_the_auxiliary_data_has_no_derivative():
    """Its gradient is not needed, but whether it is cannot be known from the reads."""

    def loss(table):
        return sum_of_squares(table[IDS]), jnp.sum(table)

    check(loss, TABLE, has_aux=True)


def test_effects_happen_once(capfd):
    def loss(table):
        jax.debug.print("first {}", table[IDS[0]])
        jax.debug.print("second", ordered=True)
        return sum_of_squares(jax.checkpoint(lambda table: table[IDS])(table))

    assert isinstance(aj.grad(loss)(TABLE), aj.RowSparse)
    jax.effects_barrier()
    out = capfd.readouterr().out
    assert out.count("first") == out.count("second") == 1


# Frameworks' layers, as they are.


def check_embedding(fun, params, *args, table, rtol=1e-5):
    """Only the leaf with ``table`` in its path has a row-sparse gradient."""
    gradients = check(fun, params, *args, rtol=rtol, eager=False)
    kinds = {
        jax.tree_util.keystr(path): is_row_sparse(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    assert kinds == {path: table in path for path in kinds}
    assert sum(kinds.values()) == 1 < len(kinds)


WORDS = jnp.array([[1, 4, 1], [5, 0, 2]])


class LinenModel(flax.linen.Module):
    dtype: jnp.dtype
    tied: bool = False

    @flax.linen.compact
    def __call__(self, words):
        embed = flax.linen.Embed(V, D, dtype=self.dtype)
        vectors = flax.linen.Dense(D, dtype=self.dtype)(embed(words))
        return embed.attend(vectors) if self.tied else vectors


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("dtype, rtol", [(jnp.float32, 1e-5), (BFLOAT16, 2e-2)])
@pytest.mark.parametrize("tied", [False, True])
def test_flax_linen(dtype, rtol, tied):
    model = LinenModel(dtype, tied)
    params = model.init(jax.random.key(0), WORDS)

    def loss(params, words):
        return jnp.mean(jnp.square(model.apply(params, words))).astype(jnp.float32)

    gradients = check(loss, params, WORDS, rtol=rtol, eager=False)
    embedding = gradients["params"]["Embed_0"]["embedding"]
    assert is_row_sparse(embedding) == (not tied)


class NnxModel(flax.nnx.Module):
    def __init__(self, rngs):
        self.embed = flax.nnx.Embed(V, D, rngs=rngs)
        self.linear = flax.nnx.Linear(D, 2, rngs=rngs)

    def __call__(self, words):
        return self.linear(self.embed(words))


@pytest.mark.usefixtures("standard_promotion")
def test_flax_nnx():
    model, state = flax.nnx.split(NnxModel(flax.nnx.Rngs(0)))

    def loss(state, words):
        return jnp.mean(jnp.square(flax.nnx.merge(model, state)(words)))

    check_embedding(loss, state, WORDS, table="embedding")


class EquinoxModel(eqx.Module):
    embedding: eqx.nn.Embedding
    linear: eqx.nn.Linear

    def __call__(self, word):
        return self.linear(self.embedding(word))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("wrap", [jax.vmap, eqx.filter_vmap])
def test_equinox(wrap):
    keys = jax.random.split(jax.random.key(0))
    model = EquinoxModel(
        eqx.nn.Embedding(V, D, key=keys[0]), eqx.nn.Linear(D, 2, key=keys[1])
    )

    def loss(model, words):
        return jnp.mean(jnp.square(wrap(wrap(model))(words)))

    check_embedding(loss, model, WORDS, table=".embedding.weight")


@pytest.mark.usefixtures("standard_promotion")
def test_haiku():
    @hk.without_apply_rng
    @hk.transform
    def model(words):
        return hk.Linear(2)(hk.Embed(V, D)(words))

    def loss(params, words):
        return jnp.mean(jnp.square(model.apply(params, words)))

    params = model.init(jax.random.key(0), WORDS)
    check_embedding(loss, params, WORDS, table="embeddings")


@pytest.mark.usefixtures("standard_promotion")
def test_haiku_by_matrices_of_zeros_and_ones():
    @hk.without_apply_rng
    @hk.transform
    def model(words):
        return hk.Embed(V, D, lookup_style="ONE_HOT")(words)

    params = model.init(jax.random.key(0), WORDS)
    gradients = check(
        lambda params: jnp.mean(jnp.square(model.apply(params, WORDS))),
        params,
        rtol=1e-5,
    )
    assert isinstance(gradients["embed"]["embeddings"], jax.Array)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("policy, rtol", [("float32", 1e-5), ("mixed_bfloat16", 2e-2)])
@pytest.mark.parametrize("mask_zero", [False, True])
def test_keras(monkeypatch, policy, rtol, mask_zero):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    import keras

    assert keras.backend.backend() == "jax"
    embedding = keras.layers.Embedding(V, D, dtype=policy, mask_zero=mask_zero)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), embedding, keras.layers.Dense(2)]
    )
    others = [variable.value for variable in model.non_trainable_variables]

    def loss(trainable, words):
        predictions, _ = model.stateless_call(trainable, others, words)
        return jnp.mean(jnp.square(predictions))

    trainable = [variable.value for variable in model.trainable_variables]
    check_embedding(loss, trainable, WORDS, table="[0]", rtol=rtol)


# In place of jax.value_and_grad and jax.grad.


def squares_at(table, ids, factor=1.0):
    return factor * jnp.sum(jnp.square(table[ids]))


@pytest.mark.parametrize("argnums", [0, 2, (0,), (2, 0), (0, 1, 2), [1, 0]])
def test_argnums(argnums):
    def loss(table, bias, params, ids):
        rows = table[ids] + bias[None] + params["other"][ids]
        return jnp.sum(rows * params["scale"])

    params = {"other": 2 * TABLE, "scale": jnp.array(3.0)}
    gradients = check(loss, TABLE, jnp.ones(D), params, IDS, argnums=argnums)
    assert isinstance(gradients, dict if argnums == 2 else aj.RowSparse | tuple)


def test_auxiliary_data_of_any_kind():
    class Thing:
        pass

    thing, array = Thing(), np.ones(3)

    def loss(table, ids):
        rows = table[ids]
        aux = {"rows": rows, "text": "text", "none": None, "thing": thing}
        return jnp.sum(rows), aux | {"array": array, "int": 3, "key": jax.random.key(0)}

    def check_aux(aux):
        assert aux["text"] == "text" and aux["none"] is None
        assert aux["thing"] is thing and aux["array"] is array and aux["int"] == 3
        assert type(aux["int"]) is int
        assert aux["key"].dtype == jax.random.key(0).dtype

    (value, aux), gradient = aj.value_and_grad(loss, has_aux=True)(TABLE, IDS)
    check_aux(aux)
    np.testing.assert_array_equal(aux["rows"], TABLE[IDS])
    assert value == jnp.sum(TABLE[IDS]) and isinstance(gradient, aj.RowSparse)
    gradient, aux = aj.grad(loss, has_aux=True)(TABLE, IDS)
    check_aux(aux)
    assert isinstance(gradient, aj.RowSparse)

    @jax.jit
    def step(table, ids):
        gradient, aux = aj.grad(loss, has_aux=True)(table, ids)
        check_aux(aux)
        return gradient.ids, aux["rows"], aux["key"]

    assert step(TABLE, IDS)[0].tolist() == IDS.tolist()


def test_auxiliary_data_computed_outside():
    @jax.jit
    def step(table, x):
        y = 2 * x
        loss = lambda table: (jnp.sum(table[IDS] * y), (x, y))  # noqa: E731
        gradient, (x, y) = aj.grad(loss, has_aux=True)(table)
        return to_dense(gradient), x, y

    gradient, x, y = step(TABLE, jnp.array(3.0))
    assert gradient[1, 0] == 12 and x == 3 and y == 6


def test_arguments_of_any_kind():
    @dataclasses.dataclass
    class Config:
        factor: float

    def loss(table, ids, config, text, function, *, nothing, more):
        assert text == "text" and nothing is None
        return config.factor * jnp.sum(function(table[ids]) * more["factor"])

    args = TABLE, IDS, Config(2.0), "text", jnp.square
    more = {"nothing": None, "more": {"factor": jnp.array(3.0), "name": "name"}}
    expected = jax.value_and_grad(loss)(*args, **more)
    value, gradient = aj.value_and_grad(loss)(*args, **more)
    assert_equal((value, to_dense(gradient)), expected)
    assert_equal(to_dense(aj.grad(loss)(*args, **more)), expected[1])
    assert isinstance(gradient, aj.RowSparse)


class Pair(NamedTuple):
    table: jax.Array
    bias: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Record:
    table: jax.Array
    bias: jax.Array


class Module(eqx.Module):
    table: jax.Array
    bias: jax.Array


@pytest.mark.parametrize("container", [Pair, Record, Module])
def test_containers(container):
    def loss(params, ids):
        return jnp.sum(jnp.square(params.table[ids] + params.bias))

    gradients = check(loss, container(TABLE, jnp.array(2.0)), IDS)
    assert type(gradients) is container and is_row_sparse(gradients.table)


def test_parameters_that_are_no_jax_arrays():
    params = {"table": np.asarray(TABLE), "bias": 2.0, "none": None, "empty": {}}

    def loss(params):
        return sum_of_squares(jnp.asarray(params["table"])[IDS]) * params["bias"]

    gradients = aj.grad(loss)(params)
    assert_equal(to_dense(gradients), jax.grad(loss)(params))
    assert is_row_sparse(gradients["table"]) and gradients["none"] is None


def test_the_python_of_the_function_runs_once():
    calls = []

    def loss(table, ids):
        calls.append(len(calls))
        return squares_at(table, ids)

    aj.value_and_grad(loss)(TABLE, IDS)
    assert len(calls) == 1
    aj.grad(loss, tables=lambda path, leaf: True)(TABLE, IDS)
    assert len(calls) == 2


def test_jit_compiles_once_for_the_same_shapes():
    calls = []

    @jax.jit
    def step(table, ids):
        def loss(table):
            calls.append(len(calls))
            return squares_at(table, ids)

        gradient = aj.grad(loss)(table)
        return gradient.ids, gradient.values

    step(TABLE, IDS)
    step(2 * TABLE, IDS + 1)
    assert len(calls) == 1
    step(TABLE, IDS[:2])
    assert len(calls) == 2


def test_holomorphic():
    def function(table, bias):
        return jnp.sum(table[IDS] ** 2) + jnp.sum(bias**3)

    table, bias = lax.complex(TABLE, 2 * TABLE), jnp.array([1j])
    options = {"argnums": (0, 1), "holomorphic": True}
    gradient, _ = check(function, table, bias, **options)
    assert isinstance(gradient, aj.RowSparse) and gradient.dtype == jnp.complex64


def test_complex_parameters_of_a_real_loss():
    def loss(table):
        return jnp.sum(jnp.square(jnp.abs(table[IDS] + 1)))

    check(loss, lax.complex(TABLE, 2 * TABLE), rtol=1e-6)


def test_allow_int():
    params = {"table": TABLE, "count": jnp.array(3), "ids": IDS}

    def loss(params):
        return jnp.sum(params["table"][params["ids"]] * params["count"].astype(float))

    expected = jax.value_and_grad(loss, allow_int=True)(params)
    value, gradients = aj.value_and_grad(loss, allow_int=True)(params)
    assert_equal((value, to_dense(gradients)), expected)
    assert is_row_sparse(gradients["table"])
    assert gradients["ids"].dtype == jax.dtypes.float0

    @jax.jit
    def compiled(params):
        return to_dense(aj.grad(loss, allow_int=True)(params))["table"]

    assert_equal(compiled(params), expected[1]["table"])


@pytest.mark.parametrize(
    "fun, arg, options",
    [
        (lambda table: table[IDS], TABLE, {}),
        (lambda table: (jnp.sum(table[IDS]), 1.0), TABLE, {}),
        (lambda table: None, TABLE, {}),
        (lambda table: jnp.sum(table[IDS]).astype(int), TABLE, {}),
        (lambda table: jnp.sum(table[IDS]), TABLE.astype(int), {}),
        (lambda table: jnp.sum(lax.complex(table, table)), TABLE, {}),
        (lambda table: jnp.sum(table[IDS]), TABLE, {"has_aux": True}),
        (lambda table: (jnp.sum(table[IDS]), 1, 2), TABLE, {"has_aux": True}),
        (lambda table: jnp.sum(table[IDS]), TABLE, {"holomorphic": True}),
        (lambda table, ids: jnp.sum(table[ids]), TABLE, {"argnums": 1}),
        (lambda table, ids: jnp.sum(table[ids]), TABLE, {"argnums": (0, 1)}),
    ],
)
def test_what_jax_refuses(fun, arg, options):
    with pytest.raises(TypeError) as expected:
        jax.value_and_grad(fun, **options)(arg)
    first_words = str(expected.value).split()[:2]
    for transform in (aj.value_and_grad, aj.grad):
        with pytest.raises(TypeError) as actual:
            transform(fun, **options)(arg)
        # Where the message is ours it says the same in other words.
        ours = r"has_aux=True `fun` must return a pair .*, got|needs at least 2 posit"
        assert str(actual.value).split()[:2] == first_words or re.search(
            ours, str(actual.value)
        )


@pytest.mark.parametrize(
    "argnums, error, words",
    [
        ((0, 3), TypeError, r"argnums=\(0, 3\) needs at least 4 .* got 1"),
        (-2, TypeError, "argnums=-2 needs at least 2 .* got 1"),
        ((), ValueError, "must name an argument"),
    ],
)
def test_argnums_that_name_no_argument(argnums, error, words):
    with pytest.raises(error, match=words):
        aj.grad(jnp.sum, argnums)(TABLE)


@pytest.mark.parametrize("pair", [tuple, list])
def test_a_pair_with_auxiliary_data_may_be_a_list(pair):
    check(lambda table: pair([squares_at(table, IDS), table]), TABLE, has_aux=True)


def test_what_is_no_array():
    with pytest.raises(TypeError, match="str"):
        aj.grad(lambda params: squares_at(params[0], IDS))([TABLE, "text"])


@pytest.mark.parametrize("transform", [aj.value_and_grad, aj.grad])
def test_name_and_documentation_are_kept(transform):
    def loss(table):
        """Its documentation."""
        return jnp.sum(table[IDS])

    assert transform(loss).__name__ == "loss"
    assert "Its documentation." in transform(loss).__doc__
    partial = functools.partial(squares_at, factor=2.0)  # has neither
    transform(partial)(TABLE, IDS)


# `tables`.


def test_what_the_filter_sees():
    params = {"a": [TABLE, jnp.ones(())], "b": {"c": 2 * TABLE}}

    def loss(params, more):
        return sum_of_squares((params["a"][0][IDS], params["b"]["c"][IDS])) + more

    def seen_by(argnums):
        seen = []

        def choose(path, leaf):
            seen.append((jax.tree_util.keystr(path), leaf))
            return "['c']" in jax.tree_util.keystr(path)

        gradients = aj.grad(loss, argnums, tables=choose)(params, jnp.array(1.0))
        gradients = gradients[-1] if isinstance(argnums, tuple) else gradients
        assert is_row_sparse(gradients["b"]["c"])
        assert not is_row_sparse(gradients["a"][0])  # not chosen, though read by rows
        return [path for path, _ in seen], [leaf for _, leaf in seen]

    leaves = jax.tree.leaves(params)
    paths, seen = seen_by(0)
    assert paths == ["['a'][0]", "['a'][1]", "['b']['c']"]
    assert all(a is b for a, b in zip(seen, leaves, strict=True))
    paths, seen = seen_by((1, 0))
    assert paths == ["[0]", "[1]['a'][0]", "[1]['a'][1]", "[1]['b']['c']"]
    assert all(a is b for a, b in zip(seen[1:], leaves, strict=True))


@pytest.mark.parametrize("tables", ["all", None, True, [TABLE], {"table": True}])
def test_what_is_no_filter(tables):
    for transform in (aj.value_and_grad, aj.grad):
        with pytest.raises(TypeError, match='`tables` must be "auto" or a function'):
            transform(squares_at, tables=tables)


@pytest.mark.parametrize(
    "leaf, message",
    [(jnp.arange(3), r"got .*int32\[3\]"), (jnp.ones(()), "got .*float32"), (2.0, "")],
)
def test_leaves_that_cannot_be_tables(leaf, message):
    def loss(params):
        return sum_of_squares(params["table"][IDS])

    gradient = aj.grad(loss, allow_int=True, tables=lambda path, leaf: True)
    with pytest.raises(
        TypeError, match=rf"the leaf at \['a'\]\[0\], which .*{message}"
    ):
        gradient({"a": [leaf], "table": TABLE})


def tied(params):
    rows = params["table"][IDS]
    scores = rows @ params["table"].T  # here
    return jnp.sum(scores)


def tied_in_jit(params):
    @jax.jit
    def scores(table):
        return table[IDS] + jnp.sum(table)  # here

    return jnp.sum(scores(params["table"]))


def tied_in_scan(params):
    @jax.checkpoint
    def turn(total, i):
        total += jnp.max(params["table"])  # here
        return total + jnp.sum(params["table"][i]), ()

    return lax.scan(turn, 0.0, IDS)[0]


def with_a_rule(params):
    return jnp.sum(with_vjp_rule(params["table"]))  # here


def changed_by_scan(params):
    def turn(table, i):
        return 2 * table, table[i]

    return jnp.sum(lax.scan(turn, params["table"], IDS)[1])  # here


@pytest.mark.parametrize(
    "loss, primitive",
    [
        (tied, "dot_general"),
        (tied_in_jit, "reduce_sum"),
        (tied_in_scan, "reduce_max"),
        (with_a_rule, "custom_vjp_call"),
        (changed_by_scan, "scan"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda loss: loss, jax.jit, jax.checkpoint])
def test_why_a_leaf_is_not_row_sparse(loss, primitive, wrap):
    """The message has the leaf's path, the primitive, and the line in this file."""
    lines, first = inspect.getsourcelines(loss)
    (line,) = [i for i, text in enumerate(lines, first) if "# here" in text]
    gradient = aj.grad(wrap(loss), tables=lambda path, leaf: "table" in str(path[-1]))
    with pytest.raises(ValueError) as error:
        gradient({"table": TABLE, "bias": jnp.ones(2)})
    message = str(error.value)
    assert message.startswith("the leaf at ['table'] was chosen by `tables`, but")
    assert f"`{primitive}` uses it otherwise" in message
    assert f"at {__file__}:{line} (" in message
    if not loss.__name__.startswith("tied_in"):
        assert f" ({loss.__name__})" in message


# Memory: no array as large as the table, and jax.checkpoint does what it is for.

LARGE = 100_003


@jax.checkpoint
def squares_in_remat(table, ids):
    return jnp.sum(jnp.square(table[ids]))


MEMORY_CASES = {
    "[ids]": squares_at,
    "cast": lambda table, ids: squares_at(table.astype(BFLOAT16), ids, BFLOAT16(1)),
    "remat": squares_in_remat,
    "jit of a cast in remat": jax.jit(
        lambda table, ids: squares_in_remat(table.astype(BFLOAT16), ids)
    ),
    "scan": lambda table, ids: lax.scan(
        lambda sum, i: (sum + jnp.sum(jnp.square(table[i])), ()), 0.0, ids
    )[0],
    "scan of remat of a cast": lambda table, ids: lax.scan(
        lambda sum, i: (sum + squares_in_remat(table.astype(BFLOAT16), i), ()),
        BFLOAT16(0),
        ids,
    )[0],
    "vmap": lambda table, ids: jnp.sum(
        jax.vmap(lambda i: jnp.square(lax.dynamic_index_in_dim(table, i)))(ids)
    ),
    "several reads": lambda table, ids: (
        squares_at(table, ids) + jnp.sum(table[0]) + squares_at(table, -ids[0])
    ),
}


@pytest.mark.parametrize("name", MEMORY_CASES)
def test_no_array_is_as_large_as_the_table(name):
    fun = MEMORY_CASES[name]
    args = jax.ShapeDtypeStruct((LARGE, D), jnp.float32), IDS

    def ids_and_values(table, ids):
        value, gradient = aj.value_and_grad(fun)(table, ids)
        return value, gradient.ids, gradient.values

    def large_results(function):
        """What the compiled function computes that has an axis as long as a table."""
        compiled = jax.jit(function).lower(*args).compile()
        memory = compiled.memory_analysis()
        results = re.findall(r" = (.*?) ([\w-]+)\(", compiled.as_text())
        # These name what is there already, or what is computed in another function.
        names = {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "call"}
        large = [f"{name}: {type_}" for type_, name in results
                 if str(LARGE) in type_ and name not in names]  # fmt: skip
        return large, memory.temp_size_in_bytes + memory.output_size_in_bytes

    results, size = large_results(ids_and_values)
    assert results == [] and size < LARGE
    results, size = large_results(jax.value_and_grad(fun))
    assert results != [] and size > LARGE  # the test can fail


def number_of(primitive, function, *args):
    """How often ``primitive`` is in what ``function`` is traced to, at any depth."""
    return len(re.findall(rf"= {primitive} ", str(jax.make_jaxpr(function)(*args))))


def chain(table):
    x = table[IDS]
    for _ in range(8):
        x = jnp.sin(x)
    return jnp.sum(x)


@pytest.mark.parametrize("in_jit", [False, True])
@pytest.mark.parametrize(
    "policy, is_recomputed",
    [
        (None, True),
        (jax.checkpoint_policies.nothing_saveable, True),
        (jax.checkpoint_policies.everything_saveable, False),
    ],
)
def test_remat_recomputes_what_its_policy_does_not_save(policy, is_recomputed, in_jit):
    remat = jax.checkpoint(chain, policy=policy)
    remat = jax.jit(remat) if in_jit else remat

    def gradient(fun):
        return lambda table: aj.grad(fun)(table).values

    plain = number_of("sin", gradient(chain), TABLE)
    assert plain == 8
    recomputed = number_of("sin", gradient(remat), TABLE)
    assert recomputed == number_of("sin", jax.grad(remat), TABLE)
    assert (recomputed > plain) == is_recomputed


def test_remat_in_scan_saves_nothing_but_the_carry():
    """Else each turn's intermediate results would be stacked for the way back."""

    def body(table, x, i):
        for _ in range(5):
            x = jnp.sin(x + jnp.sum(table[i]))
        return x, ()

    def number_of_stacks(wrap):
        def gradient(table):
            def loss(table):
                turn = wrap(functools.partial(body, table))
                return jnp.sum(lax.scan(turn, jnp.zeros(100), jnp.arange(7))[0])

            return aj.grad(loss, tables=lambda path, leaf: True)(table).values

        jaxpr = str(jax.make_jaxpr(gradient)(TABLE))
        return len(set(re.findall(r"(\w+):f32\[7,100\]", jaxpr)))

    assert number_of_stacks(jax.checkpoint) <= 2 < number_of_stacks(lambda body: body)


# Inside and under other transformations.


def test_in_vmap():
    batch = jnp.array([[1, 4, 1], [0, 0, 9]])

    def one(table, ids):
        gradient = aj.grad(squares_at)(table, ids)
        return gradient.ids, gradient.values

    for axis, table in [(None, TABLE), (0, jnp.stack([TABLE, -TABLE]))]:
        ids, values = jax.vmap(one, (axis, 0))(table, batch)
        actual = [
            to_dense(aj.RowSparse(*g, TABLE.shape))
            for g in zip(ids, values, strict=True)
        ]
        expected = jax.vmap(jax.grad(squares_at), (axis, 0))(table, batch)
        assert_equal(jnp.stack(actual), expected)


def test_in_scan():
    def microbatch(total, ids):
        value, gradient = aj.value_and_grad(squares_at)(TABLE, ids)
        return total + value, (gradient.ids, gradient.values)

    batches = jnp.stack([IDS, IDS + 1])
    total, (ids, values) = lax.scan(microbatch, 0.0, batches)
    gradient = aj.RowSparse(ids.reshape(-1), values.reshape(-1, D), TABLE.shape)
    expected = jax.value_and_grad(squares_at)(TABLE, batches)
    assert_equal((total, to_dense(gradient)), expected)


def cubes(table):
    """In it the derivative of rows goes through everything that holds functions."""

    @jax.checkpoint
    def turn(sum, i):
        return sum + jax.jit(lambda table: table[i] ** 3)(table), ()

    return jnp.sum(lax.scan(turn, jnp.zeros(D), IDS)[0]) + jnp.sum(table[IDS] ** 3)


def test_the_gradient_has_derivatives():
    def gradient(table):
        return to_dense(aj.grad(cubes)(table))

    tangent = 2 - TABLE
    expected = jax.jvp(jax.grad(cubes), (TABLE,), (tangent,))
    assert_equal(jax.jvp(gradient, (TABLE,), (tangent,)), expected)
    _, pullback = jax.vjp(gradient, TABLE)
    assert_equal(pullback(tangent)[0], expected[1])


AXIS = "data"


def mesh(axis_type):
    return jax.make_mesh((8,), (AXIS,), axis_types=(axis_type,))


MANY_IDS = jnp.arange(16) % 5


@pytest.mark.parametrize("wrap", [lambda read: read, jax.checkpoint, scan, cast])
def test_in_shard_map_each_device_has_the_rows_of_its_ids(wrap):
    """Where the table is marked as each device's own, and nothing is summed yet."""
    read = wrap(lambda table, ids: table[ids])

    def body(table, ids):
        table = lax.pcast(table, AXIS, to="varying")
        gradient = aj.grad(lambda table: sum_of_squares(read(table, ids)))(table)
        return gradient.ids, gradient.values

    specs = {"in_specs": (P(), P(AXIS)), "out_specs": P(AXIS)}
    mapped = jax.shard_map(body, mesh=mesh(AxisType.Auto), **specs)
    gradient = aj.RowSparse(*jax.jit(mapped)(TABLE, MANY_IDS), TABLE.shape)
    expected = jax.grad(lambda table: sum_of_squares(read(table, MANY_IDS)))(TABLE)
    assert_equal(to_dense(gradient), expected)


def test_in_shard_map_without_its_types():
    def body(table, ids):
        gradient = aj.grad(squares_at)(table, ids)
        return gradient.ids, gradient.values

    specs = {"in_specs": (P(), P(AXIS)), "out_specs": P(AXIS)}
    mapped = jax.shard_map(body, mesh=mesh(AxisType.Auto), **specs, check_vma=False)
    gradient = aj.RowSparse(*jax.jit(mapped)(TABLE, MANY_IDS), TABLE.shape)
    assert_equal(to_dense(gradient), jax.grad(squares_at)(TABLE, MANY_IDS))


def test_in_shard_map_the_gradient_of_a_shared_table_is_summed():
    """As jax.grad sums it: it is an ordinary array, the same on all devices."""

    def body(table, ids):
        return to_dense(aj.grad(squares_at)(table, ids))

    mapped = jax.shard_map(
        body, mesh=mesh(AxisType.Auto), in_specs=(P(), P(AXIS)), out_specs=P()
    )
    expected = jax.grad(squares_at)(TABLE, MANY_IDS)
    assert_equal(jax.jit(mapped)(TABLE, MANY_IDS), expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P(), P(AXIS), P(None, AXIS)])
def test_a_sharded_table(axis_type, spec):
    if axis_type == AxisType.Explicit and spec == P(AXIS):
        pytest.skip("JAX cannot gather from such a table by itself")
    table = jnp.tile(TABLE, (4, 2))
    kinds = []

    @jax.jit
    def gradients(table, ids):
        gradient = aj.grad(squares_at)(table, ids)
        kinds.append(is_row_sparse(gradient))
        return to_dense(gradient), jax.grad(squares_at)(table, ids)

    with jax.set_mesh(mesh(axis_type)):
        table = jax.device_put(table, jax.NamedSharding(jax.sharding.get_mesh(), spec))
        actual, expected = gradients(table, MANY_IDS)
    assert_equal(np.asarray(actual), np.asarray(expected))
    assert kinds == [True]


CHECKED = {
    "table[ids]": lambda p, ids: p[0][ids],
    "stack[layer, ids]": lambda p, ids: p[ids[0], ids],
    "stack[layer][ids]": lambda p, ids: p[0][1:][ids],
    "cast": lambda p, ids: p[0].astype(jnp.float16)[ids],
    "dynamic_slice": lambda p, ids: lax.dynamic_slice_in_dim(3 * p[1], ids[0], 3),
    "columns": lambda p, ids: p[1][ids, ids],
    "transposed": lambda p, ids: p[1].T[:, ids],
}


@pytest.mark.parametrize("name", CHECKED)
def test_checkify_sees_indices_of_the_program(name):
    """As without rows, however the table is seen."""

    def loss(table, ids):
        return jnp.sum(CHECKED[name](table, ids))

    def step(table, ids):
        return aj.grad(loss, tables=lambda *_: True)(table, ids).to_dense()

    checked = jax.jit(checkify.checkify(step, errors=checkify.index_checks))
    table = jnp.ones((2, 9, 3))
    assert checked(table, jnp.array([0, 1]))[0].get() is None
    assert "out-of-bounds" in checked(table, jnp.array([11, 99]))[0].get()
