"""apply_updates with a key: right on average, and the same for rows as for all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

# Without a key, a sum of two dtypes is JAX's own.
pytestmark = pytest.mark.usefixtures("standard_promotion")

HALVES = [jnp.bfloat16, jnp.float16]
by_dtype = pytest.mark.parametrize("dtype", HALVES, ids=["bfloat16", "float16"])
KEY = jax.random.key(0)
SHAPE = (7, 3)
IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]
SIGMAS = 4  # how far a mean may be off: the keys are fixed, so what passes will pass


def some(shape=SHAPE, dtype=jnp.float32, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def bits(x):
    return np.asarray(x).tobytes()


def assert_same_bits(actual, expected):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected) > 0
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        assert bits(a) == bits(e)


# On average


@pytest.mark.parametrize(
    "dtype, update_dtype, rows",
    [
        (jnp.bfloat16, jnp.float32, False),
        (jnp.bfloat16, jnp.float32, True),
        (jnp.float16, jnp.float16, False),
    ],
    ids=["bf16-dense", "bf16-rows", "f16-dense"],
)
def test_the_mean_over_keys_is_the_exact_sum(dtype, update_dtype, rows):
    """Under vmap over keys, and jit. Some updates are far less than half an ulp."""
    times = 4000
    params = some(dtype=dtype)
    scale = 10.0 ** np.linspace(-5, -1, 21).reshape(SHAPE)
    update = jnp.asarray(some(seed=1) * scale, update_dtype)

    @jax.jit
    @jax.vmap
    def many(key):
        given = aj.RowSparse(jnp.arange(7), update, SHAPE) if rows else update
        return aj.apply_updates(params, given, key=key)

    results = np.asarray(many(jax.random.split(KEY, times))).astype(np.float64)
    exact = np.asarray(params, np.float64) + np.asarray(update, np.float64)
    spread = results.max(axis=0) - results.min(axis=0)
    # Two neighbours, and both where the sum is not very near to one of them.
    assert (spread <= float(jnp.finfo(dtype).eps) * 2 * np.abs(exact)).all()
    assert all(len(np.unique(x)) <= 2 for x in results.reshape(times, -1).T)
    assert np.mean(spread > 0) > 0.8
    sigma = results.std(axis=0) / np.sqrt(times)
    # Where one key in thousands rounds the other way, the sample may have none: then
    # it is known to within a few of these. Random numbers are of 16 bits.
    ulp = float(jnp.finfo(dtype).eps) * np.abs(exact)
    rare = ulp * (SIGMAS**2 / times + 2.0**-17)
    # And the sum itself is in float32.
    exact_to = 2.0**-23 * np.abs(exact)
    off = np.abs(results.mean(axis=0) - exact)
    assert (off <= SIGMAS * sigma + rare + exact_to).all()
    # To the nearest it is not the mean that is kept.
    nearest = np.asarray(aj.apply_updates(params, update)).astype(np.float64)
    assert (np.abs(nearest - exact) > SIGMAS * sigma + rare + exact_to).mean() > 0.5


@by_dtype
def test_training_that_stalls_without_a_key_moves_with_it(dtype):
    """A constant gradient, each step a tenth of what would round upwards."""
    weights = jnp.ones(500, dtype)
    rate = 0.1 * float(jnp.finfo(dtype).eps) / 4
    optimizer, steps = aj.adagrad(rate, 1.0, 0.0), 200

    @functools.partial(jax.jit, static_argnums=0)
    def train(with_key):
        def step(carry, t):
            weights, state = carry
            updates, state = optimizer.update(jnp.ones(500), state, weights)
            key = jax.random.fold_in(KEY, t) if with_key else None
            return (aj.apply_updates(weights, updates, key=key), state), None

        carry = weights, optimizer.init(weights)
        return jax.lax.scan(step, carry, jnp.arange(steps))[0][0]

    np.testing.assert_array_equal(train(False), weights)
    moved = np.asarray(train(True)).astype(np.float64)
    exact = 1 - rate * np.sum(1 / np.sqrt(1 + np.arange(1, steps + 1)))
    # Below 1 a step down is eps / 2 long, taken with probability step / (eps / 2).
    sigma = np.sqrt((1 - exact) * float(jnp.finfo(dtype).eps) / 2 / 500)
    assert abs(moved.mean() - exact) <= SIGMAS * sigma
    assert 1 - exact > 5 * SIGMAS * sigma  # that is a movement


# Keys


def test_the_key_and_nothing_else_decides():
    params, update = some((50, 4), jnp.bfloat16), some((50, 4), seed=1) * 1e-3
    once = aj.apply_updates(params, update, key=KEY)
    assert once.dtype == jnp.bfloat16
    assert_same_bits(aj.apply_updates(params, update, key=KEY), once)
    assert_same_bits(jax.jit(aj.apply_updates)(params, update, key=KEY), once)
    other = aj.apply_updates(params, update, key=jax.random.fold_in(KEY, 1))
    differ = np.mean(np.asarray(once != other))
    assert 0.02 < differ < 0.9


def test_old_keys_and_new_ones_are_the_same():
    params, update = some(dtype=jnp.bfloat16), some(seed=1) * 1e-3
    new = aj.apply_updates(params, update, key=jax.random.key(3))
    old = jax.random.PRNGKey(3)
    assert old.dtype == jnp.uint32
    assert_same_bits(aj.apply_updates(params, update, key=old), new)
    assert_same_bits(jax.jit(aj.apply_updates)(params, update, key=old), new)


def test_leaves_and_rows_and_columns_have_numbers_of_their_own():
    """Halfway between two numbers, each leaf and each place is a coin of its own."""
    halfway = jnp.full((40, 25), 1 + 2.0**-8)  # bfloat16 has 1 and 1 + 2**-7
    zeros = {name: jnp.zeros((40, 25), jnp.bfloat16) for name in "ab"}
    update = dict.fromkeys("ab", halfway)
    result = aj.apply_updates(zeros, update, key=KEY)
    coins = {name: np.asarray(x == 1) for name, x in result.items()}
    for one, other in (
        (coins["a"], coins["b"]),
        (coins["a"][1:], coins["a"][:-1]),
        (coins["a"][:, 1:], coins["a"][:, :-1]),
    ):
        for share in (one.mean(), (one == other).mean()):
            assert abs(share - 0.5) <= SIGMAS * 0.5 / np.sqrt(one.size)


# Rows


@pytest.mark.parametrize(
    "dtype, shape, jitted",
    [
        (jnp.bfloat16, (7, 3), False),
        (jnp.bfloat16, (7, 3), True),
        (jnp.float16, (7, 2, 2), True),
    ],
    ids=["bf16-eager", "bf16-jit", "f16-tensor"],
)
def test_rows_are_rounded_as_in_the_dense_form(dtype, shape, jitted):
    table = some(shape, dtype).at[2].set(-0.0).at[4].set(jnp.nan)
    ids = jnp.array([5, 0, 5, 9, -1, 3, 5])  # not 1, 2, 4 and 6
    values = some((7, *shape[1:]), seed=1) * 1e-3

    def apply(table, ids, values, key):
        return aj.apply_updates(table, aj.RowSparse(ids, values, shape), key=key)

    run = jax.jit(apply, donate_argnums=0) if jitted else apply
    given = jnp.array(table)
    result = run(given, ids, values, KEY)
    if jitted:
        assert given.is_deleted()
    dense = aj.RowSparse(ids, values, shape).to_dense()
    expected = aj.apply_updates(table, dense, key=KEY)
    touched = np.array([0, 3, 5])
    assert_same_bits(result[touched], expected[touched])
    untouched = np.array([1, 2, 4, 6])
    assert_same_bits(result[untouched], table[untouched])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_rows_are_rounded_as_in_the_dense_form_by_keys_of_any_kind(impl):
    """Of XLA's generators a batch draws from its first key, so rows must not."""
    table, rows = some(dtype=jnp.bfloat16), aj.RowSparse([3, 1], some((2, 3)), SHAPE)
    of_rows = jax.jit(lambda key: aj.apply_updates(table, rows, key=key))
    of_all = jax.jit(lambda key: aj.apply_updates(table, rows.to_dense(), key=key))
    keys = jax.random.split(jax.random.key(0, impl=impl), 3)
    each = list(map(of_rows, keys))
    for one, key in zip(each, keys, strict=True):
        assert_same_bits(one[jnp.array([1, 3])], of_all(key)[jnp.array([1, 3])])
        with jax.default_prng_impl(impl):  # and a key of before there was a type
            assert_same_bits(of_rows(jax.random.key_data(key)), one)
    assert len(set(map(bits, each))) > 1
    assert_same_bits(jax.vmap(of_rows)(keys), jnp.stack(each))


