"""What every transformation promises, whatever it computes.

One table names the transformations, each with representative arguments; the tests are
parametrised over it. A new transformation needs a row here, and gets all of them.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax import dialects


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    name: str
    factory: Callable[..., optax.GradientTransformationExtraArgs]
    arguments: dict[str, Any]
    needs_params: bool = False  # in update
    stateless: bool = False
    complex_ok: bool = True
    own_dtype: bool = False  # accumulators in the parameter's dtype, as the peer's
    keeps_sums: bool = True  # accumulators are sums of squares, in float32 or wider
    shaped: bool = True  # keeps arrays of the parameters' shapes, or of their rows
    smooth: bool = True  # the step has a derivative
    to_params: bool = False  # updates have the parameters' dtypes

    def __str__(self) -> str:
        return self.name

    def build(self, **others: Any) -> optax.GradientTransformationExtraArgs:
        return self.factory(**self.arguments | others)

    @property
    def numbers(self) -> dict[str, Any]:
        """The hyperparameters that may be traced, defaults included."""
        bound = inspect.signature(self.factory).bind(**self.arguments)
        bound.apply_defaults()
        return {
            name: value
            for name, value in bound.arguments.items()
            if isinstance(value, float | jax.Array)
        }


def is_matrix(params):
    return jax.tree.map(lambda p: len(np.shape(p)) == 2, params)


SCHEDULE = aj.inverse_time_decay(0.1, 0.5)
DECAY = {"weight_decay": 0.1}
MASKED = DECAY | {"mask": is_matrix}
KERAS = {"clipnorm": 1.0, "clipvalue": 0.7, "decay": 0.5}
ACCUMULATION = {"gradient_accumulation_steps": 2}
EVERYTHING = (
    ACCUMULATION
    | DECAY
    | {
        "global_clipnorm": 1.0,
        "use_ema": True,
        "ema_overwrite_frequency": 1,
        "loss_scale_factor": 2.0,
    }
)
FBGEMM = DECAY | {"weight_decay_mode": "DECOUPLE", "max_norm": 1.0}
F2A = {"l1_regularization_strength": 0.1, "l2_regularization_strength": 0.1}
TORCH = {"lr_decay": 0.5, "weight_decay": 0.1, "maximize": True}
K3 = dialects.keras3
OWN = {"own_dtype": True}
REAL = {"complex_ok": False}
PARAMS = {"needs_params": True}
NO_STATE = {"stateless": True}
ODD = {"keeps_sums": False, "smooth": False}
MATRIX = REAL | {"keeps_sums": False, "shaped": False}
CAP = {"max_norm": 1.0}
BLOCKS = aj.FullMatrix(block_size=3)
REGULARIZED = REAL | PARAMS | {"to_params": True}
DECAYING = {"learning_rate": 0.1} | DECAY
RATE = {"learning_rate": 0.1, "l1": 0.1, "l2": 0.1}
GROUPS = RATE | {"group_lasso": 0.1, "accumulator": aj.RowWise()}
FTRL = {"learning_rate": 0.1, "l1_regularization_strength": 0.1, "beta": 0.1}


def if_finite(learning_rate=0.1):
    return aj.apply_if_finite(aj.adagrad(learning_rate))


CASES = [
    Case("scale_by_adagrad", aj.scale_by_adagrad, {}),
    Case("adagrad", aj.adagrad, {"learning_rate": 0.1}),
    Case("adagrad-array", aj.adagrad, {"learning_rate": jnp.float32(0.1)}),
    Case("adagrad-schedule", aj.adagrad, {"learning_rate": SCHEDULE}),
    Case("adagrad-row-wise", aj.adagrad, {"accumulator": aj.RowWise()}),
    Case("adagrad-norm", aj.adagrad, {"accumulator": aj.Norm()}, shaped=False),
    Case("adagrad-sm3", aj.adagrad, {"accumulator": aj.SM3()}, keeps_sums=False),
    Case("adagrad-rounded", aj.adagrad, {"accumulator": aj.RoundedDiagonal()}, **ODD),
    Case("adagrad-full", aj.adagrad, {"accumulator": aj.FullMatrix()}, **MATRIX),
    Case("adagrad-blocks", aj.adagrad, {"accumulator": BLOCKS}, **MATRIX),
    Case("adagrad-in-sqrt", aj.adagrad, {"epsilon_in_sqrt": True}),
    Case("by-frequency", aj.scale_by_frequency, {}, keeps_sums=False),
    Case("frequency-adagrad", aj.frequency_adagrad, {"max_multiplier": 1.5}),
    Case("clip-value", aj.clip_by_value, {"max_abs": 0.7}, **NO_STATE, **REAL),
    Case("clip-norm", aj.clip_by_norm, {"max_norm": 1.0}, **NO_STATE),
    Case("clip-global-norm", aj.clip_by_global_norm, {"max_norm": 1.0}, **NO_STATE),
    Case("cap-row-norms", aj.cap_row_norms, CAP, **NO_STATE, **PARAMS, to_params=True),
    Case("proximal", aj.proximal_adagrad, RATE, **REGULARIZED),
    Case("proximal-groups", aj.proximal_adagrad, GROUPS, **REGULARIZED),
    Case("dual-averaging", aj.adagrad_da, RATE, **REGULARIZED),
    Case("ftrl", aj.ftrl, FTRL, **REGULARIZED),
    Case("lazy-decay", aj.lazy_weight_decay, DECAYING, **PARAMS, keeps_sums=False),
    Case("decay", aj.add_decayed_weights, DECAY, **NO_STATE, **PARAMS),
    Case("decay-masked", aj.add_decayed_weights, MASKED, **NO_STATE, **PARAMS),
    Case("if-finite", if_finite, {}),
    Case("keras", dialects.keras, {}, **OWN),
    Case("keras-everything", dialects.keras, KERAS, **OWN, **REAL),
    Case("keras3", K3, {}, **OWN),
    Case("keras3-decay", K3, DECAY, **OWN, **PARAMS),
    Case("keras3-clip", K3, {"global_clipnorm": 1.0}, **OWN),
    Case("keras3-average", K3, {"use_ema": True}, **OWN, **PARAMS),
    Case("keras3-accumulation", K3, ACCUMULATION, **OWN),
    Case("keras3-everything", K3, EVERYTHING, **OWN, **PARAMS),
    Case("optax", dialects.optax, {"learning_rate": 0.1}, **OWN),
    Case("torch", dialects.torch, {}, **OWN, **REAL),
    Case("torch-everything", dialects.torch, TORCH, **OWN, **PARAMS, **REAL),
    Case("fbgemm", dialects.fbgemm, {}),
    Case("fbgemm-decay", dialects.fbgemm, FBGEMM, **PARAMS, to_params=True),
    Case("sparsecore", dialects.sparsecore, {}),
    Case("f2a", dialects.sparsecore_f2a, {}),
    Case("f2a-penalties", dialects.sparsecore_f2a, F2A, **PARAMS, **REAL),
    Case("tf1", dialects.tf1, {"learning_rate": 0.1}, **OWN),
]
WITH_STATE = [case for case in CASES if not case.stateless]
WITH_SUMS = [case for case in WITH_STATE if case.keeps_sums]
SMOOTH = [case for case in CASES if case.smooth]


def over(cases):
    return pytest.mark.parametrize("case", cases, ids=str)


def test_every_transformation_is_in_the_table():
    public = {getattr(aj, name) for name in aj.__all__}
    public |= {getattr(dialects, name) for name in dialects.__all__}
    transformations = {
        f
        for f in filter(inspect.isfunction, public)
        if "GradientTransformation" in str(inspect.signature(f).return_annotation)
    }
    covered = {case.factory for case in CASES} - {if_finite} | {aj.apply_if_finite}
    assert transformations == covered


# Helpers


def some_params():
    return {
        "w": jnp.array([[1.0, -2.0], [0.5, 3.0]]),
        "b": jnp.array([0.25, -0.75]),
        "scale": jnp.float32(1.5),
    }


def gradient(params):
    """Of a convex loss with its minimum at 1/3, some numbers beyond all bounds."""
    return jax.tree.map(lambda p: 2 * (p - 1 / 3), params)


def one_step(optimizer, params, state):
    updates, state = optimizer.update(gradient(params), state, params)
    return optax.apply_updates(params, updates), state


def train(optimizer, params, steps=3):
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = one_step(optimizer, params, state)
    return params, state


def avals(tree):
    """Shape, dtype and weak type of each leaf."""
    return jax.tree.map(
        lambda x: (x.shape, jnp.dtype(x.dtype).name, x.weak_type),
        jax.eval_shape(lambda: tree),
    )


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def assert_close(actual, expected, rtol=2e-6):
    """By default, a few roundings of float32: compilers fuse and reorder."""
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=rtol)


# Leaves and trees


class Pair(NamedTuple):
    first: Any
    second: Any


@chex.dataclass
class Data:
    kernel: Any
    bias: Any


class Module(equinox.Module):
    kernel: jax.Array
    bias: jax.Array | None
    layers: tuple


def arrays(*dtypes):
    return [jnp.full((2, 2), 1.5, dtype) for dtype in dtypes]


LEAVES = {
    "nothing": lambda: {},
    "one-leaf": lambda: jnp.ones(()),
    "shapes": lambda: [jnp.ones(s) for s in [(), (0,), (3, 0), (2,), (2, 1, 3)]],
    "containers": lambda: {
        "none": (None, jnp.ones(2)),
        "masked-node": [optax.MaskedNode(), jnp.ones(2)],
        "named-tuple": Pair(jnp.ones(()), {"empty": []}),
        "chex": Data(kernel=jnp.ones((2, 2)), bias=jnp.ones(2)),
        "equinox": Module(jnp.ones((2, 2)), None, (Module(jnp.ones(2), None, ()),)),
    },
    "floats": lambda: arrays(jnp.float16, jnp.bfloat16, jnp.float32),
    "floats-64": lambda: arrays(jnp.float32, jnp.float64, jnp.bfloat16, jnp.float16),
    "complex": lambda: arrays(jnp.complex64, jnp.float16),
    "complex-64": lambda: arrays(jnp.complex64, jnp.complex128, jnp.float64),
    "numpy": lambda: [np.ones((2, 2), np.float32), np.float16(1), np.ones((), "f4")],
    "weak": lambda: {"a": 1.5, "b": [0.0], "c": jnp.asarray(1.5), "d": np.ones(2)},
}
LEAVES["weak-64"] = LEAVES["weak"]


def assert_keeps_types(case, params, gradients):
    optimizer = case.build()

    @jax.jit  # closed over, the leaves are what they are: numbers, NumPy's arrays
    def two_steps():
        state = optimizer.init(params)
        updates, after = optimizer.update(gradients, state, params)
        applied = optax.apply_updates(params, updates)
        _, again = optimizer.update(gradients, after, applied)
        return state, updates, after, applied, again

    state, updates, after, applied, again = two_steps()
    assert jax.tree.structure(updates) == jax.tree.structure(gradients)
    alike = jax.tree.leaves(params if case.to_params else gradients)
    for u, g in zip(jax.tree.leaves(updates), alike, strict=True):
        assert (jnp.shape(u), jnp.result_type(u)) == (jnp.shape(g), jnp.result_type(g))
    assert avals(after) == avals(again) == avals(state)
    chex.assert_tree_all_finite((updates, after, applied))
    assert jax.tree.structure(applied) == jax.tree.structure(params)
    for new, old in zip(jax.tree.leaves(applied), jax.tree.leaves(params), strict=True):
        assert (new.shape, new.dtype) == (jnp.shape(old), jnp.result_type(old))


@over(CASES)
@pytest.mark.parametrize("leaves", LEAVES)
def test_any_tree_of_any_leaves_keeps_its_types(case, leaves):
    with jax.enable_x64(leaves.endswith("64")):
        params = LEAVES[leaves]()
        if leaves.startswith("complex") and not case.complex_ok:
            with pytest.raises(TypeError, match="must be real, got dtype complex"):
                assert_keeps_types(case, params, params)
        else:
            assert_keeps_types(case, params, params)


@over(CASES)
@pytest.mark.usefixtures("standard_promotion")
def test_gradients_of_another_dtype_change_none(case):
    """As they come from mixed precision, or from a constant."""
    half, brain, single = (jnp.ones((), d) for d in ("float16", "bfloat16", "float32"))
    params = [half, half, half, brain, brain, single, single, single]
    gradients = [single, 1.0, brain, single, 1.0, half, brain, 1.0]
    assert_keeps_types(case, params, gradients)


@over(WITH_SUMS)
def test_accumulators_are_wide_enough(case):
    """Float32 or wider but for dialects, which keep what the peer keeps; real."""
    dtypes = "float16 bfloat16 float32 float64".split()
    with jax.enable_x64(True):
        kept = optax.tree.get(case.build().init(arrays(*dtypes)), "accumulator")
        wide = ["float32", "float32", "float32", "float64"]
        assert [a.dtype for a in kept] == (dtypes if case.own_dtype else wide)
        if case.complex_ok:
            params = arrays(jnp.complex64, jnp.complex128)
            kept = optax.tree.get(case.build().init(params), "accumulator")
            assert [a.dtype for a in kept] == ["float32", "float64"]


# JAX's transformations


@functools.cache
def jitted_step(case):
    """A step that takes over the buffers it is given, and a list of its traces."""
    optimizer, traces = case.build(), []

    def step(params, state):
        traces.append(params)
        return one_step(optimizer, params, state)

    return jax.jit(step, donate_argnums=(0, 1)), traces


@over(CASES)
def test_jit_equals_eager_and_compiles_once(case):
    step, traces = jitted_step(case)
    carry = some_params(), case.build().init(some_params())
    for _ in range(3):
        carry = step(*carry)
    assert len(traces) == step._cache_size() == 1
    assert_close(carry, train(case.build(), some_params()))


@over(CASES)
def test_donated_buffers_are_reused(case):
    step, _ = jitted_step(case)
    given = some_params(), case.build().init(some_params())
    jax.block_until_ready(step(*given))
    numbers = [x for x in jax.tree.leaves(given) if x.dtype != bool]
    assert all(x.is_deleted() for x in numbers)  # a flag need not be read


@over(CASES)
def test_scan_equals_a_loop(case):
    optimizer, params = case.build(), some_params()
    carry = params, optimizer.init(params)
    scanned, _ = jax.lax.scan(
        lambda carry, _: (one_step(optimizer, *carry), None), carry, length=3
    )
    assert avals(scanned) == avals(carry)
    assert_close(scanned, train(optimizer, params))


@over(CASES)
def test_vmap_over_hyperparameters_equals_a_loop(case):
    """Built inside the vmapped function, each number an array that is not known."""

    def run(numbers):
        return train(case.build(**numbers), some_params(), steps=2)[0]

    factors = [0.3, 1.0]
    expected = [run({n: f * x for n, x in case.numbers.items()}) for f in factors]
    stacked = {n: jnp.array(factors) * x for n, x in case.numbers.items()}
    assert stacked
    assert_close(jax.jit(jax.vmap(run))(stacked), stack(expected))


@over(CASES)
def test_vmap_over_models_equals_a_loop(case):
    models = [jax.tree.map(lambda p, i=i: p * i, some_params()) for i in (1.0, 0.0, -3)]
    vmapped = jax.vmap(functools.partial(train, case.build(), steps=2))
    expected = [train(case.build(), model, steps=2) for model in models]
    assert_close(jax.jit(vmapped)(stack(models)), stack(expected))


@functools.cache
def loss_and_slopes(case):
    """Of ten steps, by the initial parameters and by the hyperparameters."""

    def loss(params, numbers):
        optimizer = case.build(**numbers)
        (params, _), _ = jax.lax.scan(
            lambda carry, _: (one_step(optimizer, *carry), None),
            (params, optimizer.init(params)),
            length=10,
        )
        return sum(jnp.sum(jnp.square(p - 0.2)) for p in jax.tree.leaves(params))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def numbers_of(case, epsilon, initial):
    """Hyperparameters in float64, with these values for two of them."""
    values = {"epsilon": epsilon, "eps": epsilon, "initial_accumulator_value": initial}
    return {
        name: jnp.asarray(values.get(name, value), float)
        for name, value in case.numbers.items()
    }


@over(SMOOTH)
@pytest.mark.usefixtures("x64")
def test_derivative_through_ten_steps_is_the_finite_difference(case):
    params = jax.tree.map(lambda p: jnp.asarray(p, float), some_params())
    at = params, numbers_of(case, 0.01, 0.1)
    _, slopes = loss_and_slopes(case)(*at)
    leaves, structure = jax.tree.flatten(at)
    rng = np.random.default_rng(0)
    direction = [jnp.where(x == 0, 0, rng.uniform(-1, 1, x.shape)) for x in leaves]

    def along(h):
        moved = [x + h * d for x, d in zip(leaves, direction, strict=True)]
        return loss_and_slopes(case)(*structure.unflatten(moved))[0]

    h = 1e-5  # errors: h**2, and the loss's rounding / h
    slope = sum(
        jnp.sum(s * d) for s, d in zip(jax.tree.leaves(slopes), direction, strict=True)
    )
    np.testing.assert_allclose(slope, (along(h) - along(-h)) / (2 * h), rtol=1e-7)


@over([case for case in SMOOTH if not case.stateless])
@pytest.mark.usefixtures("x64")  # the slope at 0 is 1 / epsilon in each step
def test_derivative_through_ten_steps_is_finite_at_zero(case):
    """Where neither gradient nor accumulator has ever been other than 0."""
    params = jax.tree.map(lambda p: jnp.full_like(p, 1 / 3, float), some_params())
    assert not any(jnp.any(g) for g in jax.tree.leaves(gradient(params)))
    for epsilon in (0.0, 1e-7):
        for initial in (0.0, 0.1):
            numbers = numbers_of(case, epsilon, initial)
            chex.assert_tree_all_finite(loss_and_slopes(case)(params, numbers))


@over(CASES)
def test_init_of_abstract_parameters(case):
    params = some_params() | {"half": jnp.ones(3, jnp.bfloat16)}
    optimizer = case.build()
    expected = optimizer.init(params)
    abstract = jax.eval_shape(lambda: params)
    assert avals(jax.eval_shape(optimizer.init, abstract)) == avals(expected)
    chex.assert_trees_all_equal(optimizer.init(abstract), expected)


@over(CASES)
def test_exported_training_step(case):
    """Value, gradient and update, for platforms that are not here; the cpu's is run."""
    optimizer, params = case.build(), some_params()
    leaves, structure = jax.tree.flatten((params, optimizer.init(params)))

    def loss(params):
        return sum(jnp.sum(jnp.square(p - 1 / 3)) for p in jax.tree.leaves(params))

    def step(leaves):
        params, state = structure.unflatten(leaves)
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradients, state, params)
        return value, jax.tree.leaves((optax.apply_updates(params, updates), state))

    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(step), platforms=platforms)(leaves)
    loaded = jax.export.deserialize(exported.serialize())
    assert loaded.platforms == platforms
    for _ in range(3):
        value, leaves = loaded.call(leaves)
    assert_close(structure.unflatten(leaves), train(optimizer, params))


