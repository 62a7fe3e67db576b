"""The demo runs; how well it learns is not tested."""

import json


def test_demo_in_a_hurry(quick, tmp_path):
    said = quick("census")
    assert "aj.adagrad" in said and "100%" in said
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
    assert "times as long" in said
    assert results["machine"]["backend"] == "cpu" and results["versions"]["jax"]["jax"]
    assert (tmp_path / "census.md").read_text().count("| aj.adagrad |") == 2
    assert (tmp_path / "census.png").stat().st_size > 10_000