def test_rounded_sums_do_not_depend_on_the_kind_of_keys():
    optimizer = aj.adagrad(0.1, accumulator=aj.RoundedDiagonal())
    rows = aj.RowSparse([3, 1], some((2, 3)), SHAPE)
    state = optimizer.init(some())
    states = []
    for impl in IMPLEMENTATIONS:
        with jax.default_prng_impl(impl):
            for gradient in (rows, rows.to_dense()):
                step = jax.jit(lambda g=gradient: optimizer.update(g, state)[1])
                states.append(step())
    for other in states[1:]:
        assert_same_bits(other, states[0])


# Other leaves


@pytest.mark.usefixtures("x64")
def test_wider_leaves_are_added_as_without_a_key():
    dtypes = ["float32", "float64", "complex64", "complex128", "bfloat16"]
    params = {name: some(dtype=name) for name in dtypes}
    params["table"] = some()
    updates = {name: some(dtype=name, seed=1) * 0.01 for name in dtypes}
    updates["table"] = aj.RowSparse([2, 2], some((2, 3), seed=2), SHAPE)
    plain = aj.apply_updates(params, updates)
    keyed = aj.apply_updates(params, updates, key=KEY)
    rounded = keyed.pop("bfloat16"), plain.pop("bfloat16")
    assert_same_bits(keyed, plain)
    assert bits(rounded[0]) != bits(rounded[1])


