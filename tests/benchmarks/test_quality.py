"""The benchmark of quality runs, and is fair; which method is better is not tested."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from benchmarks.quality import choice, report
from benchmarks.quality.__main__ import finite
from benchmarks.quality.methods import METHODS
from benchmarks.quality.tasks import Examples, census_task, digits_task
from benchmarks.quality.training import Trainer

pytestmark = pytest.mark.usefixtures("standard_promotion")


class Bar:
    """Of nobody's progress."""

    def update(self, steps):
        pass


@pytest.fixture(scope="module")
def digits():
    return digits_task(quick=True)


def test_quality_in_a_hurry(quick, tmp_path):
    said = quick("quality")
    shown, _ = said.split("\nWrote ")
    assert max(map(len, shown.splitlines())) <= 80
    results = json.loads((tmp_path / "quality.json").read_text())
    census, digits = (
        results["tasks"][name]["methods"] for name in ("census", "digits")
    )
    assert set(digits) == set(METHODS)
    assert {"aj.adagrad", "aj.ftrl + aj.adagrad", "optax.adam"} == set(census)
    for found in [*census.values(), *digits.values()]:
        first, second = found["loss"]["curves"]
        assert len(first) == len(results["settings"]["fractions"])
        assert first != second
        losses = found["validation"]
        assert losses[f"{found['rate']:g}"] == min(losses.values())
    # Nearly one recurrence: only epsilon is at another place.
    ours, theirs = digits["aj.adagrad"], digits["optax.adagrad"]
    assert ours["rate"] == theirs["rate"]
    assert ours["loss"]["mean"] == pytest.approx(theirs["loss"]["mean"], rel=0.01)
    assert (tmp_path / "quality.md").read_text().count("| aj.adagrad |") == 2
    assert (tmp_path / "quality.png").stat().st_size > 10_000


@pytest.mark.parametrize("best", [-19, -12, -11, -8, 0, 2])
def test_rates_are_tried_until_the_best_is_inside(best):
    losses = choice.try_rates(lambda rate: (4 * math.log10(rate) - best) ** 2, -12)
    assert choice.lowest(losses) == choice.rate(best)
    assert not choice.is_at_end(losses)
    assert len(losses) == len(set(losses)) <= choice.MOST_RATES + 2


def test_a_rate_at_the_end_is_told():
    losses = choice.try_rates(lambda rate: -rate, -12)
    assert len(losses) == choice.MOST_RATES + 2
    assert choice.is_at_end(losses)


def test_a_rate_that_diverges_is_not_chosen():
    low = choice.try_rates(lambda rate: math.nan if rate > 1e-5 else rate**-2, -12)
    assert choice.lowest(low) == 1e-5
    high = choice.try_rates(lambda rate: math.nan if rate > 0.004 else 1 / rate, -12)
    assert choice.lowest(high) == 0.003
    assert not choice.is_at_end(high)


def test_rates_have_one_digit_and_are_evenly_apart():
    rates = [choice.rate(n) for n in range(-5, 6)]
    assert rates == [0.06, 0.1, 0.2, 0.3, 0.6, 1, 2, 3, 6, 10, 20]


def test_test_rows_choose_nothing(digits):
    method = METHODS["optax.sgd"]
    loss = Trainer(digits, method).validation_loss(0.1, Bar())
    without = dataclasses.replace(digits, test=None, choosing_seeds=(100, 101))
    assert Trainer(without, method).validation_loss(0.1, Bar()) == loss
    # What it was computed from does matter.
    others = dataclasses.replace(digits, choosing_seeds=(102, 103))
    assert Trainer(others, method).validation_loss(0.1, Bar()) != loss


@pytest.mark.parametrize("make", [census_task, digits_task])
def test_rates_are_chosen_on_training_rows(make):
    task = make(quick=True)
    for seed in task.choosing_seeds:
        learn, validation = task.split(seed)
        both = Examples(*map(np.concatenate, zip(learn, validation, strict=True)))
        assert sorted_rows(both) == sorted_rows(task.train)


