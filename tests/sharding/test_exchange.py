"""Tables whose rows lie on several devices: read and updated where they are.

What must be true: whatever the ids, a training is that of one device.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj

V, D, n = 96, 4, 50  # 50 ids: eight devices do not divide them
MESH = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
TWO = jax.make_mesh((4, 2), ("d", "m"), axis_types=(AxisType.Auto,) * 2)
BY_ROWS = aj.sharding.RowSharding(MESH, "d")
rng = np.random.default_rng(0)
IDS = {
    "uniform": rng.integers(0, V, n),
    "zipf": np.minimum(rng.zipf(1.3, n) - 1, V - 1),
    "all alike": np.full(n, 17),
    "of one owner": np.arange(n) % (V // 8) + V // 8,
    "strided": np.arange(n) * 16 % V,
    "some out of range": rng.integers(-V, 2 * V, n),
    "one device has none": np.where(np.arange(n) < 7, V, rng.integers(0, V, n)),
    "fewer than devices": np.array([40, 3, 40]),
    "none": np.zeros(0, int),
}


def is_table(path, leaf):
    return path[0].key == "table"


def new_params(shape=(V, D), dtype=jnp.float32):
    table = jax.random.normal(jax.random.key(0), shape, dtype)
    return {"table": table, "w": jnp.linspace(0.5, 1.5, D)}


def loss(params, ids):
    rows = params["table"].at[ids].get(mode="fill", fill_value=0)
    return jnp.sum(jnp.sin(rows) @ params["w"])


def make_step(optimizer, row_sharding, loss=loss):
    def step(params, state, ids):
        value, gradients = aj.value_and_grad(
            loss, tables=is_table, row_sharding=row_sharding
        )(params, ids)
        updates, state = optimizer.update(gradients, state, params)
        return aj.apply_updates(params, updates), state, value

    return step


def trained(optimizer, row_sharding, ids, loss=loss, params=None, steps=2):
    """Parameters and state after some steps, and the loss of the last."""
    step = jax.jit(make_step(optimizer, row_sharding, loss))
    params = new_params() if params is None else params
    state = optimizer.init(params)
    if row_sharding is not None:
        whole = params
        params = aj.sharding.shard_rows(whole, row_sharding, is_table)
        state = aj.sharding.shard_rows(state, row_sharding, is_table, params=whole)
    for _ in range(steps):
        params, state, value = jax.block_until_ready(step(params, state, ids))
    return params, state, value


def assert_same(got, expected, rtol=2e-6):
    def same(a, b):
        # Sums over devices are in another order; of 50 terms, within some units.
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)

    jax.tree.map(same, jax.device_get(got), jax.device_get(expected))


@pytest.fixture(scope="module")
def on_one_device():
    """Of an optimizer and ids, computed once."""
    known = {}

    def train(name, optimizer, ids):
        key = name, ids.tobytes()
        if key not in known:
            known[key] = trained(optimizer, None, jnp.asarray(ids, jnp.int32))
        return known[key]

    return train


@pytest.mark.parametrize("capacity", [0.01, 2.0])
@pytest.mark.parametrize("name", IDS)
def test_whatever_the_ids(on_one_device, name, capacity):
    """At 0.01 a device sends two of its seven ids at a time to another."""
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))
    by_rows = aj.sharding.RowSharding(MESH, "d", capacity=capacity)
    expected = on_one_device("clipped", optimizer, IDS[name])
    got = trained(optimizer, by_rows, jnp.asarray(IDS[name], jnp.int32))
    assert_same(got, expected)
    assert got[0]["table"].sharding.spec == P("d")


OPTIMIZERS = {
    "RowWise": aj.adagrad(0.1, accumulator=aj.RowWise()),
    "SM3": aj.adagrad(0.1, accumulator=aj.SM3()),
    "Norm": aj.adagrad(0.1, accumulator=aj.Norm()),
    "proximal": aj.proximal_adagrad(0.1, l1=0.01),
    "dual averaging": aj.adagrad_da(0.1, l1=0.01),
    "ftrl": aj.ftrl(0.1, l1_regularization_strength=0.01),
    "decay": optax.chain(aj.add_decayed_weights(0.01), aj.adagrad(0.1)),
    "lazy decay": optax.chain(aj.adagrad(0.1), aj.lazy_weight_decay(0.1, 0.01)),
    "frequency": aj.frequency_adagrad(0.1, rho=0.8, max_multiplier=1.5),
    "capped": optax.chain(aj.adagrad(0.1), aj.cap_row_norms(1.0)),
}


@pytest.mark.parametrize("capacity", [0.01, 2.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_whole_family(on_one_device, name, capacity):
    """Also what makes other rows of rows in one visit, in one pass and in many."""
    optimizer, ids = OPTIMIZERS[name], IDS["zipf"]
    by_rows = aj.sharding.RowSharding(MESH, "d", capacity=capacity)
    got = trained(optimizer, by_rows, jnp.asarray(ids, jnp.int32))
    assert_same(got, on_one_device(name, optimizer, ids), rtol=1e-5)


def scanned(params, ids):
    def turn(total, ids):
        return total + loss(params, ids), None

    return lax.scan(turn, 0.0, jnp.stack([ids, ids + 1, ids]))[0]


READS = {
    "scan": scanned,
    "remat": jax.checkpoint(loss),
    "cond": lambda p, ids: lax.cond(ids[0] >= 0, loss, lambda p, ids: 0.0, p, ids),
    "jit": jax.jit(loss),
    "twice": lambda p, ids: loss(p, ids) + loss(p, ids[:7] // 2),
    "a view": lambda p, ids: loss(
        p | {"table": jnp.concatenate([jnp.ones((1, D)), 2 * p["table"]])}, ids + 1
    ),
    "in 16 bits": lambda p, ids: jnp.sum(
        jnp.sin(p["table"].astype(jnp.bfloat16)[ids].astype(jnp.float32)) @ p["w"]
    ),
    "in two axes": lambda p, ids: loss(p, ids.reshape(-1, 5)),
    "one": lambda p, ids: loss(p, ids[0]),
    "none": lambda p, ids: loss(p, ids[:0]),
    "vmap": lambda p, ids: jnp.sum(jax.vmap(loss, (None, 0))(p, ids.reshape(5, -1))),
}


@pytest.mark.parametrize("name", READS)
def test_whatever_the_read(name):
    ids = jnp.asarray(IDS["uniform"], jnp.int32)
    got = trained(aj.adagrad(0.1), BY_ROWS, ids, READS[name], steps=1)
    expected = trained(aj.adagrad(0.1), None, ids, READS[name], steps=1)
    assert_same(got, expected, rtol=1e-5)


def test_a_stack_of_tables():
    """Rows lie along its first axis: each device has whole tables."""

    def loss(params, ids):
        rows = params["table"][jnp.arange(ids.size) % 8, ids]
        return jnp.sum(jnp.sin(rows) @ params["w"])

    params, ids = new_params((8, 12, D)), jnp.asarray(IDS["zipf"] % 12, jnp.int32)
    got = trained(aj.adagrad(0.1), BY_ROWS, ids, loss, params)
    assert_same(got, trained(aj.adagrad(0.1), None, ids, loss, params))


@pytest.mark.parametrize(
    "axis, spec, table",
    [
        (("d", "m"), P(("d", "m")), P(("d", "m"))),  # rows along both
        ("m", P("d"), P("m")),  # copies along "d", the batch too
        ("d", P("d"), P("d", "m")),  # columns along "m"
    ],
    ids=["both", "copies", "columns"],
)
def test_meshes_of_two_axes(axis, spec, table):
    by_rows = aj.sharding.RowSharding(TWO, axis)
    ids = jnp.asarray(IDS["zipf"][:48], jnp.int32)
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))
    params = new_params()
    expected = trained(optimizer, None, ids, params=params, steps=1)
    lies = NamedSharding(TWO, table)
    params["table"] = jax.device_put(params["table"], lies)

    step = jax.jit(make_step(optimizer, by_rows))
    state = jax.jit(optimizer.init)(params)
    got = step(params, state, jax.device_put(ids, NamedSharding(TWO, spec)))
    assert_same(jax.block_until_ready(got), expected)


def test_in_float64():
    """Within rounding: whatever is exchanged, all of it is, once."""
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))
    by_rows = aj.sharding.RowSharding(MESH, "d", capacity=0.01)
    with jax.enable_x64(True):
        params = new_params(dtype=jnp.float64)
        params["w"] = params["w"].astype(jnp.float64)
        ids = jnp.asarray(IDS["zipf"])
        got = trained(optimizer, by_rows, ids, params=params, steps=3)
        expected = trained(optimizer, None, ids, params=params, steps=3)
        assert got[0]["table"].dtype == jnp.float64
        assert_same(got, expected, rtol=1e-13)


def test_on_a_mesh_of_one_nothing_is_added():
    """The program is the same, to the letter: it cannot be slower."""
    mesh = jax.make_mesh((1,), ("d",), (AxisType.Auto,), devices=jax.devices()[:1])
    optimizer, ids = aj.adagrad(0.1), jnp.asarray(IDS["zipf"], jnp.int32)
    params = new_params()
    arguments = params, optimizer.init(params), ids
    with_one, without = (
        jax.jit(make_step(optimizer, by_rows)).lower(*arguments).as_text()
        for by_rows in (aj.sharding.RowSharding(mesh, "d"), None)
    )
    assert with_one == without


EXPLICIT = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Explicit,))
BY_TYPE = aj.sharding.RowSharding(EXPLICIT, "d")


def put_explicitly(x, spec):
    return jax.device_put(x, NamedSharding(EXPLICIT, spec))


def split_loss(params, ids):
    """Where ids are split, JAX asks where rows go, of any table."""
    table = params["table"].at[ids]
    rows = table.get(mode="fill", fill_value=0, out_sharding=P("d"))
    return jnp.sum(jnp.sin(rows) @ params["w"])


@pytest.mark.parametrize("said", [True, False], ids=["said", "by its type"])
@pytest.mark.parametrize("spec", [P("d"), P()], ids=["split", "whole"])
def test_a_mesh_with_explicit_axes(on_one_device, said, spec):
    """There types say where tables lie. ``loss`` is as on one device."""
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))
    ids = IDS["zipf"][:48]
    step = make_step(
        optimizer, BY_TYPE if said else None, split_loss if spec == P("d") else loss
    )
    with jax.set_mesh(EXPLICIT):
        params = aj.sharding.shard_rows(new_params(), BY_TYPE, is_table)
        state = jax.jit(optimizer.init)(params)
        put = put_explicitly(jnp.asarray(ids, jnp.int32), spec)
        compiled = jax.jit(step).lower(params, state, put).compile()
        got = params, state, None
        for _ in range(2):
            got = jax.block_until_ready(compiled(*got[:2], put))
    assert_same(got, on_one_device("clipped", optimizer, ids))
    assert "all-to-all" in compiled.as_text()


def with_a_table_beside(dense_part):
    def function(params, ids):
        return split_loss(params | {"w": jnp.ones(D)}, ids) + dense_part(params["w"])

    return function


def summed_where_it_lies(w):
    def body(w):
        return lax.psum(jnp.sum(w**2), "d")

    return jax.shard_map(body, in_specs=P("d"), out_specs=P())(w)


@pytest.mark.parametrize(
    "dense_part",
    [lambda w: jnp.sum(w**2), summed_where_it_lies],
    ids=["anywhere", "by a shard_map"],
)
def test_by_its_type_only_what_is_read_by_rows(dense_part):
    """What lies by rows and is used as a whole is as it is, also if it must be."""
    w, table = jnp.arange(16.0), new_params()["table"]
    ids = jnp.arange(48, dtype=jnp.int32)
    with jax.set_mesh(EXPLICIT):
        params = {
            "table": put_explicitly(table, P("d")),
            "w": put_explicitly(w, P("d")),
        }
        function = with_a_table_beside(dense_part)
        ids = put_explicitly(ids, P("d"))
        _, expected = jax.jit(jax.value_and_grad(function))(params, ids)

        @jax.jit
        def gradients(params, ids):
            _, gradients = aj.value_and_grad(function)(params, ids)
            assert isinstance(gradients["table"], aj.RowSparse)
            return gradients | {"table": gradients["table"].to_dense()}

        got = gradients(params, ids)
    assert got["w"].sharding == params["w"].sharding
    assert_same(got, expected)


def test_what_the_gradient_is():
    """A RowSparse as any: its parts, sums, casts, and how it crosses a jit."""
    params, ids = new_params(), jnp.asarray(IDS["zipf"], jnp.int32)
    expected = jax.grad(loss)(params, ids)["table"]

    @jax.jit
    def forms(params, ids):
        gradient = aj.grad(loss, row_sharding=BY_ROWS, tables=is_table)(params, ids)
        rows = gradient["table"]
        assert rows.row_sharding == BY_ROWS
        grouped = aj.clip_by_global_norm(1e9).update({"t": rows}, optax.EmptyState())
        once = grouped[0]["t"]
        return (
            rows.to_dense(),
            (rows + 2 * rows).to_dense() / 3,
            once.to_dense(),
            (once * 1.0).to_bcoo().todense(),
            aj.RowSparse(once.ids, once.values, rows.shape).to_dense(),
            rows.coalesce().to_dense(),
            (once + rows).to_dense() / 2,
            rows.astype(jnp.bfloat16).astype(jnp.float32).to_dense(),
        )

    *exact, rounded = jax.block_until_ready(forms(params, ids))
    for form in exact:
        np.testing.assert_allclose(form, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rounded, expected, rtol=2**-7, atol=1e-6)


def test_evaluation_reads_the_same_way():
    params, ids = new_params(), jnp.asarray(IDS["uniform"], jnp.int32)
    predict = jax.jit(aj.sharding.with_rows(loss, BY_ROWS))
    placed = aj.sharding.shard_rows(params, BY_ROWS, is_table)
    np.testing.assert_allclose(predict(placed, ids), loss(params, ids), rtol=1e-6)
    assert "all-gather" not in predict.lower(placed, ids).compile().as_text()


def compiled_step(num_devices, num_ids, num_rows=4096):
    mesh = jax.make_mesh(
        (num_devices,),
        ("d",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:num_devices],
    )
    by_rows = aj.sharding.RowSharding(mesh, "d")
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))
    params = new_params((num_rows, D))
    state = aj.sharding.shard_rows(
        optimizer.init(params), by_rows, is_table, params=params
    )
    params = aj.sharding.shard_rows(params, by_rows, is_table)
    ids = jax.device_put(
        jnp.arange(num_ids * num_devices, dtype=jnp.int32), NamedSharding(mesh, P("d"))
    )

    step = make_step(optimizer, by_rows)
    return jax.jit(step, donate_argnums=(0, 1)).lower(params, state, ids).compile()


def sizes_of(kind, program):
    """How many numbers the collectives of that kind have, each."""
    results = re.findall(rf"= (.*) {kind}\(", program)
    shapes = [re.findall(r"\w+\[([\d,]*)\]", result) for result in results]
    return [
        sum(np.prod([int(k) for k in s.split(",") if k]) for s in one) for one in shapes
    ]


def test_nothing_of_the_tables_size_is_sent_or_made():
    """Nor of the whole batch's: buffers are of a device's ids, whatever the rest."""
    num_ids = 512  # so many that buffers need no more than capacity says
    for devices in (2, 8):
        program = compiled_step(devices, num_ids).as_text()
        assert "all-gather" not in program
        sent, reduced = sizes_of("all-to-all", program), sizes_of("all-reduce", program)
        assert 0 < max(sent) <= 2 * num_ids * D  # at capacity 2
        # A pass for reading and one for updating; and one in the loop of each visit,
        # of which there are three: norm, accumulator, table.
        assert len(sent) == 2 * (1 + 1 + 3)
        assert 0 < max(reduced) <= D + 2  # what is not a table, and two losses


MESSAGES = {
    "read densely": (
        lambda p, ids: jnp.sum(p["table"]),
        dict(row_sharding=lambda path, x: BY_ROWS if x.ndim == 2 else None),
        "chosen by `row_sharding`, but its gradient is not row-sparse: `reduce_sum`",
    ),
    "not divided": (
        lambda p, ids: loss(p | {"table": p["odd"]}, ids),
        dict(row_sharding=BY_ROWS),
        "['odd'] is read by rows along ('d',), but the first axis of an array sharded",
    ),
    "no sharding": (loss, dict(row_sharding="d"), "`row_sharding` must be an adagrad"),
    "a function of what else": (
        loss,
        dict(row_sharding=lambda path, x: "d"),
        "`row_sharding` must give an adagrad_jax.sharding.RowSharding or None, got 'd'",
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_what_cannot_be(name):
    function, options, message = MESSAGES[name]
    params = new_params() | {"odd": jnp.ones((V + 1, D))}
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        aj.value_and_grad(function, **options)(params, jnp.arange(4))


def test_another_sharding_than_promised():
    params = new_params()
    elsewhere = aj.sharding.RowSharding(TWO, "m")
    params = aj.sharding.shard_rows(params, elsewhere, is_table)
    with pytest.raises(ValueError, match=r"\['table'\] was to lie by rows along"):
        aj.value_and_grad(loss, row_sharding=BY_ROWS)(params, jnp.arange(4))


def test_inside_a_users_shard_map():
    def body(params, ids):
        return aj.value_and_grad(loss, row_sharding=BY_ROWS, tables=is_table)(
            params, ids
        )[0]

    params, spec = new_params(), {"table": P("d"), "w": P()}
    mapped = jax.shard_map(body, mesh=MESH, in_specs=(spec, P("d")), out_specs=P())
    with pytest.raises(ValueError, match="cannot be read inside a shard_map over"):
        mapped(params, jnp.arange(8))


@pytest.mark.parametrize("grouped", [False, True])
def test_inside_a_shard_map_over_other_axes(on_one_device, grouped):
    """Copies along "d" exchange their own parts of the ids; then rows are summed."""
    by_rows = aj.sharding.RowSharding(TWO, "m", capacity=0.01)
    optimizer = optax.chain(aj.clip_by_global_norm(1.0), aj.adagrad(0.1))

    def body(params, state, ids):
        own = lax.pcast(params, "d", to="varying")
        value, gradients = aj.value_and_grad(
            loss, row_sharding=by_rows, tables=is_table
        )(own, ids)
        if grouped:  # by what came before, a scale say
            gradients["table"] = gradients["table"].grouped() * 1.0
        value, gradients = aj.sharding.psum((value, gradients), "d")
        assert gradients["table"].row_sharding == by_rows
        updates, state = optimizer.update(gradients, state, params)
        return aj.apply_updates(params, updates), state, value

    specs = P(), P(), P("d")
    step = jax.jit(
        jax.shard_map(body, mesh=TWO, axis_names={"d"}, in_specs=specs, out_specs=P())
    )
    ids = IDS["zipf"][:48]
    params, state = new_params(), optimizer.init(new_params())
    state = aj.sharding.shard_rows(state, by_rows, is_table, params=params)
    params = aj.sharding.shard_rows(params, by_rows, is_table)
    for _ in range(2):
        params, state, value = jax.block_until_ready(
            step(params, state, jnp.asarray(ids, jnp.int32))
        )
    assert params["table"].sharding.spec == P("m")
    assert_same((params, state, value), on_one_device("clipped", optimizer, ids))


def test_another_mesh_in_use():
    with (
        jax.set_mesh(TWO),
        pytest.raises(ValueError, match="make the RowSharding with that mesh"),
    ):
        elsewhere = aj.sharding.RowSharding(jax.make_mesh((8,), ("x",)), "x")
        aj.value_and_grad(loss, row_sharding=elsewhere, tables=is_table)(
            new_params(), jnp.arange(8)
        )


def test_a_row_that_is_not_finite_spoils_no_other():
    ids = jnp.asarray(IDS["uniform"], jnp.int32)

    def spoiled(params, ids):
        rows = params["table"][ids]
        factor = jnp.where(ids == ids[0], jnp.nan, 1.0)
        return jnp.sum(factor * (jnp.sin(rows) @ params["w"]))

    params, _, _ = trained(aj.adagrad(0.1), BY_ROWS, ids, spoiled, steps=1)
    is_nan = np.isnan(np.asarray(params["table"])).all(axis=1)
    np.testing.assert_array_equal(is_nan, np.arange(V) == int(ids[0]))
    skipping = aj.apply_if_finite(aj.adagrad(0.1), 5)
    params, _, _ = trained(skipping, BY_ROWS, ids, spoiled, steps=1)
    np.testing.assert_array_equal(params["table"], new_params()["table"])
