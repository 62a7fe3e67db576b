"""A ranking model with 26 tables, trained by each contender of `benchmarks.dlrm`.

The model is DLRM (Naumov et al., arXiv:1906.00091) with the tables of Criteo's Kaggle
data: numbers go through a bottom MLP, ids through a table each, the dot products of all
pairs of these 27 vectors, with the bottom's, through a top MLP to a logit. Rows of
tables are trained by Adagrad with an accumulator a row, as TorchRec's are (rate 0.01,
epsilon 1e-8, from 0), or, where a peer has no such, with one a number; the MLPs by a
dense Adagrad of another rate.

"MLPs alone" is the same step where rows are an input: what is left of a whole step is
the tables' share. Its derivative by the rows is computed, for a table would need it.

Each contender runs in a process with a Python that may have nothing but NumPy and its
framework: imports are inside functions.
"""

import dataclasses
import functools
import itertools
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

ROWS = [
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593),
    *(3194, 27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105),
    142572,
]
FEW_ROWS = 50, 3, 20, 1000  # to see whether it runs
CAPPED = 200_000  # rows, of what has to fit into memory several times
OURS, ONE_ARRAY, CUT = "adagrad_jax", "adagrad_jax, one array", "optax, capped"
FBGEMM = "FBGEMM"
NUMBERS = 13
BATCHES = 8
TABLE_RATE, TABLE_EPSILON, RATE, EPSILON = 0.01, 1e-8, 0.005, 1e-8
Step = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
      dim: Numbers in a row.
      batch: Examples in a batch.
      bag: Ids of an example in each table.
      pooling: What becomes of their rows: "sum" or "mean".
      rows: Of each table.
    """

    dim: int
    batch: int
    bag: int = 1
    pooling: str = "sum"
    rows: tuple[int, ...] = tuple(ROWS)

    @property
    def name(self) -> str:
        bags = "" if self.bag == 1 else f", bags of {self.bag}, {self.pooling}"
        return f"D {self.dim}, {self.batch:,} examples{bags}"

    @property
    def layers(self) -> tuple[list[int], list[int]]:
        """The widths of the bottom and of the top MLP, their inputs' first."""
        vectors = len(self.rows) + 1
        pairs = vectors * (vectors - 1) // 2
        bottom = [NUMBERS, 512, 256, 64, self.dim]
        return bottom, [pairs + self.dim, 512, 256, 1]

    def batches(self) -> list[tuple[np.ndarray, ...]]:
        """Numbers, ids ``(tables, batch, bag)``, log-uniform, and labels; for all."""
        rng = np.random.default_rng(0)
        result = []
        for _ in range(BATCHES):
            numbers = rng.standard_normal((self.batch, NUMBERS), np.float32)
            u = rng.random((len(self.rows), self.batch, self.bag))
            limits = np.array(self.rows)[:, None, None]
            ids = np.minimum((limits + 1) ** u - 1, limits - 1).astype(np.int32)
            labels = rng.integers(0, 2, self.batch).astype(np.float32)
            result.append((numbers, ids, labels))
        return result

    def weights(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """The kernels and biases of both MLPs; for all."""
        rng = np.random.default_rng(1)

        def layer(fan_in: int, fan_out: int) -> tuple[np.ndarray, np.ndarray]:
            kernel = rng.standard_normal((fan_in, fan_out), np.float32)
            return kernel * (2 / fan_in) ** 0.5, np.zeros(fan_out, np.float32)

        return [
            [layer(*sizes) for sizes in itertools.pairwise(widths)]
            for widths in self.layers
        ]

    def row(self) -> np.ndarray:
        """What each row begins with."""
        return 0.1 * np.cos(np.arange(self.dim)).astype(np.float32)


# --- JAX ------------------------------------------------------------------------------


def jax_model(case: Case) -> Callable[..., Any]:
    """``loss(mlps, vectors, numbers, labels)``, of the tables' vectors."""
    import jax
    import jax.numpy as jnp
    import optax

    def mlp(layers, x):
        for i, (kernel, bias) in enumerate(layers):
            x = x @ kernel + bias
            x = jax.nn.relu(x) if i < len(layers) - 1 else x
        return x

    upper = np.triu_indices(len(case.rows) + 1, 1)

    def loss(mlps, vectors, numbers, labels):
        bottom = jax.nn.relu(mlp(mlps[0], numbers))
        vectors = jnp.concatenate([bottom[:, None], vectors], axis=1)
        dots = jnp.einsum("bid,bjd->bij", vectors, vectors)[:, *upper]
        logits = mlp(mlps[1], jnp.concatenate([bottom, dots], axis=1))[:, 0]
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

    return loss


def pooled(case: Case, rows: Any) -> Any:
    """Of rows ``(batch, bag, dim)``."""
    if case.bag == 1:
        return rows[:, 0]
    return rows.sum(axis=1) if case.pooling == "sum" else rows.mean(axis=1)


def jax_step(case: Case, name: str) -> tuple[Callable, Callable]:
    """``init()`` of parameters, and the step of these, a state and a batch."""
    import jax
    import jax.numpy as jnp
    import optax

    import adagrad_jax as aj

    model, is_dense = jax_model(case), name == CUT
    rows = [min(n, CAPPED) for n in case.rows] if is_dense else list(case.rows)
    offsets = np.cumsum([0, *rows[:-1]])
    in_one_array = name == ONE_ARRAY

    def vectors_of(tables, ids):
        if in_one_array:
            ids = ids + offsets.astype(np.int32)[:, None, None]
            read = tables["all"][ids.transpose(1, 0, 2)]
            return jax.vmap(functools.partial(pooled, case), 1, 1)(read)
        if is_dense:
            ids = jnp.minimum(ids, np.array(rows, np.int32)[:, None, None] - 1)
        vectors = [pooled(case, tables[f"{i:02}"][x]) for i, x in enumerate(ids)]
        return jnp.stack(vectors, axis=1)

    def loss(params, batch):
        numbers, ids, labels = batch
        vectors = vectors_of(params["tables"], ids)
        return model(params["mlps"], vectors, numbers, labels)

    def init():
        row = jnp.asarray(case.row())
        if in_one_array:
            tables = {"all": jnp.tile(row, (sum(rows), 1))}
        else:
            tables = {f"{i:02}": jnp.tile(row, (n, 1)) for i, n in enumerate(rows)}
        mlps = jax.tree.map(jnp.asarray, case.weights())
        return {"mlps": mlps, "tables": tables}

    if is_dense:
        of_tables = optax.adagrad(TABLE_RATE, 0.1, TABLE_EPSILON)
        of_mlps = optax.adagrad(RATE, 0.1, EPSILON)
        value_and_grad, apply_updates = jax.value_and_grad, optax.apply_updates
    else:
        of_tables = aj.dialects.fbgemm(TABLE_RATE, TABLE_EPSILON)
        value_and_grad, apply_updates = aj.value_and_grad, aj.apply_updates
        of_mlps = aj.dialects.torch(RATE, eps=EPSILON)
    kinds = {"mlps": "mlps", "tables": "tables"}
    optimizer = optax.partition({"mlps": of_mlps, "tables": of_tables}, kinds)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        value, gradients = value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return apply_updates(params, updates), state, value

    return lambda: (params := init(), optimizer.init(params)), step


def jax_whole(case: Case, name: str) -> Step:
    import jax

    init, step = jax_step(case, name)
    carry = list(jax.block_until_ready(init()))
    batches = itertools.cycle(jax.device_put(case.batches()))

    def run() -> float:
        *carry[:], value = jax.block_until_ready(step(*carry, next(batches)))
        return value

    return run


def jax_alone(case: Case) -> Step:
    import jax
    import jax.numpy as jnp

    import adagrad_jax as aj

    optimizer, loss = aj.dialects.torch(RATE, eps=EPSILON), jax_model(case)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(mlps, state, vectors, numbers, labels):
        value, (gradients, of_rows) = jax.value_and_grad(loss, (0, 1))(
            mlps, vectors, numbers, labels
        )
        updates, state = optimizer.update(gradients, state, mlps)
        return aj.apply_updates(mlps, updates), state, of_rows, value

    mlps = jax.tree.map(jnp.asarray, case.weights())
    carry = [mlps, optimizer.init(mlps)]
    vectors = jnp.tile(jnp.asarray(case.row()), (case.batch, len(case.rows), 1))
    batches = itertools.cycle(jax.device_put(case.batches()))

    def run() -> float:
        numbers, _, labels = next(batches)
        *carry[:], _, value = jax.block_until_ready(
            step(*carry, vectors, numbers, labels)
        )
        return value

    return run


def compiling(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds of tracing and compiling, and bytes of temporary memory, in turns."""
    import random
    import statistics
    import time

    import jax

    names = [OURS, ONE_ARRAY, CUT]
    batch = jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, case.batches()[0]))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory = {}
    for turn in range(rounds + 1):  # the first one warms up
        for name in random.sample(names, len(names)):
            init, step = jax_step(case, name)
            params, state = jax.eval_shape(init)
            jax.clear_caches()
            start = time.perf_counter()
            compiled = step.lower(params, state, batch).compile()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            memory[name] = compiled.memory_analysis().temp_size_in_bytes
    medians = {name: statistics.median(x) for name, x in seconds.items()}
    return {"seconds": medians, "temporary memory": memory}


# --- Others ---------------------------------------------------------------------------


def torch_model(case: Case) -> tuple[Any, Any]:
    """``loss(vectors, numbers, labels)`` and the MLPs' optimizer."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)

    def mlp(layers):
        modules = []
        for kernel, bias in layers:
            linear = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(kernel.T))
                linear.bias.copy_(torch.from_numpy(bias))
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules)

    bottom, top = map(mlp, case.weights())
    top = top[:-1]  # the last activation
    i, j = torch.triu_indices(len(case.rows) + 1, len(case.rows) + 1, 1)
    cross_entropy = torch.nn.BCEWithLogitsLoss()

    def loss(vectors, numbers, labels):
        x = bottom(numbers)
        vectors = torch.cat([x[:, None], vectors], dim=1)
        dots = torch.bmm(vectors, vectors.transpose(1, 2))[:, i, j]
        logits = top(torch.cat([x, dots], dim=1))[:, 0]
        return cross_entropy(logits, labels)

    weights = [*bottom.parameters(), *top.parameters()]
    return loss, torch.optim.Adagrad(weights, lr=RATE, eps=EPSILON, fused=True)


