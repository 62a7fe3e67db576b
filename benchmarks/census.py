"""How fast does Adagrad learn from little data? A click model on census records.

The Adagrad paper (Duchi, Hazan, Singer, JMLR 2011, Section 6) asked how low the test
error is after a small part of one pass over the data. Here is that question on one of
its data sets, "Census Income (KDD)", with the kind of model that Adagrad is used for
most today: wide and deep. Every column is a field of ids (numbers are cut at their
quantiles). The deep part embeds all 40 fields and feeds a small network; the wide part
hashes pairs of fields, say (occupation, education), to a table of 2^20 weights. A batch
touches few of those weights, most are touched rarely, and each needs a learning rate
of its own.

It gets one only if its squared gradients outweigh the accumulator's initial value. In a
mean over 256 rows, a weight that one row touches has a gradient below 1/256, its square
below 2e-5: from the usual initial value, 0.1, Adagrad would be almost SGD. We start at
1e-6, which was chosen on held-out training rows like the rest of the model.

Three steps, of which only the last two look at the test rows, and only to report:

1. Choose each optimizer's learning rate by the loss on held-out training rows.
2. Train once over all training rows, reporting test error and AUC on the way.
3. Train the final model with ``aj.adagrad``, a few passes with a falling rate.

Run ``python -m benchmarks.census``; ``--quick`` for a smoke test on few rows.
"""

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import rankdata
from tqdm import tqdm

import adagrad_jax as aj
from benchmarks.census_data import Census, Rows, load_census
from benchmarks.census_report import plot, summary

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)

# The model. All of it was chosen by accuracy on held-out training rows.
EMBEDDING_DIM = 8
HIDDEN = (128, 64)
DROPOUT = 0.2
CROSS_BITS = 20  # the cross table has 2^CROSS_BITS rows
CROSSED = (
    "class_of_worker",
    "industry_code",
    "occupation_code",
    "education",
    "marital_status",
    "major_occupation",
    "sex",
    "tax_filer_status",
    "household_family_status",
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "dividends",
    "persons_worked_for_employer",
    "weeks_worked",
)

# The training.
BATCH = 256
INITIAL_ACCUMULATOR = 1e-6
FINAL_PASSES = 6
LOSS_EVERY = 50  # steps between two looks at the loss: each look waits for the device

Params = dict[str, Any]
Scores = dict[str, float]
MakeOptimizer = Callable[[Any], optax.GradientTransformation]

# Each optimizer, given a learning rate, and the rates to choose from.
OPTIMIZERS: dict[str, tuple[MakeOptimizer, tuple[float, ...]]] = {
    "aj.adagrad": (
        lambda rate: aj.adagrad(rate, INITIAL_ACCUMULATOR, epsilon=1e-7),
        (0.005, 0.01, 0.02, 0.04, 0.08),
    ),
    "optax.adagrad": (
        lambda rate: optax.adagrad(rate, INITIAL_ACCUMULATOR, eps=1e-7),
        (0.005, 0.01, 0.02, 0.04, 0.08),
    ),
    "optax.adam": (optax.adam, (0.0003, 0.001, 0.002, 0.004, 0.01)),
    "optax.sgd": (optax.sgd, (0.03, 0.1, 0.3, 1.0, 3.0)),
}


def init_params(key: jax.Array, census: Census) -> Params:
    """Small random embeddings, He-initialized layers, and crosses that start at 0."""
    embed_key, *layer_keys = jax.random.split(key, len(HIDDEN) + 2)
    widths = (len(census.fields) * EMBEDDING_DIM, *HIDDEN, 1)
    layers = [
        {
            "w": jax.random.normal(k, (fan_in, fan_out)) * (2 / fan_in) ** 0.5,
            "b": jnp.zeros(fan_out),
        }
        for k, (fan_in, fan_out) in zip(
            layer_keys, itertools.pairwise(widths), strict=True
        )
    ]
    embeddings = 0.1 * jax.random.normal(embed_key, (census.num_ids, EMBEDDING_DIM))
    crosses = jnp.zeros((2**CROSS_BITS, 1))
    return {"embeddings": embeddings, "crosses": crosses, "layers": layers}


def cross_rows(ids: jax.Array, pairs: np.ndarray) -> jax.Array:
    """The cross table's row for each pair of fields: (batch, fields) -> (batch, pairs).

    Ids are below 2^16 and numbered across fields, so that two of them in one uint32
    name the pair and its values; a mixing hash then spreads them over the table.
    """
    left, right = ids[:, pairs[:, 0]], ids[:, pairs[:, 1]]
    key = left.astype(jnp.uint32) * 65536 + right.astype(jnp.uint32)
    key = (key ^ (key >> 15)) * jnp.uint32(2654435769)
    key = (key ^ (key >> 13)) * jnp.uint32(2246822519)
    return (key >> (32 - CROSS_BITS)).astype(jnp.int32)


@jax.jit
def predict(
    params: Params, ids: jax.Array, pairs: np.ndarray, key: jax.Array | None = None
) -> jax.Array:
    """Log-odds of each row; with a key, the hidden layers drop units at random."""
    hidden = params["embeddings"][ids].reshape(len(ids), -1)
    *inner, last = params["layers"]
    for number, layer in enumerate(inner):
        hidden = jax.nn.relu(hidden @ layer["w"] + layer["b"])
        if key is not None:
            kept = jax.random.bernoulli(
                jax.random.fold_in(key, number), 1 - DROPOUT, hidden.shape
            )
            hidden = hidden * kept / (1 - DROPOUT)
    deep = hidden @ last["w"] + last["b"]
    wide = params["crosses"][cross_rows(ids, pairs)].sum(axis=1)
    return (deep + wide)[:, 0]


class TrainState(NamedTuple):
    params: Params
    optimizer: optax.OptState
    key: jax.Array