# Sharding


def sharded_params(axis_type):
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(axis_type,))
    by_rows = NamedSharding(mesh, PartitionSpec("rows"))
    params = {"table": jnp.ones((16, 2)), "bias": jnp.ones(8)}
    return mesh, jax.device_put(params, by_rows)


def assert_sharded_like(tree, params, *, some=True):
    """Arrays of a parameter's shape, or of one number a row, are sharded like it."""
    by_rows = {p.shape[:1]: p.sharding for p in params.values()}  # by nothing else
    shardings = by_rows | {p.shape: p.sharding for p in params.values()}
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.shape in shardings]
    assert bool(leaves) == some and len(leaves) % len(params) == 0
    for leaf in leaves:
        assert leaf.sharding.is_equivalent_to(shardings[leaf.shape], leaf.ndim)


@over(WITH_STATE)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_state_is_sharded_like_its_parameter(case, axis_type):
    mesh, params = sharded_params(axis_type)
    optimizer = case.build()

    @jax.jit
    def step(params, state, skip):
        return jax.lax.cond(
            skip, lambda: (params, state), lambda: one_step(optimizer, params, state)
        )

    with jax.set_mesh(mesh):
        state = optimizer.init(params)
        assert_sharded_like(state, params, some=case.shaped)
        for skip in (False, True):
            # One at a time: virtual devices that share few cores can wait for ever.
            params, state = jax.block_until_ready(step(params, state, jnp.array(skip)))
            assert_sharded_like(params, params)
            assert_sharded_like(state, params, some=case.shaped)


