"""A Variable behaves as the array that it holds, and holds what it should."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adagrad_jax.keras import Variable


def test_properties():
    w = Variable([[1.0, 2.0]], trainable=False, name="w", dtype=jnp.float16)
    assert (w.name, w.shape, w.ndim, w.size, w.dtype) == (
        "w:0",
        (1, 2),
        2,
        2,
        jnp.float16,
    )
    assert not w.trainable and w.constraint is None
    assert repr(w) == "<Variable 'w:0' shape=(1, 2) dtype=float16 value=[[1. 2.]]>"
    assert Variable(1.0).name == "Variable:0"


@pytest.mark.parametrize("name", "add sub mul truediv floordiv mod pow matmul".split())
def test_arithmetic(name):
    function = getattr(operator, name)
    a, b = jnp.array([3.0, 5.0]), jnp.array([2.0, 4.0])
    v, other = Variable(a), Variable(b)
    for left, right in (
        (v, b),
        (a, other),
        (v, other),
        (v, np.asarray(b)),
        (np.asarray(a), other),
    ):
        found = function(left, right)
        assert isinstance(found, jax.Array)
        np.testing.assert_array_equal(found, function(a, b))
    if name != "matmul":
        np.testing.assert_array_equal(function(v, 2.0), function(a, 2.0))
        np.testing.assert_array_equal(function(2.0, v), function(2.0, a))


def test_as_an_array():
    a = jnp.array([[3.0, -5.0], [1.0, 2.0]])
    v = Variable(a)
    np.testing.assert_array_equal(-v, -a)
    np.testing.assert_array_equal(abs(v), abs(a))
    np.testing.assert_array_equal(v[0], a[0])
    np.testing.assert_array_equal(v[jnp.array([1, 1])], a[jnp.array([1, 1])])
    np.testing.assert_array_equal(jnp.take(v, jnp.array([1]), axis=0), a[1:])
    np.testing.assert_array_equal(jnp.sum(v), jnp.sum(a))
    np.testing.assert_array_equal(np.asarray(v), a)
    np.testing.assert_array_equal(v < 2, a < 2)
    np.testing.assert_array_equal(v >= 2, a >= 2)
    assert len(v) == 2 and len(list(v)) == 2
    n = Variable(3)
    assert (float(n), int(n), bool(n), [0, 1, 2, 3][n]) == (3.0, 3, True, 3)


def test_assign():
    v = Variable([1.0, 2.0], name="v")
    assert v.assign([3.0, 4.0]) is v
    v.assign_add(np.array([1.0, 1.0])).assign_sub(Variable([0.0, 5.0]))
    np.testing.assert_array_equal(v.numpy(), [4, 0])
    with pytest.raises(ValueError, match=r"v:0 is of shape \(2,\).*\(3,\)"):
        v.assign(jnp.ones(3))
    with pytest.raises(ValueError, match="v:0"):
        v.assign(1.0)


def test_it_owns_its_value():
    array = np.array([1.0, 2.0], np.float32)
    v = Variable(array)
    array[0] = 9
    v.assign(array)
    array[1] = 9
    np.testing.assert_array_equal(v.numpy(), [9, 2])
    v.numpy()[0] = 5
    np.testing.assert_array_equal(v.numpy(), [9, 2])


def test_tracers_are_refused():
    v = Variable([1.0], name="v")
    with pytest.raises(TypeError, match="v:0 cannot hold"):
        jax.jit(lambda x: v.assign(x).value)(jnp.ones(1))
    with pytest.raises(TypeError, match="new:0 cannot hold"):
        jax.jit(lambda x: Variable(x, name="new").value)(jnp.ones(1))
    np.testing.assert_array_equal(v.numpy(), [1])


def test_to_jax_it_is_its_array():
    v = Variable([1.0, 2.0], name="v")
    np.testing.assert_array_equal(jax.jit(lambda w: w * 2.0)(v), [2, 4])
    np.testing.assert_array_equal(jax.grad(lambda w: jnp.sum(w**2))(v), [2, 4])
    (leaf,) = jax.tree.leaves({"v": v})
    np.testing.assert_array_equal(leaf, [1, 2])
    ids = jnp.array([[1, 0]])
    np.testing.assert_array_equal(jnp.take(v, ids, axis=0), [[2, 1]])
    np.testing.assert_array_equal(jnp.dot(v, v), 5)
    np.testing.assert_array_equal(jnp.where(v > 1.0, v, 0.0), [0, 2])
    np.testing.assert_array_equal(jnp.concatenate([v, v]), [1, 2, 1, 2])
    np.testing.assert_array_equal(jax.nn.relu(v), [1, 2])


def test_equality_is_elementwise_and_it_is_hashable():
    v = Variable([1.0, 2.0])
    np.testing.assert_array_equal(v == jnp.array([1.0, 3.0]), [True, False])
    np.testing.assert_array_equal(v != 2.0, [True, False])
    assert {v: 1}[v] == 1
