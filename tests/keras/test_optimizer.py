"""The Keras object: what TensorFlow 2.0 says to each call, and what may go wrong."""

import copy
import functools
import threading
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules
from tests import golden_cases as golden


def fact(name):
    return golden.behaviour("tf20", name)


def wu():
    return Variable([1.0, 2.0], name="w"), Variable([3.0], name="u")


def stepped(**kwargs):
    """An optimizer after one step, and its variables."""
    w, u = wu()
    opt = Adagrad(0.1, **kwargs)
    opt.apply_gradients([(jnp.ones(2), w), (jnp.ones(1), u)])
    return opt, w, u


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


# Weights


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
    assert added.name == "Adagrad/u/momentum:0" and added.numpy() == [1.0]
    assert opt.weights[-1] is added
    assert opt.get_slot_names() == ["accumulator", "momentum"]
    extra = opt.add_weight(
        "extra", (2,), initializer=lambda shape, dtype: jnp.full(shape, 3, dtype)
    )
    assert opt.weights[-1] is extra and list(extra.numpy()) == [3, 3]
    with pytest.raises(ValueError, match="Unknown initializer: glorot"):
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


# Steps


def test_apply_gradients_of_nothing():
    opt = Adagrad()
    assert opt.apply_gradients([]) == fact("apply_gradients_empty")["result"][1]
    w, u = wu()
    with pytest.raises(ValueError, match="No gradients provided") as error:
        opt.apply_gradients([(None, w), (None, u)])
    assert str(error.value) == fact("apply_gradients_all_none")["message"]
    assert int(opt.iterations) == 1


def test_gradient_none_warns_and_leaves_the_variable():
    opt, (w, u) = Adagrad(), wu()
    with pytest.warns(UserWarning, match=r"do not exist for variables \['u:0'\]"):
        opt.apply_gradients([(jnp.ones(2), w), (None, u)])
    assert u.numpy() == [3.0]
    assert len(opt.weights) == 2


@pytest.mark.parametrize("g", [[1.0, 1.0], np.ones(2, np.float32), (1, 1)])
def test_gradients_that_are_no_jax_arrays(g):
    w, _ = wu()
    Adagrad(0.1).apply_gradients(zip([g], [w], strict=True), name="x")
    np.testing.assert_allclose(w.numpy(), fact("gradient_list")["result"], rtol=1e-6)


