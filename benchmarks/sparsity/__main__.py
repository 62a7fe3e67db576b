"""How few weights does a model need, and how good is it then? Adagrad with L1.

The Adagrad paper (Duchi, Hazan, Singer, JMLR 2011, Section 6) compared two ways to
train with an L1 penalty, mirror descent and dual averaging, each with Adagrad's metric
and with the plain one, by the test error that they reach at a share of weights that are
not 0. Here is that question on one of its data sets, "Census Income (KDD)": a logistic
regression on the demo's features, every field one-hot (numbers cut at their quantiles)
and the hashed pairs of 16 fields. One pass in small batches, weights from 0.

The loss is the sum over a batch, not its mean, so that squared gradients outweigh the
accumulators' initial value; the penalty is added once a step.

With ``aj.value_and_grad`` a step reads and writes only the weights of its batch, so a
penalty shrinks a weight only in the steps that read it. The paper's methods shrink all
weights in each step; ``jax.value_and_grad`` makes the same optimizers do that. Both
ways are measured.

For each method, way and L1 strength the learning rate is the one with the lowest log
loss on held-out training rows. Test rows are only reported on. All strengths are
trained at once, by ``jax.vmap``.

Run ``python -m benchmarks.sparsity``; ``--quick`` for a smoke test on few rows.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import adagrad_jax as aj
from benchmarks import command, machine, report
from benchmarks.census.data import Rows, load_census
from benchmarks.census.model import CROSS_ROWS, CROSSED, area_under_curve, cross_ids
from benchmarks.sparsity.report import plot, summary, table

BATCH = 32
INITIAL_ACCUMULATOR = 0.1
SEEDS = 3  # orders of the training rows
PART = 250  # steps between two moves of the progress bar
WAYS = {"row-sparse": aj.value_and_grad, "dense": jax.value_and_grad}


class Data(NamedTuple):
    """``ids`` are numbered from 0 by the weights that training rows use; others, of
    which only test rows can have some, are ``num_weights``."""

    learn: Rows
    validation: Rows
    train: Rows
    test: Rows
    num_weights: int
    table_rows: int


def load_data(quick: bool) -> Data:
    """The demo's data and features, in one table."""
    census = load_census(0, quick)
    fields = [census.fields.index(field) for field in CROSSED]
    pairs = np.array(list(itertools.combinations(fields, 2)))
    cross = jax.jit(lambda ids: census.num_ids + cross_ids(ids, pairs, CROSS_ROWS))
    table_rows = census.num_ids + CROSS_ROWS

    def all_ids(rows: Rows) -> np.ndarray:
        return np.concatenate([rows.ids, np.asarray(cross(rows.ids))], axis=1)

    seen = np.zeros(table_rows, bool)
    seen[all_ids(census.train)] = True
    num_weights = int(seen.sum())
    numbers = np.where(seen, np.cumsum(seen) - 1, num_weights).astype(np.int32)
    splits = (census.learn, census.validation, census.train, census.test)
    parts = [Rows(numbers[all_ids(rows)], rows.labels) for rows in splits]
    return Data(*parts, num_weights, table_rows)


class Optimizer(NamedTuple):
    """``init(weights) -> state``; ``step(gradient, state, weights)``, both new."""

    init: Callable[[jax.Array], Any]
    step: Callable[[Any, Any, jax.Array], tuple[jax.Array, Any]]


