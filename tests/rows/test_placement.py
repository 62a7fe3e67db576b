"""Updates by rows on several devices: the numbers of one, and all stays where it is.

With explicit axes a type says how an array is sharded, and inside ``shard_map`` over
which axes it varies; both must be known of all that an update makes. Every
transformation is put through ``shard_map`` in ``tests/test_contract.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj

SHAPE, N = (12, 4), 8
RNG = np.random.default_rng(0)
TABLES = jnp.asarray(RNG.normal(size=(2, *SHAPE)), jnp.float32)
IDS = jnp.asarray(RNG.integers(-1, SHAPE[0] + 2, (2, N)), jnp.int32)
VALUES = jnp.asarray(RNG.integers(-4, 5, (2, N, SHAPE[1])), jnp.float32)


def step(optimizer, table, state, ids, values):
    """All that may be done with a gradient of rows."""
    gradient = aj.RowSparse(ids, values, table.shape)
    updates, state = optimizer.update(gradient, state, table)
    once = gradient.coalesce()
    twice = (gradient + 0.5 * once).to_bcoo()
    table = aj.apply_updates(table, updates)
    return table, state, (once.ids, once.values, twice.data, gradient.to_dense())


def assert_close(actual, expected):
    actual, expected = jax.device_get((actual, expected))
    for a, e in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, float), np.asarray(e, float), rtol=1e-5, atol=1e-5
        )


ADAGRAD = optax.chain(
    aj.clip_by_global_norm(5.0), aj.add_decayed_weights(0.1), aj.adagrad(0.1)
)
OTHERS = {
    "row-wise": aj.adagrad(0.1, accumulator=aj.RowWise()),
    "norm": aj.adagrad(0.1, accumulator=aj.Norm()),
    "sm3": aj.adagrad(0.1, accumulator=aj.SM3()),
    "rounded": aj.adagrad(0.1, accumulator=aj.RoundedDiagonal()),
    "groups": aj.proximal_adagrad(0.1, group_lasso=0.1, accumulator=aj.RowWise()),
    "frequency": aj.frequency_adagrad(0.1, accumulator=aj.RowWise()),
    "lazy-cap": optax.chain(aj.lazy_weight_decay(0.1, 0.1), aj.cap_row_norms(1.0)),
}


def check_on_mesh(optimizer, axis_type, table_spec, ids_spec):
    mesh = jax.make_mesh((2, 2), ("d", "m"), axis_types=(axis_type,) * 2)
    expected = jax.jit(step, static_argnums=0)(
        optimizer, TABLES[0], optimizer.init(TABLES[0]), IDS[0], VALUES[0]
    )
    with jax.set_mesh(mesh):
        table = jax.device_put(TABLES[0], NamedSharding(mesh, table_spec))
        batch = jax.device_put((IDS[0], VALUES[0]), NamedSharding(mesh, ids_spec))
        state = optimizer.init(table)
        # One at a time: virtual devices that share few cores can wait for ever.
        result = jax.block_until_ready(
            jax.jit(step, static_argnums=0)(optimizer, table, state, *batch)
        )
    assert_close(result, expected)
    before, after = jax.tree.leaves((table, state)), jax.tree.leaves(result[:2])
    for old, new in zip(before, after, strict=True):
        assert new.sharding.is_equivalent_to(old.sharding, old.ndim)
        assert jax.typeof(new) == jax.typeof(old)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("table", [P(), P("d"), P(None, "m"), P("d", "m")], ids=str)
@pytest.mark.parametrize("ids", [P(), P("d")], ids=str)
def test_everything_stays_where_it_is(axis_type, table, ids):
    check_on_mesh(ADAGRAD, axis_type, table, ids)


@pytest.mark.parametrize("name", OTHERS)
def test_every_accumulator_with_explicit_axes(name):
    check_on_mesh(OTHERS[name], AxisType.Explicit, P("d", "m"), P("d"))


def test_explicit_axes_without_a_mesh_in_the_context():
    """Types tell which it is."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    table = jax.device_put(TABLES[0], NamedSharding(mesh, P("d")))
    new = table + aj.RowSparse(IDS[0], VALUES[0], SHAPE)
    assert jax.typeof(new) == jax.typeof(table)
    assert_close(new, TABLES[0] + aj.RowSparse(IDS[0], VALUES[0], SHAPE))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_several_tables_in_one_array(axis_type):
    """Sharded by tables, by rows, or in them."""
    shape = (4, 6, 4)
    tables = jnp.arange(96.0).reshape(shape)
    ids = jnp.asarray([23, 0, 5, 23, 24, 17])
    values = jnp.asarray(RNG.integers(-4, 5, (6, 4)), jnp.float32)
    expected = tables + aj.RowSparse(ids, values, shape)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        for spec in (P("d"), P(None, "d"), P(None, None, "d")):
            sharded = jax.device_put(tables, NamedSharding(mesh, spec))
            new = jax.jit(lambda t: t + aj.RowSparse(ids, values, shape))(sharded)
            assert new.sharding.is_equivalent_to(sharded.sharding, 3)
            np.testing.assert_array_equal(jax.device_get(new), expected)


def test_in_shard_map_each_device_has_its_own_rows():
    """Beside a table that all of them share: what varies makes the result vary."""
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))

    def on_each(table, shared, ids, values):
        (table,), (ids,), (values,) = table, ids, values
        result = step(ADAGRAD, table, ADAGRAD.init(table), ids, values)
        total = shared + aj.RowSparse(ids, values, SHAPE)
        return jax.tree.map(lambda x: x[None], (result, total))

    specs = P("d"), P(), P("d"), P("d")
    mapped = jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=P("d"))
    result, total = jax.jit(mapped)(TABLES, TABLES[0], IDS, VALUES)
    for i in range(2):
        alone = step(ADAGRAD, TABLES[i], ADAGRAD.init(TABLES[i]), IDS[i], VALUES[i])
        assert_close(jax.tree.map(lambda x, i=i: x[i], result), alone)
        gradient = aj.RowSparse(IDS[i], VALUES[i], SHAPE)
        assert_close(total[i], TABLES[0] + gradient)
