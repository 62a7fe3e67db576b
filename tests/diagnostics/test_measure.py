"""What a report measures, against NumPy, of each form of accumulator."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax.diagnostics import QUANTILES, report
from tests.diagnostics.common import of, sums


def reference(a, learning_rate, epsilon, in_sqrt):
    """Rates at the quantiles, in float64."""
    a = np.asarray(a, np.float64).ravel()
    root = np.sqrt(a + epsilon) if in_sqrt else np.sqrt(a) + epsilon
    rates = np.sort(learning_rate / root)
    return [rates[math.floor(q * (len(rates) - 1) + 0.5)] for q in QUANTILES]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (50, 8), (5, 4, 3), (1500, 100)])
@pytest.mark.parametrize("in_sqrt", [False, True])
def test_a_diagonal_report_is_what_numpy_says(shape, in_sqrt):
    a = sums(shape)
    options = {"learning_rate": 0.5, "epsilon": 1e-3, "epsilon_in_sqrt": in_sqrt}
    (leaf,) = of(a, **options).leaves
    assert (leaf.path, leaf.shape, leaf.size) == ("", shape, a.size)
    np.testing.assert_allclose(leaf.rates, reference(a, 0.5, 1e-3, in_sqrt), rtol=1e-12)
    start = reference(np.float32(0.1), 0.5, 1e-3, in_sqrt)[0]
    np.testing.assert_allclose(leaf.initial_rate, start, rtol=1e-12)
    exact = a.astype(np.float64)
    now = 0.5 / (np.sqrt(exact + 1e-3) if in_sqrt else np.sqrt(exact) + 1e-3)
    assert leaf.dead == np.mean(now < 1e-3 * start)
    middle = np.sort(exact.ravel())[a.size - 1 - math.floor(0.5 * (a.size - 1) + 0.5)]
    np.testing.assert_allclose(leaf.growth, middle / np.float32(0.1), rtol=1e-12)
    if len(shape) > 1:
        untouched = (a == np.float32(0.1)).all(axis=tuple(range(1, a.ndim)))
        assert (leaf.rows, leaf.untouched_rows) == (shape[0], untouched.sum())
    else:
        assert leaf.rows is leaf.untouched_rows is None
    assert leaf.not_finite == 0 and leaf.fell is None


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "dtype, size",
    # Large ones are not sorted but counted.
    [("float16", 400), ("bfloat16", 400), ("float32", 400), ("float64", 200_000)],
)
def test_low_and_high_precision(dtype, size):
    a = jnp.asarray(np.minimum(sums(size, dtype=np.float64), 6e4), dtype)
    (leaf,) = of(a, learning_rate=1.0).leaves
    exact = np.asarray(a).astype(np.float64)
    np.testing.assert_allclose(leaf.rates, reference(exact, 1.0, 1e-7, False), 1e-12)


SHAPES = [(), (6,), (6, 4), (3, 2, 4), (3, 0)]


def sums_of_squares(kept, shape):
    """Of each coordinate, by NumPy, from what an accumulator keeps."""
    kept = jax.tree.map(lambda x: np.asarray(x, np.float32), kept)
    kept = getattr(kept, "sum_of_squares", kept)
    if isinstance(kept, tuple):
        axes = np.broadcast_arrays(*np.ix_(*kept)) if shape else kept
        return np.minimum.reduce(axes)
    if kept.ndim == 3 and kept.shape != shape:
        size = math.prod(shape)
        return np.concatenate([np.diag(block) for block in kept])[:size].reshape(shape)
    return kept


@pytest.mark.parametrize(
    "accumulator",
    [
        aj.Diagonal(),
        aj.RowWise(),
        aj.Norm(),
        aj.SM3(),
        aj.RoundedDiagonal(),
        aj.FullMatrix(),
        aj.FullMatrix(block_size=5),
    ],
    ids=repr,
)
def test_every_accumulator(accumulator):
    rng = np.random.default_rng(0)
    params = [np.ones(shape, np.float32) for shape in SHAPES]
    optimizer = aj.adagrad(0.5, accumulator=accumulator)
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    gradients[2][1] = 0  # a row that is never touched
    state = jax.jit(optimizer.init)(params)
    for _ in range(2):
        _, state = jax.jit(optimizer.update)(gradients, state)
    leaves = report(state, params, learning_rate=0.5).leaves
    assert [leaf.shape for leaf in leaves] == SHAPES
    for leaf, kept in zip(leaves[:-1], state[0].accumulator[:-1], strict=True):
        a = sums_of_squares(kept, leaf.shape)
        np.testing.assert_allclose(leaf.rates, reference(a, 0.5, 1e-7, False), 1e-12)
    rows = [(leaf.rows, leaf.untouched_rows) for leaf in leaves[:-1]]
    keeps_rows = not isinstance(accumulator, aj.Norm)
    assert rows[:2] == [(None, None)] * 2
    assert rows[2:] == ([(6, 1), (3, 0)] if keeps_rows else [(None, None)] * 2)
    empty = leaves[-1]
    assert np.isnan(empty.rates).all() and empty.dead == empty.not_finite == 0


def test_dead_coordinates():
    # (sqrt(a0) + eps) / (sqrt(a) + eps) is 1/10 where a = 100, and less beyond.
    a = jnp.array([1.0, 99.0, 100.0, 101.0, 1e9])
    options = {"initial_accumulator_value": 1.0, "epsilon": 0.0}
    assert of(a, dead_below=0.1, **options).leaves[0].dead == 0.4
    assert of(a, dead_below=1, **options).leaves[0].dead == 0.8
    assert of(a, **options).leaves[0].dead == 0.2


@pytest.mark.parametrize("epsilon", [0.0, 1e-10])
def test_from_zero_growth_is_absolute(epsilon):
    a = jnp.array([[0.0, 0.0], [4.0, 1e8]])
    (leaf,) = of(a, initial_accumulator_value=0.0, epsilon=epsilon).leaves
    assert leaf.rates[-1] == (1 / epsilon if epsilon else np.inf)
    assert leaf.growth == 0.0 and leaf.dead == 0.25 and leaf.untouched_rows == 1
    text = str(of(a, initial_accumulator_value=0.0, epsilon=epsilon))
    assert "growth: median of a / initial_accumulator_value (of a where that" in text


@pytest.mark.parametrize("size", [10, 200_000])
def test_nothing_that_is_not_finite_is_hidden(size):
    a = np.full((size, 2), 0.4, np.float32)
    a[:3, 0] = np.nan
    a[4, 1] = -np.nan
    a[5] = np.inf
    result = of({"good": np.ones(3, np.float32), "w": a}, learning_rate=1.0)
    leaf = result.leaves[1]
    assert leaf.not_finite == 6 and leaf.rates[0] == 0.0  # no step at infinity
    assert leaf.dead == 2 / (2 * size)
    np.testing.assert_allclose(leaf.rates[2:], 1 / np.sqrt(0.4), rtol=1e-6)
    lines = str(result).splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("leaf"))
    assert "not finite" in lines[row] and lines[row + 2].startswith("w ")
    assert lines[row + 2].endswith("  6")
    (leaf,) = of(jnp.full(3, jnp.nan)).leaves
    assert leaf.not_finite == 3 and np.isnan(leaf.rates).all()
    assert " nan " in str(of(jnp.full(3, jnp.nan)))
    (leaf,) = of(jnp.full(2, jnp.nan), jnp.ones((2, 5))).leaves  # row-wise
    assert leaf.not_finite == 10


def test_complex_parameters():
    optimizer = aj.adagrad(0.1)
    params = jnp.array([1.0 + 1j, 2.0])
    gradient = jnp.array([3.0 + 4j, 0.0])
    _, state = jax.jit(optimizer.update)(gradient, optimizer.init(params))
    (leaf,) = report(state, params, learning_rate=1.0).leaves
    np.testing.assert_allclose(leaf.rates[0], 1 / np.sqrt(25.1), rtol=1e-6)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    "rows, spec", [(64, ("rows",)), (64, (None, "rows")), (20_000, ("rows",))]
)
def test_sharded_accumulators(kind, rows, spec):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(kind,))
    a = sums((rows, 8))
    sharded = jax.device_put(a, NamedSharding(mesh, PartitionSpec(*spec)))
    assert of(sharded) == of(a)
    if rows == 64:
        with jax.set_mesh(mesh):
            assert of(sharded) == of(a)


def test_rows_that_row_sparse_training_never_touched():
    params = {"table": jnp.ones((50, 4)), "out": jnp.ones((4, 2))}
    optimizer = aj.adagrad(0.1)

    def loss(params, ids):
        return jnp.sum((params["table"][ids] @ params["out"]) ** 2)

    @jax.jit
    def step(params, state, ids):
        _, gradients = aj.value_and_grad(loss)(params, ids)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for ids in ([1, 3, 3], [3, 7, 49]):
        params, state = step(params, state, jnp.array(ids))
    out, table = report(state, params, learning_rate=0.1).leaves
    assert (table.rows, table.untouched_rows) == (50, 46)
    assert (out.rows, out.untouched_rows) == (4, 0)
    assert table.rates[-1] == table.initial_rate > table.rates[0]


def test_since_shows_how_far_rates_fell():
    before = of(jnp.full(3, 0.1), learning_rate=1.0, epsilon=0.0)
    after = of(jnp.full(3, 0.4), learning_rate=1.0, epsilon=0.0, since=before)
    np.testing.assert_allclose(after.leaves[0].fell, 0.5)
    assert "  50.0%\n" in str(after) and "fell: how far the median" in str(after)


def test_no_leaf_at_all():
    result = of({"a": optax.MaskedNode()}, {"a": jnp.ones(3)})
    assert result.leaves == () and "0 leaves" in str(result)
    result.plot()


# Errors


@pytest.mark.parametrize(
    "kept",
    [
        np.ones(3, np.float32),
        np.ones((2, 4), np.int32),
        np.ones((2, 4), np.complex64),
        np.ones((1, 3, 3), np.float32),
        (np.ones(2, np.float32),),
        "a",
    ],
    ids=repr,
)
def test_what_is_kept_must_be_known(kept):
    with pytest.raises(TypeError, match=r"at \['w'\] must be one of adagrad_jax's for"):
        of({"w": kept}, {"w": np.ones((2, 4))})


def test_report_is_not_for_jit():
    with pytest.raises(TypeError, match="call report outside of jax.jit"):
        jax.jit(lambda a: str(of(a)))(jnp.ones(2))


def test_an_accumulator_below_its_start_tells_that_the_start_was_another():
    state = aj.scale_by_adagrad(0.01).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"built with, got 0.1, .* \['w'\] has 0.01"):
        report(state, {"w": jnp.ones(2)})


@pytest.mark.parametrize(
    "error, message, options",
    [
        (ValueError, "`learning_rate` must be a real number", {"learning_rate": -1.0}),
        (TypeError, "`epsilon` must be a real number", {"epsilon": "small"}),
        (
            ValueError,
            "`initial_accumulator_value` must be a real number",
            {"initial_accumulator_value": math.nan},
        ),
        (ValueError, "`dead_below` must be a real number", {"dead_below": 0.0}),
        (ValueError, "`dead_below` must be at most 1, got 2", {"dead_below": 2.0}),
        (ValueError, "`epsilon` must be one for all leaves", {"epsilon": {"v": 0.0}}),
    ],
)
def test_arguments_are_checked(error, message, options):
    with pytest.raises(error, match=message):
        of({"w": jnp.ones(2)}, **options)


def test_an_earlier_report_must_fit():
    now, before = {"w": jnp.ones(2)}, of({"v": jnp.ones(2)})
    with pytest.raises(ValueError, match="`since` must be a report of the same param"):
        of(now, since=before)
    with pytest.raises(ValueError, match="made with a learning rate if this report is"):
        of(now, since=of(now), learning_rate=0.1)


def test_rows_of_several_tables_in_one_array():
    """RowWise tells how many axes name a row."""
    tables = jnp.zeros((2, 3, 4))
    optimizer = aj.adagrad(0.1, accumulator=aj.RowWise(row_axes=2))
    gradient = aj.RowSparse([4, 1, 4], jnp.ones((3, 4)), tables.shape)
    _, state = optimizer.update(gradient, optimizer.init(tables))
    (leaf,) = aj.diagnostics.report(state, tables, learning_rate=0.1).leaves
    assert (leaf.rows, leaf.untouched_rows) == (6, 4)
