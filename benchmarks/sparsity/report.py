"""What `benchmarks.sparsity` found, as text for the terminal, a table and a plot."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import report

# Okabe and Ito's colours: mirror descent blue, dual averaging red, FTRL green; dashed
# without Adagrad's metric.
STYLES = {
    "aj.proximal_adagrad": {"color": "#0072B2", "marker": "o"},
    "FOBOS": {"color": "#56B4E9", "marker": "o", "linestyle": "--", "mfc": "white"},
    "aj.adagrad_da": {"color": "#D55E00", "marker": "s"},
    "RDA": {"color": "#E69F00", "marker": "s", "linestyle": "--", "mfc": "white"},
    "aj.ftrl": {"color": "#009E73", "marker": "^"},
}
NAMES = {"FOBOS": "FOBOS, rate / √step", "RDA": "RDA, rate / √step"}
TITLES = {
    "row-sparse": "Penalty on the weights that a step reads",
    "dense": "Penalty on all weights in each step",
}
SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)


def summary(results: dict[str, Any]) -> str:
    """Errors at some shares of weights: at most 80 columns."""
    settings = results["settings"]
    always_no = f"{100 * results['majority_error']:.2f}"
    lines = [
        f"Test error in %, {settings['test_rows']:,} rows (always 'no': {always_no}),",
        f"by the share of the {settings['weights']:,} weights seen that are not 0.",
        "Between measured shares a line is drawn, unless one is 10 times the other.",
    ]
    for way, curves in results["curves"].items():
        rows = [["", *(f"{share:.1%}" for share in SHARES)]]
        for name, curve in curves.items():
            errors = [error_at(curve, share) for share in SHARES]
            rows.append(
                [name, *("" if x is None else f"{100 * x:.2f}" for x in errors)]
            )
        lines += ["", f"{TITLES[way]} ({way})", report.text(rows)]
    if found := results["standard_errors"]:
        lines += ["", "Standard errors, percentage points:"]
        lines += [f"  {name}: {100 * error:.3f}" for name, error in found.items()]
    return "\n".join([*lines, "", f"{results['seconds']:.0f} s"])


def error_at(curve: list[dict[str, Any]], share: float) -> float | None:
    """On the line between points, over the share's logarithm, unless far apart."""
    points = sorted((p["share"], p["error"]) for p in curve if p["share"] > 0)
    if not points or not points[0][0] <= share <= points[-1][0]:
        return None
    shares, errors = np.array(points).T
    after = np.searchsorted(shares, share)
    if after and shares[after] > 10 * shares[after - 1]:
        return None
    return float(np.interp(np.log(share), np.log(shares), errors))


def table(results: dict[str, Any]) -> report.Table:
    """A row for each method, way and strength."""
    head = ["penalty on", "method", "l1", "rate", "non-zero, %", "test error, %"]
    lines = [[*head, "lowest to highest", "AUC, %"]]
    for way, curves in results["curves"].items():
        for name, curve in curves.items():
            lines += [[way, name, *cells(point)] for point in curve]
    return lines


def cells(point: dict[str, Any]) -> list[str]:
    low, high = (100 * x for x in (min(point["errors"]), max(point["errors"])))
    return [
        f"{point['l1']:.3g}",
        f"{point['rate']:g}",
        f"{100 * point['share']:.3g}",
        f"{100 * point['error']:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{100 * point['auc']:.2f}",
    ]


def plot(results: dict[str, Any]) -> Figure:
    """Test error against the share of weights that are not 0."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    figure.suptitle("KDD Census Income, one pass: how good is a model of few weights?")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (way, curves) in zip(panels, results["curves"].items(), strict=True):
        plot_panel(axes, curves, results["majority_error"])
        mark_standard_error(axes, results["standard_errors"])
        axes.set_title(f"{TITLES[way]} ({way} gradients)", loc="left", fontsize=11)
    panels[0].set_ylabel("test error, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def plot_panel(axes: Any, curves: dict[str, Any], majority_error: float) -> None:
    for name, style in STYLES.items():
        points = sorted((p["share"], p["error"]) for p in curves[name])
        shares, errors = 100 * np.array([p for p in points if p[0] > 0]).T
        label = NAMES.get(name, name)
        axes.plot(shares, errors, label=label, linewidth=2, markersize=6, **style)
    axes.axhline(100 * majority_error, color="0.4", linewidth=1, linestyle=":")
    axes.text(
        1,
        100 * majority_error,
        f"always “no”: {100 * majority_error:.2f} ",
        transform=axes.get_yaxis_transform(),
        horizontalalignment="right",
        verticalalignment="bottom",
        color="0.3",
    )
    axes.set_xscale("log")
    axes.set_xlabel("weights that are not 0, % of those seen in training")
    axes.xaxis.set_major_formatter("{x:g}")
    report.tidy(axes, grid=True)


def mark_standard_error(axes: Any, found: dict[str, float]) -> None:
    """How long a standard error is, where no line is."""
    if not found:
        return
    axes.errorbar(
        *(0.08, 4.45),
        100 * found["error"],
        color="0.4",
        capsize=4,
    )
    axes.text(*(0.1, 4.45), "± standard error\nof each point", va="center", color="0.3")