@over(WITH_STATE)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_state_of_a_jitted_init_is_sharded_like_its_parameter(case, axis_type):
    mesh, params = sharded_params(axis_type)
    with jax.set_mesh(mesh):
        state = jax.jit(case.build().init)(params)
    for name in ("accumulator", "average"):
        if (tree := optax.tree.get(state, name)) is not None:
            assert_sharded_like(tree, params, some=case.shaped)


# Inside shard_map, with its default of checking what varies

WHOLE_ONLY = {"adagrad-full", "adagrad-blocks"} | {
    case.name for case in CASES if case.factory is K3 and case.arguments
}
WHOLE_ONLY = WHOLE_ONLY - {"keras3-clip", "keras3-average"} | {"torch-everything"}


def rows_step(optimizer, whole, table, bias, ids, values):
    """Two steps; the gradient of the table is of rows, if not ``whole``."""
    params = {"table": table, "bias": bias}
    state = optimizer.init(params)
    for _ in range(2):
        rows = aj.RowSparse(ids, values, table.shape)
        gradients = {"table": rows.to_dense() if whole else rows, "bias": bias}
        updates, state = optimizer.update(gradients, state, params)
        params = aj.apply_updates(params, updates)
    return params, state


@over(CASES)
def test_in_shard_map_each_device_takes_its_own_steps(case):
    rng, optimizer = np.random.default_rng(0), case.build()
    tables = jnp.asarray(rng.normal(size=(2, 6, 2)), jnp.float32)
    biases = jnp.asarray(rng.normal(size=(2, 3)), jnp.float32)
    ids = jnp.array([[3, 1, 3, 6], [0, 5, -1, 0]])
    values = jnp.asarray(rng.normal(size=(2, 4, 2)), jnp.float32)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    take_step = functools.partial(rows_step, optimizer, case.name in WHOLE_ONLY)

    def on_each(*args):
        result = take_step(*(x[0] for x in args))
        return jax.tree.map(lambda x: x[None], result)

    spec = PartitionSpec("d")
    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=spec, out_specs=spec)
    result = jax.jit(mapped)(tables, biases, ids, values)
    alone = jax.jit(take_step)
    expected = [alone(*args) for args in zip(tables, biases, ids, values, strict=True)]
    assert_close(jax.device_get(result), jax.device_get(stack(expected)))


