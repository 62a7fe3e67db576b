"""How long does it take to look up rows of an embedding table and to train them?

    python -m benchmarks.rows [--torch PYTHON] [--tensorflow PYTHON] [--keras PYTHON]

Tables of 1e5 to 1e7 rows, batches of 1,024 to 65,536 ids, drawn uniformly or from a
Zipf distribution with exponent 1.2: a few rows are named by most entries. Every
contender has a process of its own, with the Python that is named for its framework; a
peer whose Python is not named is left out. Before times are believed, rows that the
contenders have trained are compared: they must be the same.

As many contenders as fit into `--memory` run side by side, always with adagrad_jax
among them. Where not even two fit, they run one after another, and what is compared is
their medians; the table marks that with a star.

Results go to benchmarks/results/rows.<device>.json (after each case), .md and .png.
`--only-target` measures only what this library promises, `--anchor` only a case of
which there are public figures for a GPU, `--quick` tries all of it with tiny tables.
"""

import argparse
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.rows.contenders import (
    CONTENDERS,
    OURS,
    RATE,
    UNIQUE,
    WEIGHT,
    Contender,
)
from benchmarks.rows.report import plot, table, targets
from benchmarks.side_by_side import Team, measure, median_ratio, quartiles
from benchmarks.workloads import TEN_TABLES, draw_ids

BATCHES = 8
SLOW = 2**28  # elements of a table; a dense step over more takes a second or so
Times = dict[str, list[float]]


class Case(NamedTuple):
    rows: int
    dim: int
    n: int
    ids: str  # "uniform", "Zipf" or `TEN_TABLES`


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
      cases: All of it.
      table: Rows and width of the table that the targets are about.
      more_rows: Of the table that is to take hardly longer than that, if there is one.
      few: Ids in a batch, of which the targets speak.
      many: The same.
    """

    cases: list[Case]
    table: tuple[int, int] = (10**6, 64)
    more_rows: int | None = 10**7
    few: int = 8192
    many: int = 65536


def grid(*axes: tuple) -> list[Case]:
    return [Case(*values) for values in itertools.product(*axes)]


BOTH = ("Zipf", "uniform")
PLANS = {
    "all": Plan(grid((10**5, 10**6, 10**7), (16, 64, 128), (1024, 8192, 65536), BOTH)),
    "target": Plan(grid((10**6,), (64,), (8192, 65536), BOTH)),
    "anchor": Plan([Case(16_800_000, 128, 1_048_570, TEN_TABLES)], more_rows=None),
    "quick": Plan(grid((500, 4000), (4,), (64,), BOTH[:1]), (500, 4), 4000, 64, 64),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """How to measure: by whose Pythons, on what, and so on."""

    machine: Machine
    device: str
    memory: float  # bytes
    rounds: int


# --- One case -------------------------------------------------------------------------


def write_data(case: Case, path: pathlib.Path) -> None:
    """The same batches for everyone, however each framework draws random numbers."""
    rng = np.random.default_rng(0)
    ids = draw_ids(rng, case.ids, case.rows, (BATCHES, case.n))
    target = rng.standard_normal((case.n, case.dim), np.float32)
    np.savez(path, num_rows=case.rows, ids=ids.astype(np.int32), target=target)


def grouped(
    contenders: list[Contender], case: Case, memory: float
) -> list[list[Contender]]:
    """Who runs together: the first with as many others as fit, and each of them once.

    Slow ones are kept apart from fast ones, since they get fewer rounds.
    """
    if not contenders:
        return []
    first, *others = contenders
    together, alone = [[first]], []
    for contender in sorted(others, key=lambda c: is_slow(c, case)):
        last = together[-1]
        alike = len(last) == 1 or is_slow(last[-1], case) == is_slow(contender, case)
        if needs(case, first, contender) > memory:
            alone.append([contender])
        elif alike and needs(case, *last, contender) <= memory:
            last.append(contender)
        else:
            together.append([first, contender])
    return together + alone


def needs(case: Case, *contenders: Contender) -> float:
    """Bytes of tables, accumulators and dense gradients."""
    return sum(c.copies for c in contenders) * case.rows * case.dim * 4


def is_slow(contender: Contender, case: Case) -> bool:
    return contender.dense and case.rows * case.dim > SLOW


def run_case(case: Case, contenders: list[Contender], setting: Setting) -> list[Times]:
    """The times of each group."""
    fitting = [c for c in contenders if needs(case, c) <= setting.memory]
    if absent := [c.name for c in contenders if c not in fitting]:
        print(f"{case}: not enough memory for {', '.join(absent)}")
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder) / "data.npz"
        write_data(case, data)
        times = []
        for members in grouped(fitting, case, setting.memory):
            rounds = setting.rounds
            if any(is_slow(contender, case) for contender in members):
                rounds = max(3, rounds // 4)
            teams = [team(contender, data, setting) for contender in members]
            times.append(measure(teams, rounds))
        check_agreement([c for c in fitting if c.same], pathlib.Path(folder), case)
    return times


def team(
    contender: Contender, data: pathlib.Path, setting: Setting, label: str = ""
) -> Team:
    name = label or contender.name
    python = setting.machine.pythons[contender.peer]
    command = [python, "-m", "benchmarks.rows.contenders", contender.name]
    command += [str(data), str(data.parent / f"{name}.npy")]
    command += ["--gpu"] if setting.device == "gpu" else []
    return Team((name,), command, setting.machine.env)


def check_agreement(
    contenders: list[Contender], folder: pathlib.Path, case: Case
) -> None:
    """Every contender wrote down what it made of some rows in two steps."""
    rows = {
        contender.name: np.load(folder / f"{contender.name}.npy")
        for contender in contenders
        if (folder / f"{contender.name}.npy").exists()
    }
    for name, theirs in rows.items():
        ours = next(iter(rows.values()))
        # How far they went; the first step alone goes nearly as far as the rate.
        close = np.isclose(theirs - WEIGHT, ours - WEIGHT, rtol=1e-3, atol=1e-3 * RATE)
        if not close.all():
            raise RuntimeError(
                f"{name} computes something else than {next(iter(rows))} in {case}: "
                f"rows differ by up to {np.abs(theirs - ours).max():.2g}."
            )


def relative(times: list[Times], name: str, baseline: str) -> float:
    """Time of one by another's: within rounds if they ran together."""
    for group in times:
        if group.get(name) and group.get(baseline):
            return median_ratio(group[name], group[baseline])
    return median(times, name) / median(times, baseline)


