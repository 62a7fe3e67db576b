"""Adagrad inside the libraries it is used with gives what it gives by itself."""

import functools

import chex
import equinox
import flax.linen
import flax.serialization
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training import train_state

import adagrad_jax as aj

# The libraries rely on JAX's usual promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")

STEPS = 4


def some_params():
    rng = np.random.default_rng(0)
    return {
        "kernel": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=2), jnp.float32),
    }


def batch(step):
    rng = np.random.default_rng(step + 1)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    return x.astype(np.float32), y.astype(np.float32)


def mean_square(predicted, y):
    return jnp.mean(jnp.square(predicted - y))


def loss(params, x, y):
    return mean_square(x @ params["kernel"] + params["bias"], y)


gradient = jax.jit(jax.grad(loss))


def train(optimizer, params=None, steps=range(STEPS), state=None):
    """Plain arrays, one step after the other."""
    params = some_params() if params is None else params
    state = optimizer.init(params) if state is None else state
    for t in steps:
        updates, state = optimizer.update(gradient(params, *batch(t)), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_close(actual, expected):
    """To a few roundings of float32: a compiler fuses and reorders."""
    chex.assert_trees_all_equal_structs(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6, atol=1e-6)


# Optax: combinations


def test_chain():
    """Clipping comes before the accumulator, the decoupled decay after it."""
    parts = [
        aj.clip_by_value(0.3),
        aj.scale_by_adagrad(),
        aj.add_decayed_weights(0.1),
        optax.scale(-0.5),
    ]
    actual, _ = train(optax.chain(*parts))
    params = some_params()
    sums = jax.tree.map(lambda p: jnp.full_like(p, 0.1), params)
    for t in range(STEPS):
        g = gradient(params, *batch(t))
        g = jax.tree.map(lambda g: jnp.clip(g, -0.3, 0.3), g)
        sums = jax.tree.map(lambda a, g: a + g * g, sums, g)
        params = jax.tree.map(
            lambda p, g, a: p - 0.5 * (g / (jnp.sqrt(a) + 1e-7) + 0.1 * p),
            params,
            g,
            sums,
        )
    assert_close(actual, params)


def test_masked():
    """The other leaf's gradient goes through as it is, and nothing is kept for it."""
    optimizer = optax.masked(aj.adagrad(0.5), {"kernel": True, "bias": False})
    params = some_params()
    g = gradient(params, *batch(0))
    updates, state = optimizer.update(g, optimizer.init(params), params)
    alone = aj.adagrad(0.5)
    expected, _ = alone.update(g["kernel"], alone.init(params["kernel"]))
    chex.assert_trees_all_equal(updates, {"kernel": expected, "bias": g["bias"]})
    assert len(jax.tree.leaves(optax.tree.get(state, "accumulator"))) == 1


def test_partition():
    """Each leaf has the accumulator, the rate and the count of its own kind."""
    kinds = {
        "kernel": aj.adagrad(0.5, accumulator=aj.Diagonal(jnp.bfloat16)),
        "bias": aj.adagrad(aj.inverse_time_decay(0.1, 0.5), 0.2),
    }
    labels = {"kernel": "kernel", "bias": "bias"}
    optimizer = optax.partition(kinds, labels)
    params = some_params()
    state = optimizer.init(params)
    alone = {name: kind.init(params[name]) for name, kind in kinds.items()}
    expected = params
    for t in range(STEPS):
        g = gradient(expected, *batch(t))
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
        for name, kind in kinds.items():
            update, alone[name] = kind.update(g[name], alone[name])
            expected = expected | {name: expected[name] + update}
        chex.assert_trees_all_equal(params, expected)
    kept = {a.dtype.name for a in jax.tree.leaves(state) if a.ndim}
    assert kept == {"bfloat16", "float32"}


def test_multi_steps_is_one_step_with_the_mean_gradient():
    optimizer = aj.adagrad(0.5)
    params = some_params()
    several = optax.MultiSteps(optimizer, 3)
    state, actual, sums = several.init(params), params, []
    for t in range(3):
        sums.append(gradient(params, *batch(t)))
        updates, state = several.update(sums[-1], state, actual)
        actual = optax.apply_updates(actual, updates)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *sums)
    updates, expected = optimizer.update(mean, optimizer.init(params), params)
    assert_close(actual, optax.apply_updates(params, updates))
    assert_close(state.inner_opt_state, expected)


def test_apply_if_finite():
    """A NaN changes neither parameters nor accumulators; the next step is as usual."""
    optimizer = optax.apply_if_finite(aj.adagrad(0.5), 3)
    params, state = train(optimizer)
    bad = jax.tree.map(lambda p: p.at[0].set(jnp.nan), params)
    updates, after = optimizer.update(bad, state, params)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), params)
    chex.assert_trees_all_equal(after.inner_state, state.inner_state)
    expected = train(aj.adagrad(0.5), steps=range(STEPS + 1))
    params, state = train(optimizer, params, [STEPS], after)
    assert_close((params, state.inner_state), expected)


