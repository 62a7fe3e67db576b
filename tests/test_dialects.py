"""The dialects give the numbers that the peers gave, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests import golden_cases as golden

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

# Clipping or gradients are computed here too, not only the update.
RECOMPUTED = 16


def table(values):
    """A schedule that looks its value up."""
    values = jnp.asarray(values)
    return lambda count: values[count]


def keras_arguments(case):
    """The recorded arguments, with a schedule for what was a schedule or callable."""
    arguments = dict(case.hyperparameters)
    rate = arguments.get("learning_rate")
    if isinstance(rate, dict) and "callable_values" in rate:
        arguments["learning_rate"] = table(rate["callable_values"])
    elif isinstance(rate, dict) and "schedule_values" in case.arrays:
        steps = case.arrays["schedule_steps"]
        assert np.array_equal(steps[: case.steps], np.arange(case.steps))
        arguments["learning_rate"] = table(case.arrays["schedule_values"])
    elif isinstance(rate, dict) and rate["schedule"] == "InverseTimeDecay":
        args = rate["args"]
        assert not args["staircase"]
        arguments["learning_rate"] = aj.inverse_time_decay(
            args["initial_learning_rate"], args["decay_rate"] / args["decay_steps"]
        )
    elif isinstance(rate, dict):
        assert rate["schedule"] == "ExponentialDecay"
        args = rate["args"]
        arguments["learning_rate"] = optax.exponential_decay(
            args["initial_learning_rate"], args["decay_steps"], args["decay_rate"]
        )
    return arguments


def set_before_step(case, name):
    """Assigns the recorded learning rates to an injected hyperparameter."""

    def before_step(t, state):
        value = case.manifest["set_before_step"][name][t]
        injected = state.hyperparams[name]
        return optax.tree.set(state, **{name: jnp.asarray(value, injected.dtype)})

    return before_step


TESTED = set()


def parametrize(peer, *kinds, cases=golden.dense_cases):
    cases = cases(peer, *kinds)
    TESTED.update(str(case) for case in cases)
    return pytest.mark.parametrize("case", cases, ids=str)


def parametrize_sparse(peer, *kinds):
    return parametrize(peer, *kinds, cases=golden.sparse_cases)


@pytest.mark.parametrize("peer", ["tf20", "keras3", "torch", "optax"])
def test_every_dense_case_is_tested(peer):
    cases = golden.dense_cases(peer)
    assert len(cases) > 25
    assert {str(case) for case in cases} <= TESTED


SPARSE_CASES = {"tf20": 37, "torch": 8, "keras3": 0, "optax": 0, "fbgemm": 22}
SPARSE_CASES |= {"sparsecore": 13}
# PyTorch's is sparse in both axes of a matrix; a RowSparse has whole rows.
NOT_ROW_SPARSE = {"torch-sparse_two_dims_float64"}


@pytest.mark.parametrize("peer", SPARSE_CASES)
def test_every_sparse_case_is_tested(peer):
    cases = golden.sparse_cases(peer)
    assert len(cases) == SPARSE_CASES[peer]
    left_out = {str(case) for case in cases} - TESTED
    assert left_out == {name for name in NOT_ROW_SPARSE if name.startswith(peer)}


# TensorFlow 2.0


@parametrize(
    "tf20", "dense", "dense_extreme", "decay", "schedule", "callable", "dense_missing"
)
def test_tf20(case):
    golden.check(case, aj.dialects.keras(**keras_arguments(case)))


@parametrize("tf20", "lr_keyword")
def test_tf20_lr_keyword(case):
    golden.check(case, aj.dialects.keras(**case.hyperparameters))


@parametrize("tf20", "dense_float64_learning_rate")
def test_tf20_learning_rate_array_is_not_rounded(case):
    rate = jnp.asarray(case.hyperparameters["learning_rate"], jnp.float64)
    golden.check(case, aj.dialects.keras(rate))


@parametrize("tf20", "dense_set")
def test_tf20_learning_rate_set(case):
    optimizer = optax.inject_hyperparams(aj.dialects.keras)(**case.hyperparameters)
    golden.check(case, optimizer, before_step=set_before_step(case, "learning_rate"))


@parametrize("tf20", "dense_constraint")
def test_tf20_constraint(case):
    golden.check(
        case,
        aj.dialects.keras(**case.hyperparameters),
        after_step=lambda params: jax.tree.map(lambda p: p * (p >= 0), params),
    )


@parametrize("tf20", "dense_repeated")
def test_tf20_variable_twice_in_a_step(case):
    """Two updates, one after the other."""
    (variable,) = case.variables
    optimizer = aj.dialects.keras(**case.hyperparameters)
    params = jnp.asarray(variable.init)
    state = optimizer.init(params)
    size = np.abs(variable.init)
    for t in range(case.steps):
        for gradient in (variable.grads[t], variable.arrays["grads2"][t]):
            updates, state = optimizer.update(jnp.asarray(gradient), state)
            params = optax.apply_updates(params, updates)
            size = np.maximum(size, np.abs(params))
        units = 6 * 2 * (t + 1)
        golden.compare(params, variable.params[t], size, units, f"step {t}")
        acc = optax.tree.get(state, "accumulator")
        golden.compare(acc, variable.acc[t], variable.acc[t], units, f"step {t}")


@parametrize("tf20", "dense_restored")
def test_tf20_restored(case):
    def before_step(t, state):
        if t != case.manifest["restored_before_step"]:
            return state
        state = jax.tree.map(np.asarray, state)  # as if it came from a file
        if case.name.endswith("without_iterations"):
            state = optax.tree.set(state, count=np.zeros((), np.int32))
        return state

    golden.check(
        case, aj.dialects.keras(**case.hyperparameters), before_step=before_step
    )


@parametrize("tf20", "clip")
def test_tf20_clip(case):
    golden.check(case, aj.dialects.keras(**case.hyperparameters), units=RECOMPUTED)


@parametrize("tf20", "clip_not_applied")
def test_tf20_apply_gradients_does_not_clip(case):
    learning_rate = case.hyperparameters["learning_rate"]
    golden.check(case, aj.dialects.keras(learning_rate))


@parametrize("tf20", "minimize")
def test_tf20_minimize(case):
    features, targets = case.arrays["features"], case.arrays["targets"]

    @jax.grad
    def gradients(params):
        residuals = features @ params["w"] + params["b"] - targets
        return jnp.mean(residuals**2)

    def rounded_once(t, params):
        """In float64: the residuals' mean cancels; the peer's own error is enough."""
        exact = gradients(jax.tree.map(lambda p: p.astype(jnp.float64), params))
        return jax.tree.map(lambda g, p: g.astype(p.dtype), exact, params)

    golden.check(
        case,
        aj.dialects.keras(**case.hyperparameters),
        gradients=rounded_once,
        units=RECOMPUTED,
    )


@parametrize("tf20", "get_updates")
def test_tf20_get_updates(case):
    gradients = jax.grad(lambda p: jnp.sum((p["w"] * case.arrays["scale"]) ** 2))
    golden.check(
        case,
        aj.dialects.keras(**case.hyperparameters),
        gradients=lambda t, params: gradients(params),
        units=RECOMPUTED,
    )


@parametrize("tf20", "v1_adagrad")
def test_tf1(case):
    golden.check(case, aj.dialects.tf1(**case.hyperparameters))


@parametrize_sparse("tf20", "sparse")
def test_tf20_rows(case):
    golden.check(case, aj.dialects.keras(**keras_arguments(case)))


@parametrize_sparse("tf20", "clip_not_applied")
def test_tf20_apply_gradients_does_not_clip_rows(case):
    golden.check(case, aj.dialects.keras(case.hyperparameters["learning_rate"]))


@parametrize_sparse("tf20", "sparse_clip")
def test_tf20_rows_clipped_there(case):
    """It clips before repeated rows are summed, which is left to the Keras object."""

    def clipped(t, params):
        return {
            v.name: v.rows(t, "clipped_values")
            if v.grads is None
            else v.arrays["clipped"][t].astype(v.dtype)
            for v in case.variables
        }

    arguments = {k: v for k, v in case.hyperparameters.items() if "clip" not in k}
    golden.check(case, aj.dialects.keras(**arguments), gradients=clipped)


def test_tf20_clips_rows_as_they_come_and_here_their_sums_are_clipped():
    theirs, ids = golden.behaviour("tf20", "sparse_clipnorm")["result"][1:]
    rows = aj.RowSparse(ids, jnp.array([[3.0, 4.0]] * 2), (2, 2))
    for clip, rows_of_it in (
        (aj.clip_by_norm(1.0), [[0.0, 0.0], [0.6, 0.8]]),
        (optax.identity(), [[0.0, 0.0], [6.0, 8.0]]),
    ):
        clipped, _ = clip.update(rows, clip.init(rows))
        np.testing.assert_allclose(clipped.to_dense(), rows_of_it, rtol=1e-6)
    np.testing.assert_allclose(theirs, np.array([[3, 4]] * 2) / 50**0.5, rtol=1e-6)


@pytest.mark.parametrize(
    "fact, values",
    [
        ("sparse_duplicates_summed_first", [[1.0, 1.0], [1.0, 1.0]]),
        ("sparse_duplicates_cancel", [[1.0, 1.0], [-1.0, -1.0]]),
        ("sparse_bfloat16", [[1.0, 1.0]]),
    ],
)
def test_tf20_facts_about_rows(fact, values):
    table, accumulator = golden.behaviour("tf20", fact)["result"]
    dtype = jnp.bfloat16 if "bfloat16" in fact else jnp.float32
    check_rows(aj.dialects.keras(0.1), [1] * len(values), values, dtype)(
        table, accumulator
    )


def check_rows(optimizer, ids, values, dtype):
    """One step from a table of ones, (4, 2), against the peer's."""
    params = jnp.ones((4, 2), dtype)
    gradient = aj.RowSparse(ids, jnp.array(values, dtype), params.shape)
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)

    def against(table, accumulator):
        ours = optax.tree.get(state, "accumulator")
        golden.compare(params, table, np.ones((4, 2)), 2, "table")
        golden.compare(ours, accumulator, np.abs(accumulator), 2, "accumulator")

    return against


