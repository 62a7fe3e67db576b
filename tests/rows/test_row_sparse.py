"""The row-sparse type: what it means, its arithmetic, and what it refuses."""

import copy
import itertools
import math
import operator

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO

import adagrad_jax as aj
from adagrad_jax._rows import sums
from adagrad_jax._rows.packed import Packed

SHAPE = (4, 2)
IDS = [2, 0, 2, 4, -1]
VALUES = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], np.float32)
DENSE = np.array([[3, 4], [0, 0], [6, 8], [0, 0]], np.float32)


def some_rows(dtype=jnp.float32):
    return aj.RowSparse(IDS, jnp.asarray(VALUES, dtype), SHAPE)


def deferred_rows(dtype=jnp.float32):
    """The same, its rows found and with something left to be done to them."""
    return aj.RowSparse(IDS, jnp.asarray(VALUES / 2, dtype), SHAPE).then(twice)


def twice(rows, ids):
    return 2 * rows


FORMS = {"entries": some_rows, "deferred": deferred_rows}


@pytest.fixture(params=FORMS)
def rows(request):
    return FORMS[request.param]()


def reference(ids, values, shape):
    values = np.asarray(values)
    dense = np.zeros(shape, np.result_type(values, np.float64))
    for i, value in zip(ids, values, strict=True):
        if 0 <= i < shape[0]:
            dense[i] += value
    return dense


# Construction


@pytest.mark.parametrize(
    "ids, values, shape, error, message",
    [
        ([0.0], np.ones((1, 2)), SHAPE, TypeError, "`ids` must be integers, got dtype"),
        (np.ones(0), np.ones((0, 2)), SHAPE, TypeError, "`ids` must be integers, got "),
        ([True], np.ones((1, 2)), SHAPE, TypeError, "`ids` must be integers, got .*bo"),
        (
            [0],
            np.ones((1, 2), int),
            SHAPE,
            TypeError,
            "`values` must be floating-point",
        ),
        (
            [0],
            np.ones((1, 2), bool),
            SHAPE,
            TypeError,
            "`values` must be .* dtype bool",
        ),
        ([0], np.ones(()), (), ValueError, r"`shape` must have a first axis.*got \(\)"),
        (
            [0],
            np.ones(1),
            (2**31,),
            ValueError,
            r"fewer than 2\*\*31, got \(2147483648,",
        ),
        (
            [[0]],
            np.ones((1, 2)),
            SHAPE,
            ValueError,
            r"`ids` must be of one axis.*\(1, 1",
        ),
        (
            0,
            np.ones((1, 2)),
            SHAPE,
            ValueError,
            r"`ids` must be of one axis, got .*\(\)",
        ),
        (
            [0],
            np.ones((2, 2)),
            SHAPE,
            ValueError,
            r"must be of shape \(1, 2\).*\(2, 2\)",
        ),
        (
            [0],
            np.ones((1, 3)),
            SHAPE,
            ValueError,
            r"must be of shape \(1, 2\).*\(1, 3\)",
        ),
        ([0], np.ones(2), SHAPE, ValueError, r"must be of shape \(1, 2\).*got \(2,\)"),
        ([0], np.ones((1, 1, 2)), SHAPE, ValueError, r"must be of shape.*\(1, 1, 2\)"),
    ],
)
def test_parts_that_do_not_fit(ids, values, shape, error, message):
    with pytest.raises(error, match=message):
        aj.RowSparse(ids, values, shape)


def test_parts():
    rows = some_rows()
    assert (rows.shape, rows.ndim, rows.size, rows.dtype) == (SHAPE, 2, 8, jnp.float32)
    assert rows.ids.dtype == jnp.int32
    np.testing.assert_array_equal(rows.ids, [2, 0, 2, 4, 4])  # 4 is no row
    np.testing.assert_array_equal(rows.values, VALUES)
    assert repr(rows) == "RowSparse(5 rows, shape=(4, 2), dtype=float32)"
    np.testing.assert_array_equal(rows.to_dense(), DENSE)
    assert aj.RowSparse([0], np.ones((1, 2)), list(SHAPE)).shape == SHAPE


def test_parts_of_deferred_rows():
    rows = deferred_rows()
    assert (rows.shape, rows.ndim, rows.size, rows.dtype) == (SHAPE, 2, 8, jnp.float32)
    np.testing.assert_array_equal(rows.to_dense(), DENSE)
    np.testing.assert_array_equal(reference(rows.ids, rows.values, SHAPE), DENSE)