def test_lookahead():
    """Slow parameters follow the fast ones half the way at every second step."""
    optimizer = optax.lookahead(aj.adagrad(0.5), 2, 0.5)
    params = optax.LookaheadParams.init_synced(some_params())
    state = optimizer.init(params)
    slow, fast, inner = some_params(), some_params(), None
    for t in range(STEPS):
        g = gradient(params.fast, *batch(t))
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
        fast, inner = train(aj.adagrad(0.5), fast, [t], inner)
        if t % 2:
            slow = fast = jax.tree.map(lambda s, f: (s + f) / 2, slow, fast)
    assert_close((params.fast, params.slow), (fast, slow))


def test_split_real_and_imaginary():
    """A complex parameter as two real ones, as PyTorch takes it."""
    optimizer = aj.dialects.torch(0.5)
    split = optax.contrib.split_real_and_imaginary(optimizer)
    z = jnp.array([1 + 2j, -3 + 0.5j])
    pair = z.real, z.imag
    state, alone = split.init(z), optimizer.init(pair)
    for _ in range(STEPS):
        g = z * z + 1
        updates, state = split.update(g, state, z)
        z = optax.apply_updates(z, updates)
        updates, alone = optimizer.update((g.real, g.imag), alone)
        pair = optax.apply_updates(pair, updates)
    chex.assert_trees_all_equal((z.real, z.imag), pair)


# Optax: learning rates


