"""What is finite, and steps that are left out because something is not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

INF, NAN = float("inf"), float("nan")


def rows(*values, dtype=jnp.float32, ids=(1, 1)):
    values = jnp.array(values, jnp.float32).reshape(2, 1)
    return aj.RowSparse(ids, values, (3, 1)).astype(jnp.dtype(dtype))


@pytest.mark.parametrize(
    "tree, finite",
    [
        ({}, True),
        ({"a": jnp.ones(2), "n": 3, "b": jnp.array(True), "none": None}, True),
        ({"a": jnp.ones(2), "x": jnp.array([1.0, NAN])}, False),
        (np.array([INF, 1.0]), False),
        (jnp.array([1 + 1j, complex(0, NAN)]), False),
        (rows(1.0, 2.0), True),
        (rows(INF, -INF), False),
        (rows(NAN, 1.0, ids=(0, 2)), False),
        # Each entry is finite, their sum is not in float16.
        (rows(4e4, 4e4, dtype=jnp.float16), False),
        (rows(4e4, 4e4), True),
        (rows(4e4, 4e4, dtype=jnp.float16, ids=(0, 2)), True),
        (rows(NAN, NAN, ids=(3, 9)), True),  # no row of the table
        (aj.RowSparse(jnp.zeros(0, int), jnp.zeros((0, 1)), (3, 1)), True),
    ],
    ids=str,
)
def test_all_finite(tree, finite):
    result = aj.all_finite(tree)
    assert result.shape == () and result.dtype == bool
    assert bool(result) == finite


def test_a_bcoo_is_refused():
    """Its entries do not tell whether their sums are finite."""
    gradient = {"table": rows(3e38, 3e38).to_bcoo()}
    finite = aj.apply_if_finite(aj.adagrad(0.1))
    state = finite.init({"table": jnp.ones((3, 1))})
    for ask in (aj.all_finite, lambda tree: finite.update(tree, state)):
        with pytest.raises(TypeError, match=r"at \['table'\] is a BCOO.*from_bcoo"):
            ask(gradient)


def test_the_state_comes_after_the_gradients():
    finite = aj.apply_if_finite(aj.adagrad(0.1))
    with pytest.raises(TypeError, match=r"update\(gradients, state, params\)"):
        finite.update(finite.init(jnp.ones(2)), jnp.ones(2))


def gradients(params, ids, factor):
    def loss(params):
        return jnp.sum(params["table"][ids] * factor) + jnp.sum(params["bias"] ** 2)

    return aj.grad(loss)(params)


def chained():
    """All that depends on the parameters, the count and the rows."""
    return optax.chain(
        aj.clip_by_global_norm(3.0),
        aj.scale_by_adagrad(accumulator=aj.RoundedDiagonal()),
        aj.add_decayed_weights(0.1),
        optax.scale_by_learning_rate(aj.inverse_time_decay(0.5, 1.0)),
    )


@pytest.mark.usefixtures("standard_promotion")
def test_steps_that_are_not_finite_are_left_out_and_others_are_not_changed():
    params = {"table": jnp.arange(8.0).reshape(4, 2), "bias": jnp.ones(2)}
    outer, inner = aj.apply_if_finite(chained()), chained()

    @jax.jit
    def steps(params):
        ids = jnp.array([2, 0, 2])
        ours, theirs = outer.init(params), inner.init(params)
        expected = params
        for factor in (1.0, INF, 2.0, NAN):
            updates, ours = outer.update(gradients(params, ids, factor), ours, params)
            params = aj.apply_updates(params, updates)
            if np.isfinite(factor):
                given = gradients(expected, ids, factor)
                updates, theirs = inner.update(given, theirs, expected)
                expected = aj.apply_updates(expected, updates)
        return params, expected, ours, theirs

    params, expected, ours, theirs = steps(params)
    compare = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6)  # noqa: E731
    jax.tree.map(compare, (params, ours.inner_state), (expected, theirs))
    assert (ours.total_notfinite, ours.notfinite_count, ours.last_finite) == (2, 1, 0)


def test_it_gives_up_as_optax_does():
    gradient = jnp.array([1.0, NAN])
    ours = aj.apply_if_finite(aj.adagrad(0.1), 1)
    theirs = optax.apply_if_finite(aj.adagrad(0.1), 1)
    state, their_state = ours.init(gradient), theirs.init(gradient)
    assert jax.tree.structure(state) == jax.tree.structure(their_state)
    for _ in range(3):
        updates, state = ours.update(gradient, state)
        expected, their_state = theirs.update(gradient, their_state)
        np.testing.assert_array_equal(updates, expected)
        jax.tree.map(np.testing.assert_array_equal, state, their_state)
    assert np.isnan(updates[1])
    with pytest.raises(ValueError, match="must be an integer >= 0 or None, got 1.5"):
        aj.apply_if_finite(aj.adagrad(0.1), 1.5)


def test_no_table_is_copied_for_it():
    params = {"table": jnp.ones((100_000, 4)), "bias": jnp.ones(2)}
    optimizer = aj.apply_if_finite(optax.chain(aj.adagrad(0.1), aj.cap_row_norms(9.0)))
    state = optimizer.init(params)

    def step(params, state, ids, factor):
        given = gradients(params, ids, factor)
        updates, state = optimizer.update(given, state, params)
        return aj.apply_updates(params, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    compiled = step.lower(params, state, jnp.arange(50), jnp.float32(1.0)).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    assert memory < params["table"].nbytes / 10
    compiled(params, state, jnp.arange(50), jnp.float32(1.0))  # donates each but once
