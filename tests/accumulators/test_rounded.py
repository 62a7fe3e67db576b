"""Rounding at random: to one of two neighbours, and right on average."""

import functools
import pickle

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax._accumulators.rounded import round_stochastically

DTYPES = [jnp.bfloat16, jnp.float16]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["bfloat16", "float16"])
KEY = jax.random.key(0)
SIGMAS = 4  # how far a mean may be off: the seed is fixed, so what passes will pass


@functools.cache
def all_numbers(dtype):
    """All there are, from -inf to inf, as float64."""
    bits = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # some NaN are signaling ones
        numbers = bits.view(jnp.dtype(dtype)).astype(np.float64)
    return np.unique(numbers[~np.isnan(numbers)]) + 0.0  # not -0.0


def neighbours(x, dtype):
    """The largest number that is no larger than x, and the least that is no less."""
    numbers = all_numbers(dtype)
    x = np.asarray(x, np.float64)
    below = numbers[np.searchsorted(numbers, x, side="right") - 1]
    return below, numbers[np.searchsorted(numbers, x, side="left")]


rounded = jax.jit(round_stochastically, static_argnums=1)


def rounded_often(x, dtype, times):
    """(times, *x.shape), float64."""
    keys = jax.random.split(KEY, times)
    many = jax.vmap(lambda key: round_stochastically(x, dtype, key))
    return np.asarray(jax.jit(many)(keys)).astype(np.float64)


# One of two


@by_dtype
@hypothesis.settings(max_examples=60)
@hypothesis.given(st.lists(st.floats(width=32), min_size=8, max_size=8), st.integers(0))
@hypothesis.example([65504.0, 65519.0, 65521.0, 3.38e38, 3.4e38, 1.0, 6e-8, -2e-8], 0)
def test_to_one_of_two_neighbours(dtype, values, seed):
    # XLA for CPUs takes float32's subnormal numbers for 0 in arithmetic; see below.
    values = [0.0 if 0 < abs(v) < 2.0**-126 else v for v in values]
    x = np.array(values, np.float32)
    result = rounded(jnp.asarray(x), dtype, jax.random.key(seed % 2**32))
    assert result.dtype == dtype
    result = np.asarray(result).astype(np.float64)
    nan = np.isnan(x)
    np.testing.assert_array_equal(np.isnan(result), nan)
    below, above = neighbours(np.where(nan, 0, x), dtype)
    assert (nan | (result == below) | (result == above)).all()
    assert (np.signbit(result) == np.signbit(x))[~nan].all()


@by_dtype
def test_what_needs_no_rounding_is_not_rounded(dtype):
    """All numbers that there are, infinities and both zeros among them; and NaN."""
    numbers = all_numbers(dtype)
    normal = numbers[(np.abs(numbers) >= 2.0**-126) | (numbers == 0)]
    x = np.concatenate([normal, [-0.0, np.nan]]).astype(np.float32)
    for seed in range(3):
        result = rounded(jnp.asarray(x), dtype, jax.random.key(seed))
        result = np.asarray(result).astype(np.float32)
        np.testing.assert_array_equal(result, x)
        np.testing.assert_array_equal(np.signbit(result)[:-1], np.signbit(x)[:-1])


def test_subnormal_numbers_of_float32_stay_small():
    x = np.array([1e-39, -1e-39, 1e-45, -1e-45, 1.17e-38], np.float32)
    result = np.asarray(rounded(jnp.asarray(x), jnp.bfloat16, KEY)).astype(float)
    assert (np.abs(result) <= 2.0**-126).all()
    assert (result * x >= 0).all()


@by_dtype
def test_beyond_the_largest_number_is_the_nearest(dtype):
    """Nothing is halfway to infinity: there the mean cannot be right."""
    largest = float(jnp.finfo(dtype).max)
    eps = float(jnp.finfo(dtype).eps)
    x = np.array([1 + eps / 8, 1 + eps / 2.1], np.float32) * np.float32(largest)
    x = x[x < np.inf]  # float32's largest is near bfloat16's
    signed = jnp.asarray(np.concatenate([x, -x]))
    results = rounded_often(signed, dtype, 50)
    assert set(np.abs(results).ravel()) <= {largest, np.inf}
    assert (np.abs(results[:, 0]) == largest).all()