MALFORMED = {
    "not pairs": (lambda w: [w], TypeError, "must be pairs"),
    "three": (lambda w: [(1.0, w, w)], TypeError, "must be pairs"),
    "no iterable": (lambda w: 3, TypeError, "must be pairs"),
    "array": (lambda w: [(jnp.ones(2), jnp.ones(2))], TypeError, "must be a Variable"),
    "swapped": (lambda w: [(w, jnp.ones(2))], TypeError, "must be a Variable"),
    "shape": (lambda w: [(jnp.ones(3), w)], ValueError, r"of w:0 has shape \(3,\)"),
    "broadcast": (lambda w: [(jnp.ones(1), w)], ValueError, r"of w:0 has shape \(1,\)"),
    "scalar": (lambda w: [(jnp.ones(()), w)], ValueError, r"of w:0 has shape \(\)"),
    "dtype": (
        lambda w: [(jnp.ones(2, jnp.bfloat16), w)],
        ValueError,
        "of w:0 has dtype bfloat16",
    ),
    "integers": (lambda w: [(jnp.ones(2, int), w)], ValueError, "w:0 has dtype int32"),
    "rows": (
        lambda w: [(aj.RowSparse([0], jnp.ones((1, 3)), (2, 3)), w)],
        ValueError,
        r"of w:0 has shape \(2, 3\)",
    ),
    "integer variable": (
        lambda w: [(jnp.ones(2, int), Variable([1, 2], name="i"))],
        TypeError,
        "i:0 must have floating-point numbers",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("new", [True, False])
def test_after_an_error_all_is_as_before(name, new):
    pairs, error, match = MALFORMED[name]
    opt, w, u = stepped()
    other = Variable([1.0, 1.0], name="other")
    state = w.numpy(), u.numpy(), opt.get_weights()
    pairs = pairs(w)
    if new and isinstance(pairs, list):
        pairs = [(jnp.ones(2), other), *pairs]
    with pytest.raises(error, match=match):
        opt.apply_gradients(pairs)
    chex.assert_trees_all_equal((w.numpy(), u.numpy(), opt.get_weights()), state)
    assert list(other.numpy()) == [1, 1]
    opt.apply_gradients([(jnp.ones(2), w)])
    assert int(opt.iterations) == 2


def test_an_error_in_the_transformation_changes_nothing():
    def fail(updates, state, params=None):
        raise RuntimeError("no")

    opt = Optimizer(optax.GradientTransformation(optax.scale_by_adam().init, fail), 0.1)
    w, _ = wu()
    with pytest.raises(RuntimeError, match="no"):
        opt.apply_gradients([(jnp.ones(2), w)])
    assert opt.weights == [] and list(w.numpy()) == [1, 2]


def test_inside_jit_it_says_what_to_do():
    opt, (w, _) = Adagrad(), wu()

    @jax.jit
    def step(g):
        opt.apply_gradients([(g, w)])

    with pytest.raises(TypeError, match="stateless_apply"):
        step(jnp.ones(2))
    assert list(w.numpy()) == [1, 2] and opt.weights == []


def test_non_finite_gradients_stay_in_their_place():
    w, opt = Variable([1.0, 2.0], name="w"), Adagrad(0.1)
    opt.apply_gradients([(jnp.array([jnp.nan, 1.0]), w)])
    wanted = fact("nan_gradient")["result"]
    np.testing.assert_allclose(
        w.numpy(), np.array(wanted["variable"], float), rtol=1e-6
    )


def test_row_sparse_gradients():
    table = Variable(jnp.ones((4, 2)), name="table")
    opt = Adagrad(0.1)
    gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
    opt.apply_gradients([(gradient, table)])
    value, accumulator = fact("sparse_duplicates_summed_first")["result"]
    np.testing.assert_allclose(table.numpy(), value, rtol=1e-6)
    np.testing.assert_allclose(
        opt.get_slot(table, "accumulator").numpy(), accumulator, rtol=1e-6
    )
    opt.apply_gradients([(gradient.to_bcoo(), table)])
    assert list(table.numpy()[0]) == [1, 1] and table.numpy()[1, 0] < 0.9


def test_row_sparse_with_a_constraint_raises():
    table = Variable(jnp.ones((4, 2)), name="table", constraint=jnp.abs)
    gradient = aj.RowSparse([1], jnp.ones((1, 2)), (4, 2))
    with pytest.raises(RuntimeError, match="constraint function on a sparse variable"):
        Adagrad().apply_gradients([(gradient, table)])


def test_row_sparse_gradients_where_steps_change_whole_tables():
    results = []
    for dense in (True, False):
        table = Variable(jnp.ones((4, 2)), name="table")
        opt = Adagrad(0.1, weight_decay=0.5, use_ema=True, ema_overwrite_frequency=2)
        for _ in range(3):
            gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
            opt.apply_gradients([(gradient.to_dense() if dense else gradient, table)])
        results.append((table.numpy(), opt.get_weights()))
    chex.assert_trees_all_close(*results, rtol=1e-6)


# minimize


def test_minimize_a_table_touches_its_rows_only():
    table = Variable(jnp.ones((1000, 2)), name="table")
    bias = Variable(jnp.zeros(2), name="bias")
    ids = jnp.array([3, 7, 3])
    opt = Adagrad(0.1)
    loss = lambda: jnp.sum((table[ids] + bias[None]) ** 2)  # noqa: E731
    gradients = opt.get_gradients(loss, [table, bias])
    assert isinstance(gradients[0], aj.RowSparse)
    opt.minimize(loss, [table, bias])
    changed = np.flatnonzero((table.numpy() != 1).any(1))
    assert list(changed) == [3, 7]
    dense = Variable(jnp.ones((1000, 2)), name="table")
    other = Variable(jnp.zeros(2), name="bias")
    grads = jax.grad(lambda t, b: jnp.sum((t[ids] + b[None]) ** 2), (0, 1))(
        dense.value, other.value
    )
    Adagrad(0.1).apply_gradients(zip(grads, [dense, other], strict=True))
    np.testing.assert_allclose(table.numpy(), dense.numpy(), rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), other.numpy(), rtol=1e-6)


def test_minimize_kinds_of_losses():
    w = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    assert opt.minimize(lambda: w * w, [w], grad_loss=[10.0, 100.0], name="x") == 1
    wanted = fact("minimize_grad_loss")["result"]
    np.testing.assert_allclose(
        opt.get_slot(w, "accumulator").numpy(), wanted, rtol=1e-5
    )
    w, opt = Variable([1.0, 2.0], name="w"), Adagrad(0.1)
    opt.minimize(lambda: w * w, w)
    wanted = fact("minimize_vector_loss")["result"]
    np.testing.assert_allclose(
        opt.get_slot(w, "accumulator").numpy(), wanted, rtol=1e-6
    )


def test_minimize_var_list_that_the_loss_makes():
    made = []

    def loss():
        if not made:
            made.append(Variable([1.0], name="late"))
        return jnp.sum(made[0] ** 2)

    Adagrad(0.1).minimize(loss, lambda: tuple(made))
    assert made[0].numpy() < 1


def test_minimize_without_gradients():
    a, b = Variable([1.0, 2.0], name="a"), Variable([3.0], name="b")
    opt = Adagrad(0.1)
    with pytest.raises(
        ValueError, match="No gradients provided for any variable: .'a:0'"
    ):
        opt.minimize(lambda: jnp.array(1.0), [a])
    with pytest.warns(UserWarning, match="b:0"):
        opt.minimize(lambda: jnp.sum(a * a), [a, b])
    wanted = fact("minimize_some_without_gradient")["result"]
    np.testing.assert_allclose(a.numpy(), wanted["a"], rtol=1e-6)
    assert [weight.name for weight in opt.weights] == wanted["weights"]
    with pytest.warns(UserWarning, match="b:0"):
        Adagrad(0.1, clipnorm=1.0).minimize(lambda: jnp.sum(a * a), [a, b])
    integers = Variable([1, 2], name="i")
    with pytest.raises(ValueError, match="No gradients .*'i:0'"):
        opt.minimize(lambda: jnp.sum(integers * integers), [integers])
    complex_ = Variable([1j], name="z")
    with pytest.raises(ValueError, match="Invalid type complex64 for z:0"):
        opt.minimize(lambda: jnp.sum(jnp.abs(complex_ * complex_)), [complex_])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda o, w: o.minimize(jnp.array(1.0), [w]),
            TypeError,
            "object is not callable",
        ),
        (
            lambda o, w: o.minimize(lambda: 1.0, [jnp.ones(2)]),
            ValueError,
            "Variable objects",
        ),
        (
            lambda o, w: o.get_gradients(jnp.array(1.0), [w]),
            ValueError,
            "`None` for gradient",
        ),
        (lambda o, w: o.get_gradients(lambda: 1.0, [w]), ValueError, "w:0 has `None`"),
        (lambda o, w: o.get_updates(lambda: 1.0, [w]), ValueError, "w:0 has `None`"),
        (
            lambda o, w: o.minimize(lambda: w.assign([1.0, 1.0]), [w]),
            RuntimeError,
            "w:0 cannot be assigned to by a loss",
        ),
    ],
)
def test_minimize_bad_input(call, error, match):
    opt, w, _ = stepped()
    state = w.numpy(), opt.get_weights()
    with pytest.raises(error, match=match):
        call(opt, w)
    chex.assert_trees_all_equal((w.numpy(), opt.get_weights()), state)


