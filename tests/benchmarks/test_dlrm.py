"""Does the benchmark of a whole ranking model run, and do contenders train the same?"""

import json

import numpy as np
import pytest

from benchmarks.dlrm import contenders
from benchmarks.dlrm.__main__ import fitting, summarize, targets

SMALL = contenders.Case(4, 8, rows=contenders.FEW_ROWS)


def test_runs(quick, tmp_path, machine_asks_itself):
    said = quick("dlrm")
    results = json.loads((tmp_path / "dlrm.json").read_text())
    (case,) = results["cases"].values()
    ours = {"adagrad_jax", "adagrad_jax, one array", "optax, capped", "JAX, MLPs alone"}
    assert ours == set(case) and all(name in said for name in ours)
    assert results["compiling"]["seconds"]["adagrad_jax"] > 0
    assert (tmp_path / "dlrm.png").stat().st_size > 10_000


@pytest.mark.usefixtures("standard_promotion")
def test_tables_in_one_array_are_trained_the_same():
    steps = [
        contenders.jax_whole(SMALL, name)
        for name in (contenders.OURS, contenders.ONE_ARRAY)
    ]
    losses = [[float(step()) for _ in range(10)] for step in steps]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    alone = contenders.jax_alone(SMALL)
    assert losses[0][0] == np.float32(alone()) and losses[0][-1] != float(alone())


def test_the_widths_are_the_papers():
    case = contenders.Case(16, 256)
    assert case.layers == ([13, 512, 256, 64, 16], [367, 512, 256, 1])
    assert len(case.rows) == 26 and sum(case.rows) == 33_762_577


def test_what_does_not_fit_is_left_out(capsys):
    case, peers = contenders.Case(64, 256), {"jax", "torch"}
    names = fitting(case, 19 * 2**30, peers)
    assert names == ["adagrad_jax", "FBGEMM", "optax, capped"]
    assert "not enough memory for torch" in capsys.readouterr().out


def test_the_tables_share_is_within_rounds():
    times = {
        "JAX, MLPs alone": [1.0, 2.0, 3.0],
        "adagrad_jax": [1.5, 2.5, 3.5],
        "torch, MLPs alone": [1.0, 1.0, 1.0],
        "torch": [3.0, 5.0, 7.0],
    }
    found = summarize(times)
    assert found["adagrad_jax"]["tables"] == 500.0
    assert found["torch"] == {
        "milliseconds": 5000.0,
        "quartiles": [4000.0, 6000.0],
        "ratio": 2.0,
        "tables": 4000.0,
    }
    # A peer whose whole step took less than its MLPs alone was measured badly.
    case = found | {"FBGEMM": {"milliseconds": 1.0, "tables": -1.0}}
    compiled = {"seconds": dict.fromkeys(("adagrad_jax", "optax, capped"), 1.0)}
    said = [target["what"] for target in targets({"a case": case}, compiled)]
    assert said[0] == "whole step / the best peer's, a case" and len(said) == 2
