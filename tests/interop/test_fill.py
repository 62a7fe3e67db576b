"""What may be in a state that is filled, and which steps it counts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests.interop.common import (
    GOOD,
    W,
    decay,
    state_of,
    torch_state_dict,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


# Steps


def test_parts_of_one_schedule_must_have_taken_as_many_steps():
    """PyTorch's parameters without a gradient stand still, their schedule too."""
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state_dict = torch_state_dict([np.ones(1), np.ones(1)], [3, 2])
    alone = aj.dialects.torch(decay)
    with pytest.raises(ValueError, match=r"3 of the leaf at \['a'\], 2 of .*partition"):
        interop.from_torch(state_dict, alone.init(params), params)
    state = interop.from_torch(state_dict, alone.init(params), params, step=3)
    assert optax.tree.get(state, "count") == 3
    constant = aj.dialects.torch(0.1)  # nothing there that counts
    interop.from_torch(state_dict, constant.init(params), params)
    parts = optax.partition({"a": alone, "b": alone}, {"a": "a", "b": "b"})
    state = interop.from_torch(state_dict, parts.init(params), params)
    counts = [int(c) for _, c in optax.tree.get_all_with_path(state, "count")]
    assert counts == [3, 2]
    filled = interop.to_torch(state, state_dict, params)
    assert [entry["step"] for entry in filled["state"].values()] == [3, 2]
    with pytest.raises(ValueError, match=r"several counts, \{2, 3\}"):
        interop.to_keras(state, [0, np.ones(1), np.ones(1)], params)


def test_steps_that_nobody_counted():
    constant, scheduled = aj.adagrad(0.1).init(W), aj.adagrad(decay).init(W)
    for convert in (
        lambda **kw: interop.to_torch(constant, GOOD, W, **kw),
        lambda **kw: interop.to_keras(constant, [0, W["w"]], W, **kw),
        lambda **kw: interop.from_fbgemm([[W["w"]]], scheduled, W, **kw),
        lambda **kw: interop.from_optax(optax.adagrad(0.1).init(W), scheduled, W, **kw),
        lambda **kw: interop.to_optax(constant, optax.adagrad(decay).init(W), W, **kw),
    ):
        with pytest.raises(ValueError, match="`step` must be given, the number of"):
            convert()
        convert(step=4)


def test_several_counts_of_one_leaf():
    counted = optax.chain(aj.adagrad(decay), optax.scale_by_schedule(decay))
    state = counted.init(W)
    state = (state[0], state[1]._replace(count=jnp.array(2)))
    with pytest.raises(ValueError, match=r"several counts .* \['w'\]: \[0, 2\]"):
        interop.to_torch(state, GOOD, W)


# What cannot be


@dataclasses.dataclass(frozen=True)
class Pair(aj.Diagonal):
    """Keeps two arrays of a parameter."""

    def init(self, param, initial_accumulator_value):
        return (super().init(param, initial_accumulator_value),) * 2


@dataclasses.dataclass(frozen=True)
class Square(aj.Diagonal):
    """Keeps an array of another shape."""

    def init(self, param, initial_accumulator_value):
        return jnp.zeros((param.size, param.size))


@pytest.mark.parametrize("accumulator", [Pair(), Square()], ids=["pair", "square"])
@pytest.mark.parametrize(
    "convert",
    [
        lambda state: interop.from_torch(torch_state_dict([W["w"]], [0]), state, W),
        lambda state: interop.to_torch(state, torch_state_dict([W["w"]], [0]), W),
        lambda state: interop.from_keras([0, W["w"]], state, W),
        lambda state: interop.to_keras(state, [0, W["w"]], W),
        lambda state: interop.from_optax(optax.adagrad(0.1).init(W), state, W),
        lambda state: interop.to_optax(state, optax.adagrad(0.1).init(W), W),
        lambda state: interop.from_fbgemm([[W["w"]]], state, W),
        lambda state: interop.to_fbgemm(state, [[W["w"]]], W),
    ],
)
def test_other_accumulators_stay_here(accumulator, convert):
    with pytest.raises(TypeError, match=r"the leaf at \['w'\] must be one array.*use"):
        convert(state_of(accumulator))


def test_states_that_do_not_belong():
    state = state_of(aj.Diagonal())
    with pytest.raises(ValueError, match="no ScaleByAdagradState in the state"):
        interop.from_torch(GOOD, optax.sgd(0.1).init(W), W)
    with pytest.raises(ValueError, match="no ScaleByRssState in the state"):
        interop.from_optax(optax.adam(0.1).init(W), state, W)
    with pytest.raises(ValueError, match=r"of the leaf at \['w'\], which `params` has"):
        interop.from_torch(GOOD, state, {"v": W["w"]})
    twice = optax.chain(aj.adagrad(), aj.adagrad())
    with pytest.raises(ValueError, match=r"two accumulators of the leaf at \['w'\]"):
        interop.from_torch(GOOD, twice.init(W), W)
    params = {"v": jnp.ones(2), "w": jnp.ones(2)}
    only_w = optax.masked(optax.adagrad(0.1), {"v": False, "w": True})
    with pytest.raises(ValueError, match=r"only one of the states .* \['v'\]"):
        interop.from_optax(only_w.init(params), state_of(aj.Diagonal(), params), params)


def test_a_single_leaf():
    with pytest.raises(ValueError, match="sum.* of the one leaf of the tree is to be"):
        interop.to_torch(aj.adagrad().init(jnp.ones(2)), GOOD, jnp.ones(2), step=1)
