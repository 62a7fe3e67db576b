"""FTRL: TensorFlow's numbers, the formula, and the minimum that it is."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests import golden_cases as golden

# The peer's recorded numbers

TESTED = set()


def parametrize(*kinds, cases=golden.dense_cases):
    cases = cases("ftrl", *kinds)
    TESTED.update(case.name for case in cases)
    return pytest.mark.parametrize("case", cases, ids=str)


def test_every_case_is_tested():
    cases = golden.dense_cases("ftrl") + golden.sparse_cases("ftrl")
    assert len(cases) == 20
    assert {case.name for case in cases} == TESTED


def tensorflows(arguments):
    """As TensorFlow keeps them, in float32 whatever the variables are."""
    rounded = {
        name: float(np.float32(value))
        for name, value in ({"learning_rate": 0.001} | arguments).items()
        if name != "initial_accumulator_value" and not isinstance(value, dict)
    }
    return arguments | rounded


def numbers_of(case, t):
    """Learning rate, power, L1, L2, shrinkage and beta of a step."""
    given = tensorflows(case.hyperparameters)
    rate = given["learning_rate"]
    if "schedule_values" in case.arrays:
        rate = case.arrays["schedule_values"][t]
    elif case.kind == "set":
        rate = np.float32(case.manifest["set_before_step"]["learning_rate"][t])
    return (
        float(rate),
        -given.get("learning_rate_power", -0.5),
        given.get("l1_regularization_strength", 0.0),
        given.get("l2_regularization_strength", 0.0),
        given.get("l2_shrinkage_regularization_strength", 0.0),
        given.get("beta", 0.0),
    )


def curvature(case, v, t):
    rate, power, _, l2, _, beta = numbers_of(case, t)
    return (beta + np.float64(v.acc[t]) ** power) / rate + 2 * l2


def check(case, optimizer=None, **options):
    arguments = tensorflows(case.hyperparameters)
    if "schedule_values" in case.arrays:
        values = jnp.asarray(case.arrays["schedule_values"])
        arguments["learning_rate"] = lambda count: values[count]
    golden.check(
        case,
        optimizer or aj.ftrl(**arguments),
        # Without L1, which may leave little of it.
        operand=lambda v, t: v.arrays["linear"][t] / curvature(case, v, t),
        **options,
    )


pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


@parametrize("dense", "dense_zeros", "schedule")
def test_golden(case):
    check(case)


@parametrize("sparse", cases=golden.sparse_cases)
def test_golden_rows(case):
    check(case)


@parametrize("set")
def test_golden_learning_rate_set(case):
    def before_step(t, state):
        rate = jnp.asarray(numbers_of(case, t)[0])
        return optax.tree.set(state, learning_rate=rate)

    arguments = tensorflows(case.hyperparameters)
    check(case, optax.inject_hyperparams(aj.ftrl)(**arguments), before_step=before_step)


def step_in_numpy(gradient, param, accumulator, linear, numbers):
    """The formula, in float64; and of what size z's summands were."""
    rate, power, l1, l2, shrinkage, beta = numbers
    total = accumulator + gradient**2
    pulls = [
        linear,
        gradient,
        2 * shrinkage * param,
        -(total**power) / rate * param,
        accumulator**power / rate * param,
    ]
    linear = sum(pulls)
    size = np.max(np.abs(pulls), axis=0)
    curvature = (beta + total**power) / rate + 2 * l2
    drawn = -np.sign(linear) * np.maximum(np.abs(linear) - l1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # which are replaced
        param = np.where(curvature == 0, 0, drawn / curvature)
    return param, total, linear, size, curvature


@pytest.mark.parametrize("case", golden.dense_cases("ftrl"), ids=str)
def test_formula_is_tensorflows(case):
    """Linear terms too, which golden.check does not look at."""
    for v in case.variables:
        start = np.full_like(v.init, case.hyperparameters.get(INITIAL, 0.1))
        before = v.init, start, np.zeros_like(v.init)
        for t in range(case.steps):
            param, accumulator, linear = map(np.float64, before)
            gradient = np.float64(v.grads[t])
            numbers = numbers_of(case, t)
            *ours, size, bend = step_in_numpy(
                gradient, param, accumulator, linear, numbers
            )
            before = v.params[t], v.acc[t], v.arrays["linear"][t]
            sizes = size / bend, ours[1], size
            for our, theirs, large in zip(ours, before, sizes, strict=True):
                golden.compare(our, theirs, large, 6, f"{case} {t}", theirs.dtype)


INITIAL = "initial_accumulator_value"


@pytest.mark.parametrize(
    "fact, dtype, start, gradient, arguments",
    [
        ("zero_gradient_forgets", "float32", 2.0, 0.0, {"learning_rate": 0.1}),
        ("zero_over_zero", "float32", 2.0, 0.0, {"learning_rate": 0.1, INITIAL: 0.0}),
        ("rounds_hyperparameters", "float64", 0.0, 1.0, {"learning_rate": 0.3}),
        (
            "rounds_shrinkage",
            "float64",
            1.0,
            0.0,
            {"l2_shrinkage_regularization_strength": 0.3},
        ),
    ],
)
def test_facts(fact, dtype, start, gradient, arguments):
    optimizer = aj.ftrl(**tensorflows(arguments))
    param = jnp.asarray(start, dtype)
    updates, state = optimizer.update(
        jnp.asarray(gradient, dtype), optimizer.init(param), param
    )
    ours = [param + updates, state.accumulator, state.linear]
    theirs = golden.behaviour("ftrl", fact)["result"]
    # An update from start is rounded as start is.
    for our, their, size in zip(ours, theirs, [start, *theirs[1:]], strict=True):
        golden.compare(our, their, max(abs(size), abs(their)), 4, fact)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"learning_rate": 0.3, "l1_regularization_strength": 0.5},
        {
            "learning_rate": 0.2,
            "learning_rate_power": -0.4,
            "l1_regularization_strength": 0.2,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.05,
            "beta": 0.7,
        },
    ],
    ids=["defaults", "l1", "everything"],
)
def test_equals_keras3(arguments):
    rng = np.random.default_rng(3)
    start = np.float32([[0, 0.5, -1], [0, 0, 2]])
    variable = keras.Variable(start)
    theirs = keras.optimizers.Ftrl(**({"learning_rate": 0.001} | arguments))
    theirs.build([variable])
    ours = aj.ftrl(**arguments)
    params = jnp.asarray(start)
    state = ours.init(params)
    for t in range(5):
        gradient = jnp.asarray(rng.normal(size=start.shape), jnp.float32)
        # From the same state each time, so that errors do not add up.
        params = jnp.asarray(variable.value)
        state = state._replace(
            accumulator=jnp.asarray(theirs._accumulators[0].value),
            linear=jnp.asarray(theirs._linears[0].value),
        )
        theirs.apply([gradient], [variable])
        updates, state = ours.update(gradient, state, params)
        assert updates.dtype == jnp.float32
        linear = np.asarray(theirs._linears[0].value)
        # The gradient and what is drawn from the parameter may cancel.
        size = np.abs(linear) + np.abs(gradient)
        golden.compare(state.linear, linear, size, 6, f"z, step {t}")
        # The parameter before the threshold: all have the same curvature.
        rate = np.float64(arguments.get("learning_rate", 0.001))
        power = -arguments.get("learning_rate_power", -0.5)
        bend = np.asarray(state.accumulator, float) ** power / rate
        golden.compare(
            params + updates,
            variable.value,
            np.abs(params) + size / bend,
            6,
            f"parameters, step {t}",
        )


