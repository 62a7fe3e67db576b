"""What was measured, as files beside each other and as tables for the terminal.

A case is a dictionary by contender: of its ``milliseconds``, of their ``ratio`` to a
baseline's and, where something was promised, of the most that is ``wanted`` of that. A
table is a list of rows of strings, the head first.
"""

import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Case = dict[str, dict[str, Any]]
Table = list[list[str]]


# --- Files ----------------------------------------------------------------------------


def write(
    stem: pathlib.Path, results: dict[str, Any], table: str, figure: "Figure | None"
) -> None:
    """Puts ``stem.json``, ``stem.md`` and ``stem.png`` beside each other.

    Args:
      stem: The files' path without the ending.
      results: What the JSON has.
      table: In Markdown.
      figure: If there is something to plot.
    """
    written = [write_json(stem, results), stem.with_name(f"{stem.name}.md")]
    written[1].write_text(table)
    if figure is not None:
        written.append(stem.with_name(f"{stem.name}.png"))
        figure.savefig(written[2], dpi=140)
    names = ", ".join(path.name for path in written)
    print(f"\nWrote {names} to {os.path.relpath(stem.parent)}")


def write_json(stem: pathlib.Path, results: dict[str, Any]) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.json")
    path.write_text(json.dumps(results, indent=2) + "\n")
    return path


# --- Tables ---------------------------------------------------------------------------


def text(table: Table, left: int = 1) -> str:
    """Columns in line: the first ``left`` ones to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def markdown(table: Table) -> str:
    head, *rows = table
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def milliseconds(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def timings(cases: dict[str, Case]) -> Table:
    """A row for each contender of each case."""
    bounds = any("wanted" in row for rows in cases.values() for row in rows.values())
    table = [["case", "", "ms", "ratio", *(["wanted"] if bounds else [])]]
    for title, rows in cases.items():
        for name, row in rows.items():
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
            table.append([title, name, milliseconds(row["milliseconds"]), ratio])
            if bounds:
                wanted = row.get("wanted")
                table[-1].append("" if wanted is None else f"{wanted:g}")
            title = ""
    return table


# --- What was promised ----------------------------------------------------------------


def target(what: str, ratio: float, wanted: float) -> dict[str, Any]:
    return {"what": what, "ratio": ratio, "wanted": wanted}


def verdicts(targets: list[dict[str, Any]]) -> Table:
    """Which targets were met."""
    table = [["target", "found", "at most", ""]]
    for each in targets:
        verdict = "met" if each["ratio"] <= each["wanted"] else "MISSED"
        table.append(
            [each["what"], f"{each['ratio']:.3f}", f"{each['wanted']:.3g}", verdict]
        )
    return table


def write_timings(
    stem: pathlib.Path,
    results: dict[str, Any],
    cases: dict[str, Case],
    figure: "Figure",
) -> None:
    """Prints and writes the table of those cases, and prints which targets were met."""
    table = timings(cases)
    print(text(table, left=2))
    if results.get("targets"):
        print(f"\n{text(verdicts(results['targets']))}")
    write(stem, results, markdown(table), figure)


# --- Plots ----------------------------------------------------------------------------


def tidy(axes: Any, *, grid: bool = False) -> None:
    """No frame where there is nothing to read."""
    if grid:
        axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