def test_loss_scale():
    w, plain = Variable([1.0], name="w"), Variable([1.0], name="w")
    opt = Adagrad(0.1, loss_scale_factor=1024.0)
    seen = []

    def loss():
        seen.append(w)
        return jnp.sum(w**2)

    opt.minimize(loss, [w])
    Adagrad(0.1).minimize(lambda: jnp.sum(plain**2), [plain])
    np.testing.assert_allclose(w.numpy(), plain.numpy(), rtol=1e-6)
    assert opt.scale_loss(2.0) == 2048.0
    assert Adagrad().scale_loss(2.0) == 2.0


def test_clipping_of_the_base_class_is_in_apply_gradients():
    w = Variable([1.0, 2.0], name="w")
    opt = Optimizer(optax.identity(), 1.0, clipnorm=1.0)
    opt.apply_gradients([(jnp.array([3.0, 4.0]), w)])
    np.testing.assert_allclose(w.numpy(), [0.4, 1.2], rtol=1e-6)


# Arrays that users hold


def test_an_array_that_was_taken_stays_valid():
    opt, w, _ = stepped()
    kept, slot = w.value, opt.get_slot(w, "accumulator").value
    as_numpy = w.numpy()
    opt.apply_gradients([(jnp.ones(2), w)])
    np.testing.assert_array_equal(kept, as_numpy)
    assert float(slot[0]) == pytest.approx(1.1)
    assert not np.array_equal(w.numpy(), as_numpy)