def test_keras3_divides_zero_by_zero_and_here_the_result_is_zero():
    """The difference found: without accumulators or gradients it gives NaN."""
    variable = keras.Variable(np.float32([2.0]))
    theirs = keras.optimizers.Ftrl(0.1, initial_accumulator_value=0.0)
    theirs.build([variable])
    theirs.apply([jnp.zeros(1)], [variable])
    assert np.isnan(variable.value).all()
    ours = aj.ftrl(0.1, initial_accumulator_value=0.0)
    params = jnp.array([2.0])
    updates, _ = ours.update(jnp.zeros(1), ours.init(params), params)
    np.testing.assert_array_equal(params + updates, [0.0])


# The formula and what it means


strengths = st.just(0.0) | st.floats(1e-3, 2.0)
numbers = st.just(0.0) | st.floats(1e-3, 10) | st.floats(-10, -1e-3)
ARGUMENTS = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(1e-2, 2.0),
        "learning_rate_power": st.sampled_from([-0.5, -0.3, -1.0, 0.0]),
        INITIAL: st.just(0.0) | st.floats(1e-3, 1.0),
        "l1_regularization_strength": strengths,
        "l2_regularization_strength": strengths,
        "l2_shrinkage_regularization_strength": strengths,
        "beta": strengths,
    }
)
STEPS = 4


