"""Whoever does what an error of ours says is helped: each remedy is tried here.

A case is what the error says to do, how to get the error, and what it says, done: once
for each thing that it offers. The last test reads the package's messages, and finds
those whose remedy is not among the cases.
"""

import ast
import pathlib
import pickle
import re
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules

pytestmark = pytest.mark.usefixtures("standard_promotion")

W, SHAPE = jnp.array([1.0, 2.0]), (4, 2)
BOTH = {"v": W, "w": W}
TABLE = jnp.ones(SHAPE)
ARRAY = np.ones(SHAPE, np.float32)
PAIR = ARRAY, (ARRAY,)
ROWS = aj.RowSparse([1, 1], jnp.array([[1.0, 2.0], [3.0, 4.0]]), SHAPE)
TWO_TABLES = jnp.ones((2, 3, 2))
ROWS_OF_TWO = aj.RowSparse([1, 4], jnp.ones((2, 2)), TWO_TABLES.shape)
OPTIMIZER = aj.adagrad(0.1)
MESH = jax.make_mesh((2,), ("d",), (jax.sharding.AxisType.Auto,))
ROW_SHARDING = aj.sharding.RowSharding(MESH, "d")


def step(optimizer, gradients, params):
    """A step of training, in which all that has a gradient moves."""
    updates, state = optimizer.update(gradients, optimizer.init(params), params)
    new = aj.apply_updates(params, updates)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), new, params)
    assert any(jax.tree.leaves(moved))
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, params)
    return new, state


def dense(gradient):
    return jax.tree.map(
        lambda g: g.to_dense() if isinstance(g, aj.RowSparse) else g, gradient
    )


def in_jit(gradient):
    """Whatever jit can carry comes back as it was."""
    return jax.jit(lambda x: x)(gradient)


def beside_another(accumulator, other):
    """One keeps what it must of a table, another of two tables in one array."""
    optimizer = optax.partition(
        {
            "one": aj.adagrad(accumulator=accumulator),
            "two": aj.adagrad(accumulator=other),
        },
        {"one": "one", "two": "two"},
    )
    gradients = {"one": ROWS, "two": ROWS_OF_TWO}
    step(optimizer, gradients, {"one": TABLE, "two": TWO_TABLES})


# The object


def started_from(value, by):
    opt, w = Adagrad(0.1), Variable(W)
    opt.build([w])
    if by == "slot":
        opt.get_slot(w, "accumulator").assign([value, value])
    else:
        opt.initial_accumulator_value = value


def averaging(when):
    opt, w = Adagrad(0.1), Variable(W)
    if when == "before":
        opt.use_ema = True
    opt.build([w])
    if when == "after":
        opt.use_ema = True
    if when == "another":
        opt = Adagrad.from_config({**opt.get_config(), "use_ema": True})
    opt.apply_gradients([(W, w)])


def with_own_slot(initializer):
    opt, w = Adagrad(0.1), Variable(W)
    opt.add_slot(w, "accumulator", initializer)
    opt.apply_gradients([(W, w)])


def unpickled(build):
    opt, w = Adagrad(0.1), Variable(W, name="w")
    opt.build([w])
    opt = pickle.loads(pickle.dumps(opt))
    if build:
        opt.build([w])
    opt.stateless_apply([x.value for x in opt.weights], [W], [w.value])


def saved_and_loaded():
    scale = optax.scale_by_rss()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "o.npz")
        Optimizer(scale, 0.1).save(path)
        Optimizer.load(path, [], custom_objects={"transformation": scale})


def weighted(grad_loss):
    w = Variable(W)
    Adagrad(0.1).minimize(lambda: [w * w, jnp.sum(w)], [w], grad_loss)


def minimized(loss):
    w = Variable(W)
    Adagrad(0.1).minimize(lambda: loss(w), [w])


def in_traced_function(stateless):
    opt, w = Adagrad(0.1), Variable(W)
    opt.build([w])
    weights = [x.value for x in opt.weights]
    if not stateless:
        return jax.jit(lambda: opt.minimize(lambda: jnp.sum(w * w), [w]))()

    @jax.jit
    def step(weights, w):
        _, gradient = aj.value_and_grad(lambda w: jnp.sum(w * w))(w)
        return opt.stateless_apply(weights, [gradient], [w])

    return step(weights, w.value)


def read_under_jit(what):
    w = Variable(W)
    array = w.value
    if what == "argument":
        return jax.jit(lambda w: w * 2.0)(w)
    return jax.jit(lambda: (array if what == "array" else w) * 2.0)()


# An integer among the parameters


COUNTED = {"n": jnp.array([3, 4]), "w": W}


def frozen(optimizer):
    """With gradients as JAX has them for integers."""
    gradients = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(COUNTED)
    new, _ = step(optimizer, gradients, COUNTED)
    np.testing.assert_array_equal(new["n"], COUNTED["n"])
    assert new["n"].dtype == COUNTED["n"].dtype


def none_among_both():
    step(OPTIMIZER, {"n": None, "w": W}, {"n": None, "w": W})


def none_beside_whole_parameters():
    gradients = {"n": None, "w": W}
    for optimizer in (
        OPTIMIZER,
        optax.chain(aj.add_decayed_weights(0.1), OPTIMIZER, aj.cap_row_norms(9.0)),
        aj.lazy_weight_decay(0.1, 0.1),
        aj.frequency_adagrad(0.1),
        aj.proximal_adagrad(0.1),
    ):
        state = optimizer.init(gradients)
        updates, _ = optimizer.update(gradients, state, COUNTED)
        new = aj.apply_updates(COUNTED, updates)
        np.testing.assert_array_equal(new["n"], COUNTED["n"])
        assert np.all(new["w"] != COUNTED["w"])


# Rows


def averaged_over_microbatches():
    averaged = optax.MultiSteps(optax.sgd(0.1), 2)
    state = averaged.init(TABLE)
    for _ in range(2):
        updates, state = averaged.update(ROWS.to_dense(), state, TABLE)
    np.testing.assert_allclose(updates, -0.1 * ROWS.to_dense())


