"""Data-parallel training: every device takes a part of the batch.

The parameters and Adagrad's state are on every device, the batch is split among them,
and the mean of the devices' gradients is the gradient of the whole batch. If every
device applies that mean, all copies stay equal, and equal to those of a single device
which sees the whole batch. The state is a plain pytree, and goes where the parameters
go. Only the gradient of the embedding table is special: it has the rows that a device
read, and the mean is taken of rows (`adagrad_jax.sharding.pmean`), so that neither a
step's time nor what devices send each other grows with the table.

JAX has three ways to write it:

- ``jit`` is what to use in new code. The step is the same as for one device; only the
  arrays lie elsewhere, and XLA inserts the communication.
- ``shard_map`` is for steps which must say themselves what each device does and when
  devices communicate.
- ``pmap`` is for code that has it already. JAX maintains it, but advises against it:
  https://docs.jax.dev/en/latest/migrate_pmap.html

``python -m examples.data_parallel`` takes ten steps in each way on eight virtual
devices (one CPU acts as eight), and compares them with the same steps on one device.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import adagrad_jax as aj

NUM_ROWS, DIM = 1000, 4
BATCH_SIZE, IDS_PER_EXAMPLE = 32, 3  # every device takes the same number of examples

Params = dict[str, jax.Array]
Batch = tuple[np.ndarray, np.ndarray]
Trained = tuple[Params, optax.OptState]

# A rate that decays makes the state more than accumulators: it also counts the steps.
optimizer = aj.adagrad(aj.inverse_time_decay(0.5, decay=0.1))

# Virtual devices share a few cores: with many steps under way they could wait for each
# other for ever, so each step is finished before the next. Real devices need no wait.
finished = jax.block_until_ready


def initial_params() -> Params:
    """An embedding table and a linear layer."""
    table, weights = jax.random.split(jax.random.key(0))
    return {
        "table": 0.3 * jax.random.normal(table, (NUM_ROWS, DIM)),
        "weights": 0.3 * jax.random.normal(weights, (DIM,)),
        "bias": jnp.zeros(()),
    }


def random_batches(num_batches: int) -> list[Batch]:
    """Batches of ids (BATCH_SIZE, IDS_PER_EXAMPLE) and targets (BATCH_SIZE,)."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, NUM_ROWS, (num_batches, BATCH_SIZE, IDS_PER_EXAMPLE))
    targets = rng.normal(size=(num_batches, BATCH_SIZE))
    return list(zip(ids.astype(np.int32), targets.astype(np.float32), strict=True))


def mean_loss(params: Params, batch: Batch) -> jax.Array:
    """The squared error, as a mean over examples: the mean of parts is that of all."""
    ids, targets = batch
    features = params["table"][ids].mean(axis=1)
    predictions = features @ params["weights"] + params["bias"]
    return jnp.mean((predictions - targets) ** 2)


# --- One device, and many with jit ----------------------------------------------------


@functools.partial(jax.jit, donate_argnums=(0, 1))
def train_step(params, state, batch):
    """A step like any other: with jit, many devices need no other one."""
    loss, gradients = aj.value_and_grad(mean_loss)(params, batch)
    updates, state = optimizer.update(gradients, state, params)
    return aj.apply_updates(params, updates), state, loss


def train_on_one_device(params: Params, batches: list[Batch]) -> Trained:
    """What all others are compared with."""
    state = optimizer.init(params)
    for batch in batches:
        params, state, _ = train_step(params, state, batch)
    return params, state