def test_what_nobody_holds_is_changed_in_place():
    opt, w, _ = stepped()
    inside = w._array
    opt.apply_gradients([(jnp.ones(2), w)])
    assert inside.is_deleted()


def test_donate_variables():
    opt, w, _ = stepped(donate_variables=True)
    kept = w.value
    opt.apply_gradients([(jnp.ones(2), w)])
    with pytest.raises(RuntimeError, match="deleted|donated"):
        print(kept)


def test_variables_that_share_an_array():
    a = Variable([1.0], name="a")
    b = Variable([2.0], name="b")
    b.assign(a.value)
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(1), a), (jnp.ones(1), b)])
    np.testing.assert_array_equal(a.numpy(), b.numpy())


# The rest


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


def test_exclude_from_weight_decay():
    w, bias = Variable([1.0], name="w"), Variable([1.0], name="bias")
    for how in ({"var_list": [bias]}, {"var_names": ["bi.s"]}):
        w.assign([1.0])
        opt = Adagrad(0.1, weight_decay=0.5)
        opt.exclude_from_weight_decay(**how)
        opt.apply_gradients([(jnp.zeros(1), w), (jnp.zeros(1), bias)])
        assert w.numpy() == pytest.approx(0.95) and bias.numpy() == 1.0


def test_late_variables_with_averages_raise():
    opt, (w, u) = Adagrad(use_ema=True), wu()
    opt.apply_gradients([(jnp.ones(2), w)])
    with pytest.raises(ValueError, match="u came after the first step"):
        opt.apply_gradients([(jnp.ones(1), u)])


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("late", [True, False])
def test_any_optax_transformation(late):
    """Also variables that come late, and chains that look at all of them."""
    transformation = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.scale_by_adam(), lambda p: True)
        if not late
        else optax.scale_by_adam(),
    )
    w, u = wu()
    opt = Optimizer(transformation, 0.1)
    grads = [jnp.array([3.0, 0.0]), jnp.array([4.0])]
    if late:
        opt.apply_gradients([(jnp.ones(2), Variable([1.0, 1.0], name="first"))])
    opt.apply_gradients(zip(grads, [w, u], strict=True))
    params = {"w": jnp.array([1.0, 2.0]), "u": jnp.array([3.0])}
    grads = dict(zip(params, grads, strict=True))
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    state = reference.init(params)
    if late:  # its count had gone on
        state = optax.tree.set(state, count=jnp.array(1))
    updates, _ = reference.update(grads, state)
    np.testing.assert_allclose(w.numpy(), params["w"] - 0.1 * updates["w"], rtol=1e-6)
    np.testing.assert_allclose(u.numpy(), params["u"] - 0.1 * updates["u"], rtol=1e-6)