def summed_over_devices():
    def one(ids):
        rows = aj.RowSparse(ids, jnp.ones((2, 2)), SHAPE)
        total = aj.sharding.psum(rows, "d").to_dense()
        return total, 2 * aj.sharding.pmean(rows, "d").to_dense()

    ids = jnp.array([[1, 2], [1, 3]])
    for total in jax.vmap(one, axis_name="d")(ids):
        np.testing.assert_array_equal(total[0, :, 0], [0, 2, 1, 1])


def decayed(decay):
    new, _ = step(optax.chain(aj.adagrad(0.1), decay), ROWS, TABLE)
    np.testing.assert_array_equal(new[0], TABLE[0])


def tied(table, ids):
    return jnp.sum(table[ids] @ table.T)


IDS = jnp.array([1, 2])


def loss_by_rows(table, ids):
    return jnp.sum(table[ids] ** 2)


def large(path, leaf):
    return leaf.ndim == 2


def injected(**numbers):
    return optax.inject_hyperparams(aj.dialects.torch, static_args=("weight_decay",))(
        0.1, **numbers
    )


# Checkpoints


def torch_state(*shapes):
    entries = {
        i: {"step": 3.0, "sum": np.ones(shape)} for i, shape in enumerate(shapes)
    }
    group = {"lr": 0.1, "params": list(range(len(shapes)))}
    return {"state": entries, "param_groups": [group]}


ONLY_W = {"v": False, "w": True}
FROZEN = optax.masked(aj.adagrad(0.1), ONLY_W)
KERAS_WEIGHTS = [np.array(3), np.ones(2), np.ones(2)]


def filled(fill, order, optimizer=FROZEN, params=BOTH):
    state = fill(optimizer.init(params), params, order=order)
    np.testing.assert_array_equal(optax.tree.get(state, "accumulator")["w"], 1)
    return state


def from_torch(state, params, **kwargs):
    return aj.interop.from_torch(torch_state(2, 2), state, params, **kwargs)


def from_keras(state, params, **kwargs):
    return aj.interop.from_keras(KERAS_WEIGHTS, state, params, **kwargs)


def from_fbgemm(state, params, **kwargs):
    return aj.interop.from_fbgemm([[np.ones(2)], [np.ones(2)]], state, params, **kwargs)


def and_back():
    """What we keep nothing of stays as the other has it."""
    state, order = FROZEN.init(BOTH), [None, "['w']"]
    kept = dict(params=BOTH, order=order)
    there = aj.interop.to_torch(state, torch_state(2, 2), step=1, **kept)["state"]
    np.testing.assert_allclose([there[i]["sum"][0] for i in (0, 1)], [1, 0.1])
    there = aj.interop.to_keras(state, KERAS_WEIGHTS, step=1, **kept)
    np.testing.assert_allclose([there[i][0] for i in (1, 2)], [1, 0.1])
    there = aj.interop.to_fbgemm(state, [[np.ones(2)], [np.ones(2)]], **kept)
    np.testing.assert_allclose([there[i][0][0] for i in (0, 1)], [1, 0.1])


def from_optax(opt_state, optimizer):
    return aj.interop.from_optax(opt_state, optimizer.init(BOTH), BOTH)


def wide_kernel(axes):
    kernel = jnp.zeros((2, 3))
    return aj.interop.from_torch(
        torch_state((3, 2)), OPTIMIZER.init(kernel), kernel, axes=axes
    )


def averages_of(optimizer):
    weights = [np.array(3), np.array(0.1), *[np.ones(2)] * 4]
    return aj.interop.from_keras(weights, optimizer.init(BOTH), BOTH)


def two_kept():
    twice = optax.chain(aj.scale_by_adagrad(), aj.adagrad())
    return twice.init({"w": W})


def reported(**kwargs):
    return aj.diagnostics.report(OPTIMIZER.init(W), W, **kwargs)


# The object


def variables():
    return Variable(W, name="a"), Variable(W, name="b")


def growing(optimizer, build):
    a, b = variables()
    if build:
        optimizer.build([a, b])
    optimizer.apply_gradients([(W, a)] if not build else [(W, a), (W, b)])
    optimizer.apply_gradients([(W, a), (W, b)])


def stepped_in_jit(stateless):
    a, _ = variables()
    optimizer = Adagrad(0.1)
    optimizer.build([a])

    def inside(weights, values, gradient):
        if stateless:
            return optimizer.stateless_apply(weights, [gradient], values)
        return optimizer.apply_gradients([(gradient, a)])

    return jax.jit(inside)([w.value for w in optimizer.weights], [a.value], W)


def saved(path, *names):
    optimizer = Adagrad(0.1)
    optimizer.apply_gradients([(W, Variable(W, name=name)) for name in names])
    optimizer.save(path / "optimizer")


def constrained(gradient):
    table = Variable(TABLE, constraint=lambda x: x)
    Adagrad(0.1).apply_gradients([(gradient, table)])


def stateless(build):
    optimizer, (a, _) = Adagrad(0.1), variables()
    if build:
        optimizer.build([a])
    weights = [w.value for w in optimizer.weights]
    return optimizer.stateless_apply(weights, [W], [a.value])


def replaced_count(assign):
    optimizer, (a, _) = Adagrad(0.1), variables()
    optimizer.apply_gradients([(W, a)])
    if assign:
        optimizer.iterations.assign(7)
        assert int(optimizer.iterations) == 7
    else:
        optimizer.iterations = Variable(7)


def assigned_in_loss():
    a, b = variables()
    Adagrad(0.1).minimize(lambda: jnp.sum(b.assign(a.value).value), [a])


def assigned_after():
    a, b = variables()
    Adagrad(0.1).minimize(lambda: jnp.sum(a.value**2), [a])
    b.assign(a)


def own_rate(optimizer):
    return float(optimizer.learning_rate)


def together():
    """A transformation that keeps one array of all variables."""
    return Optimizer(optax.flatten(optax.scale_by_rss()), 0.1)


