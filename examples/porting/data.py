"""Made-up clicks for both programs: batches and initial values, from a fixed seed.

``RandomState`` gives the same numbers in every NumPy, old or new, and all that is drawn
here is uniform, so that no logarithm of another C library makes a difference.
"""

import hashlib

import numpy as np

STEPS, BATCH_SIZE = 300, 64
ROWS, DIM = 1000, 8  # of the embedding table
IDS, FEATURES = 3, 4  # of an example


def make_data():
    """A list of batches: ids by Zipf's law, features, and whether it was a click."""
    rng = np.random.RandomState(0)
    frequencies = 1 / np.arange(1, ROWS + 1)
    frequencies /= frequencies.sum()
    ids = rng.choice(ROWS, (STEPS, BATCH_SIZE, IDS), p=frequencies)
    features = rng.uniform(0, 4, (STEPS, BATCH_SIZE, FEATURES))
    hidden_table = rng.uniform(-2, 2, ROWS)
    logits = hidden_table[ids].sum(-1) + (features * [0.5, -1, 1, -1.5]).sum(-1)
    labels = rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    ids, features = ids.astype(np.int32), features.astype(np.float32)
    labels = labels.astype(np.float32)
    return [(ids[step], features[step], labels[step]) for step in range(STEPS)]


def initial_values():
    """The embedding table, as Keras would start it, and a linear layer."""
    rng = np.random.RandomState(1)
    table = rng.uniform(-0.05, 0.05, (ROWS, DIM))
    w = rng.uniform(-0.4, 0.4, IDS * DIM + FEATURES)
    return table.astype(np.float32), w.astype(np.float32), np.float32(0)


def checksum():
    """Of all numbers that training starts from."""
    arrays = [array for batch in make_data() for array in batch]
    arrays += initial_values()
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
