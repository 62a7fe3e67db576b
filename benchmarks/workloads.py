"""What more than one benchmark works on: dense arrays of a model, ids of rows."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

Shapes = list[tuple[int, ...]]
RATE = 0.01
EXPONENT = 1.2  # of the Zipf distribution
TABLES, FLATTER = 10, 1.05  # the public figures for an H100 are of so many, of this one
TEN_TABLES = "ten tables' power law"


def resnet50() -> Shapes:
    """The shapes of its 53 convolutions and of their normalizations: 159 arrays."""
    kernels = [(7, 7, 3, 64)]
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = 64 * 2**stage
        for block in range(blocks):
            kernels += [(1, 1, width, narrow), (3, 3, narrow, narrow)]
            kernels += [(1, 1, narrow, 4 * narrow)]
            if block == 0:
                kernels += [(1, 1, width, 4 * narrow)]  # on the shortcut
            width = 4 * narrow
    return [shape for k in kernels for shape in (k, k[-1:], k[-1:])]


RESNET50, MANY_SMALL = "ResNet-50's 159 arrays", "1,000 arrays of 64"
DENSE: dict[str, Shapes] = {RESNET50: resnet50(), MANY_SMALL: [(64,)] * 1000}
TINY: Shapes = [(4, 3), (3,)]  # instead of any of them, to see whether it runs


def dense_step(optimizer: Any, shapes: Shapes) -> Callable[[], None]:
    """A jitted step of an Optax transformation, parameters and state donated."""
    import jax
    import optax

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jax.numpy.ones(shape) for shape in shapes]
    grads = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
    carry = [params, optimizer.init(params)]

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry, grads))

    return run


def draw_ids(
    rng: np.random.Generator, kind: str, rows: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Which rows are read: ``kind`` is "uniform", "Zipf" or `TEN_TABLES`."""
    if kind == "uniform":
        return rng.integers(0, rows, shape)
    if kind == "Zipf":
        return zipf(rng, rows, shape)
    rows, shape = rows // TABLES, (*shape[:-1], shape[-1] // TABLES)
    of_each = [zipf(rng, rows, shape, FLATTER) + i * rows for i in range(TABLES)]
    return np.concatenate(of_each, axis=-1)


def zipf(
    rng: np.random.Generator,
    rows: int,
    shape: tuple[int, ...],
    exponent: float = EXPONENT,
) -> np.ndarray:
    """Rank r has a probability proportional to r^-exponent, shuffled over rows."""
    total = np.cumsum(np.arange(1, rows + 1) ** -exponent)
    rank = np.searchsorted(total, total[-1] * rng.random(shape))
    return rng.permutation(rows)[np.minimum(rank, rows - 1)]
