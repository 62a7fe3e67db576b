"""Every hyperparameter is an attribute, and an attribute is nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adagrad_jax.keras import Adagrad, Optimizer, Variable, _initializers
from tests.keras.common import wu

MAKERS = {
    "Adagrad": lambda **options: Adagrad(0.5, name="o", **options),
    "Optimizer": lambda **options: Optimizer(
        optax.scale_by_rss(), 0.5, name="o", **options
    ),
}
OPTIONS = {
    "weight_decay": 0.1,
    "clipnorm": 0.1,
    "global_clipnorm": 0.1,
    "clipvalue": 0.1,
    "loss_scale_factor": 4.0,
    "donate_variables": True,
    "use_ema": True,
    "gradient_accumulation_steps": 2,
}
KEPT_FROM_THE_START = ("use_ema", "gradient_accumulation_steps")


def steps(opt, w, number=2):
    for _ in range(number):
        opt.minimize(lambda: jnp.sum(w * w), [w])
    return w.numpy()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_assigning_is_as_if_it_had_been_given(make, name):
    given, assigned = make(**{name: OPTIONS[name]}), make()
    setattr(assigned, name, OPTIONS[name])
    assert getattr(assigned, name) == OPTIONS[name]
    assert assigned.get_config() == given.get_config()
    (w, _), (other, _) = wu(), wu()
    np.testing.assert_array_equal(steps(given, w), steps(assigned, other))


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", KEPT_FROM_THE_START)
def test_what_must_be_kept_from_the_start_cannot_come_later(name):
    opt, (w, _) = Adagrad(0.5), wu()
    steps(opt, w, 1)
    with pytest.raises(RuntimeError, match=f"`{name}`: calls of all variables must"):
        setattr(opt, name, OPTIONS[name])
    assert not getattr(opt, name)
    steps(opt, w, 1)  # goes on


def test_an_option_that_is_taken_away():
    opt, (w, _), plain, (other, _) = (
        Adagrad(0.5, clipnorm=0.1),
        wu(),
        Adagrad(0.5),
        wu(),
    )
    del opt.clipnorm
    np.testing.assert_array_equal(steps(opt, w), steps(plain, other))
    assert opt.get_config() == plain.get_config()


def test_an_assigned_clip_after_a_step_takes_effect_at_the_next():
    opt, (w, _) = Adagrad(0.5), wu()
    steps(opt, w, 1)
    before = opt.get_slot(w, "accumulator").numpy()
    opt.clipvalue = 0.5
    steps(opt, w, 1)
    moved = opt.get_slot(w, "accumulator").numpy() - before
    np.testing.assert_allclose(moved, [0.25, 0.25], rtol=1e-5)


def test_an_initial_value_that_comes_too_late():
    opt, (w, _) = Adagrad(0.5), wu()
    opt.initial_accumulator_value = 2.0
    steps(opt, w, 1)
    assert opt.get_slot(w, "accumulator").numpy()[0] == 6
    with pytest.raises(RuntimeError, match="of w have started from 2.0"):
        opt.initial_accumulator_value = 1.0
    assert opt.get_config()["initial_accumulator_value"] == 2


@pytest.mark.parametrize("name", ["clip_norm", "momentum", "minimize", "name"])
def test_no_other_attribute_is_assigned_to(name):
    opt = Adagrad()
    with pytest.raises(AttributeError, match="hyperparameters are|not to be assigned"):
        setattr(opt, name, 1)


def test_what_needs_a_learning_rate_is_refused_without_one():
    opt = Optimizer(optax.sgd(0.1))
    for name in ("decay", "weight_decay"):
        with pytest.raises(ValueError, match="need a `learning_rate`, got None"):
            setattr(opt, name, 0.1)
    assert opt.weight_decay is None and float(opt.decay) == 0


def test_a_subclass_has_what_it_declares():
    class Mine(Adagrad):
        momentum = 0.0

        def __init__(self):
            super().__init__(0.5)
            self.momentum = 0.9
            self._private = 1

    assert (Mine().momentum, Mine()._private) == (0.9, 1)


def test_the_rates_variables_bear_the_optimizers_name():
    opt, (w, _) = Adagrad(0.5), wu()
    steps(opt, w, 1)
    names = opt.learning_rate.name, opt.decay.name
    assert names == ("Adagrad/learning_rate:0", "Adagrad/decay:0")


# Traced functions


def test_gradients_are_not_taken_in_a_traced_function():
    opt, (w, _) = Adagrad(0.5), wu()
    loss = lambda: jnp.sum(w * w)  # noqa: E731
    for call in (opt.minimize, opt.get_gradients, opt.get_updates):
        with pytest.raises(TypeError, match="inside jax.jit and the like use"):
            jax.jit(lambda x, call=call: call(loss, [w]))(1.0)
    assert opt.weights == []


def test_a_function_under_jit_that_finds_a_variable_raises_at_its_first_call():
    w, frozen = Variable([1.0, 2.0], name="w"), Variable([1.0], name="frozen")
    with pytest.raises(ValueError, match="^frozen:0 must be an argument"):
        jax.jit(lambda x: frozen * x)(1.0)
    part = jax.jit(lambda x: jnp.sum(x * frozen[0]))
    with pytest.raises(ValueError, match="^frozen:0 must be an argument"):
        Adagrad(0.1).minimize(lambda: part(w), [w])
    # What runs each time reads it each time.
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(frozen * x))(3.0), 1)
    np.testing.assert_array_equal(jax.vmap(lambda x: x * frozen[0])(w), [1, 2])


# Initializers


@pytest.mark.parametrize("shape", [(), (3,), (200, 100), (3, 3, 40, 50)])
def test_initializers_have_the_variance_that_their_names_say(shape):
    fan_in = {0: 1, 1: 3, 2: 200, 4: 360}[len(shape)]
    fans = fan_in + {0: 1, 1: 3, 2: 100, 4: 450}[len(shape)]
    wanted = {
        "random_normal": 0.05,
        "truncated_normal": 0.05 * 0.8796,
        "random_uniform": 0.05 / np.sqrt(3),
        "glorot_uniform": np.sqrt(2 / fans),
        "GlorotNormal": np.sqrt(2 / fans),
        "he_uniform": np.sqrt(2 / fan_in),
        "lecun_normal": np.sqrt(1 / fan_in),
    }
    np.random.seed(0)
    for name, deviation in wanted.items():
        value = _initializers.initial_value(name, shape, jnp.float32)
        assert value.shape == shape and value.dtype == jnp.float32
        assert np.all(np.abs(value) < 6 * deviation)
        if value.size > 1000:
            np.testing.assert_allclose(np.std(value), deviation, rtol=0.03)


def test_random_initializers_repeat_with_numpys_seed():
    found = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        found.append(Adagrad().add_weight("x", (3,), initializer="normal").numpy())
    np.testing.assert_array_equal(found[0], found[1])
    assert np.all(found[0] != found[2])


def test_orthogonal_and_identity():
    q = _initializers.initial_value("orthogonal", (4, 3), jnp.float32)
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-6)
    one = _initializers.initial_value("identity", (2, 3), jnp.float32)
    np.testing.assert_array_equal(one, np.eye(2, 3))
    with pytest.raises(ValueError, match="must have 2 axes"):
        _initializers.initial_value("identity", (2,), jnp.float32)


def test_initializers_of_jax_and_classes():
    class Twos:
        def __call__(self, shape, dtype):
            return jnp.full(shape, 2, dtype)

    add = Adagrad().add_weight
    assert add("x", (2,), initializer=jax.nn.initializers.ones).numpy()[1] == 1
    assert add("x", (2,), initializer=Twos).numpy()[1] == 2
    assert add("x", 2, initializer=Twos()).shape == (2,)
    with pytest.raises(ValueError, match=r"must be of shape \(2,\), but .* \(3,\)"):
        add("x", (2,), initializer=[1.0, 2.0, 3.0])