CASES = [
    # Says; how to get the error; what it says, done.
    (
        "for one value per leaf use optax.partition, for many at once jax.vmap",
        lambda: aj.adagrad(W),
        [
            lambda: step(
                optax.partition(
                    {k: aj.adagrad(0.1) for k in "vw"}, {"v": "v", "w": "w"}
                ),
                BOTH,
                BOTH,
            ),
            lambda: jax.vmap(lambda r: step_of_rate(r))(W),
        ],
    ),
    (
        "leave it out with optax.masked or optax.partition, for "
        "adagrad_jax.apply_updates leaves alone what has no derivative, or put None in "
        "its place among parameters and gradients",
        lambda: OPTIMIZER.init(COUNTED),
        [
            lambda: frozen(optax.masked(OPTIMIZER, {"n": False, "w": True})),
            lambda: frozen(
                optax.partition(
                    {"t": OPTIMIZER, "f": optax.set_to_zero()}, {"n": "f", "w": "t"}
                )
            ),
            none_among_both,
            none_beside_whole_parameters,
        ],
    ),
    (
        "make it a RowSparse before anything else, by RowSparse.from_bcoo, or an array "
        "by .todense().",
        lambda: step(OPTIMIZER, ROWS.to_bcoo(), TABLE),
        [
            lambda: step(OPTIMIZER, aj.RowSparse.from_bcoo(ROWS.to_bcoo()), TABLE),
            lambda: step(OPTIMIZER, ROWS.to_bcoo().todense(), TABLE),
            lambda: aj.all_finite(aj.RowSparse.from_bcoo(ROWS.to_bcoo())),
        ],
    ),
    (
        "call init(params) with the parameters, then update(gradients, state, params).",
        lambda: OPTIMIZER.init(ROWS),
        [lambda: OPTIMIZER.update(ROWS, OPTIMIZER.init(TABLE), TABLE)],
    ),
    (
        "call update(gradients, state, params), in this order.",
        lambda: OPTIMIZER.update(OPTIMIZER.init(BOTH), BOTH),
        [lambda: OPTIMIZER.update(BOTH, OPTIMIZER.init(BOTH), BOTH)],
    ),
    (
        "use jax.value_and_grad, or .to_dense() of it.",
        lambda: step(aj.adagrad(0.1, accumulator=aj.FullMatrix()), ROWS, TABLE),
        [
            lambda: step(
                aj.adagrad(0.1, accumulator=aj.FullMatrix()),
                jax.value_and_grad(loss_by_rows)(TABLE, IDS)[1],
                TABLE,
            ),
            lambda: step(
                aj.adagrad(0.1, accumulator=aj.FullMatrix()), ROWS.to_dense(), TABLE
            ),
        ],
    ),
    (
        "call init with the parameters that the gradients belong to",
        lambda: OPTIMIZER.update(TABLE, OPTIMIZER.init(W)),
        [lambda: OPTIMIZER.update(TABLE, OPTIMIZER.init(TABLE))],
    ),
    (
        "(zeros will do); call init with the parameters",
        lambda: OPTIMIZER.update({"w": W}, OPTIMIZER.init(BOTH)),
        [lambda: OPTIMIZER.update({"v": 0 * W, "w": W}, OPTIMIZER.init(BOTH))],
    ),
    (
        "call update(gradients, state, params) with the current parameters",
        lambda: aj.cap_row_norms(1.0).update(W, optax.EmptyState()),
        [lambda: aj.cap_row_norms(1.0).update(W, optax.EmptyState(), W)],
    ),
    (
        "pass the parameters that the updates were computed for",
        lambda: aj.apply_updates(TABLE, W),
        [lambda: aj.apply_updates(W, W)],
    ),
    (
        "take the gradient of a real loss with jax.grad, or its real part.",
        lambda: step(OPTIMIZER, W * 1j, W),
        [lambda: step(OPTIMIZER, (W * (1 + 1j)).real, W)],
    ),
    # Rows
    (
        "adagrad_jax.global_norm(gradients) is its norm, .to_dense() an ordinary array",
        lambda: optax.tree.norm(ROWS),
        [
            lambda: aj.global_norm({"table": ROWS}),
            lambda: optax.tree.norm(ROWS.to_dense()),
        ],
    ),
    (
        "use adagrad_jax.add_decayed_weights or lazy_weight_decay; for momentum and "
        "the like write .to_dense() + array.",
        lambda: step(optax.add_decayed_weights(0.1), ROWS, TABLE),
        [
            lambda: decayed(aj.add_decayed_weights(0.1)),
            lambda: decayed(aj.lazy_weight_decay(0.1, 0.1)),
            lambda: ROWS.to_dense() + TABLE,
            lambda: TABLE + ROWS,
        ],
    ),
    (
        "apply it inside, or pass .to_bcoo() or its .ids and .values.",
        lambda: in_jit(ROWS),
        [
            lambda: jax.jit(lambda table: aj.apply_updates(table, ROWS))(TABLE),
            lambda: step(
                OPTIMIZER, aj.RowSparse.from_bcoo(in_jit(ROWS.to_bcoo())), TABLE
            ),
            lambda: aj.RowSparse(*in_jit((ROWS.ids, ROWS.values)), SHAPE),
        ],
    ),
    (
        "RowSharding(mesh, axis) makes one",
        lambda: aj.sharding.shard_rows(TABLE, MESH, lambda *_: True),
        [
            lambda: aj.sharding.shard_rows(
                TABLE, aj.sharding.RowSharding(MESH, "d"), lambda *_: True
            )
        ],
    ),
    (
        "it is table.shape[0]",
        lambda: aj.sharding.num_passes(jnp.ones(4, int), -4, ROW_SHARDING),
        [
            lambda: aj.sharding.num_passes(
                jnp.ones(4, int), TABLE.shape[0], ROW_SHARDING
            )
        ],
    ),
    (
        "pass what the table is read by",
        lambda: aj.sharding.num_passes(jnp.ones(4), 4, ROW_SHARDING),
        [lambda: aj.sharding.num_passes(jnp.ones(4, int), 4, ROW_SHARDING)],
    ),
    (
        '("model",)) makes one',
        lambda: aj.sharding.RowSharding(2, "model"),
        [
            lambda: aj.sharding.RowSharding(
                jax.make_mesh((jax.device_count(),), ("model",)), "model"
            )
        ],
    ),
    (
        "leave that shard_map out: value_and_grad(..., row_sharding=) is used as on",
        lambda: jax.shard_map(
            by_rows_of(ROW_SHARDING), mesh=MESH, in_specs=P("d"), out_specs=P()
        )(jnp.ones((8, 2))),
        [lambda: jax.jit(by_rows_of(ROW_SHARDING))(TABLE)],
    ),
    (
        "make the RowSharding with that mesh",
        lambda: in_use(MESH, by_rows_of(OTHER_AXIS))(TABLE),
        [lambda: in_use(MESH, by_rows_of(ROW_SHARDING))(TABLE)],
    ),
    (
        "adagrad_jax.sharding.shard_rows puts it, and what is kept of it, there",
        lambda: by_rows_of(ROW_SHARDING)(jax.device_put(TABLE, jax.devices()[0])),
        [
            lambda: by_rows_of(ROW_SHARDING)(
                aj.sharding.shard_rows(TABLE, ROW_SHARDING, lambda *_: True)
            ),
            lambda: by_rows_of(lambda path, leaf: None)(TABLE),
        ],
    ),
    (
        "its axes are ",
        lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, "model"),
        [lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, "d")],
    ),
    (
        "rows lie in blocks along all of them",
        lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, ("d", "d")),
        [lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, ("d",))],
    ),
    (
        "another in one pass: 2 is a good start",
        lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, "d", capacity=0),
        [lambda: aj.sharding.RowSharding(ROW_SHARDING.mesh, "d", capacity=2)],
    ),
    (
        "jax.device_put places a tree without one",
        lambda: aj.sharding.shard_rows(BOTH, ROW_SHARDING, lambda *_: False),
        [
            lambda: aj.sharding.shard_rows(BOTH, ROW_SHARDING, lambda *_: True),
            lambda: jax.device_put(
                BOTH, jax.sharding.NamedSharding(ROW_SHARDING.mesh, P())
            ),
        ],
    ),
    (
        "of parameters themselves, leave `params` out",
        lambda: aj.sharding.shard_rows(
            BOTH, ROW_SHARDING, lambda *_: True, params=BOTH
        ),
        [lambda: aj.sharding.shard_rows(BOTH, ROW_SHARDING, lambda *_: True)],
    ),
    (
        "make both by the same `init`",
        lambda: aj.sharding.grow_rows(OPTIMIZER.init(W), optax.adam(0.1).init(W)),
        [lambda: aj.sharding.grow_rows(OPTIMIZER.init(W), OPTIMIZER.init(W))],
    ),
    (
        "give `larger` at least as many rows",
        lambda: aj.sharding.grow_rows(TABLE, TABLE[:2]),
        [lambda: aj.sharding.grow_rows(TABLE[:2], TABLE)],
    ),
    (
        "make `larger` of the same dtypes",
        lambda: aj.sharding.grow_rows(TABLE, TABLE.astype(jnp.bfloat16)),
        [lambda: aj.sharding.grow_rows(TABLE, TABLE)],
    ),
    (
        "was the checkpoint written with a fingerprint beside its tree?",
        lambda: aj.sharding.check_fingerprint(BOTH, {}),
        [
            lambda: aj.sharding.check_fingerprint(BOTH, aj.sharding.fingerprint(BOTH)),
        ],
    ),
    (
        "use the clips and the global_norm of adagrad_jax, or .to_dense(). Between "
        "devices use adagrad_jax.sharding.psum or pmean",
        lambda: optax.clip(1.0).update(ROWS, optax.EmptyState()),
        [
            lambda: step(optax.chain(aj.clip_by_value(1.0), OPTIMIZER), ROWS, TABLE),
            lambda: optax.clip(1.0).update(ROWS.to_dense(), optax.EmptyState()),
            lambda: jnp.isfinite(aj.global_norm(ROWS)),
            averaged_over_microbatches,
            summed_over_devices,
        ],
    ),
    (
        "adagrad_jax's transformations take it, others .to_dense()",
        lambda: step(optax.adagrad(0.1), ROWS, TABLE),
        [
            lambda: step(OPTIMIZER, ROWS, TABLE),
            lambda: step(optax.adagrad(0.1), ROWS.to_dense(), TABLE),
        ],
    ),
    (
        "do so with .to_dense(), or with its .ids and .values.",
        lambda: ROWS > 0,
        [lambda: ROWS.to_dense() > 0, lambda: ROWS.values[ROWS.ids > 0] > 0],
    ),
    (
        ".to_dense() is an ordinary array.",
        lambda: ROWS * TABLE,
        [lambda: ROWS.to_dense() * TABLE],
    ),
    (
        "it does not broadcast; .to_dense() does.",
        lambda: jnp.ones((1, 2)) + ROWS,
        [lambda: jnp.ones((1, 2)) + ROWS.to_dense()],
    ),
    (
        "BCOO.fromdense(x, n_dense=x.ndim - 1) makes one, and array.todense() is an "
        "ordinary gradient.",
        lambda: aj.RowSparse.from_bcoo(BCOO.fromdense(TABLE, n_batch=1)),
        [
            lambda: aj.RowSparse.from_bcoo(
                BCOO.fromdense(TABLE, n_dense=TABLE.ndim - 1)
            ),
            lambda: step(OPTIMIZER, BCOO.fromdense(TABLE).todense(), TABLE),
        ],
    ),
    (
        "pass ids.ravel() and values.reshape(-1, *shape[row_axes:]).",
        lambda: aj.RowSparse(IDS[None], TABLE[None, :2], SHAPE),
        [
            lambda: aj.RowSparse(
                IDS[None].ravel(), TABLE[None, :2].reshape(-1, *SHAPE[1:]), SHAPE
            )
        ],
    ),
    (
        "use RowWise(row_axes=2) or Diagonal() for this leaf (optax.partition), or "
        "give it .to_dense().",
        lambda: step(aj.adagrad(accumulator=aj.SM3()), ROWS_OF_TWO, TWO_TABLES),
        [
            lambda: beside_another(aj.SM3(), aj.RowWise(row_axes=2)),
            lambda: beside_another(aj.SM3(), aj.Diagonal()),
            lambda: step(
                aj.adagrad(accumulator=aj.SM3()), ROWS_OF_TWO.to_dense(), TWO_TABLES
            ),
        ],
    ),
    (
        "`init` sees the parameter alone: tell what keeps numbers of rows (RowWise, "
        "lazy_weight_decay) row_axes=2, or give it .to_dense().",
        lambda: step(aj.adagrad(accumulator=aj.RowWise()), ROWS_OF_TWO, TWO_TABLES),
        [
            lambda: step(
                aj.adagrad(accumulator=aj.RowWise(row_axes=2)), ROWS_OF_TWO, TWO_TABLES
            ),
            lambda: step(
                aj.lazy_weight_decay(0.1, 0.1, row_axes=2), ROWS_OF_TWO, TWO_TABLES
            ),
            lambda: step(aj.scale_by_frequency(row_axes=2), ROWS_OF_TWO, TWO_TABLES),
            lambda: step(
                aj.adagrad(accumulator=aj.RowWise()), ROWS_OF_TWO.to_dense(), TWO_TABLES
            ),
        ],
    ),
    (
        "tell it row_axes=2.",
        lambda: step(aj.cap_row_norms(9.0), ROWS_OF_TWO, TWO_TABLES),
        [lambda: step(aj.cap_row_norms(9.0, row_axes=2), ROWS_OF_TWO, TWO_TABLES)],
    ),
    (
        "convert them where they are made, so that no row is lost to rounding.",
        lambda: aj.RowSparse(IDS * 1.0, TABLE[:2], SHAPE),
        [lambda: aj.RowSparse(IDS.astype(int), TABLE[:2], SHAPE)],
    ),
    (
        "pass them by position.",
        lambda: aj.grad(loss_by_rows)(table=TABLE, ids=IDS),
        [lambda: aj.grad(loss_by_rows)(TABLE, ids=IDS)],
    ),
    (
        "Read it by table[ids] only, or let `tables` leave it out",
        lambda: aj.grad(tied, tables=large)(TABLE, IDS),
        [
            lambda: aj.grad(loss_by_rows, tables=large)(TABLE, IDS).ids,
            lambda: aj.grad(tied, tables=lambda path, leaf: False)(TABLE, IDS).sum(),
        ],
    ),
    (
        "leave it to others.",
        lambda: aj.grad(lambda x: x**2, tables=lambda path, leaf: True)(1.0),
        [lambda: aj.grad(lambda x: x**2, tables=large)(jnp.float32(1.0))],
    ),
    (
        "optax.inject_hyperparams leaves it a number if 'weight_decay' is in "
        "static_args=",
        lambda: step(
            optax.inject_hyperparams(aj.dialects.torch)(0.1, weight_decay=0.0),
            ROWS,
            TABLE,
        ),
        [lambda: step(injected(weight_decay=0.0), ROWS, TABLE)],
    ),
    # Accumulators
    (
        "wrap the optimizer with optax.contrib.split_real_and_imaginary.",
        lambda: aj.adagrad(0.1, accumulator=aj.FullMatrix()).init(W * 1j),
        [
            lambda: step(
                optax.contrib.split_real_and_imaginary(
                    aj.adagrad(0.1, accumulator=aj.FullMatrix())
                ),
                W * 1j,
                W * 1j,
            )
        ],
    ),
    (
        "give it a block_size, raise max_size, or give this leaf another accumulator "
        "with optax.partition.",
        lambda: aj.adagrad(accumulator=aj.FullMatrix(max_size=1)).init(W),
        [
            lambda: aj.adagrad(
                accumulator=aj.FullMatrix(max_size=1, block_size=1)
            ).init(W),
            lambda: aj.adagrad(accumulator=aj.FullMatrix(max_size=2)).init(W),
            lambda: optax.partition({"all": OPTIMIZER}, "all").init(W),
        ],
    ),
    (
        "for others use Diagonal(dtype=...).",
        lambda: aj.RoundedDiagonal(dtype=jnp.float32),
        [
            lambda: step(
                aj.adagrad(0.1, accumulator=aj.Diagonal(dtype=jnp.float32)), W, W
            )
        ],
    ),
    (
        "must keep rows apart, as Diagonal() and RowWise() do",
        lambda: aj.proximal_adagrad(0.1, accumulator=aj.SM3()),
        [
            lambda: step(
                aj.proximal_adagrad(0.1, accumulator=aj.RowWise()), ROWS, TABLE
            ),
            lambda: step(
                aj.proximal_adagrad(0.1, accumulator=aj.Diagonal()), ROWS, TABLE
            ),
        ],
    ),
    (
        "needs accumulator=RowWise()",
        lambda: aj.proximal_adagrad(0.1, group_lasso=0.1),
        [
            lambda: step(
                aj.proximal_adagrad(0.1, group_lasso=0.1, accumulator=aj.RowWise()),
                ROWS,
                TABLE,
            )
        ],
    ),
    (
        "pass the parameters that `init` saw.",
        lambda: aj.catch_up_weight_decay(
            TABLE[:2], aj.lazy_weight_decay(0.1, 0.1).init(TABLE)
        ),
        [
            lambda: aj.catch_up_weight_decay(
                TABLE, aj.lazy_weight_decay(0.1, 0.1).init(TABLE)
            )
        ],
    ),
    # Checkpoints
    *[
        (
            says,
            lambda fill=fill: filled(fill, None),
            [lambda fill=fill: filled(fill, [None, "['w']"])],
        )
        for fill, says in (
            (from_torch, "in `order`, with None for each that has no accumulator here"),
            (
                from_fbgemm,
                "in `order`, with None for each that has no accumulator here",
            ),
            (from_keras, "in `order`, with None for each that has no accumulator here"),
        )
    ],
    (
        "check that both optimizers have the same parameters and kind of accumulator, "
        "and that `order` (and PyTorch's `axes`) are right.",
        lambda: wide_kernel(axes=None),
        [lambda: wide_kernel(axes={"": (1, 0)})],
    ),
    (
        "give all of them the same options, as Keras does.",
        lambda: averages_of(
            optax.partition(
                {"a": aj.dialects.keras3(use_ema=True), "b": aj.dialects.keras3()},
                {"v": "a", "w": "b"},
            )
        ),
        [lambda: averages_of(aj.dialects.keras3(use_ema=True))],
    ),
    (
        "write None for one that has none here",
        lambda: filled(from_torch, ["['v']", "['w']"]),
        [lambda: filled(from_torch, [None, "['w']"]), and_back],
    ),
    (
        "freeze this leaf there, too (optax.masked).",
        lambda: from_optax(
            optax.masked(optax.adagrad(0.1), ONLY_W).init(BOTH), OPTIMIZER
        ),
        [
            lambda: from_optax(
                optax.masked(optax.adagrad(0.1), ONLY_W).init(BOTH), FROZEN
            ),
            lambda: from_optax(optax.adagrad(0.1).init(BOTH), FROZEN),
        ],
    ),
    (
        "give the parameters that `init` saw.",
        lambda: from_torch(FROZEN.init(BOTH), {"v": W}, order=["['v']"]),
        [lambda: filled(from_torch, [None, "['w']"])],
    ),
    (
        "give the part of the state with the right one.",
        lambda: aj.interop.from_torch(torch_state(2), two_kept(), {"w": W}),
        [
            lambda: aj.interop.from_torch(torch_state(2), two_kept()[1], {"w": W}),
        ],
    ),
    (
        "give the whole state of an optimizer that has one.",
        lambda: aj.interop.from_torch(torch_state(2), OPTIMIZER.init(W)[1], W),
        [lambda: aj.interop.from_torch(torch_state(2), OPTIMIZER.init(W), W)],
    ),
    (
        "use Diagonal() or RowWise() for it (optax.partition).",
        lambda: aj.interop.from_torch(
            torch_state(SHAPE), aj.adagrad(accumulator=aj.SM3()).init(TABLE), TABLE
        ),
        [
            lambda: aj.interop.from_torch(
                torch_state(SHAPE),
                optax.partition({"all": OPTIMIZER}, "all").init(TABLE),
                TABLE,
            )
        ],
    ),
    (
        "keep it in a wider dtype, such as Diagonal(dtype=jnp.float32).",
        lambda: from_torch_large(jnp.float16),
        [lambda: from_torch_large(jnp.float32)],
    ),
    (
        "take the state of an Adagrad, from before its training went wrong.",
        lambda: kept_there(np.array([np.nan, 1])),
        [lambda: kept_there(np.array([np.inf, 1]))],
    ),
    (
        "keep it in a dtype with smaller numbers, such as Diagonal(dtype=jnp.float32).",
        lambda: kept_there(np.array([1e-9, 1]), jnp.float16),
        [lambda: kept_there(np.array([1e-9, 1]), jnp.float32)],
    ),
    (
        "leave it in one of the lists 'params'.",
        lambda: grouped([0], [0]),
        [lambda: grouped([0], [])],
    ),
    (
        "take 'state' and 'param_groups' from one state_dict().",
        lambda: grouped([0], state=torch_state(2, 2)["state"]),
        [lambda: grouped([0], state=torch_state(2)["state"])],
    ),
    (
        "give Keras 3's optimizer.variables, or pairs ('accumulator', array).",
        lambda: one_number(1.0),
        [
            lambda: one_number(("accumulator", 1.0)),
            lambda: one_number(Variable(1.0, name="a")),
        ],
    ),
    (
        "give each its own by optax.partition, or `step`.",
        lambda: uneven(aj.adagrad(optax.constant_schedule(0.1))),
        [
            lambda: uneven(
                optax.partition(
                    {k: aj.adagrad(optax.constant_schedule(0.1)) for k in "vw"},
                    {"v": "v", "w": "w"},
                )
            ),
            lambda: uneven(aj.adagrad(optax.constant_schedule(0.1)), step=3),
        ],
    ),
    (
        "`step` must be given, the number of steps taken",
        lambda: aj.interop.to_torch(OPTIMIZER.init(W), torch_state(2), W),
        [lambda: aj.interop.to_torch(OPTIMIZER.init(W), torch_state(2), W, step=1)],
    ),
    (
        "give a tree like it, such as {'embeddings': variables}.",
        lambda: from_sparsecore({"t": PAIR}, params={"embeddings": {"t": TABLE}}),
        [
            lambda: from_sparsecore(
                {"embeddings": {"t": PAIR}}, params={"embeddings": {"t": TABLE}}
            )
        ],
    ),
    (
        "leave that out of `variables`.",
        lambda: from_sparsecore(
            {"v": PAIR, "w": PAIR}, FROZEN, {"v": TABLE, "w": TABLE}
        ),
        [lambda: from_sparsecore({"w": PAIR}, FROZEN, {"v": TABLE, "w": TABLE})],
    ),
    (
        "give a tree with its keys.",
        lambda: from_sparsecore({}),
        [lambda: from_sparsecore({"t": PAIR})],
    ),
    (
        "give its EmbeddingVariables, or (table, (accumulator,)).",
        lambda: from_sparsecore({"t": ARRAY}),
        [lambda: from_sparsecore({"t": (ARRAY, (ARRAY,))})],
    ),
    (
        "(accumulator,) belongs to dialects.sparsecore, and (accumulator, local_step) "
        "to dialects.sparsecore_f2a.",
        lambda: from_sparsecore({"t": PAIR}, aj.dialects.sparsecore_f2a()),
        [
            lambda: from_sparsecore({"t": PAIR}, aj.dialects.sparsecore()),
            lambda: from_sparsecore(
                {"t": (ARRAY, (ARRAY, ARRAY))}, aj.dialects.sparsecore_f2a()
            ),
        ],
    ),
    (
        "give it another optimizer, by optax.partition.",
        lambda: beside_a_table(aj.dialects.sparsecore_f2a()),
        [
            lambda: beside_a_table(
                optax.partition(
                    {"t": aj.dialects.sparsecore_f2a(), "w": OPTIMIZER},
                    {"t": "t", "w": "w"},
                )
            )
        ],
    ),
    (
        "of other numbers, as initial_local_step_value may begin from there, give "
        "np.round.",
        lambda: counted_there(1.5 * ARRAY),
        [lambda: counted_there(np.round(1.5 * ARRAY))],
    ),
    # Diagnostics
    (
        "pass what the optimizer's init or update returned.",
        lambda: aj.diagnostics.report(optax.sgd(0.1).init(W), W),
        [reported],
    ),
    (
        "call report outside of jax.jit.",
        lambda: jax.jit(lambda s: aj.diagnostics.report(s, W))(OPTIMIZER.init(W)),
        [reported],
    ),
    (
        "leave the leaf out with optax.masked, or pass the parameters that `state` was "
        "made for.",
        lambda: aj.diagnostics.report(OPTIMIZER.init(W), TABLE),
        [
            reported,
            lambda: aj.diagnostics.report(FROZEN.init(BOTH), {"v": TABLE, "w": W}),
        ],
    ),
    (
        "pass its value at the step.",
        lambda: reported(learning_rate=optax.constant_schedule(0.1)),
        [lambda: reported(learning_rate=optax.constant_schedule(0.1)(3))],
    ),
    (
        "pass `learning_rate` to both.",
        lambda: reported(learning_rate=0.1, since=reported()),
        [lambda: reported(learning_rate=0.1, since=reported(learning_rate=0.1))],
    ),
    (
        "if it differs between leaves, pass a tree of them.",
        lambda: aj.diagnostics.report(
            OPTIMIZER.init(BOTH), BOTH, initial_accumulator_value=0.5
        ),
        [
            lambda: aj.diagnostics.report(
                OPTIMIZER.init(BOTH),
                BOTH,
                initial_accumulator_value={"v": 0.1, "w": 0.1},
            )
        ],
    ),
    (
        "pass the part of it that has one.",
        lambda: aj.diagnostics.report(two_kept(), {"w": W}),
        [lambda: aj.diagnostics.report(two_kept()[1], {"w": W})],
    ),
    # The object
    (
        "`build` with all variables.",
        lambda: growing(Adagrad(0.1, use_ema=True), build=False),
        [lambda: growing(Adagrad(0.1, use_ema=True), build=True)],
    ),
    (
        "call `build` with all of them.",
        lambda: growing(together(), build=False),
        [lambda: growing(together(), build=True)],
    ),
    (
        "inside jax.jit use arrays, and `Optimizer.stateless_apply`.",
        lambda: jax.jit(lambda x: variables()[0].assign(x))(W),
        [lambda: stepped_in_jit(stateless=True)],
    ),
    (
        "has dtype float16, its variable has float32; they must be the same.",
        lambda: Adagrad(0.1).apply_gradients([(W.astype("float16"), variables()[0])]),
        [lambda: Adagrad(0.1).apply_gradients([(W, variables()[0])])],
    ),
    (
        "what a config has only the name of belongs into `custom_objects`.",
        lambda: Adagrad.from_config({"learning_rate": "mine"}),
        [lambda: Adagrad.from_config({"learning_rate": "mine"}, {"mine": lambda: 0.1})],
    ),
    (
        "call `build(variables)` with all variables.",
        lambda: stateless(build=False),
        [lambda: stateless(build=True)],
    ),
    (
        "inside jax.jit and the like use `stateless_apply`.",
        lambda: stepped_in_jit(stateless=False),
        [lambda: stepped_in_jit(stateless=True)],
    ),
    (
        "pass .to_dense() of it.",
        lambda: constrained(ROWS),
        [lambda: constrained(ROWS.to_dense())],
    ),
    (
        "of others take the gradients with adagrad_jax.value_and_grad, then call "
        "apply_gradients.",
        lambda: Adagrad(0.1).minimize(lambda: 0.0, [jax.new_ref(W)]),
        [lambda: Adagrad(0.1).apply_gradients([taken(jax.new_ref(W))])],
    ),
    (
        "make it an adagrad_jax.keras.Variable.",
        lambda: Adagrad(0.1).apply_gradients([(W, W)]),
        [lambda: Adagrad(0.1).apply_gradients([(W, Variable(W))])],
    ),
    (
        "use `iterations.assign`.",
        lambda: replaced_count(assign=False),
        [lambda: replaced_count(assign=True)],
    ),
    (
        "assign to get_slot(variable, 'accumulator').",
        lambda: started_from(2.0, "attribute"),
        [lambda: started_from(2.0, "slot")],
    ),
    (
        "set what needs it before, or make another optimizer.",
        lambda: averaging("after"),
        [lambda: averaging("before"), lambda: averaging("another")],
    ),
    (
        "add it with an initializer that gives that.",
        lambda: with_own_slot([1.0]),
        [lambda: with_own_slot([1.0, 2.0])],
    ),
    (
        "call `build(variables)` with variables of these names.",
        lambda: unpickled(build=False),
        [lambda: unpickled(build=True)],
    ),
    (
        "use save(path), then load with custom_objects={'transformation': ...}.",
        lambda: pickle.dumps(Optimizer(optax.scale_by_rss(), 0.1)),
        [saved_and_loaded],
    ),
    (
        "give a weight for each loss, or None.",
        lambda: weighted([1.0]),
        [lambda: weighted([1.0, 2.0]), lambda: weighted([1.0, None])],
    ),
    (
        "they must be the same, or `grad_loss` a single number of that dtype.",
        lambda: weighted([jnp.ones(3), 1.0]),
        [lambda: weighted([jnp.ones(()), 1.0]), lambda: weighted([2.0, 1.0])],
    ),
    (
        "in which there is no loss; return an array, or a list, tuple or dictionary",
        lambda: minimized(lambda w: []),
        [lambda: minimized(lambda w: [w * w]), lambda: minimized(lambda w: {"a": w})],
    ),
    (
        "which have no gradient; return real floating-point ones.",
        lambda: minimized(lambda w: w > 1),
        [lambda: minimized(lambda w: jnp.abs(w * 1j))],
    ),
    (
        "which is no loss; return an array, or a list, tuple or dictionary of them.",
        lambda: minimized(lambda w: None),
        [lambda: minimized(lambda w: w * w)],
    ),
    (
        "inside jax.jit and the like use adagrad_jax.value_and_grad and "
        "`stateless_apply`, on arrays.",
        lambda: in_traced_function(stateless=False),
        [lambda: in_traced_function(stateless=True)],
    ),
    (
        "of one that never changes take the array, w.value, outside.",
        lambda: read_under_jit("variable"),
        [lambda: read_under_jit("array"), lambda: read_under_jit("argument")],
    ),
    (
        "derive a class from it, or pass what is an argument when making one.",
        lambda: setattr(Adagrad(), "name", "mine"),
        [lambda: Adagrad(name="mine")],
    ),
    (
        "its hyperparameters are learning_rate, initial_accumulator_value",
        lambda: setattr(Adagrad(), "learningrate", 0.1),
        [lambda: setattr(Adagrad(), "learning_rate", 0.1)],
    ),
    (
        "has no '_create_slots'; use build(variables).",
        lambda: Adagrad()._create_slots([Variable(W)]),
        [lambda: Adagrad().build([Variable(W)])],
    ),
    (
        "assign after `minimize`, or return what is to be assigned.",
        assigned_in_loss,
        [assigned_after],
    ),
    (
        "pass it, and a transformation without one, such as optax.scale_by_adam().",
        lambda: Optimizer(optax.adam(0.1), weight_decay=0.1),
        [lambda: Optimizer(optax.scale_by_adam(), 0.1, weight_decay=0.1)],
    ),
    (
        "pass `learning_rate` and a transformation without one",
        lambda: own_rate(Optimizer(optax.adam(0.1))),
        [lambda: own_rate(Optimizer(optax.scale_by_adam(), 0.1))],
    ),
    (
        "Pass its class in `custom_objects`.",
        lambda: schedules.deserialize(OWN_CONFIG),
        [lambda: schedules.deserialize(OWN_CONFIG, {"Own": Own})],
    ),
]


