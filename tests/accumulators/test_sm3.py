"""SM3: a vector for each axis, whose least covers each number's sum of squares."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

SHAPES = [(), (7,), (4, 3), (4, 1), (3, 4, 2), (2, 3, 2, 2)]
STEPS = 5


def some_gradients(shape, dtype=float, seed=0):
    """Of uneven sizes and with zeros, so that rows and columns differ."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(STEPS, *shape)) * 10.0 ** rng.uniform(-2, 2, shape)
    gradients = gradients * (rng.uniform(size=gradients.shape) < 0.7)
    if np.issubdtype(dtype, np.complexfloating):
        gradients = gradients * np.exp(1j * rng.uniform(0, 6, gradients.shape))
    return gradients


def reference(gradients, initial, inside=0.0, outside=0.0):
    """Algorithm SM3-II as it is in the paper: updates, and the vectors at the end.

    The bounds are the new maxima alone, without the old ones.
    """
    shape = gradients.shape[1:]
    axes = range(len(shape))
    others = [tuple(a for a in axes if a != axis) for axis in axes] or [()]
    bounds = [np.full([shape[axis]] if shape else [], initial) for axis in axes or [0]]
    updates = []
    for g in gradients:
        least = functools.reduce(
            np.minimum,
            [np.expand_dims(b, o) for b, o in zip(bounds, others, strict=True)],
        )
        total = least + np.abs(g) ** 2
        root = np.sqrt(total + inside) + outside
        updates.append(np.divide(g, root, out=np.zeros_like(g), where=root != 0))
        bounds = [total.max(axis=o) for o in others]
    return np.stack(updates), bounds


def run(optimizer, gradients):
    """The updates, stacked, and the accumulators at the end."""

    def step(state, gradient):
        update, state = optimizer.update(gradient, state)
        return state, update

    gradients = jnp.asarray(gradients)
    state, updates = jax.lax.scan(step, optimizer.init(gradients[0]), gradients)
    return updates, optax.tree.get(state, "accumulator")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "shape, initial, epsilon, inside, dtype",
    [(shape, 0.0, 0.0, False, float) for shape in SHAPES]
    + [((4, 3), 0.1, 1e-3, False, float), ((4, 3), 0.5, 0.2, True, float)]
    + [((4, 3), 0.1, 1e-3, False, complex)],
)
def test_is_the_papers_algorithm(shape, initial, epsilon, inside, dtype):
    gradients = some_gradients(shape, dtype)
    optimizer = aj.scale_by_adagrad(
        initial, epsilon, accumulator=aj.SM3(), epsilon_in_sqrt=inside
    )
    updates, accumulator = run(optimizer, gradients)
    place = {"inside" if inside else "outside": epsilon}
    expected, bounds = reference(gradients, initial, **place)
    assert updates.dtype == dtype
    np.testing.assert_allclose(updates, expected, rtol=1e-14)
    assert len(accumulator) == len(bounds)
    for vector, bound in zip(accumulator, bounds, strict=True):
        assert vector.shape == bound.shape and vector.dtype == float
        np.testing.assert_allclose(vector, bound, rtol=1e-14)


@pytest.mark.usefixtures("x64", "standard_promotion")
# Theirs takes no number.
@pytest.mark.parametrize("shape", [(7,), (4, 3), (3, 4, 2)], ids=str)
def test_is_optax_sm3_without_momentum(shape):
    gradients = some_gradients(shape, seed=1)
    ours = aj.adagrad(0.3, 0.0, 1e-8, accumulator=aj.SM3(), epsilon_in_sqrt=True)
    updates, accumulator = run(ours, gradients)
    theirs = optax.sm3(0.3, momentum=0.0)
    state = theirs.init(jnp.asarray(gradients[0]))
    their_update = jax.jit(theirs.update)
    for gradient, update in zip(gradients, updates, strict=True):
        expected, state = their_update(jnp.asarray(gradient), state)
        np.testing.assert_allclose(update, expected, rtol=1e-14)
    for vector, theirs_of_axis in zip(accumulator, state[0].mu, strict=True):
        np.testing.assert_allclose(vector, theirs_of_axis, rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (6,)])
@pytest.mark.parametrize("kept", [None, "parameter"])
def test_on_one_axis_it_is_diagonal(shape, kept):
    gradients = some_gradients(shape).astype(np.float32)
    results = [
        run(aj.adagrad(0.1, 0.3, accumulator=kind(dtype=kept)), gradients)
        for kind in (aj.SM3, aj.Diagonal)
    ]
    (updates, (vector,)), (expected, sums) = results
    np.testing.assert_array_equal(vector, sums)
    np.testing.assert_array_equal(updates, expected)


