"""A training of several processes, each with some of eight devices.

``python -m tests.sharding.processes 4 DIRECTORY`` starts four, which find each other
over the loopback; what they train is told in ``test_processes.py``.
"""

import os
import pathlib
import sys
import traceback

import numpy as np

from tests.compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

# The processes are forked from one that has imported all this, but has not started JAX.
import jax  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from benchmarks.census.sharded.processes import free_port  # noqa: E402
from examples import checkpoints as example  # noqa: E402
from tests.sharding import training  # noqa: E402

NUM_DEVICES = 8


def work(directory: pathlib.Path) -> None:
    """What each process does; the first one writes what came out."""
    assert jax.device_count() == NUM_DEVICES
    example.NUM_ROWS = 512
    trained = example.train(directory / "checkpoints", NUM_DEVICES, 4, save_each=2)
    assert not trained["params"]["table"].is_fully_addressable
    by_rows = example.aj.sharding.gather_rows(trained)
    fingerprint = example.aj.sharding.fingerprint(trained)
    with jax.enable_x64(True):
        auto = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh((NUM_DEVICES,), ("data",), auto)
        place, split = training.put(mesh, P()), training.put(mesh, P("data"))
        copies = training.train(training.shard_mapped(mesh), place, split)
    if jax.process_index() == 0:
        leaves = [jax.tree.leaves(tree) for tree in (by_rows, copies)]
        arrays = {
            f"{i}-{j}": x for i, xs in enumerate(leaves) for j, x in enumerate(xs)
        }
        np.savez(directory / "trained.npz", **arrays)
        (directory / "fingerprint").write_text(repr(fingerprint))


def start(index: int, number: int, port: int, directory: pathlib.Path) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES // number)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", number, index)
    work(directory)
    jax.distributed.shutdown()


def main(number: int, directory: pathlib.Path) -> int:
    """0 if all of them did what they had to."""
    port, processes = free_port(), []
    for index in range(number):
        process = os.fork()
        if not process:
            try:
                start(index, number, port, directory)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        processes.append(process)
    return max(os.waitpid(process, 0)[1] for process in processes)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), pathlib.Path(sys.argv[2])) != 0)
