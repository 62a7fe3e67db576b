"""Checkpoints of TensorFlow and Keras 3."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests.interop.common import (
    ORDER,
    W,
    assert_same,
    case_named,
    decay,
    go_on,
    order_of,
    resumed,
    state_of,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


@pytest.mark.parametrize(
    "name",
    ["decay_float16", "decay_float32", "decay_float64", "sparse_decay_float64"],
)
def test_tensorflow_goes_on(name):
    case = case_named("tf20", name)
    optimizer = aj.dialects.keras(**case.hyperparameters)

    def fill(accumulators, step, state, params):
        weights = [np.int64(step), *accumulators]
        return interop.from_keras(weights, state, params, order=order_of(case))

    go_on(case, optimizer, fill)


@pytest.mark.parametrize(
    "name, units",
    [
        ("schedule_exponential", 6),
        ("learning_rate_set", 6),
        ("ema_overwrite_3", 6),
        ("accumulation_schedule", 6),
        ("accumulation_ema_overwrite", 6),
        ("accumulation_everything", 16),
        ("everything", 16),
    ],
)
def test_keras3_goes_on(name, units):
    case = case_named("keras3", name)
    arguments = dict(case.hyperparameters)
    rate = arguments["learning_rate"]
    scheduled = isinstance(rate, dict)
    steps = arguments.get("gradient_accumulation_steps")
    if scheduled:
        table = np.asarray(case.arrays["learning_rate"])
        # `count` is of updates, the schedule is asked with the number of calls.
        arguments["learning_rate"] = lambda count: jnp.asarray(table)[count]
    if "set_before_step" in case.manifest:
        table = case.manifest["set_before_step"]["learning_rate"]
        arguments["learning_rate"] = lambda count: jnp.asarray(table)[count]

    def fill(accumulators, step, state, params):
        kept = [
            v.arrays[array][step - 1].astype(v.dtype)
            for array in ("average", "gradient_accumulator")
            for v in case.variables
            if array in v.arrays
        ]
        rates = [] if scheduled else [np.float32(0.5)]
        return interop.from_keras(
            [np.int32(step), *rates, *kept, *accumulators],
            state,
            params,
            order=order_of(case),
            step=step // steps if steps else None,
        )

    go_on(case, aj.dialects.keras3(**arguments), fill, units)


@pytest.mark.parametrize("rate", [[], [np.float32(0.25)]], ids=["schedule", "rate"])
def test_keras_and_back(trained, rate):
    params, fresh, state = trained
    shapes = [(4, 3), (2, 3), (3,)]
    if any("average" in str(path) for path, _ in jax.tree.leaves_with_path(state)):
        shapes = shapes * 2
    weights = [np.int64(0), *rate, *(np.zeros(s, np.float32) for s in shapes)]
    filled = interop.to_keras(state, weights, params, order=ORDER)
    assert filled[0] == 3 and filled[0].dtype == np.int64
    assert filled[1 : 1 + len(rate)] == rate
    back = interop.from_keras(filled, fresh, params, order=ORDER)
    fields = ("accumulator", "count", "calls", "average")
    assert_same(back, resumed(fresh, state, fields))


def test_keras_counts_calls_where_gradients_are_accumulated():
    optimizer = aj.dialects.keras3(decay, gradient_accumulation_steps=2)
    weights = [np.int32(5), *[np.ones((2, 3))] * 2]
    with pytest.raises(ValueError, match="`step` must be given"):
        interop.from_keras(weights, optimizer.init(W), W)
    state = interop.from_keras(weights, optimizer.init(W), W, step=2)
    assert optax.tree.get(state, "count") == 2
    assert optax.tree.get(state, "calls") == 5
    assert interop.to_keras(state, weights, W)[0] == 5


# What cannot be


@pytest.mark.parametrize(
    "weights, message",
    [
        ([], "accumulator of .*: 2 or 3 arrays, got 0"),
        ([np.ones((2, 3))], r"2 or 3 arrays, got 1 of shapes \(2, 3\)"),
        ([1, 0.1, np.ones((2, 3)), np.ones((2, 3))], "got 4 of shapes"),
        ([1, np.ones((2, 3)), np.ones((2, 3))], "got 3 of shapes"),
        ([1, np.ones(6)], r"\['w'\] is to be of shape \(2, 3\), got \(6,\)"),
        ([0.5, np.ones((2, 3))], "one integer from 0 to .* got"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        interop.from_keras(weights, state_of(aj.Diagonal()), W)


def test_keras_keeps_averages_of_all_or_none():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = optax.partition(
        {"a": aj.dialects.keras3(use_ema=True), "b": aj.dialects.keras3()},
        {"a": "a", "b": "b"},
    )
    weights = [1, 0.1, *[np.ones(2)] * 4]
    with pytest.raises(ValueError, match=r"\['b'\] has no average, which others have"):
        interop.from_keras(weights, optimizer.init(params), params)