INTEGERS = "int8 uint8 int16 uint16 int32 uint32 int64 uint64 int4 uint4".split()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_of_any_integer_dtype(dtype):
    """At their own limits too; a table may have more rows than a dtype can count."""
    info = jnp.iinfo(dtype)
    for num_rows in (0, 1, 3, 5, 200, 70_000):
        limits = {info.min, info.min + 1, info.max - 1, info.max}
        ids = sorted({0, 1, 2, 3, 4, -1, num_rows - 1, num_rows} | limits)
        ids = [i for i in ids if info.min <= i <= info.max]
        for array in (jnp.array(ids, dtype), np.array(ids, jnp.dtype(dtype))):
            rows = aj.RowSparse(array, np.ones((len(ids), 1)), (num_rows, 1))
            expected = [i if 0 <= i < num_rows else num_rows for i in ids]
            assert rows.ids.dtype == jnp.int32
            np.testing.assert_array_equal(rows.ids, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_ids_beyond_32_bits_do_not_wrap_around(dtype):
    ids = np.array([2**32 + 1, 2**33, 2**63 - 1, 1], dtype)
    rows = aj.RowSparse(ids, np.ones((4, 1)), (3, 1))
    np.testing.assert_array_equal(rows.ids, [3, 3, 3, 1])


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_ids_beyond_32_bits_do_not_wrap_around_without_64_bit_types(dtype):
    """NumPy's integers have 64 bits, though JAX's may have 32."""
    ids = np.array([2**32 + 1, 2**33, 2**63 - 1, 1], dtype)
    rows = aj.RowSparse(ids, np.ones((4, 1)), (3, 1))
    np.testing.assert_array_equal(rows.ids, [3, 3, 3, 1])


def test_ids_that_uint32_has_and_int32_has_not():
    ids = jnp.array([2**31, 2**31 + 1, 2**32 - 1, 1], jnp.uint32)
    rows = aj.RowSparse(ids, np.ones((4, 1)), (3, 1))
    np.testing.assert_array_equal(rows.ids, [3, 3, 3, 1])
    huge = 2**31 - 1
    rows = aj.RowSparse(ids, np.ones((4, 1)), (huge, 1))
    np.testing.assert_array_equal(rows.ids, [huge, huge, huge, 1])


# What it stands for


numbers = st.integers(-8, 8).map(float)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    ids=st.lists(st.integers(-2, 6), min_size=6, max_size=6),
    values=st.lists(numbers, min_size=12, max_size=12),
)
def test_to_dense_and_coalesce(ids, values):
    values = np.array(values, np.float32).reshape(6, 2)
    rows = aj.RowSparse(ids, values, (5, 2))
    expected = reference(ids, values, (5, 2))
    np.testing.assert_array_equal(rows.to_dense(), expected)
    once = rows.coalesce()
    unique = sorted({i for i in ids if 0 <= i < 5})
    padding = 5 - len(unique)
    np.testing.assert_array_equal(once.ids, unique + [5] * padding)
    np.testing.assert_array_equal(once.values[: len(unique)], expected[unique])
    np.testing.assert_array_equal(once.values[len(unique) :], np.zeros((padding, 2)))
    np.testing.assert_array_equal(once.to_dense(), expected)


@pytest.mark.parametrize("n, num_rows", [(0, 3), (1, 3), (2, 3), (7, 3), (3, 1000)])
def test_coalesce_is_no_longer_than_it_must_be(n, num_rows):
    ids = np.arange(n) % num_rows
    once = aj.RowSparse(ids, np.ones((n, 2), np.float32), (num_rows, 2)).coalesce()
    length = min(n, num_rows)
    assert once.ids.shape == (length,) and once.values.shape == (length, 2)
    np.testing.assert_array_equal(once.ids, np.arange(length))
    jitted = jax.jit(
        lambda ids: aj.RowSparse(ids, jnp.ones((n, 2)), (num_rows, 2)).coalesce().ids
    )
    np.testing.assert_array_equal(jitted(ids), once.ids)


def test_coalesce_is_idempotent(rows):
    once = rows.coalesce()
    for again in (once.coalesce(), (1.0 * once).coalesce()):
        np.testing.assert_array_equal(again.ids, once.ids)
        np.testing.assert_array_equal(again.values, once.values)


