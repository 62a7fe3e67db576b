"""lazy_weight_decay: what dense decay does to every row, at the cost of those read.

The reference is dense, in NumPy's float64: each step multiplies all rows. Gradients are
those of a loss that pulls the rows of a batch to targets, so that they depend on where
a row is: who catches up too late, or not at all, gets others.
"""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax._lazy_decay import LogDecay

NUM_ROWS, WIDTH, STEPS, BATCH = 6, 3, 8, 4
SHAPE = (NUM_ROWS, WIDTH)
RATE, DECAY = 0.2, 0.3
EPS = 2.0**-23
SCHEDULE = aj.inverse_time_decay(0.5, 0.7)


def start(dtype=np.float64, names=("table", "bias")):
    rng = np.random.default_rng(0)
    params = {
        "table": rng.normal(size=SHAPE).astype(dtype),
        "wide": rng.normal(size=(4, 2, 2)).astype(dtype),
        "bias": rng.normal(size=WIDTH).astype(dtype),
    }
    return {name: params[name] for name in names}


def some_batches(seed=1, names=("table",)):
    """Ids, repeated, and some that are out of range (padding)."""
    rng = np.random.default_rng(seed)
    ids = {
        "table": rng.integers(0, NUM_ROWS + 1, (STEPS, BATCH)).astype(np.int32),
        "wide": rng.integers(0, 4 + 1, (STEPS, 2)).astype(np.int32),
    }
    return {name: ids[name] for name in names}


def pulls(params, ids):
    """The gradient, where targets are 0.3 and each entry pulls; None: all at once."""
    rows = {name: entries(params[name], ids[name]) for name in ids}
    return rows | {"bias": params["bias"] - 0.3}


def entries(table, ids):
    rows = table.at[ids].get(mode="fill", fill_value=0) - 0.3
    return aj.RowSparse(ids, rows, table.shape)


def dense_pulls(params, ids):
    gradient = {"bias": params["bias"] - 0.3}
    for name in ids:
        gradient[name] = np.zeros_like(params[name])
        for row in ids[name]:
            if row < len(params[name]):
                gradient[name][row] += params[name][row] - 0.3
    return gradient


def reference(rate, weight_decay, batches, decayed=("table", "wide", "bias")):
    """Parameters after each step of Adagrad with dense, decoupled decay."""
    params = start(names=(*batches, "bias"))
    accumulators = {name: np.full_like(x, 0.1) for name, x in params.items()}
    history = []
    for t in range(STEPS):
        now = float(rate(t)) if callable(rate) else rate
        gradient = dense_pulls(params, {k: x[t] for k, x in batches.items()})
        new = {}
        for name, param in params.items():
            accumulators[name] = accumulators[name] + gradient[name] ** 2
            step = now * gradient[name] / (np.sqrt(accumulators[name]) + 1e-7)
            share = now * weight_decay if name in decayed else 0.0
            new[name] = param - share * param - step
        params = new
        history.append(params)
    return history


def lazily(optimizer, carry, ids):
    """One training step: catch up, gradient, update."""
    params, state = carry
    params, state = aj.catch_up_weight_decay(params, state, ids | {"bias": None})
    updates, state = optimizer.update(pulls(params, ids), state, params)
    return aj.apply_updates(params, updates), state


def chained(rate, weight_decay, mask=None):
    return optax.chain(aj.adagrad(rate), aj.lazy_weight_decay(rate, weight_decay, mask))


def at(batches, t):
    return {name: jnp.asarray(ids[t]) for name, ids in batches.items()}


def assert_is(params, expected, roundings):
    """Each rounding is of numbers of about 1."""
    for name, theirs in expected.items():
        assert params[name].dtype == jnp.float32
        atol = roundings * EPS * max(1, np.abs(theirs).max())
        np.testing.assert_allclose(params[name], theirs, rtol=0, atol=atol)


PER_STEP = 4  # roundings: of gradient, step, decay and their sum


