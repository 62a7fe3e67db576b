"""The Keras object gives TensorFlow 2.0's and Keras 3's numbers, step by step."""

import itertools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules
from tests import golden_cases as golden

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

# Clipping or gradients are computed here too, not only the update.
RECOMPUTED = 16
# A schedule's float32 value may be off by some units, also for float64 variables.
SCHEDULE = 16

TESTED = set()


def parametrize(peer, *kinds):
    cases = [*golden.dense_cases(peer, *kinds), *golden.sparse_cases(peer, *kinds)]
    TESTED.update(map(str, cases))
    return pytest.mark.parametrize("case", cases, ids=str)


@pytest.mark.parametrize("peer", ["tf20", "keras3"])
def test_every_case_is_tested(peer):
    cases = [*golden.dense_cases(peer), *golden.sparse_cases(peer)]
    cases = {str(case) for case in cases if not case.kind.startswith("v1_")}
    assert len(cases) == {"tf20": 102, "keras3": 48}[peer]
    assert cases <= TESTED


def arguments(case):
    result = dict(case.hyperparameters)
    rate = result.get("learning_rate")
    if isinstance(rate, dict) and "schedule" in rate:
        result["learning_rate"] = getattr(schedules, rate["schedule"])(**rate["args"])
    elif isinstance(rate, dict):
        values = itertools.cycle(rate["callable_values"])
        result["learning_rate"] = lambda: next(values)
    return result


def tf20(case):
    given = arguments(case)
    if "tensor" in case.name:
        given["learning_rate"] = jnp.float32(given["learning_rate"])
    return Adagrad(**given)


def keras3(case):
    given = arguments(case)
    scale = aj.scale_by_adagrad(
        given.pop("initial_accumulator_value", 0.1),
        given.pop("epsilon", 1e-7),
        accumulator=aj.Diagonal(dtype="parameter"),
        epsilon_in_sqrt=True,
    )
    return Optimizer(scale, given.pop("learning_rate", 0.001), **given)


def gradient(v, t):
    if v.grads is None:
        return v.rows(t)
    if v.present is not None and not v.present[t]:
        return None
    return jnp.asarray(v.grads[t], v.dtype)


def apply(case, opt, variables, t):
    opt.apply_gradients([(gradient(v, t), variables[v.name]) for v in case.variables])


def minimize(case, opt, variables, t):
    """A loss whose gradients are those recorded."""
    given = {v.name: gradient(v, t) for v in case.variables}

    def loss():
        total = 0.0
        for name, g in given.items():
            if isinstance(g, aj.RowSparse):
                # Out of range are those that only fill up, lest each step be compiled.
                rows = variables[name].value.at[g.ids].get(mode="fill", fill_value=0)
                total += jnp.sum(rows * g.values)
            else:
                total += jnp.sum(variables[name] * g)
        return total

    opt.minimize(loss, [variables[v.name] for v in case.variables])


def check(case, make, step=apply, *, before=None, constraint=None, units=6, rate=0):
    """As golden.check: from the peer's state before each step, and all through.

    Args:
      rate: Units of float32's epsilon that the learning rate may be off by.
    """
    first = opt = make(case)
    variables = {
        v.name: Variable(v.init, name=v.name, dtype=v.dtype, constraint=constraint)
        for v in case.variables
    }
    if case.peer == "keras3":
        opt.build(list(variables.values()))
    if case.manifest.get("weights", [""])[0] == "iter:0":
        assert opt.iterations == 0  # which makes it, outside of a step, as there
    start = opt.get_weights()
    for follow in (True, False):
        if not follow:
            opt = rewound(case, first, variables, start)
        size = {v.name: golden._magnitude(v.init) for v in case.variables}
        moved = dict.fromkeys(variables, 0.0)
        for t in range(case.steps):
            if follow and t:
                put(case, opt, variables, t - 1)
                moved = dict.fromkeys(variables, 0.0)
            if before is not None:
                opt = before(case, opt, variables, t) or opt
            old = {name: variable.numpy() for name, variable in variables.items()}
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Gradients do not exist")
                step(case, opt, variables, t)
            many = units * (1 if follow else t + 1)
            for v in case.variables:
                moved[v.name] += golden._magnitude(v.params[t] - old[v.name])
                size[v.name] = np.maximum(size[v.name], golden._magnitude(v.params[t]))
                slack = rate * 2.0**-23 * moved[v.name]
                where = f"{case}, step {t}, {v.name}, {follow=}"
                new = variables[v.name]
                compare(v, opt, new, t, old, size, slack, many, where, follow)
            counts = case.arrays.get("iterations")
            if counts is not None:
                assert int(opt.iterations) == counts[t]
    return opt, variables


