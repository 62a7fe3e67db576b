"""Steps by frequency: counts of reads, and what they multiply.

The reference is NumPy's, in float64: a loop over steps, and over the rows that each of
them reads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

NUM_ROWS, WIDTH, STEPS, BATCH = 9, 3, 60, 5
SHAPE = (NUM_ROWS, WIDTH)
NEVER = NUM_ROWS - 1  # no step reads this row
EPS = 2.0**-23
PER_STEP = (
    10  # roundings: of gradient, sum, root, quotient, power, products, difference
)


def batches(steps=STEPS, seed=0):
    """Ids, frequent and rare, repeated, and some of no row; and a row for each."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, NUM_ROWS) ** 1.5
    ids = rng.choice(NUM_ROWS - 1, (steps, BATCH), p=share / share.sum())
    ids[:, -1] = np.where(rng.random(steps) < 0.3, NUM_ROWS, ids[:, -1])
    return ids.astype(np.int32), rng.normal(size=(steps, BATCH, WIDTH))


def reference(ids, values, rate=0.1, rho=0.5, cap=1e6, epsilon=1e-7, first_step=1):
    """Table and counts after each step."""
    table, sums = np.zeros(SHAPE), np.full(SHAPE, 0.1)
    counts, history = np.zeros(NUM_ROWS, int), []
    for t in range(len(ids)):
        table, number = table.copy(), max(t + first_step, 1)
        for row in {int(i) for i in ids[t] if i < NUM_ROWS}:
            gradient = values[t][ids[t] == row].sum(axis=0)
            sums[row] += gradient**2
            counts[row] += 1
            multiplier = min((number / counts[row]) ** rho, cap)
            step = gradient / (np.sqrt(sums[row]) + epsilon)
            table[row] -= (rate(t) if callable(rate) else rate) * multiplier * step
        history.append((table, counts.copy()))
    return history


def train(optimizer, ids, values, dense=False, dtype=jnp.float32):
    """Table and counts after each step, of jitted steps that take over buffers."""

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, ids, values):
        table, state = carry
        gradient = aj.RowSparse(ids, values.astype(dtype), SHAPE)
        gradient = gradient.to_dense() if dense else gradient
        updates, state = optimizer.update(gradient, state, table)
        return aj.apply_updates(table, updates), state

    table, history = jnp.zeros(SHAPE, dtype), []
    carry = table, optimizer.init(table)
    for batch in zip(ids, jnp.asarray(values), strict=True):
        carry = step(carry, *batch)
        counts = optax.tree.get(carry[1], "read_counts")
        history.append((np.array(carry[0]), np.array(counts)))
    return history


def assert_is(history, expected, roundings):
    """Each rounding is of the longest way that a number has gone."""
    way = np.zeros(SHAPE)
    before = np.zeros(SHAPE)
    for (table, counts), (theirs, their_counts) in zip(history, expected, strict=True):
        way += np.abs(theirs - before)
        before = theirs
        assert np.all(np.abs(table - theirs) <= roundings * EPS * way)
        np.testing.assert_array_equal(counts, their_counts)


SETTINGS = {
    "root": {},
    "linear": {"rho": 1.0},
    "capped": {"rho": 1.0, "cap": 2.5},
    "slow": {"rho": 0.1},
    "unbounded": {"rho": 2.0, "cap": np.inf},
    "schedule": {"rate": lambda count: 0.1 / (1 + 0.5 * count)},
}


@pytest.mark.parametrize("dense", [False, True], ids=["rows", "dense"])
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.usefixtures("standard_promotion")
def test_equals_the_formula(name, dense):
    """In every step: rows never read, repeated ones, ids of no row; cap active."""
    setting, (ids, values) = SETTINGS[name], batches()
    optimizer = aj.frequency_adagrad(
        setting.get("rate", 0.1),
        rho=setting.get("rho", 0.5),
        max_multiplier=setting.get("cap", 1e6),
    )
    history = train(optimizer, ids, values, dense)
    expected = reference(ids, values, **setting)
    assert_is(history, expected, PER_STEP)
    assert not history[-1][0][NEVER].any() and history[-1][1][NEVER] == 0
    ratios = STEPS / history[-1][1][:NEVER]
    assert ratios.min() < 1.2 and ratios.max() > 5  # of frequent rows, and of rare


def test_a_long_run():
    ids, values = batches(steps=2000)
    history = train(aj.frequency_adagrad(0.1), ids, values)
    assert_is(history, reference(ids, values), PER_STEP)


