"""Benchmarks are run as ``python -m`` runs them, but where JAX has been imported."""

import os
import runpy
import sys
import warnings

import pytest

from benchmarks.machine import Machine


@pytest.fixture
def quick(monkeypatch, tmp_path, capsys, standard_promotion):
    """Runs a benchmark in a hurry, results in ``tmp_path``; returns what it says."""
    # Contenders still have processes of their own; they are compiled in a hurry, too.
    flags = os.environ["XLA_FLAGS"].split()
    one_device = [flag for flag in flags if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join(one_device))

    def run(name):
        argv = [name, "--quick", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", argv)
        with warnings.catch_warnings():
            # A test may have imported it before.
            warnings.filterwarnings("ignore", ".* found in sys.modules")
            runpy.run_module(f"benchmarks.{name}", run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def machine_asks_itself(monkeypatch):
    """What is asked of our own Python is run here: a new one would import JAX again."""
    ask_elsewhere = Machine.ask

    def ask(self, peer, code):
        if peer != "jax":
            return ask_elsewhere(self, peer, code)
        scope = {}
        exec(code, scope)
        return scope["answer"]

    monkeypatch.setattr(Machine, "ask", ask)
