"""Where a training's arrays are put, and how they come back whole, or larger."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj

V, D = 16, 3
SHAPES = {"user": {"table": (V, D)}, "item": {"table": (V, 2)}, "w": (V,), "b": ()}
PARAMS = jax.tree.map(
    lambda shape: jnp.arange(np.prod(shape, dtype=int), dtype=jnp.float32).reshape(
        shape
    ),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)


def is_table(path, leaf):
    return path[0].key == "user"


def by_rows(*sizes, axis="d", axis_type=AxisType.Auto):
    names = ("d", "m")[: len(sizes)]
    mesh = jax.make_mesh(sizes, names, axis_types=(axis_type,) * len(sizes))
    return aj.sharding.RowSharding(mesh, axis)


def specs(tree):
    return jax.tree.map(lambda x: getattr(x, "sharding", x).spec, tree)


def sharded(tree):
    """The paths of what is not whole on every device."""
    leaves = jax.tree_util.tree_leaves_with_path(specs(tree), is_leaf=is_spec)
    return {jax.tree_util.keystr(path) for path, spec in leaves if any(spec)}


def is_spec(x):
    return isinstance(x, P)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_tables_by_rows_and_the_rest_everywhere(axis_type):
    rows = by_rows(4, 2, axis=("m", "d"), axis_type=axis_type)
    placed = aj.sharding.shard_rows(PARAMS, rows, is_table)
    assert sharded(placed) == {"['user']['table']"}
    for old, new in zip(*map(jax.tree.leaves, (PARAMS, placed)), strict=True):
        assert new.sharding.mesh == rows.mesh
        np.testing.assert_array_equal(new, old)
    # The last axis' index changes fastest.
    table = placed["user"]["table"]
    devices = rows.mesh.devices.T.ravel()
    for shard in table.addressable_shards:
        block = list(devices).index(shard.device)
        assert shard.index[0] == slice(2 * block, 2 * block + 2)


# What each keeps for the rows of the table at ['user']['table'].
STATES = {
    "diagonal": (aj.adagrad(lambda count: 0.1), {"[0].accumulator"}),
    "row-wise": (aj.adagrad(accumulator=aj.RowWise()), {"[0].accumulator"}),
    "norm": (aj.adagrad(accumulator=aj.Norm()), set()),
    "proximal": (aj.proximal_adagrad(0.1, l1=0.1), {".accumulator"}),
    "ftrl": (aj.ftrl(0.1), {".accumulator", ".linear"}),
    "adagrad_da": (aj.adagrad_da(0.1), {".accumulator", ".gradient_sum"}),
    "keras3": (
        aj.dialects.keras3(use_ema=True, gradient_accumulation_steps=2),
        {"[0].gradient_sum", "[0].inner_state[0].accumulator", "[1].average"},
    ),
    "optax": (
        optax.chain(optax.trace(0.9), optax.scale_by_rss()),
        {"[0].trace", "[1].sum_of_squares"},
    ),
    "multi-steps": (
        optax.MultiSteps(aj.adagrad(0.1), 2).gradient_transformation(),
        {".acc_grads", ".inner_opt_state[0].accumulator"},
    ),
    "partition": (
        optax.partition(
            {"user": aj.adagrad(0.1), "item": optax.adam(0.1)},
            {"user": "user", "item": "item", "w": "item", "b": "item"},
        ),
        {".inner_states['user'].inner_state[0].accumulator"},
    ),
    "injected": (
        optax.inject_hyperparams(aj.adagrad)(learning_rate=0.1),
        {".inner_state[0].accumulator"},
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_lies_as_its_tables_do(name):
    optimizer, fields = STATES[name]
    state, rows = optimizer.init(PARAMS), by_rows(4)
    placed = aj.sharding.shard_rows(state, rows, is_table, params=PARAMS)
    assert sharded(placed) == {f"{field}['user']['table']" for field in fields}
    for old, new in zip(*map(jax.tree.leaves, (state, placed)), strict=True):
        assert len(new.sharding.device_set) == 4
        np.testing.assert_array_equal(new, old)


def test_of_a_table_several_arrays_are_kept():
    state = aj.lazy_weight_decay(0.1, 0.1).init(PARAMS)
    placed = aj.sharding.shard_rows(state, by_rows(4), is_table, params=PARAMS)
    kept = ".of_rows['user']['table']"
    assert sharded(placed) == {f"{kept}.high", f"{kept}.low"}


def test_of_a_vector_for_each_axis_that_of_the_rows():
    """As SM3 keeps them."""
    state = aj.scale_by_adagrad(accumulator=aj.SM3()).init(PARAMS)
    placed = aj.sharding.shard_rows(state, by_rows(4), is_table, params=PARAMS)
    of_rows, of_columns = jax.tree.leaves(placed.accumulator["user"]["table"])
    assert of_rows.shape[0] == V and of_rows.sharding.spec == P("d")
    assert of_columns.shape == (D,) and of_columns.sharding.spec == P()


def test_parameters_that_are_one_table():
    table, rows = PARAMS["user"]["table"], by_rows(4)
    state = aj.adagrad(lambda count: 0.1).init(table)
    placed = aj.sharding.shard_rows(state, rows, lambda *_: True, params=table)
    assert sharded(placed) == {"[0].accumulator"}


def test_parameters_in_tuples_like_those_of_a_chain():
    """A state's own containers are not taken for the parameters'."""
    tables = tuple(jnp.ones((rows, 2)) for rows in (8, V))
    optimizer = optax.chain(aj.scale_by_adagrad(), optax.scale_by_rss())
    state = optimizer.init(tables)
    placed = aj.sharding.shard_rows(
        state, by_rows(4), lambda path, _: path[0].idx == 1, params=tables
    )
    assert sharded(placed) == {"[0].accumulator[1]", "[1].sum_of_squares[1]"}


def test_what_fits_no_device_is_made_where_it_lies():
    rows, optimizer = by_rows(8), aj.adagrad(lambda count: 0.1)

    def init():
        return PARAMS, optimizer.init(PARAMS)

    shapes = jax.eval_shape(init)
    lie = (
        aj.sharding.shard_rows(shapes[0], rows, is_table),
        aj.sharding.shard_rows(shapes[1], rows, is_table, params=shapes[0]),
    )
    params, state = jax.block_until_ready(jax.jit(init, out_shardings=lie)())
    assert sharded(params) == {"['user']['table']"}
    assert sharded(state) == {"[0].accumulator['user']['table']"}
    expected = aj.sharding.shard_rows(PARAMS, rows, is_table)
    for new, old in zip(*map(jax.tree.leaves, (params, expected)), strict=True):
        assert new.sharding == old.sharding
        np.testing.assert_array_equal(new, old)


def test_tables_come_back_whole():
    placed = aj.sharding.shard_rows(PARAMS, by_rows(8), is_table)
    whole = aj.sharding.gather_rows(placed)
    for old, new in zip(*map(jax.tree.leaves, (PARAMS, whole)), strict=True):
        assert isinstance(new, np.ndarray)
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("from_host", [True, False])
def test_a_table_and_its_state_grow(from_host):
    """Old rows keep their numbers, new ones begin as init says, all lies as it did.

    From the host they may go to other devices, here 6, which divide only the larger.
    """
    optimizer = aj.adagrad(lambda count: 0.1, accumulator=aj.SM3())
    rows = by_rows(4)
    params = aj.sharding.shard_rows(PARAMS, rows, is_table)
    state = optimizer.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    _, state = jax.block_until_ready(optimizer.update(gradients, state, params))
    old, number = (params, state), 24
    if from_host:
        old, rows = aj.sharding.gather_rows(old), by_rows(6)
    larger = PARAMS | {"user": {"table": jnp.full((number, D), -1.0)}}
    larger = aj.sharding.shard_rows(larger, rows, is_table)
    fresh = aj.sharding.shard_rows(
        optimizer.init(larger), rows, is_table, params=larger
    )
    grown = jax.block_until_ready(aj.sharding.grow_rows(old, (larger, fresh)))
    assert specs(grown) == specs((larger, fresh))
    table, accumulator = (
        x["user"]["table"] for x in (grown[0], grown[1][0].accumulator)
    )
    np.testing.assert_array_equal(table[:V], PARAMS["user"]["table"])
    np.testing.assert_array_equal(table[V:], -1)
    np.testing.assert_allclose(accumulator[0][:V], 1.1)
    np.testing.assert_allclose(accumulator[0][V:], 0.1)
    np.testing.assert_allclose(accumulator[1], 1.1)
    assert grown[1][1].count == 1


def test_a_number_of_rows_that_devices_do_not_divide():
    with pytest.raises(ValueError, match=r"table at \['user'\]\['table'\].*20 rows"):
        aj.sharding.shard_rows(PARAMS, by_rows(5), is_table)


@pytest.mark.parametrize(
    "message, call",
    [
        (
            r"`tables` must choose .* at \['b'\]",
            lambda: aj.sharding.shard_rows(PARAMS, by_rows(4), lambda *_: False),
        ),
        (
            r"table at \['b'\].*a scalar has none",
            lambda: aj.sharding.shard_rows(PARAMS, by_rows(4), lambda *_: True),
        ),
        (
            "leave `params` out",
            lambda: aj.sharding.shard_rows(PARAMS, by_rows(4), is_table, params=PARAMS),
        ),
        (
            r"at \['a'\] of shape \(3,\) has no room in one of shape \(2,\)",
            lambda: aj.sharding.grow_rows({"a": np.ones(3)}, {"a": jnp.ones(2)}),
        ),
        (
            r"at \['a'\] of dtype float32 would be rounded to bfloat16",
            lambda: aj.sharding.grow_rows(
                {"a": jnp.ones(2)}, {"a": jnp.ones(2, jnp.bfloat16)}
            ),
        ),
        (
            "make both by the same `init`",
            lambda: aj.sharding.grow_rows({"a": np.ones(3)}, {"b": jnp.ones(3)}),
        ),
    ],
)
def test_what_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()
