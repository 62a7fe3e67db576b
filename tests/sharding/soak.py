"""A long training on a table that lies on eight devices, against NumPy in float64.

    python -m tests.sharding.soak [STEPS]

Each step has another batch, of ids from all different to all alike; the learning rate
changes, and every now and then all is taken to the host and put back. At the end the
state must be the reference's, the step compiled once, and no more memory in use than
after the first steps. 10,000 steps take some minutes.
"""

import os
import resource
import sys

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

import adagrad_jax as aj

ROWS, WIDTH, NUM_IDS, RESTORED_EVERY = 4096, 8, 256, 500
BY_ROWS = aj.sharding.RowSharding(
    jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,)), "d", capacity=0.5
)


def draw_ids(rng):
    """From uniform ones, by a power law, to one for all."""
    skew = rng.choice([0.0, 1.0, 3.0, np.inf])
    first = rng.integers(ROWS)
    if skew == np.inf:
        return np.full(NUM_IDS, first, np.int32)
    places = ROWS * rng.random(NUM_IDS) ** (1 + skew)
    return ((places.astype(np.int64) * 16 + first) % ROWS).astype(np.int32)


def is_table(path, leaf):
    return leaf.ndim == 2


def loss(table, ids, target):
    return jnp.sum(target * table[ids]) + 0.5 * jnp.sum(table[ids] ** 2)


@jax.jit
def step(table, accumulator, ids, target, rate):
    gradient = aj.grad(loss, row_sharding=BY_ROWS, tables=is_table)(table, ids, target)
    optimizer = aj.scale_by_adagrad()
    updates, state = optimizer.update(
        gradient, aj.ScaleByAdagradState(accumulator), table
    )
    return aj.apply_updates(table, -rate * updates), state.accumulator


def reference_step(table, accumulator, ids, target, rate):
    """The same in place, in float64."""
    rows, place = np.unique(ids, return_inverse=True)
    gradient = np.zeros((len(rows), WIDTH))
    np.add.at(gradient, place, target + table[ids])
    accumulator[rows] += gradient**2
    table[rows] -= rate * gradient / np.sqrt(accumulator[rows] + 1e-7)


def soak(num_steps, seed=0):
    """The largest errors of table and accumulator, and the growth in memory in MiB."""
    from tqdm import trange

    rng = np.random.default_rng(seed)
    table = rng.normal(size=(ROWS, WIDTH))
    expected = table.copy(), np.full_like(table, 0.1)
    state = aj.sharding.shard_rows(
        tuple(np.float32(x) for x in expected), BY_ROWS, is_table
    )
    after_first = 0
    for number in trange(num_steps, unit="step", mininterval=5):
        ids, rate = draw_ids(rng), np.float32(rng.choice([0.01, 0.05]))
        target = rng.normal(size=(NUM_IDS, WIDTH)).astype(np.float32)
        state = jax.block_until_ready(step(*state, ids, target, rate))
        reference_step(*expected, ids, target, rate)
        if number % RESTORED_EVERY == RESTORED_EVERY // 2:
            whole = aj.sharding.gather_rows(state)
            state = aj.sharding.shard_rows(whole, BY_ROWS, is_table)
        if number == num_steps // 4:
            after_first = peak_memory()
    errors = [
        float(np.max(np.abs(np.asarray(x) - e) / (1 + np.abs(e))))
        for x, e in zip(state, expected, strict=True)
    ]
    return errors, peak_memory() - after_first


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(num_steps):
    errors, growth = soak(num_steps)
    print(
        f"{num_steps} steps: table off by {errors[0]:.1e}, accumulator by "
        f"{errors[1]:.1e}, of float64; compiled {step._cache_size()} time(s); "
        f"{growth:.0f} MiB more than after a quarter of the steps."
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
