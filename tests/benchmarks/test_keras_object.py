"""The benchmark of the object runs; what it measures is not tested."""

import json

from benchmarks import keras_object


def test_keras_object_in_a_hurry(quick, machine_asks_itself, tmp_path):
    said = quick("keras_object")
    assert "TensorFlow: not available (no --tensorflow)" in said
    assert "us more than the function's" in said
    results = json.loads((tmp_path / "keras_object.json").read_text())
    objects, fit = results["cases"].values()
    assert set(objects) == set(keras_object.CONTENDERS) - {"TensorFlow"}
    assert set(fit) == {"adagrad_jax.keras3", "Keras 3"}
    assert len(results["targets"]) == 1  # that of fit
    assert (tmp_path / "keras_object.md").read_text().count("| Keras 3 |") == 2
    assert (tmp_path / "keras_object.png").stat().st_size > 10_000