# Right on average


BFLOAT16_NUMBERS = [
    1.001,
    1.0039,
    1.9999,
    255.7,
    256.1,
    -3.1416,
    1e-30,
    -7e30,
    1.3e-33,
]
FLOAT16_NUMBERS = [1.0001, 0.3333, 2047.3, 2048.9, -60001.0, 6.2e-5]
FLOAT16_SUBNORMALS = [3e-5, 1.3e-7, -1e-7, 2e-8, -5e-8, 1e-9]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "wide, dtype, numbers",
    [
        ("float32", jnp.bfloat16, BFLOAT16_NUMBERS),
        ("float64", jnp.bfloat16, BFLOAT16_NUMBERS),
        ("float32", jnp.float16, FLOAT16_NUMBERS + FLOAT16_SUBNORMALS),
    ],
    ids=["bfloat16", "bfloat16-of-float64", "float16"],
)
def test_the_mean_is_exact(wide, dtype, numbers):
    times = 8000
    x = jnp.asarray(numbers, wide)
    results = rounded_often(x, dtype, times)
    x = np.asarray(x, np.float64)
    below, above = neighbours(x, dtype)
    share = (x - below) / (above - below)
    assert ((0 < share) & (share < 1)).all()
    for one in (below, above):  # both happen, also with probability 1 / 256
        assert (results == one).any(axis=0)[(share > 0.003) & (share < 0.997)].all()
    sigma = (above - below) * np.sqrt(share * (1 - share) / times)
    # Random numbers of 16 bits are as fine as this; float32 is no finer, but for
    # float16's subnormal numbers.
    resolution = (above - below) * 2.0**-17
    assert (np.abs(results.mean(axis=0) - x) <= SIGMAS * sigma + resolution).all()


def test_columns_and_rows_are_rounded_apart():
    """Halfway, each is a coin of its own: no row, column or neighbour has a share."""
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    n = 128
    x = jnp.full((n, n), 1 + eps / 2, jnp.float32)
    up = np.asarray(rounded(x, jnp.bfloat16, KEY)).astype(float) > 1
    coins = np.where(up, 1.0, -1.0)
    assert abs(coins.mean()) <= SIGMAS / n
    for axis in (0, 1):
        assert np.abs(coins.mean(axis=axis)).max() <= (SIGMAS + 1) / np.sqrt(n)
        together = coins * np.roll(coins, 1, axis=axis)
        assert abs(together.mean()) <= SIGMAS / n
    assert len({row.tobytes() for row in up}) == n


# Which random numbers


def bits(array):
    return np.asarray(array).tobytes()


@pytest.mark.parametrize(
    "shape, dtype", [((), jnp.bfloat16), ((6, 2, 3), jnp.float16)], ids=str
)
def test_the_key_decides(shape, dtype):
    x = jnp.asarray(1 + np.random.default_rng(0).uniform(size=(*shape,)), jnp.float32)
    first = bits(rounded(x, dtype, KEY))
    assert first == bits(rounded(x, dtype, KEY))
    others = {bits(rounded(x, dtype, jax.random.key(s))) for s in range(1, 9)}
    assert others - {first}


@pytest.mark.parametrize(
    "inside, dtype",
    [((), jnp.float16), ((2, 3), jnp.bfloat16)],
    ids=str,
)
def test_some_rows_are_rounded_as_among_all(inside, dtype):
    x = np.random.default_rng(1).uniform(1, 2, size=(9, *inside))
    x = jnp.asarray(x, jnp.float32)
    everything = np.asarray(rounded(x, dtype, KEY))
    for ids in ([8, 0, 3], [2, 2, 7], [4, 5, 6]):
        ids = np.array(ids, np.int32)
        rows = jnp.asarray(np.asarray(x)[ids])
        some = rounded(rows, dtype, KEY, jnp.asarray(ids))
        assert bits(some) == everything[ids].tobytes()
    shifted = rounded(x, dtype, KEY, jnp.arange(1, 10))
    assert bits(shifted) != everything.tobytes()


