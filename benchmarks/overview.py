"""What all benchmarks with peers found, read from their result files into one table.

Each of these files is of its own question: by whose time its ratios are, how its cases
are named and whether targets were set differs. Here a row is a contender in a case, and
its ratio is its time by adagrad_jax's in that case, whatever the baseline of the file.
A target keeps the words and the ratio of its benchmark.
"""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from benchmarks import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One of those that `python -m benchmarks` runs.

    Attributes:
      name: Of the module.
      stem: Of its result files.
      ours: Contenders that ratios are to: the first of them that a case has.
      takes: Those of our options that it knows too.
      options: What it is always given.
    """

    name: str
    stem: str
    ours: tuple[str, ...] = ("adagrad_jax",)
    takes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


ROWS = Benchmark(
    "rows", "rows.cpu", takes=("torch", "tensorflow", "keras", "memory", "rounds")
)
ROWS_TARGET = dataclasses.replace(
    ROWS, stem="rows.target.cpu", options=("--only-target",)
)
ROW_WISE = Benchmark(
    "rows.row_wise",
    "rows.row_wise.cpu",
    ("adagrad_jax, row-wise",),
    ("torch", "rounds"),
)
SMALL = Benchmark("rows.small", "rows.small.cpu", ("auto",), ("rounds",))
BENCHMARKS = [
    Benchmark("dense", "dense", ("adagrad_jax", "recurrence"), ("torch", "rounds")),
    ROWS_TARGET,
    ROW_WISE,
    SMALL,
    Benchmark("dlrm", "dlrm", takes=("torch", "memory", "rounds")),
    # Beside SM3, Diagonal is only there to compare with.
    Benchmark(
        "family",
        "family.cpu",
        ("adagrad", "SM3", "Diagonal", "FullMatrix"),
        ("rounds",),
    ),
    Benchmark(
        "keras_object",
        "keras_object",
        ("object", "adagrad_jax.keras3"),
        ("tensorflow", "rounds"),
    ),
]
ALONE = " alone"  # the end of a name: a part of a step, which is no peer


# --- From files to rows ---------------------------------------------------------------


def collect(benchmarks: list[Benchmark], folder: pathlib.Path) -> dict[str, Any]:
    """The result files of those benchmarks, as what `table` and `plot` take.

    Those without a file are left out.
    """
    found: dict[str, Any] = {"benchmarks": {}, "rows": [], "targets": []}
    for benchmark in benchmarks:
        path = folder / f"{benchmark.stem}.json"
        if not path.exists():
            continue
        results = json.loads(path.read_text())
        note = {key: results.get(key) for key in ("machine", "versions", "rounds")}
        found["benchmarks"][benchmark.name] = {"file": path.name} | note
        found["rows"] += rows_of(benchmark, cases_of(results))
        found["targets"] += [
            {"benchmark": benchmark.name} | each | {"what": readable(each["what"])}
            for each in results.get("targets", [])
        ]
    return found


def cases_of(results: dict[str, Any]) -> dict[str, report.Case]:
    """By title, whatever the form that the file has them in."""
    cases = results["cases"]
    if isinstance(cases, list):
        return {row_title(case): row_case(case) for case in cases}
    forms = {"forms of the step": results["forms"]} if "forms" in results else {}
    return cases | forms


def row_title(case: dict[str, Any]) -> str:
    return f"{case['rows']:,} x {case['dim']}, {case['n']:,} ids, {case['ids']}"


def row_case(case: dict[str, Any]) -> report.Case:
    """Of `benchmarks.rows`, whose ratios are our time by theirs."""
    ours = case["ratio"].get("adagrad_jax", {})
    return {
        name: {
            "milliseconds": milliseconds,
            "quartiles": case.get("quartiles", {}).get(name),
            "ratio": 1 / ours[name] if name in ours else None,
            "apart": name in case["not side by side"],
        }
        for name, milliseconds in case["milliseconds"].items()
    }


def rows_of(
    benchmark: Benchmark, cases: dict[str, report.Case]
) -> list[dict[str, Any]]:
    """A dictionary for each contender of each case.

    Where the baseline is another's, ours is the quotient of two ratios to it, of which
    each is a median over rounds.
    """
    rows = []
    for title, contenders in cases.items():
        ours = next((name for name in benchmark.ours if name in contenders), None)
        by_ours = contenders[ours]["ratio"] if ours else None
        for name, row in contenders.items():
            known = by_ours is not None and row["ratio"] is not None
            rows.append(
                {
                    "benchmark": benchmark.name,
                    "case": readable(title),
                    "contender": name,
                    "milliseconds": row["milliseconds"],
                    "quartiles": row.get("quartiles"),
                    "ratio": row["ratio"] / by_ours if known else None,
                    "ours": name == ours,
                    "apart": row.get("apart", False),
                }
            )
    return rows


def readable(title: str) -> str:
    """That of a case of `benchmarks.rows.small`, "width,ids,rows", in words."""
    before, space, last = title.rpartition(" ")
    numbers = last.split(",")
    if len(numbers) != 3 or not all(number.isdigit() for number in numbers):
        return title
    width, ids, rows = map(int, numbers)
    return f"{before}{space}{rows:,} x {width}, {ids:,} ids"


# --- The table ------------------------------------------------------------------------

HEAD = ["benchmark", "case", "contender", "ms", "spread", "by ours", "target", ""]


def table(found: dict[str, Any]) -> report.Table:
    """Of each case its contenders and its targets, which no column but the last has."""
    lines = [HEAD]
    for benchmark in found["benchmarks"]:
        cells = in_order(
            [timing(row) for row in found["rows"] if row["benchmark"] == benchmark],
            [verdict(t) for t in found["targets"] if t["benchmark"] == benchmark],
        )
        for before, each in zip([None, *cells], cells, strict=False):
            title = "" if before and before[0] == each[0] else each[0]
            lines.append(["" if before else benchmark, title, *each[1:]])
    return lines


def in_order(timings: report.Table, targets: report.Table) -> report.Table:
    """Targets after the timings of their case, those of no one case at the end."""
    places = {cells[0]: place for place, cells in enumerate(timings)}
    last = len(timings)
    return sorted(timings + targets, key=lambda cells: places.get(cells[0], last))


def timing(row: dict[str, Any]) -> list[str]:
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    star = "*" if row["apart"] else ""
    milliseconds = report.milliseconds(row["milliseconds"])
    # The quartiles of one round are no spread.
    several = len(set(row["quartiles"] or [])) > 1
    spread = " to ".join(map(report.milliseconds, row["quartiles"])) if several else ""
    return [row["case"], row["contender"], milliseconds, spread, ratio + star, "", ""]


def verdict(target: dict[str, Any]) -> list[str]:
    """Of "this / that, case"."""
    this, _, that = target["what"].partition(" / ")
    that, _, case = that.partition(", ")
    bound = f"{target['ratio']:.3g}, at most {target['wanted']:.3g}"
    outcome = "met" if met(target) else "MISSED"
    return [case, f"{this} / {that}", "", "", "", bound, outcome]


def met(target: dict[str, Any]) -> bool:
    return target["ratio"] <= target["wanted"]


def legend(found: dict[str, Any]) -> str:
    """What the columns of the table are."""
    text = (
        "ms: median of a step over the rounds; spread: between which ms the middle\n"
        "half of them lies, if recorded; by ours: time by adagrad_jax's, above 1 if\n"
        "it is longer; target: for the ratio of two contenders' times."
    )
    apart = any(row["apart"] for row in found["rows"])
    return text + ("\n*: not measured side by side." if apart else "")


def summary(found: dict[str, Any]) -> str:
    """How many targets were met, and which were not."""
    targets = found["targets"]
    missed = [each for each in targets if not met(each)]
    lines = [f"{len(targets) - len(missed)} of {len(targets)} targets met"]
    lines += [
        f"missed: {each['benchmark']}, {each['what']}: {each['ratio']:.3g}, "
        f"at most {each['wanted']:.3g}"
        for each in missed
    ]
    return "\n".join(lines)


# --- The plot -------------------------------------------------------------------------

KINDS = {  # how names begin: color, label
    "FBGEMM row-wise": ("#ddcc55", "FBGEMM row-wise"),  # another algorithm
    "FBGEMM": ("#ee9900", "FBGEMM"),
    "torch": ("#dd4433", "torch"),
    ("tf_keras", "TensorFlow"): ("#229955", "TensorFlow"),
    "Keras 3": ("#aa55bb", "Keras 3"),
    "optax": ("#333333", "Optax"),
    "": ("#0077cc", "other forms of ours"),
}


def kind(contender: str) -> tuple[str, str]:
    """Its color and its label."""
    return next(style for start, style in KINDS.items() if contender.startswith(start))


def plot(found: dict[str, Any]) -> "Figure":
    """A row for each case, with a dot for each peer, where its time is by ours.

    Benchmarks are panels; small tables, which have more cases than all others, have a
    column of their own.
    """
    from matplotlib.figure import Figure

    names = list(found["benchmarks"])
    columns = [
        [n for n in names if n != SMALL.name],
        [n for n in names if n == SMALL.name],
    ]
    columns = [column for column in columns if column]
    cases = {name: shown(found, name) for name in names}
    most = max(sum(len(cases[n]) + 4 for n in column) for column in columns)
    figure = Figure(figsize=(7 * len(columns), 1 + 0.19 * most), layout="constrained")
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        heights = [len(cases[name]) + 1 for name in column]
        panels = part.subplots(
            len(column), 1, sharex=True, squeeze=False, height_ratios=heights
        )
        for axes, name in zip(panels[:, 0], column, strict=True):
            plot_panel(axes, name, cases[name])
        panels[-1, 0].set_xlabel("time by adagrad_jax's", fontsize=9)
    add_legend(figure)
    return figure


def shown(found: dict[str, Any], benchmark: str) -> dict[str, dict[str, float]]:
    """Ratios of others than ourselves, by contender and by case."""
    cases: dict[str, dict[str, float]] = {}
    for row in found["rows"]:
        if row["benchmark"] == benchmark:
            ratios = cases.setdefault(row["case"], {})
            part = row["contender"].endswith(ALONE)
            if row["ratio"] is not None and not (row["ours"] or part):
                ratios[row["contender"]] = row["ratio"]
    return cases


def plot_panel(axes: Any, benchmark: str, cases: dict[str, dict[str, float]]) -> None:
    for place, ratios in enumerate(cases.values()):
        axes.axhline(place, color="#eeeeee", linewidth=0.8, zorder=0)
        for name, ratio in ratios.items():
            color, _ = kind(name)
            axes.plot(ratio, place, "o", color=color, markersize=5, alpha=0.8)
    axes.axvline(1, color="gray", linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(cases)), list(cases), fontsize=8)
    axes.set_ylim(len(cases) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(benchmark, loc="left", fontsize=10, fontweight="bold")
    report.tidy(axes)
    axes.spines["left"].set_visible(False)


def add_legend(figure: "Figure") -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker="o", linestyle="", label=label)
        for color, label in KINDS.values()
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False
    )