def all_times(times: list[Times], name: str) -> list[float]:
    return [seconds for group in times for seconds in group.get(name, ())]


def median(times: list[Times], name: str) -> float:
    return statistics.median(all_times(times, name))


def summarize(case: Case, times: list[Times]) -> dict[str, Any]:
    """Medians, quartiles, and our time as a multiple of each contender's."""
    have = {name for group in times for name in group}
    names = [contender.name for contender in CONTENDERS if contender.name in have]
    together = {name for group in times if OURS in group for name in group}
    return case._asdict() | {
        "milliseconds": {name: 1e3 * median(times, name) for name in names},
        "quartiles": {name: quartiles(all_times(times, name)) for name in names},
        "ratio": {
            ours: {name: relative(times, ours, name) for name in names}
            for ours in (OURS, UNIQUE)
            if ours in names
        },
        "not side by side": [name for name in names if name not in together],
    }


# --- More than cases ------------------------------------------------------------------


def measure_growth(plan: Plan, ids: str, setting: Setting) -> float | None:
    """Our time with a larger table by that with a smaller one, side by side."""
    small = Case(*plan.table, plan.few, ids)
    large = small._replace(rows=plan.more_rows)
    if needs(small, CONTENDERS[0]) + needs(large, CONTENDERS[0]) > setting.memory:
        return None
    with tempfile.TemporaryDirectory() as folder:
        teams = []
        for label, case in {"small": small, "large": large}.items():
            data = pathlib.Path(folder) / f"{label}.npz"
            write_data(case, data)
            teams.append(team(CONTENDERS[0], data, setting, label))
        times = measure(teams, setting.rounds)
    return relative([times], "large", "small")


def measure_compiling(plan: Plan, setting: Setting) -> dict[str, Any]:
    return setting.machine.ask(
        "jax",
        "from benchmarks.rows.contenders import compile_seconds\n"
        f"answer = compile_seconds(*{plan.table}, {plan.few}, {setting.rounds})",
    )


