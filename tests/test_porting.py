"""The port of a TensorFlow 2.0 program gives the losses that TensorFlow 2.0.0 gave."""

import functools
import json

import matplotlib.image
import numpy as np
import pytest

import adagrad_jax as aj
from examples.porting import data
from examples.porting import jax_model as example

# Sums and dot products of float32 are taken in another order than TensorFlow takes
# them, which another processor may change again. Training does not amplify it: TF's
# losses are at most 2.3e-7 (2 epsilons) from ours, and still 3.3e-7 if all initial
# values are off by an epsilon. 16 epsilons leave room, while a loss that ignores one of
# the optimizer's settings is off by more than 1e-2 (below).
RTOL = 16 * float(np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def losses():
    return example.train()


@pytest.fixture(scope="module")
def expected():
    return example.tensorflow_losses()


def test_losses_are_those_of_tensorflow(losses, expected):
    assert len(losses) == len(expected) == data.STEPS
    np.testing.assert_allclose(losses, expected, rtol=RTOL, atol=0)
    assert np.mean(losses[-100:]) < 0.6 * np.mean(losses[:5])


def test_fixture_is_of_tensorflow_2_0_and_of_this_data():
    recorded = json.loads(example.RECORDED.read_text())
    assert recorded["tensorflow"] == "2.0.0"
    assert recorded["data"] == data.checksum()


def test_losses_of_other_data_are_refused(monkeypatch):
    monkeypatch.setattr(example, "checksum", lambda: "other")
    with pytest.raises(ValueError, match="other data than in tensorflow_losses.json"):
        example.tensorflow_losses()


@pytest.mark.parametrize("ignored", ["clipnorm", "decay"])
def test_every_setting_of_the_optimizer_matters(ignored, monkeypatch, expected):
    """Else the comparison with TensorFlow would say nothing about it."""
    steps = 60
    batches = data.make_data()[:steps]
    monkeypatch.setattr(example, "make_data", lambda: batches)

    def without(**settings):
        del settings[ignored]
        return adagrad(**settings)

    adagrad = aj.keras.Adagrad
    monkeypatch.setattr(aj.keras, "Adagrad", without)
    differences = example.relative_differences(example.train(), expected[:steps])
    assert max(abs(differences)) > 1e-2


def test_program_says_how_far_apart_they_are_and_draws_both(
    monkeypatch, capsys, tmp_path, losses
):
    monkeypatch.setattr(example, "train", functools.partial(list, losses))
    path = tmp_path / "losses.png"
    monkeypatch.setattr("sys.argv", ["jax_model", "--plot", str(path)])
    example.main()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{data.STEPS} steps, loss 0.7328 to 0.4")
    assert float(second.split()[-1]) < RTOL
    assert np.std(matplotlib.image.imread(path)[..., :3]) > 0.05
