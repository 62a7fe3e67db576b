"""What `benchmarks.quality` found, as text for the terminal, as tables and a plot."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks import report
from benchmarks.quality import choice
from benchmarks.quality.methods import BASELINE, METHODS

FAMILY = [name for name, method in METHODS.items() if method.ours]
PEERS = {
    "optax.adagrad": {"color": "0.15", "linestyle": (0, (1, 1.2)), "linewidth": 1.6},
    "optax.adam": {"color": "0.35", "linestyle": "--", "linewidth": 1.2},
    "optax.sgd, momentum": {"color": "0.5", "linestyle": "-.", "linewidth": 1.2},
    "optax.sgd": {"color": "0.65", "linestyle": "-", "linewidth": 1.2},
}
COLOR = "#0072B2"
COLUMNS = 5  # of small panels
HEAD = [
    *("rate", "error, %", "loss", "loss above aj.adagrad's, thousandths"),
    "error above it, points",
]
SHORT_HEAD = ["rate", "error, %", "loss", "thousandths above"]


def summary(results: dict[str, Any]) -> str:
    """A table for each task: at most 80 columns."""
    lines = []
    for name, task in results["tasks"].items():
        settings = task["settings"]
        rows = f"{settings['test_rows']:,} test rows, passes: {settings['passes']}"
        lines += [f"{rows}; mean ± standard error over seeds", ""]
        head, *found = table(task["methods"], name.capitalize())
        # Without the loss's standard error, and how far the error is above.
        short = [[*line[:3], line[3].split(" ")[0], line[4]] for line in found]
        lines += [report.text([[head[0], *SHORT_HEAD], *short]), ""]
    return "\n".join([*lines, f"{results['seconds']:.0f} s"])


def tables(results: dict[str, Any]) -> str:
    """In Markdown."""
    return "\n".join(
        report.markdown(table(task["methods"], name.capitalize()))
        for name, task in results["tasks"].items()
    )


def table(methods: dict[str, Any], title: str) -> report.Table:
    """A row for each method; a rate at the end of all tried ones is marked."""
    lines = []
    for name, found in methods.items():
        rate = f"{found['rate']:g}{'*' if found['best_is_at_end'] else ''}"
        error, loss = found["error"], found["loss"]
        line = [name, rate, with_error(error, 100, 2), with_error(loss, 1, 4)]
        above = ["", ""]
        if name != BASELINE:
            above[0] = with_error(loss["difference"], 1000, 2, sign="+")
            above[1] = with_error(error["difference"], 100, 2, sign="+")
        lines.append(line + above)
    return [[title, *HEAD], *lines]


def with_error(found: dict[str, float], scale: int, digits: int, sign: str = "") -> str:
    mean, error = (scale * found[key] for key in ("mean", "standard_error"))
    return f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"


# --- The plot -------------------------------------------------------------------------


def plot(results: dict[str, Any]) -> Figure:
    """For each task a panel for each member, peers in grey; all ends beside them."""
    tasks, fractions = results["tasks"], results["settings"]["fractions"]
    figure = Figure(figsize=(15, 5 * len(tasks) + 0.6), layout="constrained")
    parts = figure.subfigures(len(tasks), 1, squeeze=False, hspace=0.03)[:, 0]
    for part, (name, task) in zip(parts, tasks.items(), strict=True):
        curves, ends = part.subfigures(1, 2, width_ratios=(COLUMNS, 2))
        part.suptitle(title(name, task), x=0.01, ha="left", fontweight="bold")
        plot_curves(curves, task["methods"], fractions, task["settings"]["passes"])
        plot_ends(ends.subplots(), task["methods"])
    return figure


def title(name: str, task: dict[str, Any]) -> str:
    passes, rows = task["settings"]["passes"], task["settings"]["test_rows"]
    trained = "one pass" if passes == 1 else f"{passes} passes"
    return (
        f"{name.capitalize()}, {trained}: loss on {rows:,} test rows, median of the "
        "seeds and, as a band, lowest to highest"
    )


def plot_curves(
    figure: Any, methods: dict[str, Any], fractions: list[float], passes: int
) -> None:
    """A panel for each member of the family."""
    num_rows = -(-len(FAMILY) // COLUMNS)
    axes = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True)
    points = passes * np.array(fractions)
    for panel, name in zip(axes.flat, FAMILY, strict=True):
        for peer, style in PEERS.items():
            if peer in methods:
                draw(panel, points, methods[peer], peer, 0.12, style)
        panel.set_title(name.replace("aj.", ""), fontsize=10, color=COLOR)
        if name in methods:
            style = {"color": COLOR, "linewidth": 2.2}
            draw(panel, points, methods[name], None, 0.3, style)
        else:
            panel.text(
                *(0.05, 0.06),
                "not measured",
                transform=panel.transAxes,
                color=COLOR,
            )
        report.tidy(panel, grid=True)
    panel = axes.flat[0]
    panel.set_xscale("log")
    ticks = points[[0, 2, 4, 6, 8]]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    low, high = limits(methods)
    panel.set_ylim(low, high)
    if high > 3 * low:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter("{x:g}")
    # Where the legend is not.
    figure.supxlabel("passes over the training rows", x=0.03, ha="left", fontsize=10)
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(*(handles, labels), loc="outside lower right", ncols=4, frameon=False)


def draw(
    panel: Any,
    points: np.ndarray,
    found: dict[str, Any],
    label: str | None,
    opacity: float,
    style: dict[str, Any],
) -> None:
    median, low, high = choice.band(found["loss"]["curves"])
    panel.plot(points, median, label=label, **style)
    panel.fill_between(
        points, low, high, color=style["color"], alpha=opacity, linewidth=0
    )


def limits(methods: dict[str, Any]) -> tuple[float, float]:
    """Of losses: what most have at first is the highest that is worth a look."""
    medians = [choice.band(found["loss"]["curves"])[0] for found in methods.values()]
    return 0.95 * np.nanmin(medians), 1.1 * np.nanmedian(medians, axis=0)[0]


def plot_ends(axes: Any, methods: dict[str, Any]) -> None:
    """Test error at the end, lowest on top, with standard errors."""
    names = sorted(methods, key=lambda name: methods[name]["error"]["mean"])
    for place, name in enumerate(names):
        mean, error = (
            100 * methods[name]["error"][key] for key in ("mean", "standard_error")
        )
        color = COLOR if name in FAMILY else "0.35"
        axes.errorbar(mean, place, xerr=error, fmt="o", color=color, capsize=3)
    axes.set_yticks(range(len(names)), [name.replace("aj.", "") for name in names])
    for text in axes.get_yticklabels():
        text.set_color("0.35" if text.get_text() in PEERS else COLOR)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_title("Test error at the end, %\n(mean ± standard error)", fontsize=10)
    report.tidy(axes, grid=True)