def in_two_threads(work):
    errors = []

    def run():
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_two_threads_do_not_corrupt_it():
    w = Variable(np.zeros(64), name="w")
    opt = Adagrad(0.01)

    def work():
        for _ in range(30):
            opt.minimize(lambda: jnp.sum((w - 1.0) ** 2), [w])
            _ = w + 1.0

    in_two_threads(work)
    assert int(opt.iterations) == 60
    alone = Variable(np.zeros(64), name="w")
    opt = Adagrad(0.01)
    for _ in range(60):
        opt.minimize(lambda: jnp.sum((alone - 1.0) ** 2), [alone])
    np.testing.assert_array_equal(w.numpy(), alone.numpy())


# Other libraries' variables


def test_refs():
    ref = jax.new_ref(jnp.array([1.0, 2.0]))
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), ref)])
    plain = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), plain)])
    np.testing.assert_array_equal(ref[...], plain.numpy())


def test_flax_nnx_params():
    nnx = pytest.importorskip("flax.nnx")
    param = nnx.Param(jnp.array([1.0, 2.0]))
    kept = param[...]
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), param)])
    plain = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), plain)])
    np.testing.assert_array_equal(param[...], plain.numpy())
    assert list(kept) == [1, 2]


# Any sequence of calls


@st.composite
def calls(draw):
    """Steps, each a list of (variable, whether it has a gradient, seed)."""
    pair = st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 99))
    return draw(st.lists(st.lists(pair, min_size=1, max_size=4), max_size=6))


@given(calls(), st.sampled_from([0.0, 0.3]))
def test_any_sequence_of_calls_is_adagrad(steps, decay):
    """Late variables, missing gradients, repeated variables, row-sparse gradients."""
    shapes = [(), (3,), (4, 2)]
    variables = [Variable(jnp.ones(s), name=f"v{i}") for i, s in enumerate(shapes)]
    values = [np.ones(s) for s in shapes]
    sums = [np.full(s, 0.1) for s in shapes]
    opt, count = Adagrad(0.5, decay=decay), 0
    for step in steps:
        pairs = []
        rate = 0.5 / (1 + decay * count)
        for i, present, seed in step:
            if not present:
                pairs.append((None, variables[i]))
                continue
            rng = np.random.default_rng(seed)
            g = rng.normal(size=shapes[i]).astype(np.float32)
            if i == 2:  # by rows, the last of them twice
                rows = aj.RowSparse([1, 3, 3], g[:3], shapes[i])
                pairs.append((rows, variables[i]))
                g = np.asarray(rows.to_dense())
            else:
                pairs.append((g, variables[i]))
            sums[i] = sums[i] + g.astype(float) ** 2
            values[i] = values[i] - rate * g / (np.sqrt(sums[i]) + 1e-7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if any(present for _, present, _ in step):
                opt.apply_gradients(pairs)
                count += 1
            else:
                with pytest.raises(ValueError, match="No gradients"):
                    opt.apply_gradients(pairs)
    assert int(opt.iterations) == count
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-5)


def test_sharding_stays():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("x",), axis_types=auto)
    sharding = NamedSharding(mesh, P("x"))
    table = Variable(jax.device_put(jnp.ones((16, 2)), sharding), name="table")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.minimize(lambda: jnp.sum(table**2), [table])
        jax.block_until_ready(table._array)
        for array in (table.value, opt.get_slot(table, "accumulator").value):
            assert array.sharding.is_equivalent_to(sharding, 2)


