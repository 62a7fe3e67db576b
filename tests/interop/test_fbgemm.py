"""The state of FBGEMM's tables."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests import golden_cases as golden
from tests.interop.common import (
    W,
    assert_same,
    case_named,
    decay,
    go_on,
    order_of,
    state_of,
    torch_state_dict,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


@pytest.mark.parametrize(
    "name",
    [
        "rowwise_three_tables",
        "rowwise_learning_rate_set",
        "rowwise_shared_l2",
        "full_three_tables",
    ],
)
def test_fbgemm_goes_on(name):
    case = case_named("fbgemm", name)
    arguments = dict(case.hyperparameters)
    table = np.asarray(case.arrays["learning_rate"])
    arguments["learning_rate"] = lambda count: jnp.asarray(table)[count]
    if name.startswith("full"):
        arguments["optimizer"] = "exact_adagrad"

    def fill(states, step, state, params):
        states = [[array] for array in states]
        return interop.from_fbgemm(
            states, state, params, order=order_of(case), step=step
        )

    go_on(case, aj.dialects.fbgemm(**arguments), fill)


@pytest.mark.parametrize("accumulator", [aj.RowWise(), aj.Diagonal()], ids=str)
def test_fbgemm_and_back(accumulator):
    params = {"items": jnp.ones((4, 3)), "users": jnp.ones((2, 8))}
    order = ["['users']", "['items']"]
    optimizer = aj.adagrad(0.1, accumulator=accumulator)
    fresh = optimizer.init(params)
    _, state = jax.jit(optimizer.update)(params, fresh)
    zeros = [
        [np.zeros_like(golden._accumulators(fresh)[t])] for t in ("users", "items")
    ]
    filled = interop.to_fbgemm(state, zeros, params, order=order)
    assert_same(interop.from_fbgemm(filled, fresh, params, order=order), state)


def test_tables_and_dense_parameters_from_two_optimizers():
    """As in TorchRec; what has no Adagrad accumulator is left alone."""
    params = {"table": jnp.ones((2, 3)), "w": jnp.ones(2), "x": jnp.ones(5)}
    optimizer = optax.partition(
        {
            "table": aj.dialects.fbgemm(decay),
            "dense": aj.dialects.torch(decay),
            "adam": optax.adam(decay),
        },
        {"table": "table", "w": "dense", "x": "adam"},
    )
    fresh = optimizer.init(params)
    state = interop.from_fbgemm(
        [[np.array([1.0, 2.0])]], fresh, params, order=["['table']"], step=5
    )
    state = interop.from_torch(
        torch_state_dict([np.array([3.0, 4.0])], [7]), state, params, order=["['w']"]
    )
    kept = golden._accumulators(state)
    np.testing.assert_array_equal(kept["table"], [1, 2])
    np.testing.assert_array_equal(kept["w"], [3, 4])
    counts = {
        label: optax.tree.get_all_with_path(part, "count")
        for label, part in state.inner_states.items()
    }
    assert {label: {int(c) for _, c in found} for label, found in counts.items()} == {
        "table": {5},
        "dense": {7},
        "adam": {0},
    }
    filled = interop.to_torch(
        state, torch_state_dict([np.zeros(2)], [0]), params, order=["['w']"]
    )
    assert filled["state"][0]["step"] == 7
    (ours,) = interop.to_fbgemm(state, [[np.zeros(2)]], params, order=["['table']"])
    np.testing.assert_array_equal(ours, [[1, 2]])


@pytest.mark.parametrize(
    "states, message",
    [
        ([], r"must be of 1 tables, the leaf at \['w'\], got 0"),
        ([[np.ones(2), np.ones(2)]], r"one array for the leaf at \['w'\].* list of 2"),
        ([np.ones((2, 3))], r"one array .* got a ndarray of shape \(2, 3\)"),
        ([[np.ones(2)]], r"\['w'\] is to be of shape .*kind of acc"),
    ],
)
def test_bad_tables(states, message):
    for convert in (
        lambda: interop.from_fbgemm(states, state_of(aj.Diagonal()), W),
        lambda: interop.to_fbgemm(state_of(aj.Diagonal()), states, W),
    ):
        with pytest.raises(ValueError, match=message):
            convert()
