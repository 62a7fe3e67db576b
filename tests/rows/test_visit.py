"""The door to gradients of rows: what is done through it equals what is done densely.

Each use is one function of rows, and is held against the same function of all rows of
the dense gradient, with tables of small whole numbers, so that sums are exact.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax._rows import sums, visit
from adagrad_jax._rows.visit import ROW_NUMBERS, rows_of

NUM_ROWS, DIM = 700, 3
RNG = np.random.default_rng(0)
# More than a block of rows, some of them many times, some of no row.
IDS = np.concatenate([RNG.integers(0, NUM_ROWS, 900), [NUM_ROWS, NUM_ROWS + 5, -1]])
VALUES = RNG.integers(-9, 9, (IDS.size, DIM)).astype(np.float32)
TABLE = RNG.integers(-9, 9, (NUM_ROWS, DIM)).astype(np.float32)
COUNTS = np.arange(NUM_ROWS, dtype=np.float32)
READ = np.unique(IDS[(IDS >= 0) & (IDS < NUM_ROWS)])


def gradient():
    return aj.RowSparse(IDS, VALUES, (NUM_ROWS, DIM))


def both(function):
    """``function`` of the gradient of rows, and of its dense form."""
    rows = jax.jit(lambda: function(gradient()))()
    dense = jax.jit(lambda: function(gradient().to_dense()))()
    return jax.tree.map(np.asarray, (rows, dense))


def columns(numbers):
    return numbers.astype(jnp.float32)[:, None]


def mix(rows, tables, factor, numbers):
    table, counts = tables
    return factor * rows + table - counts[:, None] + 2 * columns(numbers)


def test_rows_are_mapped_by_tables_whole_operands_and_their_numbers():
    def run(gradient):
        operands = rows_of((TABLE, COUNTS)), jnp.float32(3.0), ROW_NUMBERS
        mapped = visit.map_rows(gradient, mix, *operands)
        return mapped.to_dense() if isinstance(mapped, aj.RowSparse) else mapped

    rows, dense = both(run)
    expected = 3 * np.asarray(gradient().to_dense()) + TABLE + COUNTS[:, None]
    np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(rows[READ], dense[READ])
    assert not np.any(np.delete(rows, READ, axis=0))


def grow(rows, tables, other, factor, numbers):
    table, counts = tables
    return table + rows * factor + other, counts + numbers.astype(counts.dtype)


def test_only_rows_that_were_read_are_replaced():
    def run(gradient):
        tables = TABLE, COUNTS
        operands = rows_of(2 * TABLE), jnp.float32(2.0), ROW_NUMBERS
        return visit.replace_rows(gradient, grow, tables, *operands)

    rows, dense = both(run)
    for of_rows, of_all, before in zip(rows, dense, (TABLE, COUNTS), strict=True):
        np.testing.assert_array_equal(of_rows[READ], of_all[READ])
        others = np.setdiff1d(np.arange(NUM_ROWS), READ)
        np.testing.assert_array_equal(of_rows[others], before[others])


def swap(rows, table):
    return table, rows


def test_what_is_mapped_sees_the_tables_as_they_were():
    """Rows and table change places, and do so again when they are visited again."""

    def run(gradient):
        mapped, table = visit.map_and_replace_rows(gradient, swap, TABLE)
        back, again = visit.map_and_replace_rows(mapped, swap, table)
        found = [mapped, table, back, again]
        return [x.to_dense() if isinstance(x, aj.RowSparse) else x for x in found]

    rows, dense = both(run)
    for of_rows, of_all in zip(rows, dense, strict=True):
        np.testing.assert_array_equal(of_rows[READ], of_all[READ])
    np.testing.assert_array_equal(rows[3], TABLE)
    np.testing.assert_array_equal(rows[2], gradient().to_dense())


def test_rows_that_were_mapped_and_replaced_are_not_looked_for_again(monkeypatch):
    found = []

    def find(ids, num_rows):
        found.append(num_rows)
        return find_distinct(ids, num_rows)

    find_distinct = sums.find_distinct
    monkeypatch.setattr(sums, "find_distinct", find)
    mapped, _ = visit.map_and_replace_rows(visit.grouped(gradient()), swap, TABLE)
    mapped.to_dense(), visit.total(mapped, both_columns, "sum", ROW_NUMBERS)
    assert found == [NUM_ROWS]


def both_columns(rows, numbers):
    return {"first": rows[:, 0], "scaled": rows * columns(numbers)}


@pytest.mark.parametrize("reduction", ["sum", "max"])
def test_a_total_is_of_the_rows_that_are_named(reduction):
    def run(gradient):
        return visit.total(gradient, both_columns, reduction, ROW_NUMBERS)

    found = jax.jit(lambda: run(gradient()))()
    dense = np.asarray(gradient().to_dense())[READ]
    reduce = {"sum": np.sum, "max": np.max}[reduction]
    expected = {
        "first": reduce(dense[:, 0], axis=0),
        "scaled": reduce(dense * READ[:, None], axis=0),
    }
    assert found["scaled"].shape == (DIM,)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def swap_and_measure(rows, table, factor):
    return table, rows, both_columns(factor * table, jnp.ones(len(rows)))


@pytest.mark.parametrize("reduction", ["sum", "max"])
def test_one_visit_does_all_three(reduction):
    """The total sees the tables as they were, too."""

    @jax.jit
    def run(table):
        return visit.map_replace_and_total(
            gradient(), swap_and_measure, reduction, table, jnp.float32(2.0)
        )[1:]

    table, totals = run(TABLE)
    _, expected = visit.map_and_replace_rows(gradient(), swap, TABLE)
    np.testing.assert_array_equal(table, expected)
    reduce = {"sum": np.sum, "max": np.max}[reduction]
    np.testing.assert_array_equal(totals["first"], reduce(2 * TABLE[READ, 0]))
    np.testing.assert_array_equal(totals["scaled"], reduce(2 * TABLE[READ], axis=0))


@pytest.mark.parametrize("ids", [[], [NUM_ROWS], [-7]])
def test_the_total_of_no_rows(ids):
    rows = aj.RowSparse(
        np.array(ids, np.int32), np.ones((len(ids), DIM), np.float32), TABLE.shape
    )
    totals = [
        visit.total(rows, both_columns, reduction, ROW_NUMBERS)["scaled"]
        for reduction in ("sum", "max")
    ]
    np.testing.assert_array_equal(totals[0], np.zeros(DIM))
    np.testing.assert_array_equal(totals[1], np.full(DIM, -np.inf))


@pytest.mark.parametrize("reduction", ["sum", "max"])
def test_a_nan_is_in_the_total(reduction):
    values = VALUES.copy()
    values[np.flatnonzero(IDS == READ[0])[0], 1] = np.nan
    rows = aj.RowSparse(IDS, values, TABLE.shape)
    found = visit.total(rows, both_columns, reduction, ROW_NUMBERS)
    assert list(np.isnan(found["scaled"])) == [False, True, False]


def test_entries_are_mapped_as_they_came():
    """Two of one row are two; arrays beside them are seen too."""

    def scale_by_largest(tree):
        largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(tree))
        return jax.tree.map(lambda leaf: leaf / largest, tree)

    tree = {
        "bias": jnp.array([8.0]),
        "table": aj.RowSparse([1, 1], jnp.array([[2.0], [4.0]]), (3, 1)),
    }
    mapped = visit.map_entries(scale_by_largest, tree)
    np.testing.assert_array_equal(mapped["bias"], [1.0])
    np.testing.assert_array_equal(mapped["table"].ids, [1, 1])
    np.testing.assert_array_equal(mapped["table"].values, [[0.25], [0.5]])


def read_table(rows, table):
    return rows + table


def count(rows, tables):
    return rows, tables[1] + 1


def test_a_table_that_is_read_for_its_own_update_is_not_copied():
    """By one put-off function or by two, also where the tables are a tree."""

    def step(table, counts, ids, values):
        rows = aj.RowSparse(ids, values, table.shape)
        rows = visit.map_rows(rows, read_table, rows_of(table))
        rows = visit.map_rows(rows, read_table, rows_of(table))
        return visit.replace_rows(rows, count, (table, counts))

    rows, dim = 100_000, 8
    shapes = [(rows, dim), (rows,), (16,), (16, dim)]
    dtypes = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    args = map(jax.ShapeDtypeStruct, shapes, dtypes)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*args).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows
