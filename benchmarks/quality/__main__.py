"""Which method learns how well? The family and its peers on two real data sets.

Every accumulator and every sibling beside SGD, SGD with momentum, Adam and Optax's
Adagrad: the wide and deep click model of `benchmarks.census` on "Census Income (KDD)",
one pass, and a small network on scikit-learn's handwritten digits, some passes. The
family trains the table of crosses by its rows, the others by dense gradients.

1. Choose each method's learning rate by the loss on held-out training rows: of five
   that are a factor of 3 apart, of further ones as long as the best is at the end, and
   of the two between it and its neighbours.
2. Train with it from five seeds, each of which gives other initial parameters and
   another order of the rows, and measure on the test rows along the way. No test row
   chooses anything.

Run ``python -m benchmarks.quality``; ``--quick`` for a smoke test on few rows.
"""

import math
import time
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import command, machine, report
from benchmarks.quality import choice, methods
from benchmarks.quality.methods import BASELINE, METHODS
from benchmarks.quality.report import plot, summary, tables
from benchmarks.quality.tasks import TASKS, Task
from benchmarks.quality.training import Evaluation, Trainer

SEEDS = 5
FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)  # of the run
# Methods on the tables of a hurried run: compiling all of them takes a minute.
QUICK = (BASELINE, "aj.ftrl + aj.adagrad", "optax.adam")


def choose_rate(trainer: Trainer, name: str, quick: bool, bar: tqdm) -> dict[str, Any]:
    """The rate with the lowest validation loss, and the losses of all tried ones."""
    sizes = (1, 1) if quick else (choice.NUM_RATES, choice.MOST_RATES)
    losses = choice.try_rates(
        lambda rate: trainer.validation_loss(rate, bar), trainer.method.first, *sizes
    )
    at_end = choice.is_at_end(losses)
    if at_end and not quick:
        title = trainer.task.title
        bar.write(f"WARNING: {name}, {title}: the best rate is at the end of all tried")
    return {
        "rate": choice.lowest(losses),
        "best_is_at_end": at_end,
        "validation": {f"{rate:g}": loss for rate, loss in losses.items()},
    }


def measure(
    trainer: Trainer, rate: float, seeds: int, bar: tqdm
) -> tuple[dict[str, Any], Evaluation]:
    """The scores along the run of each seed, and all that was found at the end."""
    task = trainer.task
    runs = [
        trainer.run(seed, task.train, rate, FRACTIONS, task.test, bar)
        for seed in range(1, seeds + 1)
    ]
    curves = [[point.scores for point in run] for run in runs]
    scores = {
        score: {
            "curves": [[point[score] for point in curve] for curve in curves],
            **choice.mean_and_error([curve[-1][score] for curve in curves]),
        }
        for score in ("loss", "error")
    }
    last = Evaluation(*map(np.stack, zip(*(run[-1] for run in runs), strict=True)))
    return scores, last


def run_task(task: Task, seeds: int, quick: bool, bar: tqdm) -> dict[str, Any]:
    """What each method found; the differences are to ``BASELINE``'s."""
    found: dict[str, dict[str, Any]] = {}
    ends: dict[str, Evaluation] = {}
    for name in names_of(task, quick):
        bar.set_description(f"{task.title}: {name.removeprefix('aj.')}", refresh=False)
        trainer = Trainer(task, METHODS[name])
        chosen = choose_rate(trainer, name, quick, bar)
        scores, ends[name] = measure(trainer, chosen["rate"], seeds, bar)
        found[name] = chosen | scores
        for score, all_rows in (("loss", "losses"), ("error", "wrong")):
            found[name][score]["difference"] = choice.difference(
                getattr(ends[name], all_rows).astype(np.float64),
                getattr(ends[BASELINE], all_rows).astype(np.float64),
            )
    return {"settings": describe(task), "methods": found}


def names_of(task: Task, quick: bool) -> list[str]:
    if not task.has_tables:
        return list(METHODS)
    return [n for n in (QUICK if quick else METHODS) if METHODS[n].fits_tables]


def finite(results: Any) -> Any:
    """For JSON, which has neither NaN nor infinity: None where training diverged."""
    if isinstance(results, dict):
        return {key: finite(value) for key, value in results.items()}
    if isinstance(results, list | tuple):
        return [finite(value) for value in results]
    diverged = isinstance(results, float) and not math.isfinite(results)
    return None if diverged else results


def describe(task: Task) -> dict[str, Any]:
    learn, validation = task.split(task.choosing_seeds[0])
    return {
        "train_rows": len(task.train.labels),
        "test_rows": len(task.test.labels),
        "learn_rows_for_rates": len(learn.labels),
        "validation_rows_for_rates": len(validation.labels),
        "seeds_for_rates": len(task.choosing_seeds),
        "passes": task.passes,
        "batch": task.batch,
        **task.note,
    }


def count_steps(task: Task, seeds: int, quick: bool) -> int:
    """At least: rates that are tried in addition are not known before."""
    learn, _ = task.split(task.choosing_seeds[0])
    learning, training = (
        len(rows.labels) * task.passes // task.batch for rows in (learn, task.train)
    )
    rates = ((1 if quick else choice.NUM_RATES) + 2) * len(task.choosing_seeds)
    return len(names_of(task, quick)) * (rates * learning + seeds * training)


def run_benchmark(seeds: int, quick: bool) -> dict[str, Any]:
    start = time.perf_counter()
    note = machine.describe()
    tasks = {name: make(quick) for name, make in TASKS.items()}
    steps = sum(count_steps(task, seeds, quick) for task in tasks.values())
    with command.progress_bar(steps, " steps") as bar:
        found = {
            name: run_task(task, seeds, quick, bar) for name, task in tasks.items()
        }
    return {
        "settings": {
            "quick": quick,
            "seeds": seeds,
            "fractions": FRACTIONS,
            "baseline": BASELINE,
            "initial_accumulator_value": methods.INITIAL_ACCUMULATOR,
            "epsilon": methods.EPSILON,
            "ftrl_l1": methods.FTRL_L1,
            "proximal_l1": methods.PROXIMAL_L1,
        },
        **note,
        "tasks": found,
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = command.parser("quality", __doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="at least 2")
    args = command.parse(parser)
    results = run_benchmark(2 if args.quick else args.seeds, args.quick)
    print(summary(results))
    stem = command.results_folder(args) / "quality"
    report.write(stem, finite(results), tables(results), plot(results))


if __name__ == "__main__":
    main()