def test_digits_are_trained_on_or_tested_on(digits):
    both = Examples(*map(np.concatenate, zip(digits.train, digits.test, strict=True)))
    assert len(both.labels) == 1797
    assert len(set(sorted_rows(both))) == 1797  # none is there twice
    first, second = (digits.split(seed)[1] for seed in digits.choosing_seeds)
    assert sorted_rows(first) != sorted_rows(second)


def sorted_rows(examples):
    return sorted(
        (x.tobytes(), int(y))
        for x, y in zip(examples.inputs, examples.labels, strict=True)
    )


def test_seeds_differ_and_methods_of_one_seed_start_alike(digits):
    trainers = [Trainer(digits, METHODS[n]) for n in ("optax.sgd", "aj.adagrad")]
    starts = [[t.init(seed).params for t in trainers] for seed in range(1, 6)]
    for ours, theirs in starts:
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert len({np.asarray(p["first"]["w"]).tobytes() for p, _ in starts}) == 5


@pytest.mark.parametrize("make", [census_task, digits_task])
def test_what_forgets_its_start_starts_at_0(make):
    """FTRL and dual averaging would leave a hidden layer without a start."""
    task = make(quick=True)
    params, _ = jax.tree.flatten_with_path(task.init(jax.random.key(0)))
    linear = [leaf for path, leaf in params if task.is_linear(path)]
    others = [leaf for path, leaf in params if not task.is_linear(path)]
    assert linear and not any(leaf.any() for leaf in linear)
    assert any(leaf.any() for leaf in others)


def test_band():
    median, low, high = choice.band([[1.0, 5], [2, 4], [9, 0]])
    assert median.tolist() == [2, 4]
    assert low.tolist() == [1, 0]
    assert high.tolist() == [9, 5]


def test_mean_and_standard_error():
    found = choice.mean_and_error([1.0, 2, 3, 4])
    assert found["mean"] == 2.5
    assert found["standard_error"] == pytest.approx(math.sqrt(5 / 3) / 2)


def test_a_difference_is_of_the_same_seed_and_row():
    rng = np.random.default_rng(0)
    baseline = rng.normal(size=(5, 1)) + rng.normal(size=200)
    exact = choice.difference(baseline + 0.5, baseline)
    assert exact["mean"] == pytest.approx(0.5)
    assert exact["standard_error"] == pytest.approx(0, abs=1e-12)
    # Other seeds, or other rows, would have given something else.
    of_seeds = np.arange(5.0)[:, None] + np.zeros(200)
    expected = choice.mean_and_error(np.arange(5.0))
    found = choice.difference(baseline + of_seeds, baseline)
    assert found == pytest.approx(expected)
    of_rows = np.zeros((5, 1)) + np.arange(200.0)
    expected = choice.mean_and_error(np.arange(200.0))
    found = choice.difference(baseline + of_rows, baseline)
    assert found == pytest.approx(expected)


def test_a_rate_at_the_end_is_marked():
    score = {"mean": 0.5, "standard_error": 0.25}
    score["difference"] = {"mean": -0.0012, "standard_error": 0.01}
    found = {"rate": 0.3, "best_is_at_end": True, "error": score, "loss": score}
    methods = {"aj.adagrad": found | {"best_is_at_end": False}, "optax.sgd": found}
    _, ours, theirs = report.table(methods, "Digits")
    assert ours[1:4] == ["0.3", "50.00 ± 25.00", "0.5000 ± 0.2500"]
    assert ours[4:] == ["", ""]
    assert theirs[1] == "0.3*"
    assert theirs[4:] == ["-1.20 ± 10.00", "-0.12 ± 1.00"]


def test_json_has_no_nan():
    found = finite({"a": [math.nan, 1.0], "b": (math.inf, True, "nan", None, 2)})
    assert found == {"a": [None, 1.0], "b": [None, True, "nan", None, 2]}
    json.dumps(found, allow_nan=False)
