"""The KDD Census Income records as fields of ids, split for learning and choosing.

``data/README.md`` says where the file comes from.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).parents[1] / "data" / "census_income.npz"
NUM_BINS = 32
VALIDATION_ROWS = 40_000


class Rows(NamedTuple):
    """Examples: ``ids``, (rows, fields), one id per value, and ``labels``, (rows,)."""

    ids: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> "Rows":
        return Rows(self.ids[rows], self.labels[rows])


class Census(NamedTuple):
    """The data; ``learn`` and ``validation`` together are ``train``."""

    learn: Rows
    validation: Rows
    train: Rows
    test: Rows
    fields: tuple[str, ...]
    num_ids: int


def load_census(seed: int, quick: bool = False) -> Census:
    """Reads the data and holds out random training rows; ``quick`` keeps only a few."""
    with np.load(FILE) as file:
        data = dict(file)
    train_rows = np.random.default_rng(seed).permutation(len(data["train_label"]))
    test_rows = np.arange(len(data["test_label"]))
    num_validation = VALIDATION_ROWS
    if quick:
        train_rows, test_rows = train_rows[:4000], test_rows[:5000]
        num_validation = 1500
    held_out, learning = np.split(train_rows, [num_validation])

    # Nothing but the learning rows may decide where to cut the numbers.
    edges = [quantile_edges(column[learning]) for column in data["train_numeric"].T]
    sizes = [len(words.split("\n")) for words in data["vocabularies"]]
    sizes += [len(cuts) + 1 for cuts in edges]
    # Each field gets its own range of ids, so that one table can hold all of them.
    first_ids = np.cumsum([0, *sizes[:-1]])

    def encode(part: str) -> Rows:
        binned = [
            np.searchsorted(cuts, column, side="right")
            for cuts, column in zip(edges, data[f"{part}_numeric"].T, strict=True)
        ]
        ids = np.column_stack([data[f"{part}_categorical"], *binned]) + first_ids
        return Rows(ids.astype(np.int32), data[f"{part}_label"].astype(np.float32))

    train = encode("train")
    return Census(
        learn=train.take(learning),
        validation=train.take(held_out),
        train=train.take(train_rows),
        test=encode("test").take(test_rows),
        fields=(*data["categorical_names"].tolist(), *data["numeric_names"].tolist()),
        num_ids=sum(sizes),
    )


def quantile_edges(column: np.ndarray) -> np.ndarray:
    """Where to cut a column of counts or dollars: 0 alone, the rest at quantiles."""
    quantiles = np.linspace(0, 1, NUM_BINS)[1:-1]
    return np.unique([0.5, *np.quantile(column[column > 0], quantiles)])
