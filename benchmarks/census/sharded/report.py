"""What the sharded demo found, as text for the terminal, as a table and as a plot."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks import report

SMOOTHED = 20  # steps
# Okabe and Ito's colours.
BLUE, ORANGE, GREEN = "#56B4E9", "#D55E00", "#009E73"


def summary(results: dict[str, Any]) -> str:
    """At most 80 columns."""
    kill, losses = results["kill"], results["losses"]
    alone, (whole,) = losses["one device"][0], losses["uninterrupted"]
    apart = np.max(np.abs(np.subtract(alone, whole)))
    payloads = results["payloads"]
    steps = [
        f"\n  in {number} steps with {passes} pass{'es' * (passes > 1)} of its rows: "
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
    lines = {
        "uninterrupted": (0, whole, {"color": BLUE, "linewidth": 6, "alpha": 0.6}),
        "until the kill": (0, first, {"color": "black", "linewidth": 1.4}),
        "resumed": (
            resumed, first[:resumed] + second, {"color": ORANGE, "linewidth": 1.4},
        ),
    }  # fmt: skip
    number = SMOOTHED if len(whole) > 5 * SMOOTHED else 1
    for label, (begins, losses, style) in lines.items():
        steps, means = smoothed(losses, number)
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
    axes.set_title(
        "Training loss" + f", mean of {number} steps" * (number > 1), loc="left"
    )
    axes.set_xlabel("step")
    axes.set_xlim(0, None)
    axes.legend(loc="center right", frameon=False)
    report.tidy(axes, grid=True)


def smoothed(losses: list[float], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the mean loss of each and of those before it, so many in all."""
    means = np.convolve(losses, np.full(number, 1 / number), "valid")
    return number + np.arange(len(means)), means


def plot_sent(axes: Any, results: dict[str, Any]) -> None:
    """Stacked, a bar for each step."""
    each = [sent(results["payloads"], passes) for passes in results["passes"]]
    steps, below = np.arange(1, len(each) + 1), np.zeros(len(each))
    for name, color in zip(each[0], ("0.75", BLUE, ORANGE), strict=True):
        height = np.array([step[name] for step in each]) / 1e3
        axes.bar(steps, height, 1.0, below, color=color, label=name)
        below += height
    axes.set_title("Sent by each device in a step, kB", loc="left")
    axes.set_ylim(0, 1.2 * below.max())
    axes.margins(x=0)
    axes.legend(loc="upper center", ncols=3, frameon=False)
    report.tidy(axes)


def plot_passes(axes: Any, results: dict[str, Any]) -> None:
    passes = results["passes"]
    axes.bar(np.arange(1, len(passes) + 1), passes, 1.0, color=GREEN)
    axes.set_yticks(range(max(passes) + 1))
    axes.set_title("Passes of the exchange of rows", loc="left")
    axes.set_xlabel("step")
    report.tidy(axes)
