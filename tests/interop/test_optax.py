"""States of Optax's Adagrad."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests.interop.common import (
    assert_same,
    case_named,
    decay,
    go_on,
    resumed,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


@pytest.mark.parametrize("name", ["schedule_cosine_float64", "random0_float16"])
def test_optax_goes_on(name):
    case = case_named("optax", name)
    arguments = dict(case.hyperparameters)
    if isinstance(arguments["learning_rate"], dict):
        rate = arguments["learning_rate"]
        arguments["learning_rate"] = getattr(optax, rate["schedule"])(**rate["args"])

    def fill(sums, step, state, params):
        sums = {v.name: array for v, array in zip(case.variables, sums, strict=True)}
        opt_state = optax.tree.set(
            optax.adagrad(arguments["learning_rate"]).init(params), sum_of_squares=sums
        )
        if callable(arguments["learning_rate"]):
            opt_state = optax.tree.set(opt_state, count=np.int32(step))
        return interop.from_optax(opt_state, state, params)

    go_on(case, aj.dialects.optax(**arguments), fill)


@pytest.mark.parametrize("theirs", ["chain", "inject", "partition"])
def test_optax_and_back(trained, theirs):
    params, fresh, state = trained
    optimizer = {
        "chain": optax.chain(optax.clip(1.0), optax.adagrad(decay)),
        "inject": optax.inject_hyperparams(optax.adagrad)(decay),
        "partition": optax.partition(
            {0: optax.adagrad(decay), 1: optax.adagrad(decay)},
            {"bias": 0, "kernel": 1, "table": 1},
        ),
    }[theirs]
    opt_state = optimizer.init(params)
    filled = interop.to_optax(state, opt_state, params)
    assert jax.tree.structure(filled) == jax.tree.structure(opt_state)
    back = interop.from_optax(filled, fresh, params)
    assert_same(back, resumed(fresh, state))


def test_optax_takes_our_state_and_goes_on():
    """Both optimizers make the same steps from there."""
    params = {"w": jnp.array([1.0, -2.0])}
    gradients = {"w": jnp.array([0.5, 3.0])}
    theirs, ours = optax.adagrad(decay), aj.dialects.optax(decay)
    update = jax.jit(ours.update)
    _, state = update(gradients, ours.init(params))
    opt_state = interop.to_optax(state, theirs.init(params), params)
    expected, _ = jax.jit(theirs.update)(gradients, opt_state)
    updates, _ = update(gradients, state)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-15)


def test_the_schedule_of_lazy_decay_goes_on_too():
    schedule = lambda count: 1.0 / (1 + count)  # noqa: E731
    params, old = {"w": jnp.ones(3)}, optax.adagrad(schedule)
    theirs, update = old.init(params), jax.jit(old.update)
    for _ in range(5):
        _, theirs = update({"w": jnp.ones(3)}, theirs, params)
    new = optax.chain(aj.adagrad(schedule), aj.lazy_weight_decay(schedule, 0.5))
    state = interop.from_optax(theirs, new.init(params), params)
    updates, _ = jax.jit(new.update)({"w": jnp.zeros(3)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.5 / 6, rtol=1e-6)


def test_complex_accumulators_of_optax_are_real():
    params = jnp.array([1 + 2j])
    theirs, ours = optax.adagrad(0.1), aj.dialects.optax(0.1)
    _, opt_state = jax.jit(theirs.update)(params, theirs.init(params))
    state = interop.from_optax(opt_state, ours.init(params), params)
    accumulator = optax.tree.get(state, "accumulator")
    assert accumulator.dtype == jnp.float64
    np.testing.assert_allclose(accumulator, [5.1])
    back = interop.to_optax(state, theirs.init(params), params)
    assert_same(back, opt_state)
    with pytest.raises(TypeError, match="must be real, got complex numbers"):
        interop.from_optax(
            optax.tree.set(opt_state, sum_of_squares=params), state, params
        )