@pytest.mark.parametrize("shape", [(5,), (5, 2), (5, 2, 3), (1, 2), (5, 0)], ids=str)
@pytest.mark.parametrize(
    "n, dtype", [(0, jnp.float32), (1, jnp.complex64), (6, jnp.float32)]
)
def test_tables_of_any_rank(shape, dtype, n):
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, shape[0] + 1, n)
    values = rng.integers(-8, 9, (n, *shape[1:])).astype(dtype)
    if dtype == jnp.complex64:
        values = values * (1 - 2j)
    values = np.asarray(values, dtype)
    expected = reference(ids, values, shape)

    @jax.jit
    def run(ids, values):
        rows = aj.RowSparse(ids, values, shape)
        once = rows.coalesce()
        return rows.to_dense(), once.to_dense(), (2 * rows.then(twice)).to_dense()

    dense, once, four_times = run(jnp.asarray(ids, jnp.int32), values)
    assert dense.dtype == dtype
    np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(once, expected)
    np.testing.assert_array_equal(four_times, 4 * expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_small_entries_are_not_lost(dtype):
    """Summed in float32, then rounded: 1000 times 0.001 is 1, not 0.25."""
    rows = aj.RowSparse([1] * 1000, jnp.full((1000, 1), 2.0**-10, dtype), (3, 1))
    for summed in (rows.coalesce().values[0], rows.to_dense()[1]):
        assert summed.dtype == dtype
        assert float(summed[0]) == float(jnp.asarray(1000 / 1024, dtype))
    table = jnp.zeros((3, 1), dtype) + rows
    assert float(table[1, 0]) == float(jnp.asarray(1000 / 1024, dtype))


def test_bcoo_and_back(rows):
    bcoo = rows.to_bcoo()
    assert isinstance(bcoo, BCOO) and (bcoo.n_sparse, bcoo.n_batch) == (1, 0)
    assert bcoo.shape == SHAPE and bcoo.dtype == jnp.float32
    np.testing.assert_array_equal(bcoo.todense(), DENSE)
    np.testing.assert_array_equal(aj.RowSparse.from_bcoo(bcoo).to_dense(), DENSE)


def test_bcoo_through_jit():
    @jax.jit
    def halve(bcoo):
        return (0.5 * aj.RowSparse.from_bcoo(bcoo)).to_bcoo()

    halved = aj.RowSparse.from_bcoo(halve(some_rows().to_bcoo()))
    np.testing.assert_array_equal(halved.to_dense(), 0.5 * DENSE)
    np.testing.assert_array_equal(halve(deferred_rows().to_bcoo()).todense(), DENSE / 2)


def test_from_any_bcoo_that_is_sparse_in_rows():
    dense = jnp.asarray(DENSE)
    for bcoo in (
        BCOO.fromdense(dense, n_dense=1),
        BCOO.fromdense(dense, n_dense=1, nse=4),  # padded
        BCOO.fromdense(dense[:, 0]),
        BCOO.fromdense(dense, nse=9),  # each number is a row
    ):
        expected = np.asarray(bcoo.todense())
        np.testing.assert_array_equal(aj.RowSparse.from_bcoo(bcoo).to_dense(), expected)


@pytest.mark.parametrize(
    "bcoo, n_batch, n_sparse",
    [
        (BCOO.fromdense(jnp.ones(SHAPE), n_batch=1), 1, 1),
        (BCOO.fromdense(jnp.ones(SHAPE), n_dense=2), 0, 0),
    ],
)
def test_from_bcoo_sparse_otherwise(bcoo, n_batch, n_sparse):
    message = (
        rf"must have n_batch=0 and n_sparse at .*got {n_batch=} and {n_sparse=}; BC"
    )
    with pytest.raises(ValueError, match=message):
        aj.RowSparse.from_bcoo(bcoo)


def test_it_is_a_leaf():
    rows = some_rows()
    assert jax.tree.leaves(rows) == [rows] and jax.tree.leaves({"a": [rows]})[0] is rows
    assert jax.tree.map(lambda x: x, {"a": rows})["a"] is rows
    assert jax.block_until_ready(rows) is rows


def test_it_may_be_copied():
    rows = deferred_rows()
    np.testing.assert_array_equal(copy.deepcopy(rows).to_dense(), DENSE)


# Arithmetic


SCALARS = {
    "int": 2,
    "negative": -3,
    "float": 0.5,
    "bool": True,
    "numpy-int": np.int32(2),
    "numpy-float": np.float32(0.5),
    "numpy-array": np.array(0.5, np.float32),
    "jax": jnp.float32(0.5),
    "jax-weak": jnp.asarray(0.5),
}


@pytest.mark.parametrize("name", SCALARS)
@pytest.mark.usefixtures("standard_promotion")
def test_scalar_factors(rows, name):
    scalar = SCALARS[name]
    for function in (
        lambda x, s: x * s,
        lambda x, s: s * x,
        lambda x, s: x / s,
        lambda x, s: -(s * x),
        lambda x, s: (s * x) / (s * s),
    ):

        def result(x, scalar=scalar, function=function):
            return function(x, scalar).to_dense()

        expected = function(DENSE, np.float32(scalar))
        np.testing.assert_allclose(result(rows), expected, rtol=1e-6)
    np.testing.assert_array_equal(rows.to_dense(), DENSE)


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_traced_scalars(rows, jit):
    def run(scalar):
        return (scalar * rows / (1 + scalar)).to_dense()

    run = jax.jit(run) if jit else run
    np.testing.assert_allclose(run(jnp.float32(3.0)), DENSE * 3 / 4, rtol=1e-6)


FACTORS = {
    "int": 2,
    "float": 2.0,
    "complex": 2j,
    "i32": jnp.int32(2),
    "f16": jnp.float16(2),
    "bf16": jnp.bfloat16(2),
    "f32": jnp.float32(2),
    "c64": jnp.complex64(2),
    "np-f16": np.float16(2),
    "np-f64": np.float64(2),
    "np-i64": np.int64(2),
}


@pytest.mark.parametrize("x64", [False, True], ids=["32", "64"])
@pytest.mark.usefixtures("standard_promotion")
def test_dtypes_are_promoted_as_those_of_arrays(x64):
    def check():
        for dtype in ("float16", "bfloat16", "float32", "complex64"):
            for build in FORMS.values():
                rows = build(dtype)
                for name, factor in FACTORS.items():
                    for apply in (operator.mul, operator.truediv):
                        where = f"{dtype} {apply.__name__} {name}"
                        expected = apply(rows.to_dense(), factor).dtype
                        product = apply(rows, factor)
                        assert product.dtype == expected, where
                        assert product.values.dtype == expected, where
                        assert product.to_dense().dtype == expected, where

    with jax.enable_x64(x64):
        jax.eval_shape(check)  # which compiles nothing


@pytest.mark.parametrize("left", ["float16", "bfloat16", "float32", "complex64"])
@pytest.mark.usefixtures("standard_promotion")
def test_sums_are_promoted_as_those_of_arrays(left):
    for right in ("float16", "bfloat16", "float32", "complex64"):
        rows, other = some_rows(left), some_rows(right)
        expected = jnp.promote_types(left, right)
        assert (rows + other).dtype == (rows + other).to_dense().dtype == expected
        assert (rows.to_dense() + other).dtype == expected
        np.testing.assert_array_equal((rows.to_dense() + other), 2 * DENSE)


def test_no_dtype_is_promoted_where_jax_must_not():
    with pytest.raises(jax.dtypes.TypePromotionError):
        some_rows("bfloat16") * jnp.float32(2)
    with pytest.raises(jax.dtypes.TypePromotionError):
        jnp.ones(SHAPE) + some_rows("bfloat16")


def test_astype(rows):
    for dtype in ("bfloat16", "float16", "complex64"):
        converted = rows.astype(dtype)
        assert converted.dtype == converted.to_dense().dtype == dtype
        np.testing.assert_array_equal(converted.to_dense(), DENSE)
    assert rows.dtype == jnp.float32


def test_sums(rows):
    other = aj.RowSparse([3, 2], np.ones((2, 2), np.float32), SHAPE)
    ones = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    expected = {
        "+": (rows + other, DENSE + ones),
        "-": (rows - other, DENSE - ones),
        "negated": (-rows - other, -DENSE - ones),
        "scaled": (2 * (rows + 3 * other), 2 * DENSE + 6 * ones),
        "sum": (sum([rows, other, rows]), 2 * DENSE + ones),
        "zero": (0 + rows + 0 - 0, DENSE),
        "from-zero": (0 - rows, -DENSE),
        "then": ((rows + other).then(twice), 2 * DENSE + 2 * ones),
        "coalesced": ((rows + other).coalesce(), DENSE + ones),
    }
    for name, (actual, dense) in expected.items():
        assert isinstance(actual, aj.RowSparse), name
        np.testing.assert_array_equal(actual.to_dense(), dense, err_msg=name)
    np.testing.assert_array_equal(rows.to_dense(), DENSE)
    np.testing.assert_array_equal(other.to_dense(), ones)


@pytest.mark.parametrize("array", [np.array, jnp.array], ids=["numpy", "jax"])
def test_sums_with_dense_arrays(rows, array):
    dense = array(np.arange(8, dtype=np.float32).reshape(4, 2))
    before = np.array(dense)
    for actual, expected in (
        (dense + rows, DENSE + before),
        (dense - rows, before - DENSE),
        (sum([dense, rows, rows]), before + 2 * DENSE),
    ):
        assert isinstance(actual, jax.Array)
        np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(dense, before)
    np.testing.assert_array_equal(rows.to_dense(), DENSE)


@pytest.mark.parametrize("array", [np.ones, jnp.ones], ids=["numpy", "jax"])
@pytest.mark.parametrize(
    "add",
    [
        lambda rows, dense: rows + dense,
        lambda rows, dense: rows - dense,
        lambda rows, dense: sum([rows, dense]),
        lambda rows, dense: sum([dense, rows], rows),
        lambda rows, dense: jax.jit(lambda x: rows + x)(dense),
    ],
)
def test_rows_do_not_become_dense_without_a_word(add, array, rows):
    """As weight decay and momentum of others would make them, which add so."""
    message = r"as large as the table.*add_decayed_weights.*\.to_dense\(\) \+ array"
    with pytest.raises(TypeError, match=message):
        add(rows, array(SHAPE, np.float32))


def test_no_ids():
    for ids in ([], (), np.zeros(0, np.uint8), jnp.zeros(0, jnp.int32)):
        rows = aj.RowSparse(ids, np.ones((0, 2), np.float32), SHAPE)
        assert rows.ids.shape == (0,) and rows.ids.dtype == jnp.int32
        np.testing.assert_array_equal(rows.to_dense(), np.zeros(SHAPE))


def test_augmented_assignment_does_not_change_what_was_there(rows):
    for change in (operator.iadd, operator.isub):
        assert change(rows, some_rows()) is not rows
    for change in (operator.imul, operator.itruediv):
        assert change(rows, 2.0) is not rows
    table = start = jnp.zeros(SHAPE)
    table += rows
    np.testing.assert_array_equal(table, DENSE)
    np.testing.assert_array_equal(start, np.zeros(SHAPE))
    np.testing.assert_array_equal(rows.to_dense(), DENSE)


def test_arithmetic_is_linear_under_jit():
    @jax.jit
    def run(ids, values, table):
        rows = aj.RowSparse(ids, values, SHAPE)
        return table - 0.5 * (rows + rows / 4) + rows

    table = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal(
        run(jnp.array(IDS), VALUES, table), table + 0.375 * DENSE
    )


# Rows put off


def affine(rows, ids, factor, shift):
    return rows * factor + shift * (ids[:, None] + 1).astype(rows.dtype)


def to_half(rows, ids):
    return rows.astype(jnp.bfloat16)


@pytest.mark.parametrize("n", [0, 1, 5, 700])
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_then_is_the_function_of_each_rows_sum(n, jit):
    rng = np.random.default_rng(n)
    ids = rng.integers(-1, 21, n)
    values = rng.integers(-8, 9, (n, 2)).astype(np.float32)
    operands = jnp.float32(2.0), jnp.float32(3.0)

    def run(ids, values, operands):
        rows = aj.RowSparse(ids, values, (20, 2))
        once = rows.then(affine, *operands)
        again = once.then(affine, *operands)
        assert once.shape == again.shape == (20, 2)
        return once.to_dense(), again.coalesce().to_bcoo(), (-again).to_dense()

    run = jax.jit(run) if jit else run
    once, again, negated = run(jnp.asarray(ids, jnp.int32), values, operands)
    sums = reference(ids, values, (20, 2))
    present = np.isin(np.arange(20), ids)[:, None]
    shift = 3.0 * (np.arange(20) + 1)[:, None]
    expected = np.where(present, sums * 2 + shift, 0)
    np.testing.assert_array_equal(once, expected)
    expected = np.where(present, expected * 2 + shift, 0)
    np.testing.assert_array_equal(again.todense(), expected)
    np.testing.assert_array_equal(negated, -expected)


def test_then_may_change_the_dtype():
    half = some_rows().then(to_half)
    assert half.dtype == half.values.dtype == half.to_dense().dtype == jnp.bfloat16
    np.testing.assert_array_equal(half.to_dense(), DENSE)
    assert (half * 0.5).dtype == jnp.bfloat16


def test_values_of_no_row_are_zero_once_rows_were_found():
    """Whatever a function makes of them."""
    rows = some_rows().then(affine, jnp.float32(1.0), jnp.float32(jnp.nan))
    for found in (rows, rows.summed(), rows.coalesce()):
        assert np.all(np.asarray(found.values)[np.asarray(found.ids) == 4] == 0)


def scaled_rows(rows, tables, factor):
    return (), tables, factor * rows


def test_a_visit_sums_up(rows):
    factor = (jnp.float32(10.0),)
    *_, total = rows.visited(scaled_rows, "sum", (), factor)
    np.testing.assert_array_equal(total, 10 * DENSE.sum(axis=0))
    *_, total = rows.then(twice).visited(scaled_rows, "sum", (), factor)
    np.testing.assert_array_equal(total, 20 * DENSE.sum(axis=0))


def test_rows_are_found_once(monkeypatch):
    found = []

    def find(ids, num_rows):
        found.append(num_rows)
        return find_distinct(ids, num_rows)

    find_distinct = sums.find_distinct
    monkeypatch.setattr(sums, "find_distinct", find)
    rows = some_rows().grouped()
    scaled = (2 * rows.then(twice)).grouped()
    scaled.to_dense(), scaled.values, rows.coalesce()
    assert found == [4]


# What it refuses


BOUNDARIES = {
    "jit-result": lambda r: jax.jit(lambda: r)(),
    "jit-argument": lambda r: jax.jit(lambda x: 2 * x)(r),
    "jit-unused": lambda r: jax.jit(lambda x: 1.0)(r),
    "jit-in-a-tree": lambda r: jax.jit(lambda x: x)({"a": [r]}),
    "vmap-result": lambda r: jax.vmap(lambda x: x * r)(jnp.arange(3.0)),
    "vmap-argument": lambda r: jax.vmap(lambda x: x)(r),
    "scan-carry": lambda r: jax.lax.scan(lambda c, _: (c, None), r, length=2),
    "scan-xs": lambda r: jax.lax.scan(lambda c, x: (c, None), 0.0, r),
    "scan-result": lambda r: jax.lax.scan(lambda c, _: (c, r), 0.0, length=2),
    "cond-result": lambda r: jax.lax.cond(True, lambda: r, lambda: r),
    "cond-argument": lambda r: jax.lax.cond(True, lambda x: x, lambda x: x, r),
    "while": lambda r: jax.lax.while_loop(lambda x: False, lambda x: x, r),
    "grad": lambda r: jax.grad(lambda x: 1.0)(r),
    "remat": lambda r: jax.checkpoint(lambda x: x)(r),
    "eval-shape": lambda r: jax.eval_shape(lambda: r),
    "device-put": lambda r: jax.device_put(r),
    "sum": lambda r: jnp.sum(r),
    "square": lambda r: jnp.square(r),
    "stack": lambda r: jnp.stack([r, r]),
    "where": lambda r: jnp.where(True, r, r),
    "add": lambda r: jnp.add(r, r),
    "isfinite": lambda r: jnp.isfinite(r),
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_what_jax_refuses_says_what_to_do(name):
    message = (
        r"adagrad_jax\.RowSparse \(cannot .*apply it inside, or pass \.to_bcoo\(\).*"
        r"no array for jax\.numpy.*\.to_dense\(\)"
    )
    with pytest.raises(Exception, match=message):
        BOUNDARIES[name](some_rows())


DENSE_ONLY = {
    "jnp.asarray": jnp.asarray,
    "jnp.array": jnp.array,
    "np.asarray": np.asarray,
    "np.array": np.array,
    "np.stack": lambda r: np.stack([r, r]),
    "np.zeros_like": np.zeros_like,
}


@pytest.mark.parametrize("name", DENSE_ONLY)
def test_it_is_no_array(name, rows):
    with pytest.raises(
        TypeError, match=r"a RowSparse is no array.*\.to_dense\(\) an ordinary"
    ):
        DENSE_ONLY[name](rows)


ARRAYS = {
    "numpy": np.ones(SHAPE, np.float32),
    "jax": jnp.ones(SHAPE),
    "one": jnp.ones(1),
    "column": np.ones((4, 1), np.float32),
    "list": [1.0, 2.0],
    "string": "a",
    "none": None,
}


@pytest.mark.parametrize("name", ARRAYS)
def test_factors_that_are_no_scalars(name, rows):
    other = ARRAYS[name]
    for multiply in (lambda: rows * other, lambda: other * rows):
        with pytest.raises(TypeError, match="can be multiplied by a scalar only, got"):
            multiply()
    with pytest.raises(TypeError, match="can be divided by a scalar only, got"):
        rows / other


def test_two_are_not_multiplied(rows):
    with pytest.raises(TypeError, match="multiplied by a scalar only, got RowSparse"):
        rows * rows
    with pytest.raises(TypeError, match="divided by a scalar only, got RowSparse"):
        rows / rows


UNSUPPORTED = {
    "power": lambda r: r**2,
    "base": lambda r: 2**r,
    "abs": abs,
    "reciprocal": lambda r: 1 / r,
    "jax-reciprocal": lambda r: jnp.float32(1) / r,
    "numpy-reciprocal": lambda r: np.float32(1) / r,
    "array-over": lambda r: jnp.ones(SHAPE) / r,
    "floor": lambda r: r // 2,
    "modulo": lambda r: r % 2,
    "matmul": lambda r: r @ np.ones((2, 2)),
    "rmatmul": lambda r: jnp.ones((4, 4)) @ r,
    "less": lambda r: r < 0,
    "greater": lambda r: r >= r,
    "equal": lambda r: r == 0,
    "unequal": lambda r: r != 0,
    "equal-itself": lambda r: r == r,
    "truth": lambda r: bool(r),
    "float": float,
    "item": lambda r: r[0],
    "length": len,
    "iterate": list,
    "add-one": lambda r: r + 1,
    "one-plus": lambda r: 1.5 + r,
    "subtract-one": lambda r: r - 1,
    "add-none": lambda r: r + None,
    "add-list": lambda r: r + [1.0, 2.0],
    "numpy-scalar-plus": lambda r: np.float32(1) + r,
    "ufunc": np.square,
    "ufunc-add": lambda r: np.add(np.ones(SHAPE), r),
    "ufunc-sum": np.sum,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_operations(name, rows):
    with pytest.raises(TypeError, match="RowSparse"):
        UNSUPPORTED[name](rows)


@pytest.mark.parametrize("shape", [(4, 3), (5, 2), (4,), (4, 2, 1)], ids=str)
def test_sums_of_other_shapes(shape, rows):
    other = aj.RowSparse([0], np.ones((1, *shape[1:]), np.float32), shape)
    for add in (lambda: rows + other, lambda: other - rows):
        with pytest.raises(ValueError, match=r"if they are of one shape, got \("):
            add()


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 2), (4, 1), (4, 3), (1, 4, 2)])
def test_sums_with_arrays_do_not_broadcast(shape, rows):
    for dense in (np.ones(shape, np.float32), jnp.ones(shape)):
        for add in (lambda d=dense: d + rows, lambda d=dense: d - rows):
            with pytest.raises(
                ValueError, match="added to an array of shape .*broadca"
            ):
                add()