@parametrize_sparse("tf20", "v1_adagrad")
def test_tf1_rows(case):
    golden.check(case, aj.dialects.tf1(**case.hyperparameters))


def regularized_arguments(case, initial):
    """TensorFlow 1's names to ours."""
    names = {
        "learning_rate": "learning_rate",
        initial: "initial_accumulator_value",
        "l1_regularization_strength": "l1",
        "l2_regularization_strength": "l2",
    }
    return {names[name]: value for name, value in case.hyperparameters.items()}


def check_proximal_adagrad(case):
    arguments = regularized_arguments(case, "initial_accumulator_value")
    golden.check(
        case,
        aj.proximal_adagrad(**arguments),
        # The step before the penalties draw it back, which may be much longer.
        operand=lambda v, t: (
            arguments["learning_rate"] * dense_gradient(v, t) / np.sqrt(v.acc[t])
        ),
    )


def dense_gradient(v, t):
    return v.grads[t] if v.grads is not None else np.asarray(v.rows(t).to_dense())


def check_adagrad_da(case):
    def before_step(t, state):
        # Recorded after the step, which has counted it if anything does.
        count = max(0, case.arrays["global_step"][t] - 1)
        return state._replace(count=jnp.asarray(count, "i4"))

    initial = "initial_gradient_squared_accumulator_value"
    arguments = regularized_arguments(case, initial)
    for name in {"learning_rate", "l1", "l2"} & set(arguments):  # as TensorFlow keeps
        arguments[name] = float(np.float32(arguments[name]))
    golden.check(
        case,
        aj.adagrad_da(**arguments),
        before_step=before_step,
        # Without the penalties, which may leave little of it.
        operand=lambda v, t: (
            arguments["learning_rate"] * v.arrays["grad_acc"][t] / np.sqrt(v.acc[t])
        ),
    )


