"""proximal_adagrad and adagrad_da: the formulas, the minima they are, and zeros.

The reference is NumPy in float64; for row-sparse gradients, which ftrl takes too, the
dense form of the rows that are in them.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax._rows import fold as _fold_rows
from tests import golden_cases as golden

STEPS, SHAPE = 4, (3, 2)
SIZE = 6

strengths = st.just(0.0) | st.floats(1e-3, 2.0)
# Not so small that squares vanish beside others' rounding.
numbers = st.just(0.0) | st.floats(1e-3, 10) | st.floats(-10, -1e-3)
arrays = st.lists(numbers, min_size=SIZE, max_size=SIZE).map(
    lambda x: np.array(x).reshape(SHAPE)
)
some_gradients = st.lists(arrays, min_size=STEPS, max_size=STEPS).map(np.array)
rates = st.floats(1e-2, 2.0)
initials = st.just(0.0) | st.floats(1e-3, 1.0)


def factor(t):
    """What a learning rate is multiplied by at step t, counted from 0."""
    return (1.0, 0.5, 0.5, 2.0)[t]


@functools.cache
def jitted_run(kind):
    """Parameters, accumulators and the sums (if any) after each step.

    The learning rate is a schedule; all hyperparameters are traced.
    """

    def run(start, gradients, rate, arguments):
        factors = jnp.array([factor(t) for t in range(STEPS)])
        rates = rate * factors
        optimizer = build(kind)(lambda count: rates[count], **arguments)

        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            params = params + updates
            return (params, state), (params, *state[1:])

        return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]

    return jax.jit(run)


def build(kind):
    if kind == "dual averaging":
        return aj.adagrad_da
    if kind == "by rows":
        return functools.partial(aj.proximal_adagrad, accumulator=aj.RowWise())
    return aj.proximal_adagrad


def run(kind, start, gradients, rate, **arguments):
    with jax.enable_x64(True):
        result = jitted_run(kind)(start, gradients, rate, arguments)
        return [np.asarray(x) for x in result]


def soft(x, by):
    return np.sign(x) * np.maximum(np.abs(x) - by, 0)


def ratio(x, y):
    """x / y, and 0 where y is 0."""
    return np.where(y == 0, 0, x / np.where(y == 0, 1, y))


def proximal_step(value, rate, l1, l2, group):
    value = soft(value, rate * l1)
    if group is not None:
        norm = np.sqrt(np.sum(value**2, axis=1, keepdims=True))
        value = value * np.maximum(1 - ratio(rate * group, norm), 0)
    return value / (1 + rate * l2)


def squares_of(kind, gradient):
    """What the accumulator grows by, to be broadcast to the gradient."""
    if kind == "by rows":
        return np.mean(gradient**2, axis=1, keepdims=True)
    return gradient**2


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    arrays, some_gradients, rates, initials, strengths, strengths, strengths
)
@pytest.mark.parametrize("kind", ["by element", "by rows"])
def test_proximal_equals_the_formula(
    kind, start, gradients, rate, initial, l1, l2, group
):
    arguments = {"l1": l1, "l2": l2, "initial_accumulator_value": initial}
    if kind == "by rows":
        arguments["group_lasso"] = group
    params, accumulators = run(kind, start, gradients, rate, **arguments)
    accumulator = np.full_like(start[:, : 1 if kind == "by rows" else None], initial)
    before = start
    for t in range(STEPS):
        accumulator = accumulator + squares_of(kind, gradients[t])
        step_size = rate * factor(t) * ratio(1.0, np.sqrt(accumulator))
        value = before - step_size * gradients[t]
        expected = proximal_step(value, step_size, l1, l2, arguments.get("group_lasso"))
        # A step from where ours was, so that errors do not add up. What penalties draw
        # back may be longer than what is left.
        size = np.abs(before) + np.abs(step_size * gradients[t])
        size = size.max(axis=1, keepdims=True) if kind == "by rows" else size
        golden.compare(params[t], expected, np.broadcast_to(size, SHAPE), 8, f"{t}")
        kept = accumulators[t].reshape(accumulator.shape)
        golden.compare(kept, accumulator, accumulator, 8, f"accumulator {t}")
        before = params[t]


@hypothesis.settings(max_examples=60)
@hypothesis.given(arrays, some_gradients, rates, initials, strengths, strengths)
def test_dual_averaging_equals_the_formula(start, gradients, rate, initial, l1, l2):
    arguments = {"l1": l1, "l2": l2, "initial_accumulator_value": initial}
    params, accumulators, sums = run(
        "dual averaging", start, gradients, rate, **arguments
    )
    old = start
    for t in range(STEPS):
        count, now = t + 1, rate * factor(t)
        accumulator = initial + np.sum(gradients[:count] ** 2, axis=0)
        total = np.sum(gradients[:count], axis=0)
        bend = np.sqrt(accumulator) + now * count * l2
        expected = ratio(-now * soft(total, count * l1), bend)
        # Sums that cancel, and what the threshold takes.
        absolute = np.sum(np.abs(gradients[:count]), axis=0)
        size = np.abs(old) + now * ratio(absolute, bend)
        golden.compare(params[t], expected, size, 8, f"{t}")
        golden.compare(accumulators[t], accumulator, accumulator, 8, f"{t}")
        golden.compare(sums[t], total, absolute, 8, f"{t}")
        old = params[t]


# What they minimise


def directions():
    """Each coordinate either way, all rows either way, and some others."""
    eye = np.eye(SIZE).reshape(SIZE, *SHAPE)
    rng = np.random.default_rng(0)
    others = rng.normal(size=(10, *SHAPE))
    ones = np.eye(SHAPE[0])[:, :, None] * np.ones(SHAPE[1])
    every = np.concatenate([eye, ones, others])
    return np.concatenate([every, -every])


def assert_is_minimum(objective, at):
    """Nothing near, nor towards 0, is lower, but by the rounding of the terms."""
    least, size = objective(at)
    for far in (1e-3, 0.05, 1.0):
        for direction in directions():
            there, _ = objective(at + far * direction)
            assert least <= there + 1e-14 * size
    for row in range(SHAPE[0]):
        for share in (0.0, 0.5, 0.999, 1.001):
            moved = at.copy()
            moved[row] *= share
            assert least <= objective(moved)[0] + 1e-14 * size


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    arrays, some_gradients, rates, initials, strengths, strengths, strengths
)
@pytest.mark.parametrize("kind", ["by element", "by rows"])
def test_proximal_step_minimises_linearised_loss_distance_and_penalties(
    kind, start, gradients, rate, initial, l1, l2, group
):
    """Sparse group lasso is among them: the two thresholds in turn are its minimum."""
    gradient = gradients[0]
    # Without a distance there is no minimum.
    hypothesis.assume(initial > 0 or np.all(squares_of(kind, gradient) > 0))
    arguments = {"l1": l1, "l2": l2, "initial_accumulator_value": initial}
    if kind == "by rows":
        arguments["group_lasso"] = group
    params, accumulators = run(kind, start, gradients, rate, **arguments)
    roots = np.sqrt(accumulators[0]).reshape(SHAPE[0], -1)

    def objective(x):
        terms = [
            gradient * x,
            l1 * np.abs(x),
            l2 / 2 * x**2,
            roots / (2 * rate) * (x - start) ** 2,
        ]
        if kind == "by rows":
            # By elements, so that all terms have one shape.
            norms = np.sqrt(np.sum(x**2, axis=1, keepdims=True))
            terms.append(group * norms * np.full(SHAPE, 1 / SHAPE[1]))
        return np.sum(terms), np.sum(np.abs(terms))

    assert_is_minimum(objective, params[0])


@hypothesis.settings(max_examples=30)
@hypothesis.given(arrays, some_gradients, rates, initials, strengths, strengths)
def test_dual_averaging_minimises_all_losses_penalties_and_the_distance_from_zero(
    start, gradients, rate, initial, l1, l2
):
    hypothesis.assume(initial > 0 or np.all(gradients[0] != 0))
    params, accumulators, _ = run(
        "dual averaging",
        start,
        gradients,
        rate,
        l1=l1,
        l2=l2,
        initial_accumulator_value=initial,
    )
    rate *= factor(STEPS - 1)

    def objective(x):
        terms = [
            *(gradients * x),
            STEPS * l1 * np.abs(x),
            STEPS * l2 / 2 * x**2,
            np.sqrt(accumulators[-1]) / (2 * rate) * x**2,
        ]
        return np.sum(terms), np.sum(np.abs(terms))

    assert_is_minimum(objective, params[-1])


# Special cases


@hypothesis.settings(max_examples=30)
@hypothesis.given(arrays, some_gradients, rates, initials)
@pytest.mark.parametrize("kind", ["by element", "by rows"])
def test_proximal_without_penalties_is_adagrad(kind, start, gradients, rate, initial):
    params, accumulators = run(
        kind,
        start,
        gradients,
        rate,
        l1=0.0,
        l2=0.0,
        initial_accumulator_value=initial,
    )
    with jax.enable_x64(True):
        at = [start, *params]
        accumulator = aj.RowWise() if kind == "by rows" else aj.Diagonal()
        adagrad = aj.scale_by_adagrad(initial, 0.0, accumulator=accumulator)
        state = adagrad.init(jnp.asarray(start))
        for t in range(STEPS):
            scaled, state = adagrad.update(jnp.asarray(gradients[t]), state)
            expected = at[t] - rate * factor(t) * np.asarray(scaled)
            size = np.maximum(np.abs(at[t]), np.abs(expected))
            golden.compare(params[t], expected, size, 4, f"{t}")
            kept = np.asarray(state.accumulator)
            golden.compare(accumulators[t], kept, kept, 4, f"{t}")


@hypothesis.settings(max_examples=30)
@hypothesis.given(some_gradients, rates)
def test_dual_averaging_without_penalties_from_zero(gradients, rate):
    params, _, _ = run(
        "dual averaging",
        np.zeros(SHAPE),
        gradients,
        rate,
        l1=0.0,
        l2=0.0,
        initial_accumulator_value=0.0,
    )
    for t in range(STEPS):
        taken = gradients[: t + 1]
        root = np.sqrt(np.sum(taken**2, axis=0))
        expected = -rate * factor(t) * ratio(np.sum(taken, axis=0), root)
        size = rate * factor(t) * ratio(np.sum(np.abs(taken), axis=0), root)
        before = np.abs(params[t - 1]) if t else 0
        golden.compare(params[t], expected, size + before, 8, f"{t}")


def test_dual_averaging_forgets_where_it_began():
    gradient = jnp.array([1.0, -2.0, 0.0])
    optimizer = aj.adagrad_da(0.5, l1=0.1)
    ends = []
    for start in (jnp.zeros(3), jnp.array([1.0, 4.0, -8.0])):
        updates, _ = optimizer.update(gradient, optimizer.init(start), start)
        ends.append(start + updates)
    np.testing.assert_allclose(*ends, rtol=0, atol=8 * 2.0**-23)
    assert ends[1][2] == 0


# Zeros

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
ADD = [aj.apply_updates, optax.apply_updates]
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: jnp.dtype(d).name)


@by_dtype
@pytest.mark.parametrize(
    "optimizer",
    [
        aj.proximal_adagrad(0.37, l1=0.5, l2=0.3),
        aj.proximal_adagrad(0.37, group_lasso=0.8, accumulator=aj.RowWise()),
        aj.adagrad_da(0.37, l1=0.5, l2=0.3),
    ],
    ids=["l1", "group", "dual"],
)
@pytest.mark.usefixtures("standard_promotion")  # gradients are wider here and there
def test_zeros_are_exact_and_stay(optimizer, dtype):
    """Not nearly 0: what a kernel may leave out. Row 2 is pulled too hard to stay."""
    rng = np.random.default_rng(0)
    params = rng.normal(size=(3, 4)) * 0.01
    params[0] = 0
    params = jnp.asarray(params, dtype)
    gradients = rng.uniform(-0.2, 0.2, size=(4, 3, 4))
    gradients[:, 2] = 3.0
    gradients[1, :2] = 0.0
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for t, gradient in enumerate(gradients):
        gradient = jnp.asarray(gradient, dtype if t % 2 else jnp.float32)
        updates, state = step(gradient, state, params)
        assert updates.dtype == dtype
        params, optaxs = (add(params, updates) for add in ADD)
        assert params.dtype == dtype
        np.testing.assert_array_equal(params, optaxs)
        np.testing.assert_array_equal(params[0] == 0, np.ones(4, bool))
        np.testing.assert_array_equal(params[2] != 0, np.ones(4, bool))
        if t == 0:  # of 0.01, and drawn by more than that
            np.testing.assert_array_equal(params[1] == 0, np.ones(4, bool))


@by_dtype
@pytest.mark.parametrize("rows", [False, True], ids=["dense", "rows"])
def test_any_parameter_becomes_zero_exactly(dtype, rows):
    """An update is the parameter's negative, bit for bit, whatever the parameter."""
    rng = np.random.default_rng(1)
    params = rng.normal(size=(200, 1)) * 10.0 ** rng.uniform(-3, 3, (200, 1))
    params = jnp.asarray(params, dtype)
    gradient = jnp.asarray(rng.normal(size=(200, 1)), dtype)
    if rows:
        gradient = aj.RowSparse(jnp.arange(200), gradient, params.shape)
    optimizer = aj.proximal_adagrad(1.0, l1=1e5)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    for add in ADD:
        assert not np.any(add(params, updates))