@pytest.mark.parametrize(
    "use",
    [
        optax.tree.norm,
        lambda g: g.max(),
        lambda g: g.real,
        lambda g: g[...],
        lambda g: g[0],
        lambda g: g**2,
        lambda g: 1.0 / g,
        lambda g: g + 1.0,
        lambda g: g + np.float32(1.0),
        lambda g: np.float32(1.0) + g,
        lambda g: 1j - g,
        lambda g: 2 - g,
        lambda g: g @ jnp.ones(2),
        lambda g: abs(g),
        lambda g: list(g),
        lambda g: len(g),
    ],
)
def test_what_is_no_row_sparse_arithmetic_says_what_to_do(use):
    gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
    with pytest.raises(
        (TypeError, AttributeError), match=r"adagrad_jax\.global_norm\("
    ):
        use(gradient)
    assert not hasattr(gradient, "__jax_array__")


def test_the_collectives_of_parts_are_warned_of():
    """JAX's psum would add ids up, if it took one."""
    gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
    for collective in (jax.lax.psum, jax.lax.pmean):
        with pytest.raises(TypeError, match=r"adagrad_jax\.sharding\.psum or pmean"):
            jax.vmap(lambda _, f=collective: f(gradient, "d"), axis_name="d")(
                jnp.ones(2)
            )


