"""What is drawn."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax.diagnostics import report
from tests.diagnostics.common import example, many, of, sums


def test_the_figure(tmp_path):
    figure = example().plot()
    rates, shares = figure.axes
    assert rates.get_xscale() == "log"
    assert rates.get_xlabel() == "effective rate (log scale)"
    assert shares.get_xlabel() == "share of the leaf, %"
    labels = [text.get_text() for text in rates.get_yticklabels()]
    assert labels[0] == "bad (2), 1 NOT FINITE" and len(labels) == 6
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "all",
        "5 to 95 %",
        "median",
        "at the start",
        "dead: below 0.001 of the start",
        "rows untouched",
    }
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    "accumulator",
    [np.zeros(3), np.full(3, np.inf), np.full(3, np.nan), np.zeros(0), np.ones(())],
    ids=str,
)
def test_a_figure_of_rates_that_a_log_axis_does_not_show(accumulator, tmp_path):
    a = accumulator.astype(np.float32)
    figure = of(a, initial_accumulator_value=0.0, epsilon=0.0).plot()
    figure.savefig(tmp_path / "figure.png", dpi=20)


def test_a_figure_of_many_leaves_and_an_earlier_report(tmp_path):
    before = many(40)
    state = aj.ScaleByAdagradState(
        {
            leaf.path.split("/")[0]: {
                "self_attention": {"query_projection": {"kernel": sums((3, 2)) * 2}}
            }
            for leaf in before.leaves
        }
    )
    figure = report(state, state.accumulator, since=before).plot()
    assert figure.get_suptitle().endswith(": the worst 30 of 40 leaves")
    assert "median earlier" in [t.get_text() for t in figure.legends[0].get_texts()]
    figure.savefig(tmp_path / "figure.png", dpi=20)


def test_a_figure_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="needs matplotlib; install it: pip install"):
        of(jnp.ones(2)).plot()