# Lazy equals dense


def optimizers():
    partitioned = optax.partition(
        {"rows": chained(RATE, DECAY), "rest": chained(RATE, DECAY)},
        {"table": "rows", "wide": "rest", "bias": "rest"},
    )
    injected = optax.chain(
        aj.adagrad(RATE), optax.inject_hyperparams(aj.lazy_weight_decay)(RATE, DECAY)
    )
    return {
        "schedule": (chained(SCHEDULE, DECAY), SCHEDULE, DECAY),
        "injected": (injected, RATE, DECAY),
        "partition": (partitioned, RATE, DECAY),
    }


@pytest.mark.parametrize("name", optimizers())
@pytest.mark.usefixtures("standard_promotion")  # inject_hyperparams relies on it
def test_equals_dense_decay_in_every_step(name):
    """Under jit with everything donated; each step's parameters, once caught up."""
    optimizer, rate, weight_decay = optimizers()[name]
    # Several tables where they have an optimizer each.
    tables = ("table", "wide") if name == "partition" else ("table",)
    batches = some_batches(names=tables)
    params = jax.tree.map(jnp.asarray, start(np.float32, (*tables, "bias")))
    carry = params, optimizer.init(params)
    step = jax.jit(functools.partial(lazily, optimizer), donate_argnums=0)
    flush = jax.jit(aj.catch_up_weight_decay)
    for t, expected in enumerate(reference(rate, weight_decay, batches)):
        given = carry
        carry = step(carry, at(batches, t))
        if t:
            assert all(x.is_deleted() for x in jax.tree.leaves(given))
        assert_is(flush(*carry)[0], expected, PER_STEP * (t + 1))
        if t == 4:  # as before an evaluation in between
            carry = flush(*carry)
    assert step._cache_size() == 1


@hypothesis.settings(max_examples=15)
@hypothesis.given(st.integers(0, 2**32 - 1), st.booleans())
def test_equals_dense_decay_for_any_batches(seed, flushed):
    """In lax.scan, with evaluations in between or without."""
    batches = some_batches(seed)
    params, flush_at = scanned()(
        batches, jnp.arange(STEPS) % 3 == (2 if flushed else 4)
    )
    assert flush_at.sum() == (2 if flushed else 0)
    assert_is(params, reference(SCHEDULE, DECAY, batches)[-1], PER_STEP * STEPS)


@functools.cache
def scanned():
    optimizer = chained(SCHEDULE, DECAY)

    @jax.jit
    def train(batches, flush):
        def step(carry, x):
            ids, now = x
            carry = lazily(optimizer, carry, ids)
            caught_up = aj.catch_up_weight_decay
            return jax.lax.cond(now, caught_up, lambda *c: c, *carry), None

        params = jax.tree.map(jnp.asarray, start(np.float32))
        carry = params, optimizer.init(params)
        carry, _ = jax.lax.scan(step, carry, (batches, flush))
        return aj.catch_up_weight_decay(*carry)[0], flush

    return train


def test_in_float64():
    with jax.enable_x64(True):
        batches = some_batches()
        params = jax.tree.map(jnp.asarray, start())
        optimizer = chained(SCHEDULE, DECAY)
        carry = params, optimizer.init(params)
        assert {x.dtype.name for x in jax.tree.leaves(carry[1][-1].of_rows)} == {
            "float64"
        }
        step = jax.jit(functools.partial(lazily, optimizer))
        for t in range(STEPS):
            carry = step(carry, at(batches, t))
        caught_up, _ = aj.catch_up_weight_decay(*carry)
        for name, theirs in reference(SCHEDULE, DECAY, batches)[-1].items():
            atol = PER_STEP * STEPS * 2.0**-52 * max(1, np.abs(theirs).max())
            np.testing.assert_allclose(caught_up[name], theirs, rtol=0, atol=atol)