# Of any sizes whose squares are neither 0 nor infinite, also in float16's range.
numbers = st.just(0.0) | st.floats(2.0**-7, 100.0, width=16)
numbers = numbers | numbers.map(lambda x: -x)


@st.composite
def many_gradients(draw):
    shape = draw(st.sampled_from([(3, 2), (2, 3, 2)]))
    size = math.prod(shape)
    values = draw(st.lists(st.lists(numbers, min_size=size, max_size=size), max_size=6))
    return shape, [jnp.asarray(v, jnp.float32).reshape(shape) for v in values]


@functools.partial(jax.jit, static_argnums=0)
def total_of(accumulator, gradient, kept):
    """What divides, and what is kept."""
    return accumulator.update(gradient, kept, lambda _, total: total)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    many_gradients(),
    st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
    st.sampled_from([0.0, 0.1, 8.0]),
)
def test_bounds_cover_every_sum_of_squares(shape_and_gradients, dtype, initial):
    """Exactly so, however the sums are rounded: rounding keeps the order."""
    shape, gradients = shape_and_gradients
    cover, diagonal = aj.SM3(dtype=dtype), aj.Diagonal(dtype=dtype)
    param = jnp.zeros(shape)
    bounds, sums = cover.init(param, initial), diagonal.init(param, initial)
    for gradient in gradients:
        old = bounds
        total, bounds = total_of(cover, gradient, old)
        _, sums = total_of(diagonal, gradient, sums)
        # What divides is at least the sum, which it was before it was rounded too.
        kept = np.asarray(sums, float)
        assert (np.asarray(total).astype(dtype).astype(float) >= kept).all()
        for axis, (before, after) in enumerate(zip(old, bounds, strict=True)):
            assert after.dtype == dtype
            before, after = np.asarray(before, float), np.asarray(after, float)
            others = tuple(a for a in range(len(shape)) if a != axis)
            assert (after >= before).all()
            assert (np.expand_dims(after, others) >= kept).all()


def test_memory_is_the_sum_of_the_axes():
    params = {"w": jnp.ones((30, 20)), "b": jnp.ones(20), "k": jnp.ones((3, 4, 5))}
    state = aj.scale_by_adagrad(accumulator=aj.SM3()).init(params)
    shapes = jax.tree.map(jnp.shape, state.accumulator)
    assert shapes == {
        "w": ((30,), (20,)),
        "b": ((20,),),
        "k": ((3,), (4,), (5,)),
    }


@pytest.mark.parametrize(
    "param, kept, expected",
    [
        ("bfloat16", None, "float32"),
        ("bfloat16", "parameter", "bfloat16"),
        ("float32", jnp.bfloat16, "bfloat16"),
        ("complex64", "parameter", "float32"),
    ],
)
def test_dtypes(param, kept, expected):
    gradient = jnp.ones((2, 3), param)
    optimizer = aj.scale_by_adagrad(0.0, 0.0, accumulator=aj.SM3(dtype=kept))
    state = optimizer.init(gradient)
    update, state = optimizer.update(gradient, state)
    assert update.dtype == param
    assert [v.dtype for v in state.accumulator] == [expected] * 2
    np.testing.assert_array_equal(update.astype(complex), np.ones((2, 3)))


@pytest.mark.parametrize("dtype", [int, jnp.complex64, bool])
def test_dtype_must_be_real_floating(dtype):
    with pytest.raises(TypeError, match="must be a real floating-point dtype"):
        aj.SM3(dtype=dtype)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)], ids=str)
def test_axes_without_numbers(shape):
    gradient = {"w": jnp.ones(shape)}
    optimizer = aj.scale_by_adagrad(0.25, accumulator=aj.SM3())
    state = optimizer.init(gradient)
    update, new = jax.jit(optimizer.update)(gradient, state)
    assert update["w"].shape == shape
    for axis, vector in enumerate(new.accumulator["w"]):
        np.testing.assert_array_equal(vector, np.full(shape[axis], 0.25))


