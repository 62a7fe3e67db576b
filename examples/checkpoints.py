"""Training that may be stopped at any moment, and goes on as if it had not been.

The embedding table and its accumulator lie by rows on all devices, and are saved so, by
Orbax, while training goes on. Beside them their fingerprint is saved, by which a
checkpoint that was altered, or is another optimizer's, is found out. Whoever starts the
program again, also on another number of devices, gets the parameters and the state of
the last checkpoint that is complete: a checkpoint is complete when its directory has
its name, so one that is being written when the program ends is none.

``python -m examples.checkpoints DIRECTORY`` trains for 30 steps on eight virtual
devices, saves each fifth, and prints the fingerprint of what it ends with. Stop it
(Ctrl-C, kill -9), start it again: it ends with the same.
"""

import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj

NUM_ROWS, DIM = 65_536, 8
BATCH_SIZE, IDS_PER_EXAMPLE = 64, 4

optimizer = aj.adagrad(aj.inverse_time_decay(0.5, decay=0.01))


def is_table(path: Any, leaf: Any) -> bool:
    return path[-1].key == "table"


def by_rows(num_devices: int) -> aj.sharding.RowSharding:
    """All devices along one axis, for rows and for examples."""
    devices, auto = jax.devices()[:num_devices], (AxisType.Auto,)
    mesh = jax.make_mesh((num_devices,), ("devices",), auto, devices=devices)
    return aj.sharding.RowSharding(mesh, "devices")


# --- What is trained ------------------------------------------------------------------


def init() -> dict[str, Any]:
    """All that is to be saved."""
    params = {
        "table": 0.1 * jax.random.normal(jax.random.key(0), (NUM_ROWS, DIM)),
        "weights": jnp.ones(DIM),
    }
    return {"params": params, "state": optimizer.init(params)}


def shardings(rows: aj.sharding.RowSharding) -> dict[str, Any]:
    """Where each array of :func:`init` lies; computed without making one."""
    shapes = jax.eval_shape(init)
    params = shapes["params"]
    return {
        "params": aj.sharding.shard_rows(params, rows, is_table),
        "state": aj.sharding.shard_rows(shapes["state"], rows, is_table, params=params),
    }


def target(lie: dict[str, Any]) -> dict[str, Any]:
    """What :func:`restore` is to bring back, and where to: no arrays, only shapes."""
    return jax.tree.map(
        lambda shape, s: shape.update(sharding=s), jax.eval_shape(init), lie
    )


def random_batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for the same step: what is read must be known after a restart, too."""
    rng = np.random.default_rng(step)
    ids = rng.integers(0, NUM_ROWS, (BATCH_SIZE, IDS_PER_EXAMPLE))
    return ids.astype(np.int32), rng.normal(size=BATCH_SIZE).astype(np.float32)


@functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
def train_step(trained, batch, rows):
    """The step that one device would do; each reads and updates its own rows."""

    def mean_loss(params):
        ids, targets = batch
        predictions = params["table"][ids].sum(axis=1) @ params["weights"]
        return jnp.mean((predictions - targets) ** 2)

    params = trained["params"]
    loss, gradients = aj.value_and_grad(mean_loss, row_sharding=rows)(params)
    updates, state = optimizer.update(gradients, trained["state"], params)
    return {"params": aj.apply_updates(params, updates), "state": state}, loss


# --- How it is saved, and comes back --------------------------------------------------


def open_checkpoints(directory: pathlib.Path) -> ocp.CheckpointManager:
    """Keeps the last two."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True)
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(manager: ocp.CheckpointManager, step: int, trained: Any) -> None:
    """Returns once the arrays are copied; files are written while training goes on."""
    fingerprint = aj.sharding.fingerprint(trained)
    manager.save(
        step,
        args=ocp.args.Composite(
            trained=ocp.args.StandardSave(trained),
            fingerprint=ocp.args.JsonSave(fingerprint),
        ),
    )


def restore(manager: ocp.CheckpointManager, target: Any) -> tuple[int, Any] | None:
    """The last step saved, and what was saved, as ``target``; None if nothing was.

    Raises:
      ValueError: If there is something that cannot be used: training does not begin
        anew beside it.
    """
    step = manager.latest_step()
    if step is None:
        # Orbax gives a checkpoint its name when it is complete.
        names = [p.name for p in manager.directory.iterdir()]
        if foreign := [name for name in names if "orbax-checkpoint-tmp" not in name]:
            raise ValueError(
                f"there is no checkpoint in {manager.directory}, but {foreign}; give "
                "an empty directory, to begin anew."
            )
        return None
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                trained=ocp.args.StandardRestore(target),
                fingerprint=ocp.args.JsonRestore(),
            ),
        )
        aj.sharding.check_fingerprint(restored.trained, restored.fingerprint)
    except Exception as error:
        raise ValueError(
            f"the checkpoint of step {step} in {manager.directory} cannot be used; "
            f"remove it, to go on from the one before. {error}"
        ) from error
    return step, restored.trained


def train(
    directory: pathlib.Path, num_devices: int, num_steps: int = 30, save_each: int = 5
) -> Any:
    """From where the last checkpoint was, or from the beginning."""
    rows = by_rows(num_devices)
    lie, split = shardings(rows), NamedSharding(rows.mesh, PartitionSpec("devices"))
    with open_checkpoints(directory) as manager:
        restored = restore(manager, target(lie))
        first, trained = restored or (0, jax.jit(init, out_shardings=lie)())
        print(f"begins after step {first}", flush=True)
        for step in range(first + 1, num_steps + 1):
            batch = jax.device_put(random_batch(step), split)
            # Virtual devices share few cores: one step at a time.
            trained, _ = jax.block_until_ready(train_step(trained, batch, rows))
            if step % save_each == 0:
                save(manager, step, trained)
    return trained


if __name__ == "__main__":
    # Must come before JAX looks for devices, which it does when it first needs one.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    trained = train(pathlib.Path(sys.argv[1]), num_devices=8)
    for name, described in aj.sharding.fingerprint(trained)["arrays"].items():
        print(name, *described)