@functools.cache
def jitted_run(root):
    """Parameters, accumulators and z after each step; the arguments are traced.

    But for the usual power, whose root is taken by another function.
    """

    def run(start, gradients, arguments):
        optimizer = aj.ftrl(
            **arguments | ({"learning_rate_power": -0.5} if root else {})
        )

        def step(carry, gradient):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params)
            params = params + updates
            return (params, state), (params, state.accumulator, state.linear)

        return jax.lax.scan(step, (start, optimizer.init(start)), gradients)[1]

    return jax.jit(run)


def run(start, gradients, arguments):
    """All of these arrays in float64."""
    root = arguments["learning_rate_power"] == -0.5
    return [np.asarray(x) for x in jitted_run(root)(start, gradients, arguments)]


def in_order(arguments):
    names = (
        "learning_rate",
        "learning_rate_power",
        "l1_regularization_strength",
        "l2_regularization_strength",
        "l2_shrinkage_regularization_strength",
        "beta",
    )
    rate, power, *others = (arguments[name] for name in names)
    return rate, -power, *others


some_arrays = st.tuples(
    st.lists(numbers, min_size=3, max_size=3),
    st.lists(numbers, min_size=3 * STEPS, max_size=3 * STEPS),
).map(lambda x: (np.array(x[0]), np.array(x[1]).reshape(STEPS, 3)))


@hypothesis.settings(max_examples=60)
@hypothesis.given(some_arrays, ARGUMENTS)
def test_equals_the_formula(arrays, arguments):
    start, gradients = arrays
    params, accumulators, linears = run(start, gradients, arguments)
    before = start, np.full(3, arguments[INITIAL]), np.zeros(3)
    for t in range(STEPS):
        *expected, size, bend = step_in_numpy(
            gradients[t], *before, in_order(arguments)
        )
        # One step from where ours was. The parameter's size is that of the step too.
        with np.errstate(divide="ignore", invalid="ignore"):
            large = np.where(bend == 0, 0, size / bend) + np.abs(before[0])
        where = f"step {t}"
        golden.compare(params[t], expected[0], large, 6, where)
        golden.compare(accumulators[t], expected[1], expected[1], 6, where)
        golden.compare(linears[t], expected[2], size, 6, where)
        before = params[t], accumulators[t], linears[t]