@parametrize("tf20", "v1_proximal")
def test_tf1_proximal(case):
    check_proximal_adagrad(case)


@parametrize_sparse("tf20", "v1_proximal")
def test_tf1_proximal_rows(case):
    check_proximal_adagrad(case)


@parametrize("tf20", "v1_da")
def test_tf1_da(case):
    check_adagrad_da(case)


@parametrize_sparse("tf20", "v1_da")
def test_tf1_da_rows(case):
    check_adagrad_da(case)


def test_fbgemm_caps_the_norm_of_rows():
    table = jnp.full((3, 4), 2.0)
    gradient = aj.RowSparse([1], jnp.ones((1, 4)), table.shape)
    for max_norm, row in [(None, 1.5), (0.0, 1.5), (4.0, 1.5), (1.0, 0.5)]:
        optimizer = aj.dialects.fbgemm(0.5, max_norm=max_norm)
        updates, _ = optimizer.update(gradient, optimizer.init(table), table)
        capped = aj.apply_updates(table, updates)
        expected = np.array([2.0, row, 2.0])[:, None] * np.ones(4)
        np.testing.assert_allclose(capped, expected, rtol=1e-6)


def test_tf1_needs_a_positive_initial_accumulator():
    with pytest.raises(ValueError, match="`initial_accumulator_value` .* > 0, got 0"):
        aj.dialects.tf1(0.1, initial_accumulator_value=0.0)


