"""Arguments, and what is set later: as TensorFlow 2.0 takes, keeps, refuses them."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules
from tests.keras.common import fact, stepped, wu

# Arguments


RAISING = {
    "negative_initial_accumulator_value": {"initial_accumulator_value": -0.1},
    "none_initial_accumulator_value": {"initial_accumulator_value": None},
    "negative_clipnorm": {"clipnorm": -1.0},
    "negative_clipvalue": {"clipvalue": -1.0},
    "negative_decay": {"decay": -0.1},
    "negative_lr": {"lr": -0.1},
    "unknown_keyword": {"momentum": 0.9},
    "two_errors_at_once": {"clipnorm": -1.0, "foo": 1},
}


@pytest.mark.parametrize("name", RAISING)
def test_constructor_raises_as_tensorflow(name):
    recorded = fact(name)
    with pytest.raises(
        {"ValueError": ValueError, "TypeError": TypeError}[recorded["raises"]]
    ) as error:
        Adagrad(**RAISING[name])
    if not name.startswith("none"):
        assert str(error.value) == recorded["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"learning_rate": float("nan")},
        {"learning_rate": jnp.nan},
        {"epsilon": float("nan")},
        {"epsilon": -0.5},
        {"initial_accumulator_value": float("inf")},
        {"initial_accumulator_value": float("nan")},
        {"clipnorm": float("nan")},
        {"decay": float("nan")},
        {"weight_decay": float("nan")},
        {"ema_momentum": 2.0},
        {"gradient_accumulation_steps": 1},
        {"ema_overwrite_frequency": 1.5},
        {"loss_scale_factor": 0.0},
        {"learning_rate": jnp.ones(2)},
    ],
)
def test_constructor_raises_value_error(arguments):
    with pytest.raises(ValueError):
        Adagrad(**arguments)


@pytest.mark.parametrize("rate", [None, "0.1", [0.1]])
def test_learning_rate_must_be_a_number_or_function(rate):
    with pytest.raises(TypeError, match="learning_rate"):
        Adagrad(rate)


CONFIGS = {
    "defaults": lambda: Adagrad(),
    "positional_arguments": lambda: Adagrad(0.5, 0.2, 0.01, "mine"),
    "get_config_all": lambda: Adagrad(0.5, decay=0.1, clipnorm=1.0, clipvalue=2.0),
    "get_config_lr": lambda: Adagrad(lr=0.25),
    "get_config_callable": lambda: Adagrad(lambda: 0.3),
    "negative_learning_rate": lambda: Adagrad(learning_rate=-0.1),
    "from_config_roundtrip": lambda: Adagrad.from_config(
        Adagrad(0.5, 0.2, 0.01, decay=0.1, clipnorm=1.0).get_config()
    ),
    "from_config_without_initial_accumulator_value": lambda: Adagrad.from_config(
        {"learning_rate": 0.5}
    ),
    "from_config_lr_and_learning_rate": lambda: Adagrad.from_config(
        {"lr": 0.5, "learning_rate": 0.25}
    ),
    "from_config_empty": lambda: Adagrad.from_config({}),
    "from_config_schedule": lambda: Adagrad.from_config(
        Adagrad(schedules.ExponentialDecay(0.1, 10, 0.5)).get_config()
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_get_config_is_tensorflows(name):
    config = CONFIGS[name]().get_config()
    assert config == fact(name)["result"]
    assert list(config) == list(fact(name)["result"])


def test_config_after_a_step_holds_float32_numbers():
    w, _ = wu()
    opt = Adagrad(0.1, decay=0.3)
    opt.apply_gradients([(jnp.ones(2), w)])
    assert opt.get_config() == fact("get_config_after_step")["result"]


def test_epsilon_none_and_zero_mean_the_default():
    assert Adagrad(epsilon=None).epsilon == Adagrad(epsilon=0.0).epsilon == 1e-7


def test_name_none():
    assert Adagrad(name=None).name == fact("name_none")["result"]


def test_from_config_changes_no_dictionary_and_takes_lr():
    config = {"lr": 0.5}
    opt = Adagrad.from_config(config)
    assert opt.get_config() == fact("from_config_lr")["result"]["get_config"]
    assert config == {"lr": 0.5}


def test_from_config_raises_for_unknown():
    with pytest.raises(TypeError, match="^Unexpected keyword argument .*: foo$"):
        Adagrad.from_config({"foo": 1})
    with pytest.raises(ValueError, match="Unknown learning rate schedule: 'Mine'"):
        Adagrad.from_config({"learning_rate": {"class_name": "Mine", "config": {}}})


def test_from_config_custom_objects():
    def warmup(count):
        return 0.1 * jnp.minimum(count, 5)

    config = Adagrad(warmup).get_config()
    assert config["learning_rate"] == "warmup"
    assert Adagrad.from_config(config, {"warmup": warmup}).learning_rate is warmup
    with pytest.raises(TypeError, match="learning_rate"):
        Adagrad.from_config(config)
    adam = optax.scale_by_adam()
    config = Optimizer(adam, 0.1, weight_decay=0.5).get_config()
    other = Optimizer.from_config(config, {"transformation": adam})
    assert other.get_config() == config


def test_keras3_arguments_travel_in_the_config():
    config = Adagrad(0.1, weight_decay=0.2, use_ema=True).get_config()
    assert config["weight_decay"] == 0.2
    assert Adagrad.from_config(config).get_config() == config


# Hyperparameters


def rates(opt, steps, before=lambda t: None):
    """The learning rate of each step, seen from outside."""
    found = []
    for t in range(steps):
        before(t)
        w = Variable(jnp.zeros(1), name=f"w{t}")
        opt.apply_gradients([(jnp.ones(1), w)])
        found.append(-float(w.numpy()[0]) * float(np.sqrt(1.1)))
    return found


def test_assigned_learning_rate_takes_effect_without_compiling_again():
    opt, w, u = stepped(decay=0.0)
    (step,) = opt._steps.values()
    for rate in (0.5, 0.25):
        opt.learning_rate = rate
        before, accumulator = w.numpy(), opt.get_slot(w, "accumulator").numpy()
        opt.apply_gradients([(jnp.ones(2), w), (jnp.ones(1), u)])
        moved = (before - w.numpy()) * np.sqrt(accumulator + 1)
        np.testing.assert_allclose(moved, [rate, rate], rtol=1e-5)
    assert float(opt.lr) == 0.25
    assert list(opt._steps.values()) == [step]
    assert step._compiled._cache_size() == 1


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        (schedules.PiecewiseConstantDecay([1], [0.5, 0.25]), [0.5, 0.5, 0.25]),
        (optax.exponential_decay(0.5, 1, 0.5), [0.5, 0.25, 0.125]),
        (lambda count: 0.5 / (1 + count), [0.5, 0.25, 0.5 / 3]),
        (functools.partial(next, iter([0.1, 0.2, 0.3])), [0.1, 0.2, 0.3]),
        (np.float64(0.5), [0.5] * 3),
        (1, [1.0] * 3),
    ],
)
def test_kinds_of_learning_rates(rate, wanted):
    np.testing.assert_allclose(rates(Adagrad(rate), 3), wanted, rtol=1e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_a_schedule_may_be_assigned_and_replaced():
    opt = Adagrad(0.5)
    assert rates(opt, 1) == pytest.approx([0.5], rel=1e-5)
    opt.learning_rate = lambda count: 0.1 * count
    assert rates(opt, 1) == pytest.approx([0.1], rel=1e-5)
    opt.learning_rate = 0.3
    assert rates(opt, 1) == pytest.approx([0.3], rel=1e-5)


def test_a_function_is_called_once_a_step():
    calls = []
    opt = Adagrad(lambda: calls.append(1) or 0.1)
    w, u = wu()
    opt.apply_gradients([(jnp.ones(2), w), (jnp.ones(1), u)])
    assert calls == [1]


def test_decay_set_counts():
    opt = Adagrad(1.0, decay=0.1)
    rates(opt, 1)
    opt.decay = 0.5
    wanted = fact("decay_set_when_positive")["result"]
    assert rates(opt, 1) == pytest.approx([wanted], rel=1e-5)
    with pytest.raises(ValueError, match="decay"):
        opt.decay = float("nan")


def test_iterations_assign():
    opt = Adagrad(1.0, decay=0.1)
    opt.iterations.assign(10)
    assert rates(opt, 1) == pytest.approx(
        [fact("iterations_assign")["result"]], rel=1e-5
    )


def test_iterations_set():
    opt, w = Adagrad(0.1, decay=0.5), Variable([1.0, 2.0], name="w")
    opt.iterations = Variable(5, name="mine")
    opt.apply_gradients([(jnp.array([1.0, -2.0]), w)])
    wanted = fact("iterations_set_early")["result"]
    assert int(opt.iterations) == wanted["iterations"]
    assert [weight.name for weight in opt.weights] == wanted["weights"]
    np.testing.assert_allclose(w.numpy(), wanted["value"], rtol=1e-6)
    with pytest.raises(RuntimeError, match="Cannot set `iterations`"):
        opt.iterations = Variable(5)


def test_epsilon_set():
    w, opt = Variable([1.0, 2.0], name="w"), Adagrad(0.1)
    opt.epsilon = 1.0
    opt.apply_gradients([(jnp.array([1.0, -2.0]), w)])
    np.testing.assert_allclose(w.numpy(), fact("epsilon_set")["result"], rtol=1e-6)


def test_learning_rate_of_the_transformation():
    opt = Optimizer(optax.sgd(0.5))
    w, _ = wu()
    opt.apply_gradients([(jnp.ones(2), w)])
    np.testing.assert_array_equal(w.numpy(), [0.5, 1.5])
    with pytest.raises(AttributeError, match="no learning rate of its own"):
        opt.learning_rate = 0.1
    assert "learning_rate" not in opt.get_config()


def test_decays_need_a_learning_rate():
    for options in ({"weight_decay": 0.1}, {"decay": 0.1}):
        with pytest.raises(ValueError, match="need a `learning_rate`, got None"):
            Optimizer(optax.sgd(0.1), **options)


def test_a_refused_epsilon_is_not_kept():
    opt = Adagrad(0.1)
    with pytest.raises(ValueError, match="epsilon"):
        opt.epsilon = -1.0
    assert opt.epsilon == 1e-7
    with pytest.raises(ValueError, match="decay"):
        opt.decay = -1.0


def test_a_function_may_give_a_wider_rate(x64):
    w = Variable(np.array([1.0]), name="w")
    rate = jnp.float64(0.1)
    Adagrad(lambda: rate).apply_gradients([(jnp.ones(1), w)])
    wanted = 1 - 0.1 / (np.sqrt(1.1) + 1e-7)
    np.testing.assert_allclose(w.numpy(), wanted, rtol=1e-15)
