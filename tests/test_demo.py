"""The demo, the notebook and the benchmarks run; what they measure is not tested."""

import json
import os
import pathlib
import subprocess
import sys

import matplotlib
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from benchmarks import dense, side_by_side

ROOT = pathlib.Path(__file__).parent.parent


def test_demo_in_a_hurry(tmp_path):
    command = [sys.executable, "-m", "benchmarks.census", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "aj.adagrad" in done.stdout and "100%" in done.stdout
    results = json.loads((tmp_path / "census.json").read_text())
    curves = results["curves"]
    assert set(curves) == {"aj.adagrad", "optax.adagrad", "optax.adam", "optax.sgd"}
    # Few rows teach it little; always the more frequent answer would be 6 % wrong.
    assert results["final"]["accuracy"] > 0.93
    assert (tmp_path / "census.png").stat().st_size > 10_000


# Jupyter's own libraries, not ours, warn of each other.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_from_top_to_bottom():
    notebook = nbformat.read(ROOT / "colab" / "quickstart.ipynb", as_version=4)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": ROOT}},
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 3
    printed = "".join(out.get("text", "") for out in outputs)
    assert "on 8 devices" in printed


def test_contenders_take_turns():
    """Teams in processes of their own; one that cannot start is left out."""
    serve = "from benchmarks.side_by_side import serve; serve([{}])"
    code = {
        ("a", "b"): serve.format("lambda: sum(range(1000)), lambda: sum(range(9999))"),
        ("c",): serve.format("lambda: sum(range(2000))"),
        ("absent",): "raise SystemExit(1)",
    }
    teams = [
        side_by_side.Team(names, [sys.executable, "-c", text], dict(os.environ))
        for names, text in code.items()
    ]
    times = side_by_side.measure(teams, rounds=2)
    assert {name: len(x) for name, x in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert side_by_side.median_ratio([2.0, 9.0, 3.0], [1.0, 3.0, 3.0]) == 2.0


def test_dense_benchmark_measures_what_it_says(tmp_path):
    assert len(dense.resnet50()) == 159
    step = dense.optimizer_step("adagrad_jax", [(3,), (2, 2)])
    step()
    matplotlib.use("agg")
    row = {"milliseconds": 1.0, "ratio": 1.0}
    summary = {"optax": row, "recurrence": row, "adagrad_jax": row | {"ratio": 0.9}}
    dense.plot({"cases": {"a case": summary}, "forms": summary}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


@pytest.mark.parametrize("form", dense.FORMS[1:], ids=lambda form: form.__name__)
def test_every_form_of_the_step_computes_the_same(form, monkeypatch):
    monkeypatch.setattr(dense, "FORM_SIZE", 64)
    monkeypatch.setattr(dense, "CHUNK", 16)
    param, accumulator, grad = np.random.default_rng(0).random((3, 64), np.float32)
    expected = dense.recurrence(param, accumulator, grad)
    for ours, theirs in zip(form(param, accumulator, grad), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