def compare(v, opt, new, t, old, size, slack, units, where, follow):
    """Variable and slots after step t."""
    assert new.dtype == v.dtype
    size[v.name] = np.maximum(size[v.name], golden._magnitude(new.numpy()))
    slack = slack / (units * float(jnp.finfo(v.dtype).eps))
    golden.compare_parameters(
        new.numpy(),
        v.params[t],
        old[v.name],
        size[v.name] + slack,
        units,
        where,
        follow,
    )
    if v.present is None or v.present[: t + 1].any():
        slot = opt.get_slot(new, "accumulator").numpy()
        golden.compare(slot, v.acc[t], np.abs(v.acc[t]), units, where)
        assert slot.dtype == v.dtype
    if "average" in v.arrays:
        average = opt.get_slot(new, "average").numpy()
        golden.compare(average, v.arrays["average"][t], size[v.name], units, where)


def rewound(case, opt, variables, start):
    """The optimizer as it was before the first step, with what it has compiled."""
    initial = case.hyperparameters.get("initial_accumulator_value", 0.1)
    for v in case.variables:
        variables[v.name].assign(v.init)
    for weight in opt.weights[len(start) :]:  # made in a step
        value = 0 if weight is opt.iterations else initial
        weight.assign(np.full(weight.shape, value))
    for weight, value in zip(opt.weights, start, strict=False):
        weight.assign(value)
    return opt


def put(case, opt, variables, t):
    """The peer's state after step t."""
    for v in case.variables:
        variable = variables[v.name]
        variable.assign(v.params[t])
        for slot, values in (("accumulator", v.acc), *v.arrays.items()):
            if slot not in ("accumulator", "average") or np.isnan(values[t]).any():
                continue
            opt.get_slot(variable, slot).assign(values[t])


# TensorFlow 2.0


@parametrize("tf20", "dense", "dense_extreme", "dense_missing", "decay", "lr_keyword")
def test_tf20(case):
    def make(case):
        opt = tf20(case)
        if "get_config" in case.manifest:
            assert opt.get_config() == case.manifest["get_config"]
        return opt

    opt, _ = check(case, make)
    if "get_config_after" in case.manifest:
        assert opt.get_config() == case.manifest["get_config_after"]
    assert [w.name for w in opt.weights] == case.manifest["weights"]
    assert opt.get_slot_names() == ["accumulator"]


@parametrize("tf20", "schedule", "callable")
def test_tf20_schedule(case):
    def make(case):
        opt = tf20(case)
        if "callable_values" not in str(case.hyperparameters):
            assert opt.get_config() == case.manifest["get_config"]
        return opt

    check(case, make, rate=SCHEDULE)


@parametrize("tf20", "dense_float64_learning_rate")
def test_tf20_learning_rate_array_is_not_rounded(case):
    rate = jnp.asarray(case.hyperparameters["learning_rate"], jnp.float64)
    check(case, lambda case: Adagrad(rate))


@parametrize("tf20", "dense_set")
def test_tf20_learning_rate_set(case):
    def before(case, opt, variables, t):
        value = case.manifest["set_before_step"]["learning_rate"][t]
        if "variable" in case.name:
            opt.learning_rate.assign(value)
        elif t % 2:
            opt.learning_rate = value
        else:
            opt.lr = value

    def make(case):
        rate = case.hyperparameters["learning_rate"]
        return Adagrad(
            Variable(rate, dtype=jnp.float32) if "variable" in case.name else rate
        )

    check(case, make, before=before)


def non_negative(w):
    return w * (w >= 0)


@parametrize("tf20", "dense_constraint")
def test_tf20_constraint(case):
    check(case, tf20, constraint=non_negative)


@parametrize("tf20", "dense_repeated")
def test_tf20_variable_twice_in_one_step(case):
    def twice(case, opt, variables, t):
        opt.apply_gradients(
            [
                pair
                for v in case.variables
                for pair in [
                    (v.grads[t], variables[v.name]),
                    (v.arrays["grads2"][t], variables[v.name]),
                ]
            ]
        )

    check(case, tf20, twice, units=12)  # two updates a step