def test_what_the_mask_leaves_out_does_not_decay():
    """The hyperparameters are arrays, for once."""
    mask, rate, decay = (
        {"table": True, "bias": False},
        jnp.float32(RATE),
        np.float32(DECAY),
    )
    optimizer, batches = chained(rate, decay, mask), some_batches()
    params = jax.tree.map(jnp.asarray, start(np.float32))
    carry = params, optimizer.init(params)
    step = jax.jit(functools.partial(lazily, optimizer))
    for t in range(STEPS):
        carry = step(carry, at(batches, t))
    params, state = aj.catch_up_weight_decay(*carry)
    expected = reference(RATE, DECAY, batches, decayed=["table"])[-1]
    assert_is(params, expected, PER_STEP * STEPS)
    assert params["bias"] is carry[0]["bias"]
    assert jax.tree.structure(state) == jax.tree.structure(carry[1])


def test_rates_of_several_groups():
    """Two states in one: each leaf is decayed by its own."""
    optimizer = optax.partition(
        {
            "fast": aj.lazy_weight_decay(0.5, 0.5),
            "slow": aj.lazy_weight_decay(0.1, 0.1),
        },
        {"a": "fast", "b": "slow"},
    )
    params = {"a": jnp.ones((3, 1)), "b": jnp.ones((3, 1))}
    state = optimizer.init(params)
    nothing = aj.RowSparse(jnp.zeros(0, jnp.int32), jnp.zeros((0, 1)), (3, 1))
    for _ in range(3):
        _, state = optimizer.update({"a": nothing, "b": nothing}, state, params)
    params, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_allclose(params["a"], np.full((3, 1), 0.75**3), rtol=4 * EPS)
    np.testing.assert_allclose(params["b"], np.full((3, 1), 0.99**3), rtol=4 * EPS)


def test_injected_rate_may_be_set():
    optimizer = optax.inject_hyperparams(aj.lazy_weight_decay)(0.1, 0.5)
    params = jnp.ones((2, 1))
    state, nothing = (
        optimizer.init(params),
        aj.RowSparse([2], jnp.zeros((1, 1)), (2, 1)),
    )
    for rate in (0.1, 0.4, 1.0):
        state = optax.tree.set(state, learning_rate=jnp.float32(rate))
        _, state = optimizer.update(nothing, state, params)
    after, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_allclose(after, np.full((2, 1), 0.95 * 0.8 * 0.5), rtol=8 * EPS)


def test_rows_that_nobody_caught_up_decay_late_but_as_much():
    """A row's gradient is then taken where it was before, all else is the same."""
    optimizer = chained(RATE, DECAY)
    params = jnp.ones((3, 1))
    state = optimizer.init(params)
    for ids in ([1], [2], [1]):
        gradient = aj.RowSparse(ids, jnp.zeros((1, 1)), (3, 1))
        updates, state = optimizer.update(gradient, state, params)
        params = aj.apply_updates(params, updates)
    left = 1 - RATE * DECAY
    np.testing.assert_allclose(params[:, 0], [1, left**3, left**2], rtol=8 * EPS)
    params, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_allclose(params[:, 0], [left**3] * 3, rtol=8 * EPS)


# Precision


def empty(shape):
    return aj.RowSparse(jnp.zeros(0, jnp.int32), jnp.zeros((0, *shape[1:])), shape)


def test_a_gap_of_a_hundred_thousand_steps():
    n, rate, weight_decay = 100_000, 1e-2, 1e-3
    optimizer, params = aj.lazy_weight_decay(rate, weight_decay), jnp.ones((2, 1))

    def step(state, _):
        return optimizer.update(empty((2, 1)), state, params)[1], None

    state, _ = jax.jit(
        lambda state: jax.lax.scan(step, state, length=n),
    )(optimizer.init(params))
    exact = (1 - rate * weight_decay) ** n
    caught_up, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_allclose(caught_up, np.full((2, 1), exact), rtol=5e-7)
    assert int(state.count) == n
    # One float32, as it would be without a second.
    terms = np.full(n, np.log1p(np.float32(-rate * weight_decay)), np.float32)
    single = np.cumsum(terms, dtype=np.float32)[-1]  # one after the other
    assert abs(np.expm1(single - n * np.log1p(-rate * weight_decay))) > 1e-4