# --- The command ----------------------------------------------------------------------

KEEP_MEMORY = (
    "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296"
)


def environment(keep_memory: bool, device: str) -> dict[str, str]:
    """One for all.

    glibc gives freed blocks above 32 MiB back to the system at once, and the next step
    pays a page fault for each of their pages; not so with ``keep_memory``.
    """
    more = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # contenders share a GPU's memory
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # compiling is timed, too
    }
    if device == "cpu":
        more |= {"JAX_PLATFORMS": "cpu"}
    if keep_memory:
        more |= {"GLIBC_TUNABLES": KEEP_MEMORY}
    return command.environment(**more)


def run(
    plan: Plan, contenders: list[Contender], setting: Setting, save: Callable
) -> dict[str, Any]:
    """All results, which are saved after each case."""
    from tqdm import tqdm

    results: dict[str, Any] = {"cases": []}
    for case in (bar := tqdm(plan.cases, unit="case")):
        bar.set_postfix_str(" ".join(map(str, case)))
        times = run_case(case, contenders, setting)
        results["cases"] += [summarize(case, times)] if any(times) else []
        save(results)
    kinds = dict.fromkeys(case.ids for case in plan.cases if plan.more_rows)
    results["growth"] = {ids: measure_growth(plan, ids, setting) for ids in kinds}
    results["compiling"] = measure_compiling(plan, setting)
    save(results)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = command.parser(
        "rows",
        __doc__,
        rounds=15,
        torch="PyTorch, and FBGEMM if it has that",
        tensorflow="TensorFlow and tf_keras",
        keras="Keras 3 and JAX",
    )
    plan = parser.add_mutually_exclusive_group()
    chosen = {"dest": "plan", "action": "store_const", "default": "all"}
    plan.add_argument(
        "--only-target", **chosen, const="target", help="what is promised"
    )
    plan.add_argument("--anchor", **chosen, const="anchor", help="ten tables")
    parser.add_argument("--width", type=int, nargs="+", help="only such tables")
    parser.add_argument("--memory", type=float, default=16, help="GiB for tables")
    parser.add_argument(
        "--gpu", dest="device", action="store_const", const="gpu", default="cpu"
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="keep glibc from giving freed memory back to the system in each step",
    )
    args = command.parse(parser)
    if args.quick and args.plan != "all":
        parser.error("argument --quick: has a plan of its own")
    return args


def make_plan(args: argparse.Namespace) -> Plan:
    plan = PLANS["quick" if args.quick else args.plan]
    cases = [case for case in plan.cases if case.dim in (args.width or [case.dim])]
    return dataclasses.replace(plan, cases=cases)


def main() -> None:
    args = parse_arguments()
    plan = make_plan(args)
    machine = Machine(args.pythons, environment(args.keep_memory, args.device))
    backend, load = (machine.note["machine"][key] for key in ("backend", "load"))
    if backend != args.device:
        raise SystemExit(f"JAX runs on {backend}, not on {args.device}.")
    if load > 0.5:
        print(f"This machine is busy (load {load:.1f}), from which torch suffers most.")
    setting = Setting(machine, args.device, args.memory * 2**30, args.rounds)
    contenders = [
        contender
        for contender in CONTENDERS
        if args.device in contender.devices
        and machine.can_run(contender.name, contender.peer, contender.modules)
    ]
    header = {**machine.note, "rounds": args.rounds}
    header |= {"GLIBC_TUNABLES": machine.env.get("GLIBC_TUNABLES", "")}
    stem = "rows" if args.plan == "all" else f"rows.{args.plan}"
    path = command.results_folder(args) / f"{stem}.{args.device}"

    def save(results: dict[str, Any]) -> None:
        report.write_json(path, header | results)

    results = run(plan, contenders, setting, save)
    results["targets"] = targets(results, plan)
    print(report.text(report.verdicts(results["targets"])))
    cases = results["cases"]
    figure = plot(cases) if len({case["rows"] for case in cases}) > 1 else None
    report.write(path, header | results, report.markdown(table(cases)), figure)


if __name__ == "__main__":
    main()