def test_rows_become_zero_as_wholes_and_stay_without_a_gradient():
    """Where L1 leaves some numbers of a row, group lasso leaves all or none."""
    rng = np.random.default_rng(2)
    params = jnp.asarray(rng.normal(size=(40, 5)), jnp.float32)
    optimizer = aj.proximal_adagrad(0.3, 1.0, group_lasso=0.5, accumulator=aj.RowWise())
    step = jax.jit(lambda p, s: optimizer.update(jnp.zeros_like(p), s, p))
    state, empty, counts = optimizer.init(params), np.zeros(40, bool), []
    for _ in range(30):
        updates, state = step(params, state)
        params = aj.apply_updates(params, updates)
        zeros = np.asarray(params == 0)
        assert set(zeros.sum(axis=1)) <= {0, 5}
        assert zeros[empty].all()
        empty = zeros.all(axis=1)
        counts.append(empty.sum())
    # Each step shortens a row by 0.15, from lengths of about sqrt(5).
    assert counts[0] < 10 and counts[-1] == 40
    assert len(set(counts)) > 4
    np.testing.assert_array_equal(state.accumulator, np.ones(40, np.float32))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_group_lasso_of_single_numbers_is_l1(shape):
    rng = np.random.default_rng(3)
    params = jnp.asarray(rng.normal(size=shape), jnp.float32)
    gradient = jnp.asarray(rng.normal(size=shape), jnp.float32)
    results = []
    for arguments in ({"group_lasso": 0.3}, {"l1": 0.3}):
        optimizer = aj.proximal_adagrad(0.5, accumulator=aj.RowWise(), **arguments)
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        results.append(params + updates)
    np.testing.assert_allclose(*results, rtol=0, atol=8 * 2.0**-23)


