"""Both ways to sum the entries of each row: the CPU's, and the accelerators'.

Each is called directly, so both run here. Entries are small whole numbers, whose sums
are exact in float32, whatever their order.
"""

import functools
import math
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import adagrad_jax as aj
from adagrad_jax._rows import distinct as distinct_rows
from adagrad_jax._rows import fold as folding
from adagrad_jax._rows import row_sparse
from adagrad_jax._rows import sums as sums_of_rows
from adagrad_jax._rows.blocks import block_size
from adagrad_jax._rows.sums import Sums

FIND = {"hashing": distinct_rows._by_hashing, "sorting": distinct_rows._by_sorting}
MANY = 2**31 - 1
SIZES = [(1, 1), (1, MANY), (7, 200), (257, 200), (257, MANY)]
SIZES += [(3000, num_rows) for num_rows in (1, 200, 100_000, MANY)]


@functools.cache
def find(form, num_rows):
    return jax.jit(functools.partial(FIND[form], num_rows=num_rows))


@functools.cache
def summing(form):
    def choose(*args, cpu, default):
        return (cpu if form == "hashing" else default)(*args)

    def run(entries, distinct):
        with mock.patch.object(jax.lax, "platform_dependent", choose):
            return sums_of_rows._sum_rows.__wrapped__(entries, distinct)

    return jax.jit(run)


def all_rows(form, entries, distinct):
    """Of the slots in use."""
    return summing(form)(entries, distinct)[: int(distinct.num_used)]


@functools.cache
def colliding(n, num_rows):
    """At most n ids whose first two hashes, among n entries, are the same."""
    bits = math.ceil(math.log2(2 * n))
    inverse, second = (np.uint32(pow(0x9E3779B1, p, 2**32)) for p in (-1, 2))
    # What has these products has zeros as the upper bits of them.
    products = np.arange(min(2 ** (32 - bits), 2**22), dtype=np.uint32)
    ids = (products * inverse)[products * inverse < num_rows]
    again = (ids * second) >> np.uint32(32 - bits)
    if not len(ids):
        return ids
    return ids[again == np.bincount(again).argmax()][:n]