@hypothesis.settings(max_examples=60)
@hypothesis.given(some_arrays, ARGUMENTS)
def test_is_the_minimum_of_losses_distances_and_penalties(arrays, arguments):
    start, gradients = arrays
    hypothesis.assume(arguments[INITIAL] > 0 or arguments["beta"] > 0)
    rate, power, l1, l2, shrinkage, beta = in_order(arguments)
    params, accumulators, _ = run(start, gradients, arguments)
    initial = np.full((1, 3), arguments[INITIAL])
    points = np.concatenate([start[None], params[:-1]])
    roots = np.concatenate([initial, accumulators]) ** power
    distances = np.diff(roots, axis=0) / rate

    def objective(x):
        """Of the last step, for each coordinate; and how large its terms are."""
        terms = [
            *((gradients + 2 * shrinkage * points) * x),
            *(distances / 2 * (x - points) ** 2),
            (roots[0] + beta) / (2 * rate) * x**2,
            l2 * x**2,
            l1 * np.abs(x),
        ]
        return np.sum(terms, axis=0), np.sum(np.abs(terms), axis=0)

    least, size = objective(params[-1])
    for far in (1e-3, 0.1, 3.0):
        for direction in (far, -far):
            there, _ = objective(params[-1] + direction)
            # The sums' rounding; a millionth of the least that 1e-3 would add.
            assert (least <= there + 1e-14 * size).all()


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    gradients=some_arrays.map(lambda arrays: arrays[1]), rate=st.floats(0.01, 2.0)
)
def test_without_penalties_from_zero_it_is_adagrad(gradients, rate):
    arguments = {"learning_rate": rate, "learning_rate_power": -0.5, INITIAL: 0.0}
    params, _, _ = run(np.zeros(3), gradients, arguments)
    sums = np.cumsum(gradients**2, axis=0)
    steps = gradients / np.where(sums == 0, 1, np.sqrt(sums))
    expected = -rate * np.cumsum(steps, axis=0)
    # z has all steps in it, each of up to rate, times what divides it later.
    np.testing.assert_allclose(params, expected, rtol=0, atol=1e-13 * rate * STEPS)


def test_without_penalties_from_zero_it_is_our_adagrad():
    ftrl = aj.ftrl(0.3, initial_accumulator_value=0.0)
    adagrad = aj.adagrad(0.3, 0.0, 0.0)
    gradients = np.random.default_rng(4).normal(size=(6, 5))
    paths = []
    for optimizer in (ftrl, adagrad):
        params = jnp.zeros(5)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(jnp.asarray(gradient), state, params)
            params = params + updates
        paths.append(params)
    np.testing.assert_allclose(*paths, rtol=0, atol=1e-14)


def test_power_zero_is_a_constant_rate():
    """Also where nothing has been accumulated: 0 to the power of 0 is 1."""
    gradients = np.array([[0.0, 3.0, -2.0], [0.0, 0.0, 4.0]])
    optimizer = aj.ftrl(0.5, 0.0, 0.0)
    params = jnp.zeros(3)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = params + updates
    np.testing.assert_array_equal(params, -0.5 * gradients.sum(axis=0))


@pytest.mark.parametrize("power", [-0.5, np.float64(-0.5), jnp.float32(-0.5), -1, 0])
def test_powers_of_any_type(power):
    gradient = jnp.array([3.0, -4.0])
    optimizer = aj.ftrl(0.5, power, 0.0)
    params = jnp.zeros(2)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    expected = -0.5 * gradient / (gradient**2) ** -float(power)
    np.testing.assert_allclose(updates, expected, rtol=1e-15)


def test_beta_is_a_share_of_l2_and_l2_is_twice_proximal_adagrads():
    gradient, params = jnp.array([3.0, -4.0]), jnp.array([0.5, 2.0])

    def new(optimizer, params=params):
        return params + optimizer.update(gradient, optimizer.init(params), params)[0]

    rate = 0.25
    by_beta = new(aj.ftrl(rate, beta=0.5))
    by_l2 = new(aj.ftrl(rate, l2_regularization_strength=0.5 / (2 * rate)))
    np.testing.assert_allclose(by_beta, by_l2, rtol=1e-15)
    assert (jnp.abs(by_beta - new(aj.ftrl(rate))) > 0.01).all()
    ftrl = aj.ftrl(rate, -0.5, 0.0, 0.3, 0.7)
    proximal = aj.proximal_adagrad(rate, 0.0, l1=0.3, l2=1.4)
    nothing = jnp.zeros(2)
    np.testing.assert_allclose(new(ftrl, nothing), new(proximal, nothing), rtol=1e-14)