def test_a_step_is_compiled_once():
    w = Variable(2.0, name="w")  # a Python number, which JAX would type weakly
    opt = Adagrad(0.1)
    for _ in range(3):
        opt.minimize(lambda: w * w, [w])
    (step,) = opt._steps.values()
    assert step._compiled._cache_size() == 1


# What else was seen of TensorFlow 2.0


@pytest.mark.parametrize(
    "name",
    [
        "clipnorm_zero",
        "clipvalue_zero",
        "clipnorm_nan_gradient",
        "clipnorm_overflow",
    ],
)
def test_clipped_gradients(name):
    kind = name.split("_")[0]
    bound = 1.0 if name.endswith(("gradient", "overflow")) else 0.0
    given = {"clipnorm_nan_gradient": [np.nan, 4.0], "clipnorm_overflow": [1e20, 1.0]}
    g = jnp.array(given.get(name, [3.0, 4.0 if kind == "clipnorm" else -4.0]))
    w = Variable([0.0, 0.0], name="w")
    opt = Adagrad(**{kind: bound})
    (found,) = opt.get_gradients(lambda: jnp.sum(w * g), [w])
    np.testing.assert_array_equal(found, np.array(fact(name)["result"], float))


def test_sparse_clipnorm():
    table = Variable(jnp.zeros((4, 2)), name="table")
    values = jnp.array([[3.0, 4.0], [3.0, 4.0]])
    opt = Adagrad(clipnorm=1.0)
    (found,) = opt.get_gradients(
        lambda: jnp.sum(table[jnp.array([1, 1])] * values), [table]
    )
    _, rows, ids = fact("sparse_clipnorm")["result"]
    np.testing.assert_allclose(found.values, rows, rtol=1e-6)
    assert list(found.ids) == ids


def test_duplicates_that_cancel():
    table = Variable(jnp.ones((4, 2)), name="table")
    values = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    opt = Adagrad(0.1)
    opt.apply_gradients([(aj.RowSparse([1, 1], values, (4, 2)), table)])
    value, accumulator = fact("sparse_duplicates_cancel")["result"]
    np.testing.assert_array_equal(table.numpy(), value)
    slot = opt.get_slot(table, "accumulator").numpy()
    np.testing.assert_array_equal(slot, np.float32(accumulator))


def test_bfloat16_table():
    table = Variable(jnp.ones((4, 2)), name="table", dtype=jnp.bfloat16)
    opt = Adagrad(0.1)
    rows = jnp.ones((1, 2), jnp.bfloat16)
    opt.apply_gradients([(aj.RowSparse([1], rows, (4, 2)), table)])
    value, accumulator = fact("sparse_bfloat16")["result"]
    np.testing.assert_array_equal(table.numpy().astype(float), value)
    slot = opt.get_slot(table, "accumulator").numpy().astype(float)
    np.testing.assert_array_equal(slot, accumulator)


def test_variables_that_are_not_trainable_are_trained_if_given():
    w = Variable([1.0], trainable=False, name="w")
    Adagrad(0.1).apply_gradients([(jnp.ones(1), w)])
    np.testing.assert_allclose(w.numpy(), fact("non_trainable_variable")["result"])


def test_infinite_gradients_float64(x64):
    w = Variable(np.array([1.0, 2.0]), name="w")
    opt = Adagrad(0.1)
    opt.apply_gradients([(jnp.array([jnp.inf, 1.0]), w)])
    wanted = fact("inf_gradient_float64")["result"]
    slot = opt.get_slot(w, "accumulator").numpy()
    np.testing.assert_allclose(slot, np.array(wanted["accumulator"], float))
    np.testing.assert_allclose(w.numpy(), np.array(wanted["variable"], float))


