"""The contenders of `benchmarks.rows`: one embedding table, looked up and trained.

Each is a function of the data that builds a table of 0.01 and an Adagrad with learning
rate 0.01, accumulators of 0.1 and an epsilon of 1e-7, and returns a `Model`. A step
looks rows up, takes the gradient of half the squared distance to a target, that is rows
less target, and updates the table. Nobody computes the distance itself. Those that are
called row-wise have an accumulator a row, from 0, and an epsilon of 1e-8.

Each runs in a process of its own, with a Python of its own that may have nothing but
NumPy and its framework: imports are inside functions.
"""

import argparse
import contextlib
import dataclasses
import functools
import itertools
import os
import random
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from benchmarks.side_by_side import median_ratio, serve

RATE, ACCUMULATOR, EPSILON, WEIGHT = 0.01, 0.1, 1e-7, 0.01
ROW_WISE_EPSILON = 1e-8
CHECKED = 64  # entries whose rows are compared between contenders
PADDING = 1024


class Data(NamedTuple):
    """What every contender gets.

    Attributes:
      num_rows: Rows of the table.
      ids: ``(batches, n)``, int32: the rows that each batch looks up.
      target: ``(n, dim)``, float32.
      gpu: Whether torch is to run on one; JAX has its own mind.
    """

    num_rows: int
    ids: np.ndarray
    target: np.ndarray
    gpu: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.target.shape[1]


class Model(NamedTuple):
    """``step(i)`` trains on batch i until it is done; ``read(ids)`` returns rows."""

    step: Callable[[int], None]
    read: Callable[[np.ndarray], np.ndarray]


# --- JAX ------------------------------------------------------------------------------


def jax_model(name: str, data: Data) -> Model:
    import jax
    import jax.numpy as jnp

    if name == "adagrad_jax, CPU's form":
        use_the_form_for_cpus()
    batches = (
        unique_batches(data) if "unique" in name else [(i, None) for i in data.ids]
    )
    batches, target = jax.device_put((batches, data.target))
    init, step = jax_step(name)
    params = {"table": jnp.full(data.shape, WEIGHT)}
    carry = [params, init(params)]

    def run(i: int) -> None:
        carry[:] = jax.block_until_ready(step(*carry, batches[i], target))

    return Model(run, lambda ids: np.asarray(carry[0]["table"][ids]))


def jax_step(name: str) -> tuple[Callable, Callable]:
    """``init(params)`` and the jitted step of Optax or of adagrad_jax."""
    import jax
    import jax.numpy as jnp
    import optax

    if name == "optax.adagrad":
        optimizer = optax.adagrad(RATE, ACCUMULATOR, EPSILON)
        grad, apply_updates = jax.grad, optax.apply_updates
    else:
        import adagrad_jax as aj

        if "row-wise" in name:
            optimizer = aj.dialects.fbgemm(RATE, ROW_WISE_EPSILON)
        else:
            optimizer = aj.adagrad(RATE, ACCUMULATOR, EPSILON)
        # By rows whatever their number, which is what is measured.
        grad = functools.partial(aj.grad, tables=lambda *_: True)
        apply_updates = aj.apply_updates

    def loss(params, batch, target):
        ids, inverse = batch
        rows = params["table"][ids]
        rows = rows if inverse is None else rows[inverse]
        return 0.5 * jnp.sum((rows - target) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch, target):
        grads = grad(loss)(params, batch, target)
        updates, state = optimizer.update(grads, state, params)
        return apply_updates(params, updates), state

    return optimizer.init, step


