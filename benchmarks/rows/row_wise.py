"""How long is the step that TorchRec's users run, beside FBGEMM's kernel for it?

    python -m benchmarks.rows.row_wise --torch PYTHON

Adagrad with one accumulator a row, as TorchRec has it (learning rate 0.01, accumulators
from 0, epsilon 1e-8): `aj.dialects.fbgemm` and FBGEMM's `EXACT_ROWWISE_ADAGRAD`, the
two alone, each in a process of its own. The step is that of `benchmarks.rows`, and rows
that both have trained must be the same before times are believed. A process may be
slower than the next by a half for as long as it lives, so there are several sets.

Results go to benchmarks/results/rows.row_wise.<device>.json, .md and .png.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np

from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.overview import row_title
from benchmarks.rows import __main__ as rows
from benchmarks.rows.contenders import FBGEMM_ROW_WISE, OURS_ROW_WISE, ROW_WISE
from benchmarks.side_by_side import measure, summarize

CASES = [
    rows.Case(10**6, 64, 65536, "Zipf"),
    rows.Case(10**6, 64, 8192, "Zipf"),
    rows.Case(10**6, 64, 8192, "uniform"),
    rows.Case(10**6, 64, 65536, "uniform"),
    rows.Case(10**7, 16, 65536, "Zipf"),
    rows.Case(10**6, 128, 32768, "Zipf"),
]
QUICK = [rows.Case(500, 4, 64, "Zipf")]
WANTED = 0.9
SETS = 6  # of processes
COLORS = {OURS_ROW_WISE: "#0044aa", FBGEMM_ROW_WISE: "#ee9900"}


def run_case(case: rows.Case, contenders: list[Any], setting: Any) -> report.Case:
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        rows.write_data(case, folder / "data.npz")
        teams = [rows.team(each, folder / "data.npz", setting) for each in contenders]
        times: rows.Times = {}
        for rounds in in_sets(setting.rounds):
            for name, seconds in measure(teams, rounds).items():
                times[name] = [*times.get(name, []), *seconds]
        rows.check_agreement(contenders, folder, case)
    found = summarize(times, FBGEMM_ROW_WISE)
    bounds = {OURS_ROW_WISE: WANTED} if FBGEMM_ROW_WISE in found else {}
    return {name: row | {"wanted": bounds.get(name)} for name, row in found.items()}


def in_sets(rounds: int) -> list[int]:
    """How many rounds each set of processes has."""
    return [len(part) for part in np.array_split(range(rounds), SETS) if len(part)]


def targets(cases: dict[str, report.Case]) -> list[dict[str, Any]]:
    return [
        report.target(
            f"{OURS_ROW_WISE} / {FBGEMM_ROW_WISE}, {case}",
            contenders[OURS_ROW_WISE]["ratio"],
            WANTED,
        )
        for case, contenders in cases.items()
        if FBGEMM_ROW_WISE in contenders
    ]


def plot(cases: dict[str, report.Case]) -> Any:
    """Milliseconds as bars, with the quartiles as whiskers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.7 * len(cases)), layout="constrained")
    axes = figure.subplots()
    height = 0.38
    for number, (name, color) in enumerate(COLORS.items()):
        shown = {
            place: contenders[name]
            for place, contenders in enumerate(cases.values())
            if name in contenders
        }
        times = [row["milliseconds"] for row in shown.values()]
        spread = [
            [abs(row["milliseconds"] - row["quartiles"][end]) for row in shown.values()]
            for end in (0, 1)
        ]
        places = [place + (number - 0.5) * height for place in shown]
        axes.barh(places, times, height, color=color, label=name, xerr=spread)
    axes.set_yticks(range(len(cases)), list(cases))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a step, and the middle half of the rounds")
    axes.legend(frameon=False)
    report.tidy(axes)
    return figure


def main() -> None:
    parser = command.parser(
        "rows.row_wise", __doc__, rounds=60, torch="PyTorch and FBGEMM"
    )
    args = command.parse(parser)

    from tqdm import tqdm

    folder = command.results_folder(args)
    machine = Machine(args.pythons, rows.environment(False, "cpu"))
    setting = rows.Setting(machine, "cpu", 0.0, args.rounds)
    contenders = [
        contender
        for contender in ROW_WISE
        if machine.can_run(contender.name, contender.peer, contender.modules)
    ]
    cases = {
        row_title(case._asdict()): run_case(case, contenders, setting)
        for case in tqdm(QUICK if args.quick else CASES, unit="case")
    }
    results = {**machine.note, "rounds": args.rounds, "cases": cases}
    results["targets"] = targets(cases)
    stem = folder / f"rows.row_wise.{machine.note['machine']['backend']}"
    report.write_timings(stem, results, cases, plot(cases))


if __name__ == "__main__":
    main()
