"""Gradients that the object takes itself: losses, lists of variables, clipping."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Variable
from tests.keras.common import fact, stepped


def test_minimize_a_table_touches_its_rows_only():
    table = Variable(jnp.ones((1000, 2)), name="table")
    bias = Variable(jnp.zeros(2), name="bias")
    ids = jnp.array([3, 7, 3])
    opt = Adagrad(0.1)
    loss = lambda: jnp.sum((table[ids] + bias[None]) ** 2)  # noqa: E731
    gradients = opt.get_gradients(loss, [table, bias])
    assert isinstance(gradients[0], aj.RowSparse)
    opt.minimize(loss, [table, bias])
    changed = np.flatnonzero((table.numpy() != 1).any(1))
    assert list(changed) == [3, 7]
    dense = Variable(jnp.ones((1000, 2)), name="table")
    other = Variable(jnp.zeros(2), name="bias")
    grads = jax.grad(lambda t, b: jnp.sum((t[ids] + b[None]) ** 2), (0, 1))(
        dense.value, other.value
    )
    Adagrad(0.1).apply_gradients(zip(grads, [dense, other], strict=True))
    np.testing.assert_allclose(table.numpy(), dense.numpy(), rtol=1e-6)
    np.testing.assert_allclose(bias.numpy(), other.numpy(), rtol=1e-6)


def test_minimize_kinds_of_losses():
    w = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    assert opt.minimize(lambda: w * w, [w], grad_loss=[10.0, 100.0], name="x") == 1
    wanted = fact("minimize_grad_loss")["result"]
    np.testing.assert_allclose(
        opt.get_slot(w, "accumulator").numpy(), wanted, rtol=1e-5
    )
    w, opt = Variable([1.0, 2.0], name="w"), Adagrad(0.1)
    opt.minimize(lambda: w * w, w)
    wanted = fact("minimize_vector_loss")["result"]
    np.testing.assert_allclose(
        opt.get_slot(w, "accumulator").numpy(), wanted, rtol=1e-6
    )


def test_minimize_var_list_that_the_loss_makes():
    made = []

    def loss():
        if not made:
            made.append(Variable([1.0], name="late"))
        return jnp.sum(made[0] ** 2)

    Adagrad(0.1).minimize(loss, lambda: tuple(made))
    assert made[0].numpy() < 1


def test_minimize_without_gradients():
    a, b = Variable([1.0, 2.0], name="a"), Variable([3.0], name="b")
    opt = Adagrad(0.1)
    with pytest.raises(
        ValueError, match="No gradients provided for any variable: .'a:0'"
    ):
        opt.minimize(lambda: jnp.array(1.0), [a])
    with pytest.warns(UserWarning, match="b:0"):
        opt.minimize(lambda: jnp.sum(a * a), [a, b])
    wanted = fact("minimize_some_without_gradient")["result"]
    np.testing.assert_allclose(a.numpy(), wanted["a"], rtol=1e-6)
    assert [weight.name for weight in opt.weights] == wanted["weights"]
    with pytest.warns(UserWarning, match="b:0"):
        Adagrad(0.1, clipnorm=1.0).minimize(lambda: jnp.sum(a * a), [a, b])
    integers = Variable([1, 2], name="i")
    with pytest.raises(ValueError, match="No gradients .*'i:0'"):
        opt.minimize(lambda: jnp.sum(integers * integers), [integers])
    complex_ = Variable([1j], name="z")
    with pytest.raises(ValueError, match="Invalid type complex64 for z:0"):
        opt.minimize(lambda: jnp.sum(jnp.abs(complex_ * complex_)), [complex_])


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda o, w: o.minimize(jnp.array(1.0), [w]),
            TypeError,
            "object is not callable",
        ),
        (
            lambda o, w: o.minimize(lambda: 1.0, [jnp.ones(2)]),
            ValueError,
            "Variable objects",
        ),
        (
            lambda o, w: o.get_gradients(jnp.array(1.0), [w]),
            ValueError,
            "`None` for gradient",
        ),
        (lambda o, w: o.get_gradients(lambda: 1.0, [w]), ValueError, "w:0 has `None`"),
        (lambda o, w: o.get_updates(lambda: 1.0, [w]), ValueError, "w:0 has `None`"),
        (
            lambda o, w: o.minimize(lambda: w.assign([1.0, 1.0]), [w]),
            RuntimeError,
            "w:0 cannot be assigned to by a loss",
        ),
    ],
)
def test_minimize_bad_input(call, error, match):
    opt, w, _ = stepped()
    state = w.numpy(), opt.get_weights()
    with pytest.raises(error, match=match):
        call(opt, w)
    chex.assert_trees_all_equal((w.numpy(), opt.get_weights()), state)


def test_loss_scale():
    w, plain = Variable([1.0], name="w"), Variable([1.0], name="w")
    opt = Adagrad(0.1, loss_scale_factor=1024.0)
    seen = []

    def loss():
        seen.append(w)
        return jnp.sum(w**2)

    opt.minimize(loss, [w])
    Adagrad(0.1).minimize(lambda: jnp.sum(plain**2), [plain])
    np.testing.assert_allclose(w.numpy(), plain.numpy(), rtol=1e-6)
    assert opt.scale_loss(2.0) == 2048.0
    assert Adagrad().scale_loss(2.0) == 2.0


@pytest.mark.parametrize(
    "name",
    [
        "clipnorm_zero",
        "clipvalue_zero",
        "clipnorm_nan_gradient",
        "clipnorm_overflow",
    ],
)
def test_clipped_gradients(name):
    kind = name.split("_")[0]
    bound = 1.0 if name.endswith(("gradient", "overflow")) else 0.0
    given = {"clipnorm_nan_gradient": [np.nan, 4.0], "clipnorm_overflow": [1e20, 1.0]}
    g = jnp.array(given.get(name, [3.0, 4.0 if kind == "clipnorm" else -4.0]))
    w = Variable([0.0, 0.0], name="w")
    opt = Adagrad(**{kind: bound})
    (found,) = opt.get_gradients(lambda: jnp.sum(w * g), [w])
    np.testing.assert_array_equal(found, np.array(fact(name)["result"], float))


def test_sparse_clipnorm():
    table = Variable(jnp.zeros((4, 2)), name="table")
    values = jnp.array([[3.0, 4.0], [3.0, 4.0]])
    opt = Adagrad(clipnorm=1.0)
    (found,) = opt.get_gradients(
        lambda: jnp.sum(table[jnp.array([1, 1])] * values), [table]
    )
    _, rows, ids = fact("sparse_clipnorm")["result"]
    np.testing.assert_allclose(found.values, rows, rtol=1e-6)
    assert list(found.ids) == ids


@pytest.mark.parametrize("clip", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_a_scaled_loss(clip):
    found = []
    for scale in (None, 1024.0):
        w = Variable([1.0, 2.0], name="w")
        opt = Adagrad(0.1, loss_scale_factor=scale, **{clip: 1.0})
        opt.minimize(lambda w=w: jnp.sum(w * 3.0), [w])
        found.append((w.numpy(), opt.get_slot(w, "accumulator").numpy()))
    np.testing.assert_allclose(*found, rtol=1e-6)


def remembering(kind, w):
    """Losses whose reading of ``w`` JAX remembers, which steps would go on from."""
    square = lambda: jnp.sum(w * w)  # noqa: E731
    if kind == "jit":
        return jax.jit(square)
    if kind == "jit of a part":
        part = jax.jit(square)
        return lambda: part() + w[0]
    if kind == "checkpoint":
        part = jax.checkpoint(square)
        return functools.partial(lambda scale: scale * part(), 2.0)
    body = lambda total, x: (total + w[0] * x, None)  # noqa: E731
    return lambda: jax.lax.scan(body, 0.0, jnp.arange(3.0))[0]


@pytest.mark.parametrize("kind", ["jit", "jit of a part", "checkpoint", "scan"])
def test_a_variable_that_jax_would_not_read_again_is_named(kind):
    w, b = (aj.keras.Variable([1.0, 2.0], name=name) for name in "wb")
    loss = remembering(kind, w)
    opt = aj.keras.Adagrad(0.5)
    for match in ("^w:0 must be an argument", "w:0"):  # at the first try, and after
        with pytest.raises(ValueError, match=match):
            opt.minimize(lambda: loss() + b[0], [w, b])
    assert opt.weights == []
    np.testing.assert_array_equal(w.numpy(), [1, 2])


def test_what_is_defined_inside_the_loss_reads_variables_again():
    w, other = aj.keras.Variable([1.0, 2.0]), aj.keras.Variable([1.0, 2.0])
    opt = aj.keras.Adagrad(0.5)

    def loss():
        body = lambda total, x: (total + jnp.sum(w * w * x), None)  # noqa: E731
        square = jax.jit(lambda: jnp.sum(w * w))
        return jax.lax.scan(body, 0.0, jnp.ones(3))[0] + square()

    for _ in range(3):
        opt.minimize(loss, [w])
        opt.minimize(lambda: 4 * jnp.sum(other * other), [other])
    np.testing.assert_allclose(w.numpy(), other.numpy(), rtol=1e-6)
