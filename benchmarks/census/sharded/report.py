"""What the sharded demo found, as text for the terminal, as a table and as a plot."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import report

SMOOTHED = 20  # steps
# Okabe and Ito's colours.
BLUE, ORANGE = "#56B4E9", "#D55E00"


def summary(results: dict[str, Any]) -> str:
    """At most 80 columns."""
    kill, losses = results["kill"], results["losses"]
    alone, (whole,) = losses["one device"][0], losses["uninterrupted"]
    apart = np.max(np.abs(np.subtract(alone, whole)))
    payloads = results["payloads"]
    steps = [
        f"\n  in {number} steps of {of_passes(passes)}: "
        f"{sum(sent(payloads, passes).values()) / 1e3:,.0f} kB"
        for passes, number in count(results["passes"]).items()
    ]
    return f"""
Killed after step {kill["after_step"]} of {len(whole)}, resumed from step \
{kill["resumed_from"]}: the result is the same to the bit.

{report.text(table(results))}

Losses on 1 device and on {num_devices(results)}, which add in another order, differ \
by {apart:.0e} at most.

What each device sends, with {payloads["sum"] / 1e3:,.0f} kB for the dense layers,\
{"".join(steps)}
A gradient of the whole table has {results["settings"]["cross_rows"] * 4 / 1e3:,.0f} kB.
"""


def table(results: dict[str, Any]) -> report.Table:
    """A row for each training."""
    kill, devices = results["kill"], f"{num_devices(results)} devices"
    titles = {
        "one device": "1 device",
        "uninterrupted": f"{devices}, uninterrupted",
        "interrupted": f"{devices}, killed after step {kill['after_step']}",
    }
    head = ["trained on", "last loss", "test error, %", "test AUC, %", "seconds"]
    rows = [
        [
            title,
            f"{results['losses'][name][-1][-1]:.6f}",
            f"{100 * results['scores'][name]['error']:.2f}",
            f"{100 * results['scores'][name]['auc']:.2f}",
            f"{results['seconds'][name]:.0f}",
        ]
        for name, title in titles.items()
    ]
    return [head, *rows]


def num_devices(results: dict[str, Any]) -> int:
    return results["settings"]["num_processes"] * results["settings"]["num_devices"]


def count(passes: list[int]) -> dict[int, int]:
    """How many steps took how many."""
    return {each: passes.count(each) for each in sorted(set(passes))}


def sent(payloads: dict[str, int], passes: int) -> dict[str, int]:
    """By a device in a step, in bytes; of updates each visit repeats a later pass."""
    again = payloads["later passes"] * (passes - 1)
    return {
        "dense layers' gradients": payloads["sum"],
        "rows read": payloads["read"] * passes,
        "rows' gradients": payloads["update"] + again,
    }


# --- Plot -----------------------------------------------------------------------------


def plot(results: dict[str, Any]) -> Figure:
    """The loss at each step, what was sent and the passes that it took."""
    settings = results["settings"]
    figure = Figure(figsize=(14, 5.5), layout="constrained")
    figure.suptitle(
        f"Census model, {settings['cross_rows']:,} rows on {num_devices(results)} "
        f"devices in {settings['num_processes']} processes"
    )
    panels = figure.subplot_mosaic(
        [["losses", "sent"], ["losses", "passes"]],
        width_ratios=(5, 4),
        height_ratios=(2, 1),
    )
    plot_losses(panels["losses"], results)
    plot_sent(panels["sent"], results)
    plot_passes(panels["passes"], results)
    panels["sent"].sharex(panels["passes"])
    return figure


def plot_losses(axes: Any, results: dict[str, Any]) -> None:
    """Of the interrupted training over those of the uninterrupted one."""
    kill, (whole,) = results["kill"], results["losses"]["uninterrupted"]
    first, second = results["losses"]["interrupted"]
    killed, resumed = kill["after_step"], kill["resumed_from"]
    again = first[:resumed] + second
    lines = {
        "uninterrupted": (0, whole, {"color": BLUE, "linewidth": 7, "alpha": 0.6}),
        "resumed": (resumed, again, {"color": ORANGE, "linewidth": 3}),
        "until the kill": (0, first, {"color": "black", "linewidth": 1.2}),
    }
    number = window(whole)
    for label, (begins, losses, style) in lines.items():
        steps, means = steps_of(losses, number), smoothed(losses, number)
        shown = steps > begins
        axes.plot(steps[shown], means[shown], label=label, **style)
    axes.axvspan(resumed, killed, color="0.92", zorder=0)
    marks = {
        f"resumed from step {resumed} ": resumed,
        f" killed after {killed}": killed,
    }
    for text, step in marks.items():
        axes.axvline(step, color="0.4", linewidth=1, linestyle=":")
        axes.text(
            step,
            0.97,
            text,
            transform=axes.get_xaxis_transform(),
            horizontalalignment="right" if step == resumed else "left",
        )
    axes.set_title(f"Training loss{of_mean(number)}", loc="left")
    axes.set_xlabel("step")
    axes.set_xlim(0, len(whole))
    axes.legend(loc="center right", frameon=False)
    report.tidy(axes, grid=True)


def plot_sent(axes: Any, results: dict[str, Any]) -> None:
    """Stacked, with what it is for each number of passes."""
    passes, number = results["passes"], window(results["passes"])
    by_passes = {k: sent(results["payloads"], k) for k in count(passes)}
    parts = {
        name: smoothed([by_passes[k][name] / 1e3 for k in passes], number)
        for name in sent(results["payloads"], 1)
    }
    steps = steps_of(passes, number)
    axes.stackplot(steps, parts.values(), labels=[*parts], colors=("0.8", BLUE, ORANGE))
    totals = {k: sum(parts.values()) / 1e3 for k, parts in by_passes.items()}
    for k, total in totals.items():
        axes.axhline(total, color="0.3", linewidth=1, linestyle=":")
        axes.text(
            1.01,
            total,
            of_passes(k),
            transform=axes.get_yaxis_transform(),
            verticalalignment="center",
        )
    axes.set_ylim(0, 1.25 * max(totals.values()))
    axes.set_title(f"Sent by each device in a step, kB{of_mean(number)}", loc="left")
    axes.legend(loc="upper right", ncols=3, frameon=False)
    report.tidy(axes)


def plot_passes(axes: Any, results: dict[str, Any]) -> None:
    passes = results["passes"]
    axes.plot(np.arange(1, len(passes) + 1), passes, "|", color="black", markersize=12)
    for each, number in count(passes).items():
        text = f"{number} steps of {of_passes(each)}"
        axes.text(0, each + 0.3, f" {text}", verticalalignment="bottom")
    axes.set_yticks(range(1, max(passes) + 1))
    axes.set_ylim(0.5, max(passes) + 1)
    axes.set_xlim(0, len(passes))
    axes.set_title("Passes that the exchange of rows takes", loc="left")
    axes.set_xlabel("step")
    report.tidy(axes)


def window(steps: list[Any]) -> int:
    """Over how many steps means are taken."""
    return SMOOTHED if len(steps) > 5 * SMOOTHED else 1


def smoothed(values: list[float], number: int) -> np.ndarray:
    """The mean of each and of those before it, so many in all."""
    return np.convolve(values, np.full(number, 1 / number), "valid")


def steps_of(values: list[Any], number: int) -> np.ndarray:
    """Those that have a mean: not the first ones."""
    return np.arange(number, len(values) + 1)


def of_mean(number: int) -> str:
    return f", mean of {number} steps" if number > 1 else ""


def of_passes(number: int) -> str:
    return f"{number} pass{'es' * (number != 1)}"
