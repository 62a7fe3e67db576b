"""The numbers of adagrad and scale_by_adagrad, against the formula in float64."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj


def reference(params, gradients, rate, initial, epsilon, in_sqrt):
    """The recurrence in NumPy, in float64; 0 / 0 is 0."""
    params = np.asarray(params, np.float64)
    accumulator = np.full_like(params, initial)
    for t, gradient in enumerate(np.asarray(gradients, np.float64)):
        accumulator = accumulator + gradient**2
        if in_sqrt:
            denominator = np.sqrt(accumulator + epsilon)
        else:
            denominator = np.sqrt(accumulator) + epsilon
        step = np.divide(
            gradient, denominator, out=np.zeros_like(gradient), where=denominator != 0
        )
        params = params - rate(t) * step
    return params, accumulator


def run(optimizer, params, gradients):
    params = jnp.asarray(params)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state)
        params = optax.apply_updates(params, updates)
    return params, optax.tree.get(state, "accumulator")


@pytest.mark.usefixtures("x64")
@hypothesis.settings(max_examples=60)
@hypothesis.given(
    gradients=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 6), st.integers(0, 4)),
        elements=st.just(0.0) | st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    ),
    rate=st.floats(0, 10),
    decay=st.floats(0, 2),
    initial=st.just(0.0) | st.floats(1e-3, 10),
    epsilon=st.just(0.0) | st.floats(1e-12, 1),
    in_sqrt=st.booleans(),
)
def test_equals_the_formula(gradients, rate, decay, initial, epsilon, in_sqrt):
    start = np.linspace(-1, 1, gradients.shape[1])
    schedule = aj.inverse_time_decay(rate, decay)
    optimizer = aj.adagrad(schedule, initial, epsilon, epsilon_in_sqrt=in_sqrt)
    params, accumulator = run(optimizer, start, gradients)
    expected, sums = reference(
        start, gradients, lambda t: rate / (1 + decay * t), initial, epsilon, in_sqrt
    )
    # Each of up to 6 steps is at most `rate` long, and a few roundings off.
    atol = 6 * len(gradients) * np.finfo(float).eps * (1 + rate)
    np.testing.assert_allclose(params, expected, rtol=0, atol=atol)
    np.testing.assert_allclose(accumulator, sums, rtol=1e-15 * len(gradients))


def test_defaults_are_those_of_tensorflow():
    gradient = jnp.array([0.5, -2.0])
    params, accumulator = run(aj.adagrad(), jnp.ones(2), [gradient])
    expected = 1 - 0.001 * gradient / (jnp.sqrt(0.1 + gradient**2) + 1e-7)
    np.testing.assert_allclose(params, expected, rtol=1e-6)
    np.testing.assert_allclose(accumulator, 0.1 + gradient**2, rtol=1e-6)


@hypothesis.given(
    gradients=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e3, 1e3, width=32)),
    scale=st.sampled_from([0.25, 2.0, 1024.0]),
)
def test_the_scale_of_the_gradients_does_not_matter_without_constants(gradients, scale):
    """Multiplying all gradients by a power of 2 changes nothing at all."""
    gradients[np.abs(gradients) < 1e-3] = 0.0  # squares that underflow would change
    optimizer = aj.adagrad(0.1, 0.0, 0.0)
    once, _ = run(optimizer, np.ones(4, np.float32), gradients)
    scaled, _ = run(optimizer, np.ones(4, np.float32), np.float32(scale) * gradients)
    np.testing.assert_array_equal(once, scaled)


@hypothesis.given(
    gradient=hnp.arrays(np.float32, 5, elements=st.floats(-1e6, 1e6, width=32)),
    rate=st.floats(0, 10),
)
def test_no_step_is_longer_than_the_learning_rate(gradient, rate):
    optimizer = aj.adagrad(rate)
    state = optimizer.init(gradient)
    updates, _ = optimizer.update(gradient, state)
    assert np.all(np.abs(updates) <= np.float32(rate) * (1 + 1e-6))
    assert np.all(updates * gradient <= 0)  # and it goes down


@pytest.mark.parametrize("in_sqrt", [False, True])
def test_no_gradient_no_accumulator_no_epsilon_no_step(in_sqrt):
    optimizer = aj.adagrad(0.1, 0.0, 0.0, epsilon_in_sqrt=in_sqrt)
    params, accumulator = run(optimizer, jnp.ones(2), [jnp.array([0.0, 1.0])] * 3)
    assert params[0] == 1 and accumulator[0] == 0
    assert params[1] < 1


def test_a_square_that_underflows_leaves_epsilon_alone_to_divide():
    optimizer = aj.adagrad(1.0, 0.0, 1e-3)
    updates, _ = optimizer.update(jnp.array(1e-30), optimizer.init(jnp.array(0.0)))
    np.testing.assert_allclose(updates, -1e-27, rtol=1e-6)


def test_a_nan_stays_where_it_is():
    optimizer = aj.adagrad(0.1)
    params, accumulator = run(
        optimizer, jnp.ones(3), [jnp.array([jnp.nan, 1.0, 0.0]), jnp.ones(3)]
    )
    np.testing.assert_array_equal(np.isnan(params), [True, False, False])
    np.testing.assert_array_equal(np.isnan(accumulator), [True, False, False])


def test_an_overflowed_accumulator_stands_still():
    optimizer = aj.adagrad(0.1)
    params, accumulator = run(optimizer, jnp.ones(1), [jnp.array([1e20])] * 2)
    assert accumulator[0] == jnp.inf and params[0] == 1


def test_complex_parameters_have_one_real_accumulator_each():
    gradient = jnp.array([3 + 4j, 0j], jnp.complex64)
    optimizer = aj.adagrad(0.5, 0.0, 0.0)
    updates, state = optimizer.update(gradient, optimizer.init(gradient))
    accumulator = optax.tree.get(state, "accumulator")
    assert updates.dtype == jnp.complex64 and accumulator.dtype == jnp.float32
    np.testing.assert_allclose(accumulator, [25.0, 0.0])
    np.testing.assert_allclose(updates, [-0.5 * (0.6 + 0.8j), 0], rtol=1e-6)


def test_learning_rate_may_be_an_array_and_keeps_the_updates_dtype():
    gradient = {"f16": jnp.ones(2, jnp.float16), "f32": jnp.ones(2)}
    by_number = aj.adagrad(0.5)
    by_array = aj.adagrad(jnp.array(0.5))
    expected, _ = by_number.update(gradient, by_number.init(gradient))
    updates, _ = by_array.update(gradient, by_array.init(gradient))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)
    assert updates["f16"].dtype == jnp.float16


def test_chained_by_hand_it_is_the_same():
    gradient = jnp.array([1.0, -3.0])
    whole = aj.adagrad(0.1)
    parts = optax.chain(aj.scale_by_adagrad(), optax.scale_by_learning_rate(0.1))
    np.testing.assert_array_equal(
        whole.update(gradient, whole.init(gradient))[0],
        parts.update(gradient, parts.init(gradient))[0],
    )