@over([case for case in CASES if case.name in WHOLE_ONLY])
def test_what_takes_no_rows_says_so(case):
    args = jnp.ones((6, 2)), jnp.ones(3), jnp.array([1, 2]), jnp.ones((2, 2))
    with pytest.raises(TypeError, match=r"gradient at \['table'\] is a RowSparse, but"):
        rows_step(case.build(), False, *args)


# Optax's conventions


@over(CASES)
def test_takes_extra_arguments(case):
    optimizer, params = case.build(), some_params()
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    state = optimizer.init(params)
    chex.assert_trees_all_equal(
        optimizer.update(gradient(params), state, params, value=1.0, other=None),
        optimizer.update(gradient(params), state, params),
    )


@over(CASES)
def test_parameters_are_asked_for_where_they_matter(case):
    optimizer, params = case.build(), some_params()
    state = optimizer.init(params)
    if case.needs_params:
        with pytest.raises(ValueError, match="`params` must be given"):
            optimizer.update(gradient(params), state)
    else:
        chex.assert_trees_all_equal(
            optimizer.update(gradient(params), state),
            optimizer.update(gradient(params), state, params),
        )


@over(CASES)
def test_only_stateless_ones_have_no_state(case):
    leaves = jax.tree.leaves(case.build().init(some_params()))
    assert bool(leaves) != case.stateless


