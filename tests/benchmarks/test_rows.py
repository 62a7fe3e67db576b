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

from adagrad_jax._rows import distinct as _distinct_rows
from benchmarks import dense, family, side_by_side
from benchmarks.rows import __main__ as rows
from benchmarks.rows import contenders as rows_contenders

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
    # What it saves: rows, and memory of a table's size. The time is not tested.
    settings, steps = results["settings"], results["steps"]
    assert settings["batch"] < steps["rows_read"] < steps["table_rows"] / 100
    costs = steps["costs"][str(settings["cross_rows"])]
    sparse, dense = costs["aj.adagrad"], costs["optax.adagrad"]
    assert dense["temporary_bytes"] > 4 * settings["cross_rows"]
    assert sparse["temporary_bytes"] < settings["cross_rows"]
    assert sparse["milliseconds"] > 0 and dense["milliseconds"] > 0
    assert "times as long" in done.stdout
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
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
    printed = "".join(out.get("text", "") for out in outputs)
    assert "on 8 devices" in printed
    assert "the same table after training: True" in printed


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


def test_rows_benchmark_in_a_hurry(tmp_path):
    command = [sys.executable, "-m", "benchmarks.rows", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "FBGEMM: not available (no --torch)" in done.stdout
    results = json.loads((tmp_path / "rows.cpu.json").read_text())
    names = ["adagrad_jax", "adagrad_jax, unique ids", "optax.adagrad"]
    assert [list(case["milliseconds"]) for case in results["cases"]] == [names] * 2
    assert len(results["targets"]) == 3  # those that need no peer
    assert "compiling" in done.stdout
    assert (tmp_path / "rows.cpu.md").read_text().count("| Zipf |") == 2
    assert (tmp_path / "rows.cpu.png").stat().st_size > 10_000


def test_family_benchmark_in_a_hurry(tmp_path):
    command = [sys.executable, "-m", "benchmarks.family", "--quick", "--out", tmp_path]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    cases = json.loads((tmp_path / "family.cpu.json").read_text())["cases"]
    measured = {name for contenders in cases.values() for name in contenders}
    everyone = {name for case in family.CASES for name in case.contenders}
    assert measured == everyone
    assert (tmp_path / "family.cpu.md").read_text().count("| 1.3 |") == 3
    assert (tmp_path / "family.cpu.png").stat().st_size > 10_000


def test_sparsity_benchmark_in_a_hurry(tmp_path):
    command = [sys.executable, "-m", "benchmarks.sparsity", "--quick"]
    command += ["--out", tmp_path]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    curves = json.loads((tmp_path / "sparsity.json").read_text())["curves"]
    sparse, dense = curves["row-sparse"], curves["dense"]
    assert set(sparse) == set(dense) and len(sparse) == 5
    # The penalties of FTRL and dual averaging catch up with rows that were not read.
    assert sparse["aj.ftrl"] == dense["aj.ftrl"]
    for curve in [*sparse.values(), *dense.values()]:
        shares = [point["share"] for point in curve]
        assert shares == sorted(shares, reverse=True)
    assert (tmp_path / "sparsity.md").exists()
    assert (tmp_path / "sparsity.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "name", [c.name for c in rows_contenders.CONTENDERS if c.peer == "jax"]
)
def test_contenders_for_rows_compute_the_same(name, monkeypatch):
    monkeypatch.setattr(_distinct_rows, "lax", _distinct_rows.lax)  # one changes it
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (2, 30), np.int32)
    data = rows_contenders.Data(11, ids, rng.normal(size=(30, 3)).astype(np.float32))
    table, accumulator = np.full(data.shape, 0.01), np.full(data.shape, 0.1)
    model = rows_contenders.jax_model(name, data)
    for i in (0, 1):
        model.step(i)
        grad = np.zeros(data.shape)
        np.add.at(grad, ids[i], table[ids[i]] - data.target)
        accumulator += grad**2
        table -= 0.01 * grad / np.sqrt(accumulator)
    np.testing.assert_allclose(model.read(np.arange(11)), table, atol=1e-6)


def test_contenders_for_rows_run_together_as_far_as_they_fit(tmp_path):
    contenders = [
        c for c in rows_contenders.CONTENDERS if c.name in ("torch", "FBGEMM")
    ]
    contenders += [c for c in rows_contenders.CONTENDERS if c.dense][:1]
    first, second, dense_one = contenders
    case = rows.Case(2**25, 16, 8, "Zipf")  # a table of 2 GiB
    for memory, expected in {
        14: [[first, second], [first, dense_one]],  # since one is slow
        8: [[first, second], [dense_one]],
        6: [[first], [second], [dense_one]],
    }.items():
        assert rows.grouped(contenders, case, memory * 2**30) == expected
    for contender in contenders:
        np.save(tmp_path / f"{contender.name}.npy", np.full((2, 3), 0.015))
    rows.check_agreement(contenders, tmp_path, case)
    np.save(tmp_path / "FBGEMM.npy", np.full((2, 3), 0.0151))
    with pytest.raises(RuntimeError, match="FBGEMM computes something else than torch"):
        rows.check_agreement(contenders, tmp_path, case)
