"""A data parallel training, on copies of the parameters, in float64.

Most ids come more than once, on one device and on several.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj

RNG = np.random.default_rng(0)
PARAMS = {
    "table": RNG.normal(size=(40, 3)),
    "weights": RNG.normal(size=3),
    "bias": np.zeros(()),
}
BATCHES = [(RNG.zipf(1.5, (16, 2)) % 40, RNG.normal(size=16)) for _ in range(3)]
OPTIMIZER = optax.chain(
    aj.clip_by_global_norm(1.0), aj.add_decayed_weights(0.01), aj.adagrad(0.5)
)


def mean_loss(params, batch):
    ids, targets = batch
    predictions = params["table"][ids].sum(axis=1) @ params["weights"] + params["bias"]
    return jnp.mean((predictions - targets) ** 2)


def is_table(path, leaf):
    return path[-1].key == "table"


def step(reduce, params, state, batch, own=lambda x: x):
    grad = aj.value_and_grad(mean_loss, tables=is_table)
    loss, gradients = reduce(grad(own(params), batch))
    assert isinstance(gradients["table"], aj.RowSparse)
    updates, state = OPTIMIZER.update(gradients, state, params)
    return aj.apply_updates(params, updates), state, loss


pmean = functools.partial(aj.sharding.pmean, axis_name="data")


def jitted():
    return jax.jit(functools.partial(step, lambda x: x))


def shard_mapped(mesh, check_vma=True):
    own = functools.partial(jax.lax.pcast, axis_name="data", to="varying")
    body = functools.partial(step, pmean, own=own if check_vma else lambda x: x)
    mapped = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(P(), P(), P("data")),
        out_specs=P(),
        check_vma=check_vma,
    )
    return jax.jit(mapped)


def pmapped():
    return jax.pmap(functools.partial(step, pmean), axis_name="data")


def put(mesh, spec):
    return lambda tree: jax.device_put(tree, NamedSharding(mesh, spec))


def train(step, place, place_batch=lambda batch: batch):
    """Parameters, state and losses, as NumPy's arrays."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    trained = place((params, OPTIMIZER.init(params)))
    losses = []
    for batch in BATCHES:
        # Virtual devices share few cores: one step at a time.
        *trained, loss = jax.block_until_ready(step(*trained, place_batch(batch)))
        losses.append(loss)
    return aj.sharding.gather_rows((*trained, losses))


def on_one_device():
    return train(jitted(), lambda tree: tree)


def assert_equal(trained, alone):
    assert jax.tree.structure(trained) == jax.tree.structure(alone)
    for a, e in zip(*map(jax.tree.leaves, (trained, alone)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)
