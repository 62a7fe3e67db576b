"""Processes that train together, none of which outlives the others or their parent.

Who loses a partner may wait for it for minutes: so when one ends before its time, the
rest are killed. When the parent ends, however it does, their stdin does, and they with
it. They tell it what happens in lines of JSON on stdout.
"""

import dataclasses
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import command

PROGRAM = [sys.executable, "-m", "benchmarks.census.sharded.training"]
LOG_LINES = 20  # that are shown of each process, if one fails


# --- In the parent --------------------------------------------------------------------


class Processes:
    """Those of one job, until it is done or one of them is killed: a context.

    Args:
      job: A dataclass; each process has its own ``index``, and all the same ``port``.
      logs: Folder for what they write beside their reports.
    """

    def __init__(self, job: Any, logs: pathlib.Path):
        self.job, self.logs = job, logs
        self.killed = False
        self.reports: queue.Queue[tuple[int, Any]] = queue.Queue()
        self.processes: list[subprocess.Popen[str]] = []
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> "Processes":
        job = dataclasses.replace(self.job, port=free_port())
        for index in range(job.num_processes):
            argument = json.dumps(dataclasses.asdict(job) | {"index": index})
            with self._log(index).open("w") as log:
                process = subprocess.Popen(
                    [*PROGRAM, argument],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=command.environment(),
                    text=True,
                )
            thread = threading.Thread(
                target=self._read, args=(index, process.stdout), daemon=True
            )
            self.processes.append(process)
            self.threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for process, thread in zip(self.processes, self.threads, strict=True):
            process.kill()
            process.wait()
            thread.join()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What the first process tells, until all have ended.

        Raises:
          RuntimeError: If one ends otherwise than by :meth:`kill`.
        """
        running = len(self.processes)
        while running:
            index, report = self.reports.get()
            if report is not None:
                if index == 0:
                    yield report
                continue
            running -= 1
            status = self.processes[index].wait()
            if self.killed:
                return
            if status:
                all_of_them = range(len(self.processes))
                logs = "\n".join(map(self._last_lines, all_of_them))
                raise RuntimeError(f"process {index} ended with {status}:\n{logs}")

    def kill(self, index: int) -> None:
        """By SIGKILL: it cannot do anything about it."""
        self.killed = True
        self.processes[index].kill()

    def _read(self, index: int, stdout: Any) -> None:
        for line in stdout:
            if line.endswith("\n"):  # else it was killed meanwhile
                self.reports.put((index, json.loads(line)))
        self.reports.put((index, None))

    def _log(self, index: int) -> pathlib.Path:
        return self.logs / f"process-{index}.log"

    def _last_lines(self, index: int) -> str:
        lines = self._log(index).read_text(errors="replace").splitlines()
        return "\n".join([f"--- process {index}", *lines[-LOG_LINES:]])


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


# --- In each of the processes ---------------------------------------------------------


def teller() -> Callable[[dict[str, Any]], None]:
    """What tells the parent; from now on the process ends when that does."""
    told = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Gloo writes to stdout, too, which would not be JSON.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    return lambda what: print(json.dumps(what), file=told)


def _end_with_the_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