def test_a_gradient_of_another_shape_is_refused():
    optimizer = aj.scale_by_adagrad(accumulator=aj.SM3())
    state = optimizer.init({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"gradient at \['w'\] of shape \(3, 2\)"):
        optimizer.update({"w": jnp.ones((3, 2))}, state)


# Rows


NUM_ROWS = 6
# Repeated, unsorted, out of range at both ends, none in range, the last row, each once.
IDS = [[3, 1, 3, 3, 9], [-1, 0, 6, 5, 0], [7, 7, -2, 6, 6], [5] * 5, [4, 2, 0, 1, 3]]


def dyadic(rng, shape, dtype):
    """Multiples of 1/4 whose sums, squares and sums of squares have no rounding.

    So the order of a sum makes no difference, nor whether a product is fused with it.
    """
    return jnp.asarray(rng.integers(-6, 7, shape) / 4, dtype)


def step(optimizer, dense, table, state, ids, values):
    gradient = aj.RowSparse(ids, values, table.shape)
    update, state = optimizer.update(
        gradient.to_dense() if dense else gradient, state, table
    )
    if isinstance(update, aj.RowSparse):
        update = update.to_dense()
    return update, state


@pytest.mark.parametrize(
    "wrap, inside, dtype, kept, num_ids",
    [(jax.jit, inside, "float32", None, 5) for inside in [(3,), (2, 3), (0,)]]
    + [(jax.jit, inside, "bfloat16", "parameter", 5) for inside in [(), (3,)]]
    + [(jax.jit, (3,), "float32", None, 0)]
    + [(lambda f: f, (), "float32", None, 5)],
)
def test_rows_equal_dense_bit_for_bit(wrap, inside, dtype, kept, num_ids):
    shape = (NUM_ROWS, *inside)
    rng = np.random.default_rng(2)
    optimizer = aj.scale_by_adagrad(0.5, 1e-3, accumulator=aj.SM3(dtype=kept))
    table = jnp.ones(shape, dtype)
    sparse = wrap(functools.partial(step, optimizer, False))
    dense = wrap(functools.partial(step, optimizer, True))
    state = expected_state = optimizer.init(table)
    for ids in IDS:
        ids = jnp.asarray(ids[:num_ids], jnp.int32)
        values = dyadic(rng, (num_ids, *inside), dtype)
        update, state = sparse(table, state, ids, values)
        expected, expected_state = dense(table, expected_state, ids, values)
        assert update.dtype == expected.dtype == dtype
        assert np.asarray(update).tobytes() == np.asarray(expected).tobytes()
        for vector, theirs in zip(
            state.accumulator, expected_state.accumulator, strict=True
        ):
            assert vector.dtype == theirs.dtype
            assert np.asarray(vector).tobytes() == np.asarray(theirs).tobytes()
    if num_ids and math.prod(inside):  # some of it did happen
        assert all((vector > 0.5).all() for vector in state.accumulator)


@functools.cache
def optimizers_of_rows():
    optimizer = aj.scale_by_adagrad(0.0, 0.0, accumulator=aj.SM3())
    both = (functools.partial(step, optimizer, dense) for dense in (False, True))
    return optimizer, *map(jax.jit, both)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    ids=st.lists(st.integers(-2, NUM_ROWS + 1), min_size=8, max_size=8),
    values=st.lists(numbers, min_size=16, max_size=16),
)
@hypothesis.example(ids=[5] * 8, values=[1.0, -1.0] * 8)
@hypothesis.example(ids=[NUM_ROWS] * 8, values=[1.0] * 16)
def test_rows_equal_dense_for_any_ids_and_values(ids, values):
    optimizer, sparse, dense = optimizers_of_rows()
    table = jnp.zeros((NUM_ROWS, 2))
    ids = jnp.asarray(ids, jnp.int32).reshape(2, 4)
    values = jnp.asarray(values, jnp.float32).reshape(2, 4, 2)
    state = expected_state = optimizer.init(table)
    for batch in zip(ids, values, strict=True):
        update, state = sparse(table, state, *batch)
        expected, expected_state = dense(table, expected_state, *batch)
        # A product may be fused with the sum in one and not in the other.
        np.testing.assert_allclose(update, expected, rtol=4e-7)
        for pair in zip(state.accumulator, expected_state.accumulator, strict=True):
            np.testing.assert_allclose(*pair, rtol=4e-7)
    unnamed = np.setdiff1d(np.arange(NUM_ROWS), ids)
    assert (np.asarray(state.accumulator[0])[unnamed] == 0).all()


def test_a_nan_in_the_last_row_does_not_reach_batches_without_it():
    """Ids out of range must not read it."""
    params = jnp.ones((4, 2))
    scale = aj.scale_by_adagrad(accumulator=aj.SM3())
    rows, columns = scale.init(params).accumulator
    state = aj.ScaleByAdagradState((rows.at[3].set(jnp.nan), columns))
    gradient = aj.RowSparse([0, 9], jnp.ones((2, 2)), params.shape)
    updates, state = scale.update(gradient, state)
    assert jnp.isfinite(updates.to_dense()).all()
    assert jnp.isfinite(state.accumulator[1]).all()