def test_a_model_as_keras_fitted_it():
    """Dense(1), mean squared error, two epochs of two batches.

    TensorFlow 2.0's ``fit`` calls ``apply_gradients``, so its clipnorm has no effect.
    """
    x = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 2.0]])
    y = jnp.array([[1.0], [0.0], [2.0], [-1.0]])
    kernel = Variable([[0.5], [-0.25]], name="d/kernel")
    bias = Variable([0.0], name="d/bias")
    opt = Adagrad(0.1, decay=0.5, clipnorm=1.0)

    @jax.grad
    def gradients(variables, x, y):
        kernel, bias = variables
        return jnp.mean((x @ kernel + bias[None] - y) ** 2)

    for batch in (slice(0, 2), slice(2, 4)) * 2:
        grads = gradients([kernel, bias], x[batch], y[batch])
        opt.apply_gradients(zip(grads, [kernel, bias], strict=True))
    wanted = fact("model_fit")["result"]
    for found, value in zip((kernel, bias), wanted["weights"], strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)
    for found, value in zip(
        opt.get_weights(), wanted["optimizer_weights"], strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-5)
    assert [weight.name for weight in opt.weights] == wanted["names"]


# What a review found


def test_decays_need_a_learning_rate():
    for options in ({"weight_decay": 0.1}, {"decay": 0.1}):
        with pytest.raises(ValueError, match="need a `learning_rate`, got None"):
            Optimizer(optax.sgd(0.1), **options)


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_a_scaled_loss(clip):
    found = []
    for scale in (None, 1024.0):
        w = Variable([1.0, 2.0], name="w")
        opt = Adagrad(0.1, loss_scale_factor=scale, **{clip: 1.0})
        opt.minimize(lambda w=w: jnp.sum(w * 3.0), [w])
        found.append((w.numpy(), opt.get_slot(w, "accumulator").numpy()))
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_averages_need_all_gradients():
    w, u = wu()
    opt = Optimizer(optax.identity(), 0.1, use_ema=True)
    opt.build([w, u])
    with pytest.raises(ValueError, match="u must have a gradient, if only zeros"):
        opt.apply_gradients([(jnp.ones(2), w)])
    opt.apply_gradients([(jnp.ones(2), w), (jnp.zeros(1), u)])
    opt.finalize_variable_values([w, u])
    assert u.numpy() == [3.0]


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


def test_a_state_of_all_variables_together_cannot_grow():
    a, b = (Variable([1.0, 1.0], name=name) for name in "ab")
    opt = Optimizer(optax.flatten(optax.scale_by_rss()), 0.1)
    opt.apply_gradients([(jnp.ones(2) * 100, a)])
    with pytest.raises(ValueError, match="b came after the first step, but the tran"):
        opt.apply_gradients([(jnp.ones(2), b)])


@pytest.mark.usefixtures("standard_promotion")
def test_counters_count_a_variable_given_twice_once():
    a, b, alone = (Variable([1.0], name=name) for name in ("a", "b", "alone"))
    g = jnp.ones(1)
    opt = Optimizer(optax.identity(), 0.1, gradient_accumulation_steps=2)
    for _ in range(4):
        opt.apply_gradients([(g, a), (g, a), (g, b)])
    np.testing.assert_allclose((a.numpy(), b.numpy()), ([0.6], [0.8]), rtol=1e-6)
    twice, once = (Optimizer(optax.scale_by_adam(), 0.1) for _ in range(2))
    b.assign([1.0])
    for t in range(3):
        twice.apply_gradients([(g, a), (g, a), (g * t, b)])
        once.apply_gradients([(g * t, alone)])
    np.testing.assert_array_equal(b.numpy(), alone.numpy())