def test_group_lasso_of_a_tensor_takes_all_axes_but_the_first():
    rng = np.random.default_rng(4)
    flat = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    optimizer = aj.proximal_adagrad(
        0.5, l1=0.1, group_lasso=0.9, accumulator=aj.RowWise()
    )
    results = []
    for shape in ((4, 6), (4, 2, 3)):
        params = flat.reshape(shape)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        results.append((params + updates).reshape(4, 6))
    np.testing.assert_allclose(*results, rtol=0, atol=8 * 2.0**-23)


# Rows

NUM_ROWS = 7
# Repeated, unsorted, out of range at both ends, all the same, all different.
IDS = np.array([[3, 1, 3, 3, 9], [-1, 0, 7, 5, 0], [2, 2, 2, 2, 2], [6, 4, 0, 1, 3]])
FAMILY = {
    "proximal": aj.proximal_adagrad(0.4, 0.2, l1=0.2, l2=0.3),
    "groups": aj.proximal_adagrad(
        aj.inverse_time_decay(0.5, 0.5),
        l1=0.05,
        group_lasso=0.3,
        accumulator=aj.RowWise(),
    ),
    "dual": aj.adagrad_da(0.4, 0.2, l1=0.2, l2=0.3),
    "ftrl": aj.ftrl(
        0.4,
        l1_regularization_strength=0.2,
        l2_shrinkage_regularization_strength=0.1,
        beta=0.5,
    ),
}
family = pytest.mark.parametrize("name", FAMILY)