def torch_update(value: Any, *optimizers: Any) -> float:
    """The loss, of which all have taken a step."""
    value.backward()
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad()
    return value.item()


def torch_batches(case: Case) -> Any:
    import torch

    batches = [
        (
            torch.from_numpy(x),
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(y),
        )
        for x, ids, y in case.batches()
    ]
    return itertools.cycle(batches)


def torch_whole(case: Case) -> Step:
    import torch

    warnings.simplefilter("ignore")  # of checks that it does not make

    loss, of_mlps = torch_model(case)
    row = torch.from_numpy(case.row())
    tables = [
        torch.nn.EmbeddingBag.from_pretrained(
            row.repeat(n, 1), freeze=False, sparse=True, mode=case.pooling
        )
        for n in case.rows
    ]
    weights = [table.weight for table in tables]
    of_tables = torch.optim.Adagrad(weights, lr=TABLE_RATE, eps=TABLE_EPSILON)
    batches = torch_batches(case)

    def run() -> float:
        numbers, ids, labels = next(batches)
        vectors = [table(i) for table, i in zip(tables, ids, strict=True)]
        value = loss(torch.stack(vectors, dim=1), numbers, labels)
        return torch_update(value, of_mlps, of_tables)

    return run


def torch_alone(case: Case) -> Step:
    import torch

    loss, of_mlps = torch_model(case)
    vectors = torch.from_numpy(case.row()).repeat(case.batch, len(case.rows), 1)
    vectors.requires_grad_()
    batches = torch_batches(case)

    def run() -> float:
        numbers, _, labels = next(batches)
        vectors.grad = None
        value = loss(vectors, numbers, labels)
        return torch_update(value, of_mlps)

    return run


