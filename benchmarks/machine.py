"""What was measured where: the device, the CPU, how busy it was, whose versions."""

import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

OURS = ("jax", "optax", "keras")  # whose versions are noted, where they are installed


def describe() -> dict[str, Any]:
    """The fields that each result file begins with.

    Whoever asks takes a GPU's memory, as everything does that asks JAX for devices; see
    `Machine` for benchmarks whose contenders need it.
    """
    import jax

    import adagrad_jax as aj

    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(": ")[-1] for line in lines if line.startswith("model name")]
    machine = {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cpu": (names or [platform.machine()])[0],
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    installed = {}
    for module in OURS:
        try:
            installed[module] = importlib.metadata.version(module)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions = {"adagrad_jax": aj.__version__} | installed
    return {"machine": machine, "versions": {"jax": versions}}


class Machine:
    """The same from outside, and what the Python of each peer turns out to have.

    Attributes:
      pythons: By peer; ``"jax"`` is our own.
      env: For everything that is run.
      note: What `describe` says, with the versions of peers as they are found.
    """

    def __init__(self, pythons: dict[str, str], env: dict[str, str]):
        self.pythons, self.env = pythons, env
        code = "from benchmarks import machine\nanswer = machine.describe()"
        self.note = self.ask("jax", code)

    def ask(self, peer: str, code: str) -> Any:
        """What some code, run in a process of that peer, calls ``answer``."""
        code += "\nimport json\nprint(json.dumps(answer))"
        done = subprocess.run(
            [self.pythons[peer], "-c", code],
            env=self.env,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise RuntimeError((lines or ["the process ended"])[-1])
        return json.loads(done.stdout.splitlines()[-1])

    def can_run(self, contender: str, peer: str, modules: Sequence[str]) -> bool:
        """Whether there is a Python of that peer that has those modules; says why not.

        Their versions are noted.
        """
        if peer not in self.pythons:
            print(f"{contender}: not available (no --{peer})")
            return False
        found = self.note["versions"].setdefault(peer, {})
        if set(modules) <= set(found):
            return True
        code = f"import {', '.join(modules)}\n"
        code += (
            f"answer = {{m.__name__: m.__version__ for m in [{', '.join(modules)}]}}"
        )
        try:
            found |= self.ask(peer, code)
        except (OSError, RuntimeError) as error:
            print(f"{contender}: not available ({error})")
            return False
        return True
