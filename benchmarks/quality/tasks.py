"""What is learned: the click model of the census demo, and a network for digits."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj
from benchmarks.census import model
from benchmarks.census.data import load_census

CROSS_ROWS = 2**18  # of the demo's 2^22, so that dense gradients are not too slow
HIDDEN_UNITS = 32
DIGITS_TEST_ROWS, DIGITS_VALIDATION_ROWS = 597, 300  # of 1,797


class Examples(NamedTuple):
    """``inputs``, (rows, fields or pixels), and ``labels``, (rows,)."""

    inputs: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Examples":
        return Examples(self.inputs[rows], self.labels[rows])


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set and a model of it.

    Attributes:
      title: Its name in tables and plots.
      train: What the curves are trained on.
      test: What they are measured on, and nothing else is.
      split: By the seed: what to learn from and what to validate on where a learning
        rate is chosen. Both are training rows.
      choosing_seeds: Those by which it is chosen.
      passes: Over the training rows.
      batch: How many rows a step has.
      init: Parameters, by a random key.
      logits: By parameters, inputs and, in training, a random key.
      losses: By logits and labels, one for each row.
      wrong: The same, of whether the answer is wrong.
      is_linear: By a leaf's path: whether it is a linear part that starts at 0.
      value_and_grad: The family's; peers have that of JAX.
      has_tables: Whether there is an embedding table.
      note: The model's sizes, for the results.
    """

    title: str
    train: Examples
    test: Examples
    split: Callable[[int], tuple[Examples, Examples]]
    choosing_seeds: tuple[int, ...]
    passes: int
    batch: int
    init: Callable[[jax.Array], Any]
    logits: Callable[..., jax.Array]
    losses: Callable[[Any, Any], jax.Array]
    wrong: Callable[[Any, Any], jax.Array]
    is_linear: Callable[[Any], bool]
    value_and_grad: Callable[..., Any]
    has_tables: bool
    note: dict[str, Any]

    @functools.cached_property
    def measure(self) -> Callable[[Any, Examples], tuple[jax.Array, jax.Array]]:
        """Losses, and what is wrong, by parameters and examples; jitted once."""

        @jax.jit
        def measure(params: Any, rows: Examples) -> tuple[jax.Array, jax.Array]:
            logits = self.logits(params, rows.inputs)
            return self.losses(logits, rows.labels), self.wrong(logits, rows.labels)

        return measure


# --- Census ---------------------------------------------------------------------------


def census_task(quick: bool) -> Task:
    """The demo's wide and deep model, one pass."""
    census = load_census(0, quick)
    fields = [census.fields.index(field) for field in model.CROSSED]
    pairs = np.array(list(itertools.combinations(fields, 2)))
    learn, validation, train, test = (
        Examples(*rows)
        for rows in (census.learn, census.validation, census.train, census.test)
    )
    sizes = {"num_ids": census.num_ids, "num_fields": len(census.fields)}
    return Task(
        title="Census",
        train=train,
        test=test,
        split=lambda seed: (learn, validation),
        choosing_seeds=(100,),
        passes=1,
        batch=model.BATCH,
        init=functools.partial(model.init_params, **sizes, cross_rows=CROSS_ROWS),
        logits=lambda params, ids, key=None: model.predict(params, ids, pairs, key),
        losses=optax.sigmoid_binary_cross_entropy,
        wrong=lambda logits, labels: (logits > 0) != (labels == 1),
        is_linear=lambda path: model.is_crosses(path, None),
        value_and_grad=functools.partial(aj.value_and_grad, tables=model.is_crosses),
        has_tables=True,
        note=sizes
        | {
            "embedding_dim": model.EMBEDDING_DIM,
            "hidden": model.HIDDEN,
            "dropout": model.DROPOUT,
            "cross_rows": CROSS_ROWS,
        },
    )


# --- Digits ---------------------------------------------------------------------------


def load_digits() -> Examples:
    """Scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, which come with it."""
    import sklearn.datasets

    pixels, labels = sklearn.datasets.load_digits(return_X_y=True)
    return Examples((pixels / 16).astype(np.float32), labels.astype(np.int32))


def digits_task(quick: bool) -> Task:
    """A network of one hidden layer, several passes."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.labels))
    test_rows, train_rows = np.split(order, [DIGITS_TEST_ROWS])

    def split(seed: int) -> tuple[Examples, Examples]:
        shuffled = np.random.default_rng(seed).permutation(train_rows)
        held_out, learning = np.split(shuffled, [DIGITS_VALIDATION_ROWS])
        return digits.take(learning), digits.take(held_out)

    return Task(
        title="Digits",
        train=digits.take(train_rows),
        test=digits.take(test_rows),
        split=split,
        choosing_seeds=(100, 101),
        passes=1 if quick else 15,
        batch=32,
        init=init_network,
        logits=network,
        losses=optax.softmax_cross_entropy_with_integer_labels,
        wrong=lambda logits, labels: logits.argmax(axis=1) != labels,
        is_linear=lambda path: path[0].key == "last",
        value_and_grad=jax.value_and_grad,
        has_tables=False,
        note={"hidden": HIDDEN_UNITS},
    )


def init_network(key: jax.Array) -> dict[str, Any]:
    """A He-initialized layer, (units, pixels), and a last one that starts at 0."""
    first = jax.random.normal(key, (HIDDEN_UNITS, 64)) * (2 / 64) ** 0.5
    last = jnp.zeros((10, HIDDEN_UNITS))
    return {
        "first": {"w": first, "b": jnp.zeros(HIDDEN_UNITS)},
        "last": {"w": last, "b": jnp.zeros(10)},
    }


def network(params: Any, pixels: jax.Array, key: Any = None) -> jax.Array:
    del key
    first, last = params["first"], params["last"]
    hidden = jax.nn.relu(pixels @ first["w"].T + first["b"])
    return hidden @ last["w"].T + last["b"]


TASKS = {"census": census_task, "digits": digits_task}
