"""What does a step of each member of the family cost?

    python -m benchmarks.family [--rounds N] [--quick] [--out FOLDER]

Accumulators and regularised updates on an embedding table, against plain Adagrad on the
same table; SM3 against Optax's; the full-matrix form against one eigendecomposition of
its size. Contenders of a case share a process and take turns, and what is compared is
the median of the ratio within a round. Results, with a plot, go to
benchmarks/results/family.<device>.*.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj
from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.side_by_side import measure, summarize
from benchmarks.workloads import RATE, dense_step, draw_ids

Step = Callable[[], None]
BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Case:
    """Contenders side by side, the first of which is the baseline.

    Attributes:
      title: What they are about.
      contenders: Functions of the size that make a step, by name.
      size: Of what they work on.
      quick: Another size, to try whether it runs.
      wanted: The most that a contender should take of the baseline's time.
    """

    title: str
    contenders: dict[str, Callable[[Any], Step]]
    size: Any
    quick: Any
    wanted: dict[str, float]


# --- Rows of an embedding table: (rows, width, ids) -----------------------------------


def row_step(optimizer: optax.GradientTransformation, ids: str) -> Callable[..., Step]:
    def make(size: tuple[int, int, int]) -> Step:
        rows, width, n = size
        rng = np.random.default_rng(0)
        drawn = draw_ids(rng, ids, rows, (BATCHES, n))
        batches = [jnp.asarray(batch, jnp.int32) for batch in drawn]
        target = jax.random.normal(jax.random.key(0), (n, width))

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(table, state, batch):
            gradient = aj.grad(
                lambda table: 0.5 * jnp.sum((table[batch] - target) ** 2)
            )(table)
            updates, state = optimizer.update(gradient, state, table)
            return aj.apply_updates(table, updates), state

        table = jnp.full((rows, width), 0.01)
        carry, turn = [table, optimizer.init(table)], [0]

        def run() -> None:
            turn[0] += 1
            batch = batches[turn[0] % BATCHES]
            carry[:] = jax.block_until_ready(step(*carry, batch))

        return run

    return make


# --- Dense arrays: their shapes -------------------------------------------------------


def dense(optimizer: optax.GradientTransformation) -> Callable[..., Step]:
    return functools.partial(dense_step, optimizer)


def matrices(shapes: list[tuple[int, ...]]) -> list[jax.Array]:
    """Without repeated eigenvalues, which are found faster."""
    parts = [jax.random.normal(jax.random.key(1), (size, size)) for (size,) in shapes]
    return [x @ x.T / len(x) for x in parts]


def bare_eigh(shapes: list[tuple[int, ...]]) -> Step:
    given = matrices(shapes)
    eigh = jax.jit(lambda given: [jnp.linalg.eigh(matrix) for matrix in given])
    return lambda: jax.block_until_ready(eigh(given))


def full_matrix_step(shapes: list[tuple[int, ...]]) -> Step:
    """From the same matrices, each time."""
    optimizer = aj.adagrad(RATE, accumulator=aj.FullMatrix())
    params = [jnp.ones(shape) for shape in shapes]
    gradients = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
    state = optimizer.init(params)
    kept = [matrix[None] for matrix in matrices(shapes)]
    state = optax.tree.set(state, accumulator=kept)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return lambda: jax.block_until_ready(step(params, state))


FEW = (500, 4, 64)


def accumulators(ids: str) -> dict[str, Callable[..., Step]]:
    kinds = {"Diagonal": aj.Diagonal(), "RowWise": aj.RowWise(), "Norm": aj.Norm()}
    return {
        name: row_step(aj.adagrad(RATE, accumulator=kind), ids)
        for name, kind in kinds.items()
    }


def siblings(ids: str) -> dict[str, Callable[..., Step]]:
    l1 = 1e-4
    return {
        "adagrad": row_step(aj.adagrad(RATE), ids),
        "proximal_adagrad": row_step(aj.proximal_adagrad(RATE, l1=l1), ids),
        "adagrad_da": row_step(aj.adagrad_da(RATE, l1=l1), ids),
        "ftrl": row_step(aj.ftrl(RATE, l1_regularization_strength=l1), ids),
        "SM3": row_step(aj.adagrad(RATE, accumulator=aj.SM3()), ids),
        # On a CPU XLA converts whole bfloat16 arrays before jax 0.12.
        "RoundedDiagonal(float16)": row_step(
            aj.adagrad(RATE, accumulator=aj.RoundedDiagonal(jnp.float16)), ids
        ),
        "frequency_adagrad": row_step(aj.frequency_adagrad(RATE), ids),
        "lazy decay": row_step(
            optax.chain(aj.adagrad(RATE), aj.lazy_weight_decay(RATE, 0.01)), ids
        ),
    }


SM3 = {
    "optax.sm3": dense(optax.sm3(RATE, momentum=0.0)),
    "SM3": dense(aj.adagrad(RATE, 0.0, accumulator=aj.SM3())),
    "Diagonal": dense(aj.adagrad(RATE, 0.0)),
}
FULL = {
    "eigh": bare_eigh,
    "FullMatrix": full_matrix_step,
}
ROW_WISE = {"RowWise": 0.8}
COMPOSITE = {"proximal_adagrad": 1.3, "adagrad_da": 1.3}
CASES = [
    *(
        Case(f"rows: 1e7 x 64, {n:,} {ids} ids", accumulators(ids), size, FEW, ROW_WISE)
        for n in (8192, 65536)
        for ids in ("Zipf", "uniform")
        for size in [(10**7, 64, n)]
    ),
    *(
        Case(f"rows: 1e6 x 64, {n:,} {ids} ids", siblings(ids), size, FEW, COMPOSITE)
        for n in (8192, 65536)
        for ids in ("Zipf", "uniform")
        for size in [(10**6, 64, n)]
    ),
    Case("dense: 8,192 x 4,096", SM3, [(8192, 4096)], [(4, 3)], {"SM3": 1.3}),
    Case("dense: 64 of 512 x 512", SM3, [(512, 512)] * 64, [(4, 3)], {"SM3": 1.3}),
    Case("matrices: one of 256", FULL, [(256,)], [(4,)], {"FullMatrix": 1.2}),
    Case("matrices: one of 1,024", FULL, [(1024,)], [(4,)], {"FullMatrix": 1.2}),
]
QUICK = (0, 4, 8, 10)  # each contender once


def make_step(title: str, name: str, quick: bool) -> Step:
    case = next(case for case in CASES if case.title == title)
    return case.contenders[name](case.quick if quick else case.size)


# --- The report -----------------------------------------------------------------------


def run_case(case: Case, args: Any) -> report.Case:
    baseline, *others = case.contenders
    team = command.team(args, case.title, [baseline, *others])
    found = summarize(measure([team], args.rounds), baseline)
    return {
        name: row | {"wanted": case.wanted.get(name)} for name, row in found.items()
    }


def targets(cases: dict[str, report.Case]) -> list[dict[str, Any]]:
    """The ratios of which something is wanted."""
    return [
        report.target(f"{name} / {next(iter(rows))}, {title}", *bound)
        for title, rows in cases.items()
        for name, row in rows.items()
        if (bound := (row["ratio"], row["wanted"]))[1] is not None
    ]


def plot(cases: dict[str, Any]) -> Any:
    """A row for each contender: its ratio, and the most that is wanted."""
    from matplotlib.figure import Figure

    num_rows = sum(len(contenders) for contenders in cases.values())
    figure = Figure(figsize=(9, 0.23 * num_rows + 1), layout="constrained")
    axis = figure.subplots()
    labels = []
    for title, contenders in cases.items():
        baseline, *others = contenders
        labels.append(f"{title}, by {baseline}")
        for name in others:
            place, row = len(labels), contenders[name]
            missed = row["wanted"] is not None and row["ratio"] > row["wanted"]
            color = "#D55E00" if missed else "#0072B2"
            axis.plot([1, row["ratio"]], [place, place], color=color, linewidth=5)
            axis.plot(row["ratio"], place, "o", color=color)
            text = f"{row['ratio']:.2f}"
            axis.annotate(text, (6.8, place), ha="right", va="center", fontsize=8)
            if row["wanted"] is not None:
                axis.plot(row["wanted"], place, "|", color="black", markersize=13)
            labels.append(name)
    axis.axvline(1, color="gray", linewidth=0.8, zorder=0)
    axis.set_xscale("log", base=2)
    axis.set_xlim(0.25, 7)
    axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
    axis.set_xlabel("time by the baseline's (black: the most that is wanted)")
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    for text in axis.get_yticklabels():
        text.set_fontweight("bold" if ", by " in text.get_text() else "normal")
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.set_title("A step of each member of the family", loc="left")
    report.tidy(axis)
    axis.spines["left"].set_visible(False)
    return figure


def main() -> None:
    args = command.parse(command.parser("family", __doc__, rounds=15))
    if args.serve:
        return command.serve(args, make_step)

    from tqdm import tqdm

    folder = command.results_folder(args)
    note = Machine(args.pythons, command.environment()).note
    chosen = [CASES[i] for i in QUICK] if args.quick else CASES
    cases = {case.title: run_case(case, args) for case in tqdm(chosen, unit="case")}
    results = {**note, "rounds": args.rounds, "cases": cases, "targets": targets(cases)}
    stem = folder / f"family.{note['machine']['backend']}"
    report.write_timings(stem, results, cases, plot(cases))


if __name__ == "__main__":
    main()
