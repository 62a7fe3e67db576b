"""What is printed."""

import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax.diagnostics import _table, report
from tests.diagnostics.common import example, many, of, sums

GOLDEN = """\
Effective learning rates: learning_rate / (sqrt(a) + epsilon)
learning_rate 0.1, initial_accumulator_value 0.1, epsilon 1e-07

leaf         size   lowest   median  highest  growth  dead  untouched  not finite
---------------------------------------------------------------------------------
bad             2  1.6e-01  1.6e-01  1.6e-01       4    0%                      1
norm           12  2.0e-06  2.0e-06  2.0e-06     25G  100%
embed/table   32k  1.0e-04  3.1e-01  3.2e-01    1.02  6.0%      29.9%
matrix          6  5.8e-02  5.8e-02  5.8e-02      30    0%         0%
sm3            20  1.5e-02  3.2e-01  3.2e-01       1    0%         0%
empty           0        -        -        -       -     -
---------------------------------------------------------------------------------
6 leaves      32k  2.0e-06           3.2e-01          6.0%      29.9%           1

growth: median of a / initial_accumulator_value
dead: rate below 0.001 times that at the start
untouched: rows still at initial_accumulator_value
not finite: coordinates where a is NaN or infinite"""


def test_the_text_is_this():
    assert str(example()) == GOLDEN


def test_the_table_of_many_leaves_is_narrow_and_short():
    result = many(200)
    lines = str(of({"nan": np.float32([np.nan])})).splitlines() + str(result).split(
        "\n"
    )
    assert max(len(line) for line in lines) <= 100
    assert len(str(result).splitlines()) <= 33
    assert "and 180 leaves that are no worse\n" in str(result)
    assert result.table(200).count("kernel") == 200
    shown = report(
        aj.ScaleByAdagradState({"x" * 200: sums((4, 3))}), {"x" * 200: np.ones((4, 3))}
    )
    assert max(len(line) for line in str(shown).splitlines()) <= 100
    worst = result.worst(200)
    dead = [(leaf.dead, leaf.growth) for leaf in worst]
    assert dead == sorted(dead, reverse=True)


def after_steps(scale, start):
    """Of a thousand coordinates, of which half have gradients, of that size."""
    optimizer = aj.adagrad(0.1, start)
    params = {"w": np.zeros(1000, np.float32)}
    gradients = {"w": scale * np.repeat(np.float32([0, 1]), 500)}
    state = optimizer.init(params)
    for _ in range(10):
        _, state = optimizer.update(gradients, state)
    return report(state, params, learning_rate=0.1, initial_accumulator_value=start)


def test_it_says_where_adagrad_is_still_sgd():
    """And not where it is not, nor where it starts from 0."""
    still = after_steps(1 / 256, 0.1)
    (leaf,) = still.leaves
    assert leaf.moved == leaf.barely_moved == 0.5
    said = " ".join(str(still).split())
    assert (
        "100% of the coordinates that had gradients have hardly moved from init" in said
    )
    assert "Lower it to the size of squared gradients" in said
    for scale, start in ((1.0, 0.1), (1 / 256, 1e-6), (1 / 256, 0.0)):
        report = after_steps(scale, start)
        assert report.leaves[0].moved == 0.5 and report.leaves[0].barely_moved == 0
        assert "SGD" not in str(report)
    lost = str(after_steps(1e-6, 0.1))  # beside 0.1, in float32
    assert "No a has moved" in lost and max(map(len, lost.splitlines())) <= 100


@pytest.mark.parametrize(
    "share, text",
    [(0, "0%"), (1, "100%"), (1e-9, "<0.1%"), (1 - 1e-9, ">99.9%"), (0.5, "50.0%")],
)
def test_percent(share, text):
    assert _table._percent(share) == text
