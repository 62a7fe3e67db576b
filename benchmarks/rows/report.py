"""What `benchmarks.rows` found: as targets met or missed, as a table, as a plot."""

from typing import Any

from benchmarks import report
from benchmarks.rows.contenders import CONTENDERS, OURS, UNIQUE

STYLES = {  # color, line
    OURS: ("#0044aa", "-"),
    UNIQUE: ("#55aaee", "-"),
    "adagrad_jax, CPU's form": ("#8855bb", "-"),
    "torch": ("#dd4433", "-"),
    "torch, dense": ("#dd4433", ":"),
    "FBGEMM": ("#ee9900", "-"),
    "FBGEMM row-wise": ("#ee9900", "--"),
    "tf_keras": ("#229955", "-"),
    "optax.adagrad": ("#333333", ":"),
    "Keras 3": ("#999999", ":"),
}


def targets(results: dict[str, Any], plan: Any) -> list[dict[str, Any]]:
    """What the library promises, as far as it was measured.

    Ratios of our time to another's, in the table that the plan says, and what they are
    to be at most.
    """
    cases = {tuple(case[k] for k in ("n", "ids")): case for case in results["cases"]
             if (case["rows"], case["dim"]) == plan.table}  # fmt: skip

    def ratio(ours: str, other: str, n: int, ids: str) -> float | None:
        return cases.get((n, ids), {}).get("ratio", {}).get(ours, {}).get(other)

    few, many = plan.few, plan.many
    wanted = [(OURS, peer, many, "Zipf", 0.7) for peer in ("FBGEMM", "torch")]
    wanted += [(UNIQUE, peer, many, "Zipf", 0.45) for peer in ("FBGEMM", "torch")]
    wanted += [(OURS, "FBGEMM", few, "Zipf", 0.8)]
    wanted += [(OURS, "optax.adagrad", few, ids, 0.04) for ids in ("Zipf", "uniform")]
    found = [
        (f"{ours} / {other}, {n:,} ids, {ids}", ratio(ours, other, n, ids), most)
        for ours, other, n, ids, most in wanted
    ]
    found += [
        (
            f"{plan.more_rows:,} rows / {plan.table[0]:,} rows, {few:,} ids, {ids}",
            x,
            1.3,
        )
        for ids, x in results["growth"].items()
    ]
    found += [("compiling / optax.adagrad's", results["compiling"]["ratio"], 2.0)]
    return [report.target(*each) for each in found if each[1] is not None]


# --- The table ------------------------------------------------------------------------


def table(cases: list[dict[str, Any]]) -> report.Table:
    """A row for each case: milliseconds, and in brackets our time by theirs."""
    names = names_in(cases)
    lines = [["rows", "width", "ids", "drawn", *names]]
    for case in cases:
        sizes = [f"{case[key]:,}" for key in ("rows", "dim", "n")]
        lines += [[*sizes, case["ids"], *(cell(case, name) for name in names)]]
    return lines


def cell(case: dict[str, Any], name: str) -> str:
    if name not in case["milliseconds"]:
        return ""
    milliseconds = report.milliseconds(case["milliseconds"][name])
    ratio = case["ratio"].get(OURS, {}).get(name)
    star = "*" if name in case["not side by side"] else ""
    if name == OURS or ratio is None:
        return milliseconds + star
    return f"{milliseconds} ({ratio:.2g}{star})"


def names_in(cases: list[dict[str, Any]]) -> list[str]:
    have = {name for case in cases for name in case["milliseconds"]}
    return [contender.name for contender in CONTENDERS if contender.name in have]


# --- The plot -------------------------------------------------------------------------


def plot(cases: list[dict[str, Any]]) -> Any:
    """Time by rows of the table; a panel for each size and distribution of batches."""
    from matplotlib.figure import Figure

    dims, sizes, kinds = (
        sorted({case[key] for case in cases}) for key in ("dim", "n", "ids")
    )
    dim = dims[len(dims) // 2]
    figure = Figure(
        figsize=(1.5 + 4.2 * len(sizes), 0.6 + 3.7 * len(kinds)), layout="constrained"
    )
    axes = figure.subplots(
        len(kinds), len(sizes), sharex=True, sharey=True, squeeze=False
    )
    figure.suptitle(f"Look up and train rows of {dim} numbers: one step")
    for row, ids in zip(axes, kinds, strict=True):
        for axis, n in zip(row, sizes, strict=True):
            shown = [c for c in cases if (c["dim"], c["n"], c["ids"]) == (dim, n, ids)]
            plot_panel(axis, shown)
            axis.set_title(f"{n:,} ids, {ids}", fontsize=10)
        row[0].set_ylabel("milliseconds")
    for axis in axes[-1]:
        axis.set_xlabel("rows of the table")
    label_lines(figure, axes)
    return figure


def plot_panel(axis: Any, cases: list[dict[str, Any]]) -> None:
    axis.set(xscale="log", yscale="log")
    for name in reversed(names_in(cases)):  # so that ours is on top
        points = [
            (case["rows"], case["milliseconds"][name])
            for case in cases
            if name in case["milliseconds"]
        ]
        color, line = STYLES[name]
        axis.plot(
            *zip(*sorted(points), strict=True),
            color=color,
            linestyle=line,
            linewidth=2.2 if name == OURS else 1.4,
            marker="o",
            markersize=3.5,
            label=name,
        )
    rows = sorted({case["rows"] for case in cases})
    axis.set_xticks(rows, [f"{number:,}" for number in rows])
    axis.minorticks_off()
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    report.tidy(axis)


def label_lines(figure: Any, axes: Any) -> None:
    """Names at the lines' ends, moved apart where they would overlap."""
    least = min(axis.get_xlim()[0] for axis in axes.flat)
    first, last = (f(x for line in axes[0, 0].lines for x in line.get_xdata())
                   for f in (min, max))  # fmt: skip
    # Room for the longest name, in the units of a logarithmic axis.
    axes[0, 0].set_xlim(least, last * (last / first) ** 0.65)
    figure.draw_without_rendering()  # or else positions on the screen are not known
    for axis in axes.flat:
        ends = [
            (line, line.get_xdata()[-1], line.get_ydata()[-1]) for line in axis.lines
        ]
        heights = [axis.transData.transform(end[1:])[1] for end in ends]
        height = 9.5 * figure.dpi / 72
        for (line, x, y), old, new in zip(
            ends, heights, apart(heights, height), strict=True
        ):
            axis.annotate(
                line.get_label(),
                (x, y),
                xytext=(6, (new - old) * 72 / figure.dpi),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=line.get_color(),
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.3},
            )


def apart(heights: list[float], least: float) -> list[float]:
    """The same, moved until neighbours are at least so far from each other."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved = [heights[i] for i in order]
    for _ in range(200):
        for i in range(1, len(moved)):
            push = max(0.0, least - (moved[i] - moved[i - 1])) / 2
            moved[i - 1] -= push
            moved[i] += push
    return [moved[order.index(i)] for i in range(len(heights))]
