"""Contenders take turns, so that all see the same machine.

Timings on a shared machine drift by more than what is to be measured. So all contenders
take a turn in each round, in random order, and what is compared is the ratio within a
round. Contenders that need their own compiler flags or environment (a peer may live in
another virtual environment) get a process of their own; those that do not share one,
since two processes with the very same step can differ by a tenth for as long as they
live, by where their memory and threads happen to lie.
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
class Team:
    """Contenders in one process: a command that ends in `serve`, its environment."""

    names: tuple[str, ...]
    command: list[str]
    env: dict[str, str]


def serve(steps: list[Callable[[], None]]) -> None:
    """In a team's process: each line of standard input says which step has a turn.

    A turn is as many calls as take about 50 ms; its answer is the seconds of one call.
    A step must not return before its work is done.
    """
    repeats = []
    for step in steps:
        step()  # compiles
        start = time.perf_counter()
        step()
        repeats.append(max(1, round(0.05 / (time.perf_counter() - start))))
    print("ready", flush=True)
    for line in sys.stdin:
        number = int(line)
        start = time.perf_counter()
        for _ in range(repeats[number]):
            steps[number]()
        print((time.perf_counter() - start) / repeats[number], flush=True)


def measure(teams: list[Team], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, by contender; teams that fail are left out."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(_start(team)) for team in teams]
        # Runs before the processes are waited for.
        stack.callback(lambda: [process.kill() for process in processes])
        contenders = {}
        for team, process in zip(teams, processes, strict=True):
            if _read(process) == "ready":
                contenders |= {n: (process, i) for i, n in enumerate(team.names)}
            else:
                print(f"{', '.join(team.names)}: not available (the process ended)")
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(WARM_UP_TURNS + rounds):
            for name in random.sample(list(contenders), len(contenders)):
                process, number = contenders[name]
                print(number, file=process.stdin)
                seconds = float(_read(process))
                if turn >= WARM_UP_TURNS:
                    times[name].append(seconds)
    return times


def median_ratio(times: list[float], baseline: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))


def _start(team: Team) -> subprocess.Popen:
    return subprocess.Popen(
        team.command,
        env=team.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def _read(process: subprocess.Popen) -> str:
    return next(iter(process.stdout or ()), "").strip()
