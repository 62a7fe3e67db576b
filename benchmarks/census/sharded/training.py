"""What each process of the sharded demo does: train, on its devices, with the others.

    python -m benchmarks.census.sharded.training JOB

It is the training of one device, but for where things lie: the cross table and its
accumulators by rows on all devices, of each batch a part on each, and the rest whole on
all. Every few steps all of it is saved, as ``examples/checkpoints.py`` does, and who is
started in a directory that has a checkpoint goes on from there.
"""

import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj
from benchmarks import machine
from benchmarks.census import model
from benchmarks.census.data import load_census
from benchmarks.census.sharded import processes
from benchmarks.census.sharded.job import Job
from examples import checkpoints

COMPILE_QUICKLY = " --xla_backend_optimization_level=0"

Tell = Callable[[dict[str, Any]], None]


class Placed:
    """The trainer, and where everything lies."""

    def __init__(self, job: Job):
        self.census = load_census(job.seed, job.quick)
        mesh = jax.make_mesh((jax.device_count(),), ("devices",), (AxisType.Auto,))
        self.by_rows = aj.sharding.RowSharding(mesh, "devices", capacity=job.capacity)
        self.split = NamedSharding(mesh, PartitionSpec("devices"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        self.trainer = model.Trainer(
            "aj.adagrad", self.census, job.seed, job.cross_rows, self.by_rows
        )
        shapes = jax.eval_shape(self.trainer.init)
        place, tables = aj.sharding.shard_rows, model.is_crosses
        self.lie = shapes._replace(
            params=place(shapes.params, self.by_rows, tables),
            optimizer=place(
                shapes.optimizer, self.by_rows, tables, params=shapes.params
            ),
            key=self.everywhere,
        )
        self.num_passes = jax.jit(self._num_passes)
        self.target = jax.tree.map(
            lambda shape, s: shape.update(sharding=s), shapes, self.lie
        )

    def put(self, rows: np.ndarray) -> jax.Array:
        """Of an array that all processes have, a part on each device."""
        return jax.make_array_from_callback(rows.shape, self.split, rows.__getitem__)

    def evaluate(self, state: model.TrainState) -> model.Scores:
        """On the test rows, and a few more that the devices divide their number."""
        ids, labels = self.census.test
        spare = -len(ids) % self.by_rows.num_shards
        ids = self.put(np.pad(ids, ((0, spare), (0, 0))))
        predict = jax.jit(self.trainer.predict, out_shardings=self.everywhere)
        logits = predict(state.params, ids, self.trainer.pairs)
        return model.scores(np.asarray(logits)[: len(labels)], labels)

    def _num_passes(self, ids: jax.Array) -> jax.Array:
        """How often the devices exchange rows of the cross table, for a batch's ids."""
        num_rows = self.trainer.cross_rows
        crosses = model.cross_ids(ids, self.trainer.pairs, num_rows)
        return aj.sharding.num_passes(crosses, num_rows, self.by_rows)


def train(job: Job, tell: Tell) -> None:
    """From the last checkpoint, or from the beginning; tells where, and each loss."""
    placed = Placed(job)
    batches = model.shuffled_batches(len(placed.census.train.labels), 1, job.seed)
    train, rate = placed.census.train, np.float32(job.rate)
    example = jax.tree.map(placed.put, train.take(batches[0]))
    step = placed.trainer.step.lower(placed.target, example, rate).compile()
    with checkpoints.open_checkpoints(pathlib.Path(job.directory)) as manager:
        restored = checkpoints.restore(manager, placed.target)
        begin = jax.jit(placed.trainer.init, out_shardings=placed.lie)
        first, state = restored or (0, begin())
        tell({"begins": first})
        for number in range(first + 1, job.num_steps + 1):
            rows = train.take(batches[number - 1])
            batch = jax.tree.map(placed.put, rows)
            # Virtual devices share few cores: one step at a time.
            state, loss = jax.block_until_ready(step(state, batch, rate))
            passes = int(placed.num_passes(rows.ids)) if job.index == 0 else 0
            tell({"step": number, "loss": float(loss), "passes": passes})
            if number % job.save_each == 0:
                checkpoints.save(manager, number, state)
            if number == job.save_each:
                # Later ones are written meanwhile; but there must be one to resume.
                manager.wait_until_finished()
    tell(
        {
            "fingerprint": aj.sharding.fingerprint(state),
            "scores": placed.evaluate(state),
            "payloads": payloads(step.as_text() or ""),
            "note": machine.describe(),
        }
    )


# --- What is sent ---------------------------------------------------------------------


def payloads(program: str) -> dict[str, int]:
    """Bytes that each device sends in a compiled step, by what they are for.

    Those of the loops, for reading and for later passes of updates, in each turn.
    """
    # It is a program, which has a say in JAX's devices before they are looked for.
    from benchmarks.scaling import collectives

    result = {"read": 0, "update": 0, "later passes": 0, "sum": 0}
    for kind, purpose, payload in collectives(program):
        result[purpose if kind == "all-to-all" else "sum"] += payload
    return result


# --- The process ----------------------------------------------------------------------


def main() -> None:
    tell = processes.teller()
    job = Job(**json.loads(sys.argv[1]))
    if job.quick:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + COMPILE_QUICKLY
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", job.num_devices)
    if job.num_processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address = f"localhost:{job.port}"
        jax.distributed.initialize(address, job.num_processes, job.index)
    train(job, tell)
    if job.num_processes > 1:
        jax.distributed.shutdown()


if __name__ == "__main__":
    main()