@st.composite
def ids_of(draw, n, num_rows):
    kind = draw(st.sampled_from(["few", "any", "equal", "distinct", "none", "worst"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "few":
        ids = rng.choice(rng.integers(0, num_rows + 1, 5), n)
    elif kind == "any":
        ids = rng.integers(0, num_rows + 1, n)
    elif kind == "equal":
        ids = np.full(n, rng.integers(0, num_rows + 1))
    elif kind == "distinct":
        ids = (rng.integers(0, num_rows) + np.arange(n)) % (num_rows + 1)
    elif kind == "none":
        ids = np.full(n, num_rows)
    else:
        ids = np.concatenate([colliding(n, num_rows), [0]])
        ids = rng.choice(ids, n, replace=len(ids) < n)
    return ids.astype(np.int32)


def entries_of(ids, width=2):
    rng = np.random.default_rng(len(ids))
    return rng.integers(-8, 9, (len(ids), width)).astype(np.float32)


def sums_of(ids, entries):
    """Of each distinct id, in ascending order."""
    unique, inverse = np.unique(ids, return_inverse=True)
    sums = np.zeros((len(unique), *entries.shape[1:]))
    np.add.at(sums, inverse, entries.astype(np.float64))
    return unique, sums


@pytest.mark.parametrize("form", FIND)
@pytest.mark.parametrize("n, num_rows", SIZES)
@hypothesis.settings(max_examples=12)
@hypothesis.given(data=st.data())
def test_each_row_has_one_slot_and_its_sum(form, n, num_rows, data):
    ids = data.draw(ids_of(n, num_rows))
    entries = entries_of(ids)
    distinct = find(form, num_rows)(ids)
    unique, sums = sums_of(ids[ids < num_rows], entries[ids < num_rows])
    used = int(distinct.num_used)
    assert used == len(unique)
    np.testing.assert_array_equal(np.sort(distinct.order), np.arange(n))
    of_slots = np.append(distinct.ids, num_rows)  # the last one is of no row
    np.testing.assert_array_equal(of_slots[distinct.slot], ids[distinct.order])
    assert np.all(
        (np.asarray(distinct.slot) < used) == (ids[distinct.order] < num_rows)
    )
    slots = np.argsort(distinct.ids[:used])
    np.testing.assert_array_equal(np.asarray(distinct.ids)[slots], unique)
    assert np.all(distinct.ids[used:] == num_rows)
    assert len(distinct.ids) % block_size(len(distinct.ids)) == 0
    assert min(n, num_rows) <= len(distinct.ids) <= min(n, num_rows) + 8
    rows = all_rows(form, jnp.asarray(entries), distinct)
    np.testing.assert_array_equal(np.asarray(rows)[slots], sums)
    again = find(form, num_rows)(ids)
    jax.tree.map(np.testing.assert_array_equal, again, distinct)
    np.testing.assert_array_equal(all_rows(form, jnp.asarray(entries), again), rows)


def test_the_worst_ids_do_meet():
    for n in (257, 3000):
        ids = colliding(n, MANY)
        assert len(np.unique(ids)) > 20
        bits = math.ceil(math.log2(2 * n))
        for attempt in (1, 2):
            multiplier = np.uint32(pow(0x9E3779B1, attempt, 2**32))
            hashes = (ids * multiplier) >> np.uint32(32 - bits)
            assert len(np.unique(hashes)) == 1


# Visiting rows


def accelerator_form(monkeypatch):
    """Takes the forms for accelerators, and past jit, whose caches have the CPU's."""

    def default(*args, cpu, default):
        return default(*args)

    monkeypatch.setattr(folding.lax, "platform_dependent", default)
    for module, name in (
        (sums_of_rows, "find_distinct"),
        (sums_of_rows, "_sum_rows"),
        (folding, "fold"),
        (folding, "_all_rows"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    monkeypatch.setattr(row_sparse, "fold", folding.fold)


@pytest.fixture(params=["cpu", "accelerator"])
def form(request, monkeypatch):
    if request.param == "accelerator":
        accelerator_form(monkeypatch)
    return request.param


def count_and_add(rows, tables, factor):
    """Of each slot in use: what the others do is dropped, or it would spoil it."""
    visits, table = tables
    return (), (visits + 1, table + factor * rows), jnp.ones(len(rows))


def counted(sums, num_rows, factor, stages=()):
    """How often each row was visited, what was added to it, and how many there were."""
    tables = jnp.zeros(num_rows, jnp.int32), jnp.zeros((num_rows, 2))
    visit, operands = folding.to_visit(stages, count_and_add, "sum", tables, (factor,))
    visited = folding.fold(visit, sums, tables, operands)
    assert visited.mapped == ()
    return *visited.tables, visited.totals


def double(rows, factor):
    return factor * rows


def add_id(rows, ids):
    return rows + ids.astype(rows.dtype)[:, None]


@pytest.mark.parametrize(
    "n, num_rows",
    [(0, 300), (1, 1), (7, 300), (256, 5000), (257, 300), (511, 5000), (3000, 300)]
    + [(3000, 5000)],
)
def test_fold_visits_each_row_once(form, n, num_rows):
    rng = np.random.default_rng(n)
    ids = rng.integers(0, num_rows + 1, n).astype(np.int32)
    entries = entries_of(ids)

    @jax.jit
    def run(ids, entries):
        stages = ((double, (jnp.float32(2.0),)), (add_id, (folding.ROW_NUMBERS,)))
        sums = Sums.of(ids, entries, num_rows, 1, entries.dtype)
        rows = folding.all_rows(sums, stages)
        folded = counted(sums, num_rows, jnp.float32(3.0), stages)
        return folded, rows, sums.distinct

    (visits, table, number), rows, distinct = run(ids, entries)
    unique, sums = sums_of(ids[ids < num_rows], entries[ids < num_rows])
    expected = np.zeros((num_rows, 2))
    expected[unique] = 2 * sums + unique[:, None]
    np.testing.assert_array_equal(visits, np.isin(np.arange(num_rows), unique))
    np.testing.assert_array_equal(table, 3 * expected)
    assert number == len(unique)
    for row, i in zip(*map(np.asarray, (rows, distinct.ids)), strict=True):
        if i < num_rows:
            np.testing.assert_array_equal(row, expected[i])
    again = run(ids, entries)
    jax.tree.map(
        np.testing.assert_array_equal, again, ((visits, table, number), rows, distinct)
    )


def test_a_block_that_is_not_full_is_the_last(form):
    """The loop stops at the last row in use, wherever in a block that is."""
    n, num_rows = 3000, 10_000
    for used in (1, 374, 375, 376, 750, 2999, 3000):
        ids = np.arange(n, dtype=np.int32) % used
        entries = np.ones((n, 2), np.float32)
        args = jnp.asarray(ids), jnp.asarray(entries)
        sums = Sums.of(*args, num_rows, 1, jnp.float32)
        visits, table, number = counted(sums, num_rows, jnp.float32(1.0))
        assert number == used
        np.testing.assert_array_equal(visits, np.arange(num_rows) < used)
        np.testing.assert_array_equal(table[:, 0], np.bincount(ids, minlength=num_rows))


@pytest.mark.parametrize("form", FIND)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
def test_rows_of_any_rank(form, shape):
    ids = np.array([3, 1, 3, 5, 3], np.int32)
    rng = np.random.default_rng(0)
    entries = rng.integers(-8, 9, (5, *shape)).astype(np.float32)
    distinct = find(form, 6)(ids)
    rows = np.asarray(all_rows(form, jnp.asarray(entries), distinct))
    unique, sums = sums_of(ids, entries)
    slots = np.argsort(distinct.ids[: len(unique)])
    assert rows.shape == (3, *shape)
    np.testing.assert_array_equal(rows[slots], sums)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", FIND)
@pytest.mark.parametrize(
    "dtype, sum_dtype",
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("complex64", "complex64"),
        ("complex128", "complex128"),
    ],
)
def test_sums_are_in_float32_or_wider(form, dtype, sum_dtype):
    """1000 times 0.001 in bfloat16 would stop growing at a quarter."""
    entries = jnp.full((1000, 1), 2.0**-10, dtype)
    distinct = find(form, 4)(jnp.full(1000, 2, jnp.int32))
    rows = all_rows(form, entries, distinct)
    assert rows.dtype == sum_dtype
    np.testing.assert_array_equal(rows[0], 1000 * 2.0**-10)


@pytest.mark.parametrize("form", FIND)
def test_what_is_not_finite_stays_in_its_row(form):
    ids = np.array([0, 1, 2, 1, 3, 0, 2], np.int32)
    entries = np.ones((7, 1), np.float32)
    entries[[1, 2]] = [[np.nan], [np.inf]]
    distinct = find(form, 4)(ids)
    rows = np.asarray(all_rows(form, jnp.asarray(entries), distinct))[:, 0]
    rows = rows[np.argsort(distinct.ids[:4])]
    np.testing.assert_array_equal(rows, [2, np.nan, np.inf, 1])


# Whole updates


def updates_of(optimizer, table, ids, values):
    """As a new function each time, which no cache has."""

    def update(table, ids, values):
        gradient = aj.RowSparse(ids, values, table.shape)
        updates, state = optimizer.update(gradient, optimizer.init(table), table)
        return aj.apply_updates(table, updates), state, gradient.coalesce().to_bcoo()

    return jax.jit(update)(table, ids, values)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_an_update_in_the_accelerators_form(n, monkeypatch):
    rng = np.random.default_rng(5)
    table = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)
    ids = jnp.asarray(rng.integers(-1, 22, n), jnp.int32)
    values = jnp.asarray(rng.normal(size=(n, 3)), jnp.float32)
    optimizer = optax.chain(
        aj.clip_by_global_norm(1.0), aj.add_decayed_weights(0.1), aj.adagrad(0.1)
    )
    expected = updates_of(optimizer, table, ids, values)
    accelerator_form(monkeypatch)
    actual = updates_of(optimizer, table, ids, values)
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6)


def test_no_index_is_out_of_range(form):
    """A checker of indices, which knows of no place that is skipped, finds none."""
    shape, n = (2, 150, 2), 600
    optimizer = optax.chain(
        aj.clip_by_global_norm(1.0),
        aj.add_decayed_weights(0.1),
        aj.adagrad(0.1, accumulator=aj.RowWise(row_axes=2)),
        aj.lazy_weight_decay(0.1, 0.1, row_axes=2),
        aj.scale_by_frequency(row_axes=2),
    )
    sm3 = aj.adagrad(0.1, accumulator=aj.SM3())

    def step(table, state, ids, values):
        gradient = aj.RowSparse(ids, values, shape)
        updates, state = optimizer.update(gradient, state, table)
        flat = aj.RowSparse(ids, values, (300, 2))
        rows = table.reshape(300, 2)
        others = sm3.update(flat, sm3.init(rows))
        coalesced = (gradient + gradient.coalesce()).to_bcoo().data
        return aj.apply_updates(table, updates), others[1], coalesced

    checked = checkify.checkify(step, errors=checkify.index_checks)
    checked = jax.jit(checked)
    table, rng = jnp.ones(shape), np.random.default_rng(0)
    for ids in (
        rng.integers(-1, 302, n),
        np.full(n, 300),
        np.zeros(n),
        np.arange(n) % 300,
    ):
        ids = jnp.asarray(ids, jnp.int32)
        error, _ = checked(table, optimizer.init(table), ids, jnp.ones((n, 2)))
        assert error.get() is None


def test_a_checker_would_find_one():
    def read(table, ids):
        return table.at[ids].get(mode="clip")

    checked = checkify.checkify(read, errors=checkify.index_checks)
    error, _ = checked(jnp.ones(3), jnp.array([3]))
    assert "out-of-bounds" in error.get()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_exports(platform, n):
    def run(ids, entries):
        sums = Sums.of(ids, entries, 50, 1, entries.dtype)
        return counted(sums, 50, jnp.float32(1.0)), folding.all_rows(sums)

    args = jnp.zeros(n, jnp.int32), jnp.zeros((n, 2))
    exported = jax.export.export(jax.jit(run), platforms=[platform])(*args)
    functions = exported.mlir_module().split("func.func ")
    # With jax 0.12 a cumulative sum is an operation of its own ("composite"), which for
    # want of it would be this function.
    module = "".join(f for f in functions if "@chlo.scan.impl" not in f[:40])
    assert ("stablehlo.sort" in module) == (platform != "cpu")
    assert ("stablehlo.while" in module) == (platform == "cpu")