@pytest.mark.parametrize("so_far", [-10.0, -80.0])
@pytest.mark.parametrize("share", [1e-5, 3e-7])
def test_one_step_beside_a_long_past(so_far, share):
    """A step's decay is exact to a few roundings, however much there was before."""
    optimizer, params = aj.lazy_weight_decay(1.0, share), jnp.ones((2, 1))
    past = LogDecay(jnp.float32(so_far), jnp.float32(1e-7))
    state = optimizer.init(params)._replace(
        log_decay=past, of_rows=jax.tree.map(lambda x: jnp.full(2, x), past)
    )
    _, state = optimizer.update(empty((2, 1)), state, params)
    # By what would be added: the parameters themselves are coarser.
    zeros = jnp.zeros((2, 1))
    updates, _ = aj.lazy_weight_decay(0.0, 0.0).update(zeros, state, params)
    # The low part is rounded beside an ulp of the sum.
    rtol = 4 * EPS + np.spacing(np.float32(so_far)) * -EPS / share
    np.testing.assert_allclose(updates, np.full((2, 1), -share), rtol=rtol)
    # In one number the step would be lost or off by much more.
    single = np.float32(so_far) - (np.float32(so_far) + np.float32(np.log1p(-share)))
    assert abs(single / share - 1) > 0.01


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
def test_half_precision_is_rounded_once_however_long_the_gap(dtype):
    """Decay of a thousandth a step is too small for it; that of 500 steps is not."""
    rng = np.random.default_rng(2)
    params = jnp.asarray(rng.normal(size=(200, 1)), dtype)
    optimizer, eps = aj.lazy_weight_decay(0.01, 0.01), float(jnp.finfo(dtype).eps)
    state = optimizer.init(params)
    step = jax.jit(lambda s: optimizer.update(empty((200, 1)), s, params)[1])
    for _ in range(500):
        state = step(state)
    after, state = aj.catch_up_weight_decay(params, state)
    assert after.dtype == dtype
    exact = np.asarray(params, np.float64) * (1 - 1e-4) ** 500
    # To the nearest, and a little for float32 before it; f16 has subnormal numbers.
    atol = float(jnp.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(
        np.asarray(after, np.float64), exact, rtol=eps / 2 * 1.01, atol=atol
    )
    stuck = params - (params.astype(jnp.float32) * 1e-4).astype(dtype)
    np.testing.assert_array_equal(stuck, params)


def test_bfloat16_parameters():
    batches, optimizer = some_batches(), chained(RATE, DECAY)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), start())
    carry = params, optimizer.init(params)
    step = jax.jit(functools.partial(lazily, optimizer))
    for t in range(STEPS):
        carry = step(carry, at(batches, t))
    after, _ = aj.catch_up_weight_decay(*carry)
    for name, theirs in reference(RATE, DECAY, batches)[-1].items():
        assert after[name].dtype == jnp.bfloat16
        # Each step rounds gradient, update and sum to 8 bits, of numbers of about 1.
        atol = 3 * (STEPS + 1) * 2.0**-9
        ours = np.asarray(after[name], np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
        # A movement that is not all rounding.
        assert np.abs(theirs - start()[name]).max() > 5 * atol


# Catching up


@functools.cache
def some_carry():
    """Rows that are differently far behind."""
    optimizer, batches = chained(RATE, DECAY), some_batches()
    params = jax.tree.map(jnp.asarray, start(np.float32))
    carry = params, optimizer.init(params)
    step = jax.jit(functools.partial(lazily, optimizer))
    for t in range(3):
        carry = step(carry, at(batches, t))
    behind = carry[1][-1].of_rows["table"].high - carry[1][-1].log_decay.high
    assert len(np.unique(behind)) > 2
    return carry


def assert_same_bits(actual, expected):
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


NONE = {"table": None, "bias": None}


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_twice_is_once(jitted):
    catch_up = aj.catch_up_weight_decay
    catch_up = jax.jit(catch_up) if jitted else catch_up
    carry = some_carry()
    ids = NONE | {"table": jnp.array([[4, 0], [4, 4]])}
    once = catch_up(*carry, ids)
    assert_same_bits(catch_up(*once, ids), once)
    flushed = catch_up(*carry)
    assert_same_bits(catch_up(*flushed), flushed)
    assert_same_bits(catch_up(*flushed, ids), flushed)
    # Rows first, then all: each has moved once.
    assert_same_bits(catch_up(*once), flushed)
    assert_same_bits(catch_up(*carry, NONE), carry)


@pytest.mark.parametrize(
    "ids",
    [
        jnp.array(2),
        jnp.array([2, 2, 2]),
        jnp.array([[0, 5], [3, 0]]),
        jnp.zeros((0,), jnp.int32),
        jnp.zeros((2, 0, 3), jnp.int32),
        jnp.array([-1, -6]),
        jnp.array([1, 4], jnp.uint8),
        np.array([1, 4], np.int64),
        [1, 4],
    ],
    ids=[
        "one",
        "repeated",
        "matrix",
        "none",
        "none-of-three-axes",
        "negative",
        "uint8",
        "numpy",
        "list",
    ],
)
def test_ids_name_rows_as_indexing_does(ids):
    params, state = some_carry()
    flushed, _ = aj.catch_up_weight_decay(params, state)
    after, new = aj.catch_up_weight_decay(params, state, as_ids(ids))
    rows = np.unique(np.arange(NUM_ROWS)[np.asarray(ids, int)])
    expected = np.array(params["table"])
    expected[rows] = flushed["table"][rows]
    np.testing.assert_array_equal(after["table"], expected)
    kept = np.array(state[-1].of_rows["table"].high)
    kept[rows] = state[-1].log_decay.high
    np.testing.assert_array_equal(new[-1].of_rows["table"].high, kept)
    assert after["bias"] is params["bias"]


def as_ids(ids):
    return NONE | {"table": ids if not isinstance(ids, list) else jnp.array(ids)}


@pytest.mark.parametrize(
    "ids",
    [jnp.array([250], jnp.uint8), jnp.array([100, -3], jnp.int8)],
    ids=["uint8", "int8"],
)
def test_ids_of_a_dtype_that_cannot_hold_the_last_rows_number(ids):
    params, optimizer = jnp.ones((300, 1)), aj.lazy_weight_decay(0.5, 0.5)
    _, state = optimizer.update(empty((300, 1)), optimizer.init(params), params)
    after, _ = aj.catch_up_weight_decay(params, state, ids)
    rows = np.unique(np.arange(300)[np.asarray(ids, int)])
    np.testing.assert_array_equal(np.flatnonzero(after[:, 0] != 1), rows)


def test_ids_of_a_table_without_rows():
    params, optimizer = jnp.ones((0, 2)), aj.lazy_weight_decay(0.5, 0.5)
    state = optimizer.init(params)
    for ids in (jnp.array([0]), jnp.zeros(0, jnp.int32)):
        after, _ = aj.catch_up_weight_decay(params, state, ids)
        assert after.shape == (0, 2)


@pytest.mark.parametrize("ids", [[NUM_ROWS], [-NUM_ROWS - 1], [10**6], [-(10**6)]])
def test_ids_out_of_range_are_harmless(ids):
    """They may catch up with some row too many, which then is as after a flush."""
    params, state = some_carry()
    flushed, _ = aj.catch_up_weight_decay(params, state)
    ids = NONE | {"table": jnp.array(ids)}
    after, new = aj.catch_up_weight_decay(params, state, ids)
    same = np.asarray(after["table"] == params["table"]).all(axis=1)
    caught_up = np.asarray(after["table"] == flushed["table"]).all(axis=1)
    assert (same | caught_up).all() and same.sum() >= NUM_ROWS - 1
    assert_same_bits(aj.catch_up_weight_decay(after, new)[0], flushed)


def test_dense_leaves_are_never_behind():
    params, state = some_carry()
    ids = NONE | {"bias": jnp.array([0, 2])}
    after, _ = aj.catch_up_weight_decay(params, state, ids)
    flushed, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_array_equal(after["bias"], params["bias"])
    np.testing.assert_array_equal(flushed["bias"], params["bias"])


def test_leaves_of_none_and_scalars():
    optimizer = aj.lazy_weight_decay(0.5, 0.5)
    params = {"none": None, "scalar": jnp.float32(2.0), "table": jnp.ones((2, 1))}
    state = optimizer.init(params)
    gradient = {"none": None, "scalar": jnp.float32(0.0), "table": empty((2, 1))}
    updates, state = optimizer.update(gradient, state, params)
    params = aj.apply_updates(params, updates)
    ids = {"none": None, "scalar": None, "table": jnp.array([1])}
    after, state = aj.catch_up_weight_decay(params, state, ids)
    assert after["none"] is None
    np.testing.assert_allclose(after["scalar"], 1.5, rtol=2 * EPS)
    np.testing.assert_allclose(after["table"], [[1.0], [0.75]], rtol=2 * EPS)
    assert after["table"][0] == 1
    after, _ = aj.catch_up_weight_decay(after, state)
    np.testing.assert_allclose(after["table"], [[0.75], [0.75]], rtol=2 * EPS)
    np.testing.assert_allclose(after["scalar"], 1.5, rtol=2 * EPS)


def complex_step():
    """A step that reads row 0 only, and the parameters before it."""
    optimizer = aj.lazy_weight_decay(0.5, 0.5)
    params = jnp.array([[1 + 2j], [4 - 8j]], jnp.complex64)
    gradient = aj.RowSparse([0], jnp.zeros((1, 1), jnp.complex64), (2, 1))
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    return params, aj.apply_updates(params, updates), state


def test_complex_rows_decay_when_they_are_read():
    before, after, _ = complex_step()
    np.testing.assert_allclose(after[0], 0.75 * before[0], rtol=2 * EPS)
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("ids", [None, jnp.array([1])], ids=["all", "ids"])
def test_complex_rows_catch_up(ids):
    before, params, state = complex_step()
    after, _ = aj.catch_up_weight_decay(params, state, ids)
    np.testing.assert_allclose(after, 0.75 * before, rtol=2 * EPS)


def test_the_parameters_may_be_donated():
    params, state = some_carry()
    expected = aj.catch_up_weight_decay(params, state, as_ids([1, 1, 5]))
    given = jax.tree.map(jnp.array, (params, state))
    catch_up = jax.jit(aj.catch_up_weight_decay, donate_argnums=(0, 1))
    actual = catch_up(*given, as_ids([1, 1, 5]))
    # Rounded where they are fused; a row moves by at most a rounding.
    chex.assert_trees_all_close(actual, expected, rtol=2 * EPS, atol=EPS)
    assert all(x.is_deleted() for x in jax.tree.leaves(given))


@pytest.mark.parametrize("some_rows", [False, True], ids=["all", "ids"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_sharded_rows_stay_sharded(some_rows, jitted):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    by_rows = NamedSharding(mesh, PartitionSpec("rows"))
    params = jax.device_put({"table": jnp.ones((16, 2))}, by_rows)
    optimizer = aj.lazy_weight_decay(0.5, 0.5)
    with jax.set_mesh(mesh):
        state = optimizer.init(params)
        gradient = {"table": empty((16, 2))}
        state = jax.jit(lambda s: optimizer.update(gradient, s, params)[1])(state)
        ids = {"table": jnp.array([3, 9, 3])} if some_rows else None
        catch_up = aj.catch_up_weight_decay
        catch_up = jax.jit(catch_up) if jitted else catch_up
        after, state = jax.block_until_ready(catch_up(params, state, ids))
        rows = [3, 9] if some_rows else slice(None)
        expected = np.ones((16, 2))
        expected[rows] = 0.75
        np.testing.assert_allclose(after["table"], expected, rtol=2 * EPS)
        for leaf in (after["table"], *state.of_rows["table"]):
            assert leaf.sharding.is_equivalent_to(by_rows, leaf.ndim)


def test_all_rows_of_explicitly_sharded_tables():
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,))
    by_rows = NamedSharding(mesh, PartitionSpec("rows"))
    params = jax.device_put({"table": jnp.ones((16, 2))}, by_rows)
    optimizer = aj.lazy_weight_decay(0.5, 0.5)
    with jax.set_mesh(mesh):
        state = optimizer.init(params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        _, state = jax.jit(optimizer.update)(zeros, state, params)
        state = state._replace(of_rows=optimizer.init(params).of_rows)
        after, state = jax.jit(aj.catch_up_weight_decay)(params, state)
        np.testing.assert_allclose(after["table"], np.full((16, 2), 0.75), rtol=2 * EPS)
        for leaf in (after["table"], *state.of_rows["table"]):
            assert leaf.sharding.is_equivalent_to(by_rows, leaf.ndim)


# Three places in a chain


@pytest.mark.parametrize("form", ["before", "between", "last"])
def test_the_three_forms_of_decay_of_a_table(form):
    """L2 in the gradient; decoupled, of rows that are read; decoupled, of all rows."""
    rate, strength, eps = 0.2, 0.3, 1e-7
    optimizer = {
        "before": optax.chain(aj.add_decayed_weights(strength), aj.adagrad(rate)),
        "between": optax.chain(
            aj.scale_by_adagrad(),
            aj.add_decayed_weights(strength),
            optax.scale_by_learning_rate(rate),
        ),
        "last": chained(rate, strength),
    }[form]
    table = start(np.float32)["table"]
    params, expected = jnp.asarray(table), np.float64(table)
    state, accumulator = optimizer.init(params), np.full(SHAPE, 0.1)
    for ids in some_batches()["table"]:
        if form == "last":
            params, state = aj.catch_up_weight_decay(params, state, jnp.asarray(ids))
        updates, state = optimizer.update(
            entries(params, jnp.asarray(ids)), state, params
        )
        params = aj.apply_updates(params, updates)
        gradient = dense_pulls({"table": expected, "bias": 0.0}, {"table": ids})[
            "table"
        ]
        read = np.isin(np.arange(NUM_ROWS), ids)[:, None]
        if form == "before":
            gradient = gradient + np.where(read, strength * expected, 0)
        accumulator = accumulator + gradient**2
        step = rate * gradient / (np.sqrt(accumulator) + eps)
        decay = {"before": 0.0, "between": np.where(read, rate * strength, 0)}
        expected = expected - decay.get(form, rate * strength) * expected - step
    if form == "last":
        params, _ = aj.catch_up_weight_decay(params, state)
    np.testing.assert_allclose(params, expected, rtol=0, atol=PER_STEP * STEPS * EPS)


# Errors


@pytest.mark.parametrize(
    "rate, weight_decay, error, message",
    [
        (1.0, 1.0, ValueError, "times `weight_decay` must be less than 1.*1.0 times 1"),
        (2, 1, ValueError, "must be less than 1"),
        (0.1, -0.1, ValueError, "`weight_decay` must be .* >= 0, got -0.1"),
        (-0.1, 0.1, ValueError, "`learning_rate` must be .* >= 0, got -0.1"),
        (0.1, np.inf, ValueError, "`weight_decay` must be .*finite"),
        (0.1, "1", TypeError, "`weight_decay` must be a real number"),
        (None, 0.1, TypeError, "`learning_rate` must be a real number"),
    ],
)
def test_bad_hyperparameters(rate, weight_decay, error, message):
    with pytest.raises(error, match=message):
        aj.lazy_weight_decay(rate, weight_decay)


@pytest.mark.parametrize("array", [jnp.float32, np.float32, np.array])
def test_product_of_arrays(array):
    with pytest.raises(ValueError, match="must be less than 1"):
        aj.lazy_weight_decay(array(2.0), 1.0)


def other_trees():
    params, _ = some_carry()
    return [
        ({"table": params["table"]}, None),
        (params, {"table": jnp.array([1])}),
        (params, jnp.array([1])),
        (params, NONE | {"other": jnp.array([1])}),
    ]


def test_other_trees_than_the_states():
    _, state = some_carry()
    for params, ids in other_trees():
        with pytest.raises(
            ValueError, match="must be (those that the state|a tree like)"
        ):
            aj.catch_up_weight_decay(params, state, ids)


def test_one_leaf_of_the_states_tree():
    params, state = some_carry()
    with pytest.raises(ValueError, match="must be (those that the state|a tree like)"):
        aj.catch_up_weight_decay(params["table"], state)


@pytest.mark.parametrize("rows, ids", [(1, None), (5, None), (5, [4])], ids=str)
def test_other_shapes_than_the_states(rows, ids):
    """One row would be broadcast to all, and a row that there was not has no past."""
    optimizer = aj.lazy_weight_decay(0.5, 0.5)
    state = optimizer.init(jnp.ones((3, 1)))
    ids = None if ids is None else jnp.array(ids)
    with pytest.raises(ValueError, match="shape"):
        aj.catch_up_weight_decay(jnp.ones((rows, 1)), state, ids)


@pytest.mark.parametrize("ids", [jnp.array([1.0]), jnp.array([True]), np.ones(2)])
def test_ids_that_are_not_integers(ids):
    params, state = some_carry()
    with pytest.raises(TypeError, match="`ids` must be integers, got dtype"):
        aj.catch_up_weight_decay(params, state, NONE | {"table": ids})


def test_states_without_lazy_decay():
    params = {"w": jnp.ones((2, 2))}
    for optimizer in (aj.adagrad(0.1), optax.identity()):
        with pytest.raises(ValueError, match="has no LazyWeightDecayState"):
            aj.catch_up_weight_decay(params, optimizer.init(params))


def test_bad_updates():
    optimizer, params = aj.lazy_weight_decay(0.1, 0.1), {"w": jnp.ones((2, 3))}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="`params` must be given, got None"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(2, 3\).*\(1, 3\)"):
        optimizer.update(params, state, {"w": jnp.ones((1, 3))})
    other = {"w": jnp.ones((5, 3))}
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(5, 3\) does not fit"):
        optimizer.update(other, state, other)
    with pytest.raises(TypeError, match=r"parameter at \['w'\].*int32"):
        optimizer.init({"w": jnp.ones(2, jnp.int32)})


def test_a_mask_that_is_a_prefix():
    """A branch that does not decay is one MaskedNode in the state."""
    params = {"encoder": {"w": jnp.ones(3)}, "table": jnp.ones((4, 2))}
    decay = aj.lazy_weight_decay(0.5, 0.2, {"encoder": False, "table": True})
    nothing = jax.tree.map(jnp.zeros_like, params)
    gradient = nothing | {"table": aj.RowSparse([0], jnp.zeros((1, 2)), (4, 2))}
    _, state = decay.update(gradient, decay.init(params), params)
    params, state = aj.catch_up_weight_decay(params, state)
    np.testing.assert_array_equal(params["encoder"]["w"], 1)
    np.testing.assert_allclose(params["table"][1:], 0.9, rtol=1e-6)