def batches(shape, dtype=jnp.float32):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(*IDS.shape, *shape[1:]))
    return list(
        zip(jnp.asarray(IDS, jnp.int32), jnp.asarray(values, dtype), strict=True)
    )


def rows_in(ids):
    return np.isin(np.arange(NUM_ROWS), ids)


def masked_dense_step(optimizer, carry, ids, gradient):
    """The dense step, undone where a row is not in the gradient."""
    params, state = carry
    updates, new = optimizer.update(gradient.to_dense(), state, params)
    present = jnp.asarray(rows_in(ids))

    def pick(new, old):
        if jnp.ndim(new) == 0:
            return new
        return jnp.where(jnp.expand_dims(present, range(1, new.ndim)), new, old)

    return jax.tree.map(pick, (params + updates, new), carry)


def assert_bits_equal(actual, expected, rows):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if np.ndim(a):
            assert np.asarray(a)[rows].tobytes() == np.asarray(e)[rows].tobytes()


@pytest.mark.parametrize(
    "mode, shape, name",
    [(mode, (NUM_ROWS, 3), name) for mode in ("eager", "jit") for name in FAMILY]
    + [
        ("jit", (NUM_ROWS,), "dual"),
        ("jit", (NUM_ROWS,), "groups"),
        ("jit", (NUM_ROWS, 2, 2), "proximal"),
        ("jit", (NUM_ROWS, 2, 2), "groups"),
    ],
)
def test_rows_equal_dense_and_others_are_untouched(mode, shape, name):
    optimizer = FAMILY[name]

    def step(carry, ids, values):
        params, state = carry
        gradient = aj.RowSparse(ids, values, shape)
        updates, state = optimizer.update(gradient, state, params)
        assert isinstance(updates, aj.RowSparse) and updates.dtype == params.dtype
        return aj.apply_updates(params, updates), state

    run = step if mode == "eager" else jax.jit(step, donate_argnums=0)
    rng = np.random.default_rng(6)
    params = jnp.asarray(rng.normal(size=shape), jnp.float32)
    carry = params, optimizer.init(params)
    for ids, values in batches(shape):
        before = jax.tree.map(np.array, carry)
        given = jax.tree.map(jnp.array, carry)
        carry = run(given, ids, values)
        if mode != "eager":
            assert all(x.is_deleted() for x in jax.tree.leaves(given))
        gradient = aj.RowSparse(ids, values, shape)
        expected = masked_dense_step(
            optimizer, jax.tree.map(jnp.asarray, before), ids, gradient
        )
        # Numbers of about 1: a few roundings, as compilers fuse and sums are ordered.
        for a, e in zip(jax.tree.leaves(carry), jax.tree.leaves(expected), strict=True):
            assert (a.shape, a.dtype) == (e.shape, e.dtype)
            np.testing.assert_allclose(a, e, rtol=2e-6, atol=2e-6)
        assert_bits_equal(carry, before, ~rows_in(ids))
        # Zeros are the same zeros.
        np.testing.assert_array_equal(carry[0] == 0, expected[0] == 0)


