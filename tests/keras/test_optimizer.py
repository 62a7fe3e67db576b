"""The object as a whole: any transformation, variable, thread, sequence of calls."""

import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable
from tests.keras.common import fact, wu


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("late", [True, False])
def test_any_optax_transformation(late):
    """Also variables that come late, and chains that look at all of them."""
    transformation = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.scale_by_adam(), lambda p: True)
        if not late
        else optax.scale_by_adam(),
    )
    w, u = wu()
    opt = Optimizer(transformation, 0.1)
    grads = [jnp.array([3.0, 0.0]), jnp.array([4.0])]
    if late:
        opt.apply_gradients([(jnp.ones(2), Variable([1.0, 1.0], name="first"))])
    opt.apply_gradients(zip(grads, [w, u], strict=True))
    params = {"w": jnp.array([1.0, 2.0]), "u": jnp.array([3.0])}
    grads = dict(zip(params, grads, strict=True))
    reference = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
    state = reference.init(params)
    if late:  # its count had gone on
        state = optax.tree.set(state, count=jnp.array(1))
    updates, _ = reference.update(grads, state)
    np.testing.assert_allclose(w.numpy(), params["w"] - 0.1 * updates["w"], rtol=1e-6)
    np.testing.assert_allclose(u.numpy(), params["u"] - 0.1 * updates["u"], rtol=1e-6)


def in_two_threads(work):
    errors = []

    def run():
        try:
            work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_two_threads_do_not_corrupt_it():
    w = Variable(np.zeros(64), name="w")
    opt = Adagrad(0.01)

    def work():
        for _ in range(30):
            opt.minimize(lambda: jnp.sum((w - 1.0) ** 2), [w])
            _ = w + 1.0

    in_two_threads(work)
    assert int(opt.iterations) == 60
    alone = Variable(np.zeros(64), name="w")
    opt = Adagrad(0.01)
    for _ in range(60):
        opt.minimize(lambda: jnp.sum((alone - 1.0) ** 2), [alone])
    np.testing.assert_array_equal(w.numpy(), alone.numpy())


# Other libraries' variables


def test_refs():
    ref = jax.new_ref(jnp.array([1.0, 2.0]))
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), ref)])
    plain = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), plain)])
    np.testing.assert_array_equal(ref[...], plain.numpy())


def test_flax_nnx_params():
    nnx = pytest.importorskip("flax.nnx")
    param = nnx.Param(jnp.array([1.0, 2.0]))
    kept = param[...]
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), param)])
    plain = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), plain)])
    np.testing.assert_array_equal(param[...], plain.numpy())
    assert list(kept) == [1, 2]


# Any sequence of calls


@st.composite
def calls(draw):
    """Steps, each a list of (variable, whether it has a gradient, seed)."""
    pair = st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 99))
    return draw(st.lists(st.lists(pair, min_size=1, max_size=4), max_size=6))


ALL, NONE = [(0, True, 0), (1, True, 1), (2, True, 2)], [(0, False, 0), (2, False, 0)]
TWICE = [(2, True, 3), (1, False, 0), (2, True, 4), (1, True, 5)]


@settings(max_examples=25)  # each has compiled steps of its own
@example([ALL, TWICE, ALL], 0.3)
@example([[(1, True, 6)], NONE, TWICE, TWICE, ALL], 0.0)
@given(calls(), st.sampled_from([0.0, 0.3]))
def test_any_sequence_of_calls_is_adagrad(steps, decay):
    """Late variables, missing gradients, repeated variables, row-sparse gradients."""
    shapes = [(), (3,), (4, 2)]
    variables = [Variable(jnp.ones(s), name=f"v{i}") for i, s in enumerate(shapes)]
    values = [np.ones(s) for s in shapes]
    sums = [np.full(s, 0.1) for s in shapes]
    opt, count = Adagrad(0.5, decay=decay), 0
    for step in steps:
        pairs = []
        rate = 0.5 / (1 + decay * count)
        for i, present, seed in step:
            if not present:
                pairs.append((None, variables[i]))
                continue
            rng = np.random.default_rng(seed)
            g = rng.normal(size=shapes[i]).astype(np.float32)
            if i == 2:  # by rows, the last of them twice
                rows = aj.RowSparse([1, 3, 3], g[:3], shapes[i])
                pairs.append((rows, variables[i]))
                g = np.asarray(rows.to_dense())
            else:
                pairs.append((g, variables[i]))
            sums[i] = sums[i] + g.astype(float) ** 2
            values[i] = values[i] - rate * g / (np.sqrt(sums[i]) + 1e-7)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if any(present for _, present, _ in step):
                opt.apply_gradients(pairs)
                count += 1
            else:
                with pytest.raises(ValueError, match="No gradients"):
                    opt.apply_gradients(pairs)
    assert int(opt.iterations) == count
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=2e-5, atol=2e-5)


def test_a_model_as_keras_fitted_it():
    """Dense(1), mean squared error, two epochs of two batches.

    TensorFlow 2.0's ``fit`` calls ``apply_gradients``, so its clipnorm has no effect.
    """
    x = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5], [2.0, 2.0]])
    y = jnp.array([[1.0], [0.0], [2.0], [-1.0]])
    kernel = Variable([[0.5], [-0.25]], name="d/kernel")
    bias = Variable([0.0], name="d/bias")
    opt = Adagrad(0.1, decay=0.5, clipnorm=1.0)

    @jax.grad
    def gradients(variables, x, y):
        kernel, bias = variables
        return jnp.mean((x @ kernel + bias[None] - y) ** 2)

    for batch in (slice(0, 2), slice(2, 4)) * 2:
        grads = gradients([kernel, bias], x[batch], y[batch])
        opt.apply_gradients(zip(grads, [kernel, bias], strict=True))
    wanted = fact("model_fit")["result"]
    for found, value in zip((kernel, bias), wanted["weights"], strict=True):
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)
    for found, value in zip(
        opt.get_weights(), wanted["optimizer_weights"], strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-5)
    assert [weight.name for weight in opt.weights] == wanted["names"]


def test_two_optimizers_of_one_variable_in_two_threads():
    w = Variable(np.zeros(4), name="w")

    def work():
        opt = Optimizer(optax.identity(), 1.0)
        for _ in range(25):
            opt.minimize(lambda: jnp.sum(w * 1.0), [w])

    in_two_threads(work)
    np.testing.assert_array_equal(w.numpy(), np.full(4, -50.0))