# Rows of several axes

STACKED = (2, 3, 4)
FORMS_OF_ROWS = [(2, [4, 1, 4, 6, -1]), (3, [0, 23, 5, 5, 24]), (1, [1, 0, 1, 2, -1])]


def stacked_rows(axes, ids):
    size = (len(ids), *STACKED[axes:])
    values = np.random.default_rng(0).integers(-8, 9, size).astype(np.float32)
    expected = np.zeros((*STACKED[:axes], *STACKED[axes:]), np.float32)
    by_rows = expected.reshape(-1, *STACKED[axes:])
    for i, value in zip(ids, values, strict=True):
        if 0 <= i < len(by_rows):
            by_rows[i] += value
    return aj.RowSparse(np.array(ids), values, STACKED), expected


@pytest.mark.parametrize("axes, ids", FORMS_OF_ROWS)
@pytest.mark.parametrize("jit", [False, True])
def test_rows_of_several_axes(axes, ids, jit):
    rows, expected = stacked_rows(axes, ids)
    num_rows = math.prod(STACKED[:axes])
    assert (rows.row_axes, rows.num_rows, rows.shape) == (axes, num_rows, STACKED)

    def run():
        bcoo = (2 * rows).to_bcoo()
        assert (bcoo.n_sparse, bcoo.n_batch, bcoo.shape) == (axes, 0, STACKED)
        back = aj.RowSparse.from_bcoo(bcoo)
        packed = Packed.of(rows).unpacked()
        assert back.row_axes == packed.row_axes == axes
        once, array = rows.coalesce(), jnp.ones(STACKED) + rows
        sums = [x.to_dense() for x in (rows, packed, rows.then(twice), once)]
        return sums, bcoo.todense(), back.to_dense(), array, once.ids

    sums, *doubled, array, ids_once = (jax.jit(run) if jit else run)()
    for found, factor in zip(sums, [1, 1, 2, 1], strict=True):
        np.testing.assert_array_equal(found, factor * expected)
    for found in doubled:
        np.testing.assert_array_equal(found, 2 * expected)
    np.testing.assert_array_equal(array, 1 + expected)
    named = sorted({i for i in ids if 0 <= i < num_rows})
    most = min(len(ids), num_rows)
    assert list(ids_once) == named + [num_rows] * (most - len(named))