@pytest.mark.parametrize(
    "name, dtype",
    [(name, "bfloat16") for name in FAMILY] + [("groups", "float16")],
)
def test_rows_equal_dense_in_half_precision(name, dtype):
    optimizer, shape = FAMILY[name], (NUM_ROWS, 3)
    rng = np.random.default_rng(6)
    params = jnp.asarray(rng.normal(size=shape), dtype)
    carry = params, optimizer.init(params)
    for ids, values in batches(shape, dtype):
        gradient = aj.RowSparse(ids, values, shape)
        updates, state = optimizer.update(gradient, carry[1], carry[0])
        assert updates.dtype == dtype
        after = aj.apply_updates(carry[0], updates), state
        # The entries' sum is rounded to the gradient's dtype in both.
        expected = masked_dense_step(optimizer, carry, ids, gradient)
        for a, e in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
            assert a.dtype == e.dtype
            a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
            # One rounding of numbers of up to 4.
            eps = float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(a, e, rtol=eps, atol=eps)
        assert_bits_equal(after, carry, ~rows_in(ids))
        carry = after


@family
@hypothesis.settings(max_examples=20)
@hypothesis.given(
    ids=st.lists(st.integers(-2, NUM_ROWS + 1), min_size=4, max_size=4),
    values=st.lists(numbers, min_size=8, max_size=8),
)
def test_rows_equal_dense_for_any_ids_and_values(name, ids, values):
    with jax.enable_x64(True):
        values = np.array(values).reshape(4, 2)
        carry, after, expected = two_steps(name)(jnp.array(ids), jnp.asarray(values))
        for a, e in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
        assert_bits_equal(after, carry, ~rows_in(ids))