class Own(schedules.LearningRateSchedule):
    """A user's schedule."""

    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


OWN_CONFIG = {"class_name": "Own", "config": {}}


OTHER_AXIS = aj.sharding.RowSharding(
    jax.make_mesh((2,), ("x",), (jax.sharding.AxisType.Auto,)), "x"
)


def by_rows_of(row_sharding):
    def loss(table):
        return jnp.sum(table[jnp.array([1, 0])])

    gradient_of = aj.grad(loss, row_sharding=row_sharding, tables=lambda *_: True)
    return lambda table: gradient_of(table).to_dense()


def in_use(mesh, function):
    def call(*args):
        with jax.set_mesh(mesh):
            return function(*args)

    return call


def taken(ref):
    _, gradient = aj.value_and_grad(lambda x: jnp.sum(x**2))(ref[...])
    return gradient, ref


def step_of_rate(rate):
    optimizer = aj.adagrad(rate)
    return optimizer.update(W, optimizer.init(W))[0]


def from_torch_large(dtype):
    return kept_there(np.full(2, 1e6), dtype)


def kept_there(array, dtype=None):
    state_dict = torch_state(2)
    state_dict["state"][0]["sum"] = array
    accumulator = aj.Diagonal(dtype=dtype)
    state = aj.adagrad(accumulator=accumulator).init(W)
    return aj.interop.from_torch(state_dict, state, W)