def of_library(transformation: Any) -> Optimizer:
    def step(gradient: Any, state: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
        updates, state = transformation.update(gradient, state, weights)
        return aj.apply_updates(weights, updates), state

    return Optimizer(transformation.init, step)


def fobos(rate: Any, l1: Any) -> Optimizer:
    """Mirror descent with a rate for all weights that falls as 1 / sqrt(step)."""

    def step(gradient: Any, count: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
        rows, values = rows_of(gradient)
        now = rate / jnp.sqrt(count + 1.0)
        moved = weights.at[rows].add(-now * values)
        # A row may be there twice: what is set must be the same each time.
        return moved.at[rows].set(soft_threshold(moved[rows], now * l1)), count + 1

    return Optimizer(lambda weights: jnp.zeros((), jnp.int32), step)


def rda(rate: Any, l1: Any) -> Optimizer:
    """Xiao's dual averaging: the threshold is for the mean of all gradients."""

    def step(gradient: Any, state: Any, weights: jax.Array) -> tuple[jax.Array, Any]:
        rows, values = rows_of(gradient)
        count = state[0] + 1.0
        total = state[1].at[rows].add(values)
        new = -rate / jnp.sqrt(count) * soft_threshold(total[rows], count * l1)
        return weights.at[rows].set(new), (count, total)

    return Optimizer(lambda weights: (jnp.zeros(()), jnp.zeros_like(weights)), step)


def rows_of(gradient: Any) -> tuple[Any, jax.Array]:
    """Which rows a gradient has, and their entries, unsummed."""
    if isinstance(gradient, aj.RowSparse):
        return gradient.ids, gradient.values
    return slice(None), gradient


def soft_threshold(x: jax.Array, by: jax.Array) -> jax.Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - by, 0)


class Method(NamedTuple):
    """Makes an optimizer of a learning rate and an L1 strength; which are tried."""

    make: Callable[[Any, Any], Optimizer]
    rates: tuple[float, ...]
    l1: tuple[float, float]  # smallest and largest


RATES = (0.02, 0.05, 0.15, 0.4)
METHODS = {
    "aj.proximal_adagrad": Method(
        lambda rate, l1: of_library(
            aj.proximal_adagrad(rate, INITIAL_ACCUMULATOR, l1=l1)
        ),
        RATES,
        (1e-3, 0.7),
    ),
    "aj.adagrad_da": Method(
        lambda rate, l1: of_library(aj.adagrad_da(rate, INITIAL_ACCUMULATOR, l1=l1)),
        RATES,
        (1e-4, 0.3),
    ),
    # Its threshold is for the sum of all gradients, not for their mean.
    "aj.ftrl": Method(
        lambda rate, l1: of_library(
            aj.ftrl(rate, -0.5, INITIAL_ACCUMULATOR, l1_regularization_strength=l1)
        ),
        RATES,
        (0.3, 1000.0),
    ),
    "FOBOS": Method(fobos, RATES, (1e-3, 0.7)),
    "RDA": Method(rda, (0.06, 0.15, 0.4, 1.0), (1e-4, 0.3)),
}


class Trainer:
    """One method, one way: a model for each strength in ``l1``, side by side."""

    def __init__(self, name: str, way: str, data: Data, quick: bool):
        self.method, self.value_and_grad = METHODS[name], WAYS[way]
        self.num_weights = data.num_weights
        strengths = np.geomspace(*self.method.l1, 2 if quick else 8)
        self.l1 = np.array([0.0, *strengths], np.float32)
        self.part = jax.jit(
            jax.vmap(self._part, in_axes=(0, None, None, 0, 0)), donate_argnums=0
        )

    def _part(self, carry: Any, batches: Rows, steps: Any, rate: Any, l1: Any) -> Any:
        optimizer = self.method.make(rate, l1)

        def step(number: Any, carry: Any) -> Any:
            weights, state = carry
            ids, labels = batches.ids[number], batches.labels[number]

            def loss_of(weights: jax.Array) -> jax.Array:
                logits = weights[ids].sum(axis=(1, 2))
                return jnp.sum(jnp.logaddexp(0, logits) - labels * logits)

            _, gradient = self.value_and_grad(loss_of)(weights)
            return optimizer.step(gradient, state, weights)

        return jax.lax.fori_loop(0, steps, step, carry)

    def run(self, rows: Rows, rates: np.ndarray, seed: int, bar: tqdm) -> jax.Array:
        """The weights after one pass, (strengths, weights, 1); a rate for each."""

        def init(rate: Any, l1: Any) -> Any:
            weights = jnp.zeros((self.num_weights, 1))
            return weights, self.method.make(rate, l1).init(weights)

        rates = np.asarray(rates, np.float32)
        carry = jax.vmap(init)(rates, self.l1)
        batches = np.random.default_rng(seed).permutation(len(rows.labels))
        batches = batches[: len(batches) // BATCH * BATCH].reshape(-1, BATCH)
        for start in range(0, len(batches), PART):
            part = batches[start : start + PART]
            # The last part is filled up, so that it needs no compilation of its own.
            filled = rows.take(np.resize(part, (PART, BATCH)))
            carry = self.part(carry, filled, len(part), rates, self.l1)
            jax.block_until_ready(carry)
            bar.update(len(part) * len(rates))
        return carry[0]


@jax.jit
def predict(weights: jax.Array, ids: jax.Array) -> jax.Array:
    """Log-odds, (strengths, rows)."""
    return jax.lax.map(
        lambda w: w.at[ids].get(mode="fill", fill_value=0).sum(axis=(1, 2)), weights
    )


def log_losses(weights: jax.Array, rows: Rows) -> np.ndarray:
    logits = np.asarray(predict(weights, rows.ids), np.float64)
    return (np.logaddexp(0, logits) - rows.labels * logits).mean(axis=1)


def choose_rates(trainer: Trainer, data: Data, quick: bool, bar: tqdm) -> np.ndarray:
    """For each strength the rate with the lowest log loss on held-out rows."""
    tried = np.array(trainer.method.rates[:: 2 if quick else 1])
    losses = []
    for rate in tried:
        weights = trainer.run(data.learn, np.full(len(trainer.l1), rate), 0, bar)
        losses.append(log_losses(weights, data.validation))
    return tried[np.argmin(losses, axis=0)]


def test_scores(weights: jax.Array, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Share of non-zero weights, error and AUC, (3, strengths); what is wrong."""
    logits = np.asarray(predict(weights, data.test.ids))
    positive = data.test.labels == 1
    wrong = (logits > 0) != positive
    share = np.asarray((weights != 0).mean(axis=(1, 2)))
    auc = [area_under_curve(scores, positive) for scores in logits]
    return np.array([share, wrong.mean(axis=1), auc]), wrong


def measure(
    trainer: Trainer, data: Data, seeds: int, quick: bool, bar: tqdm
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A point of the curve for each strength, and on which test rows it is wrong."""
    rates = choose_rates(trainer, data, quick, bar)
    scores = []
    for seed in range(1, seeds + 1):
        found, wrong = test_scores(trainer.run(data.train, rates, seed, bar), data)
        scores.append(found)
    points = [
        {
            "l1": float(f"{l1:.3g}"),
            "rate": float(rate),
            "share": each[:, 0].mean(),
            "error": each[:, 1].mean(),
            "auc": each[:, 2].mean(),
            "shares": each[:, 0].tolist(),
            "errors": each[:, 1].tolist(),
        }
        for l1, rate, each in zip(
            trainer.l1, rates, np.moveaxis(scores, 2, 0), strict=True
        )
    ]
    return points, wrong


def standard_errors(wrong: np.ndarray) -> dict[str, float]:
    """Of a test error (the largest), and of the difference of two on the same rows.

    Of all models that are wrong in fewer than 5 % of the rows.
    """
    rows = wrong.shape[1]
    wrong = wrong[wrong.mean(axis=1) < 0.05].astype(np.float32)
    if not len(wrong):
        return {}
    both = wrong @ wrong.T / rows
    error = np.diag(both)
    disagree = error[:, None] + error - 2 * both
    return {
        "error": float(np.sqrt(error * (1 - error) / rows).max()),
        "difference, median": float(np.sqrt(np.median(disagree) / rows)),
        "difference, largest": float(np.sqrt(disagree.max() / rows)),
    }


def run_benchmark(seeds: int, quick: bool) -> dict[str, Any]:
    start = time.perf_counter()
    note = machine.describe()
    data = load_data(quick)
    runs = list(itertools.product(WAYS, METHODS))
    curves: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
    all_wrong = []
    trainers = {(way, name): Trainer(name, way, data, quick) for way, name in runs}
    steps = count_steps(trainers, data, seeds, quick)
    with command.progress_bar(steps, " steps") as bar:
        for (way, name), trainer in trainers.items():
            bar.set_description(f"{name}, {way}", refresh=False)
            curves[way][name], wrong = measure(trainer, data, seeds, quick, bar)
            all_wrong.append(wrong)
    return {
        "settings": {
            "quick": quick,
            "seeds": seeds,
            "batch": BATCH,
            "initial_accumulator_value": INITIAL_ACCUMULATOR,
            "train_rows": len(data.train.labels),
            "validation_rows": len(data.validation.labels),
            "test_rows": len(data.test.labels),
            "ids_per_row": data.train.ids.shape[1],
            "weights": data.num_weights,
            "table_rows": data.table_rows,
            "rates": {name: method.rates for name, method in METHODS.items()},
        },
        **note,
        "majority_error": float(data.test.labels.mean()),
        "standard_errors": standard_errors(np.concatenate(all_wrong)),
        "curves": curves,
        "seconds": time.perf_counter() - start,
    }


def count_steps(
    trainers: dict[Any, Trainer], data: Data, seeds: int, quick: bool
) -> int:
    """Of single models, in all runs."""
    learn, train = (len(x.labels) // BATCH for x in (data.learn, data.train))
    return sum(
        len(t.l1) * (len(t.method.rates[:: 2 if quick else 1]) * learn + seeds * train)
        for t in trainers.values()
    )


def main() -> None:
    parser = command.parser("sparsity", __doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="orders of the rows")
    args = command.parse(parser)
    results = run_benchmark(1 if args.quick else args.seeds, args.quick)
    print(summary(results))
    stem = command.results_folder(args) / "sparsity"
    report.write(stem, results, report.markdown(table(results)), plot(results))


if __name__ == "__main__":
    main()
