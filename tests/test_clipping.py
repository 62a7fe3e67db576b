"""Clipping, against NumPy and at the edges."""

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
