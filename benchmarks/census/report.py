"""What the census demo measured, as text for the terminal, as tables and as a plot."""

from typing import Any

from matplotlib.figure import Figure

from benchmarks import report

# Test accuracies on this data in TabNet's paper (Arik and Pfister, AAAI 2021).
PUBLISHED = {"TabNet": 0.955, "XGBoost": 0.958}
# Okabe and Ito's colours. Optax' Adagrad is thin and dashed, on top of ours.
STYLES = {
    "aj.adagrad": {"color": "#56B4E9", "linewidth": 5, "marker": "o", "markersize": 9},
    "optax.adagrad": {"color": "black", "linestyle": "--", "linewidth": 1.4},
    "optax.adam": {"color": "#009E73", "linewidth": 2, "marker": "s"},
    "optax.sgd": {"color": "#D55E00", "linewidth": 2, "marker": "^"},
}
# What each Adagrad of the timed steps works on.
GRADIENTS = {"aj.adagrad": "row-sparse", "optax.adagrad": "dense"}


def summary(results: dict[str, Any]) -> str:
    """All tables, the final model, the times: at most 80 columns."""
    final, seconds = results["final"], results["seconds"]
    published = ", ".join(f"{name} {value:.1%}" for name, value in PUBLISHED.items())
    return f"""
{report.text(scores(results, "error"))}

{report.text(scores(results, "auc"))}

Of all rates tried, each had the lowest loss on held-out training rows. The two
Adagrads differ only in epsilon's place: their curves are almost the same.

Final model, aj.adagrad, passes: {final["passes"]}
  test accuracy  {final["accuracy"]:.2%}   (published: {published};
                          always "no": {results["majority_accuracy"]:.2%})
  test AUC       {final["auc"]:.2%}
  training       {seconds["final"]:.1f} s, {final["rows_per_second"]:,.0f} rows/s

{savings(results)}

Whole demo       {seconds["total"]:.0f} s
"""


def tables(results: dict[str, Any]) -> str:
    """All of them in Markdown."""
    found = [scores(results, "error"), scores(results, "auc"), costs(results)]
    return "\n".join(report.markdown(table) for table in found)


def scores(results: dict[str, Any], score: str) -> report.Table:
    """In percent: a row for each optimizer, a column for each part of the pass."""
    title = {"error": "Test error in %, after", "auc": "Test AUC in %, after"}[score]
    parts = [f"{part:.0%}" for part in results["fractions"]]
    rows = [
        [name, f"{results['rates'][name]:g}", *(f"{100 * x[score]:.2f}" for x in curve)]
        for name, curve in results["curves"].items()
    ]
    return [[title, "rate", *parts], *rows]


def costs(results: dict[str, Any]) -> report.Table:
    """Of a step of both Adagrads: milliseconds and, in brackets, temporary MiB."""
    by_size = results["steps"]["costs"]
    rows = [
        [f"{name}, {kind}"]
        + [
            f"{cost[name]['milliseconds']:.1f}"
            f" ({cost[name]['temporary_bytes'] / 2**20:.0f})"
            for cost in by_size.values()
        ]
        for name, kind in GRADIENTS.items()
    ]
    return [["Rows of the cross table", *(f"{int(size):,}" for size in by_size)], *rows]


def savings(results: dict[str, Any]) -> str:
    """What a step needs of the tables, and what it costs if it gets all of them."""
    steps, trained = results["steps"], str(results["settings"]["cross_rows"])
    sparse, dense = (steps["costs"][trained][name] for name in GRADIENTS)
    times = dense["milliseconds"] / sparse["milliseconds"]
    read, rows = f"{steps['rows_read']:,.0f}", f"{steps['table_rows']:,}"
    return f"""A step needs {read} of the {rows} rows of both tables. With an ordinary
gradient of the larger one it goes through all of them, and takes
{times:.1f} times as long as with a row-sparse one.
Milliseconds (and temporary MiB) of a step:

{report.text(costs(results))}"""


def plot(results: dict[str, Any]) -> Figure:
    """Test error and AUC against the part of one pass, and what a step costs."""
    figure = Figure(figsize=(15, 5), layout="constrained")
    figure.suptitle("KDD Census Income: how fast is it learned from little data?")
    panels = {"error": "Test error, %", "auc": "Area under the test ROC curve, %"}
    *all_axes, last_axes = figure.subplots(1, 3, width_ratios=(5, 5, 4))
    for axes, (score, title) in zip(all_axes, panels.items(), strict=True):
        for name, curve in results["curves"].items():
            percent = [100 * point[score] for point in curve]
            label = f"{name}, rate {results['rates'][name]:g}"
            axes.plot(results["fractions"], percent, label=label, **STYLES[name])
        axes.set_title(title, loc="left")
        axes.set_xlabel("part of one pass over the training rows, %")
        ticks = results["fractions"]
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        report.tidy(axes, grid=True)
    all_axes[1].legend(loc="lower right", frameon=False)
    mark_final_errors(all_axes[0], results["final"])
    plot_steps(last_axes, results["steps"]["costs"])
    return figure


def plot_steps(axes: Any, by_size: dict[str, Any]) -> None:
    """Milliseconds of a step against the size of the cross table, dense ones above."""
    sizes = [int(size) for size in by_size]
    for name, kind in GRADIENTS.items():
        times = [of_size[name]["milliseconds"] for of_size in by_size.values()]
        style = STYLES[name] | {"linewidth": 2, "marker": "o", "markersize": 7}
        axes.plot(sizes, times, label=f"{name}, {kind} gradients", **style)
        place = {"row-sparse": (0, -17), "dense": (-13, 7)}[kind]
        for point in zip(sizes, times, strict=True):
            axes.annotate(
                f"{point[1]:.1f}",
                point,
                place,
                textcoords="offset points",
                horizontalalignment="center",
            )
    axes.set_title("Time of a training step, ms", loc="left")
    axes.loglog()
    axes.set_xlabel("rows of the cross table, millions")
    axes.set_xticks(sizes, [f"{size / 1e6:.1f}" for size in sizes])
    axes.set_yticks(ticks := [1, 2, 5, 10, 20, 50, 100], [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(0.12, 0.25)
    axes.legend(loc="upper left", frameon=False)
    report.tidy(axes, grid=True)


def mark_final_errors(axes: Any, final: dict[str, Any]) -> None:
    """Level lines for the final model and the published ones, labels out of the way."""
    left, right = axes.get_xlim()
    places = {"TabNet": (right, "right", "bottom"), "XGBoost": (left, "left", "top")}
    levels = {name: 1 - accuracy for name, accuracy in PUBLISHED.items()}
    levels[f"aj.adagrad after {final['passes']} passes"] = final["error"]
    for name, error in levels.items():
        x, horizontal, vertical = places.get(name, (left, "left", "bottom"))
        axes.axhline(100 * error, color="0.4", linewidth=1, linestyle=":")
        axes.text(
            x,
            100 * error,
            f" {name}: {100 * error:.2f} ",
            horizontalalignment=horizontal,
            verticalalignment=vertical,
            color="0.3",
        )
    axes.set_xlim(left, right)
    axes.margins(y=0.09)
