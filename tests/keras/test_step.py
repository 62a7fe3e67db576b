"""``apply_gradients``: what it takes, what it changes, and what it leaves as it was."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable
from tests.keras.common import fact, stepped, wu


def test_apply_gradients_of_nothing():
    opt = Adagrad()
    assert opt.apply_gradients([]) == fact("apply_gradients_empty")["result"][1]
    w, u = wu()
    with pytest.raises(ValueError, match="No gradients provided") as error:
        opt.apply_gradients([(None, w), (None, u)])
    assert str(error.value) == fact("apply_gradients_all_none")["message"]
    assert int(opt.iterations) == 1


def test_gradient_none_warns_and_leaves_the_variable():
    opt, (w, u) = Adagrad(), wu()
    with pytest.warns(UserWarning, match=r"do not exist for variables \['u:0'\]"):
        opt.apply_gradients([(jnp.ones(2), w), (None, u)])
    assert u.numpy() == [3.0]
    assert len(opt.weights) == 2


@pytest.mark.parametrize("g", [[1.0, 1.0], np.ones(2, np.float32), (1, 1)])
def test_gradients_that_are_no_jax_arrays(g):
    w, _ = wu()
    Adagrad(0.1).apply_gradients(zip([g], [w], strict=True), name="x")
    np.testing.assert_allclose(w.numpy(), fact("gradient_list")["result"], rtol=1e-6)


MALFORMED = {
    "not pairs": (lambda w: [w], TypeError, "must be pairs"),
    "three": (lambda w: [(1.0, w, w)], TypeError, "must be pairs"),
    "no iterable": (lambda w: 3, TypeError, "must be pairs"),
    "array": (lambda w: [(jnp.ones(2), jnp.ones(2))], TypeError, "must be a Variable"),
    "swapped": (lambda w: [(w, jnp.ones(2))], TypeError, "must be a Variable"),
    "shape": (lambda w: [(jnp.ones(3), w)], ValueError, r"of w:0 has shape \(3,\)"),
    "broadcast": (lambda w: [(jnp.ones(1), w)], ValueError, r"of w:0 has shape \(1,\)"),
    "scalar": (lambda w: [(jnp.ones(()), w)], ValueError, r"of w:0 has shape \(\)"),
    "dtype": (
        lambda w: [(jnp.ones(2, jnp.bfloat16), w)],
        ValueError,
        "of w:0 has dtype bfloat16",
    ),
    "integers": (lambda w: [(jnp.ones(2, int), w)], ValueError, "w:0 has dtype int32"),
    "rows": (
        lambda w: [(aj.RowSparse([0], jnp.ones((1, 3)), (2, 3)), w)],
        ValueError,
        r"of w:0 has shape \(2, 3\)",
    ),
    "integer variable": (
        lambda w: [(jnp.ones(2, int), Variable([1, 2], name="i"))],
        TypeError,
        "i:0 must have floating-point numbers",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("new", [True, False])
def test_after_an_error_all_is_as_before(name, new):
    pairs, error, match = MALFORMED[name]
    opt, w, u = stepped()
    other = Variable([1.0, 1.0], name="other")
    state = w.numpy(), u.numpy(), opt.get_weights()
    pairs = pairs(w)
    if new and isinstance(pairs, list):
        pairs = [(jnp.ones(2), other), *pairs]
    with pytest.raises(error, match=match):
        opt.apply_gradients(pairs)
    chex.assert_trees_all_equal((w.numpy(), u.numpy(), opt.get_weights()), state)
    assert list(other.numpy()) == [1, 1]
    opt.apply_gradients([(jnp.ones(2), w)])
    assert int(opt.iterations) == 2


def test_an_error_in_the_transformation_changes_nothing():
    def fail(updates, state, params=None):
        raise RuntimeError("no")

    opt = Optimizer(optax.GradientTransformation(optax.scale_by_adam().init, fail), 0.1)
    w, _ = wu()
    with pytest.raises(RuntimeError, match="no"):
        opt.apply_gradients([(jnp.ones(2), w)])
    assert opt.weights == [] and list(w.numpy()) == [1, 2]


def test_inside_jit_it_says_what_to_do():
    opt, (w, _) = Adagrad(), wu()

    @jax.jit
    def step(g):
        opt.apply_gradients([(g, w)])

    with pytest.raises(TypeError, match="stateless_apply"):
        step(jnp.ones(2))
    assert list(w.numpy()) == [1, 2] and opt.weights == []


def test_non_finite_gradients_stay_in_their_place():
    w, opt = Variable([1.0, 2.0], name="w"), Adagrad(0.1)
    opt.apply_gradients([(jnp.array([jnp.nan, 1.0]), w)])
    wanted = fact("nan_gradient")["result"]
    np.testing.assert_allclose(
        w.numpy(), np.array(wanted["variable"], float), rtol=1e-6
    )


def test_row_sparse_gradients():
    table = Variable(jnp.ones((4, 2)), name="table")
    opt = Adagrad(0.1)
    gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
    opt.apply_gradients([(gradient, table)])
    value, accumulator = fact("sparse_duplicates_summed_first")["result"]
    np.testing.assert_allclose(table.numpy(), value, rtol=1e-6)
    np.testing.assert_allclose(
        opt.get_slot(table, "accumulator").numpy(), accumulator, rtol=1e-6
    )
    opt.apply_gradients([(gradient.to_bcoo(), table)])
    assert list(table.numpy()[0]) == [1, 1] and table.numpy()[1, 0] < 0.9


def test_row_sparse_with_a_constraint_raises():
    table = Variable(jnp.ones((4, 2)), name="table", constraint=jnp.abs)
    gradient = aj.RowSparse([1], jnp.ones((1, 2)), (4, 2))
    with pytest.raises(RuntimeError, match="constraint function on a sparse variable"):
        Adagrad().apply_gradients([(gradient, table)])


def test_row_sparse_gradients_where_steps_change_whole_tables():
    results = []
    for dense in (True, False):
        table = Variable(jnp.ones((4, 2)), name="table")
        opt = Adagrad(0.1, weight_decay=0.5, use_ema=True, ema_overwrite_frequency=2)
        for _ in range(3):
            gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (4, 2))
            opt.apply_gradients([(gradient.to_dense() if dense else gradient, table)])
        results.append((table.numpy(), opt.get_weights()))
    chex.assert_trees_all_close(*results, rtol=1e-6)


def test_clipping_of_the_base_class_is_in_apply_gradients():
    w = Variable([1.0, 2.0], name="w")
    opt = Optimizer(optax.identity(), 1.0, clipnorm=1.0)
    opt.apply_gradients([(jnp.array([3.0, 4.0]), w)])
    np.testing.assert_allclose(w.numpy(), [0.4, 1.2], rtol=1e-6)


def test_duplicates_that_cancel():
    table = Variable(jnp.ones((4, 2)), name="table")
    values = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    opt = Adagrad(0.1)
    opt.apply_gradients([(aj.RowSparse([1, 1], values, (4, 2)), table)])
    value, accumulator = fact("sparse_duplicates_cancel")["result"]
    np.testing.assert_array_equal(table.numpy(), value)
    slot = opt.get_slot(table, "accumulator").numpy()
    np.testing.assert_array_equal(slot, np.float32(accumulator))


def test_bfloat16_table():
    table = Variable(jnp.ones((4, 2)), name="table", dtype=jnp.bfloat16)
    opt = Adagrad(0.1)
    rows = jnp.ones((1, 2), jnp.bfloat16)
    opt.apply_gradients([(aj.RowSparse([1], rows, (4, 2)), table)])
    value, accumulator = fact("sparse_bfloat16")["result"]
    np.testing.assert_array_equal(table.numpy().astype(float), value)
    slot = opt.get_slot(table, "accumulator").numpy().astype(float)
    np.testing.assert_array_equal(slot, accumulator)


def test_variables_that_are_not_trainable_are_trained_if_given():
    w = Variable([1.0], trainable=False, name="w")
    Adagrad(0.1).apply_gradients([(jnp.ones(1), w)])
    np.testing.assert_allclose(w.numpy(), fact("non_trainable_variable")["result"])


def test_infinite_gradients_float64(x64):
    w = Variable(np.array([1.0, 2.0]), name="w")
    opt = Adagrad(0.1)
    opt.apply_gradients([(jnp.array([jnp.inf, 1.0]), w)])
    wanted = fact("inf_gradient_float64")["result"]
    slot = opt.get_slot(w, "accumulator").numpy()
    np.testing.assert_allclose(slot, np.array(wanted["accumulator"], float))
    np.testing.assert_allclose(w.numpy(), np.array(wanted["variable"], float))


# Arrays that users hold


def test_an_array_that_was_taken_stays_valid():
    opt, w, _ = stepped()
    kept, slot = w.value, opt.get_slot(w, "accumulator").value
    as_numpy = w.numpy()
    opt.apply_gradients([(jnp.ones(2), w)])
    np.testing.assert_array_equal(kept, as_numpy)
    assert float(slot[0]) == pytest.approx(1.1)
    assert not np.array_equal(w.numpy(), as_numpy)


def test_what_nobody_holds_is_changed_in_place():
    opt, w, _ = stepped()
    inside = w._array
    opt.apply_gradients([(jnp.ones(2), w)])
    assert inside.is_deleted()


def test_donate_variables():
    opt, w, _ = stepped(donate_variables=True)
    kept = w.value
    opt.apply_gradients([(jnp.ones(2), w)])
    with pytest.raises(RuntimeError, match="deleted|donated"):
        print(kept)


def test_variables_that_share_an_array():
    a = Variable([1.0], name="a")
    b = Variable([2.0], name="b")
    b.assign(a.value)
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(1), a), (jnp.ones(1), b)])
    np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.usefixtures("standard_promotion")
def test_what_a_transformation_holds_is_not_given_up():
    key = jax.random.key(0)
    noise = optax.add_noise(0.1, 0.5, key)
    for _ in range(2):
        w = Variable([1.0, 2.0], name="w")
        opt = Optimizer(noise, 0.1)
        for _ in range(2):
            opt.apply_gradients([(jnp.ones(2), w)])
    assert not key.is_deleted()


# What is compiled


def test_sharding_stays():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("x",), axis_types=auto)
    sharding = NamedSharding(mesh, P("x"))
    table = Variable(jax.device_put(jnp.ones((16, 2)), sharding), name="table")
    opt = Adagrad(0.1)
    for _ in range(2):
        opt.minimize(lambda: jnp.sum(table**2), [table])
        jax.block_until_ready(table._array)
        for array in (table.value, opt.get_slot(table, "accumulator").value):
            assert array.sharding.is_equivalent_to(sharding, 2)


def test_a_step_is_compiled_once():
    w = Variable(2.0, name="w")  # a Python number, which JAX would type weakly
    opt = Adagrad(0.1)
    for _ in range(3):
        opt.minimize(lambda: w * w, [w])
    (step,) = opt._steps.values()
    assert step._compiled._cache_size() == 1


def test_a_table_without_weight_decay_is_changed_by_rows():
    """Compiled, its step has no other array of the table's size."""
    rows = 50_000
    table = Variable(jnp.ones((rows, 8)), name="table")
    w = Variable(jnp.ones(8), name="w")
    opt = Adagrad(0.1, weight_decay=0.5)
    opt.exclude_from_weight_decay(table)
    ids = jnp.array([1, 5])
    opt.minimize(lambda: jnp.sum(table[ids] * w[None]), [table, w])
    assert list(np.flatnonzero((table.numpy() != 1).any(1))) == [1, 5]
    np.testing.assert_allclose(w.numpy(), 1 - 0.05 - 0.1 * 2 / np.sqrt(4.1), rtol=1e-5)
    (step,) = opt._steps.values()
    gradients = [aj.RowSparse(ids, jnp.ones((2, 8)), (rows, 8)).to_bcoo(), jnp.ones(8)]
    arrays = [[v._array for v in group] for group in ([table, w], step.slots)]
    rest = opt.iterations.value, opt.lr.value, opt.decay.value
    compiled = step._compiled.lower(*arrays, gradients, *rest).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows * 8