# Keras 3


@parametrize("keras3", "dense", "loss_scale", "schedule", "callable")
def test_keras3(case):
    golden.check(case, aj.dialects.keras3(**keras_arguments(case)))


@parametrize("keras3", "clip")
def test_keras3_clip(case):
    golden.check(case, aj.dialects.keras3(**case.hyperparameters), units=RECOMPUTED)


@parametrize("keras3", "weight_decay")
def test_keras3_weight_decay(case):
    arguments = dict(case.hyperparameters)
    weight_decay = arguments.pop("weight_decay")
    rule = case.manifest.get("exclude_from_weight_decay", {})
    excluded = [
        v.name
        for v in case.variables
        if v.name in rule.get("var_list", [])
        or any(part in v.name for part in rule.get("var_names") or [])
    ]
    optimizer = optax.partition(
        {
            "decay": aj.dialects.keras3(**arguments, weight_decay=weight_decay),
            "no decay": aj.dialects.keras3(**arguments),
        },
        {v.name: "no decay" if v.name in excluded else "decay" for v in case.variables},
    )
    golden.check(case, optimizer)


@parametrize("keras3", "ema", "everything", "accumulation")
def test_keras3_around_the_update(case):
    clips = any("clipnorm" in name for name in case.hyperparameters)
    optimizer = aj.dialects.keras3(**keras_arguments(case))
    golden.check(case, optimizer, units=RECOMPUTED if clips else 6)


@parametrize("keras3", "ema")
def test_keras3_average(case):
    optimizer = aj.dialects.keras3(**case.hyperparameters)
    params = {v.name: jnp.asarray(v.init) for v in case.variables}
    state = optimizer.init(params)
    gradients = golden.recorded_gradients(case)
    for t in range(case.steps):
        updates, state = optimizer.update(gradients(t, params), state, params)
        params = optax.apply_updates(params, updates)
        average = optax.tree.get(state, "average")
        for v in case.variables:
            size = np.maximum(np.abs(v.init), np.abs(v.params[: t + 1]).max(axis=0))
            units = 6 * (t + 1)
            theirs = v.arrays["average"][t]
            golden.compare(average[v.name], theirs, size, units, f"{case} {t}")


@parametrize("keras3", "set")
def test_keras3_learning_rate_set(case):
    optimizer = optax.inject_hyperparams(aj.dialects.keras3)(**case.hyperparameters)
    golden.check(case, optimizer, before_step=set_before_step(case, "learning_rate"))


@parametrize("keras3", "constraint")
def test_keras3_constraint(case):
    golden.check(
        case,
        aj.dialects.keras3(**case.hyperparameters),
        after_step=lambda params: jax.tree.map(lambda p: p * (p >= 0), params),
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"clipnorm": 1.0, "clipvalue": 0.5}, "only one of .* clipnorm, clipvalue"),
        ({"gradient_accumulation_steps": 1}, "must be an integer >= 2 or None, got 1"),
        ({"ema_overwrite_frequency": 1.5}, "must be an integer >= 1 or None, got 1.5"),
        ({"use_ema": True, "ema_momentum": 2.0}, r"must be in \[0, 1\], got 2.0"),
        ({"loss_scale_factor": 0.0}, "`loss_scale_factor` .* > 0, got 0.0"),
    ],
)
def test_keras3_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        aj.dialects.keras3(**arguments)


# PyTorch


def torch_arguments(hyperparameters):
    """Without those that choose an implementation and not a result."""
    return {k: v for k, v in hyperparameters.items() if k not in ("foreach", "fused")}


@parametrize("torch", "dense")
def test_torch(case):
    golden.check(case, aj.dialects.torch(**torch_arguments(case.hyperparameters)))


@parametrize_sparse("torch", "sparse")
def test_torch_rows(case):
    golden.check(case, aj.dialects.torch(**torch_arguments(case.hyperparameters)))


@pytest.mark.parametrize(
    "fact, arguments",
    [
        ("sparse_duplicates", {}),
        ("sparse_foreach", {}),
        ("sparse_weight_decay_zero", {"weight_decay": 0.0}),
    ],
)
def test_torch_facts_about_rows(fact, arguments):
    optimizer = aj.dialects.torch(0.1, **arguments)
    result = golden.behaviour("torch", fact)["result"]
    check_rows(optimizer, [1, 1, 3], np.ones((3, 2)), jnp.float32)(*result)