def test_sums_of_rows_of_other_axes():
    """Those of fewer axes are taken as all the rows that are in them."""
    for one, other in itertools.permutations(FORMS_OF_ROWS, 2):
        (one, dense), (other, more) = stacked_rows(*one), stacked_rows(*other)
        total = one + other
        assert total.row_axes == max(one.row_axes, other.row_axes)
        np.testing.assert_array_equal(total.to_dense(), dense + more)
    whole = aj.RowSparse([1, 2], jnp.zeros((2, 3, 4)), STACKED)
    total = whole + aj.RowSparse([2], jnp.zeros((1, 4)), STACKED)
    assert list(total.ids) == [3, 4, 5, 6, 6, 6, 2]  # 6 is no row


def test_how_many_rows_of_several_axes_there_may_be():
    values = jnp.ones((1, 2))
    assert aj.RowSparse([0], values, (2**16, 2**15 - 1, 2)).num_rows < 2**31
    with pytest.raises(ValueError, match="fewer than 2.*with 2 axes that name a row"):
        aj.RowSparse([0], values, (2**16, 2**15, 2))


def test_repr_tells_of_several_axes():
    rows, _ = stacked_rows(2, [1])
    text = "RowSparse(1 rows, row_axes=2, shape=(2, 3, 4), dtype=float32)"
    assert repr(rows) == text
