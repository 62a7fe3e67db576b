"""The results of `benchmarks.dlrm` as a table and as a plot."""

from typing import TYPE_CHECKING, Any

from benchmarks import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MLPS, TABLES, OUR_TABLES = "#cccccc", "#888888", "#1f4e9c"


def table(cases: dict[str, Any]) -> report.Table:
    rows = [["case", "", "ms", "of ours", "of which tables"]]
    for title, case in cases.items():
        for name, found in case.items():
            tables = found.get("tables")
            share = "" if tables is None else report.milliseconds(max(tables, 0.0))
            ms = report.milliseconds(found["milliseconds"])
            rows.append([title, name, ms, f"{found['ratio']:.2f}", share])
            title = ""
    return rows


def plot(cases: dict[str, Any]) -> "Figure":
    """A panel for each case: whole steps as bars, the MLPs' part of them in front."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    number = -(-len(cases) // 2)
    figure = Figure(figsize=(9, 0.6 + 1.75 * number), layout="constrained")
    panels = figure.subplots(number, 2, squeeze=False).ravel()
    for axes, (title, case) in zip(panels, cases.items(), strict=False):
        names = [name for name in case if "tables" in case[name]][::-1]
        whole = [case[name]["milliseconds"] for name in names]
        mlps = [case[name]["milliseconds"] - case[name]["tables"] for name in names]
        ours = [name.startswith("adagrad_jax") for name in names]
        colors = [OUR_TABLES if own else TABLES for own in ours]
        bars = axes.barh(names, whole, color=colors, height=0.7)
        axes.barh(names, mlps, color=MLPS, height=0.7)
        labels = [report.milliseconds(ms) for ms in whole]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
        axes.set_xlim(0, 1.15 * max(whole))
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=9)
        report.tidy(axes)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    figure.supxlabel("milliseconds a step", fontsize=9)
    patches = [
        Patch(color=color, label=label)
        for color, label in (
            (MLPS, "the MLPs alone"),
            (OUR_TABLES, "tables, adagrad_jax"),
            (TABLES, "tables, others"),
        )
    ]
    figure.legend(handles=patches, loc="outside upper center", ncols=3, frameon=False)
    return figure