def test_torch_has_no_weight_decay_of_rows():
    message = golden.behaviour("torch", "sparse_weight_decay")["message"]
    assert "weight_decay option is not compatible with sparse gradients" in message
    optimizer = aj.dialects.torch(0.1, weight_decay=0.1)
    params = {"table": jnp.ones((4, 2))}
    rows = aj.RowSparse([1], jnp.ones((1, 2)), (4, 2))
    with pytest.raises(TypeError, match=r"at \['table'\].*`weight_decay`"):
        optimizer.update({"table": rows}, optimizer.init(params), params)


@parametrize("torch", "dense_groups", "state_dict")
def test_torch_groups(case):
    groups = case.manifest["groups"]
    # A group's own initial accumulator value is not used there.
    for group in groups:
        group["hyperparameters"].pop("initial_accumulator_value", None)
    optimizer = optax.partition(
        {
            i: aj.dialects.torch(**(case.hyperparameters | group["hyperparameters"]))
            for i, group in enumerate(groups)
        },
        {name: i for i, group in enumerate(groups) for name in group["variables"]},
    )
    golden.check(case, optimizer)


@parametrize("torch", "dense_set")
def test_torch_lr_set(case):
    optimizer = optax.inject_hyperparams(aj.dialects.torch)(**case.hyperparameters)
    golden.check(case, optimizer, before_step=set_before_step(case, "lr"))


@parametrize("torch", "dense_missing")
def test_torch_missing_gradients(case):
    check_missing_gradients(case, aj.dialects.torch(**case.hyperparameters))


@parametrize("keras3", "missing")
def test_keras3_missing_gradients(case):
    check_missing_gradients(case, aj.dialects.keras3(**case.hyperparameters))


def check_missing_gradients(case, optimizer):
    """There a variable without a gradient does not step, not even its own count."""
    for v in case.variables:
        taken = np.flatnonzero(v.present)
        alone = case.only(v.name)
        alone.steps = len(taken)
        alone.variables[0].grads = v.grads[taken]
        alone.variables[0].params = v.params[taken]
        alone.variables[0].acc = v.acc[taken]
        alone.variables[0].present = None
        golden.check(alone, optimizer)


def test_torch_complex_is_a_pair_of_reals():
    result = golden.behaviour("torch", "complex")["result"]
    params = jnp.array([1 + 2j, 3 - 1j])
    gradient = jnp.array([0.5 - 1j, 2 + 0.25j])
    torch = aj.dialects.torch(lr=0.1, initial_accumulator_value=0.1)
    with pytest.raises(TypeError, match="split_real_and_imaginary"):
        torch.init(params)
    optimizer = optax.contrib.split_real_and_imaginary(torch)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    params = optax.apply_updates(params, updates)
    pairs = np.stack([params.real, params.imag], axis=-1)
    np.testing.assert_allclose(pairs, result["value"], rtol=6 * np.finfo(float).eps)


# Optax


def optax_arguments(case):
    arguments = dict(case.hyperparameters)
    rate = arguments["learning_rate"]
    if isinstance(rate, dict):
        args = dict(rate["args"])
        if "boundaries_and_scales" in args:
            scales = args["boundaries_and_scales"]
            args["boundaries_and_scales"] = {int(k): v for k, v in scales.items()}
        arguments["learning_rate"] = getattr(optax, rate["schedule"])(**args)
    return arguments


@parametrize("optax", "dense", "schedule")
def test_optax(case):
    # It was run eagerly. Its schedules compute in float32, also for float64, and inside
    # jit XLA rounds them otherwise: an ulp of float32 is many of float64.
    optimizer = aj.dialects.optax(**optax_arguments(case))
    golden.check(case, optimizer, jit=case.kind != "schedule")