def injected(case):
    static = [n for n, x in case.arguments.items() if isinstance(x, int) or n == "mask"]
    return optax.inject_hyperparams(case.factory, static)(**case.arguments)


@over(CASES)
@pytest.mark.usefixtures("standard_promotion")
def test_inject_hyperparams(case):
    """Hyperparameters as traced arrays give what the numbers themselves give."""
    optimizer, params = injected(case), some_params()
    assert set(case.numbers) <= set(optimizer.init(params).hyperparams)
    step = jax.jit(functools.partial(one_step, optimizer))
    carry = params, optimizer.init(params)
    for _ in range(3):
        carry = step(*carry)
    assert_close(carry[0], train(case.build(), params)[0])


@over(CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["f32", "bf16"])
@pytest.mark.usefixtures("standard_promotion")
def test_inject_hyperparams_keeps_types(case, dtype):
    """Optax casts hyperparameters to the parameters' dtype."""
    optimizer = injected(case)
    params = jax.tree.map(lambda p: p.astype(dtype), some_params())
    carry = params, optimizer.init(params)

    def run(carry):
        def step(carry, skip):
            kept = functools.partial(one_step, optimizer)
            return jax.lax.cond(skip, lambda *c: c, kept, *carry), None

        return jax.lax.scan(step, carry, jnp.array([False, True]))[0]

    assert avals(jax.eval_shape(run, carry)) == avals(carry)
