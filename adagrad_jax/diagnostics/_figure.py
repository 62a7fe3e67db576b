"""A report as a figure."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from adagrad_jax.diagnostics._leaf import LeafReport
from adagrad_jax.diagnostics._text import fit, short

_RATES, _DEAD, _UNTOUCHED = "#0072B2", "#D55E00", "#E69F00"  # Okabe and Ito's


def draw(shown: Sequence[LeafReport], num_leaves: int, dead_below: float) -> Any:
    """A figure of the leaves ``shown``, of so many."""
    try:
        new_figure = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError(
            "Report.plot needs matplotlib; install it: pip install matplotlib."
        ) from error
    figure = new_figure(figsize=(11, 2.2 + 0.3 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
    title = "Adagrad's effective learning rates"
    if len(shown) < num_leaves:
        title += f": the worst {len(shown)} of {num_leaves} leaves"
    figure.suptitle(title)
    _draw_rates(left, shown)
    _draw_shares(right, shown, dead_below)
    left.set_yticks(range(len(shown)), [_label(leaf) for leaf in shown])
    for text, leaf in zip(left.get_yticklabels(), shown, strict=True):
        text.set_color(_DEAD if leaf.not_finite else "black")
    left.set_ylim(len(shown) - 0.4, -0.6)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=7, columnspacing=1.2, frameon=False)
    return figure


def _draw_rates(axes: Any, leaves: Sequence[LeafReport]) -> None:
    rates = np.array([leaf.rates for leaf in leaves]).reshape(-1, 5).T
    # An infinite rate (a and epsilon 0) has no place; 0 is at the left edge.
    lowest, low, median, high, highest = np.where(np.isinf(rates), np.nan, rates)
    y = np.arange(len(leaves))
    axes.hlines(y, lowest, highest, color=_RATES, linewidth=1.2, label="all")
    axes.hlines(y, low, high, color=_RATES, alpha=0.45, linewidth=7, label="5 to 95 %")
    axes.plot(median, y, "o", color=_RATES, markersize=6, label="median")
    if any(leaf.fell is not None for leaf in leaves):
        before = [
            leaf.median_rate / (1 - leaf.fell)
            if leaf.fell is not None and leaf.fell != 1
            else math.nan
            for leaf in leaves
        ]
        axes.plot(
            before, y, "o", color=_RATES, fillstyle="none", label="median earlier"
        )
    start = [
        leaf.initial_rate if leaf.initial_accumulator_value else math.nan
        for leaf in leaves
    ]
    axes.plot(start, y, "|", color="black", markersize=13, label="at the start")
    known = all(leaf.learning_rate is not None for leaf in leaves)
    unit = "effective rate" + ("" if known else ", multiples of the learning rate")
    axes.set_xlabel(f"{unit} (log scale)")
    if np.any(rates[np.isfinite(rates)] > 0):
        axes.set_xscale("log")


def _draw_shares(axes: Any, leaves: Sequence[LeafReport], dead_below: float) -> None:
    y = np.arange(len(leaves))
    dead = [100 * leaf.dead for leaf in leaves]
    bars = {f"dead: below {dead_below:g} of the start": (y - 0.19, dead, _DEAD)}
    if any(leaf.rows for leaf in leaves):
        untouched = [
            100 * (leaf.untouched_rows or 0) / leaf.rows if leaf.rows else 0
            for leaf in leaves
        ]
        bars["rows untouched"] = (y + 0.19, untouched, _UNTOUCHED)
    for label, (place, shares, color) in bars.items():
        axes.barh(place, shares, height=0.34, color=color, label=label)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the leaf, %")
    axes.tick_params(axis="y", length=0)


def _label(leaf: LeafReport) -> str:
    label = f"{fit(leaf.path or '(one leaf)', 40)} ({short(leaf.size)})"
    return f"{label}, {short(leaf.not_finite)} NOT FINITE" if leaf.not_finite else label
