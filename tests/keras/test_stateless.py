"""``stateless_apply`` is the same step as a pure function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adagrad_jax.keras import Adagrad, Optimizer, Variable
from tests.keras.common import stepped


def test_stateless_apply_is_the_same_step():
    opt, w, u = stepped(decay=0.1)
    variables, weights = [w.value, u.value], [x.value for x in opt.weights]
    grads = [jnp.array([1.0, -2.0]), None]

    @jax.jit
    def step(weights, variables):
        return opt.stateless_apply(weights, grads, variables)

    new, new_weights = step(weights, variables)
    with pytest.warns(UserWarning):
        opt.apply_gradients(zip(grads, [w, u], strict=True))
    np.testing.assert_allclose(new[0], w.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(new[1], u.numpy())
    for found, wanted in zip(new_weights, opt.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    other, _ = opt.stateless_apply(weights, grads, variables, learning_rate=0.0)
    np.testing.assert_array_equal(other[0], variables[0])


def test_stateless_apply_bad_input():
    opt, w, u = stepped()
    weights = [x.value for x in opt.weights]
    with pytest.raises(ValueError, match="`grads` has 1 entries, .* built for 2"):
        opt.stateless_apply(weights, [jnp.ones(2)], [w.value, u.value])
    with pytest.raises(ValueError, match="`optimizer_variables` has 2"):
        opt.stateless_apply(weights[1:], [jnp.ones(2), None], [w.value, u.value])
    with pytest.raises(ValueError, match="No gradients"):
        opt.stateless_apply(weights, [None, None], [w.value, u.value])
    with pytest.raises(ValueError, match="call `build"):
        Adagrad().stateless_apply([], [jnp.ones(2)], [w.value])


def test_stateless_apply_as_the_first_thing_in_jit():
    w = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    opt.build([w])
    weights = [weight.value for weight in opt.weights]
    grads = [np.ones(2)]
    values, _ = jax.jit(opt.stateless_apply)(weights, grads, [w.value])
    opt.apply_gradients([(jnp.ones(2), w)])
    np.testing.assert_allclose(values[0], w.numpy(), rtol=1e-6)


def test_stateless_apply_with_another_rate_than_the_schedule():
    w = Variable([1.0, 2.0], name="w")
    opt = Optimizer(optax.identity(), lambda step: 0.1)
    opt.build([w])
    weights = [weight.value for weight in opt.weights]
    for rate, wanted in ((None, [0.9, 1.9]), (0.5, [0.5, 1.5])):
        values, _ = opt.stateless_apply(weights, [[1.0, 1.0]], [w.value], rate)
        np.testing.assert_allclose(values[0], wanted, rtol=1e-6)
    own = Optimizer(optax.sgd(0.1))
    own.build([w])
    weights = [weight.value for weight in own.weights]
    with pytest.raises(AttributeError, match="no learning rate of its own"):
        own.stateless_apply(weights, [jnp.ones(2)], [w.value], 0.5)


@pytest.mark.parametrize("place", ["slot", "variable"])
def test_stateless_apply_checks_shapes(place):
    w = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    opt.build([w])
    slot = jnp.ones(()) if place == "slot" else jnp.ones(2)
    value = jnp.ones(3) if place == "variable" else jnp.ones(2)
    name = "Adagrad/w/accumulator:0" if place == "slot" else "w:0"
    with pytest.raises(ValueError, match=rf"{name} is of shape \(2,\), the array"):
        opt.stateless_apply([0, slot], [jnp.ones(2)], [value])