def unique_batches(data: Data) -> list[tuple[np.ndarray, np.ndarray]]:
    """What an input pipeline can do: each id once, padded with ids out of range."""
    pairs = [np.unique(ids, return_inverse=True) for ids in data.ids]
    longest = max(unique.size for unique, _ in pairs)
    size = -(-longest // PADDING) * PADDING
    return [
        (
            np.pad(unique, (0, size - unique.size), constant_values=data.num_rows),
            inverse.astype(np.int32),
        )
        for unique, inverse in pairs
    ]


def use_the_form_for_cpus() -> None:
    """Hash ids and visit rows in blocks, whatever this process runs on."""
    from adagrad_jax._rows import distinct, fold, sums

    def platform_dependent(*operands: Any, cpu: Callable, default: Callable) -> Any:
        del default
        return cpu(*operands)

    for module in (distinct, sums, fold):
        changed = vars(module.lax) | {"platform_dependent": platform_dependent}
        module.lax = types.SimpleNamespace(**changed)


def keras_model(name: str, data: Data) -> Model:
    """Keras 3: its gradients of embeddings are dense on this backend."""
    del name
    import jax
    import jax.numpy as jnp
    import keras

    constant = keras.initializers.Constant(WEIGHT)
    layer = keras.layers.Embedding(*data.shape, embeddings_initializer=constant)
    layer.build()
    optimizer = keras.optimizers.Adagrad(RATE, ACCUMULATOR, EPSILON)
    optimizer.build(layer.trainable_variables)

    def loss(params, ids, target):
        rows, _ = layer.stateless_call(params, [], ids)
        return 0.5 * jnp.sum((rows - target) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, ids, target):
        grads = jax.grad(loss)(params, ids, target)
        return optimizer.stateless_apply(state, grads, params)

    batches, target = jax.device_put((list(data.ids), data.target))
    variables = layer.trainable_variables, optimizer.variables
    carry = [[variable.value for variable in some] for some in variables]

    def run(i: int) -> None:
        carry[:] = jax.block_until_ready(step(*carry, batches[i], target))

    return Model(run, lambda ids: np.asarray(carry[0][0][ids]))


# --- Others ---------------------------------------------------------------------------


def torch_model(name: str, data: Data) -> Model:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    device = torch.device("cuda" if data.gpu else "cpu")
    sparse = name == "torch"
    table = torch.full(data.shape, WEIGHT, device=device)
    layer = torch.nn.Embedding.from_pretrained(table, freeze=False, sparse=sparse)
    optimizer = torch.optim.Adagrad(
        layer.parameters(),
        lr=RATE,
        initial_accumulator_value=ACCUMULATOR,
        eps=EPSILON,
        fused=None if sparse else True,
    )
    batches = torch.from_numpy(data.ids.astype(np.int64)).to(device)
    target = torch.from_numpy(data.target).to(device)

    def step(i: int) -> None:
        rows = layer(batches[i])
        rows.backward(rows.detach() - target)
        optimizer.step()
        optimizer.zero_grad()
        if data.gpu:
            torch.cuda.synchronize()

    def read(ids: np.ndarray) -> np.ndarray:
        return layer.weight.detach()[torch.from_numpy(ids).to(device)].cpu().numpy()

    return Model(step, read)


def fbgemm_model(name: str, data: Data) -> Model:
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

    torch.set_num_threads(os.cpu_count() or 1)
    kind, start, epsilon = EmbOptimType.EXACT_ADAGRAD, ACCUMULATOR, EPSILON
    if "row-wise" in name:
        kind, start, epsilon = EmbOptimType.EXACT_ROWWISE_ADAGRAD, 0, ROW_WISE_EPSILON
    layer = SplitTableBatchedEmbeddingBagsCodegen(
        [(*data.shape, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=kind,
        learning_rate=RATE,
        eps=epsilon,
        pooling_mode=PoolingMode.SUM,
    )
    table = layer.split_embedding_weights()[0].detach().fill_(WEIGHT)
    layer.split_optimizer_states()[0][0].fill_(start)  # it has no argument for it
    batches = torch.from_numpy(data.ids.astype(np.int64))
    target = torch.from_numpy(data.target)
    offsets = torch.arange(len(target) + 1)  # bags of one id each

    def step(i: int) -> None:
        rows = layer(batches[i], offsets)
        rows.backward(rows.detach() - target)

    return Model(step, lambda ids: table[torch.from_numpy(ids)].numpy())


def tf_keras_model(name: str, data: Data) -> Model:
    del name
    with silence():
        import tensorflow as tf
        import tf_keras

    table = tf.Variable(tf.fill(data.shape, WEIGHT))
    optimizer = tf_keras.optimizers.legacy.Adagrad(
        RATE, initial_accumulator_value=ACCUMULATOR, epsilon=EPSILON
    )

    @tf.function
    def train(ids, target):
        with tf.GradientTape() as tape:
            rows = tf.nn.embedding_lookup(table, ids)
        grad = tape.gradient(rows, table, output_gradients=rows - target)
        optimizer.apply_gradients([(grad, table)])

    batches = [tf.constant(ids) for ids in data.ids]
    target = tf.constant(data.target)
    return Model(
        lambda i: train(batches[i], target),
        lambda ids: tf.gather(table, ids).numpy(),
    )


@contextlib.contextmanager
def silence():
    """Hides what a library in C++ logs, which would tear a progress bar apart."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --- All of them ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Contender:
    """A name and what is to be known of it.

    Attributes:
      name: As in the results.
      peer: Whose Python it needs.
      modules: What has to be importable there.
      build: ``(name, data) -> Model``.
      dense: Whether a step visits the whole table and has a gradient of its size.
      same: Whether it computes the same as adagrad_jax.
      devices: Where it can run.
    """

    name: str
    peer: str
    modules: tuple[str, ...]
    build: Callable[[str, Data], Model]
    dense: bool = False
    same: bool = True
    devices: tuple[str, ...] = ("cpu", "gpu")

    @property
    def copies(self) -> int:
        """How many arrays of the table's size it holds."""
        return 3 if self.dense else 2


JAX, FBGEMM = ("jax", "optax"), ("torch", "fbgemm_gpu")
CPU, GPU = ("cpu",), ("gpu",)
OURS, UNIQUE = "adagrad_jax", "adagrad_jax, unique ids"
OURS_ROW_WISE, FBGEMM_ROW_WISE = "adagrad_jax, row-wise", "FBGEMM row-wise"
ROW_WISE = (
    Contender(OURS_ROW_WISE, "jax", JAX, jax_model, devices=CPU),
    Contender(FBGEMM_ROW_WISE, "torch", FBGEMM, fbgemm_model, devices=CPU),
)
CONTENDERS = (
    Contender(OURS, "jax", JAX, jax_model),
    Contender(UNIQUE, "jax", JAX, jax_model),
    Contender("adagrad_jax, CPU's form", "jax", JAX, jax_model, devices=GPU),
    Contender("torch", "torch", ("torch",), torch_model),
    Contender("FBGEMM", "torch", FBGEMM, fbgemm_model, devices=CPU),
    # One number a row for an accumulator: another algorithm, for information.
    dataclasses.replace(ROW_WISE[1], same=False),
    Contender(
        "tf_keras",
        "tensorflow",
        ("tensorflow", "tf_keras"),
        tf_keras_model,
        devices=CPU,
    ),
    Contender("optax.adagrad", "jax", JAX, jax_model, dense=True),
    Contender("Keras 3", "keras", ("keras", "jax"), keras_model, dense=True),
    Contender("torch, dense", "torch", ("torch",), torch_model, True, devices=GPU),
)


# --- In a process of its own ----------------------------------------------------------


def compile_seconds(num_rows: int, dim: int, n: int, rounds: int) -> dict[str, Any]:
    """How long jax.jit takes over the step, tracing included: ours and dense Optax'."""
    import jax

    params = {"table": jax.ShapeDtypeStruct((num_rows, dim), np.float32)}
    batch = jax.ShapeDtypeStruct((n,), np.int32), None
    target = jax.ShapeDtypeStruct((n, dim), np.float32)
    times: dict[str, list[float]] = {OURS: [], "optax.adagrad": []}
    for turn in range(rounds + 1):  # the first one warms up
        for name in random.sample(list(times), len(times)):
            init, step = jax_step(name)
            state = jax.eval_shape(init, params)
            jax.clear_caches()
            start = time.perf_counter()
            step.lower(params, state, batch, target).compile()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {
        "seconds": {name: statistics.median(x) for name, x in times.items()},
        "ratio": median_ratio(*times.values()),
    }


def main() -> None:
    """Serves one contender, having written what it learned in two steps to a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("name")
    parser.add_argument("data", help="an .npz that benchmarks.rows wrote")
    parser.add_argument("report", help="the .npy to write")
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    with np.load(args.data) as arrays:
        data = Data(int(arrays["num_rows"]), arrays["ids"], arrays["target"], args.gpu)
    everyone = (*CONTENDERS, *ROW_WISE)
    build = {contender.name: contender.build for contender in everyone}[args.name]
    warnings.simplefilter("ignore")  # frameworks', of what is to come
    # Standard output is for `serve`, whatever a framework has to say.
    with contextlib.redirect_stdout(sys.stderr):
        model = build(args.name, data)
        model.step(0)
        model.step(0)
        np.save(args.report, model.read(data.ids[0, :CHECKED]))
    batches = itertools.cycle(range(len(data.ids)))
    serve([lambda: model.step(next(batches))])


if __name__ == "__main__":
    main()
