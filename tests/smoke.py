"""What the package must do where nothing is installed but it and what it needs.

``make dist`` runs it so: ``python -I tests/smoke.py``, without this repository.
"""

import importlib.metadata
import importlib.resources
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj

OPTIONAL = {
    *("chex", "equinox", "flax", "haiku", "keras", "matplotlib", "optree", "orbax"),
    *("sklearn", "tensorflow", "torch", "tqdm", "jax.experimental.sparse"),
}
RATE, EPSILON, START = 0.5, 1e-7, 0.1


def adagrad(params, accumulator, gradient):
    accumulator = accumulator + gradient**2
    step = RATE * gradient / (np.sqrt(accumulator) + EPSILON)
    return params - step, accumulator


def metadata():
    assert importlib.metadata.version("adagrad_jax") == aj.__version__
    assert (importlib.resources.files(aj) / "py.typed").is_file()
    for name in aj.__all__:
        assert getattr(aj, name) is not None


def dense_steps():
    optimizer = aj.adagrad(RATE, START, EPSILON)
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    state = optimizer.init(params)
    w, accumulator = np.array([1.0, -2.0]), START
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)  # of |params|^2 / 2
        params = aj.apply_updates(params, updates)
        w, accumulator = adagrad(w, accumulator, w)
    np.testing.assert_allclose(params["w"], w, rtol=1e-6)


def row_sparse_steps():
    """With a row that is read twice, rows that are not, and padding."""
    ids, weights = jnp.array([3, 1, 3, -1]), jnp.array([1.0, 2.0, 3.0, 0.0])
    optimizer = aj.adagrad(RATE, START, EPSILON)

    def loss(params):
        return jnp.sum(weights[:, None] * params["table"][ids] * params["scale"])

    @jax.jit
    def step(params, state):
        value, gradients = aj.value_and_grad(loss)(params)
        assert isinstance(gradients["table"], aj.RowSparse)
        updates, state = optimizer.update(gradients, state, params)
        return aj.apply_updates(params, updates), state, value

    start = np.arange(10.0, dtype=np.float32).reshape(5, 2)
    params = {"table": jnp.array(start), "scale": jnp.ones(2)}
    params, state, value = step(params, optimizer.init(params))
    np.testing.assert_allclose(value, 2 * start[1].sum() + 4 * start[3].sum())
    gradient = np.zeros_like(start)
    gradient[1], gradient[3] = 2.0, 4.0
    expected, accumulator = adagrad(start, np.float32(START), gradient)
    np.testing.assert_allclose(params["table"], expected, rtol=1e-6)
    found = state[0].accumulator["table"]
    np.testing.assert_allclose(found, np.broadcast_to(accumulator, (5, 2)), rtol=1e-6)


def object_steps():
    w = aj.keras.Variable([1.0, -2.0], name="w")
    optimizer = aj.keras.Adagrad(RATE, START, EPSILON)
    expected, accumulator = np.array([1.0, -2.0]), START
    for count in range(1, 4):
        assert optimizer.minimize(lambda: jnp.sum(w * w) / 2, [w]) == count
        expected, accumulator = adagrad(expected, accumulator, expected)
    np.testing.assert_allclose(w.numpy(), expected, rtol=1e-6)
    slot = optimizer.get_slot(w, "accumulator")
    np.testing.assert_allclose(slot.numpy(), accumulator, rtol=1e-6)


def the_other_parts():
    params = {"table": jnp.ones((4, 2))}
    theirs, ours = optax.adagrad(RATE, START), aj.dialects.optax(RATE, START)
    state = theirs.init(params)
    found = aj.interop.from_optax(state, ours.init(params), params)
    expected, _ = theirs.update(params, state, params)
    updates, _ = ours.update(params, found, params)
    np.testing.assert_allclose(updates["table"], expected["table"], rtol=1e-6)
    assert "table" in str(aj.diagnostics.report(found, params))
    by_rows = aj.sharding.RowSharding(jax.make_mesh((1,), ("rows",)), "rows")
    placed = aj.sharding.shard_rows(params, by_rows, lambda path, leaf: True)
    np.testing.assert_array_equal(aj.sharding.gather_rows(placed)["table"], 1.0)


def main():
    assert not OPTIONAL & set(sys.modules), OPTIONAL & set(sys.modules)
    for part in metadata, dense_steps, row_sparse_steps, object_steps, the_other_parts:
        part()
    assert not OPTIONAL & set(sys.modules), OPTIONAL & set(sys.modules)
    print(f"adagrad_jax {aj.__version__} works with jax {jax.__version__}")


if __name__ == "__main__":
    main()