class Trainer:
    """One optimizer on the model. The jitted step takes the learning rate as an
    argument, so that all rates share one compilation."""

    def __init__(self, optimizer: str, census: Census, seed: int):
        self.make_optimizer, _ = OPTIMIZERS[optimizer]
        self.census, self.seed = census, seed
        fields = [census.fields.index(name) for name in CROSSED]
        self.pairs = np.array(list(itertools.combinations(fields, 2)))
        self.step = jax.jit(self._step, donate_argnums=0)

    def init(self) -> TrainState:
        key, dropout_key = jax.random.split(jax.random.key(self.seed))
        params = init_params(key, self.census)
        return TrainState(params, self.make_optimizer(0.0).init(params), dropout_key)

    def _step(
        self, state: TrainState, batch: Rows, rate: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        key, dropout_key = jax.random.split(state.key)

        def loss_of(params: Params) -> jax.Array:
            logits = predict(params, batch.ids, self.pairs, dropout_key)
            return optax.sigmoid_binary_cross_entropy(logits, batch.labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(state.params)
        updates, optimizer_state = self.make_optimizer(rate).update(
            gradients, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, optimizer_state, key), loss

    def run(
        self,
        state: TrainState,
        rows: Rows,
        batches: np.ndarray,
        rates: np.ndarray,
        bar: tqdm,
    ) -> TrainState:
        """One step for each row of ``batches``, (steps, BATCH) row numbers."""
        losses = []
        for batch, rate in zip(batches, rates, strict=True):
            state, loss = self.step(state, rows.take(batch), rate)
            losses.append(loss)
            if len(losses) == LOSS_EVERY:
                bar.set_postfix(loss=f"{np.mean(losses):.4f}", refresh=False)
                bar.update(len(losses) * BATCH)
                losses = []
        jax.block_until_ready(state.params)
        bar.update(len(losses) * BATCH)
        return state

    def evaluate(self, state: TrainState, rows: Rows) -> Scores:
        """Error, area under the ROC curve and mean log-loss."""
        logits = np.asarray(predict(state.params, rows.ids, self.pairs), np.float64)
        positive = rows.labels == 1
        loss = np.logaddexp(0, logits) - logits * positive
        return {
            "error": float(np.mean((logits > 0) != positive)),
            "auc": area_under_curve(logits, positive),
            "loss": float(np.mean(loss)),
        }


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive row scores above a negative one (ties: half)."""
    num_positive, num_negative = positive.sum(), (~positive).sum()
    rank_sum = rankdata(scores)[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(rank_sum / (num_positive * num_negative))


def shuffled_batches(num_rows: int, passes: int, seed: int) -> np.ndarray:
    """Row numbers in random order, (steps, BATCH), without a last incomplete batch."""
    rng = np.random.default_rng([seed, 1])
    order = np.concatenate([rng.permutation(num_rows) for _ in range(passes)])
    return order[: len(order) // BATCH * BATCH].reshape(-1, BATCH)


def progress_bar(steps: int) -> tqdm:
    """Counts rows; in a log file it writes a line now and then, not ten a second."""
    seconds = 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(
        total=steps * BATCH,
        unit=" rows",
        unit_scale=True,
        mininterval=seconds,
        # Short enough for 80 columns: a longer line loses its end, which is the loss.
        bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining}, {rate_fmt}{postfix}",
    )


def choose_rates(
    trainers: dict[str, Trainer], census: Census, seed: int, quick: bool
) -> dict[str, dict[float, Scores]]:
    """Validation scores of each optimizer and rate after a pass over ``learn``."""
    batches = shuffled_batches(len(census.learn.labels), 1, seed)
    runs = [
        (name, rate)
        for name in trainers
        for rate in OPTIMIZERS[name][1][:: 2 if quick else 1]
    ]
    scores: dict[str, dict[float, Scores]] = {name: {} for name in trainers}
    with progress_bar(len(runs) * len(batches)) as bar:
        for name, rate in runs:
            bar.set_description(f"1/3 rates: {name} {rate:g}", refresh=False)
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
            bar.set_description(f"2/3 curves: {name}", refresh=False)
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
        bar.set_description("3/3 final model: aj.adagrad", refresh=False)
        start = time.perf_counter()
        state = trainer.run(trainer.init(), train, batches, rates, bar)
        return state, time.perf_counter() - start


def run_demo(seed: int, quick: bool) -> dict[str, Any]:
    """All three steps; returns everything that was chosen and measured."""
    clock = [time.perf_counter()]
    census = load_census(seed, quick)
    trainers = {name: Trainer(name, census, seed) for name in OPTIMIZERS}
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
    clock.append(time.perf_counter())
    return {
        "settings": {"seed": seed, "quick": quick, **describe_model(census)},
        "machine": describe_machine(),
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
        "embedding_dim": EMBEDDING_DIM,
        "hidden": HIDDEN,
        "dropout": DROPOUT,
        "crossed": CROSSED,
        "cross_rows": 2**CROSS_BITS,
        "initial_accumulator_value": INITIAL_ACCUMULATOR,
    }


def describe_machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "platform": f"{platform.system()} {platform.machine()}",
        "backend": jax.default_backend(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "optax": optax.__version__,
        "adagrad_jax": aj.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.census")
    parser.add_argument("--quick", action="store_true", help="smoke test on few rows")
    parser.add_argument("--out", type=Path, help="folder for census.json, census.png")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    # A smoke test must not overwrite real results.
    scratch = Path(tempfile.gettempdir()) / "adagrad_jax_demo"
    out = args.out or (scratch if args.quick else Path(__file__).parent / "results")
    out.mkdir(parents=True, exist_ok=True)
    results = run_demo(args.seed, args.quick)
    (out / "census.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results).savefig(out / "census.png", dpi=120)
    print(summary(results))
    print(f"Wrote census.json and census.png to {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
