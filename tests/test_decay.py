"""Weight decay and learning-rate decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj


def test_before_adagrad_it_is_l2_and_after_it_is_decoupled():
    params, gradient = jnp.array([2.0]), jnp.array([0.5])
    decay = aj.add_decayed_weights(0.1)
    scale = aj.scale_by_adagrad(1.0, 0.0)
    l2 = optax.chain(decay, scale)
    decoupled = optax.chain(scale, decay)
    updates, state = l2.update(gradient, l2.init(params), params)
    np.testing.assert_allclose(updates, 0.7 / np.sqrt(1 + 0.7**2), rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(state, "accumulator"), 1 + 0.7**2)
    updates, state = decoupled.update(gradient, decoupled.init(params), params)
    np.testing.assert_allclose(updates, 0.5 / np.sqrt(1.25) + 0.2, rtol=1e-6)
    np.testing.assert_allclose(optax.tree.get(state, "accumulator"), 1.25)


@pytest.mark.parametrize(
    "mask", [{"a": True, "b": False}, lambda params: {k: k == "a" for k in params}]
)
def test_mask(mask):
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    decay = aj.add_decayed_weights(0.25, mask)
    updates, _ = decay.update(zeros, decay.init(params), params)
    np.testing.assert_array_equal(updates["a"], [0.25, 0.25])
    np.testing.assert_array_equal(updates["b"], [0.0, 0.0])


def test_updates_keep_their_dtype():
    params = jnp.full(2, 3.0)
    decay = aj.add_decayed_weights(0.1)
    gradient = jnp.ones(2, jnp.bfloat16)
    updates, _ = decay.update(gradient, decay.init(params), params)
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates.astype(float), [1.3, 1.3], rtol=2**-8)


def test_params_are_needed_and_must_fit():
    decay = aj.add_decayed_weights(0.1)
    gradient = {"w": jnp.ones((2, 3))}
    state = decay.init(gradient)
    with pytest.raises(ValueError, match="`params` must be given, got None; call upd"):
        decay.update(gradient, state)
    # Shapes that NumPy would broadcast.
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(2, 3\).*shape \(1, 3\)"):
        decay.update(gradient, state, {"w": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"gradient at \['w'\] has no parameter"):
        decay.update(gradient, state, {"v": jnp.ones((2, 3))})


@pytest.mark.usefixtures("x64", "standard_promotion")
@pytest.mark.parametrize(
    "rate", [0.5, optax.piecewise_constant_schedule(0.5, {2: 0.5})]
)
def test_inverse_time_decay(rate):
    schedule = aj.inverse_time_decay(rate, 0.1)
    for t in range(4):
        start = rate(t) if callable(rate) else rate
        value = jax.jit(schedule)(jnp.asarray(t, jnp.int32))
        assert value.dtype == jnp.float64
        np.testing.assert_allclose(value, float(start) / (1 + 0.1 * t), rtol=1e-15)


def test_inverse_time_decay_without_decay_is_constant():
    schedule = aj.inverse_time_decay(0.3, 0.0)
    assert {float(schedule(t)) for t in range(5)} == {float(np.float32(0.3))}
