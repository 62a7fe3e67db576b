"""What a report says, against NumPy, of each form of state and of each wrapper."""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax.diagnostics import QUANTILES, _table, report


def of(accumulator, params=None, **options):
    """The report of a state with this accumulator."""
    params = accumulator if params is None else params
    return report(aj.ScaleByAdagradState(accumulator), params, **options)


def sums(shape, seed=0, start=0.1, dtype=np.float32):
    """Sums of squares of many magnitudes, some still at the start."""
    rng = np.random.default_rng(seed)
    grown = start + 10.0 ** rng.uniform(-6, 6, shape)
    return np.where(rng.random(shape) < 0.3, start, grown).astype(dtype)


def reference(a, learning_rate, epsilon, in_sqrt):
    """Rates at the quantiles, in float64."""
    a = np.asarray(a, np.float64).ravel()
    root = np.sqrt(a + epsilon) if in_sqrt else np.sqrt(a) + epsilon
    rates = np.sort(learning_rate / root)
    return [rates[math.floor(q * (len(rates) - 1) + 0.5)] for q in QUANTILES]


# The numbers


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
    params = [jnp.ones(shape) for shape in SHAPES]
    optimizer = aj.adagrad(0.5, accumulator=accumulator)
    gradients = [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]
    gradients[2][1] = 0  # a row that is never touched
    state = jax.jit(optimizer.init)(params)
    for _ in range(2):
        _, state = jax.jit(optimizer.update)(
            jax.tree.map(jnp.asarray, gradients), state
        )
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
    _, state = optimizer.update(jnp.array([3.0 + 4j, 0.0]), optimizer.init(params))
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


# Finding it in a state


SCHEDULE = aj.inverse_time_decay(0.5, 1.0)
WRAPPED = {
    "chain": lambda a: optax.chain(optax.clip(1.0), a, optax.add_decayed_weights(0.1)),
    "masked": lambda a: optax.masked(a, {"dense": {"b": False, "w": True}, "e": True}),
    "masked branch": lambda a: optax.masked(a, {"dense": False, "e": True}),
    "partition": lambda a: optax.partition(
        {"a": a, "s": optax.sgd(0.1)}, {"dense": "a", "e": "s"}
    ),
    "several": lambda a: optax.partition(
        {"a": a, "r": aj.adagrad(0.5, accumulator=aj.RowWise())},
        {"dense": {"b": "a", "w": "r"}, "e": "a"},
    ),
    "steps": lambda a: optax.MultiSteps(a, 1),
    "finite": lambda a: optax.apply_if_finite(a, 3),
}
LEFT = {
    "masked": ["dense/w", "e"],
    "masked branch": ["e"],
    "partition": ["dense/b", "dense/w"],
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_jitted_training_through_a_wrapper(name):
    params = {"dense": {"b": jnp.ones(2), "w": jnp.ones((4, 2))}, "e": jnp.ones((3, 4))}
    optimizer = WRAPPED[name](aj.adagrad(0.5))

    def loss(params):
        y = jnp.tanh(params["e"][:2] @ params["dense"]["w"] + params["dense"]["b"])
        return jnp.sum(y**2)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    first = report(state, params, learning_rate=0.5)
    for _ in range(3):
        params, state = step(params, state)
    last = report(state, params, learning_rate=0.5, since=first)
    paths = LEFT.get(name, ["dense/b", "dense/w", "e"])
    assert [leaf.path for leaf in last.leaves] == paths
    for leaf, before in zip(last.leaves, first.leaves, strict=True):
        assert before.growth == 1 and before.dead == 0
        assert before.rows == before.untouched_rows
        np.testing.assert_allclose(before.rates, 0.5 / (np.sqrt(0.1) + 1e-7), 1e-6)
        assert leaf.growth > 1
        assert leaf.fell == 1 - leaf.median_rate / before.median_rate
        assert leaf.untouched_rows == (before.rows and int(leaf.path == "e"))


def test_injected_hyperparameters_are_read_from_the_state():
    params = {"w": jnp.ones(3)}
    optimizer = optax.inject_hyperparams(aj.adagrad)(SCHEDULE, 0.25, epsilon=0.5)
    state = optimizer.init(params)
    for _ in range(2):
        _, state = optimizer.update({"w": jnp.array([0.0, 1.0, 1.0])}, state, params)
    (leaf,) = report(state, params).leaves
    assert (leaf.learning_rate, leaf.initial_accumulator_value) == (0.25, 0.25)
    assert leaf.epsilon == 0.5 and leaf.growth == 9.0
    np.testing.assert_allclose(leaf.rates, [0.125, 0.125, 0.125, 0.25, 0.25])
    (given,) = report(state, params, learning_rate=1.0, epsilon=1.0).leaves
    np.testing.assert_allclose(given.rates, [0.4, 0.4, 0.4, 1 / 1.5, 1 / 1.5])


def test_names_of_the_dialects_are_read_too():
    optimizer = optax.inject_hyperparams(aj.dialects.torch)(lr=0.5, eps=0.25)
    params = jnp.ones(2)
    (leaf,) = report(optimizer.init(params), params).leaves
    assert (leaf.learning_rate, leaf.epsilon) == (0.5, 0.25)
    assert leaf.initial_accumulator_value == 0 and leaf.rates == (2.0,) * 5


def test_each_part_of_a_partition_has_its_own_hyperparameters():
    adagrad = optax.inject_hyperparams(aj.adagrad)
    parts = {"fast": adagrad(1.0, 0.25), "slow": adagrad(0.5, 1.0)}
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2)}}
    optimizer = optax.partition(parts, {"a": "slow", "b": "fast"})
    a, c = report(optimizer.init(params), params).leaves
    assert (a.path, a.learning_rate, a.growth) == ("a", 0.5, 1.0)
    assert (c.path, c.learning_rate, c.growth) == ("b/c", 1.0, 1.0)


