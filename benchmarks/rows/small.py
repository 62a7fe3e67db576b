"""From how many rows on does it pay to train a table by its rows?

    python -m benchmarks.rows.small

Tables of 4 to 262,144 rows of 16, 64 or 256 numbers, batches of 1,024 or 16,384 ids
drawn uniformly. Three contenders share a process: the gradient that `value_and_grad`
chooses, one of rows, and an ordinary one. What is chosen must take at most 1.15 of the
time of the faster of the other two.

Results go to benchmarks/results/rows.small.<device>.json, .md and .png.
"""

import functools
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.side_by_side import measure, summarize

WIDTHS, SIZES = (16, 64, 256), (1024, 16384)
ROWS = tuple(4**power for power in range(1, 10))
TABLES = {"auto": "auto", "rows": lambda *_: True, "dense": lambda *_: False}
COLORS = {"auto": "#0044aa", "rows": "#ee9900", "dense": "#333333"}
WANTED = 1.15


def make_step(case: str, name: str, quick: bool) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    import adagrad_jax as aj

    del quick
    width, size, rows = map(int, case.split(","))
    ids = np.random.default_rng(0).integers(0, rows, size).astype(np.int32)
    optimizer = aj.adagrad(0.01)

    def loss(table, ids):
        return 0.5 * jnp.sum((table[ids] - 1) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(table, state, ids):
        gradient = aj.grad(loss, tables=TABLES[name])(table, ids)
        update, state = optimizer.update(gradient, state)
        return aj.apply_updates(table, update), state

    table = jnp.zeros((rows, width))
    carry = [table, optimizer.init(table)]
    ids = jnp.asarray(ids)

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry, ids))

    return run


def run_case(args: Any, case: str) -> report.Case:
    """Ratios are to the faster of the two that "auto" chooses from."""
    times = measure([command.team(args, case, list(TABLES))], args.rounds)
    faster = min("rows", "dense", key=lambda name: statistics.median(times[name]))
    found = summarize(times, faster)
    return {name: row | _wanted(name) for name, row in found.items()}


def _wanted(name: str) -> dict[str, float | None]:
    return {"wanted": WANTED if name == "auto" else None}


def plot(cases: dict[str, report.Case]) -> Any:
    """Time by rows of the table; a panel for each width and size of batches."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    sizes = sorted({tuple(map(int, case.split(",")))[:2] for case in cases})
    widths, batches = (sorted(set(column)) for column in zip(*sizes, strict=True))
    figure = Figure(
        figsize=(1 + 3.4 * len(widths), 0.8 + 2.8 * len(batches)), layout="constrained"
    )
    axes = figure.subplots(len(batches), len(widths), sharex=True, squeeze=False)
    for (row, size), (column, width) in itertools.product(
        enumerate(batches), enumerate(widths)
    ):
        axis = axes[row, column]
        for name, color in COLORS.items():
            points = [
                (int(case.split(",")[2]), contenders[name]["milliseconds"])
                for case, contenders in cases.items()
                if case.startswith(f"{width},{size},")
            ]
            style = {"linewidth": 4, "alpha": 0.35} if name == "auto" else {}
            axis.plot(*zip(*points, strict=True), color=color, label=name, **style)
        axis.axvline(size, color="gray", linewidth=0.8, linestyle=":")
        axis.set(xscale="log", yscale="log")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(f"{size:,} ids, rows of {width}", fontsize=10)
        report.tidy(axis)
    axes[0, 0].legend(frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("rows of the table (dotted: as many as ids)")
    for axis in axes[:, 0]:
        axis.set_ylabel("milliseconds a step")
    return figure


def main() -> None:
    args = command.parse(command.parser("rows.small", __doc__, rounds=15))
    if args.serve:
        return command.serve(args, make_step)

    from tqdm import tqdm

    folder = command.results_folder(args)
    note = Machine(args.pythons, command.environment()).note
    grid = itertools.product(WIDTHS, SIZES, ROWS)
    if args.quick:
        grid = [(4, 64, 16), (4, 64, 256)]
    names = [",".join(map(str, case)) for case in grid]
    cases = {name: run_case(args, name) for name in tqdm(names, unit="case")}
    targets = [
        report.target(f"auto / the faster, {name}", row["auto"]["ratio"], WANTED)
        for name, row in cases.items()
    ]
    results = {**note, "rounds": args.rounds, "cases": cases, "targets": targets}
    stem = folder / f"rows.small.{note['machine']['backend']}"
    report.write_timings(stem, results, cases, plot(cases))


if __name__ == "__main__":
    main()
