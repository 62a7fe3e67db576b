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
from typing import Any

WARM_UP_TURNS = 3


@dataclasses.dataclass(frozen=True)
class Team:
    """Contenders in one process: a command that ends in `serve`, its environment."""

    names: tuple[str, ...]
    command: list[str]
    env: dict[str, str]


def serve(steps: list[Callable[[], Any]], turn: float = 0.05) -> None:
    """In a team's process: each line of standard input says which step has a turn.

    A turn is as many calls as take about ``turn`` seconds; its answer is the seconds of
    one call. A step must not return before its work is done.
    """
    repeats = []
    for step in steps:
        step()  # compiles
        start = time.perf_counter()
        step()
        repeats.append(max(1, round(turn / (time.perf_counter() - start))))
    print("ready", flush=True)
    for line in sys.stdin:
        number = int(line)
        start = time.perf_counter()
        for _ in range(repeats[number]):
            steps[number]()
        print((time.perf_counter() - start) / repeats[number], flush=True)


def measure(teams: list[Team], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step in each round, by contender; teams that fail are left out.

    A single round is to see whether they run: nobody warms up for it.
    """
    warm_up = WARM_UP_TURNS if rounds > 1 else 0
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
        for turn in range(warm_up + rounds):
            for name in random.sample(list(contenders), len(contenders)):
                process, number = contenders[name]
                print(number, file=process.stdin)
                seconds = float(_read(process))
                if turn >= warm_up:
                    times[name].append(seconds)
    return times


def median_ratio(times: list[float], baseline: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(times, baseline, strict=True))


def quartiles(seconds: list[float]) -> list[float]:
    """Between which milliseconds the middle half of the rounds lies."""
    if len(seconds) < 2:
        return [1e3 * seconds[0]] * 2
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return [1e3 * first, 1e3 * third]


def summarize(times: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    """Milliseconds of each contender and their ratio to the baseline's, if it ran."""
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(seconds),
            "quartiles": quartiles(seconds),
            "ratio": median_ratio(seconds, times[baseline])
            if baseline in times
            else None,
        }
        for name, seconds in times.items()
    }


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
