"""AdaGrad-Norm: one number a parameter, and so one learning rate."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

STEPS = 4
SHAPES = {"w": (3, 4), "k": (2, 3, 2), "b": (5,), "s": (), "none": (0, 3)}


def some_gradients(dtype=float, seed=0):
    """A tree of (STEPS, *shape), the leaves of different sizes."""
    rng = np.random.default_rng(seed)
    gradients = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        g = 10.0 ** (i - 2) * rng.normal(size=(STEPS, *shape))
        if np.issubdtype(dtype, np.complexfloating):
            g = g * np.exp(1j * rng.uniform(0, 6, g.shape))
        gradients[name] = g
    return gradients


def run(optimizer, gradients):
    """The updates, stacked, and the accumulators at the end."""

    def step(state, gradient):
        update, state = optimizer.update(gradient, state)
        return state, update

    @jax.jit
    def steps(gradients):
        start = optimizer.init(jax.tree.map(lambda g: g[0], gradients))
        return jax.lax.scan(step, start, gradients)

    state, updates = steps(jax.tree.map(jnp.asarray, gradients))
    return updates, optax.tree.get(state, "accumulator")


def reference(gradients, initial, inside=0.0, outside=0.0):
    """Of one leaf, in float64: updates, and the sum at the end."""
    gradients = np.asarray(gradients).astype(complex)
    axes = tuple(range(1, gradients.ndim))
    sums = initial + np.cumsum((np.abs(gradients) ** 2).sum(axis=axes))
    roots = np.sqrt(sums + inside) + outside
    return gradients / roots.reshape(-1, *[1] * len(axes)), sums[-1]


def norm(initial=0.0, epsilon=0.0, **arguments):
    return aj.scale_by_adagrad(initial, epsilon, accumulator=aj.Norm(**arguments))


# Against NumPy


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "initial, epsilon, in_sqrt",
    [(0.0, 0.0, False), (0.1, 0.5, False), (2.0, 0.5, True)],
)
@pytest.mark.parametrize("dtype", [float, complex])
def test_each_leaf_has_a_norm_of_its_own(initial, epsilon, in_sqrt, dtype):
    gradients = some_gradients(dtype)
    optimizer = aj.scale_by_adagrad(
        initial, epsilon, accumulator=aj.Norm(), epsilon_in_sqrt=in_sqrt
    )
    updates, accumulator = run(optimizer, gradients)
    place = {"inside" if in_sqrt else "outside": epsilon}
    for name in set(SHAPES) - {"none"}:
        expected, total = reference(gradients[name], initial, **place)
        assert updates[name].dtype == dtype
        np.testing.assert_allclose(updates[name], expected, rtol=1e-14)
        assert accumulator[name].shape == () and accumulator[name].dtype == float
        np.testing.assert_allclose(accumulator[name], total, rtol=1e-14)
    assert updates["none"].shape == (STEPS, 0, 3)
    assert float(accumulator["none"]) == initial


@pytest.mark.parametrize(
    "dtype, kept, expected, digits",
    [
        ("bfloat16", None, "float32", 2.0**-8),
        ("float16", None, "float32", 2.0**-11),
        ("complex64", None, "float32", 2.0**-22),
        ("bfloat16", "parameter", "bfloat16", 2.0**-6),  # the sum has 8 bits itself
        ("float32", jnp.float16, "float16", 2.0**-9),
    ],
)
def test_other_precisions(dtype, kept, expected, digits):
    wide = complex if "complex" in dtype else float
    w = jnp.asarray(some_gradients(wide)["k"], dtype)
    updates, total = run(norm(0.1, dtype=kept), w)
    assert updates.dtype == dtype and total.dtype == expected and total.shape == ()
    theirs, their_total = reference(w, 0.1)
    np.testing.assert_allclose(np.asarray(updates).astype(complex), theirs, rtol=digits)
    np.testing.assert_allclose(float(total), their_total, rtol=2 * digits)


def test_squares_are_summed_in_float32():
    """In float16 they would be infinite together, in bfloat16 soon add nothing."""
    for dtype in (jnp.float16, jnp.bfloat16):
        gradient = jnp.full((1, 100, 100), 4.0, dtype)
        updates, total = run(norm(), gradient)
        assert float(total) == 160_000
        np.testing.assert_array_equal(
            np.asarray(updates).astype(float),
            np.full((1, 100, 100), float(jnp.asarray(0.01, dtype))),
        )


@pytest.mark.usefixtures("x64")
def test_is_gradient_descent_with_a_rate_that_falls():
    """By an update's direction none could tell them apart."""
    gradients = some_gradients()["w"]
    updates, _ = run(aj.adagrad(0.5, 0.2, 0.0, accumulator=aj.Norm()), gradients)
    squared_norms = 0.2 + np.cumsum(np.square(gradients).sum(axis=(1, 2)))
    sgd = optax.sgd(lambda count: 0.5 / jnp.sqrt(jnp.asarray(squared_norms)[count]))
    state = sgd.init(jnp.asarray(gradients[0]))
    for gradient, update in zip(gradients, updates, strict=True):
        expected, state = sgd.update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(update, expected, rtol=1e-14)


def test_of_one_number_it_is_diagonal():
    gradients = {"s": some_gradients()["s"].astype(np.float32)}
    gradients["v"] = gradients["s"][:, None]
    expected = run(aj.scale_by_adagrad(0.1), gradients)
    actual = run(aj.scale_by_adagrad(0.1, accumulator=aj.Norm()), gradients)
    np.testing.assert_allclose(actual[0]["s"], expected[0]["s"], rtol=2e-7)
    np.testing.assert_allclose(actual[0]["v"], expected[0]["v"], rtol=2e-7)
    np.testing.assert_allclose(actual[1]["s"], expected[1]["s"], rtol=2e-7)


