"""The click model of the census demo, the optimizers that train it, and its training.

``aj.adagrad`` trains by ``aj.value_and_grad``, whose gradient of the larger table holds
only the rows of the batch; the smaller one has fewer rows than a batch has ids. The
other optimizers know nothing less than arrays of the tables' size, which they get from
``jax.value_and_grad``.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import adagrad_jax as aj
from benchmarks.census.data import Census, Rows

# The model. All of it was chosen by accuracy on held-out training rows.
EMBEDDING_DIM = 8
HIDDEN = (128, 64)
DROPOUT = 0.2
CROSS_ROWS = 2**22
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
LOSS_EVERY = 50  # steps between two looks at the loss: each look waits for the device

Params = dict[str, Any]
Scores = dict[str, float]


def is_crosses(path: Any, _: Any) -> bool:
    """Of the parameters, the table that is trained by its rows."""
    return path[-1].key == "crosses"


class Contender(NamedTuple):
    """How one optimizer is used: made for a learning rate, of which some are tried."""

    make: Callable[[Any], optax.GradientTransformation]
    rates: tuple[float, ...]
    value_and_grad: Callable[..., Any] = jax.value_and_grad
    apply_updates: Callable[..., Any] = optax.apply_updates


CONTENDERS = {
    "aj.adagrad": Contender(
        lambda rate: aj.adagrad(rate, INITIAL_ACCUMULATOR, epsilon=1e-7),
        (0.005, 0.01, 0.02, 0.04, 0.08),
        # By rows whatever their number, which is what is measured.
        functools.partial(aj.value_and_grad, tables=is_crosses),
        aj.apply_updates,
    ),
    "optax.adagrad": Contender(
        lambda rate: optax.adagrad(rate, INITIAL_ACCUMULATOR, eps=1e-7),
        (0.005, 0.01, 0.02, 0.04, 0.08),
    ),
    "optax.adam": Contender(optax.adam, (0.0003, 0.001, 0.002, 0.004, 0.01)),
    "optax.sgd": Contender(optax.sgd, (0.03, 0.1, 0.3, 1.0, 3.0)),
}


def init_params(
    key: jax.Array, num_ids: int, num_fields: int, cross_rows: int
) -> Params:
    """Small random embeddings, He-initialized layers, and crosses that start at 0."""
    embed_key, *layer_keys = jax.random.split(key, len(HIDDEN) + 2)
    widths = (num_fields * EMBEDDING_DIM, *HIDDEN, 1)
    layers = [
        {
            "w": jax.random.normal(k, (fan_in, fan_out)) * (2 / fan_in) ** 0.5,
            "b": jnp.zeros(fan_out),
        }
        for k, (fan_in, fan_out) in zip(
            layer_keys, itertools.pairwise(widths), strict=True
        )
    ]
    embeddings = 0.1 * jax.random.normal(embed_key, (num_ids, EMBEDDING_DIM))
    crosses = jnp.zeros((cross_rows, 1))
    return {"embeddings": embeddings, "crosses": crosses, "layers": layers}


def cross_ids(ids: jax.Array, pairs: np.ndarray, cross_rows: int) -> jax.Array:
    """The cross table's row for each pair of fields: (batch, fields) -> (batch, pairs).

    Ids are below 2^16 and numbered across fields, so that two of them in one uint32
    name the pair and its values; a mixing hash then spreads them over the table, whose
    ``cross_rows`` are a power of two.
    """
    left, right = ids[:, pairs[:, 0]], ids[:, pairs[:, 1]]
    key = left.astype(jnp.uint32) * 65536 + right.astype(jnp.uint32)
    key = (key ^ (key >> 15)) * jnp.uint32(2654435769)
    key = (key ^ (key >> 13)) * jnp.uint32(2246822519)
    return (key >> (33 - cross_rows.bit_length())).astype(jnp.int32)


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
    crosses = params["crosses"]
    wide = crosses[cross_ids(ids, pairs, len(crosses))].sum(axis=1)
    return (deep + wide)[:, 0]


class TrainState(NamedTuple):
    params: Params
    optimizer: optax.OptState
    key: jax.Array


class Trainer:
    """One optimizer on the model. The jitted step changes the state in place, and takes
    the learning rate as an argument, so that all rates share one compilation.

    With ``row_sharding`` the cross table lies on several devices by its rows.
    """

    def __init__(
        self,
        name: str,
        census: Census,
        seed: int,
        cross_rows: int = CROSS_ROWS,
        row_sharding: aj.sharding.RowSharding | None = None,
    ):
        contender, self.predict = CONTENDERS[name], predict
        if row_sharding is not None:

            def of_leaf(path: Any, leaf: Any) -> aj.sharding.RowSharding | None:
                return row_sharding if is_crosses(path, leaf) else None

            of_rows = functools.partial(contender.value_and_grad, row_sharding=of_leaf)
            contender = contender._replace(value_and_grad=of_rows)
            self.predict = aj.sharding.with_rows(predict, of_leaf)
        self.contender = contender
        self.census, self.seed, self.cross_rows = census, seed, cross_rows
        fields = [census.fields.index(field) for field in CROSSED]
        self.pairs = np.array(list(itertools.combinations(fields, 2)))
        self.step = jax.jit(self._step, donate_argnums=0)

    def init(self) -> TrainState:
        key, dropout_key = jax.random.split(jax.random.key(self.seed))
        num_ids, num_fields = self.census.num_ids, len(self.census.fields)
        params = init_params(key, num_ids, num_fields, self.cross_rows)
        return TrainState(params, self.contender.make(0.0).init(params), dropout_key)

    def _step(
        self, state: TrainState, batch: Rows, rate: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        key, dropout_key = jax.random.split(state.key)

        def loss_of(params: Params) -> jax.Array:
            logits = predict(params, batch.ids, self.pairs, dropout_key)
            return optax.sigmoid_binary_cross_entropy(logits, batch.labels).mean()

        loss, gradients = self.contender.value_and_grad(loss_of)(state.params)
        updates, optimizer_state = self.contender.make(rate).update(
            gradients, state.optimizer, state.params
        )
        params = self.contender.apply_updates(state.params, updates)
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
        return scores(self.predict(state.params, rows.ids, self.pairs), rows.labels)


def scores(logits: Any, labels: np.ndarray) -> Scores:
    """Error, area under the ROC curve and mean log-loss."""
    logits, positive = np.asarray(logits, np.float64), labels == 1
    loss = np.logaddexp(0, logits) - logits * positive
    return {
        "error": float(np.mean((logits > 0) != positive)),
        "auc": area_under_curve(logits, positive),
        "loss": float(np.mean(loss)),
    }


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive row scores above a negative one (ties: half)."""
    num_positive, num_negative = positive.sum(), (~positive).sum()
    _, place, number = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(number) - (number - 1) / 2)[place]
    rank_sum = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(rank_sum / (num_positive * num_negative))


def shuffled_batches(
    num_rows: int, passes: int, seed: int, batch: int = BATCH
) -> np.ndarray:
    """Row numbers in random order, (steps, batch), without a last incomplete batch."""
    rng = np.random.default_rng([seed, 1])
    order = np.concatenate([rng.permutation(num_rows) for _ in range(passes)])
    return order[: len(order) // batch * batch].reshape(-1, batch)
