"""Several tables in one array: its update is that of all their rows in one table."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests.compiling import FUSED_AS_USUAL

SHAPE, FLAT = (3, 5, 2), (15, 2)
RNG = np.random.default_rng(0)
IDS = np.array([14, 0, 7, 14, 15, -1, 7, 4])
VALUES = RNG.normal(size=(8, 2)).astype(np.float32)
TABLES = jnp.asarray(RNG.normal(size=SHAPE), jnp.float32)

# Each is built with the number of axes that count rows.
OPTIMIZERS = {
    "adagrad": lambda axes: aj.adagrad(0.1),
    "clips-decay": lambda axes: optax.chain(
        aj.clip_by_value(0.9),
        aj.clip_by_global_norm(1.0),
        aj.add_decayed_weights(0.1),
        aj.adagrad(0.1),
    ),
    "row-wise": lambda axes: aj.adagrad(0.1, accumulator=aj.RowWise(row_axes=axes)),
    "norm": lambda axes: aj.adagrad(0.1, accumulator=aj.Norm()),
    "rounded": lambda axes: aj.adagrad(0.1, accumulator=aj.RoundedDiagonal()),
    "groups": lambda axes: aj.proximal_adagrad(
        0.1, group_lasso=0.1, accumulator=aj.RowWise(row_axes=axes)
    ),
    "dual-averaging": lambda axes: aj.adagrad_da(0.1, l1=0.1),
    "ftrl": lambda axes: aj.ftrl(0.1, l1_regularization_strength=0.1),
    "lazy": lambda axes: optax.chain(
        aj.adagrad(0.1), aj.lazy_weight_decay(0.1, 0.1, row_axes=axes)
    ),
    "frequency": lambda axes: aj.frequency_adagrad(0.1, row_axes=axes),
    "cap": lambda axes: optax.chain(
        aj.adagrad(0.1), aj.cap_row_norms(0.5, row_axes=axes)
    ),
}


def two_steps(optimizer, table):
    state = optimizer.init(table)
    for ids in (IDS, IDS[::-1].copy()):
        gradient = aj.RowSparse(ids, VALUES, table.shape)
        updates, state = optimizer.update(gradient, state, table)
        table = aj.apply_updates(table, updates)
    return table, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_equals_one_table_of_all_rows(name):
    run = jax.jit(two_steps, static_argnums=0)
    stacked = run(OPTIMIZERS[name](2), TABLES)
    flat = run(OPTIMIZERS[name](1), TABLES.reshape(FLAT))
    for one, other in zip(*map(jax.tree.leaves, (stacked, flat)), strict=True):
        assert one.size == other.size
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=1e-6)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("row_axes", [1, 2, 3])
def test_row_wise_equals_dense_if_rows_are_no_smaller_than_its_own(axes, row_axes):
    """Whatever names the rows of the gradient; else it is an error, no broadcast."""
    gradient = aj.RowSparse([1, 2, 1], jnp.ones((3, *SHAPE[axes:])), SHAPE)
    optimizer = aj.adagrad(0.1, accumulator=aj.RowWise(row_axes=row_axes))
    state = optimizer.init(TABLES)
    assert optax.tree.get(state, "accumulator").shape == SHAPE[:row_axes]
    if axes > row_axes:
        message = f"first {axes} axes.*got {re.escape(str(SHAPE[:row_axes]))}"
        with pytest.raises(ValueError, match=message):
            optimizer.update(gradient, state)
        return
    update, state = optimizer.update(gradient, state)
    dense, expected = optimizer.update(gradient.to_dense(), optimizer.init(TABLES))
    np.testing.assert_allclose(update.to_dense(), dense, rtol=1e-6)
    jax.tree.map(np.testing.assert_allclose, state, expected)


@pytest.mark.parametrize(
    "optimizer, message",
    [
        (aj.adagrad(0.1, accumulator=aj.RowWise()), r"first 2 axes.*row_axes=2"),
        (aj.adagrad(0.1, accumulator=aj.SM3()), r"SM3\(\).*RowWise\(row_axes=2\)"),
        (
            aj.lazy_weight_decay(0.1, 0.1),
            r"first 2 axes.*lazy_weight_decay.*row_axes=2",
        ),
        (aj.scale_by_frequency(), r"first 2 axes.*row_axes=2"),
        (aj.cap_row_norms(1.0), r"named by 2 axes.*row_axes=2"),
    ],
    ids=["row-wise", "sm3", "lazy", "frequency", "cap"],
)
def test_what_keeps_numbers_of_other_rows_says_what_to_do(optimizer, message):
    params = {"layer": {"tables": TABLES}}
    gradients = {"layer": {"tables": aj.RowSparse(IDS, VALUES, SHAPE)}}
    message = rf"gradient at \['layer'\]\['tables'\]: .*{message}"
    with pytest.raises(ValueError, match=message):
        optimizer.update(gradients, optimizer.init(params), params)


@pytest.mark.usefixtures("standard_promotion")
def test_row_axes_under_injected_hyperparameters():
    """An array cannot tell how many axes there are."""
    for make in (aj.lazy_weight_decay, aj.cap_row_norms, aj.scale_by_frequency):
        numbers = (0.5,) if make is aj.cap_row_norms else (0.1, 0.1)
        static = optax.inject_hyperparams(make, static_args="row_axes")
        optimizer, expected = static(*numbers, row_axes=2), make(*numbers, row_axes=2)
        gradient = aj.RowSparse(IDS, VALUES, SHAPE)
        update, _ = optimizer.update(gradient, optimizer.init(TABLES), TABLES)
        wanted, _ = expected.update(gradient, expected.init(TABLES), TABLES)
        np.testing.assert_allclose(update.to_dense(), wanted.to_dense(), rtol=1e-6)
        with pytest.raises(ValueError, match="'row_axes' is in static_args="):
            optax.inject_hyperparams(make)(*numbers, row_axes=2).init(TABLES)


@pytest.mark.parametrize("row_axes", [0, -1, 1.5, True])
def test_row_axes_is_a_positive_integer(row_axes):
    for build in (
        lambda: aj.RowWise(row_axes=row_axes),
        lambda: aj.lazy_weight_decay(0.1, 0.1, row_axes=row_axes),
        lambda: aj.cap_row_norms(1.0, row_axes=row_axes),
        lambda: aj.scale_by_frequency(row_axes=row_axes),
    ):
        with pytest.raises(ValueError, match="`row_axes` must be a positive integer"):
            build()


def test_row_axes_of_parameters_with_fewer():
    """A bias beside stacked tables: each of its numbers is a row."""
    optimizer = aj.adagrad(0.1, accumulator=aj.RowWise(row_axes=2))
    for shape in [(), (3,), (3, 2)]:
        param = jnp.ones(shape)
        update, state = optimizer.update(param, optimizer.init(param))
        diagonal = aj.adagrad(0.1)
        assert optax.tree.get(state, "accumulator").shape == shape
        expected, _ = diagonal.update(param, diagonal.init(param))
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_cap_of_dense_gradients_and_of_larger_rows():
    cap = aj.cap_row_norms(0.5, row_axes=2)
    for update in (0 * TABLES, aj.RowSparse([0, 1, 2], jnp.zeros(SHAPE), SHAPE)):
        capped, _ = cap.update(update, cap.init(TABLES), TABLES)
        norms = jnp.linalg.norm(aj.apply_updates(TABLES, capped), axis=-1)
        before = jnp.linalg.norm(TABLES, axis=-1)
        np.testing.assert_allclose(norms, jnp.minimum(before, 0.5), rtol=1e-6)


def test_catching_up_with_rows_of_several_tables():
    optimizer = aj.lazy_weight_decay(0.5, 0.2, row_axes=2)
    state, table = optimizer.init(TABLES), TABLES
    nothing = aj.RowSparse([0], jnp.zeros((1, 2)), SHAPE)
    updates, state = optimizer.update(nothing, state, table)
    table = aj.apply_updates(table, updates)
    table, state = aj.catch_up_weight_decay(table, state, jnp.array([[7, -1], [7, 0]]))
    expected = TABLES.reshape(FLAT).at[jnp.array([0, 7, 14])].multiply(0.9)
    np.testing.assert_allclose(table.reshape(FLAT), expected, rtol=1e-6)
    table, _ = aj.catch_up_weight_decay(table, state)
    np.testing.assert_allclose(table, 0.9 * TABLES, rtol=1e-6)


@pytest.mark.parametrize(
    "shape, axes", [((6,), 1), ((4, 3), 1), ((4, 3), 2), ((2, 4, 3), 2), ((2, 4, 3), 3)]
)
def test_rounding_has_the_bits_of_the_dense_form(shape, axes):
    num_rows = int(np.prod(shape[:axes]))
    ids = np.array([num_rows - 1, 0, 1, num_rows - 1])
    values = RNG.normal(size=(4, *shape[axes:])).astype(np.float32)
    table = jnp.asarray(RNG.normal(size=shape), jnp.bfloat16)
    gradient, key = aj.RowSparse(ids, values, shape), jax.random.key(3)
    optimizer = aj.adagrad(0.1, accumulator=aj.RoundedDiagonal())

    @jax.jit
    def run():
        return [
            (aj.apply_updates(table, g, key=key), optimizer.update(g, state)[1])
            for g in (gradient, gradient.to_dense())
        ]

    state = optimizer.init(table)
    jax.tree.map(np.testing.assert_array_equal, *run())


def test_nothing_of_the_tables_size_is_made():
    shape, n = (4, 25_000, 16), 64
    optimizer = optax.chain(
        aj.clip_by_global_norm(1.0),
        aj.scale_by_adagrad(accumulator=aj.RowWise(row_axes=2)),
        aj.lazy_weight_decay(0.1, 0.1, row_axes=2),
    )

    def step(table, state, ids, values):
        gradient = aj.RowSparse(ids, values, shape)
        updates, state = optimizer.update(gradient, state, table)
        return aj.apply_updates(table, updates), state

    table = jax.ShapeDtypeStruct(shape, jnp.float32)
    state = jax.eval_shape(optimizer.init, table)
    batch = [
        jax.ShapeDtypeStruct((n,), jnp.int32),
        jax.ShapeDtypeStruct((n, 16), jnp.float32),
    ]
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(table, state, *batch)
    memory = lowered.compile(compiler_options=FUSED_AS_USUAL).memory_analysis()
    assert memory.temp_size_in_bytes < 100_000  # a number for each row would be 400,000
    assert memory.alias_size_in_bytes >= 4 * 25_000 * (16 + 1 + 2) * 4
