"""What does a step of each member of the family cost?

    python -m benchmarks.family [--rounds N] [--quick] [--out FOLDER]

Accumulators and regularised updates on an embedding table, against plain Adagrad on the
same table; SM3 against Optax's; the full-matrix form against one eigendecomposition of
its size. Contenders of a case share a process and take turns, and what is compared is
the median of the ratio within a round. Results, with a plot, go to
benchmarks/results/family.<device>.*.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj
from benchmarks.rows.__main__ import zipf
from benchmarks.side_by_side import Team, measure, median_ratio, serve

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
        draw = {
            "Zipf": lambda: zipf(rng, rows, (BATCHES, n)),
            "uniform": lambda: rng.integers(0, rows, (BATCHES, n)),
        }
        batches = [jnp.asarray(batch, jnp.int32) for batch in draw[ids]()]
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


def dense_step(optimizer: optax.GradientTransformation) -> Callable[..., Step]:
    def make(shapes: list[tuple[int, ...]]) -> Step:
        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, gradients):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = [jnp.ones(shape) for shape in shapes]
        gradients = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
        carry = [params, optimizer.init(params)]

        def run() -> None:
            carry[:] = jax.block_until_ready(step(*carry, gradients))

        return run

    return make


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


RATE = 0.01
MILLION, FEW, MANY = (10**6, 64, 8192), (500, 4, 64), (10**6, 64, 65536)


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
        "lazy decay": row_step(
            optax.chain(aj.adagrad(RATE), aj.lazy_weight_decay(RATE, 0.01)), ids
        ),
    }


SM3 = {
    "optax.sm3": dense_step(optax.sm3(RATE, momentum=0.0)),
    "SM3": dense_step(aj.adagrad(RATE, 0.0, accumulator=aj.SM3())),
    "Diagonal": dense_step(aj.adagrad(RATE, 0.0)),
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


# --- The report -----------------------------------------------------------------------


def run_case(number: int, rounds: int, quick: bool) -> dict[str, Any]:
    case = CASES[number]
    command = [sys.executable, "-m", "benchmarks.family", "--serve", str(number)]
    command += ["--quick"] if quick else []
    times = measure([Team(tuple(case.contenders), command, dict(os.environ))], rounds)
    baseline = next(iter(case.contenders))
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(seconds),
            "ratio": median_ratio(seconds, times[baseline]),
            "wanted": case.wanted.get(name),
        }
        for name, seconds in times.items()
    }


def as_table(cases: dict[str, Any]) -> str:
    lines = ["| case | | ms | ratio | wanted |", "|---|---|---|---|---|"]
    for title, rows in cases.items():
        for name, row in rows.items():
            wanted = "" if row["wanted"] is None else f"{row['wanted']:g}"
            lines.append(
                f"| {title} | {name} | {row['milliseconds']:.3g} "
                f"| {row['ratio']:.2f} | {wanted} |"
            )
            title = ""
    return "\n".join(lines) + "\n"


def plot(cases: dict[str, Any], path: pathlib.Path) -> None:
    """A row for each contender: its ratio, and the most that is wanted."""
    import matplotlib.pyplot as plt

    num_rows = sum(len(contenders) for contenders in cases.values())
    figure, axis = plt.subplots(figsize=(9, 0.23 * num_rows + 1), layout="constrained")
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
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one round")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # in a process
    args = parser.parse_args()
    if args.serve is not None:
        case = CASES[args.serve]
        size = case.quick if args.quick else case.size
        return serve([make(size) for make in case.contenders.values()])

    from tqdm import tqdm

    default = tempfile.mkdtemp() if args.quick else "benchmarks/results"
    out = args.out or pathlib.Path(default)
    out.mkdir(parents=True, exist_ok=True)
    rounds = 1 if args.quick else args.rounds
    cases = {}
    for number in tqdm(QUICK if args.quick else range(len(CASES)), unit="case"):
        cases[CASES[number].title] = run_case(number, rounds, args.quick)
    results = {
        "machine": f"{os.cpu_count()} cores",
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "optax": optax.__version__},
        "rounds": rounds,
        "cases": cases,
    }
    stem = f"family.{jax.default_backend()}"
    (out / f"{stem}.json").write_text(json.dumps(results, indent=2) + "\n")
    (out / f"{stem}.md").write_text(as_table(cases))
    plot(cases, out / f"{stem}.png")
    print(as_table(cases))


if __name__ == "__main__":
    main()