def test_without_gradient_there_is_no_step():
    gradients = np.zeros((3, 2, 2), np.float32)
    gradients[1, 0, 1] = -2.0
    updates, total = run(norm(), gradients)
    np.testing.assert_array_equal(updates, np.sign(gradients))
    assert float(total) == 4.0


# Scale invariance


numbers = st.just(0.0) | st.floats(2.0**-7, 100.0, width=32)
numbers = numbers | numbers.map(lambda x: -x)
some_steps = st.lists(numbers, min_size=12, max_size=12).map(
    lambda values: np.array(values, np.float32).reshape(3, 2, 2)
)


@functools.cache
def jitted_steps():
    optimizer = norm()
    return jax.jit(lambda gradients: run(optimizer, gradients)[0])


@hypothesis.settings(max_examples=40)
@hypothesis.given(some_steps, st.integers(-30, 30), st.floats(1e-9, 1e9))
def test_the_scale_of_gradients_makes_no_difference(gradients, exponent, factor):
    """With nothing to begin with; for a power of 2 in no bit."""
    updates = np.asarray(jitted_steps()(gradients))
    scaled = jitted_steps()(gradients * np.float32(2.0**exponent))
    assert np.asarray(scaled).tobytes() == updates.tobytes()
    scaled = jitted_steps()(gradients * np.float32(factor))
    np.testing.assert_allclose(scaled, updates, rtol=1e-6)
    # No step is longer than 1, and the first that there is has just this length.
    lengths = np.linalg.norm(updates.astype(float), axis=(1, 2))
    assert (lengths <= 1 + 1e-6).all()
    if lengths.any():
        assert abs(lengths[lengths > 0][0] - 1) <= 1e-6


# Rows


NUM_ROWS = 6
# Repeated, unsorted, out of range at both ends, none in range, the last row, each once.
IDS = [[3, 1, 3, 3, 9], [-1, 0, 6, 5, 0], [7, 7, -2, 6, 6], [5] * 5, [4, 2, 0, 1, 3]]


def step(optimizer, dense, state, ids, values):
    gradient = aj.RowSparse(ids, values, (NUM_ROWS, *values.shape[1:]))
    if dense:
        return optimizer.update(gradient.to_dense(), state)
    update, state = optimizer.update(gradient, state)
    return update.to_dense(), state


def run_rows(wrap, dense, table, batches):
    optimizer = norm(0.1, 1e-3)
    take = wrap(functools.partial(step, optimizer, dense))
    state, updates = optimizer.init(table), []
    for batch in batches:
        update, state = take(state, *batch)
        assert update.dtype == table.dtype
        updates.append(np.asarray(update).astype(complex))
    return updates, np.asarray(state.accumulator)


@pytest.mark.parametrize(
    "wrap, inside, dtype, num_ids",
    [
        (jax.jit, (), "float32", 5),
        (jax.jit, (3,), "float32", 5),
        (jax.jit, (2, 3), "bfloat16", 5),
        (jax.jit, (3,), "complex64", 5),
        (jax.jit, (3,), "float32", 0),
        (jax.jit, (0,), "float32", 5),
        (lambda f: f, (3,), "float32", 5),
    ],
)
def test_rows_equal_dense(wrap, inside, dtype, num_ids):
    """Repeated rows are summed before they are squared; rows out of range, not at all.

    The squares are summed in another order, hence a few roundings.
    """
    rng = np.random.default_rng(1)
    batches = [
        (
            jnp.asarray(ids[:num_ids], jnp.int32),
            jnp.asarray(rng.normal(size=(num_ids, *inside)), dtype),
        )
        for ids in IDS
    ]
    table = jnp.zeros((NUM_ROWS, *inside), dtype)
    updates, total = run_rows(wrap, False, table, batches)
    expected, expected_total = run_rows(wrap, True, table, batches)
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    # Of bfloat16 updates, rounded from those, some may be a unit apart.
    tolerance = 2.0**-8 if dtype == "bfloat16" else 1e-6
    np.testing.assert_allclose(updates, expected, rtol=tolerance)


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    ids=st.lists(st.integers(-2, NUM_ROWS + 1), min_size=4, max_size=4),
    values=st.lists(numbers, min_size=8, max_size=8),
)
@hypothesis.example(ids=[5] * 4, values=[1.0, -1.0] * 4)
@hypothesis.example(ids=[NUM_ROWS, -1, 5, 5], values=[1.0] * 8)
def test_the_norm_is_that_of_the_rows_sums(ids, values):
    values = np.array(values, np.float32).reshape(4, 2)
    total = total_of_rows()(jnp.asarray(ids, jnp.int32), jnp.asarray(values))
    dense = np.zeros((NUM_ROWS, 2))
    for row, value in zip(ids, values, strict=True):
        if 0 <= row < NUM_ROWS:
            dense[row] += value
    # What cancels in a sum in float32 may leave a rounding of what was summed.
    np.testing.assert_allclose(total, np.square(dense).sum(), rtol=1e-5, atol=1e-9)


@functools.cache
def total_of_rows():
    optimizer = norm()
    state = optimizer.init(jnp.zeros((NUM_ROWS, 2)))
    return jax.jit(
        lambda ids, values: step(optimizer, False, state, ids, values)[1].accumulator
    )


# What is refused


@pytest.mark.parametrize("dtype", [int, jnp.complex64, bool])
def test_dtype_must_be_real_floating(dtype):
    with pytest.raises(TypeError, match="must be a real floating-point dtype"):
        aj.Norm(dtype=dtype)