@parametrize("optax", "chain")
def test_optax_chain(case):
    arguments = dict(case.hyperparameters)
    learning_rate = arguments.pop("learning_rate")
    max_norm = arguments.pop("max_norm", None)
    weight_decay = arguments.pop("weight_decay", None)
    mask = arguments.pop("mask", None)
    clip = [aj.clip_by_global_norm(max_norm)] if max_norm is not None else []
    if "scale_by_rss" in case.manifest["api"]:  # decoupled
        arguments["epsilon"] = arguments.pop("eps")
        optimizer = optax.chain(
            aj.scale_by_adagrad(**arguments, epsilon_in_sqrt=True),
            aj.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    else:
        decay = [aj.add_decayed_weights(weight_decay, mask)] if weight_decay else []
        optimizer = optax.chain(*clip, *decay, aj.dialects.optax(learning_rate))
    golden.check(case, optimizer, units=RECOMPUTED if clip else 6)


def test_state_may_come_from_optax():
    """The accumulators mean the same, so a run of optax.adagrad can go on here."""
    gradient = jnp.array([0.3, -2.0])
    theirs, ours = optax.adagrad(0.1), aj.dialects.optax(0.1)
    _, state = theirs.update(gradient, theirs.init(gradient))
    accumulator = optax.tree.get(state, "sum_of_squares")
    expected, _ = theirs.update(gradient, state)
    updates, _ = ours.update(
        gradient, optax.tree.set(ours.init(gradient), accumulator=accumulator)
    )
    np.testing.assert_allclose(updates, expected, rtol=6 * np.finfo(float).eps)


# FBGEMM


@parametrize_sparse("fbgemm")
def test_fbgemm(case):
    arguments = dict(case.hyperparameters)
    if "ignored" in case.name:  # which the case's own note says
        del arguments["weight_decay"], arguments["weight_decay_mode"]
    if not case.kind.startswith("rowwise"):
        arguments["optimizer"] = "exact_adagrad"
    if "initial_accumulator" in case.name:
        arguments["initial_accumulator_value"] = 0.1
    if "learning_rate_set" in case.name:
        arguments["learning_rate"] = table(case.arrays["learning_rate"])
    golden.check(case, aj.dialects.fbgemm(**arguments))


def test_fbgemm_duplicates_and_rows_of_zeros():
    fact = golden.behaviour("fbgemm", "duplicates_and_zero")["result"]
    values = jnp.stack([jnp.ones(4), jnp.ones(4), jnp.zeros(4)])
    gradient = aj.RowSparse([1, 1, 2], values, (4, 4))
    optimizer, weights = aj.dialects.fbgemm(0.1), jnp.ones((4, 4))
    updates, state = optimizer.update(gradient, optimizer.init(weights), weights)
    np.testing.assert_allclose(weights + updates, fact["weights"], rtol=1e-6)
    accumulator = optax.tree.get(state, "accumulator")
    np.testing.assert_array_equal(accumulator, fact["state"])


@pytest.mark.parametrize("name", ["optimizer", "weight_decay_mode"])
def test_fbgemm_names(name):
    with pytest.raises(ValueError, match=f"`{name}` must be one of .*, got 'x'"):
        aj.dialects.fbgemm(**{name: "x"})


# jax-tpu-embedding


def sparsecore_arguments(case):
    arguments = dict(case.hyperparameters)
    if arguments.get("learning_rate", 0) is None:
        arguments["learning_rate"] = table(case.arrays["learning_rate"])
    return arguments


@parametrize_sparse("sparsecore", "adagrad")
def test_sparsecore(case):
    golden.check(case, aj.dialects.sparsecore(**sparsecore_arguments(case)))


@parametrize_sparse("sparsecore", "f2a")
def test_sparsecore_f2a(case):
    """Its counts too, which are whole there, one for each number of a row."""
    optimizer = aj.dialects.sparsecore_f2a(**sparsecore_arguments(case))
    golden.check(case, optimizer)
    (variable,) = case.variables
    state = optimizer.init(jnp.asarray(variable.init))
    for t in range(case.steps):
        gradient = variable.rows(t)
        _, state = optimizer.update(gradient, state, jnp.asarray(variable.init))
        theirs = variable.arrays["local_step"][t]
        ours = optax.tree.get(state, "read_counts")
        np.testing.assert_array_equal(ours[:, None] * np.ones(theirs.shape), theirs)
        assert ours.dtype == jnp.int32


def test_sparsecore_gives_nan_where_we_stand_still():
    """Without an epsilon, of a row with accumulators and a gradient of 0."""
    for case in golden.sparse_cases("sparsecore"):
        (variable,) = case.variables
        undefined = np.isnan(variable.params[-1]).any(axis=1)
        last = np.arange(len(undefined)) == len(undefined) - 1
        expected = last & case.name.endswith("from_zero")
        np.testing.assert_array_equal(undefined, expected)


def test_f2a_counts_whole_steps():
    with pytest.raises(ValueError, match="`initial_local_step_value` must be a whole"):
        aj.dialects.sparsecore_f2a(initial_local_step_value=0.5)
    with pytest.raises(ValueError, match="`max_lr_multiplier` .* > 0, got 0"):
        aj.dialects.sparsecore_f2a(max_lr_multiplier=0.0)
