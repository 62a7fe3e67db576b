"""A report as text."""

import math
import textwrap
from collections.abc import Mapping, Sequence

from adagrad_jax.diagnostics._leaf import BARELY, LeafReport
from adagrad_jax.diagnostics._text import fit, short

_WIDTH = 100  # at most


def format_table(
    shown: Sequence[LeafReport],
    leaves: Sequence[LeafReport],
    dead_below: float,
    epsilon_in_sqrt: bool,
) -> str:
    """A line for each leaf ``shown``, and one for all leaves."""
    hidden = len(leaves) - len(shown)
    rows = [_cells(leaf) for leaf in shown]
    total = _total(leaves)
    # What no leaf has is no column.
    every = [total, *(_cells(leaf) for leaf in leaves)]
    names = [name for name in total if any(cells[name] for cells in every)]
    widths = {
        name: max(len(cells[name]) for cells in [{name: name}, total, *rows]) + 2
        for name in names
    }
    space = max(16, _WIDTH - sum(widths.values()))
    labels = [fit(leaf.path or "(one leaf)", space) for leaf in shown]
    last = f"{len(leaves)} {'leaf' if len(leaves) == 1 else 'leaves'}"
    left = max(len(label) for label in [*labels, last, " " * 10])

    def line(label: str, cells: Mapping[str, str]) -> str:
        right = "".join(f"{cells[name]:>{widths[name]}}" for name in names)
        return f"{label:<{left}}{right}".rstrip()

    rule = "-" * (left + sum(widths.values()))
    return "\n".join(
        [
            *_heading(leaves, epsilon_in_sqrt),
            "",
            line("leaf", {name: name for name in names}),
            rule,
            *(line(label, cells) for label, cells in zip(labels, rows, strict=True)),
            *([_left_out(hidden)] if hidden else []),
            rule,
            line(last, total),
            "",
            *_legend(leaves, names, dead_below),
            *_remark(leaves),
        ]
    )


def _cells(leaf: LeafReport) -> dict[str, str]:
    """What the table says of a leaf, under the names of its columns."""
    lowest, *_, highest = leaf.rates
    return {
        "size": short(leaf.size),
        "lowest": _rate(lowest, leaf.size),
        "median": _rate(leaf.median_rate, leaf.size),
        "highest": _rate(highest, leaf.size),
        "growth": short(leaf.growth) if leaf.size else "-",
        "dead": _percent(leaf.dead) if leaf.size else "-",
        "untouched": _share(leaf.untouched_rows, leaf.rows),
        "not finite": short(leaf.not_finite) if leaf.not_finite else "",
        "fell": "" if leaf.fell is None or not leaf.size else _percent(leaf.fell),
    }


def _total(leaves: Sequence[LeafReport]) -> dict[str, str]:
    """The last line: what can be said of all leaves together."""
    size = sum(leaf.size for leaf in leaves)
    rates = [rate for leaf in leaves for rate in leaf.rates if not math.isnan(rate)]
    rows = [leaf.rows for leaf in leaves if leaf.rows is not None]
    untouched = sum(leaf.untouched_rows or 0 for leaf in leaves)
    not_finite = sum(leaf.not_finite for leaf in leaves)
    dead = sum(leaf.dead * leaf.size for leaf in leaves)
    return {
        "size": short(size),
        "lowest": _rate(min(rates, default=math.nan), size),
        "median": "",
        "highest": _rate(max(rates, default=math.nan), size),
        "growth": "",
        "dead": _percent(dead / size) if size else "-",
        "untouched": _share(untouched, sum(rows)) if rows else "",
        "not finite": short(not_finite) if not_finite else "",
        "fell": "",
    }


def _heading(leaves: Sequence[LeafReport], epsilon_in_sqrt: bool) -> list[str]:
    root = "sqrt(a + epsilon)" if epsilon_in_sqrt else "(sqrt(a) + epsilon)"
    known = [
        f"{name} {_range([getattr(leaf, name) for leaf in leaves])}"
        for name in ("learning_rate", "initial_accumulator_value", "epsilon")
        if any(getattr(leaf, name) is not None for leaf in leaves)
    ]
    lines = [
        f"Effective learning rates: learning_rate / {root}",
        ", ".join(known),
    ]
    if any(leaf.learning_rate is None for leaf in leaves):
        lines.append("learning_rate is not known: rates are multiples of it")
    return lines


def _range(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    low, high = f"{min(numbers):.6g}", f"{max(numbers):.6g}"
    return low if low == high else f"{low} to {high}"


def _legend(
    leaves: Sequence[LeafReport], names: Sequence[str], dead_below: float
) -> list[str]:
    start = "initial_accumulator_value"
    zero = any(leaf.initial_accumulator_value == 0 for leaf in leaves)
    explained = {
        "growth": f"median of a / {start}"
        + (" (of a where that is 0)" if zero else ""),
        "dead": f"rate below {dead_below:g} times that at the start"
        + (" (at a = 1 where that is 0)" if zero else ""),
        "untouched": f"rows still at {start}",
        "not finite": "coordinates where a is NaN or infinite",
        "fell": "how far the median rate fell since the earlier report",
    }
    return [f"{name}: {text}" for name, text in explained.items() if name in names]


def _remark(leaves: Sequence[LeafReport]) -> list[str]:
    """What to do, where a has hardly begun to count."""
    start = "initial_accumulator_value"
    moved = sum(leaf.moved * leaf.size for leaf in leaves)
    barely = sum(leaf.barely_moved * leaf.size for leaf in leaves)
    full = [leaf for leaf in leaves if leaf.size]
    if not full or any(leaf.initial_accumulator_value == 0 for leaf in full):
        return []
    if not moved:
        text = (
            f"No a has moved from {start}: there was no step yet, or squared gradients "
            "are lost beside it. If so, lower it: so far Adagrad is SGD."
        )
    elif barely >= moved / 2:
        text = (
            f"{_percent(barely / moved)} of the coordinates that had gradients have "
            f"hardly moved from {start}, a < {BARELY:g} times that: there Adagrad is "
            f"still SGD, of the rate learning_rate / sqrt({start}). Lower it to the "
            "size of squared gradients, which a mean over a batch makes small, or to 0."
        )
    else:
        return []
    return ["", *textwrap.wrap(text, _WIDTH)]


def _left_out(hidden: int) -> str:
    if hidden == 1:
        return "and 1 leaf that is no worse"
    return f"and {hidden} leaves that are no worse"


def _rate(rate: float, size: int) -> str:
    return f"{rate:.1e}" if size else "-"


def _share(part: int | None, whole: int | None) -> str:
    if part is None or whole is None:
        return ""
    return _percent(part / whole) if whole else "-"


def _percent(share: float) -> str:
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.9995 <= share < 1:
        return ">99.9%"
    return f"{100 * share:.0f}%" if share in (0, 1) else f"{100 * share:.1f}%"
