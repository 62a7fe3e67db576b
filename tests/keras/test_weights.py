"""What the object keeps: names, order, slots, and lists of weights there and back."""

import copy

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adagrad_jax.keras import Adagrad, Optimizer, Variable
from tests.keras.common import fact, stepped, wu


def test_weights_before_and_after():
    opt = Adagrad(0.1, decay=0.2)
    assert (
        opt.weights
        == opt.variables()
        == opt.get_weights()
        == opt.get_slot_names()
        == []
    )
    shapes = {"kernel": (2, 3), "bias": (3,), "scale": ()}
    variables = [Variable(jnp.ones(s), name=n) for n, s in shapes.items()]
    opt.apply_gradients([(jnp.ones(v.shape), v) for v in variables])
    wanted = fact("weights_order")["result"]
    assert [w.name for w in opt.weights] == wanted["names"]
    assert [list(w.shape) for w in opt.weights] == wanted["shapes"]
    for found, value in zip(opt.get_weights(), wanted["get_weights"], strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-6)
    late = Variable([0.0], name="late")
    opt.apply_gradients([(jnp.ones(1), late), (jnp.ones(3), variables[1])])
    assert [w.name for w in opt.weights] == fact("weights_order_late_variable")[
        "result"
    ]
    opt = Adagrad()
    assert opt.iterations.name == fact("weights_after_iterations")["result"][0]


def test_slots():
    opt, w, u = stepped()
    slot = opt.get_slot(w, "accumulator")
    assert [slot.name, slot.dtype.name, slot.trainable, list(slot.shape)] == fact(
        "slot_dtype_name_trainable"
    )["result"]
    with pytest.raises(
        KeyError, match=r"no slot 'momentum' of w:0; it has accumulator"
    ):
        opt.get_slot(w, "momentum")
    with pytest.raises(KeyError, match=r"of w:0; it has none"):
        opt.get_slot(wu()[0], "accumulator")  # a variable of another optimizer
    added = opt.add_slot(u, "momentum", "ones")
    assert added is opt.add_slot(u, "momentum") is opt.get_slot(u, "momentum")
    assert added.name == "u/momentum:0" and added.numpy() == [1.0]
    assert opt.weights[-1] is added
    assert opt.get_slot_names() == ["accumulator", "momentum"]
    extra = opt.add_weight(
        "extra", (2,), initializer=lambda shape, dtype: jnp.full(shape, 3, dtype)
    )
    assert opt.weights[-1] is added and list(extra.numpy()) == [3, 3]
    with pytest.raises(ValueError, match="Unknown initializer: glorot; known: zeros"):
        opt.add_weight("extra", (2,), initializer="glorot")
    opt.apply_gradients([(jnp.ones(2), w)])  # goes on


def test_slots_of_two_variables_of_one_name():
    opt, a, b = Adagrad(), Variable([1.0], name="w"), Variable([2.0, 3.0], name="w")
    opt.apply_gradients([(jnp.ones(1), a), (jnp.ones(2), b)])
    assert [w.name for w in opt.weights] == fact("same_variable_name_twice")["result"]
    assert opt.get_slot(a, "accumulator").shape == (1,)
    assert opt.get_slot(b, "accumulator").shape == (2,)


def one():
    opt, w = Adagrad(0.1), Variable([1.0, 2.0], name="w")
    opt.apply_gradients([(jnp.ones(2), w)])
    return opt


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ([np.array(1), np.ones(2), np.ones(2)], "length 3, but .* expecting 2 weights"),
        ([], "length 0, but .* expecting 2 weights"),
        (
            [np.array(1), np.ones(3)],
            r"shape \(2,\) not compatible .* \(3,\): Adagrad/w/accumulator",
        ),
    ],
)
def test_set_weights_raises_and_changes_nothing(weights, match):
    opt = one()
    before = opt.get_weights()
    with pytest.raises(ValueError, match=match):
        opt.set_weights(weights)
    chex.assert_trees_all_equal(opt.get_weights(), before)


def test_set_weights_before_build():
    Adagrad().set_weights([])
    with pytest.raises(ValueError, match="expecting 0 weights. Call `build"):
        Adagrad().set_weights([np.array(1), np.ones(2)])


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("set_weights_without_iterations", [np.array([5.0, 6.0])]),
        ("set_weights_with_iterations", [np.array(7), np.array([5.0, 6.0])]),
        ("set_weights_float64_values", [np.array(7.9), np.array([5.0, 6.0])]),
    ],
)
def test_set_weights(name, weights):
    opt = one()
    opt.set_weights(weights)
    for found, wanted in zip(opt.get_weights(), fact(name)["result"], strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kwargs", [{}, {"clipnorm": 0.5, "decay": 0.1}])
def test_continues_bit_for_bit_after_config_and_weights(kwargs):
    rng = np.random.default_rng(0)
    w = Variable(rng.normal(size=(3, 2)), name="w")
    opt = Adagrad(0.3, **kwargs)
    targets = rng.normal(size=(8, 3, 2)).astype(np.float32)

    def step(opt, w, t):
        opt.minimize(lambda: jnp.sum((w - targets[t]) ** 2), [w])

    for t in range(4):
        step(opt, w, t)
    other_w = Variable(w.numpy(), name="w")
    other = Adagrad.from_config(opt.get_config())
    other.build([other_w])
    other.set_weights(opt.get_weights())
    for t in range(4, 8):
        step(opt, w, t)
        step(other, other_w, t)
    np.testing.assert_array_equal(w.numpy(), other_w.numpy())
    chex.assert_trees_all_equal(opt.get_weights(), other.get_weights())


def test_set_weights_converts_all_before_it_sets_any():
    opt = one()
    before = opt.get_weights()
    with pytest.raises(ValueError, match="could not convert string"):
        opt.set_weights([np.array(7), np.array(["x", "y"])])
    chex.assert_trees_all_equal(opt.get_weights(), before)


def test_a_slot_that_is_added_first_is_the_one_that_is_used():
    w = Variable([1.0], name="w")
    opt = Adagrad(0.1)
    added = opt.add_slot(w, "accumulator", "ones")
    opt.apply_gradients([(jnp.ones(1), w)])
    assert opt.get_slot(w, "accumulator") is added and added.numpy() == 2
    names = [weight.name for weight in opt.weights]
    assert names == ["w/accumulator:0", "Adagrad/iter:0"]


def test_late_variables_with_averages_raise():
    opt, (w, u) = Adagrad(use_ema=True), wu()
    opt.apply_gradients([(jnp.ones(2), w)])
    with pytest.raises(ValueError, match="u came after the first step"):
        opt.apply_gradients([(jnp.ones(1), u)])


def test_a_state_of_all_variables_together_cannot_grow():
    a, b = (Variable([1.0, 1.0], name=name) for name in "ab")
    opt = Optimizer(optax.flatten(optax.scale_by_rss()), 0.1)
    opt.apply_gradients([(jnp.ones(2) * 100, a)])
    with pytest.raises(ValueError, match="b came after the first step, but the tran"):
        opt.apply_gradients([(jnp.ones(2), b)])


def test_copies_of_variables_are_their_own():
    w = Variable([1.0, 2.0], name="w")
    copies = copy.copy(w), copy.deepcopy(w)
    Adagrad(0.1).apply_gradients([(jnp.ones(2), w)])
    for other in copies:
        assert list(other.numpy()) == [1, 2] and other.name == "w:0"
