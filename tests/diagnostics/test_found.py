"""An Adagrad found in a state, with the hyperparameters and the count near it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import adagrad_jax as aj
from adagrad_jax.diagnostics import report
from tests.diagnostics.common import of

SCHEDULE = aj.inverse_time_decay(0.5, 1.0)

WRAPPED = {
    "chain": lambda a: optax.chain(optax.clip(1.0), a, optax.add_decayed_weights(0.1)),
    "masked": lambda a: optax.masked(a, {"dense": {"b": False, "w": True}, "e": True}),
    "masked branch": lambda a: optax.masked(a, {"dense": False, "e": True}),
    "partition": lambda a: optax.partition(
        {"a": a, "s": optax.sgd(0.1)}, {"dense": "a", "e": "s"}
    ),
    "several": lambda a: optax.partition(
        {"a": a, "r": aj.adagrad(0.5, accumulator=aj.RowWise())},
        {"dense": {"b": "a", "w": "r"}, "e": "a"},
    ),
    "steps": lambda a: optax.MultiSteps(a, 1),
    "finite": lambda a: optax.apply_if_finite(a, 3),
}

LEFT = {
    "masked": ["dense/w", "e"],
    "masked branch": ["e"],
    "partition": ["dense/b", "dense/w"],
}


@jax.jit
@jax.grad
def gradient(params):
    y = jnp.tanh(params["e"][:2] @ params["dense"]["w"] + params["dense"]["b"])
    return jnp.sum(y**2)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_jitted_training_through_a_wrapper(name):
    params = {"dense": {"b": jnp.ones(2), "w": jnp.ones((4, 2))}, "e": jnp.ones((3, 4))}
    optimizer = WRAPPED[name](aj.adagrad(0.5))

    update, state = jax.jit(optimizer.update), optimizer.init(params)
    first = report(state, params, learning_rate=0.5)
    for _ in range(3):
        updates, state = update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    last = report(state, params, learning_rate=0.5, since=first)
    paths = LEFT.get(name, ["dense/b", "dense/w", "e"])
    assert [leaf.path for leaf in last.leaves] == paths
    for leaf, before in zip(last.leaves, first.leaves, strict=True):
        assert before.growth == 1 and before.dead == 0
        assert before.rows == before.untouched_rows
        np.testing.assert_allclose(before.rates, 0.5 / (np.sqrt(0.1) + 1e-7), 1e-6)
        assert leaf.growth > 1
        assert leaf.fell == 1 - leaf.median_rate / before.median_rate
        assert leaf.untouched_rows == (before.rows and int(leaf.path == "e"))


def test_injected_hyperparameters_are_read_from_the_state():
    params = {"w": jnp.ones(3)}
    optimizer = optax.inject_hyperparams(aj.adagrad)(SCHEDULE, 0.25, epsilon=0.5)
    update, state = jax.jit(optimizer.update), optimizer.init(params)
    for _ in range(2):
        _, state = update({"w": jnp.array([0.0, 1.0, 1.0])}, state, params)
    (leaf,) = report(state, params).leaves
    assert (leaf.learning_rate, leaf.initial_accumulator_value) == (0.25, 0.25)
    assert leaf.epsilon == 0.5 and leaf.growth == 9.0
    np.testing.assert_allclose(leaf.rates, [0.125, 0.125, 0.125, 0.25, 0.25])
    (given,) = report(state, params, learning_rate=1.0, epsilon=1.0).leaves
    np.testing.assert_allclose(given.rates, [0.4, 0.4, 0.4, 1 / 1.5, 1 / 1.5])


def test_names_of_the_dialects_are_read_too():
    optimizer = optax.inject_hyperparams(aj.dialects.torch)(lr=0.5, eps=0.25)
    params = jnp.ones(2)
    (leaf,) = report(optimizer.init(params), params).leaves
    assert (leaf.learning_rate, leaf.epsilon) == (0.5, 0.25)
    assert leaf.initial_accumulator_value == 0 and leaf.rates == (2.0,) * 5


def test_each_part_of_a_partition_has_its_own_hyperparameters():
    adagrad = optax.inject_hyperparams(aj.adagrad)
    parts = {"fast": adagrad(1.0, 0.25), "slow": adagrad(0.5, 1.0)}
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2)}}
    optimizer = optax.partition(parts, {"a": "slow", "b": "fast"})
    a, c = report(optimizer.init(params), params).leaves
    assert (a.path, a.learning_rate, a.growth) == ("a", 0.5, 1.0)
    assert (c.path, c.learning_rate, c.growth) == ("b/c", 1.0, 1.0)


def test_a_tree_of_hyperparameters():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2), "d": jnp.ones(2)}}
    parts = {"fast": aj.adagrad(SCHEDULE, 0.25), "slow": aj.adagrad(0.5, 1.0)}
    optimizer = optax.partition(parts, {"a": "slow", "b": "fast"})
    state = optimizer.init(params)
    _, state = jax.jit(optimizer.update)(jax.tree.map(np.zeros_like, params), state)
    result = report(
        state,
        params,
        learning_rate={"a": 0.5, "b": SCHEDULE},
        initial_accumulator_value={"a": 1.0, "b": 0.25},
    )
    assert [leaf.learning_rate for leaf in result.leaves] == [0.5, 0.25, 0.25]
    assert [leaf.growth for leaf in result.leaves] == [1.0, 1.0, 1.0]
    assert "learning_rate 0.25 to 0.5, initial_acc" in str(result)


def test_hyperparameters_by_the_labels_of_a_partition():
    params = {"a": jnp.ones(2), "b": {"c": jnp.ones(2)}, "d": jnp.ones(2)}
    parts = {"fast": aj.adagrad(SCHEDULE), "slow": aj.adagrad(0.5), "s": optax.sgd(0.1)}
    optimizer = optax.partition(parts, {"a": "slow", "b": "fast", "d": "s"})
    state = optax.chain(optax.clip(1.0), optimizer).init(params)
    rates = {"fast": SCHEDULE, "slow": 0.25}
    a, c = report(state, params, learning_rate=rates).leaves
    assert (a.learning_rate, c.learning_rate) == (0.25, 0.5)
    with pytest.raises(ValueError, match="for each label .* got none for 'fast'"):
        report(state, params, learning_rate={"slow": 0.25})
    with pytest.raises(ValueError, match=r"labels .* \(here .*'slow'.*it has \['x'\]"):
        report(state, params, learning_rate={"x": 0.25})


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "optimizer",
    [
        aj.adagrad(SCHEDULE, accumulator=aj.SM3()),
        optax.inject_hyperparams(aj.adagrad)(0.5, accumulator=aj.RoundedDiagonal()),
    ],
)
def test_flax_nnx_keeps_all_of_it_in_variables(optimizer):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    ours = nnx.Optimizer(model, optimizer, wrt=nnx.Param)
    gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    ours.update(model, gradients)
    params = nnx.state(model, nnx.Param)
    plain = {"bias": params["bias"].get_value(), "kernel": params["kernel"].get_value()}
    state = optimizer.init(plain)
    _, state = optimizer.update(jax.tree.map(jnp.ones_like, plain), state, plain)
    rate = SCHEDULE if "Schedule" in str(state) else None
    expected = report(state, plain, learning_rate=rate).leaves
    assert [leaf.path for leaf in expected] == ["bias", "kernel"]
    for parameters in (params, plain):
        found = report(ours.opt_state, parameters, learning_rate=rate)
        assert found.leaves == expected
    by_leaf = {"bias": 0.5, "kernel": 0.25}
    found = report(ours.opt_state, params, learning_rate=by_leaf).leaves
    assert [leaf.learning_rate for leaf in found] == [0.5, 0.25]


@pytest.mark.parametrize(
    "optimizer", [aj.proximal_adagrad, aj.adagrad_da, aj.ftrl], ids=lambda f: f.__name__
)
def test_the_regularized_siblings_and_their_count(optimizer):
    params = {"w": jnp.zeros(2)}
    schedule = aj.inverse_time_decay(1.0, 1.0)
    optimizer = optimizer(schedule)
    update = jax.jit(optimizer.update)
    _, state = update({"w": jnp.ones(2)}, optimizer.init(params), params)
    (leaf,) = report(state, params, learning_rate=schedule, epsilon=0.0).leaves
    assert leaf.learning_rate == 0.5  # at count 1
    np.testing.assert_allclose(leaf.rates, 0.5 / 1.1**0.5, rtol=1e-6)


# Errors


def test_there_must_be_an_adagrad():
    params = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="must contain the state of adagrad_jax.scale"):
        report(optax.sgd(0.1).init(params), params)


def test_there_must_not_be_two_for_one_leaf():
    twice = optax.chain(aj.scale_by_adagrad(), aj.scale_by_adagrad())
    with pytest.raises(ValueError, match=r"one Adagrad .* at \['w'\] there are two"):
        report(twice.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})


@pytest.mark.parametrize("params", [{"v": 1.0}, {"w": [1.0, 2.0]}, [1.0]], ids=str)
def test_params_must_fit(params):
    with pytest.raises(ValueError, match="`params` must be what `state` was made for"):
        of({"w": [np.ones(2, np.float32)]}, params)


def test_a_schedule_needs_a_count():
    state = aj.adagrad(0.1).init(jnp.ones(2))
    with pytest.raises(ValueError, match="ScaleByScheduleState to count steps"):
        report(state, jnp.ones(2), learning_rate=SCHEDULE)