def train_with_jit(params: Params, batches: list[Batch]) -> Trained:
    """Says where the arrays lie, and leaves the rest to XLA."""
    mesh = Mesh(jax.devices(), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    # Once is enough: a step's results lie where its arguments did. The state is placed
    # too, for `init` puts only accumulators where their parameters are; the step would
    # be compiled a second time for the count of steps, which it leaves on one device.
    params, state = jax.device_put((params, optimizer.init(params)), replicated)
    for batch in batches:
        params, state, _ = finished(
            train_step(params, state, jax.device_put(batch, split))
        )
    return params, state


# --- shard_map ------------------------------------------------------------------------


def make_shard_map_step(mesh: Mesh) -> Callable:
    """A step in which each device is told what to do with its part of the batch."""
    replicated, split = PartitionSpec(), PartitionSpec("data")

    def step(params, state, batch):
        # Parameters that are the same on all devices would get a gradient that is
        # summed over devices already, an array as large as the table. So each device
        # says that it differentiates by its own, and the mean is taken after that.
        own = jax.lax.pcast(params, "data", to="varying")
        loss, gradients = aj.value_and_grad(mean_loss)(own, batch)
        loss, gradients = aj.sharding.pmean((loss, gradients), "data")
        updates, state = optimizer.update(gradients, state, params)
        return aj.apply_updates(params, updates), state, loss

    # JAX verifies that what `out_specs` calls replicated is so (`check_vma`).
    step = jax.shard_map(
        step, mesh=mesh, in_specs=(replicated, replicated, split), out_specs=replicated
    )
    return jax.jit(step, donate_argnums=(0, 1))


def train_with_shard_map(params: Params, batches: list[Batch]) -> Trained:
    """As with jit, but for the step itself."""
    mesh = Mesh(jax.devices(), ("data",))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = make_shard_map_step(mesh)
    params, state = jax.device_put((params, optimizer.init(params)), replicated)
    for batch in batches:
        params, state, _ = finished(step(params, state, jax.device_put(batch, split)))
    return params, state


# --- pmap -----------------------------------------------------------------------------


@functools.partial(jax.pmap, axis_name="data", donate_argnums=(0, 1))
def pmap_step(params, state, batch):
    """A step on one device's copy and part; outside, each array has a device axis."""
    loss, gradients = aj.value_and_grad(mean_loss)(params, batch)
    loss, gradients = aj.sharding.pmean((loss, gradients), "data")
    updates, state = optimizer.update(gradients, state, params)
    return aj.apply_updates(params, updates), state, loss


def replicate(tree):
    """A copy for each device, on a new leading axis (as ``flax.jax_utils`` does it)."""
    devices = jax.devices()
    one_each = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    copies = jax.tree.map(lambda x: jnp.stack([x] * len(devices)), tree)
    return jax.device_put(copies, one_each)


def unreplicate(tree):
    """The first device's copy, for a checkpoint or an evaluation."""
    return jax.tree.map(lambda x: x.addressable_data(0).squeeze(0), tree)


def split_batch(batch: Batch) -> Batch:
    """Shape (BATCH_SIZE, ...) becomes (devices, BATCH_SIZE / devices, ...)."""
    num_devices = jax.device_count()
    return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)


def train_with_pmap(params: Params, batches: list[Batch]) -> Trained:
    """Returns all copies; :func:`unreplicate` takes one of them."""
    params, state = replicate((params, optimizer.init(params)))
    for batch in batches:
        params, state, _ = finished(pmap_step(params, state, split_batch(batch)))
    return params, state


# --- Comparison -----------------------------------------------------------------------

STRATEGIES = {
    "jit": train_with_jit,
    "shard_map": train_with_shard_map,
    "pmap": train_with_pmap,
}


def largest_difference(actual: Trained, expected: Trained) -> float:
    """Over parameters and state; NumPy compares each of pmap's copies."""
    differences = jax.tree.map(
        lambda a, e: np.max(np.abs(np.asarray(a) - np.asarray(e))), actual, expected
    )
    return float(max(jax.tree.leaves(differences)))


def main() -> None:
    """Prints how far each strategy ends from training on one device."""
    batches = random_batches(10)
    expected = train_on_one_device(initial_params(), batches)
    print("strategy   devices  largest difference to one device")
    for name, train in STRATEGIES.items():
        # A donated array cannot be used again, so each starts from its own parameters.
        difference = largest_difference(train(initial_params(), batches), expected)
        print(f"{name:<9}  {jax.device_count():>7}  {difference:.1e}")


if __name__ == "__main__":
    # Must come before JAX looks for devices, which it does when it first needs one.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    main()
