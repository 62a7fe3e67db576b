"""Checkpoints of PyTorch."""

import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests import golden_cases as golden
from tests.interop.common import (
    GOOD,
    ORDER,
    W,
    assert_same,
    case_named,
    go_on,
    order_of,
    resumed,
    state_of,
    torch_state_dict,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


@pytest.mark.parametrize(
    "name",
    [
        "lr_decay_float32",
        "everything_float64",
        "mixed_dtypes",
        "sparse_random_float64",
    ],
)
def test_torch_goes_on(name):
    case = case_named("torch", name)

    def fill(sums, step, state, params):
        state_dict = torch_state_dict(sums, [step] * len(sums))
        return interop.from_torch(state_dict, state, params, order=order_of(case))

    go_on(case, aj.dialects.torch(**case.hyperparameters), fill)


@pytest.mark.parametrize("name", ["groups_float64", "state_dict_example"])
def test_torch_groups_go_on(name):
    """Numbers run through the groups; here each group is a part of a partition."""
    case = case_named("torch", name)
    groups = case.manifest["groups"]
    order = [name for group in groups for name in group["variables"]]
    optimizer = optax.partition(
        {
            i: aj.dialects.torch(**(case.hyperparameters | group["hyperparameters"]))
            for i, group in enumerate(groups)
        },
        {name: i for i, group in enumerate(groups) for name in group["variables"]},
    )

    def fill(sums, step, state, params):
        by_name = dict(zip([v.name for v in case.variables], sums, strict=True))
        numbers = iter(range(len(order)))
        numbers = [[next(numbers) for _ in group["variables"]] for group in groups]
        state_dict = torch_state_dict(
            [by_name[name] for name in order], [step] * len(order), numbers
        )
        paths = [f"['{name}']" for name in order]
        return interop.from_torch(state_dict, state, params, order=paths)

    go_on(case, optimizer, fill)


def zeros_state_dict():
    return torch_state_dict(
        [np.zeros((4, 3), np.float32), np.zeros((3, 2), np.float32), np.zeros(3)],
        [0, 0, 0],
        [[0, 1], [2]],
    )


def test_torch_and_back(trained):
    params, fresh, state = trained
    arguments = {"order": ORDER, "axes": {"['kernel']": (1, 0)}}
    filled = interop.to_torch(state, zeros_state_dict(), params, **arguments)
    assert [entry["step"] for entry in filled["state"].values()] == [3, 3, 3]
    assert filled["state"][0]["step"].dtype == np.float32
    assert filled["param_groups"] == zeros_state_dict()["param_groups"]
    kernel = golden._accumulators(state)["kernel"]
    np.testing.assert_array_equal(filled["state"][1]["sum"], kernel.T)
    back = interop.from_torch(filled, fresh, params, **arguments)
    assert_same(back, resumed(fresh, state))


# What cannot be


@pytest.mark.parametrize(
    "state_dict, error, message",
    [
        ([1, 2], TypeError, "must be what the state_dict.* got a list of 2"),
        ({"state": {}}, TypeError, "'param_groups' .*got the keys 'state'"),
        (
            torch_state_dict([], []),
            ValueError,
            r"1 parameters, the leaf at \['w'\], .*0",
        ),
        (
            torch_state_dict([1, 2], [0, 0]),
            ValueError,
            r"1 parameters, the leaf at \['w'\], got 2; name those .* `order`",
        ),
        (
            {"state": {}, "param_groups": [{"params": [0]}]},
            ValueError,
            r"parameter 0, which is the leaf at \['w'\], .*got the keys \(none\)",
        ),
        (
            {
                "state": {0: {"step": 1, "exp_avg": 0, "exp_avg_sq": 0}},
                "param_groups": [{"params": [0]}],
            },
            ValueError,
            "'step', 'exp_avg', 'exp_avg_sq'; is it another optimizer's",
        ),
        (
            torch_state_dict([np.ones((3, 2))], [0]),
            ValueError,
            r"\['w'\] is to be of shape \(2, 3\), got \(3, 2\); .*`axes`",
        ),
        (
            torch_state_dict([np.array(["a"])], [0]),
            TypeError,
            "must be of numbers",
        ),
        (
            torch_state_dict([np.ones((2, 3))], [0.5]),
            ValueError,
            "one integer from 0 to",
        ),
        (
            torch_state_dict([np.ones((2, 3))], [-1]),
            ValueError,
            "one integer from 0 to",
        ),
    ],
)
def test_bad_state_dicts(state_dict, error, message):
    with pytest.raises(error, match=message):
        interop.from_torch(state_dict, state_of(aj.Diagonal()), W)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"order": "['w']"}, TypeError, "must be a list of paths, got the text"),
        ({"order": ["w"]}, ValueError, r"`order` must have .*\"\['w'\]\", got 'w'"),
        ({"order": ["['w']"] * 2}, ValueError, "name each leaf once, got .* twice"),
        ({"order": []}, ValueError, "of 0 parameters"),
        ({"axes": {"w": (1, 0)}}, ValueError, r"`axes` must have paths .* got 'w'"),
        ({"axes": {"['w']": (1, 1)}}, ValueError, r"of \(0, 1\) once, got \(1, 1\)"),
        ({"axes": {"['w']": (1, 0)}}, ValueError, r"shape \(2, 3\), got \(3, 2\)"),
        ({"step": -1}, ValueError, "integer from 0 to .* got -1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    for convert in (
        lambda **kw: interop.from_torch(GOOD, state_of(aj.Diagonal()), W, **kw),
        lambda **kw: interop.to_torch(state_of(aj.Diagonal()), GOOD, W, **kw),
    ):
        with pytest.raises(error, match=message):
            convert(**{"step": 1} | arguments)
