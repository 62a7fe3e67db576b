"""Several processes, as on several hosts, come to what one process does.

The eight devices are theirs together, two or four each. Over copies of the parameters
they take the mean of the devices' gradients in ``shard_map``; and a table by rows they
train under ``jit``, from a checkpoint that one process wrote, to one that one process
reads.
"""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

import adagrad_jax as aj
from examples import checkpoints as example
from tests.sharding import training


@pytest.mark.parametrize("number", [2, 4])
def test_processes_train_as_one(number, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "NUM_ROWS", 512)
    checkpoints = tmp_path / "checkpoints"
    example.train(checkpoints, 8, num_steps=2, save_each=2)
    run_processes(number, tmp_path)
    found = np.load(tmp_path / "trained.npz")

    expected = example.train(tmp_path / "one-process", 8, num_steps=4, save_each=2)
    for i, leaf in enumerate(jax.tree.leaves(expected)):
        np.testing.assert_allclose(found[f"0-{i}"], leaf, rtol=1e-5, atol=1e-6)

    restored = example.train(checkpoints, 8, num_steps=4)  # no step is left to do
    for i, leaf in enumerate(jax.tree.leaves(restored)):
        np.testing.assert_array_equal(found[f"0-{i}"], leaf)
    fingerprint = (tmp_path / "fingerprint").read_text()
    assert repr(aj.sharding.fingerprint(restored)) == fingerprint

    with jax.enable_x64(True):
        alone = training.on_one_device()
    leaves = [found[f"1-{i}"] for i in range(len(jax.tree.leaves(alone)))]
    training.assert_equal(leaves, jax.tree.leaves(alone))


def run_processes(number, directory):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.sharding.processes", str(number), str(directory)],
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