@functools.cache
def two_steps(name):
    """The row-sparse step and the dense one from the same start."""
    optimizer, shape = FAMILY[name], (NUM_ROWS, 2)
    start = np.random.default_rng(7).normal(size=shape)

    @jax.jit
    def steps(ids, values):
        params = jnp.asarray(start)
        carry = params, optimizer.init(params)
        gradient = aj.RowSparse(ids, values, shape)
        updates, state = optimizer.update(gradient, carry[1], params)
        dense, new = optimizer.update(gradient.to_dense(), carry[1], params)
        return carry, (params + updates, state), (params + dense, new)

    def masked(ids, values):
        carry, after, expected = jax.tree.map(np.asarray, steps(ids, values))
        out = ~rows_in(ids)

        def keep(new, old):
            if new.ndim:
                new = new.copy()
                new[out] = old[out]
            return new

        return carry, after, jax.tree.map(keep, expected, carry)

    return masked


@family
def test_a_row_with_a_zero_gradient_is_regularised_and_one_not_in_it_is_not(name):
    optimizer = FAMILY[name]
    table = jnp.full((3, 2), 0.05)
    gradient = aj.RowSparse([1], jnp.zeros((1, 2)), table.shape)
    updates, _ = optimizer.update(gradient, optimizer.init(table), table)
    after = aj.apply_updates(table, updates)
    np.testing.assert_array_equal(after[1], [0.0, 0.0])
    np.testing.assert_array_equal(after[::2], table[::2])


# Numbers of other types, and trees


