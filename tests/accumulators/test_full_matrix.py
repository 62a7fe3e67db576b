"""The full-matrix form against NumPy, and where matrices are singular or too large."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

STEPS = 6
EPS = float(np.finfo(np.float32).eps)


def reference_block(gradients, initial, inside=0.0, outside=0.0):
    """(steps, n) gradients: the updates, and the matrix at the end.

    Directions in which there is no gradient yet are left out, by a pseudo-inverse.
    """
    n = gradients.shape[1]
    matrix = initial * np.eye(n)
    updates = []
    for g in gradients:
        matrix = matrix + np.outer(g, g)
        values, vectors = np.linalg.eigh(matrix)
        used = values > 1e-12 * values[-1]
        root = np.sqrt(np.where(used, values, 1.0) + inside) + outside
        updates.append(vectors @ np.where(used, vectors.T @ g / root, 0.0))
    return np.stack(updates), matrix


def reference(gradients, initial, block_size=None, **epsilon):
    """The same for (steps, *shape), cut into blocks."""
    flat = gradients.reshape(len(gradients), -1)
    n = flat.shape[1]
    size = block_size or n
    blocks = [
        reference_block(flat[:, start : start + size], initial, **epsilon)
        for start in range(0, n, size)
    ]
    updates = np.concatenate([updates for updates, _ in blocks], axis=1)
    return updates.reshape(gradients.shape), [matrix for _, matrix in blocks]


def some_gradients(shape, steps=STEPS, seed=0):
    return np.random.default_rng(seed).normal(size=(steps, *shape))


def run(optimizer, gradients):
    """The updates, stacked, and the accumulator at the end."""

    def step(state, gradient):
        update, state = optimizer.update(gradient, state)
        return state, update

    gradients = jnp.asarray(gradients)
    state, updates = jax.lax.scan(step, optimizer.init(gradients[0]), gradients)
    return updates, optax.tree.get(state, "accumulator")


def full(initial=0.0, epsilon=0.0, **arguments):
    return aj.scale_by_adagrad(initial, epsilon, accumulator=aj.FullMatrix(**arguments))


# Against NumPy


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "shape, block_size",
    [((), None), ((5,), None), ((2, 3), None), ((2, 2, 2), 4), ((7,), 3), ((), 3)],
)
def test_equals_numpy(shape, block_size):
    gradients = some_gradients(shape)
    updates, accumulator = run(full(0.1, block_size=block_size), gradients)
    expected, matrices = reference(gradients, 0.1, block_size)
    assert updates.shape == gradients.shape and updates.dtype == float
    np.testing.assert_allclose(updates, expected, rtol=1e-11, atol=1e-12)
    assert len(accumulator) == len(matrices)
    for kept, matrix in zip(accumulator, matrices, strict=True):
        n = len(matrix)  # the last block may be filled up, with what stays apart
        np.testing.assert_allclose(kept[:n, :n], matrix, rtol=1e-13, atol=1e-14)
        np.testing.assert_array_equal(kept[n:, n:], 0.1 * np.eye(len(kept) - n))
        assert not kept[:n, n:].any() and not kept[n:, :n].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("in_sqrt, place", [(True, "inside"), (False, "outside")])
def test_epsilon_is_where_it_should_be(in_sqrt, place):
    gradients = some_gradients((4,))
    optimizer = aj.scale_by_adagrad(
        0.2, 0.5, accumulator=aj.FullMatrix(), epsilon_in_sqrt=in_sqrt
    )
    expected, _ = reference(gradients, 0.2, **{place: 0.5})
    np.testing.assert_allclose(run(optimizer, gradients)[0], expected, rtol=1e-11)


def test_blocks_of_one_number_are_diagonal():
    gradients = some_gradients((2, 3)).astype(np.float32)
    updates, accumulator = run(full(0.1, block_size=1), gradients)
    expected, sums = run(aj.scale_by_adagrad(0.1, 0.0), gradients)
    np.testing.assert_allclose(accumulator.reshape(2, 3), sums, rtol=2 * EPS)
    np.testing.assert_allclose(updates, expected, rtol=4 * EPS)


def test_a_block_for_all_is_the_whole():
    gradients = some_gradients((2, 3)).astype(np.float32)
    expected = run(full(0.1), gradients)
    actual = run(full(0.1, block_size=6), gradients)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


def test_each_leaf_has_its_own_matrix():
    gradients = {"a": jnp.array([3.0, 4.0]), "b": [jnp.ones((2, 2)), jnp.array(-2.0)]}
    optimizer = full()
    updates, state = jax.jit(optimizer.update)(gradients, optimizer.init(gradients))
    shapes = jax.tree.map(jnp.shape, state.accumulator)
    assert shapes == {"a": (1, 2, 2), "b": [(1, 4, 4), (1, 1, 1)]}
    # The first step goes along the gradient, and is of length 1. The matrix has rank 1:
    # for other directions' share of it see below.
    for update, gradient in zip(
        *map(jax.tree.leaves, (updates, gradients)), strict=True
    ):
        direction = gradient / jnp.linalg.norm(gradient.ravel())
        np.testing.assert_allclose(update, direction, atol=2 * np.sqrt(EPS))


# What the matrix form alone has


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_rotated_gradients_give_rotated_updates(initial):
    gradients = some_gradients((5,), steps=12)
    rotation, _ = np.linalg.qr(some_gradients((5,), steps=5, seed=1))
    straight, kept = run(full(initial), gradients)
    turned, kept_turned = run(full(initial), gradients @ rotation.T)
    # Until there are 5 gradients from 0, the matrix is singular: see below.
    atol = 1e-12 if initial else 2 * np.sqrt(np.finfo(float).eps)
    np.testing.assert_allclose(turned, straight @ rotation.T, atol=atol)
    np.testing.assert_allclose(
        kept_turned[0], rotation @ kept[0] @ rotation.T, atol=1e-12
    )
    other, _ = run(aj.scale_by_adagrad(initial, 0.0), gradients)
    other_turned, _ = run(aj.scale_by_adagrad(initial, 0.0), gradients @ rotation.T)
    assert np.abs(other_turned - other @ rotation.T).max() > 0.1


@pytest.mark.usefixtures("x64")
def test_what_is_correlated_is_told_apart():
    """Along (1, 1) it has seen much, across it little; no coordinate shows that."""
    much, little = np.array([100.0, 100.0]), np.array([1.0, -1.0])
    updates, _ = run(full(), np.stack([much, little]))
    np.testing.assert_allclose(updates[1], little / np.sqrt(2), rtol=1e-6)
    updates, _ = run(aj.scale_by_adagrad(0.0, 0.0), np.stack([much, little]))
    assert np.abs(updates[1]).max() < 0.011


# Singular matrices


def test_fewer_steps_than_numbers():
    """From 0 the matrix is singular, and directions without gradient are left out.

    An eigendecomposition in float32 finds ``eps * |g|`` of the gradient in them, and
    the root of what is there, at least ``sqrt(n * eps) * |g|``, divides it: what
    is left is some ``sqrt(eps)``. All else is as precise as arithmetic is.
    """
    gradients = some_gradients((20,), steps=8)
    updates, accumulator = run(full(), gradients.astype(np.float32))
    expected, matrices = reference(gradients, 0.0)
    assert np.linalg.matrix_rank(accumulator[0], tol=1e-3) == 8
    np.testing.assert_allclose(updates, expected, atol=np.sqrt(EPS))
    np.testing.assert_allclose(accumulator[0], matrices[0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("x64")
def test_fewer_steps_than_numbers_in_float64():
    gradients = some_gradients((20,), steps=8)
    expected, _ = reference(gradients, 0.0)
    atol = np.sqrt(np.finfo(float).eps)
    np.testing.assert_allclose(run(full(), gradients)[0], expected, atol=atol)


@pytest.mark.parametrize("epsilon, block_size", [(0.0, None), (1e-7, 2)])
def test_without_gradient_there_is_no_step(block_size, epsilon):
    gradients = np.zeros((3, 5), np.float32)
    gradients[1, 3] = 2.0
    updates, _ = run(full(0.0, epsilon, block_size=block_size), gradients)
    np.testing.assert_array_equal(updates[0], np.zeros(5))
    np.testing.assert_array_equal(updates[2], np.zeros(5))
    np.testing.assert_allclose(updates[1], gradients[1] / 2, atol=1e-6)


@pytest.mark.parametrize("initial", [0.0, 1e-3])
def test_no_step_is_longer_than_1(initial):
    """For ``G_t - g g'`` is no less than 0, and so ``g' G_t^-1 g`` no more than 1."""
    scales = np.array([1e-20, 1e-18, 1e-10, 1.0, 1e10, 1e15])
    gradients = scales[:, None, None] * some_gradients((6,), steps=10)
    gradients[:, 4] *= 1e-3
    optimizer = full(initial)
    updates, _ = jax.vmap(lambda g: run(optimizer, g))(jnp.float32(gradients))
    updates = np.asarray(updates, float)
    lengths = np.linalg.norm(updates, axis=2)
    # Squares in the range of subnormal numbers, below 1e-38, have few digits or none.
    tolerance = np.where(scales < 1e-15, 0.05, np.sqrt(EPS))
    assert (lengths <= 1 + tolerance[:, None]).all()
    norms = np.linalg.norm(gradients[:, 0], axis=1)
    first = norms / np.sqrt(norms**2 + initial)
    assert (np.abs(lengths[:, 0] - first) <= tolerance)[1:].all()
    # All go downhill; where squares are 0, nowhere.
    assert (np.sum(updates * gradients, axis=2)[1:] > 0).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype, told_apart", [("float32", False), ("float64", True)])
def test_a_huge_direction_beside_a_tiny_one(dtype, told_apart):
    """What is below the rounding of the largest eigenvalue is taken for that much."""
    huge, tiny = np.array([1e6, 0.0]), np.array([0.0, 1.0])
    gradients = jnp.asarray([huge, tiny], dtype)
    updates, _ = run(full(), gradients)
    assert updates.dtype == dtype
    least = 2 * float(jnp.finfo(dtype).eps) * 1e12  # of 2 numbers; 1 is above it or not
    assert told_apart == (least < 1)
    np.testing.assert_allclose(updates[0], [1, 0], atol=1e-12)
    expected = 1.0 if told_apart else 1 / np.sqrt(least)
    np.testing.assert_allclose(updates[1], [0, expected], rtol=1e-5, atol=1e-12)


# As other code calls it


def test_jit_equals_eager():
    gradient = jnp.asarray(some_gradients((2, 3))[0], jnp.float32)
    optimizer = full(0.1, 1e-3, block_size=4)
    state = optimizer.init(gradient)
    expected = optimizer.update(gradient, state)
    actual = jax.jit(optimizer.update)(gradient, state)
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        # Eigenvectors may be turned in their space; what they are used for may not.
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5)


def test_vmap_equals_one_at_a_time():
    gradients = jnp.asarray(some_gradients((4, 3), steps=5), jnp.float32)
    optimizer = full(0.1)

    def two_steps(gradient):
        state = optimizer.init(gradient)
        _, state = optimizer.update(gradient, state)
        return optimizer.update(gradient[::-1], state)[0]

    expected = [jax.jit(two_steps)(g) for g in gradients]
    # Eigenvalues are as exact as the largest, some 50; 0.1 is the least, whose root
    # divides: hence the root of 500 times a rounding or two.
    actual = jax.jit(jax.vmap(two_steps))(gradients)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "dtype, kept, expected",
    [
        ("bfloat16", None, "float32"),
        ("bfloat16", "parameter", "bfloat16"),
        ("float32", jnp.bfloat16, "bfloat16"),
    ],
)
def test_dtypes_stay(dtype, kept, expected):
    gradients = jnp.asarray(some_gradients((4,)), dtype)
    updates, accumulator = run(full(0.1, dtype=kept), gradients)
    assert updates.dtype == dtype and accumulator.dtype == expected
    reference_updates, _ = reference(np.asarray(gradients, float), 0.1)
    # A unit of a 16-bit number at 1; what is kept in 16 bits is as inexact, and its
    # small eigenvalues, at 0.1 of 10, more so.
    tolerance = 0.01 if expected == "float32" else 0.15
    np.testing.assert_allclose(
        np.asarray(updates, float), reference_updates, atol=tolerance
    )


@pytest.mark.parametrize("shape, block_size", [((0,), None), ((3, 0), 2)])
def test_leaves_without_numbers(shape, block_size):
    gradient = jnp.ones(shape)
    optimizer = full(0.1, block_size=block_size)
    update, state = optimizer.update(gradient, optimizer.init(gradient))
    assert update.shape == shape and state.accumulator.size == 0


# What is refused


@pytest.mark.parametrize(
    "make", [jnp.zeros, functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)]
)
def test_too_large_a_leaf_is_refused(make):
    params = {"layer": {"w": make((33, 32)), "b": make((32,))}}
    with pytest.raises(
        ValueError,
        match=r"parameter at \['layer'\]\['w'\]: .*max_size=1024 numbers, got 1056, "
        r"whose matrix has 1,115,136; give it a block_size, raise max_size, or .*"
        r"optax\.partition",
    ):
        full().init(params)


def test_size_limits_are_as_given():
    assert jax.eval_shape(full().init, jnp.zeros(1024)).accumulator.size == 1024**2
    for arguments in ({"block_size": 32}, {"max_size": 1056}):
        state = jax.eval_shape(full(**arguments).init, jnp.zeros((33, 32)))
        size = arguments.get("block_size", 1056)
        assert state.accumulator.shape == (1056 // size, size, size)
    with pytest.raises(ValueError, match="max_size=4 numbers, got 5"):
        full(max_size=4).init(jnp.zeros(5))


def test_complex_parameters_are_refused():
    params = {"w": jnp.ones(2), "c": jnp.ones(2, jnp.complex64)}
    with pytest.raises(
        TypeError,
        match=r"parameter at \['c'\]: .*real.*optax\.contrib\.split_real_and_imaginary",
    ):
        full().init(params)


@pytest.mark.usefixtures("standard_promotion")
def test_complex_parameters_can_be_split():
    """The remedy that the error names."""
    optimizer = optax.contrib.split_real_and_imaginary(full())
    gradient = jnp.array([3.0 + 0j, 4j])
    update, _ = jax.jit(optimizer.update)(gradient, optimizer.init(gradient))
    np.testing.assert_allclose(update, [1.0, 1j], atol=2 * np.sqrt(EPS))


def test_row_sparse_gradients_are_refused():
    optimizer = full()
    state = optimizer.init({"table": jnp.ones((4, 2))})
    gradient = {"table": aj.RowSparse([1], jnp.ones((1, 2)), (4, 2))}
    with pytest.raises(
        TypeError, match=r"gradient at \['table'\] is a RowSparse.*to_dense\(\)"
    ):
        optimizer.update(gradient, state)


@pytest.mark.parametrize("shape", [(3, 3), (40, 40)])
def test_a_gradient_of_another_size_is_refused(shape):
    optimizer = full()
    state = optimizer.init({"w": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"gradient at \['w'\] of shape \(\d+,.*fit"):
        optimizer.update({"w": jnp.ones(shape)}, state)


@pytest.mark.parametrize("name", ["block_size", "max_size"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4"])
def test_sizes_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a positive integer"):
        aj.FullMatrix(**{name: value})


@pytest.mark.parametrize("dtype", [int, jnp.complex64, bool])
def test_dtype_must_be_real_floating(dtype):
    with pytest.raises(TypeError, match="must be a real floating-point dtype"):
        aj.FullMatrix(dtype=dtype)