def test_without_a_key_it_is_optaxs():
    params = {"a": some(), "b": some(dtype=jnp.bfloat16), "none": None}
    updates = {"a": some(seed=1), "b": some(seed=2), "none": None}
    assert_same_bits(
        aj.apply_updates(params, updates), optax.apply_updates(params, updates)
    )


@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "key"])
def test_leaves_of_none_and_of_no_numbers(key):
    params = {
        "none": None,
        "masked": optax.MaskedNode(),
        "empty": jnp.zeros((0, 3), jnp.bfloat16),
        "scalar": jnp.bfloat16(1.0),
    }
    updates = params | {"scalar": jnp.bfloat16(2.0)}
    after = aj.apply_updates(params, updates, key=key)
    assert after["none"] is None and after["masked"] == optax.MaskedNode()
    assert after["empty"].shape == (0, 3) and after["empty"].dtype == jnp.bfloat16
    assert after["scalar"] == 3 and after["scalar"].dtype == jnp.bfloat16
    assert aj.apply_updates({}, {}, key=key) == {}


def test_updates_of_a_wider_dtype_are_not_rounded_first():
    """A float32 update of a thousandth of an ulp still has its chance."""
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    params = jnp.ones(200_000, jnp.bfloat16)
    after = aj.apply_updates(params, jnp.full(200_000, eps / 1000), key=KEY)
    moved = np.mean(np.asarray(after != 1))
    # Of as many coins; they are of 16 bits.
    assert abs(moved - 1e-3) <= SIGMAS * np.sqrt(1e-3 / 200_000) + 2.0**-17


@pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "key"])
def test_bad_trees(key):
    params = {"w": jnp.ones((2, 3), jnp.bfloat16)}
    apply = functools.partial(aj.apply_updates, key=key)
    with pytest.raises(ValueError, match=r"update at \['w'\] of shape \(1, 3\)"):
        apply(params, {"w": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(4, 3\).*\(2, 3\)"):
        apply(params, {"w": aj.RowSparse([0], jnp.ones((1, 3)), (4, 3))})
    with pytest.raises(ValueError, match=r"\['v'\] has no parameter"):
        apply(params, {"v": jnp.ones((2, 3))})
    with pytest.raises(TypeError, match=r"update at \['w'\].*int32"):
        apply(params, {"w": jnp.ones((2, 3), jnp.int32)})