@pytest.mark.parametrize("kind", ["by element", "by rows", "dual averaging"])
def test_a_constant_rate_a_schedule_and_an_injected_one_are_the_same(kind):
    factory, params = build(kind), {"w": jnp.array([[1.0, -0.3]])}
    arguments = {"l1": 0.1, "l2": 0.2}
    if kind == "by rows":
        arguments["group_lasso"] = 0.3

    def end(optimizer):
        at, state = params, optimizer.init(params)
        for _ in range(3):
            gradient = jax.tree.map(lambda p: 2 * (p - 0.5), at)
            updates, state = optimizer.update(gradient, state, at)
            at = aj.apply_updates(at, updates)
        return at["w"]

    expected = end(factory(0.25, **arguments))
    constant = optax.constant_schedule(0.25)
    injected = optax.inject_hyperparams(
        factory, static_args=() if kind == "dual averaging" else ("accumulator",)
    )
    for optimizer in (
        factory(constant, **arguments),
        factory(jnp.float32(0.25), **arguments),
        injected(0.25, **arguments),
        injected(constant, **arguments),
    ):
        np.testing.assert_allclose(end(optimizer), expected, rtol=1e-6)


def test_schedule_sees_the_count_from_zero_and_penalties_from_one():
    seen = []

    def schedule(count):
        seen.append(int(count))
        return 0.5

    optimizer, params = aj.adagrad_da(schedule, 1.0, l1=0.25), jnp.array([0.0])
    state = optimizer.init(params)
    _, state = optimizer.update(jnp.array([0.0]), state, params)
    updates, state = optimizer.update(jnp.array([3.0]), state, params)
    assert seen == [0, 1]
    # z = 3, two steps' l1 = 0.5, a = 10.
    np.testing.assert_allclose(updates, [-0.5 * 2.5 / np.sqrt(10)], rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_in_a_chain_and_with_leaves_of_none():
    params = {"w": jnp.array([1.0, 2.0]), "nothing": None}
    optimizer = optax.chain(aj.clip_by_norm(1.0), aj.proximal_adagrad(0.5, 0.0, l1=0.1))
    gradient = {"w": jnp.array([3.0, 4.0]), "nothing": None}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    # Clipped to [0.6, 0.8], divided by its root: a step of 0.5; then 0.5 / |g| of l1.
    expected = np.array([1, 2]) - 0.5 - 0.5 / np.array([0.6, 0.8]) * 0.1
    after = aj.apply_updates(params, updates)
    assert after["nothing"] is None
    np.testing.assert_allclose(after["w"], expected, rtol=1e-6)


# Errors


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"accumulator": aj.RowWise}, TypeError, "`accumulator` must keep rows apart"),
        ({"accumulator": aj.SM3()}, TypeError, r"keep rows apart.*got SM3\("),
        ({"accumulator": aj.Norm()}, TypeError, r"keep rows apart.*got Norm\("),
        ({"accumulator": aj.FullMatrix()}, TypeError, r"keep rows apart.*FullMatrix"),
        ({"accumulator": None}, TypeError, "keep rows apart.*got None"),
        ({"group_lasso": 0.1}, ValueError, r"needs accumulator=RowWise\(\), got Diag"),
        ({"group_lasso": 0.0}, ValueError, r"needs accumulator=RowWise\(\), got Diag"),
        (
            {"group_lasso": -0.1, "accumulator": aj.RowWise()},
            ValueError,
            "`group_lasso` must be .* >= 0, got -0.1",
        ),
        (
            {"group_lasso": "0.1", "accumulator": aj.RowWise()},
            TypeError,
            "`group_lasso` must be a real number",
        ),
    ],
)
def test_bad_accumulators_and_groups(arguments, error, message):
    with pytest.raises(error, match=message):
        aj.proximal_adagrad(0.1, **arguments)


