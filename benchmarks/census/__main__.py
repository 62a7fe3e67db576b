"""How fast does Adagrad learn from little data? A click model on census records.

The Adagrad paper (Duchi, Hazan, Singer, JMLR 2011, Section 6) asked how low the test
error is after a small part of one pass over the data. Here is that question on one of
its data sets, "Census Income (KDD)", with the kind of model that Adagrad is used for
most today: wide and deep. Every column is a field of ids (numbers are cut at their
quantiles). The deep part embeds all 40 fields and feeds a small network; the wide part
hashes pairs of fields, say (occupation, education), to a table of 2^22 weights. A batch
touches few of those weights, most are touched rarely, and each needs a learning rate
of its own.

It gets one only if its squared gradients outweigh the accumulator's initial value. In a
mean over 256 rows, a weight that one row touches has a gradient below 1/256, its square
below 2e-5: from the usual initial value, 0.1, Adagrad would be almost SGD. We start at
1e-6, which was chosen on held-out training rows like the rest of the model.

The rows that a batch does not touch stay as they are, so a step need not visit them:
with ``aj.value_and_grad`` instead of ``jax.value_and_grad`` it does not.

Four steps, of which only two look at the test rows, and only to report:

1. Choose each optimizer's learning rate by the loss on held-out training rows.
2. Train once over all training rows, reporting test error and AUC on the way.
3. Train the final model with ``aj.adagrad``, a few passes with a falling rate.
4. Time a step with row-sparse gradients beside the same step with dense ones.

Run ``python -m benchmarks.census``; ``--quick`` for a smoke test on few rows.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from benchmarks import command, machine, report
from benchmarks.census import model
from benchmarks.census.data import Census, Rows, load_census
from benchmarks.census.model import (
    BATCH,
    CONTENDERS,
    CROSS_ROWS,
    Scores,
    Trainer,
    TrainState,
    cross_ids,
    shuffled_batches,
)
from benchmarks.census.report import plot, summary, tables

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
FINAL_PASSES = 8  # of 4, 6, 8 and 10; chosen on held-out training rows
# Cross tables for which a step is timed. Both contenders take turns of a few steps, so
# that other work on the machine slows down both.
SIZES = (2**20, CROSS_ROWS, 2**24)
TURNS, STEPS = 10, 6


def progress_bar(steps: int) -> tqdm:
    return command.progress_bar(steps * BATCH, " rows")


def choose_rates(
    trainers: dict[str, Trainer], census: Census, seed: int, quick: bool
) -> dict[str, dict[float, Scores]]:
    """Validation scores of each optimizer and rate after a pass over ``learn``."""
    batches = shuffled_batches(len(census.learn.labels), 1, seed)
    runs = [
        (name, rate)
        for name in trainers
        for rate in (CONTENDERS[name].rates[1::2] if quick else CONTENDERS[name].rates)
    ]
    scores: dict[str, dict[float, Scores]] = {name: {} for name in trainers}
    with progress_bar(len(runs) * len(batches)) as bar:
        for name, rate in runs:
            bar.set_description(f"1/4 rates: {name} {rate:g}", refresh=False)
            trainer = trainers[name]
            rates = np.full(len(batches), rate, np.float32)
            state = trainer.run(trainer.init(), census.learn, batches, rates, bar)
            scores[name][rate] = trainer.evaluate(state, census.validation)
    return scores


def learning_curves(
    trainers: dict[str, Trainer], rates: dict[str, float], census: Census, seed: int
) -> dict[str, list[Scores]]:
    """Test scores at each of ``FRACTIONS`` of one pass over all training rows."""
    batches = shuffled_batches(len(census.train.labels), 1, seed)
    marks = [0, *(round(part * len(batches)) for part in FRACTIONS)]
    curves: dict[str, list[Scores]] = {name: [] for name in trainers}
    with progress_bar(len(trainers) * len(batches)) as bar:
        for name, trainer in trainers.items():
            bar.set_description(f"2/4 curves: {name}", refresh=False)
            state = trainer.init()
            for start, stop in itertools.pairwise(marks):
                part = np.full(stop - start, rates[name], np.float32)
                state = trainer.run(state, census.train, batches[start:stop], part, bar)
                curves[name].append(trainer.evaluate(state, census.test))
    return curves


def final_model(
    trainer: Trainer, rate: float, train: Rows, passes: int, seed: int
) -> tuple[TrainState, float]:
    """The final model and the seconds of its training (the step is compiled by now)."""
    batches = shuffled_batches(len(train.labels), passes, seed)
    rates = np.linspace(rate, 0, len(batches), endpoint=False, dtype=np.float32)
    with progress_bar(len(batches)) as bar:
        bar.set_description("3/4 final model: aj.adagrad", refresh=False)
        start = time.perf_counter()
        state = trainer.run(trainer.init(), train, batches, rates, bar)
        return state, time.perf_counter() - start


def time_steps(
    trainers: dict[str, Trainer], census: Census, seed: int, quick: bool
) -> dict[str, Any]:
    """What a step reads and what it costs, by rows of the cross table.

    The trainers have compiled it for ``CROSS_ROWS``.
    """
    sizes, num_turns = ((CROSS_ROWS,), 2) if quick else (SIZES, TURNS)
    rng = np.random.default_rng([seed, 2])
    numbers = rng.integers(len(census.train.labels), size=(num_turns, STEPS, BATCH))
    turns = [[census.train.take(batch) for batch in turn] for turn in numbers]
    trainer = trainers["aj.adagrad"]
    costs = {}
    with progress_bar(len(sizes) * numbers.size // BATCH) as bar:
        for cross_rows in sizes:
            bar.set_description(f"4/4 steps: {cross_rows:,} crosses", refresh=False)
            both = {
                name: trainers[name]
                if cross_rows == CROSS_ROWS
                else Trainer(name, census, seed, cross_rows)
                for name in ("aj.adagrad", "optax.adagrad")
            }
            costs[str(cross_rows)] = time_turns(both, turns, bar)
    return {
        "rows_read": np.mean([rows_read(trainer, batch) for batch in turns[0]]),
        "table_rows": CROSS_ROWS + census.num_ids,
        "costs": costs,
    }


def time_turns(
    trainers: dict[str, Trainer], turns: list[list[Rows]], bar: tqdm
) -> dict[str, dict[str, float]]:
    """Median time and temporary memory of one step of each Adagrad."""
    rate = np.float32(0.01)
    states, steps = {}, {}
    for name, trainer in trainers.items():
        states[name] = trainer.init()
        steps[name] = trainer.step.lower(states[name], turns[0][0], rate).compile()
    seconds = {name: [] for name in steps}
    for turn in turns:
        for name, step in steps.items():
            for batch in turn:
                start = time.perf_counter()
                states[name], _ = jax.block_until_ready(step(states[name], batch, rate))
                seconds[name].append(time.perf_counter() - start)
        bar.update(len(turn) * BATCH)
    return {
        name: {
            "milliseconds": 1e3 * float(np.median(seconds[name])),
            "temporary_bytes": step.memory_analysis().temp_size_in_bytes,
        }
        for name, step in steps.items()
    }


def rows_read(trainer: Trainer, batch: Rows) -> int:
    """How many different rows of both tables a step on ``batch`` needs."""
    crosses = cross_ids(batch.ids, trainer.pairs, trainer.cross_rows)
    return len(np.unique(batch.ids)) + len(np.unique(crosses))


def run_demo(seed: int, quick: bool) -> dict[str, Any]:
    """All four steps; returns everything that was chosen and measured."""
    clock = [time.perf_counter()]
    note = machine.describe()
    census = load_census(seed, quick)
    trainers = {name: Trainer(name, census, seed) for name in CONTENDERS}
    scores = choose_rates(trainers, census, seed, quick)
    rates = {
        name: min(tried, key=lambda rate: tried[rate]["loss"])
        for name, tried in scores.items()
    }
    clock.append(time.perf_counter())
    curves = learning_curves(trainers, rates, census, seed)
    clock.append(time.perf_counter())
    passes = 1 if quick else FINAL_PASSES
    trainer, rate = trainers["aj.adagrad"], rates["aj.adagrad"]
    state, seconds = final_model(trainer, rate, census.train, passes, seed)
    final = trainer.evaluate(state, census.test)
    steps = time_steps(trainers, census, seed, quick)
    clock.append(time.perf_counter())
    return {
        "settings": {"seed": seed, "quick": quick, **describe_model(census)},
        **note,
        "validation": scores,
        "rates": rates,
        "fractions": FRACTIONS,
        "curves": curves,
        "majority_accuracy": 1 - float(census.test.labels.mean()),
        "final": {
            "passes": passes,
            "first_rate": rate,
            "accuracy": 1 - final["error"],
            **final,
            "rows_per_second": passes * len(census.train.labels) / seconds,
        },
        "steps": steps,
        "seconds": {
            "rates": clock[1] - clock[0],
            "curves": clock[2] - clock[1],
            "final": seconds,
            "total": clock[3] - clock[0],
        },
    }


def describe_model(census: Census) -> dict[str, Any]:
    return {
        "learn_rows": len(census.learn.labels),
        "validation_rows": len(census.validation.labels),
        "train_rows": len(census.train.labels),
        "test_rows": len(census.test.labels),
        "batch": BATCH,
        "num_ids": census.num_ids,
        "embedding_dim": model.EMBEDDING_DIM,
        "hidden": model.HIDDEN,
        "dropout": model.DROPOUT,
        "crossed": model.CROSSED,
        "cross_rows": CROSS_ROWS,
        "initial_accumulator_value": model.INITIAL_ACCUMULATOR,
    }


def main() -> None:
    parser = command.parser("census", __doc__)
    parser.add_argument("--seed", type=int, default=0)
    args = command.parse(parser)
    results = run_demo(args.seed, args.quick)
    print(summary(results))
    stem = command.results_folder(args) / "census"
    report.write(stem, results, tables(results), plot(results))


if __name__ == "__main__":
    main()