def test_under_vmap():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 5, 3)), jnp.float32)
    keys = jax.random.split(KEY, 4)
    many = jax.vmap(lambda x, key: round_stochastically(x, jnp.bfloat16, key))
    together = jax.jit(many)(x, keys)
    apart = [
        bits(rounded(x, jnp.bfloat16, key)) for x, key in zip(x, keys, strict=True)
    ]
    assert [bits(row) for row in np.asarray(together)] == apart


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
def test_without_numbers(shape):
    assert rounded(jnp.ones(shape), jnp.bfloat16, KEY).shape == shape


# The accumulator


def grown(accumulator, gradients):
    """What the sums of squares are after all gradients."""
    optimizer = aj.scale_by_adagrad(0.0, accumulator=accumulator)

    def step(state, gradient):
        return optimizer.update(gradient, state)[1], None

    state = jax.jit(lambda g: jax.lax.scan(step, optimizer.init(g[0]), g)[0])(gradients)
    return state.accumulator


def gap_at(x, dtype):
    below, above = neighbours(x * (1 + 1e-9), dtype)
    return above - below


@by_dtype
def test_grows_where_the_nearest_number_does_not(dtype):
    """Each sum is right on average; how far they scatter bounds how far the mean may.

    A step's rounding error is of mean 0 and a variance of at most a quarter of the
    square of the gap that it is made in, and the sum of 1000 squares is in none that is
    wider than twice the one at its end.
    """
    size, steps = 4096, 1000
    size_of_gradient = 1.0 if dtype == jnp.bfloat16 else 0.25
    start = 0.0 if dtype == jnp.bfloat16 else 128.0
    square = size_of_gradient**2
    gradients = jnp.full((steps, size), size_of_gradient)
    first = jnp.full((1, size), np.sqrt(start))
    gradients = jnp.concatenate([first, gradients])
    stuck = np.asarray(grown(aj.Diagonal(dtype=dtype), gradients)).astype(float)
    assert (stuck == (256.0 if dtype == jnp.bfloat16 else 128.0)).all()
    kept = grown(aj.RoundedDiagonal(dtype=dtype), gradients)
    assert kept.sum_of_squares.dtype == dtype and int(kept.count) == steps + 1
    sums = np.asarray(kept.sum_of_squares).astype(float)
    expected = start + steps * square
    sigma = gap_at(2 * expected, dtype) / 2 * np.sqrt(steps)
    assert abs(sums.mean() - expected) <= SIGMAS * sigma / np.sqrt(size)
    # They do scatter, each on its own, and none is far off.
    assert sums.std() > sigma / 10
    assert np.abs(sums - expected).max() <= 6 * sigma


def test_sums_of_many_sizes_are_right_on_average():
    rng = np.random.default_rng(3)
    copies, steps = 1000, 300
    gradients = np.abs(rng.normal(size=(steps, 8))) * 10.0 ** np.arange(-4, 4)
    gradients = np.repeat(gradients[:, :, None], copies, axis=2).astype(np.float32)
    sums = grown(aj.RoundedDiagonal(), jnp.asarray(gradients)).sum_of_squares
    expected = np.square(gradients[:, :, 0].astype(float)).sum(axis=0)
    sigma = gap_at(2 * expected, jnp.bfloat16) / 2 * np.sqrt(steps / copies)
    mean = np.asarray(sums).astype(float).mean(axis=1)
    assert (np.abs(mean - expected) <= SIGMAS * sigma).all()
    assert (sigma < 0.02 * expected).all()  # so that it is no idle check


