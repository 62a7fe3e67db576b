"""The contenders for rows compute the same, and their benchmark runs."""

import json

import numpy as np
import pytest

from adagrad_jax._rows import distinct
from benchmarks.rows import __main__ as rows
from benchmarks.rows import contenders as rows_contenders


def test_rows_in_a_hurry(quick, machine_asks_itself, tmp_path):
    said = quick("rows")
    assert "FBGEMM: not available (no --torch)" in said
    results = json.loads((tmp_path / "rows.cpu.json").read_text())
    names = ["adagrad_jax", "adagrad_jax, unique ids", "optax.adagrad"]
    assert [list(case["milliseconds"]) for case in results["cases"]] == [names] * 2
    assert len(results["targets"]) == 3  # those that need no peer
    assert "compiling" in said
    assert (tmp_path / "rows.cpu.md").read_text().count("| Zipf |") == 2
    assert (tmp_path / "rows.cpu.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "name", [c.name for c in rows_contenders.CONTENDERS if c.peer == "jax"]
)
def test_contenders_for_rows_compute_the_same(name, monkeypatch):
    monkeypatch.setattr(distinct, "lax", distinct.lax)  # one changes it
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


def test_small_tables_in_a_hurry(quick, machine_asks_itself, tmp_path):
    said = quick("rows.small")
    results = json.loads((tmp_path / "rows.small.cpu.json").read_text())
    assert len(results["cases"]) == len(results["targets"]) == 2
    for contenders in results["cases"].values():
        assert set(contenders) == {"auto", "rows", "dense"}
    assert said.count(" met\n") + said.count(" MISSED\n") == 2
    assert (tmp_path / "rows.small.cpu.png").stat().st_size > 10_000