# Keras 3's additions


def test_exclude_from_weight_decay():
    w, bias = Variable([1.0], name="w"), Variable([1.0], name="bias")
    for how in ({"var_list": [bias]}, {"var_names": ["bi.s"]}):
        w.assign([1.0])
        opt = Adagrad(0.1, weight_decay=0.5)
        opt.exclude_from_weight_decay(**how)
        opt.apply_gradients([(jnp.zeros(1), w), (jnp.zeros(1), bias)])
        assert w.numpy() == pytest.approx(0.95) and bias.numpy() == 1.0


def test_exclude_one_variable():
    w = Variable([3.0], name="w")
    for how in ({"var_list": w}, {"var_names": "w"}):
        opt = Adagrad(0.1, weight_decay=0.5)
        opt.exclude_from_weight_decay(**how)
        opt.apply_gradients([(jnp.zeros(1), w)])
        assert w.numpy() == 3.0


def test_averages_need_all_gradients():
    w, u = wu()
    opt = Optimizer(optax.identity(), 0.1, use_ema=True)
    opt.build([w, u])
    with pytest.raises(ValueError, match="u must have a gradient, if only zeros"):
        opt.apply_gradients([(jnp.ones(2), w)])
    opt.apply_gradients([(jnp.ones(2), w), (jnp.zeros(1), u)])
    opt.finalize_variable_values([w, u])
    assert u.numpy() == [3.0]


@pytest.mark.usefixtures("standard_promotion")
def test_counters_count_a_variable_given_twice_once():
    a, b, alone = (Variable([1.0], name=name) for name in ("a", "b", "alone"))
    g = jnp.ones(1)
    opt = Optimizer(optax.identity(), 0.1, gradient_accumulation_steps=2)
    for _ in range(4):
        opt.apply_gradients([(g, a), (g, a), (g, b)])
    np.testing.assert_allclose((a.numpy(), b.numpy()), ([0.6], [0.8]), rtol=1e-6)
    twice, once = (Optimizer(optax.scale_by_adam(), 0.1) for _ in range(2))
    b.assign([1.0])
    for t in range(3):
        twice.apply_gradients([(g, a), (g, a), (g * t, b)])
        once.apply_gradients([(g * t, alone)])
    np.testing.assert_array_equal(b.numpy(), alone.numpy())
