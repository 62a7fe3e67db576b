"""The forms of the dense step compute the same, and their benchmark runs."""

import json

import numpy as np
import pytest

from benchmarks import dense, workloads


def test_dense_in_a_hurry(quick, machine_asks_itself, tmp_path):
    assert len(workloads.resnet50()) == 159
    said = quick("dense")
    assert "torch fused: not available (no --torch)" in said
    results = json.loads((tmp_path / "dense.json").read_text())
    (case,) = results["cases"].values()
    assert list(case) == ["optax", "optax again", "adagrad_jax"]
    assert case["optax"]["ratio"] == results["forms"]["recurrence"]["ratio"] == 1
    assert set(results["forms"]) > {form.__name__ for form in dense.FORMS}
    assert (tmp_path / "dense.md").read_text().count(" fusion |") == 3
    assert (tmp_path / "dense.png").stat().st_size > 10_000


@pytest.mark.parametrize("form", dense.FORMS[1:], ids=lambda form: form.__name__)
def test_every_form_of_the_step_computes_the_same(form):
    size = 4 * dense.CHUNKS
    param, accumulator, grad = np.random.default_rng(0).random((3, size), np.float32)
    expected = dense.recurrence(param, accumulator, grad)
    for ours, theirs in zip(form(param, accumulator, grad), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
