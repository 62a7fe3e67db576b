"""Records what the peers compute in float16 and bfloat16, into sixteen_bits_PEER.npz.

Run it in each peer's own environment, with the peer's name: `tf20` (TensorFlow 2.0.0
on Python 3.7), `keras3`, `optax`, `torch` or `fbgemm`. All get the same inputs, of very
different sizes. Numbers are stored in float32, which holds them all.

    python tests/golden/record_sixteen_bits.py torch
"""

import os
import pathlib
import sys

import numpy as np

STEPS = 3
SHAPE = (6, 4)
# Learning rate, initial accumulator value, epsilon. The first has the squares of small
# gradients underflow, and with them the accumulators.
SETTINGS = {
    "zero": (0.1, 0.0, 1e-7),
    "defaults": (0.001, 0.1, 1e-7),
    "large_epsilon": (0.03, 0.0, 0.0123),
    "no_epsilon_in_float16": (0.5, 0.0, 1e-9),
    "small_accumulator": (0.0123, 3e-6, 2e-6),
    "tiny_rate": (1e-6, 0.0, 1e-5),
    "large": (0.7, 100.0, 1.0),
}
TYPES = ("float16", "bfloat16")


def inputs():
    """Parameters, and a gradient for each step, of sizes from 1e-7 to 100."""
    random = np.random.RandomState(13)
    params = random.randn(*SHAPE) * 10.0 ** random.uniform(-4, 1, SHAPE)
    shape = (STEPS,) + SHAPE
    gradients = random.randn(*shape) * 10.0 ** random.uniform(-6, 1.5, shape)
    gradients[:, 0] = 0
    return params, gradients


def run_tf20(dtype, rate, start, epsilon, v1=False, sparse=False, **more):
    import tensorflow as tf

    params, gradients = inputs()
    variable = tf.Variable(tf.cast(params, dtype))
    if v1:
        optimizer = tf.compat.v1.train.AdagradOptimizer(rate, start)
    else:
        optimizer = tf.keras.optimizers.Adagrad(rate, start, epsilon, **more)
    for gradient in gradients:
        gradient = tf.cast(gradient, dtype)
        if sparse:
            gradient = tf.IndexedSlices(gradient[1:4], [5, 0, 2], SHAPE)
        optimizer.apply_gradients([(gradient, variable)])
        slot = optimizer.get_slot(variable, "accumulator")
        yield [tf.cast(x, "float32").numpy() for x in (variable, slot)]


def run_keras3(dtype, rate, start, epsilon, **more):
    import keras

    params, gradients = inputs()
    variable = keras.Variable(params, dtype=dtype)
    optimizer = keras.optimizers.Adagrad(rate, start, epsilon, **more)
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([keras.ops.cast(gradient, dtype)], [variable])
        slot = optimizer._accumulators[0]
        yield [np.asarray(x.value, np.float32) for x in (variable, slot)]


def run_optax(dtype, rate, start, epsilon):
    import jax.numpy as jnp
    import optax

    params, gradients = (jnp.asarray(x, dtype) for x in inputs())
    optimizer = optax.adagrad(rate, start, epsilon)
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        slot = optax.tree.get(state, "sum_of_squares")
        yield [np.asarray(x, np.float32) for x in (params, slot)]


def run_torch(dtype, rate, start, epsilon, **more):
    import torch

    params, gradients = (torch.tensor(x).to(getattr(torch, dtype)) for x in inputs())
    params = torch.nn.Parameter(params)
    optimizer = torch.optim.Adagrad(
        [params], rate, initial_accumulator_value=start, eps=epsilon, **more
    )
    for gradient in gradients:
        params.grad = gradient.clone()
        optimizer.step()
        slot = optimizer.state[params]["sum"]
        yield [x.detach().float().numpy().copy() for x in (params, slot)]


def run_fbgemm(dtype, rate, start, epsilon, row_wise=True):
    import torch
    from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
    from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType

    kinds = EmbOptimType.EXACT_ROWWISE_ADAGRAD, EmbOptimType.EXACT_ADAGRAD
    place = training.EmbeddingLocation.HOST, training.ComputeDevice.CPU
    table = training.SplitTableBatchedEmbeddingBagsCodegen(
        [SHAPE + place],
        optimizer=kinds[0] if row_wise else kinds[1],
        learning_rate=rate,
        eps=epsilon,
        weights_precision=SparseType.FP16 if dtype == "float16" else SparseType.BF16,
        stochastic_rounding=False,
    )
    params, gradients = inputs()
    (weights,) = table.split_embedding_weights()
    with torch.no_grad():
        weights.copy_(torch.tensor(params))
    ids, offsets = torch.arange(SHAPE[0]), torch.arange(SHAPE[0] + 1)
    for gradient in gradients:
        # As the table's own gradient would be, were it an array of its dtype.
        gradient = torch.tensor(gradient).to(weights.dtype).float()
        table(ids, offsets).backward(gradient)
        slot = table.split_optimizer_states()[0][0]
        yield [x.detach().float().numpy().copy() for x in (weights, slot)]


def variants(peer):
    """By name: more arguments of the peer's function."""
    if peer == "tf20":
        return {
            "dense": {},
            "rows": {"sparse": True},
            "decay": {"decay": 0.3},
            "v1": {"v1": True},
            "v1_rows": {"v1": True, "sparse": True},
        }
    if peer == "keras3":
        return {"dense": {}, "weight_decay": {"weight_decay": 0.01}}
    if peer == "torch":
        return {
            "dense": {},
            "decay": {"lr_decay": 0.3},
            "weight_decay": {"weight_decay": 0.01},
        }
    if peer == "fbgemm":
        return {"row_wise": {}, "full": {"row_wise": False}}
    return {"dense": {}}


def takes(peer, start, more):
    """Whether it can begin with such an accumulator."""
    return start > 0 if more.get("v1") else start == 0 or peer != "fbgemm"


def main(peer):
    os.environ["KERAS_BACKEND"] = "jax"
    run = globals()["run_" + peer]
    params, gradients = inputs()
    arrays = {"params": params, "gradients": gradients}
    for variant, more in variants(peer).items():
        for setting, numbers in SETTINGS.items():
            for dtype in TYPES:
                if not takes(peer, numbers[1], more):
                    continue
                try:
                    steps = list(run(dtype, *numbers, **more))
                except Exception as error:
                    print(variant, dtype, type(error).__name__, str(error)[:300])
                    break
                for i, kind in enumerate(("params", "acc")):
                    name = "/".join((variant, setting, dtype, kind))
                    arrays[name] = np.array([step[i] for step in steps])
    file = pathlib.Path(__file__).with_name("sixteen_bits_" + peer + ".npz")
    np.savez_compressed(str(file), **arrays)
    print(peer, len(arrays), file.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