@pytest.mark.usefixtures("standard_promotion")
def test_what_a_transformation_holds_is_not_given_up():
    key = jax.random.key(0)
    noise = optax.add_noise(0.1, 0.5, key)
    for _ in range(2):
        w = Variable([1.0, 2.0], name="w")
        opt = Optimizer(noise, 0.1)
        for _ in range(2):
            opt.apply_gradients([(jnp.ones(2), w)])
    assert not key.is_deleted()


def test_a_refused_epsilon_is_not_kept():
    opt = Adagrad(0.1)
    with pytest.raises(ValueError, match="epsilon"):
        opt.epsilon = -1.0
    assert opt.epsilon == 1e-7
    with pytest.raises(ValueError, match="decay"):
        opt.decay = -1.0


def test_copies_of_variables_are_their_own():
    w = Variable([1.0, 2.0], name="w")
    copies = copy.copy(w), copy.deepcopy(w)
    Adagrad(0.1).apply_gradients([(jnp.ones(2), w)])
    for other in copies:
        assert list(other.numpy()) == [1, 2] and other.name == "w:0"


def test_set_weights_converts_all_before_it_sets_any():
    opt = one()
    before = opt.get_weights()
    with pytest.raises(ValueError, match="could not convert string"):
        opt.set_weights([np.array(7), np.array(["x", "y"])])
    chex.assert_trees_all_equal(opt.get_weights(), before)


def test_add_slot_before_the_first_gradient():
    w = Variable([1.0], name="w")
    opt = Adagrad(0.1)
    assert opt.add_slot(w, "accumulator").numpy() == np.float32(0.1)
    assert [weight.name for weight in opt.weights][1:] == ["Adagrad/w/accumulator:0"]


def test_exclude_one_variable():
    w = Variable([3.0], name="w")
    for how in ({"var_list": w}, {"var_names": "w"}):
        opt = Adagrad(0.1, weight_decay=0.5)
        opt.exclude_from_weight_decay(**how)
        opt.apply_gradients([(jnp.zeros(1), w)])
        assert w.numpy() == 3.0


def test_a_function_may_give_a_wider_rate(x64):
    w = Variable(np.array([1.0]), name="w")
    rate = jnp.float64(0.1)
    Adagrad(lambda: rate).apply_gradients([(jnp.ones(1), w)])
    wanted = 1 - 0.1 / (np.sqrt(1.1) + 1e-7)
    np.testing.assert_allclose(w.numpy(), wanted, rtol=1e-15)


def test_two_optimizers_of_one_variable_in_two_threads():
    w = Variable(np.zeros(4), name="w")

    def work():
        opt = Optimizer(optax.identity(), 1.0)
        for _ in range(25):
            opt.minimize(lambda: jnp.sum(w * 1.0), [w])

    in_two_threads(work)
    np.testing.assert_array_equal(w.numpy(), np.full(4, -50.0))


def test_a_table_without_weight_decay_is_changed_by_rows():
    """Compiled, its step has no other array of the table's size."""
    rows = 50_000
    table = Variable(jnp.ones((rows, 8)), name="table")
    w = Variable(jnp.ones(8), name="w")
    opt = Adagrad(0.1, weight_decay=0.5)
    opt.exclude_from_weight_decay(table)
    ids = jnp.array([1, 5])
    opt.minimize(lambda: jnp.sum(table[ids] * w[None]), [table, w])
    assert list(np.flatnonzero((table.numpy() != 1).any(1))) == [1, 5]
    np.testing.assert_allclose(w.numpy(), 1 - 0.05 - 0.1 * 2 / np.sqrt(4.1), rtol=1e-5)
    (step,) = opt._steps.values()
    gradients = [aj.RowSparse(ids, jnp.ones((2, 8)), (rows, 8)).to_bcoo(), jnp.ones(8)]
    arrays = [[v._array for v in group] for group in ([table, w], step.slots)]
    rest = opt.iterations.value, opt.lr.value, opt.decay.value
    compiled = step._compiled.lower(*arrays, gradients, *rest).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows * 8
