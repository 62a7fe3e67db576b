"""States that no optimizer should go on from, given to every reader and writer."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests.interop.common import state_of, torch_state_dict

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

W = {"w": jnp.ones(2)}
ONE = {"w": jnp.ones(())}
FLOAT32, FLOAT16 = (
    state_of(aj.Diagonal(dtype=dtype), W) for dtype in (jnp.float32, jnp.float16)
)


def read_torch(array, state):
    return interop.from_torch(torch_state_dict([array], [1]), state, W)


def read_keras(array, state):
    return interop.from_keras([1, 0.1, array], state, W)


def read_optax(array, state):
    return interop.from_optax(optax.ScaleByRssState({"w": array}), state, W)


def read_fbgemm(array, state):
    return interop.from_fbgemm([[array]], state, W)


def ours(array):
    return aj.ScaleByAdagradState({"w": array})


def write_torch(array, like):
    there = torch_state_dict([like], [0])
    return interop.to_torch(ours(array), there, W, step=1)["state"][0]["sum"]


def write_keras(array, like):
    return interop.to_keras(ours(array), [1, 0.1, like], W, step=1)[2]


def write_optax(array, like):
    there = optax.ScaleByRssState({"w": jnp.asarray(like)})
    return interop.to_optax(ours(array), there, W).sum_of_squares["w"]


def write_fbgemm(array, like):
    return interop.to_fbgemm(ours(array), [[like]], W)[0][0]


READERS = [read_torch, read_keras, read_optax, read_fbgemm]
WRITERS = [write_torch, write_keras, write_optax, write_fbgemm]

AT = r" of the leaf at \['w'\] "
BAD = {
    "NaN": ([np.nan, 1], AT + "must be sums of squares, .* got nan; take"),
    "NaN and infinity": ([np.inf, np.nan], AT + "must be sums of .* got nan; take"),
    "negative": ([1, -2.5], AT + "must be sums of squares, .* got -2.5; take"),
    "minus infinity": ([-np.inf, 1], AT + "must be sums of .* got -inf; take"),
    "negative and tiny": ([-1e-60, 1], AT + "must be sums of .* got -1e-60; take"),
    "0 there": ([1e-60, 1], AT + "becomes 0 in float32, got 1e-60; keep"),
    "too large": ([1e60, 1], AT + r"overflows float32, got 1e\+60; keep"),
}
SHAPES = {
    "other shape": ([1, 1, 1], AT + r"is to be of shape \(2,\), got \(3,\); check"),
    "no axis": (1, AT + r"is to be of shape \(2,\), got \(\); check"),
    "none": ([], AT + r"is to be of shape \(2,\), got \(0,\); check"),
}
GOOD = {
    "zeros": [0, 0],
    "minus 0": [-0.0, 1],
    "infinity": [np.inf, 1],
    "denormal": [1e-40, 1],
    "largest": [3e38, 1],
    "integers": np.array([1, 2]),
    "unsigned": np.array([1, 2], np.uint8),
    "half": np.array([6e-8, 1], np.float16),
    "brain": jnp.array([1e-38, 1], jnp.bfloat16),
    "real though complex": np.array([2 + 0j, 1]),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_sum_of_squares_is_not_read(read, bad):
    array, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        read(np.asarray(array, np.float64), FLOAT32)


@pytest.mark.parametrize("bad", SHAPES)
@pytest.mark.parametrize("read", [read_torch, read_keras, read_fbgemm])
def test_what_is_of_another_shape_is_not_read(read, bad):
    array, message = SHAPES[bad]
    with pytest.raises(ValueError, match=message):
        read(np.asarray(array, np.float64), FLOAT32)


@pytest.mark.parametrize("bad", ["NaN", "negative", "0 there", "too large"])
@pytest.mark.parametrize("write", WRITERS)
def test_nor_written(write, bad):
    array, message = BAD[bad]
    with pytest.raises(ValueError, match=message):
        write(np.array(array), np.zeros(2, np.float32))


@pytest.mark.parametrize("good", GOOD)
@pytest.mark.parametrize("read", READERS)
def test_odd_sums_of_squares_are_read(read, good):
    array = np.asarray(GOOD[good])
    state = optax.tree.get(read(array, FLOAT32), "accumulator")
    kept = np.asarray(state["w"])  # as NumPy rounds, for XLA flushes to 0
    np.testing.assert_array_equal(kept, np.real(array).astype(np.float32))


@pytest.mark.parametrize("read", READERS)
def test_float16_is_too_coarse_for_what_float32_keeps(read):
    with pytest.raises(ValueError, match=AT + "becomes 0 in float16, got 1e-09; keep"):
        read(np.array([1.0, 1e-9]), FLOAT16)
    read(np.array([1.0, 1e-9]), FLOAT32)
    read(np.array([1.0, 6e-8]), FLOAT16)


@pytest.mark.parametrize(
    "odd",
    [None, "x", [1, "a"], [[1], [2, 3]], True, np.array([True, False]), {}],
)
@pytest.mark.parametrize("read", [read_torch, read_keras, read_fbgemm])
def test_what_is_of_no_numbers_is_not_read(read, odd):
    what = "each of `weights`" if read is read_keras else r"of the leaf at \['w'\]"
    with pytest.raises(TypeError, match=what + " must be of numbers, got .* of dtype"):
        read(odd, FLOAT32)


@pytest.mark.parametrize(
    "steps", [np.inf, np.nan, 1e30, 2**31, -1, 0.5, np.ones(1), 1 + 0j, "3", True]
)
def test_what_is_no_number_of_steps_is_not_read(steps):
    message = "must be (one integer from 0 to|of numbers, got)"
    with pytest.raises((ValueError, TypeError), match=message):
        interop.from_torch(torch_state_dict([np.ones(2)], [1]), FLOAT32, W, step=steps)
    there = torch_state_dict([np.ones(2)], [1])
    there["state"][0]["step"] = steps
    with pytest.raises((ValueError, TypeError), match=message):
        interop.from_torch(there, FLOAT32, W)
    if np.ndim(steps) == 0:
        with pytest.raises((ValueError, TypeError), match=message):
            interop.from_keras([steps, 0.1, np.ones(2)], FLOAT32, W)


def test_averages_and_sums_of_gradients_have_any_sign():
    optimizer = aj.dialects.keras3(0.1, use_ema=True, gradient_accumulation_steps=2)
    weights = [2, 0.1, np.full(2, -3.0), np.full(2, -1e-60), np.ones(2)]
    state = interop.from_keras(weights, optimizer.init(W), W)
    np.testing.assert_array_equal(optax.tree.get(state, "average")["w"], [-3, -3])


# PyTorch's numbers


@pytest.mark.parametrize(
    "change",
    [
        {"state": None},
        {"state": [1]},
        {"param_groups": None},
        {"param_groups": [None]},
        {"param_groups": [{"lr": 0.1}]},
    ],
)
def test_a_state_dict_is_one_of_pytorch(change):
    state_dict = torch_state_dict([np.ones(2)], [1]) | change
    with pytest.raises(TypeError, match="must be what the state_dict.* 'params', got"):
        interop.from_torch(state_dict, FLOAT32, W)


@pytest.mark.parametrize(
    "groups, kept, message",
    [
        ([[0, 0]], [0], r"got 0 2 times, for the leaf at \['v'\], the .*'w'\]; leave"),
        ([[0], [0]], [0], r"in one group, got 0 2 times, for the .*'v'\], .*; leave"),
        ([[0, 1], [1]], [0, 1], r"got 1 2 times, for the leaf at \['w'\]; leave"),
        ([[0], [1]], [0, 1, 2], r"\[0, 1\], which are .* got also \[2\]; take"),
        ([[0, 1]], [0, 1, "0", 7], r"got also \['0', 7\]; take 'state' and"),
    ],
)
def test_parameters_are_in_one_group_each(groups, kept, message):
    params = {"v": jnp.ones(2), "w": jnp.ones(2)}
    state_dict = torch_state_dict([np.ones(2)] * 2, [1, 1], groups)
    entry = state_dict["state"][0]
    state_dict["state"] = dict.fromkeys(kept, entry)
    state = aj.adagrad(0.1).init(params)
    with pytest.raises(ValueError, match=message):
        interop.from_torch(state_dict, state, params)
    with pytest.raises(ValueError, match=message):
        interop.to_torch(state, state_dict, params, step=1)


# Keras' numbers


class Named:
    """A variable of Keras."""

    def __init__(self, name, value):
        self.name, self.value = name, value

    def __array__(self, dtype=None, copy=None):
        return np.array(self.value, dtype)


@pytest.mark.parametrize("named", [Named, lambda *pair: pair], ids=["variable", "pair"])
@pytest.mark.parametrize("rate", ["learning_rate", "adagrad/learning_rate:0"])
def test_names_tell_a_rate_from_an_accumulator(named, rate):
    state = aj.adagrad(0.1).init(ONE)
    iterations, rate = named("adagrad/iteration", 3), named(rate, 0.5)
    accumulator = named("adagrad/learning_rate_accumulator", 2.0)
    for weights in ([iterations, accumulator], [iterations, rate, accumulator]):
        read = interop.from_keras(weights, state, ONE)
        assert optax.tree.get(read, "accumulator")["w"] == 2
        written = interop.to_keras(state, weights, ONE, step=4)
        np.testing.assert_allclose(written, [4, *[0.5] * (len(weights) - 2), 0.1])
    for weights in ([iterations, rate], [iterations, accumulator, accumulator]):
        with pytest.raises(
            ValueError, match=r"got [23] of shapes adagrad|iteration \("
        ):
            interop.from_keras(weights, state, ONE)
    for convert in (
        lambda weights: interop.from_keras(weights, state, ONE),
        lambda weights: interop.to_keras(state, weights, ONE, step=1),
    ):
        with pytest.raises(
            ValueError, match=r"must have names .* of the leaf at \['w'\], got 2"
        ):
            convert([3, 0.5])
        convert([3, 0.5, 2.0])
