"""Peers' checkpoints: what they trained goes on here, and back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax import interop
from tests import golden_cases as golden

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


# A run of a peer, interrupted, goes on here


def case_named(peer, name):
    cases = [*golden.dense_cases(peer), *golden.sparse_cases(peer)]
    (case,) = [case for case in cases if case.name == name]
    return case


def order_of(case):
    """Peers number variables as they were made; our tree sorts them by name."""
    return [f"['{v.name}']" for v in case.variables]


def go_on(case, optimizer, fill, units=6):
    """Runs the second half from the peer's checkpoint, held against the peer's."""
    start = case.steps // 2
    assert start > 0
    params = {v.name: jnp.asarray(v.params[start - 1], v.dtype) for v in case.variables}
    accumulators = [v.acc[start - 1].astype(v.dtype) for v in case.variables]
    state = fill(accumulators, start, optimizer.init(params), params)
    sizes = {name: np.abs(np.asarray(p, np.float64)) for name, p in params.items()}
    gradients = golden.recorded_gradients(case)

    @jax.jit
    def apply(gradients, state, params):
        gradients = golden._to_rows(gradients)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(start, case.steps):
        before = params
        given = golden._from_rows(gradients(t, params))
        params, state = apply(given, state, params)
        kept = golden._accumulators(state)
        for v in case.variables:
            allowed = units * (t - start + 1)
            where = f"{case}, step {t}, {v.name}"
            for array in (params[v.name], v.params[t]):
                size = np.abs(np.asarray(array, np.float64))
                sizes[v.name] = np.maximum(sizes[v.name], size)
            golden.compare_parameters(
                params[v.name],
                v.params[t],
                before[v.name],
                sizes[v.name],
                allowed,
                where,
                follow_peer=False,
            )
            golden.compare(kept[v.name], v.acc[t], v.acc[t], allowed, where)


def torch_state_dict(sums, steps, groups=None):
    groups = groups or [range(len(sums))]
    return {
        "state": {
            i: {"step": np.float32(step), "sum": array}
            for i, (array, step) in enumerate(zip(sums, steps, strict=True))
        },
        "param_groups": [{"lr": 0.5, "params": list(group)} for group in groups],
    }


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


# There and back


PARAMS = {"bias": jnp.zeros(3), "kernel": jnp.zeros((2, 3)), "table": jnp.zeros((4, 3))}
ORDER = ["['table']", "['kernel']", "['bias']"]


def decay(count):
    return 0.1 / (1 + count)


OPTIMIZERS = {
    "schedule": aj.adagrad(decay),
    "chain": optax.chain(aj.clip_by_global_norm(1.0), aj.dialects.torch(lr_decay=0.1)),
    "inject": optax.inject_hyperparams(aj.dialects.torch)(decay),
    "inject inside": optax.chain(
        optax.identity(), optax.inject_hyperparams(aj.adagrad)(0.1)
    ),
    "partition": optax.partition(
        {"a": aj.adagrad(decay), "b": aj.dialects.torch(decay)},
        {"bias": "a", "kernel": "b", "table": "a"},
    ),
    "masked": optax.chain(
        optax.masked(
            aj.adagrad(decay), {"bias": True, "kernel": False, "table": False}
        ),
        optax.masked(aj.adagrad(decay), {"bias": False, "kernel": True, "table": True}),
    ),
    "multi steps": optax.MultiSteps(aj.adagrad(decay), 1),
    "average": aj.dialects.keras3(decay, use_ema=True),
}


@pytest.fixture(params=OPTIMIZERS, scope="module")
def trained(request):
    """An optimizer, and its state before and after some steps."""
    optimizer = OPTIMIZERS[request.param]
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        key = jax.random.key(0)
        params = jax.tree.map(lambda p: p.astype(jnp.float32), PARAMS)
        fresh = state = optimizer.init(params)
        for i in range(3):
            gradients = jax.tree.map(
                lambda p, i=i: jax.random.normal(jax.random.fold_in(key, i), p.shape),
                params,
            )
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
    return params, fresh, state


def resumed(fresh, state, fields=("accumulator", "count")):
    """The fresh state with what a checkpoint can bring back."""

    def pick(path, old, new):
        names = [getattr(key, "name", None) for key in path]
        return new if any(field in names for field in fields) else old

    return jax.tree_util.tree_map_with_path(pick, fresh, state)


def assert_same(ours, expected):
    for got, wanted in zip(
        jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
    ):
        assert jnp.asarray(got).dtype == jnp.asarray(wanted).dtype
        np.testing.assert_array_equal(got, wanted)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)


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


@pytest.mark.parametrize("accumulator", [aj.RowWise(), aj.Diagonal()], ids=str)
def test_fbgemm_and_back(accumulator):
    params = {"items": jnp.ones((4, 3)), "users": jnp.ones((2, 8))}
    order = ["['users']", "['items']"]
    optimizer = aj.adagrad(0.1, accumulator=accumulator)
    fresh = optimizer.init(params)
    _, state = optimizer.update(params, fresh)
    zeros = [
        [np.zeros_like(golden._accumulators(fresh)[t])] for t in ("users", "items")
    ]
    filled = interop.to_fbgemm(state, zeros, params, order=order)
    assert_same(interop.from_fbgemm(filled, fresh, params, order=order), state)


def test_optax_takes_our_state_and_goes_on():
    """Both optimizers make the same steps from there."""
    params = {"w": jnp.array([1.0, -2.0])}
    gradients = {"w": jnp.array([0.5, 3.0])}
    theirs, ours = optax.adagrad(decay), aj.dialects.optax(decay)
    _, state = ours.update(gradients, ours.init(params))
    opt_state = interop.to_optax(state, theirs.init(params), params)
    expected, _ = theirs.update(gradients, opt_state)
    updates, _ = ours.update(gradients, state)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-15)


def test_complex_accumulators_of_optax_are_real():
    params = jnp.array([1 + 2j])
    theirs, ours = optax.adagrad(0.1), aj.dialects.optax(0.1)
    _, opt_state = theirs.update(params, theirs.init(params))
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


# Parts of a state


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


# Arrays


def sharded_params():
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    return {"w": jax.device_put(jnp.ones((4, 2)), rows)}, rows


def test_sharding_stays():
    params, rows = sharded_params()
    optimizer = aj.adagrad(decay)
    weights = [2, np.full((4, 2), 3.0)]
    state = interop.from_keras(weights, optimizer.init(params), params)
    assert optax.tree.get(state, "accumulator")["w"].sharding == rows
    # As init left it: bound to no device, so that it may meet sharded arrays.
    assert not optax.tree.get(state, "count").committed
    jax.jit(optimizer.update)(params, state)


def test_abstract_states_are_filled_too():
    params, rows = sharded_params()
    shape = jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=rows)
    state = (aj.ScaleByAdagradState({"w": shape}), optax.EmptyState())
    (filled, _) = interop.from_keras([2, np.ones((4, 2))], state, {"w": shape})
    assert filled.accumulator["w"].sharding == rows
    assert filled.accumulator["w"].dtype == jnp.float32


def test_memory_is_not_shared():
    params = jnp.zeros(2)
    theirs = np.array([1.0, 2.0])
    state = interop.from_keras([0, theirs], aj.adagrad().init(params), params)
    theirs[:] = 0
    ours = optax.tree.get(state, "accumulator")
    np.testing.assert_array_equal(ours, [1, 2])
    filled = interop.to_keras(state, [np.int64(0), theirs], params, step=1)
    filled[1][:] = 0
    np.testing.assert_array_equal(ours, [1, 2])


def test_dtype_is_that_of_the_replaced():
    params = {"half": jnp.ones(2, jnp.float16), "brain": jnp.ones(2, jnp.bfloat16)}
    optimizer = aj.dialects.torch()
    state_dict = torch_state_dict([np.full(2, 0.1), np.full(2, 0.1)], [1, 1])
    state = interop.from_torch(state_dict, optimizer.init(params), params)
    assert_same(
        optax.tree.get(state, "accumulator"),
        {
            "half": jnp.full(2, 0.1, jnp.float16),
            "brain": jnp.full(2, 0.1, jnp.bfloat16),
        },
    )
    state_dict["state"][1]["sum"] = np.array([1e5, 1.0])
    with pytest.raises(ValueError, match=r"\['half'\] overflows float16, got 100000"):
        interop.from_torch(state_dict, optimizer.init(params), params)


@dataclasses.dataclass
class Tensor:
    """What of a PyTorch tensor is used."""

    array: np.ndarray
    dtype: str = "torch.float32"

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def __array__(self, dtype=None, copy=None):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.array(self.array, dtype)


def test_tensors():
    params = jnp.zeros(2)
    bfloat16 = Tensor(np.array([1.5, 2.5]), "torch.bfloat16")
    state_dict = torch_state_dict([bfloat16], [0])
    state_dict["state"][0]["step"] = Tensor(np.float32(3))
    fresh = aj.dialects.torch(decay).init(params)
    state = interop.from_torch(state_dict, fresh, params)
    np.testing.assert_array_equal(optax.tree.get(state, "accumulator"), [1.5, 2.5])
    filled = interop.to_torch(state, state_dict, params, as_tensor=Tensor)
    assert isinstance(filled["state"][0]["sum"], Tensor)
    assert isinstance(filled["state"][0]["step"], Tensor)
    np.testing.assert_array_equal(filled["state"][0]["sum"].array, [1.5, 2.5])


# What cannot be


W = {"w": jnp.ones((2, 3))}


def state_of(accumulator, params=W):
    return aj.adagrad(0.1, accumulator=accumulator).init(params)


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


ENTRY = {"step": 1, "sum": np.ones((2, 3))}


@pytest.mark.parametrize(
    "state_dict, error, message",
    [
        ([1, 2], TypeError, "must be what the state_dict.* got a list of 2"),
        ({"state": {}}, TypeError, "'param_groups', got the keys 'state'"),
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
            "array of numbers was expected",
        ),
        (torch_state_dict([np.ones((2, 3))], [0.5]), ValueError, "one integer >= 0"),
        (torch_state_dict([np.ones((2, 3))], [-1]), ValueError, "one integer >= 0"),
    ],
)
def test_bad_state_dicts(state_dict, error, message):
    with pytest.raises(error, match=message):
        interop.from_torch(state_dict, state_of(aj.Diagonal()), W)


GOOD = torch_state_dict([np.ones((2, 3))], [1])


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
        ({"step": -1}, ValueError, "one integer >= 0, got -1"),
    ],
)
def test_bad_arguments(arguments, error, message):
    for convert in (
        lambda **kw: interop.from_torch(GOOD, state_of(aj.Diagonal()), W, **kw),
        lambda **kw: interop.to_torch(state_of(aj.Diagonal()), GOOD, W, **kw),
    ):
        with pytest.raises(error, match=message):
            convert(**{"step": 1} | arguments)


@pytest.mark.parametrize(
    "weights, message",
    [
        ([], "accumulator of .*: 2 or 3 arrays, got 0"),
        ([np.ones((2, 3))], r"2 or 3 arrays, got 1 of shapes \(2, 3\)"),
        ([1, 0.1, np.ones((2, 3)), np.ones((2, 3))], "got 4 of shapes"),
        ([1, np.ones((2, 3)), np.ones((2, 3))], "got 3 of shapes"),
        ([1, np.ones(6)], r"\['w'\] is to be of shape \(2, 3\), got \(6,\)"),
        ([0.5, np.ones((2, 3))], "one integer >= 0, got"),
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


def test_keras_counts_calls_where_gradients_are_accumulated():
    optimizer = aj.dialects.keras3(decay, gradient_accumulation_steps=2)
    weights = [np.int32(5), *[np.ones((2, 3))] * 2]
    with pytest.raises(ValueError, match="`step` must be given"):
        interop.from_keras(weights, optimizer.init(W), W)
    state = interop.from_keras(weights, optimizer.init(W), W, step=2)
    assert optax.tree.get(state, "count") == 2
    assert optax.tree.get(state, "calls") == 5
    assert interop.to_keras(state, weights, W)[0] == 5


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


def test_several_counts_of_one_leaf():
    counted = optax.chain(aj.adagrad(decay), optax.scale_by_schedule(decay))
    state = counted.init(W)
    state = (state[0], state[1]._replace(count=jnp.array(2)))
    with pytest.raises(ValueError, match=r"several counts .* \['w'\]: \[0, 2\]"):
        interop.to_torch(state, GOOD, W)


def test_a_single_leaf():
    with pytest.raises(ValueError, match="sum.* of the one leaf of the tree is to be"):
        interop.to_torch(aj.adagrad().init(jnp.ones(2)), GOOD, jnp.ones(2), step=1)


def test_the_schedule_of_lazy_decay_goes_on_too():
    schedule = lambda count: 1.0 / (1 + count)  # noqa: E731
    params, old = {"w": jnp.ones(3)}, optax.adagrad(schedule)
    theirs = old.init(params)
    for _ in range(5):
        _, theirs = old.update({"w": jnp.ones(3)}, theirs, params)
    new = optax.chain(aj.adagrad(schedule), aj.lazy_weight_decay(schedule, 0.5))
    state = interop.from_optax(theirs, new.init(params), params)
    updates, _ = new.update({"w": jnp.zeros(3)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.5 / 6, rtol=1e-6)