def grouped(*groups, **changes):
    groups = [{"params": numbers} for numbers in groups]
    state_dict = torch_state(2) | {"param_groups": groups} | changes
    return aj.interop.from_torch(state_dict, OPTIMIZER.init(W), W)


def one_number(accumulator):
    number = jnp.ones(())
    state = OPTIMIZER.init(number)
    return aj.interop.from_keras([np.array(3), accumulator], state, number)


def uneven(optimizer, **kwargs):
    state_dict = torch_state(2, 2)
    state_dict["state"][0]["step"] = 5.0
    return aj.interop.from_torch(state_dict, optimizer.init(BOTH), BOTH, **kwargs)


def from_sparsecore(variables, optimizer=OPTIMIZER, params=None):
    params = {"t": TABLE} if params is None else params
    state = optimizer.init(params)
    return aj.interop.from_sparsecore(variables, state, params, step=1)


def beside_a_table(optimizer):
    pairs = {"t": (ARRAY, (ARRAY, ARRAY))}
    return from_sparsecore(pairs, optimizer, {"t": TABLE, "w": W})


def counted_there(steps):
    return from_sparsecore({"t": (ARRAY, (ARRAY, steps))}, aj.dialects.sparsecore_f2a())


@pytest.mark.parametrize("says, wrong, right", CASES, ids=[c[0][:40] for c in CASES])
def test_remedy(says, wrong, right):
    with pytest.raises(Exception, match=re.escape(says)) as caught:
        wrong()
    assert type(caught.value) in (TypeError, ValueError, AttributeError, RuntimeError)
    for do in right:
        do()


