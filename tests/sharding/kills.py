"""Kills a training at random moments, and looks whether it ends with the same bits.

``python -m tests.sharding.kills 50 40`` kills ``examples.checkpoints`` fifty times, by
SIGKILL, some moment after it began: while it trains, while it saves, while it restores.
Each time it is started again in the same directory; when it gets to its end, after 40
steps, it must have what a training that nothing stopped has, and begins anew in another
directory.
"""

import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from tests.compiling import xla_flags

os.environ["XLA_FLAGS"] = xla_flags()

# The processes are forked from one that has imported all this, but has not started JAX.
from examples import checkpoints as example  # noqa: E402

NUM_DEVICES, SAVE_EACH = 4, 2


def started(directory: pathlib.Path, num_steps: int) -> int:
    """A process that trains there, writes what it ends with, and exits with 0."""
    process = os.fork()
    if process:
        return process
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        jax = example.jax
        jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
        checkpoints = directory / "checkpoints"
        trained = example.train(checkpoints, NUM_DEVICES, num_steps, SAVE_EACH)
        result = repr(example.aj.sharding.fingerprint(trained))
        (directory / "result").write_text(result)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def ended(process: int, seconds: float) -> bool:
    """Whether it ended by itself; after so many seconds it is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"training failed, with status {status}.")
            return True
        time.sleep(0.001)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def in_what_it_was_killed(directory: pathlib.Path, begun: float) -> str:
    """A checkpoint that is not complete may be left from an earlier one."""
    unfinished = directory.glob("checkpoints/*orbax-checkpoint-tmp*")
    saving = any(path.stat().st_mtime > begun for path in unfinished)
    return "saving" if saving else "not saving"


def main(num_kills: int, num_steps: int, seed: int = 0) -> None:
    rng, kills = random.Random(seed), {"saving": 0, "not saving": 0}
    with tempfile.TemporaryDirectory() as temporary:
        run = pathlib.Path(temporary) / "uninterrupted"
        run.mkdir()
        begun = time.monotonic()
        ended(started(run, num_steps), 600)
        duration = time.monotonic() - begun
        expected, number = (run / "result").read_text(), 0
        while sum(kills.values()) < num_kills:
            number += 1
            run = pathlib.Path(temporary) / str(number)
            run.mkdir()
            while True:
                enough = sum(kills.values()) == num_kills
                moment = 600 if enough else rng.uniform(0.1, 0.8) * duration
                begun = time.time()
                if ended(started(run, num_steps), moment):
                    break
                kills[in_what_it_was_killed(run, begun)] += 1
            if (run / "result").read_text() != expected:
                raise SystemExit(f"run {number} ended with other numbers.")
    print(f"killed {kills}; {number} runs ended with the same bits")


if __name__ == "__main__":
    example.jax.config.update("jax_platforms", "cpu")
    main(int(sys.argv[1]), int(sys.argv[2]))
