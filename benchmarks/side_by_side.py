"""Contenders take turns, each in a process of its own.

Timings on a shared machine drift by more than what is to be measured. So each
contender (a library, a variant, a set of compiler flags) gets a process that builds its
step, warms it up and waits; then all take a turn in each round, in random order, and
what is compared is the ratio within a round. A process each also keeps thread pools,
flags and environments apart: a peer may live in another virtual environment.
"""

import contextlib
import dataclasses
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

WARM_UP_TURNS = 3


@dataclasses.dataclass(frozen=True)
class Contender:
    """A command that ends in `serve`, and the environment variables it runs with."""

    name: str
    command: list[str]
    env: dict[str, str]


def serve(step: Callable[[], None]) -> None:
    """In a contender's process: takes a turn for each line of standard input.

    A turn is as many steps as take about 50 ms; its answer is the seconds of one step.
    `step` must not return before its work is done.
    """
    step()  # compiles
    start = time.perf_counter()
    step()
    steps = max(1, round(0.05 / (time.perf_counter() - start)))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        print((time.perf_counter() - start) / steps, flush=True)


def measure(contenders: list[Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, by contender; those that fail are left out."""
    with contextlib.ExitStack() as stack:
        processes = {c.name: stack.enter_context(_start(c)) for c in contenders}
        # Runs before the processes are waited for.
        stack.callback(lambda: [process.kill() for process in processes.values()])
        ready = {
            name: process
            for name, process in processes.items()
            if _read(process) == "ready"
        }
        for name in processes.keys() - ready.keys():
            print(f"{name}: not available here (its process ended)")
        times: dict[str, list[float]] = {name: [] for name in ready}
        for turn in range(WARM_UP_TURNS + rounds):
            for name in random.sample(list(ready), len(ready)):
                seconds = _take_turn(ready[name])
                if turn >= WARM_UP_TURNS:
                    times[name].append(seconds)
    return times


def median_ratio(times: list[float], baseline: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))


def _start(contender: Contender) -> subprocess.Popen:
    return subprocess.Popen(
        contender.command,
        env=contender.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _take_turn(process: subprocess.Popen) -> float:
    print("go", file=process.stdin)
    return float(_read(process))


def _read(process: subprocess.Popen) -> str:
    return next(iter(process.stdout or ()), "").strip()