def test_a_tree_of_hyperparameters():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
    parts = {"fast": aj.adagrad(SCHEDULE, 0.25), "slow": aj.adagrad(0.5, 1.0)}
    optimizer = optax.partition(parts, {"a": "slow", "b": "fast"})
    state = optimizer.init(params)
    _, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state)
    result = report(
        state,
        params,
        learning_rate={"a": 0.5, "b": SCHEDULE},
        initial_accumulator_value={"a": 1.0, "b": 0.25},
    )
    assert [leaf.learning_rate for leaf in result.leaves] == [0.5, 0.25, 0.25]
    assert [leaf.growth for leaf in result.leaves] == [1.0, 1.0, 1.0]
    assert "learning_rate 0.25 to 0.5, initial_acc" in str(result)


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


# What is printed and drawn


def example():
    """One leaf of each sort."""
    accumulators = {
        "bad": np.array([0.4, np.nan], np.float32),
        "embed": {"table": sums((2000, 16))[:, 0]},
        "empty": np.zeros((0, 3), np.float32),
        "norm": np.float32(2.5e9),
        "sm3": (sums((4,)), sums((5,), 1)),
        "matrix": np.eye(6, dtype=np.float32)[None] * 3,
    }
    params = {
        "bad": np.ones(2),
        "embed": {"table": np.ones((2000, 16))},
        "empty": np.zeros((0, 3)),
        "norm": np.ones(12),
        "sm3": np.ones((4, 5)),
        "matrix": np.ones((2, 3)),
    }
    return of(accumulators, params, learning_rate=0.1)


GOLDEN = """\
Effective learning rates: learning_rate / (sqrt(a) + epsilon)
learning_rate 0.1, initial_accumulator_value 0.1, epsilon 1e-07

leaf         size   lowest   median  highest  growth  dead  untouched  not finite
---------------------------------------------------------------------------------
bad             2  1.6e-01  1.6e-01  1.6e-01       4    0%                      1
norm           12  2.0e-06  2.0e-06  2.0e-06     25G  100%
embed/table   32k  1.0e-04  3.1e-01  3.2e-01    1.02  6.0%      29.9%
matrix          6  5.8e-02  5.8e-02  5.8e-02      30    0%         0%
sm3            20  1.5e-02  3.2e-01  3.2e-01       1    0%         0%
empty           0        -        -        -       -     -
---------------------------------------------------------------------------------
6 leaves      32k  2.0e-06           3.2e-01          6.0%      29.9%           1

growth: median of a / initial_accumulator_value
dead: rate below 0.001 times that at the start
untouched: rows still at initial_accumulator_value
not finite: coordinates where a is NaN or infinite"""


def test_the_text_is_this():
    assert str(example()) == GOLDEN


def many(leaves):
    return of(
        {
            f"transformer_{i:03d}_{'long' * (i % 9)}": {
                "self_attention": {"query_projection": {"kernel": sums((3, 2), i)}}
            }
            for i in range(leaves)
        }
    )


def test_the_table_of_many_leaves_is_narrow_and_short():
    result = many(200)
    lines = str(of({"nan": np.float32([np.nan])})).splitlines() + str(result).split(
        "\n"
    )
    assert max(len(line) for line in lines) <= 100
    assert len(str(result).splitlines()) <= 33
    assert "and 180 leaves that are no worse\n" in str(result)
    assert result.table(200).count("kernel") == 200
    later = many(200)
    shown = report(
        aj.ScaleByAdagradState({"x" * 200: sums((4, 3))}), {"x" * 200: np.ones((4, 3))}
    )
    assert max(len(line) for line in str(shown).splitlines()) <= 100
    worst = later.worst(200)
    dead = [(leaf.dead, leaf.growth) for leaf in worst]
    assert dead == sorted(dead, reverse=True)