def test_files_name_what_they_are_to_be_opened_with(tmp_path):
    with pytest.raises(ValueError, match=r"each its own, as in Variable\(value, name="):
        saved(tmp_path, "same", "same")
    saved(tmp_path, "one", "another")


# What another test tries, what cannot be had here, and what says no more than what is
# wrong.
ELSEWHERE = {
    "install it: pip install matplotlib": "diagnostics/test_figure.py",
    "use the version of adagrad_jax that wrote it": "a file of another version",
    "set the environment variable KERAS_BACKEND=jax": "a process of its own",
    "unstack what was stacked and sharded, by table_stacking.": "jax-tpu-embedding's",
    "pass custom_objects={": "test_keras3.py",
    "decorate its class with dataclasses.dataclass": "test_keras3.py",
    "write class {}(RowSparseTraining, keras.Model)": "test_keras3.py",
    "before `compile` call optimizer.exclude_from_weight_decay(": "test_keras3.py",
    "pass `learning_rate`, and a transformation without one": "test_keras3.py",
    "give each its own, as in Variable(value, name=": "above",
    "is it another optimizer's?": "asks",
    "an accumulator here is the sum of squared magnitudes": "tells",
    "known: ": "tells",
    "it has ": "tells",
}


def remedies():
    """What is said after the last semicolon of each message that has one."""
    package = pathlib.Path(aj.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            for message in node.exc.args[:1]:
                parts = getattr(message, "values", [message])
                text = "".join(
                    p.value if isinstance(p, ast.Constant) else "{}" for p in parts
                )
                if ";" in text:
                    yield f"{path.name}:{node.lineno}", text.rpartition(";")[2].strip()


def test_every_remedy_is_tried():
    tried = [says for says, _, _ in CASES] + list(ELSEWHERE)
    untried = {
        where: remedy
        for where, remedy in remedies()
        if remedy.strip("{}. ") and not any(_same(remedy, says) for says in tried)
    }
    assert not untried


def _same(remedy, says):
    words = re.split(r"\{\}", remedy)
    longest = max(words, key=len).strip(" .")
    return longest in says or says in remedy