@parametrize("tf20", "dense_restored")
def test_tf20_restored(case):
    def before(case, opt, variables, t):
        if t != case.manifest["restored_before_step"]:
            return None
        weights = opt.get_weights()
        other = tf20(case)
        other.build(list(variables.values()))
        other.set_weights(weights[1:] if "without" in case.name else weights)
        return other

    check(case, tf20, before=before)


@parametrize("tf20", "clip")
def test_tf20_clip(case):
    check(case, tf20, minimize, units=RECOMPUTED)


@parametrize("tf20", "clip_not_applied", "sparse")
def test_tf20_without_clipping_and_sparse(case):
    rate = SCHEDULE if "schedule" in case.name else 0
    opt, _ = check(case, tf20, rate=rate)
    assert [w.name for w in opt.weights] == case.manifest["weights"]


@parametrize("tf20", "sparse_clip")
def test_tf20_sparse_clip(case):
    check(case, tf20, minimize, units=RECOMPUTED)


@parametrize("tf20", "get_updates")
def test_tf20_get_updates(case):
    def step(case, opt, variables, t):
        (v,) = case.variables
        w = variables[v.name]
        loss = lambda: jnp.sum(w * v.grads[t])  # noqa: E731
        (found,) = opt.get_gradients(loss, [w])
        wanted = v.arrays.get("clipped", v.grads)[t]
        golden.compare(found, wanted, np.abs(wanted), RECOMPUTED, f"{case} {t}")
        (count,) = opt.get_updates(loss, [w])
        assert count == t + 1

    check(case, tf20, step, units=RECOMPUTED)


@parametrize("tf20", "minimize")
def test_tf20_regression(case):
    losses = case.arrays["losses"]
    features, targets = case.arrays["features"], case.arrays["targets"]
    dtype = case.variables[0].dtype
    # Gradients come from sums that XLA and TensorFlow do in another order.
    tolerance = 100 * float(jnp.finfo(dtype).eps)
    w, b = (Variable(v.init, name=v.name, dtype=v.dtype) for v in case.variables)
    opt = tf20(case)

    def loss():
        return jnp.mean((features @ w + b - targets) ** 2)

    for t in range(case.steps):
        np.testing.assert_allclose(loss(), losses[t], rtol=tolerance)
        opt.minimize(loss, [w, b])
        for v, variable in zip(case.variables, (w, b), strict=True):
            np.testing.assert_allclose(
                variable.numpy(), v.params[t], rtol=tolerance, atol=tolerance
            )
    np.testing.assert_allclose(loss(), losses[case.steps], rtol=tolerance)


# Keras 3


@parametrize(
    "keras3",
    "dense",
    "weight_decay",
    "accumulation",
    "loss_scale",
    "missing",
    "callable",
)
def test_keras3(case):
    def make(case):
        opt = keras3(case)
        excluded = case.manifest.get("exclude_from_weight_decay", {})
        if excluded:
            opt.exclude_from_weight_decay(
                var_names=[*(excluded["var_names"] or []), *excluded["var_list"]]
            )
        return opt

    scheduled = "schedule" in case.name
    check(case, make, units=RECOMPUTED, rate=SCHEDULE if scheduled else 0)


@parametrize("keras3", "clip", "ema", "everything")
def test_keras3_recomputed(case):
    opt, variables = check(case, keras3, units=RECOMPUTED)
    finalized = [v.arrays.get("finalized") for v in case.variables]
    opt.finalize_variable_values(list(variables.values()))
    for v, final in zip(case.variables, finalized, strict=True):
        if final is not None:
            size = np.abs(np.asarray(final, np.float64)) + np.abs(v.init)
            units = RECOMPUTED * case.steps
            golden.compare(variables[v.name].numpy(), final, size, units, str(case))


@parametrize("keras3", "schedule")
def test_keras3_schedule(case):
    check(case, keras3, rate=SCHEDULE)


@parametrize("keras3", "set")
def test_keras3_learning_rate_set(case):
    def before(case, opt, variables, t):
        opt.learning_rate = case.manifest["set_before_step"]["learning_rate"][t]

    check(case, keras3, before=before)


@parametrize("keras3", "constraint")
def test_keras3_constraint(case):
    check(case, keras3, constraint=non_negative)