def test_long_paths_keep_their_numbers_and_their_last_part():
    cut = _table.fit("transformer/encoder_layer_11/attention/kernel", 30)
    assert cut == "tra…mer/enc…_11/att…ion/kernel"
    assert _table.fit("a/b", 30) == "a/b"
    assert len(_table.fit("x" * 99, 30)) == 30


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (999, "999"), (999.9, "1k"), (64e6, "64M"), (1234, "1.23k")]
    + [(1e18, "1.0e+18"), (math.inf, "inf"), (math.nan, "nan"), (0.25, "0.25")],
)
def test_short_numbers(number, text):
    assert _table.short(number) == text


@pytest.mark.parametrize(
    "share, text",
    [(0, "0%"), (1, "100%"), (1e-9, "<0.1%"), (1 - 1e-9, ">99.9%"), (0.5, "50.0%")],
)
def test_percent(share, text):
    assert _table._percent(share) == text


def test_the_figure(tmp_path):
    figure = example().plot()
    rates, shares = figure.axes
    assert rates.get_xscale() == "log"
    assert rates.get_xlabel() == "effective rate (log scale)"
    assert shares.get_xlabel() == "share of the leaf, %"
    labels = [text.get_text() for text in rates.get_yticklabels()]
    assert labels[0] == "bad (2), 1 NOT FINITE" and len(labels) == 6
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "all",
        "5 to 95 %",
        "median",
        "at the start",
        "dead: below 0.001 of the start",
        "rows untouched",
    }
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "accumulator",
    [np.zeros(3), np.full(3, np.inf), np.full(3, np.nan), np.zeros(0), np.ones(())],
    ids=str,
)
def test_a_figure_of_rates_that_a_log_axis_does_not_show(accumulator, tmp_path):
    a = accumulator.astype(np.float32)
    figure = of(a, initial_accumulator_value=0.0, epsilon=0.0).plot()
    figure.savefig(tmp_path / "figure.png")


def test_a_figure_of_many_leaves_and_an_earlier_report(tmp_path):
    before = many(40)
    state = aj.ScaleByAdagradState(
        {
            leaf.path.split("/")[0]: {
                "self_attention": {"query_projection": {"kernel": sums((3, 2)) * 2}}
            }
            for leaf in before.leaves
        }
    )
    figure = report(state, state.accumulator, since=before).plot()
    assert figure.get_suptitle().endswith(": the worst 30 of 40 leaves")
    assert "median earlier" in [t.get_text() for t in figure.legends[0].get_texts()]
    figure.savefig(tmp_path / "figure.png")


# Errors


def test_there_must_be_an_adagrad():
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="must contain the state of adagrad_jax.scale"):
        report(optax.sgd(0.1).init(params), params)


def test_there_must_not_be_two_for_one_leaf():
    twice = optax.chain(aj.scale_by_adagrad(), aj.scale_by_adagrad())
    with pytest.raises(ValueError, match=r"one Adagrad .* at \['w'\] there are two"):
        report(twice.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})


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


@pytest.mark.parametrize("params", [{"v": 1.0}, {"w": [1.0, 2.0]}, [1.0]], ids=str)
def test_params_must_fit(params):
    with pytest.raises(ValueError, match="`params` must be what `state` was made for"):
        of({"w": [np.ones(2, np.float32)]}, params)


def test_report_is_not_for_jit():
    with pytest.raises(TypeError, match="call report outside of jax.jit"):
        jax.jit(lambda a: str(of(a)))(jnp.ones(2))


def test_an_accumulator_below_its_start_tells_that_the_start_was_another():
    state = aj.scale_by_adagrad(0.01).init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"built with, got 0.1, .* \['w'\] has 0.01"):
        report(state, {"w": jnp.ones(2)})


def test_a_schedule_needs_a_count():
    state = aj.adagrad(0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="ScaleByScheduleState to count steps"):
        report(state, jnp.ones(2), learning_rate=SCHEDULE)


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


def test_a_figure_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib; install it: pip install"):
        of(jnp.ones(2)).plot()


@pytest.mark.parametrize(
    "optimizer", [aj.proximal_adagrad, aj.adagrad_da, aj.ftrl], ids=lambda f: f.__name__
)
def test_the_regularized_siblings_and_their_count(optimizer):
    params = {"w": jnp.zeros(2)}
    schedule = aj.inverse_time_decay(1.0, 1.0)
    optimizer = optimizer(schedule)
    _, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
    (leaf,) = report(state, params, learning_rate=schedule, epsilon=0.0).leaves
    assert leaf.learning_rate == 0.5  # at count 1
    np.testing.assert_allclose(leaf.rates, 0.5 / 1.1**0.5, rtol=1e-6)
