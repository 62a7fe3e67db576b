"""What the tests of interop share: a peer's run that goes on here, and back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj
from tests import golden_cases as golden

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
    state = fill(accumulators, start, jax.jit(optimizer.init)(params), params)
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


# There and back


SHAPES = {"bias": (3,), "kernel": (2, 3), "table": (4, 3)}
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


@functools.cache
def train():
    """By optimizer the parameters, and its state before and after three steps."""

    @jax.jit
    def init(params):
        return {name: optimizer.init(params) for name, optimizer in OPTIMIZERS.items()}

    @jax.jit  # all of them at once, which compiles sooner
    def step(gradients, states, params):
        new_states, new_params = {}, {}
        for name, optimizer in OPTIMIZERS.items():
            updates, new_states[name] = optimizer.update(
                gradients, states[name], params[name]
            )
            new_params[name] = optax.apply_updates(params[name], updates)
        return new_states, new_params

    def random(rng):
        return {k: np.float32(rng.normal(size=shape)) for k, shape in SHAPES.items()}

    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        params = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
        fresh = states = init(params)
        params = dict.fromkeys(OPTIMIZERS, params)
        rng = np.random.default_rng(0)
        for _ in range(3):
            states, params = step(random(rng), states, params)
    return {name: (params[name], fresh[name], states[name]) for name in OPTIMIZERS}


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


# What cannot be


W = {"w": jnp.ones((2, 3))}


def state_of(accumulator, params=W):
    return aj.adagrad(0.1, accumulator=accumulator).init(params)


GOOD = torch_state_dict([np.ones((2, 3))], [1])
