"""Reports of made-up accumulators."""

import numpy as np

import adagrad_jax as aj
from adagrad_jax.diagnostics import report


def of(accumulator, params=None, **options):
    """The report of a state with this accumulator."""
    params = accumulator if params is None else params
    return report(aj.ScaleByAdagradState(accumulator), params, **options)


def sums(shape, seed=0, start=0.1, dtype=np.float32):
    """Sums of squares of many magnitudes, some still at the start."""
    rng = np.random.default_rng(seed)
    grown = start + 10.0 ** rng.uniform(-6, 6, shape)
    return np.where(rng.random(shape) < 0.3, start, grown).astype(dtype)


def many(leaves):
    return of(
        {
            f"transformer_{i:03d}_{'long' * (i % 9)}": {
                "self_attention": {"query_projection": {"kernel": sums((3, 2), i)}}
            }
            for i in range(leaves)
        }
    )


def example():
    """One leaf of each sort."""
    accumulators = {
        "bad": np.array([0.4, np.nan], np.float32),
        "embed": {"table": sums((2000, 16))[:, 0]},
        "empty": np.zeros((0, 3), np.float32),
        "norm": np.float32(2.5e9),
        "sm3": (sums((4,)), sums((5,), 1)),
        "matrix": np.eye(6, dtype=np.float32)[None] * 3,
    }
    params = {
        "bad": np.ones(2),
        "embed": {"table": np.ones((2000, 16))},
        "empty": np.zeros((0, 3)),
        "norm": np.ones(12),
        "sm3": np.ones((4, 5)),
        "matrix": np.ones((2, 3)),
    }
    return of(accumulators, params, learning_rate=0.1)