@pytest.mark.usefixtures("x64")
def test_float64_is_computed_in_float64():
    ids, values = batches()
    history = train(aj.frequency_adagrad(0.1), ids, values, dtype=jnp.float64)
    for (table, _), (theirs, _) in zip(history, reference(ids, values), strict=True):
        np.testing.assert_allclose(table, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dense", [False, True], ids=["rows", "dense"])
def test_rho_0_is_adagrad_to_the_bit(dense):
    ids, values = batches()
    plain = optax.chain(aj.adagrad(0.1), aj.scale_by_frequency(0.0))
    for ours, theirs in zip(
        train(aj.frequency_adagrad(0.1, rho=0.0), ids, values, dense),
        train(plain, ids, values, dense),
        strict=True,
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
    table = jnp.zeros(SHAPE)
    state = aj.adagrad(0.1).init(table)
    for batch in zip(ids, jnp.asarray(values, jnp.float32), strict=True):
        gradient = aj.RowSparse(*batch, SHAPE)
        updates, state = aj.adagrad(0.1).update(gradient, state)
        table = aj.apply_updates(table, updates)
    np.testing.assert_array_equal(ours[0], table)


def test_what_every_step_reads_is_adagrad_to_the_bit():
    rng = np.random.default_rng(0)
    params = {"scalar": jnp.float32(1.0), "vector": jnp.ones(3), "w": jnp.ones((2, 3))}
    ours, plain = aj.frequency_adagrad(0.1, rho=3.0), aj.adagrad(0.1)
    state, other = ours.init(params), plain.init(params)
    for t in range(5):
        gradients = jax.tree.map(
            lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params
        )
        updates, state = ours.update(gradients, state)
        expected, other = plain.update(gradients, other)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        for leaf in jax.tree.leaves(optax.tree.get(state, "read_counts")):
            np.testing.assert_array_equal(leaf, t + 1)


# What reads a row


def counted(gradients, params, **options):
    by_frequency = aj.scale_by_frequency(**options)
    state = by_frequency.init(params)
    for gradient in gradients:
        updates, state = by_frequency.update(gradient, state)
    return updates, state.read_counts


def test_rows_of_an_ordinary_gradient_are_read_where_a_number_is_not_0():
    zeros = jnp.zeros((3, 2))
    one = zeros.at[1, 0].set(1.0)
    updates, counts = counted([one, zeros, one, one.at[2].set(-2.0)], zeros)
    np.testing.assert_array_equal(counts, [0, 3, 1])
    np.testing.assert_allclose(updates[1], [(4 / 3) ** 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(updates[2], [-4, -4], rtol=1e-6)
    _, counts = counted([one * jnp.nan], zeros)  # which is not 0
    np.testing.assert_array_equal(counts, [1, 1, 1])


def test_numbers_of_a_vector_are_rows_and_a_number_is_one():
    gradients = {"v": jnp.array([0.0, 1.0]), "s": jnp.float32(0.0)}
    more = {"v": jnp.array([1.0, 1.0]), "s": jnp.float32(1.0)}
    updates, counts = counted([gradients, more], more)
    np.testing.assert_array_equal(counts["v"], [1, 2])
    assert counts["s"] == 1 and counts["s"].shape == ()
    np.testing.assert_allclose(updates["v"], [2**0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(updates["s"], 2**0.5, rtol=1e-6)


def test_entries_of_rows_read_also_if_their_sum_is_0():
    """As jax-tpu-embedding counts; of an ordinary gradient nobody can tell."""
    rows = aj.RowSparse([1, 1, 2], jnp.array([[1.0], [-1.0], [0.0]]), (4, 1))
    _, counts = counted([rows, rows], jnp.zeros((4, 1)))
    np.testing.assert_array_equal(counts, [0, 2, 2, 0])
    _, counts = counted([rows.to_dense()] * 2, jnp.zeros((4, 1)))
    np.testing.assert_array_equal(counts, [0, 0, 0, 0])


def test_rows_of_several_axes():
    gradient = jnp.zeros((2, 3, 4)).at[1, 2, 0].set(1.0)
    _, counts = counted([gradient, gradient], gradient, row_axes=2)
    np.testing.assert_array_equal(counts, [[0, 0, 0], [0, 0, 2]])
    of_tables = aj.RowSparse([1], jnp.ones((1, 3, 4)), gradient.shape)
    updates, counts = counted([gradient, of_tables], gradient, row_axes=2)
    np.testing.assert_array_equal(counts, [[0, 0, 0], [1, 1, 2]])
    expected = np.sqrt([2, 2, 1])[:, None] * np.ones(4)
    np.testing.assert_allclose(updates.to_dense()[1], expected, rtol=1e-6)


def test_counts_are_exact_beyond_what_float32_counts_and_do_not_wrap():
    largest = 2**31 - 1
    by_frequency = aj.scale_by_frequency(1.0)
    table = jnp.ones((3, 1))
    state = by_frequency.init(table)._replace(
        count=jnp.int32(largest - 1),
        read_counts=jnp.array([2**24, largest, largest - 1], jnp.int32),
    )
    rows = aj.RowSparse([0, 1, 2], table, table.shape)
    for gradient in (rows, table):
        updates, after = by_frequency.update(gradient, state)
        np.testing.assert_array_equal(after.read_counts, [2**24 + 1, largest, largest])
        assert after.count == largest
        updates = updates.to_dense() if isinstance(updates, aj.RowSparse) else updates
        np.testing.assert_allclose(updates.ravel(), [128, 1, 1], rtol=1e-6)


# With others


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_are_multiplied_in_float32(dtype):
    ids = np.array([[0, 1], [0, 0], [0, 0], [0, 0], [1, 0]], np.int32)
    table = jnp.zeros((2, 1), dtype)
    by_frequency = aj.scale_by_frequency(0.7)
    state = by_frequency.init(table)
    for batch in ids:
        rows = aj.RowSparse(batch, jnp.full((2, 1), 0.3, dtype), table.shape)
        updates, state = by_frequency.update(rows, state)
    expected = np.float32(dtype(0.3)) * np.float32(2.5) ** np.float32(0.7)
    assert updates.dtype == dtype and updates.to_dense()[1, 0] == dtype(expected)


@pytest.mark.usefixtures("standard_promotion")
def test_parts_masks_and_accumulated_gradients():
    ids, values = batches(steps=4)
    values = jnp.asarray(values, jnp.float32)
    pairs = zip(ids, values, strict=True)
    rows = [aj.RowSparse(*pair, SHAPE) for pair in pairs]
    params = {"table": jnp.zeros(SHAPE), "w": jnp.zeros(2)}
    ours = aj.frequency_adagrad(0.1)
    masked = optax.chain(
        aj.scale_by_adagrad(),
        optax.masked(aj.scale_by_frequency(), {"table": True, "w": False}),
        optax.scale(-0.1),
    )
    parts = optax.partition({"f": ours, "a": aj.adagrad(0.1)}, {"table": "f", "w": "a"})
    injected = optax.inject_hyperparams(aj.frequency_adagrad)(0.1)
    states = [optimizer.init(params) for optimizer in (masked, parts, injected)]
    alone = ours.init(params["table"])
    for gradient in rows:
        gradients = {"table": gradient, "w": jnp.ones(2)}
        expected, alone = ours.update(gradient, alone)
        for i, optimizer in enumerate((masked, parts, injected)):
            updates, states[i] = optimizer.update(gradients, states[i], params)
            np.testing.assert_allclose(
                updates["table"].to_dense(), expected.to_dense(), rtol=1e-6
            )
    # The mean of two gradients is one step, which reads the rows of both.
    twice = optax.MultiSteps(ours, 2)
    state = twice.init(params["table"])
    for gradient in rows:
        _, state = twice.update(gradient.to_dense(), state, params["table"])
    read = [{int(i) for i in ids[t : t + 2].ravel() if i < NUM_ROWS} for t in (0, 2)]
    counts = [sum(row in rows for rows in read) for row in range(NUM_ROWS)]
    np.testing.assert_array_equal(optax.tree.get(state, "read_counts"), counts)


@pytest.mark.usefixtures("x64")
def test_derivatives_by_rho_and_bound_are_the_finite_differences():
    ids, values = batches(steps=12)
    values = jnp.asarray(values)

    def loss(numbers):
        optimizer = aj.frequency_adagrad(0.1, rho=numbers[0], max_multiplier=numbers[1])
        table = jnp.zeros(SHAPE)
        state = optimizer.init(table)
        for batch in zip(ids, values, strict=True):
            gradient = aj.RowSparse(*batch, SHAPE).to_dense()
            updates, state = optimizer.update(gradient, state)
            table += updates
        return jnp.sum((table - 0.3) ** 2)

    at, h = jnp.array([0.7, 2.0]), 1e-6
    slopes = jax.jit(jax.grad(loss))(at)
    for i, step in enumerate(h * jnp.eye(2)):
        difference = (loss(at + step) - loss(at - step)) / (2 * h)
        assert abs(difference) > 1e-3
        np.testing.assert_allclose(slopes[i], difference, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rho": -0.1}, "`rho` must be a real number, finite and >= 0, got -0.1"),
        ({"rho": np.inf}, "`rho` must be .* finite"),
        ({"max_multiplier": 0.0}, "`max_multiplier` must be .*> 0, got 0.0"),
        ({"max_multiplier": np.nan}, "`max_multiplier` must be a real number, > 0"),
        ({"rho": jnp.ones(2)}, "`rho` must be .*shape .2,.; for one value per leaf"),
    ],
)
def test_hyperparameters_out_of_range(arguments, message):
    for make in (aj.scale_by_frequency, aj.frequency_adagrad):
        with pytest.raises(ValueError, match=message):
            make(**arguments)


def test_a_state_that_init_did_not_make():
    by_frequency, table = aj.scale_by_frequency(), jnp.ones(SHAPE)
    with pytest.raises(TypeError, match="`state` must be what init.params. gave, a Sc"):
        by_frequency.update(table, table)
    with pytest.raises(TypeError, match="`state` must be what init.params. gave"):
        aj.frequency_adagrad().update(table, table)
    with pytest.raises(ValueError, match="shape .4, 3. does not fit its accumulator"):
        by_frequency.update(jnp.ones((4, 3)), by_frequency.init(table))
