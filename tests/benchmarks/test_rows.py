"""The contenders for rows compute the same, and their benchmark runs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adagrad_jax._rows import distinct, fold, sums
from benchmarks.rows import __main__ as rows
from benchmarks.rows import contenders as rows_contenders
from benchmarks.rows import row_wise
from benchmarks.side_by_side import summarize
from benchmarks.workloads import TEN_TABLES, draw_ids


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


def test_row_wise_in_a_hurry(quick, machine_asks_itself, tmp_path):
    said = quick("rows.row_wise")
    assert "FBGEMM row-wise: not available (no --torch)" in said
    results = json.loads((tmp_path / "rows.row_wise.cpu.json").read_text())
    assert list(results["cases"]) == ["500 x 4, 64 ids, Zipf"]
    assert not results["targets"]  # which need FBGEMM
    assert (tmp_path / "rows.row_wise.cpu.png").stat().st_size > 5_000


def test_rounds_are_split_among_sets_of_processes():
    assert row_wise.in_sets(60) == [10] * 6
    assert row_wise.in_sets(1) == [1] and sum(row_wise.in_sets(20)) == 20


def test_a_row_wise_target_is_our_time_by_fbgemms():
    times = {"adagrad_jax, row-wise": [1.0, 1.0], "FBGEMM row-wise": [2.0, 2.0]}
    cases = {"a case": summarize(times, "FBGEMM row-wise")}
    (target,) = row_wise.targets(cases)
    assert target["what"] == "adagrad_jax, row-wise / FBGEMM row-wise, a case"
    assert (target["ratio"], target["wanted"]) == (0.5, 0.9)


def keep_the_form(monkeypatch):
    """One contender changes it."""
    for module in (distinct, sums, fold):
        monkeypatch.setattr(module, "lax", module.lax)


def test_the_form_for_cpus_is_that_of_all_parts(monkeypatch):
    """Lowered for a GPU, a step has the loops of one for a CPU, and sorts nothing."""
    keep_the_form(monkeypatch)
    rows_contenders.use_the_form_for_cpus()
    jax.clear_caches()  # they have the other form
    name = "adagrad_jax, CPU's form"
    init, step = rows_contenders.jax_step(name)
    params = {"table": jnp.zeros((50, 3))}
    args = params, init(params), (jnp.zeros(7, jnp.int32), None), jnp.zeros((7, 3))
    cpu, cuda = (
        jax.export.export(step, platforms=[platform])(*args).mlir_module()
        for platform in ("cpu", "cuda")
    )
    jax.clear_caches()
    loops = cpu.count("stablehlo.while")
    assert loops >= 4  # distinct ids, sums and two visits
    # With jax 0.12 a cumulative sum is another one on a GPU.
    assert cuda.count("stablehlo.while") >= loops and "stablehlo.sort" not in cuda


@pytest.mark.parametrize(
    "name",
    [
        contender.name
        for contender in (*rows_contenders.CONTENDERS, *rows_contenders.ROW_WISE)
        if contender.peer == "jax"
    ],
)
def test_contenders_for_rows_compute_the_same(name, monkeypatch):
    keep_the_form(monkeypatch)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, (2, 30), np.int32)
    data = rows_contenders.Data(11, ids, rng.normal(size=(30, 3)).astype(np.float32))
    table, accumulator = np.full(data.shape, 0.01), np.full(data.shape, 0.1)
    by_rows = "row-wise" in name
    if by_rows:
        accumulator[:] = 0
    model = rows_contenders.jax_model(name, data)
    for i in (0, 1):
        model.step(i)
        grad = np.zeros(data.shape)
        np.add.at(grad, ids[i], table[ids[i]] - data.target)
        squares = grad**2
        accumulator += squares.mean(axis=1, keepdims=True) if by_rows else squares
        table -= 0.01 * grad / np.sqrt(np.maximum(accumulator, 1e-30))
    np.testing.assert_allclose(model.read(np.arange(11)), table, atol=1e-6)


def test_ids_of_ten_tables_stay_in_their_own():
    ids = draw_ids(np.random.default_rng(0), TEN_TABLES, 1000, (2, 500))
    assert ids.shape == (2, 500)
    tables = np.repeat(np.arange(10), 50)
    np.testing.assert_array_equal(ids // 100, [tables, tables])
    (anchor,) = rows.PLANS["anchor"].cases
    assert (anchor.rows, anchor.n) == (10 * 1_680_000, 10 * 104_857)


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