SCHEDULES = {
    "cosine": optax.cosine_decay_schedule(0.5, 3),
    "exponential": optax.exponential_decay(0.5, 2, 0.5, staircase=True),
    "warmup": optax.linear_schedule(0.0, 0.5, 2),
    "pieces": optax.piecewise_constant_schedule(0.5, {1: 0.1, 3: 0.5}),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("inject", [False, True], ids=["plain", "injected"])
def test_schedule_is_asked_with_the_count_from_zero(schedule, inject):
    rates = [float(schedule(t)) for t in range(STEPS)]
    assert len(set(rates)) > 1
    adagrad = optax.inject_hyperparams(aj.adagrad) if inject else aj.adagrad
    actual, _ = train(adagrad(schedule))
    expected, state = some_params(), None
    for t, rate in enumerate(rates):
        expected, state = train(aj.adagrad(rate), expected, [t], state)
    assert_close(actual, expected)


def test_learning_rate_set_between_steps_does_not_recompile():
    optimizer = optax.inject_hyperparams(aj.adagrad)(0.5)
    update = jax.jit(optimizer.update)
    params = some_params()
    state = optimizer.init(params)
    expected, plain = params, None
    for t, rate in enumerate([0.5, 0.1, 0.7]):
        state = optax.tree.set(state, learning_rate=jnp.float32(rate))
        updates, state = update(gradient(params, *batch(t)), state, params)
        params = optax.apply_updates(params, updates)
        expected, plain = train(aj.adagrad(rate), expected, [t], plain)
    assert_close(params, expected)
    assert update._cache_size() == 1
    assert optax.tree.get(state, "learning_rate") == np.float32(0.7)


# Optax: looking into the state


def test_get_and_set():
    params = some_params()
    optimizer = aj.adagrad(optax.constant_schedule(0.5))
    _, state = train(optimizer)
    assert optax.tree.get(state, "count") == STEPS
    kept = optax.tree.get(state, "accumulator")
    chex.assert_trees_all_equal_shapes_and_dtypes(kept, params)
    restarted = optax.tree.set(
        state, count=jnp.int32(0), accumulator=jax.tree.map(lambda a: 0 * a + 0.1, kept)
    )
    chex.assert_trees_all_equal(restarted, optimizer.init(params))


def test_map_params():
    """Accumulators are found as what belongs to parameters, the count as not."""
    optimizer = aj.adagrad(optax.constant_schedule(0.5))
    _, state = train(optimizer)
    mapped = optax.tree_utils.tree_map_params(
        optimizer, lambda a, p: a + p, state, some_params()
    )
    expected = jax.tree.map(
        jnp.add, optax.tree.get(state, "accumulator"), some_params()
    )
    chex.assert_trees_all_equal(mapped, optax.tree.set(state, accumulator=expected))


# Models of other libraries


def test_flax_train_state():
    model = flax.linen.Dense(2)
    variables = model.init(jax.random.key(0), batch(0)[0])
    chex.assert_trees_all_equal_shapes(variables["params"], some_params())
    state = train_state.TrainState.create(
        apply_fn=model.apply, params=some_params(), tx=aj.adagrad(0.5)
    )

    @jax.jit
    def step(state, x, y):
        def model_loss(params):
            return mean_square(state.apply_fn({"params": params}, x), y)

        return state.apply_gradients(grads=jax.grad(model_loss)(state.params))

    for t in range(STEPS):
        state = step(state, *batch(t))
    assert state.step == STEPS
    assert_close((state.params, state.opt_state), train(aj.adagrad(0.5)))


def test_flax_linen_variables():
    """The whole tree of variables, without a train state."""
    model, optimizer = flax.linen.Dense(2), aj.adagrad(0.5)
    variables = {"params": some_params()}
    state = optimizer.init(variables)

    def model_loss(variables, x, y):
        return mean_square(model.apply(variables, x), y)

    for t in range(STEPS):
        g = jax.grad(model_loss)(variables, *batch(t))
        updates, state = optimizer.update(g, state)
        variables = optax.apply_updates(variables, updates)
    assert_close(variables["params"], train(optimizer)[0])


def test_flax_nnx():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    nnx.update(model, some_params())
    optimizer = nnx.Optimizer(model, aj.adagrad(0.5), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        grads = nnx.grad(lambda model: mean_square(model(x), y))(model)
        optimizer.update(model, grads)

    for t in range(STEPS):
        step(model, optimizer, *batch(t))
    expected, state = train(aj.adagrad(0.5))
    assert_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected)
    kept = [
        leaf[...]
        for leaf in jax.tree.leaves(
            optimizer.opt_state, is_leaf=lambda x: isinstance(x, nnx.Variable)
        )
    ]
    assert_close(kept, jax.tree.leaves(state))


def test_equinox():
    """Gradients are None where the model has no array."""
    params = some_params()
    model = equinox.nn.MLP(3, 2, 0, 0, key=jax.random.key(0))
    model = equinox.tree_at(
        lambda model: (model.layers[0].weight, model.layers[0].bias),
        model,
        (params["kernel"].T, params["bias"]),
    )
    optimizer = aj.adagrad(0.5)
    state = optimizer.init(equinox.filter(model, equinox.is_inexact_array))

    @equinox.filter_jit
    def step(model, state, x, y):
        value, grads = equinox.filter_value_and_grad(
            lambda model: mean_square(jax.vmap(model)(x), y)
        )(model)
        updates, state = optimizer.update(grads, state, model)
        return value, equinox.apply_updates(model, updates), state

    for t in range(STEPS):
        value, model, state = step(model, state, *batch(t))
    (layer,) = model.layers
    expected, plain = train(optimizer)
    assert_close({"kernel": layer.weight.T, "bias": layer.bias}, expected)
    (kept,) = optax.tree.get(state, "accumulator").layers
    actual = {"kernel": kept.weight.T, "bias": kept.bias}
    assert_close(actual, optax.tree.get(plain, "accumulator"))


def test_haiku():
    model = haiku.without_apply_rng(haiku.transform(lambda x: haiku.Linear(2)(x)))
    params = {"linear": {"w": some_params()["kernel"], "b": some_params()["bias"]}}
    initial = model.init(jax.random.key(0), batch(0)[0])
    chex.assert_trees_all_equal_shapes(initial, params)
    optimizer = aj.adagrad(0.5)

    @jax.jit
    def step(params, state, x, y):
        g = jax.grad(lambda params: mean_square(model.apply(params, x), y))(params)
        updates, state = optimizer.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for t in range(STEPS):
        params, state = step(params, state, *batch(t))
    layer = params["linear"]
    expected, _ = train(optimizer)
    assert_close({"kernel": layer["w"], "bias": layer["b"]}, expected)


# Saving


@pytest.mark.parametrize(
    "build",
    [
        functools.partial(aj.adagrad, optax.constant_schedule(0.5)),
        functools.partial(optax.inject_hyperparams(aj.adagrad), 0.5),
        functools.partial(
            aj.dialects.keras3, use_ema=True, gradient_accumulation_steps=2
        ),
        functools.partial(aj.dialects.torch, lr_decay=0.5),
    ],
    ids=["adagrad", "injected", "keras3", "torch"],
)
def test_flax_serialization_continues_bit_for_bit(build):
    params, state = train(build(), steps=range(3))
    saved = flax.serialization.to_bytes((params, state))
    fresh = jax.tree.map(jnp.zeros_like, some_params())
    restored = flax.serialization.from_bytes((fresh, build().init(fresh)), saved)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, (params, state))
    continued = train(build(), restored[0], range(3, 6), restored[1])
    chex.assert_trees_all_equal(continued, train(build(), steps=range(6)))