@pytest.mark.parametrize("factory", [aj.proximal_adagrad, aj.adagrad_da])
@pytest.mark.parametrize(
    "name", ["learning_rate", "initial_accumulator_value", "l1", "l2"]
)
@pytest.mark.parametrize(
    "value, error",
    [(-0.1, ValueError), (np.nan, ValueError), (np.inf, ValueError), ("1", TypeError)],
)
def test_bad_hyperparameters(factory, name, value, error):
    with pytest.raises(error, match=f"`{name}` must be a real number.*got"):
        factory(**{"learning_rate": 0.1} | {name: value})


@pytest.mark.parametrize("factory", [aj.proximal_adagrad, aj.adagrad_da])
def test_bad_trees(factory):
    optimizer, params = factory(0.1), {"w": jnp.ones((2, 3))}
    state = optimizer.init(params)
    with pytest.raises(ValueError, match="`params` must be given, got None"):
        optimizer.update(params, state)
    for gradient in (params["w"], aj.RowSparse([0], jnp.ones((1, 3)), (2, 3))):
        with pytest.raises(ValueError, match=r"\['w'\] of shape \(2, 3\).*\(1, 3\)"):
            optimizer.update({"w": gradient}, state, {"w": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(3, 2\).*accumulator"):
        other = {"w": jnp.ones((3, 2))}
        optimizer.update(other, state, other)
    with pytest.raises(ValueError, match=r"gradient at \['w'\] has no parameter"):
        optimizer.update(params, state, {"v": jnp.ones((2, 3))})
    with pytest.raises(TypeError, match=r"parameter at \['w'\] must be real.*sign"):
        optimizer.init({"w": jnp.ones(2, jnp.complex64)})
    with pytest.raises(TypeError, match=r"gradient at \['w'\] must be real.*sign"):
        optimizer.update({"w": jnp.ones((2, 3), jnp.complex64)}, state, params)
    with pytest.raises(TypeError, match=r"parameter at \['w'\].*int32"):
        optimizer.init({"w": jnp.ones(2, jnp.int32)})


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "make",
    [
        lambda: aj.proximal_adagrad(0.1, l1=0.1, accumulator=aj.RowWise()),
        lambda: aj.adagrad_da(0.1, l1=0.1),
        lambda: aj.ftrl(0.1),
        lambda: aj.adagrad(0.1, accumulator=aj.RowWise()),
        lambda: optax.inject_hyperparams(aj.proximal_adagrad)(0.1, l1=0.1),
    ],
)
def test_steps_of_equal_optimizers_compile_once(make):
    """Also where there is no jit around them, and each is an object of its own."""
    params = jnp.ones((50, 3))
    sizes = []
    for _ in range(4):
        optimizer = make()
        state = optimizer.init(params)
        for _ in range(2):
            gradient = aj.RowSparse([1, 2], jnp.ones((2, 3)), params.shape)
            updates, state = optimizer.update(gradient, state, params)
            params = aj.apply_updates(params, updates)
        sizes.append(_fold_rows.fold._cache_size())
    assert sizes[1:] == sizes[:1] * 3


def test_rows_too_small_to_be_squared_become_zero():
    optimizer = aj.proximal_adagrad(0.1, group_lasso=1.0, accumulator=aj.RowWise())
    params = jnp.full((2, 3), 1e-23)
    gradient = jnp.zeros_like(params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_array_equal(params + updates, 0)


@pytest.mark.parametrize(
    "optimizer",
    [
        aj.adagrad(0.1),
        aj.adagrad(0.1, accumulator=aj.SM3()),
        aj.proximal_adagrad(0.1, l1=0.1),
        aj.lazy_weight_decay(0.1, 0.1),
        aj.frequency_adagrad(0.1),
    ],
)
def test_a_table_without_rows(optimizer):
    table = jnp.ones((0, 3))
    gradient = aj.RowSparse(np.array([0, 1]), jnp.ones((2, 3)), table.shape)
    updates, _ = optimizer.update(gradient, optimizer.init(table), table)
    assert aj.apply_updates(table, updates).shape == (0, 3)