# Zeros


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=str)
@pytest.mark.parametrize("add", [aj.apply_updates, optax.apply_updates])
def test_zeros_are_exact_and_weights_leave_them_only_beyond_the_threshold(dtype, add):
    optimizer = aj.ftrl(0.3, l1_regularization_strength=1.0)
    params = jnp.array([0.0, 0.0, -0.0, 0.37], dtype)
    gradients = jnp.array(
        [[0.9, 0.9, -0.9, 0.5], [0.05, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 0.0]], dtype
    )
    step = jax.jit(optimizer.update)
    state = optimizer.init(params)
    for gradient, zero in zip(
        gradients, [[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 1, 1]], strict=True
    ):
        updates, state = step(gradient, state, params)
        assert updates.dtype == dtype
        params = add(params, updates)
        assert params.dtype == dtype
        assert [x == 0 for x in params.tolist()] == [bool(z) for z in zero]


# Errors


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be .* > 0, got 0.0"),
        ({"learning_rate": -1.0}, ValueError, "`learning_rate` must be .* > 0"),
        (
            {"learning_rate_power": 0.1},
            ValueError,
            "`learning_rate_power` must be a finite number <= 0, got 0.1",
        ),
        (
            {"learning_rate_power": -np.inf},
            ValueError,
            "`learning_rate_power` must be a finite number <= 0, got -inf",
        ),
        (
            {"learning_rate_power": np.nan},
            ValueError,
            "`learning_rate_power` must be a finite number <= 0, got nan",
        ),
        ({INITIAL: -0.1}, ValueError, f"`{INITIAL}` must be .* >= 0, got -0.1"),
        ({"beta": -0.1}, ValueError, "`beta` must be .* >= 0, got -0.1"),
        ({"beta": None}, TypeError, "`beta` must be a real number"),
    ]
    + [
        ({f"{name}_regularization_strength": value}, error, f"`{name}_.*` must be")
        for name in ("l1", "l2", "l2_shrinkage")
        for value, error in ((-0.1, ValueError), (np.inf, ValueError), ("1", TypeError))
    ],
)
def test_bad_hyperparameters(arguments, error, message):
    with pytest.raises(error, match=message):
        aj.ftrl(**arguments)


@pytest.mark.parametrize("power", ["-0.5", None], ids=str)
def test_power_of_another_type(power):
    with pytest.raises(TypeError, match="`learning_rate_power` must be"):
        aj.ftrl(learning_rate_power=power)


def test_power_is_one_number():
    with pytest.raises(ValueError, match="`learning_rate_power` must be"):
        aj.ftrl(learning_rate_power=jnp.array([-0.5, -0.5]))


def test_bad_trees():
    optimizer, params = aj.ftrl(), {"w": jnp.ones((2, 3))}
    state = optimizer.init(params)
    chex.assert_trees_all_equal_shapes(state.linear, params)
    with pytest.raises(ValueError, match="`params` must be given, got None"):
        optimizer.update(params, state)
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(2, 3\).*\(1, 3\)"):
        optimizer.update(params, state, {"w": jnp.ones((1, 3))})
    with pytest.raises(ValueError, match=r"\['w'\] of shape \(3, 2\).*accumulator"):
        other = {"w": jnp.ones((3, 2))}
        optimizer.update(other, state, other)
    with pytest.raises(TypeError, match=r"parameter at \['w'\] must be real.*sign"):
        optimizer.init({"w": jnp.ones(2, complex)})


def test_a_warm_up_from_zero_stands_still_first():
    params, optimizer = jnp.ones(3), aj.ftrl(optax.linear_schedule(0.0, 1.0, 10))
    state = optimizer.init(params)
    updates, state = optimizer.update(jnp.ones(3), state, params)
    np.testing.assert_array_equal(updates, 0)
    np.testing.assert_array_equal(state.linear, 1)
    updates, _ = optimizer.update(jnp.ones(3), state, params)
    chex.assert_tree_all_finite(updates)
    assert (updates != 0).all()