def fbgemm_whole(case: Case) -> Step:
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import (
        EmbeddingLocation,
        PoolingMode,
    )
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    loss, of_mlps = torch_model(case)
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(n, case.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in case.rows],
        optimizer=EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=TABLE_RATE,
        eps=TABLE_EPSILON,
        pooling_mode=PoolingMode.MEAN if case.pooling == "mean" else PoolingMode.SUM,
    )
    for table in tables.split_embedding_weights():
        table.detach().copy_(torch.from_numpy(case.row()).expand(table.shape))
    shape = case.batch, len(case.rows), case.dim
    offsets = torch.arange(0, len(case.rows) * case.batch + 1) * case.bag
    batches = torch_batches(case)

    def run() -> float:
        numbers, ids, labels = next(batches)
        vectors = tables(ids.reshape(-1), offsets).view(shape)
        value = loss(vectors, numbers, labels)
        return torch_update(value, of_mlps)

    return run


CONTENDERS: dict[str, Callable[[Case], Step]] = {
    **{n: functools.partial(jax_whole, name=n) for n in (OURS, ONE_ARRAY, CUT)},
    "JAX, MLPs alone": jax_alone,
    "torch": torch_whole,
    FBGEMM: fbgemm_whole,
    "torch, MLPs alone": torch_alone,
}