def test_the_update_is_divided_by_what_is_kept():
    gradient = jnp.asarray(np.random.default_rng(4).normal(size=(5, 3)), jnp.float32)
    optimizer = aj.scale_by_adagrad(0.1, 1e-3, accumulator=aj.RoundedDiagonal())
    update, state = jax.jit(optimizer.update)(gradient, optimizer.init(gradient))
    root = np.sqrt(np.asarray(state.accumulator.sum_of_squares).astype(float)) + 1e-3
    np.testing.assert_allclose(update, np.asarray(gradient) / root, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "dtype, param",
    [
        (jnp.bfloat16, "complex64"),
        (jnp.float16, "float64"),
    ],
)
def test_dtypes_stay(dtype, param):
    gradient = jnp.asarray(2 * np.ones((2, 3)), param)
    optimizer = aj.scale_by_adagrad(
        0.0, 0.0, accumulator=aj.RoundedDiagonal(dtype=dtype)
    )
    state = optimizer.init(gradient)
    update, new = jax.jit(optimizer.update)(gradient, state)
    assert update.dtype == param
    for before, after in zip(*map(jax.tree.leaves, (state, new)), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert new.accumulator.sum_of_squares.dtype == dtype
    np.testing.assert_array_equal(np.asarray(update).astype(complex), np.ones((2, 3)))


# Rows


NUM_ROWS = 6
# Repeated, unsorted, out of range at both ends, none in range; row 2 is never named.
IDS = [[3, 1, 3, 3, 9], [-1, 0, 6, 5, 0], [7, 7, -2, 6, 6], [5] * 5, [4, 5, 0, 1, 3]]


@pytest.mark.parametrize(
    "wrap, inside, dtype",
    [
        (jax.jit, (3,), jnp.bfloat16),
        (jax.jit, (2, 3), jnp.float16),
        (lambda f: f, (), jnp.bfloat16),
    ],
    ids=["2", "3-float16", "1-eager"],
)
def test_rows_equal_dense_bit_for_bit(wrap, inside, dtype):
    """With values whose sums and squares have no rounding, in whichever order."""
    optimizer = aj.scale_by_adagrad(
        0.1, 1e-3, accumulator=aj.RoundedDiagonal(dtype=dtype, seed=3)
    )
    shape = (NUM_ROWS, *inside)
    rng = np.random.default_rng(5)

    def step(state, ids, values, dense):
        gradient = aj.RowSparse(ids, values, shape)
        if dense:
            return optimizer.update(gradient.to_dense(), state)
        update, state = optimizer.update(gradient, state)
        return update.to_dense(), state

    sparse, dense = (wrap(functools.partial(step, dense=d)) for d in (False, True))
    state = expected_state = start = optimizer.init(jnp.zeros(shape))
    for ids in IDS:
        values = jnp.asarray(rng.integers(-20, 21, (5, *inside)) / 16, jnp.float32)
        ids = jnp.asarray(ids, jnp.int32)
        update, state = sparse(state, ids, values)
        expected, expected_state = dense(expected_state, ids, values)
        assert bits(update) == bits(expected)
        assert list(map(bits, jax.tree.leaves(state))) == list(
            map(bits, jax.tree.leaves(expected_state))
        )
    sums = np.asarray(state.accumulator.sum_of_squares)
    untouched = np.asarray(start.accumulator.sum_of_squares)
    assert sums[2].tobytes() == untouched[2].tobytes()
    assert (np.delete(sums, 2, axis=0) > untouched[:1]).any(axis=0).all()
    assert int(state.accumulator.count) == len(IDS)


@by_dtype
def test_nothing_added_changes_nothing(dtype):
    """However often: a row that is not in a batch is rounded in the dense form too."""
    numbers = all_numbers(dtype)
    numbers = numbers[(numbers >= 2.0**-126) | (numbers == 0)]
    accumulator = aj.RoundedDiagonal(dtype=dtype)
    zero = jnp.zeros(numbers.shape, jnp.float32)
    start = accumulator.init(zero, 0.0)._replace(
        sum_of_squares=jnp.asarray(numbers.astype(jnp.dtype(dtype)))
    )
    end = jax.lax.fori_loop(
        0, 20, lambda _, kept: accumulator.update(zero, kept, lambda g, a: g)[1], start
    )
    assert bits(end.sum_of_squares) == bits(start.sum_of_squares)
    assert int(end.count) == 20


def test_rows_without_gradient_stay_put():
    gradients = np.zeros((50, 4, 8), np.float32)
    gradients[:, 1] = 0.1
    optimizer = aj.scale_by_adagrad(1.0, accumulator=aj.RoundedDiagonal())
    state = optimizer.init(jnp.asarray(gradients[0]))
    state = jax.lax.scan(
        lambda s, g: (optimizer.update(g, s)[1], None), state, jnp.asarray(gradients)
    )[0]
    sums = np.asarray(state.accumulator.sum_of_squares).astype(float)
    assert (sums[[0, 2, 3]] == 1.0).all() and (sums[1] > 1.0).any()


# The seed, and what is saved


def test_the_seed_decides():
    gradients = jnp.asarray(
        np.random.default_rng(6).normal(size=(5, 4, 8)), jnp.float32
    )
    results = [
        bits(grown(aj.RoundedDiagonal(seed=seed), gradients).sum_of_squares)
        for seed in (0, 0, 1)
    ]
    assert results[0] == results[1] and len(set(results)) == 2


def test_each_step_has_random_numbers_of_its_own():
    """The same sum and gradient, by turns rounded up and down."""
    accumulator = aj.RoundedDiagonal()
    gradient = jnp.full(100, 2.0**-4.5)
    seen = set()
    for count in range(3):
        kept = accumulator.init(gradient, 1.0)._replace(count=jnp.int32(count))
        _, new = accumulator.update(gradient, kept, lambda g, a: g)
        assert int(new.count) == count + 1
        seen.add(bits(new.sum_of_squares))
    assert len(seen) == 3


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_goes_on_from_what_was_saved():
    """The state is plain arrays, without keys: they can be saved as they are."""
    gradients = np.random.default_rng(7).normal(size=(6, 3, 2)).astype(np.float32)
    optimizer = aj.adagrad(0.1, accumulator=aj.RoundedDiagonal())
    update = jax.jit(optimizer.update)
    state = optimizer.init(jnp.zeros((3, 2)))
    for gradient in gradients[:3]:
        _, state = update(jnp.asarray(gradient), state)
    leaves = jax.tree.leaves(state)
    assert sorted(str(leaf.dtype) for leaf in leaves) == ["bfloat16", "int32"]
    saved = pickle.dumps(jax.tree.map(np.asarray, optax.tree.get(state, "accumulator")))
    restored = jax.tree.map(jnp.asarray, pickle.loads(saved))  # noqa: S301
    restored = optax.tree.set(state, accumulator=restored)
    for gradient in gradients[3:]:
        expected, state = update(jnp.asarray(gradient), state)
        actual, restored = update(jnp.asarray(gradient), restored)
        assert bits(actual) == bits(expected)
    assert optax.tree.get(state, "count") == 6


# What is refused


@pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.float64, float, int, None, "parameter", jnp.complex64, 3]
)
def test_dtype_must_have_16_bits(dtype):
    with pytest.raises(TypeError, match="`dtype` must be bfloat16 or float16"):
        aj.RoundedDiagonal(dtype=dtype)


def test_a_gradient_of_another_shape_is_refused():
    optimizer = aj.scale_by_adagrad(accumulator=aj.RoundedDiagonal())
    state = optimizer.init({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"gradient at \['w'\] of shape \(3, 2\)"):
        optimizer.update({"w": jnp.ones((3, 2))}, state)


def test_derivatives_are_as_if_nothing_were_rounded():
    weights = jnp.array([1.0, -2.0], jnp.bfloat16)

    def loss(update):
        moved = aj.apply_updates(weights, update, key=jax.random.key(0))
        return jnp.sum(moved.astype(jnp.float32) * jnp.array([3.0, 5.0]))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.zeros(2)), [3.0, 5.0])
