"""How large should the buffers be by which devices exchange rows? That depends on ids.

    python -m benchmarks.capacity [--quick] [--out FOLDER]

Buffers have room for `capacity` times the even share of a device's ids, and what does
not fit goes in further passes, each of which sends all buffers. Nothing is timed: for
batches from spread evenly to all of one owner, passes are counted, by the code that
makes them, and what a device sends in a step of Adagrad follows: in each pass the rows
that are read, once their sums, and in each further pass those again for each of two
visits. The unit is what the rows of a device's ids take. Results, with a plot, go to
benchmarks/results/capacity.*; docs/scaling.md says what follows.
"""

from typing import TYPE_CHECKING

import numpy as np

from benchmarks import command, report
from benchmarks.machine import Machine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPACITIES = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
VISITS = 2  # Adagrad's: of the accumulator, and of the table
POWER_LAW = (
    1.05  # frequency = rank ** -POWER_LAW, as in the public embedding benchmarks
)
ODD = 0x9E3779B1


def power_law(num_ids: int, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Ids from the most frequent, 0, to the least."""
    power = 1 - POWER_LAW
    ranks = (1 + rng.random(num_ids) * (num_rows**power - 1)) ** (1 / power)
    return np.minimum(ranks.astype(np.int64) - 1, num_rows - 1)


def batches(num_ids: int, num_rows: int, devices: int) -> dict[str, np.ndarray]:
    """Of ``num_ids`` in all; by what they are."""
    rng = np.random.default_rng(0)
    frequent_first = power_law(num_ids, num_rows, rng)
    return {
        "uniform": rng.integers(0, num_rows, num_ids),
        "power law, hashed": frequent_first * ODD % num_rows,
        "power law, most frequent rows first": frequent_first,
        "all of one owner": rng.integers(0, num_rows // devices, num_ids),
        "all alike": np.full(num_ids, num_rows // 3),
    }


def measure(
    ids: np.ndarray, num_rows: int, devices: int, capacity: float
) -> dict[str, float]:
    """The passes of an exchange, and what a device sends in a step."""
    from jax.sharding import AbstractMesh

    import adagrad_jax as aj
    from adagrad_jax._rows.exchange import Exchange

    mesh = AbstractMesh((devices,), ("devices",))
    by_rows = aj.sharding.RowSharding(mesh, "devices", capacity=capacity)
    passes = int(aj.sharding.num_passes(ids.astype(np.int32), num_rows, by_rows))
    num_ids = ids.size // devices
    buffers = devices * Exchange(by_rows, num_rows, num_ids).buffer / num_ids
    return {"passes": passes, "sent": buffers * (passes + 1 + VISITS * (passes - 1))}


def to_table(cases: dict[str, dict[str, dict[str, float]]]) -> report.Table:
    capacities = list(next(iter(cases.values())))
    head = ["passes (sent), at capacity", *capacities]
    cells = {
        title: [f"{c['passes']} ({c['sent']:,.1f})" for c in case.values()]
        for title, case in cases.items()
    }
    return [head, *([title, *row] for title, row in cells.items())]


def plot(cases: dict[str, dict[str, dict[str, float]]], numbers: list[int]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(numbers), sharey=True)
    for axes, number in zip(panels, numbers, strict=True):
        for title, case in cases.items():
            kind, devices = title.rsplit(", ", 1)
            if devices == f"{number} devices":
                values = [each["sent"] for each in case.values()]
                axes.plot([*map(float, case)], values, marker="o", label=kind)
        axes.set_title(f"{number} devices", fontsize=10)
        axes.set(xlabel="capacity", xscale="log", yscale="log")
        ticks = [*map(float, next(iter(cases.values())))]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        report.tidy(axes, grid=True)
    panels[0].set_ylabel("sent by a device in a step,\nin rows of its ids")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def main() -> None:
    args = command.parse(command.parser("capacity", __doc__))

    numbers = [2, 4] if args.quick else [2, 8, 64, 256]
    per_device, num_rows = (32, 2**10) if args.quick else (4096, 2**24)
    jobs = {
        f"{kind}, {devices} devices": (ids, num_rows, devices)
        for devices in numbers
        for kind, ids in batches(per_device * devices, num_rows, devices).items()
    }
    cases = {title: {} for title in jobs}
    with command.progress_bar(len(jobs) * len(CAPACITIES), " batches") as bar:
        for title, job in jobs.items():
            for capacity in CAPACITIES:
                cases[title][f"{capacity:g}"] = measure(*job, capacity)
                bar.update()
    print(report.text(to_table(cases)))
    note = Machine(args.pythons, command.environment()).note
    results = {**note, "ids": per_device, "rows": num_rows, "cases": cases}
    stem = command.results_folder(args) / "capacity"
    shown = [numbers[0], numbers[-1]] if args.quick else [8, 256]
    report.write(stem, results, report.markdown(to_table(cases)), plot(cases, shown))


if __name__ == "__main__":
    main()
