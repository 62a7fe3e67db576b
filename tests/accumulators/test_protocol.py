"""What is remembered: precision, and that others can be written from outside."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "param, default, same",
    [
        ("float16", "float32", "float16"),
        ("bfloat16", "float32", "bfloat16"),
        ("float32", "float32", "float32"),
        ("float64", "float64", "float64"),
        ("complex64", "float32", "float32"),
        ("complex128", "float64", "float64"),
    ],
)
def test_dtype(param, default, same):
    param = jnp.ones(2, param)
    assert aj.Diagonal().init(param, 0.1).dtype == default
    assert aj.Diagonal(dtype="parameter").init(param, 0.1).dtype == same
    assert aj.Diagonal(dtype=jnp.float32).init(param, 0.1).dtype == jnp.float32


@pytest.mark.parametrize("dtype", [int, jnp.complex64, bool])
def test_dtype_must_be_real_floating(dtype):
    with pytest.raises(TypeError, match="must be a real floating-point dtype"):
        aj.Diagonal(dtype=dtype)


def test_a_float16_accumulator_overflows_at_256_and_a_float32_one_does_not():
    gradient = jnp.array([255.0, 256.0], jnp.float16)
    for dtype, sums, steps in [
        ("parameter", [65024.0, np.inf], [1.0, 0.0]),  # overflowed, it never moves
        (None, [65025.0, 65536.0], [1.0, 1.0]),
    ]:
        scale = aj.scale_by_adagrad(0.0, accumulator=aj.Diagonal(dtype=dtype))
        for update in (scale.update, jax.jit(scale.update)):
            updates, state = update(gradient, scale.init(gradient))
            np.testing.assert_array_equal(state.accumulator, np.array(sums))
            np.testing.assert_array_equal(updates, np.array(steps, np.float16))


def test_a_bfloat16_accumulator_stops_growing_and_a_float32_one_does_not():
    gradient = jnp.ones((), jnp.bfloat16)
    grown = {}
    for dtype in ("parameter", None):
        scale = aj.scale_by_adagrad(0.0, accumulator=aj.Diagonal(dtype=dtype))
        _, state = jax.lax.scan(
            lambda s, _, scale=scale: (scale.update(gradient, s)[1], None),
            scale.init(gradient),
            length=1000,
        )[::-1]
        grown[dtype] = float(state.accumulator)
    assert grown == {"parameter": 256.0, None: 1000.0}


@dataclasses.dataclass(frozen=True)
class PerAxis:
    """A vector for each axis, as SM3 keeps; its memory is not an array but a tuple."""

    def init(self, param, initial_accumulator_value):
        return tuple(jnp.full((n,), initial_accumulator_value) for n in param.shape)

    def update(self, gradient, accumulator, normalize):
        rows, columns = accumulator
        squares = jnp.minimum(rows[:, None], columns[None, :]) + gradient**2
        sums = (squares.max(axis=1), squares.max(axis=0))
        return normalize(gradient, squares), sums


@pytest.mark.usefixtures("standard_promotion")
def test_an_accumulator_from_outside_needs_no_change_inside():
    params = {"w": jnp.ones((2, 3))}
    gradient = {"w": jnp.array([[1.0, 2.0, 0.0], [0.0, 3.0, 0.0]])}
    optimizer = aj.adagrad(0.1, 0.0, 0.0, accumulator=PerAxis())
    updates, state = jax.jit(optimizer.update)(gradient, optimizer.init(params))
    rows, columns = optax.tree.get(state, "accumulator")["w"]
    np.testing.assert_array_equal(rows, [4, 9])
    np.testing.assert_array_equal(columns, [1, 9, 0])
    np.testing.assert_allclose(updates["w"], -0.1 * jnp.sign(gradient["w"]))
    with pytest.raises(ValueError, match=r"gradient at \['w'\] of shape \(3, 3\)"):
        optimizer.update({"w": jnp.ones((3, 3))}, state)
    with pytest.raises(ValueError, match=r"gradient at \['v'\] has no accumulator"):
        optimizer.update({"v": jnp.ones((2, 3))}, state)


# One number a row


@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 2, 3), (5, 0), ()])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
def test_row_wise_is_the_mean_of_squares(shape, dtype):
    rng = np.random.default_rng(0)
    scale = aj.scale_by_adagrad(0.3, 1e-3, accumulator=aj.RowWise())
    state = scale.init(jnp.ones(shape, dtype))
    expected = np.full(shape[:1], 0.3)
    inside = tuple(range(1, len(shape)))
    tolerance = 1e-2 if dtype == "bfloat16" else 1e-5  # 8 bits of the gradient's own
    for _ in range(3):
        g = jnp.asarray(
            rng.normal(size=shape) + 0j if "c" in dtype else rng.normal(size=shape)
        )
        g = g.astype(dtype)
        updates, state = scale.update(g, state)
        squares = np.abs(np.asarray(g).astype(complex)) ** 2
        expected = expected + (squares.mean(inside) if squares.size else 0)
        assert state.accumulator.shape == shape[:1]
        assert state.accumulator.dtype == jnp.float32 and updates.dtype == dtype
        np.testing.assert_allclose(state.accumulator, expected, rtol=1e-5)
        root = np.sqrt(expected).reshape(shape[:1] + (1,) * len(inside)) + 1e-3
        np.testing.assert_allclose(
            np.asarray(updates).astype(complex),
            np.asarray(g).astype(complex) / root,
            rtol=tolerance,
        )


@pytest.mark.parametrize("wrap", [jax.jit, lambda f: f])
def test_row_wise_of_a_row_sparse_gradient(wrap):
    values = jax.random.normal(jax.random.key(0), (6, 3))
    ids = jnp.array([4, 1, 4, 9, 1, 0])  # 9 names no row
    optimizer = aj.adagrad(0.1, accumulator=aj.RowWise())

    def step(table, state, ids, values, dense):
        gradient = aj.RowSparse(ids, values, (5, 3))
        gradient = gradient.to_dense() if dense else gradient
        updates, state = optimizer.update(gradient, state, table)
        return aj.apply_updates(table, updates), state

    table = jnp.ones((5, 3))
    state = optimizer.init(table)
    results = [
        wrap(lambda *a, d=d: step(*a, d))(table, state, ids, values) for d in (0, 1)
    ]
    chex.assert_trees_all_close(*results, rtol=1e-6)
