"""What the census demo measured, as text for the terminal and as a plot."""

from typing import Any

from matplotlib.figure import Figure

# Test accuracies on this data in TabNet's paper (Arik and Pfister, AAAI 2021).
PUBLISHED = {"TabNet": 0.955, "XGBoost": 0.958}
# Okabe and Ito's colours. Optax' Adagrad is thin and dashed, on top of ours.
STYLES = {
    "aj.adagrad": {"color": "#56B4E9", "linewidth": 5, "marker": "o", "markersize": 9},
    "optax.adagrad": {"color": "black", "linestyle": "--", "linewidth": 1.4},
    "optax.adam": {"color": "#009E73", "linewidth": 2, "marker": "s"},
    "optax.sgd": {"color": "#D55E00", "linewidth": 2, "marker": "^"},
}


def summary(results: dict[str, Any]) -> str:
    """Both tables, the final model, the times: at most 80 columns."""
    final, seconds = results["final"], results["seconds"]
    published = ", ".join(f"{name} {value:.1%}" for name, value in PUBLISHED.items())
    return f"""
{table(results, "error", "Test error in %, after")}

{table(results, "auc", "Test AUC in %, after")}

Of all rates tried, each had the lowest loss on held-out training rows. The two
Adagrads differ only in epsilon's place: their curves are almost the same.

Final model, aj.adagrad, passes: {final["passes"]}
  test accuracy  {final["accuracy"]:.2%}   (published: {published};
                          always "no": {results["majority_accuracy"]:.2%})
  test AUC       {final["auc"]:.2%}
  training       {seconds["final"]:.1f} s, {final["rows_per_second"]:,.0f} rows/s
Whole demo       {seconds["total"]:.0f} s
"""


def table(results: dict[str, Any], score: str, title: str) -> str:
    """``score`` in percent: a row for each optimizer, a column for each part."""
    columns = "".join(f"{part:>8.0%}" for part in results["fractions"])
    lines = [f"{title:<22}{'rate':>8}{columns}"]
    lines.append("-" * len(lines[0]))
    for name, curve in results["curves"].items():
        cells = "".join(f"{100 * point[score]:8.2f}" for point in curve)
        lines.append(f"{name:<22}{results['rates'][name]:>8g}{cells}")
    return "\n".join(lines)


def plot(results: dict[str, Any]) -> Figure:
    """Test error and AUC against the part of one pass, a line for each optimizer."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    figure.suptitle("KDD Census Income: how fast is it learned from little data?")
    panels = {"error": "Test error, %", "auc": "Area under the test ROC curve, %"}
    all_axes = figure.subplots(1, 2)
    for axes, (score, title) in zip(all_axes, panels.items(), strict=True):
        for name, curve in results["curves"].items():
            percent = [100 * point[score] for point in curve]
            label = f"{name}, rate {results['rates'][name]:g}"
            axes.plot(results["fractions"], percent, label=label, **STYLES[name])
        axes.set_title(title, loc="left")
        axes.set_xlabel("part of one pass over the training rows, %")
        ticks = results["fractions"]
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[1].legend(loc="lower right", frameon=False)
    mark_final_errors(all_axes[0], results["final"])
    return figure


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
