"""Clipping, against NumPy and at the edges."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests import golden_cases as golden

BY_NORM = [aj.clip_by_norm, aj.clip_by_global_norm]
ALL = [aj.clip_by_value, *BY_NORM]

# Not so small that squares are subnormal: XLA flushes those to 0.
numbers = st.just(0.0) | st.floats(1e-6, 1e3) | st.floats(-1e3, -1e-6)
arrays = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=0, max_side=4), elements=numbers
)


def apply(transformation, updates):
    return transformation.update(updates, transformation.init(updates))[0]


def norm(x):
    return np.sqrt(np.sum(np.abs(np.asarray(x, np.complex128)) ** 2))


@pytest.mark.usefixtures("x64")
@hypothesis.given(gradients=st.lists(arrays, max_size=3), bound=numbers.map(abs))
def test_equals_the_formula(gradients, bound):
    by_value = apply(aj.clip_by_value(bound), gradients)
    by_norm = apply(aj.clip_by_norm(bound), gradients)
    by_global_norm = apply(aj.clip_by_global_norm(bound), gradients)
    total = norm([norm(g) for g in gradients])
    for i, g in enumerate(gradients):
        np.testing.assert_array_equal(by_value[i], np.clip(g, -bound, bound))
        for ours, length in ((by_norm[i], norm(g)), (by_global_norm[i], total)):
            expected = g if length <= bound else g * (bound / length)
            np.testing.assert_allclose(ours, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", ["clipnorm", "clipvalue"])
def test_bound_zero_gives_zeros_as_in_tensorflow(name):
    clip = {"clipnorm": aj.clip_by_norm, "clipvalue": aj.clip_by_value}[name]
    gradient = jnp.array([3.0, -4.0])
    expected = np.array(golden.behaviour("tf20", f"{name}_zero")["result"])
    np.testing.assert_array_equal(apply(clip(0.0), gradient), expected)


@pytest.mark.parametrize("clip", ALL)
def test_zeros_stay_zeros_and_differentiable(clip):
    """TensorFlow's and Optax's give NaN here."""

    def clipped(gradient):
        return jnp.sum(apply(clip(0.0), gradient))

    zeros = jnp.zeros(2)
    np.testing.assert_array_equal(apply(clip(0.0), zeros), zeros)
    assert np.all(np.isfinite(jax.grad(clipped)(zeros)))


@pytest.mark.parametrize("clip", BY_NORM)
def test_is_differentiable(clip):
    """Inside the bound the identity; outside, the projection off the gradient."""
    gradient = jnp.array([3.0, 4.0])
    inside = jax.jacobian(lambda g: apply(clip(10.0), g))(gradient)
    np.testing.assert_array_equal(inside, np.eye(2))
    outside = jax.jacobian(lambda g: apply(clip(1.0), g))(gradient)
    unit = np.array([0.6, 0.8])
    np.testing.assert_allclose(
        outside, (np.eye(2) - np.outer(unit, unit)) / 5, rtol=1e-5
    )


@pytest.mark.parametrize("clip", ALL)
def test_infinity_clips_nothing(clip):
    gradient = {"a": jnp.array([1e30, -3.0]), "b": jnp.array(2.0)}
    clipped = apply(clip(jnp.inf), gradient)
    jax.tree.map(np.testing.assert_array_equal, clipped, gradient)


@pytest.mark.parametrize("clip", BY_NORM)
def test_float16_norms_do_not_overflow(clip):
    gradient = jnp.array([3000.0, 4000.0], jnp.float16)
    clipped = apply(clip(1.0), gradient)
    assert clipped.dtype == jnp.float16
    np.testing.assert_allclose(clipped, np.array([0.6, 0.8]), rtol=1e-3)


@pytest.mark.parametrize("clip", BY_NORM)
def test_complex(clip):
    clipped = apply(clip(1.0), jnp.array([3 + 4j], jnp.complex64))
    assert clipped.dtype == jnp.complex64
    np.testing.assert_allclose(clipped, [0.6 + 0.8j], rtol=1e-6)


def test_complex_numbers_have_no_order():
    with pytest.raises(TypeError, match=r"gradient at \['w'\] must be real"):
        apply(aj.clip_by_value(1.0), {"w": jnp.ones(2, jnp.complex64)})


def test_global_norm_spreads_a_nan_and_norm_does_not():
    gradients = {"bad": jnp.array([jnp.nan, 1.0]), "good": jnp.array([3.0, 4.0])}
    by_global_norm = apply(aj.clip_by_global_norm(1.0), gradients)
    assert all(np.all(np.isnan(leaf)) for leaf in jax.tree.leaves(by_global_norm))
    by_norm = apply(aj.clip_by_norm(1.0), gradients)
    assert np.all(np.isnan(by_norm["bad"]))
    np.testing.assert_allclose(by_norm["good"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_global_norm_over_leaves_of_several_dtypes():
    dtypes = {"a": jnp.bfloat16, "b": jnp.float32, "c": jnp.float64, "d": jnp.complex64}
    gradients = {name: jnp.full((), 2, dtype) for name, dtype in dtypes.items()}
    clipped = apply(aj.clip_by_global_norm(1.0), gradients)
    for name, leaf in clipped.items():
        assert leaf.dtype == dtypes[name]
        np.testing.assert_allclose(np.complex128(leaf), 0.5, rtol=1e-6)


@pytest.mark.usefixtures("standard_promotion")
def test_global_norm_equals_optax():
    gradients = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([[4.0]])}
    for bound in (0.5, 100.0):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
            apply(aj.clip_by_global_norm(bound), gradients),
            apply(optax.clip_by_global_norm(bound), gradients),
        )


# Rows' norms


def cap(max_norm, updates, params):
    transformation = aj.cap_row_norms(max_norm)
    return transformation.update(updates, transformation.init(params), params)[0]


def row_norms(x):
    x = np.asarray(x, np.complex128)
    return np.sqrt(np.sum(np.abs(x.reshape(len(x), -1)) ** 2, axis=1))


@functools.cache
def capped_in_float64():
    return jax.jit(cap)


tables = hnp.arrays(np.float64, (4, 3), elements=numbers)


@pytest.mark.usefixtures("x64")
@hypothesis.given(params=tables, updates=tables, bound=numbers.map(abs))
def test_row_norms_equal_the_formula(params, updates, bound):
    capped = np.asarray(capped_in_float64()(bound, updates, params))
    target = params + updates
    lengths = row_norms(target)
    # An update from params is rounded as they are.
    eps = np.finfo(float).eps
    size = np.abs(params) + np.abs(target)
    for row, length in enumerate(lengths):
        if abs(length - bound) > 4 * eps * bound:  # else it may be on either side
            if length < bound:
                assert capped[row].tobytes() == updates[row].tobytes()
            else:
                expected = target[row] * (bound / length)
                error = np.abs(params[row] + capped[row] - expected)
                assert (error <= 4 * eps * size[row] + np.finfo(float).tiny).all()
    after = row_norms(params + capped)
    assert (after <= bound * (1 + 8 * eps) + 4 * eps * row_norms(size)).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_rows_within_the_bound_move_by_their_update_and_others_are_cut(dtype, jitted):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(50, 4)) * 0.3, dtype)
    updates = jnp.asarray(rng.normal(size=(50, 4)) * 0.3, dtype)
    capped = (jax.jit(cap) if jitted else cap)(1.0, updates, params)
    assert capped.dtype == dtype
    wide = np.asarray(params, np.float64) + np.asarray(updates, np.float64)
    within = row_norms(wide) < 1
    assert 10 < within.sum() < 45
    capped_bits = np.asarray(capped)[within].tobytes()
    assert capped_bits == np.asarray(updates)[within].tobytes()
    after = params + capped
    # Update and sum are rounded, each number to half an ulp of itself (below 1) or of
    # the parameter and the update, below 2.
    slack = 3 * float(jnp.finfo(dtype).eps)
    assert (row_norms(after)[~within] <= 1 + slack).all()
    assert (row_norms(after)[~within] >= 1 - slack).all()


@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 2)])
def test_capped_rows_equal_dense(shape):
    rng = np.random.default_rng(1)
    params = jnp.asarray(rng.normal(size=shape), jnp.float32)
    # Entries of one row are summed before it is capped; others are out of range.
    ids = jnp.array([4, 0, 4, 6, -1, 4, 2])
    values = jnp.asarray(rng.normal(size=(7, *shape[1:])), jnp.float32)
    rows = aj.RowSparse(ids, values, shape)

    @jax.jit
    def both(params):
        sparse = cap(0.9, rows, params)
        return aj.apply_updates(params, sparse), cap(0.9, rows.to_dense(), params)

    after, dense = both(params)
    present = np.array([0, 2, 4])
    # Sums of three entries in another order.
    np.testing.assert_allclose(
        after[present], (params + dense)[present], rtol=0, atol=4 * 2.0**-23 * 4
    )
    # Row 1 is too long, but was not read.
    others = np.array([1, 3, 5])
    assert (row_norms(params)[others] > 0.9).any()
    assert np.asarray(after)[others].tobytes() == np.asarray(params)[others].tobytes()
    assert (row_norms(after)[present] <= 0.9 * (1 + 2.0**-20)).all()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "rows"])
def test_row_norms_of_zero_and_infinity(sparse):
    params = jnp.array([[3.0, 4.0], [0.0, 0.0], [0.1, 1e30]])
    updates = jnp.array([[1.0, -1.0], [0.0, 0.0], [0.7, -1e30]])
    given = aj.RowSparse([0, 1, 2], updates, (3, 2)) if sparse else updates
    capped = cap(0.0, given, params)
    assert not np.any(aj.apply_updates(params, capped))
    unchanged = cap(jnp.inf, given, params)
    unchanged = unchanged.to_dense() if sparse else unchanged
    assert np.asarray(unchanged).tobytes() == np.asarray(updates).tobytes()


def test_a_nan_is_seen_in_its_row_and_nowhere_else():
    params = jnp.array([[1.0, 1.0], [3.0, 4.0]])
    capped = cap(1.0, jnp.array([[jnp.nan, 0.0], [0.0, 0.0]]), params)
    after = params + capped
    assert np.isnan(after[0]).all()
    np.testing.assert_allclose(after[1], [0.6, 0.8], rtol=4e-7)


def test_single_numbers_are_rows():
    """Of a vector each, of a scalar the only one."""
    capped = cap(1.0, jnp.array([3.0, -3.0, 0.25]), jnp.zeros(3))
    np.testing.assert_array_equal(capped, [1.0, -1.0, 0.25])
    capped = cap(1.0, jnp.float32(-5.0), jnp.float32(2.0))
    assert capped.shape == () and capped == -3.0


def test_row_norms_of_complex_and_half_precision_do_not_overflow():
    updates = jnp.array([[3 + 4j, 0], [0.3j, 0.4]], jnp.complex64)
    capped = cap(1.0, updates, jnp.zeros((2, 2), jnp.complex64))
    np.testing.assert_allclose(capped, [[0.6 + 0.8j, 0], [0.3j, 0.4]], rtol=1e-6)
    updates = jnp.array([[3000.0, 4000.0]], jnp.float16)
    capped = cap(1.0, updates, jnp.zeros((1, 2), jnp.float16))
    assert capped.dtype == jnp.float16
    np.testing.assert_allclose(capped, np.array([[0.6, 0.8]]), rtol=2**-10)


def test_row_norms_last_in_a_chain():
    optimizer = optax.chain(aj.adagrad(1.0, 0.0, 0.0), aj.cap_row_norms(2.0))
    params = {"table": jnp.zeros((3, 4)), "bias": jnp.zeros(2)}
    state = optimizer.init(params)
    for _ in range(3):
        gradient = jax.tree.map(jnp.ones_like, params)
        gradient["table"] = aj.RowSparse([1, 1], jnp.ones((2, 4)), (3, 4))
        updates, state = optimizer.update(gradient, state, params)
        params = aj.apply_updates(params, updates)
    # Steps of 1, 0.71 and 0.58 in each place; a row of four 1s is 2 long.
    expected = np.zeros((3, 4))
    expected[1] = -1
    np.testing.assert_allclose(params["table"], expected, rtol=1e-6)
    bias = -(1 + 2**-0.5 + 3**-0.5)
    np.testing.assert_allclose(params["bias"], np.full(2, max(bias, -2)), rtol=1e-6)


@pytest.mark.parametrize(
    "bound, error", [(-1.0, ValueError), (np.nan, ValueError), ("1", TypeError)]
)
def test_bad_row_norms(bound, error):
    with pytest.raises(error, match="`max_norm` must be a real number"):
        aj.cap_row_norms(bound)


def test_row_norms_need_the_parameters():
    cap, params = aj.cap_row_norms(1.0), {"w": jnp.ones((2, 3))}
    with pytest.raises(ValueError, match="`params` must be given, got None"):
        cap.update(params, cap.init(params))
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(2, 3\).*\(1, 3\)"):
        cap.update(params, cap.init(params), {"w": jnp.ones((1, 3))})
    rows = {"w": aj.RowSparse([0], jnp.ones((1, 3)), (5, 3))}
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(5, 3\).*\(2, 3\)"):
        cap.update(rows, cap.init(params), params)
    with pytest.raises(ValueError, match=r"\['w'\] has no parameter"):
        cap.update(params, cap.init(params), {"v": jnp.ones((2, 3))})


def test_the_cap_holds_also_where_updates_have_less_precision():
    params, cap = jnp.full((1, 1), 1001.9), aj.cap_row_norms(1.0)
    updates, _ = cap.update(jnp.zeros((1, 1), jnp.bfloat16), cap.init(params), params)
    assert abs(aj.apply_updates(params, updates)) <= 1


@pytest.mark.usefixtures("x64")
@hypothesis.settings(max_examples=25)  # of new shapes each
@hypothesis.given(tree=st.lists(arrays, max_size=3))
def test_global_norm_is_the_norm_of_all(tree):
    expected = np.sqrt(sum(norm(x) ** 2 for x in tree))
    np.testing.assert_allclose(aj.global_norm(tree), expected, rtol=1e-12)


def test_global_norm_sums_repeated_rows_and_does_not_overflow():
    rows = aj.RowSparse([1, 1, 9], jnp.array([[1.0], [2.0], [5.0]]), (4, 1))
    bias = jnp.array([4.0, 0.0])
    tree = {"table": rows, "bias": bias}
    np.testing.assert_allclose(aj.global_norm(tree), 5.0, rtol=1e-6)
    half = aj.global_norm(jnp.array([3e4, 4e4], jnp.float16))
    assert half == 5e4 and half.dtype == jnp.float32
    np.testing.assert_allclose(aj.global_norm(jnp.array([3 + 4j])), 5.0, rtol=1e-6)
    with pytest.raises(TypeError, match=r"gradient at \['n'\] must be floating"):
        aj.global_norm({"n": jnp.arange(3)})
