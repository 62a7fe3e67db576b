"""How long does it take to train a ranking model with 26 tables, and what of it tables?

    python -m benchmarks.dlrm [--torch PYTHON] [--memory GiB] [--rounds N]

DLRM with the tables of Criteo's Kaggle data, 33.8 million rows in all, one id or bags
of 20 in each, ids log-uniform: a whole step by adagrad_jax, tables each on their own
and in one array; by torch with its sparse Adagrad; by FBGEMM's table-batched kernel,
which is what TorchRec runs; and by Optax, whose step visits all rows, with tables cut
to 200,000 rows. Beside each the step of the MLPs alone: what is left are the tables.

Contenders take turns. Those that do not fit into `--memory` beside adagrad_jax are left
out. Results, with a plot, go to benchmarks/results/dlrm.*; `--quick` tries all of it
with tiny tables.
"""

import statistics
from typing import Any

from benchmarks import command, report, side_by_side
from benchmarks.dlrm.contenders import (
    CAPPED,
    CONTENDERS,
    CUT,
    FBGEMM,
    FEW_ROWS,
    ONE_ARRAY,
    OURS,
    Case,
    Step,
)
from benchmarks.dlrm.report import plot, table
from benchmarks.machine import Machine
from benchmarks.side_by_side import Team, measure

CASES = [
    *(Case(dim, batch) for dim in (16, 64) for batch in (256, 2048, 8192)),
    *(Case(16, 2048, 20, pooling) for pooling in ("sum", "mean")),
]
QUICK = [Case(4, 8, 3, "mean", FEW_ROWS)]
# Whose tables' share is beside which MLPs' alone; and arrays of the tables' size.
PEERS = {
    OURS: ("jax", "JAX, MLPs alone", 1),
    FBGEMM: ("torch", "torch, MLPs alone", 1),
    ONE_ARRAY: ("jax", "JAX, MLPs alone", 1),
    "torch": ("torch", "torch, MLPs alone", 2),
    CUT: ("jax", "JAX, MLPs alone", 3),
}
WHOLE, TABLES, COMPILING = 1.0, 0.6, 1.5  # at most, of the best peer's or of Optax'


def make_step(case: str, name: str, quick: bool) -> Step:
    (chosen,) = [c for c in (QUICK if quick else CASES) if c.name == case]
    return CONTENDERS[name](chosen)


def fitting(case: Case, memory: float, peers: set[str]) -> list[str]:
    """Those that fit beside one another, the first ones first."""
    names, taken = [], 0.0
    for name, (peer, _, copies) in PEERS.items():
        limit = CAPPED if name == CUT else max(case.rows)
        size = 4 * case.dim * copies * sum(min(n, limit) for n in case.rows)
        if peer in peers and taken + size <= memory:
            names.append(name)
            taken += size
        elif peer in peers:
            print(f"{case.name}: not enough memory for {name}")
    return names


def teams(case: Case, args: Any, names: list[str]) -> list[Team]:
    """A process for each framework."""
    by_peer: dict[str, list[str]] = {}
    for name in names:
        peer, alone, _ = PEERS[name]
        mine = by_peer.setdefault(peer, [])
        mine += [name] if alone in mine else [alone, name]
    return [command.team(args, case.name, mine, peer) for peer, mine in by_peer.items()]


def summarize(times: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Of each contender, and what of its step is the tables'."""
    found = side_by_side.summarize(times, OURS)
    for name, seconds in times.items():
        if name in PEERS:
            alone = times[PEERS[name][1]]
            pairs = zip(seconds, alone, strict=True)
            found[name]["tables"] = 1e3 * statistics.median(a - b for a, b in pairs)
    return found


def targets(cases: dict[str, Any], compiled: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for title, case in cases.items():
        others = [case[name] for name in ("torch", FBGEMM) if name in case]
        for what, most in (("milliseconds", WHOLE), ("tables", TABLES)):
            # A share below 0 says that the machine was too busy to tell it.
            if others and min(other[what] for other in others) > 0:
                ratio = case[OURS][what] / min(other[what] for other in others)
                kind = "whole step" if what == "milliseconds" else "tables"
                what = f"{kind} / the best peer's, {title}"
                found.append(report.target(what, ratio, most))
    seconds = compiled["seconds"]
    ratio = seconds[OURS] / seconds[CUT]
    what = "tracing and compiling / dense Optax'"
    return [*found, report.target(what, ratio, COMPILING)]


def main() -> None:
    parser = command.parser("dlrm", __doc__, rounds=12, torch="PyTorch and FBGEMM")
    parser.add_argument("--memory", type=float, default=19, help="GiB for tables")
    args = command.parse(parser)
    if args.serve:
        return command.serve(args, make_step)

    machine = Machine(args.pythons, command.environment())
    peers = {"jax"}
    if machine.can_run("FBGEMM, torch", "torch", ["torch", "fbgemm_gpu"]):
        peers.add("torch")
    chosen, cases = QUICK if args.quick else CASES, {}
    with command.progress_bar(len(chosen), " cases") as bar:
        for case in chosen:
            bar.set_description(case.name)
            names = fitting(case, args.memory * 2**30, peers)
            cases[case.name] = summarize(measure(teams(case, args, names), args.rounds))
            bar.update()
    sized = chosen[0] if args.quick else CASES[1]
    compiled = machine.ask(
        "jax",
        "from benchmarks.dlrm.contenders import Case, compiling\n"
        f"answer = compiling({sized!r}, {min(args.rounds, 5)})",
    )
    results = {**machine.note, "rounds": args.rounds, "cases": cases}
    results |= {"compiling": compiled, "targets": targets(cases, compiled)}
    shown = table(cases)
    print(report.text(shown, left=2))
    print(f"\n{report.text(report.verdicts(results['targets']))}")
    for name, seconds in compiled["seconds"].items():
        mib = compiled["temporary memory"][name] / 2**20
        print(
            f"{name}: compiled in {seconds:.1f} s, {mib:,.1f} MiB of temporary memory"
        )
    stem = command.results_folder(args) / "dlrm"
    report.write(stem, results, report.markdown(shown), plot(cases))


if __name__ == "__main__":
    main()
