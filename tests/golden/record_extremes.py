"""Records what the peers make of extreme float32 inputs, into extremes_PEER.npz.

Run it in each peer's own environment, with the peer's name: `torch`, `keras3`, `optax`,
`fbgemm` (row-wise), `fbgemm_full` or `ftrl` (TF-Keras, epsilon as its beta):

    python tests/golden/record_extremes.py torch

Every element is a parameter that begins with 0 and gets the same gradient in each of
five steps. `tests/test_extremes.py` compares, and docs/numerics.md says what was found.
"""

import os
import pathlib
import sys

import numpy as np

STEPS = 5
RATE = 0.01
GRADIENTS = [0.0, 1e-45, 1e-38, 1e-30, 1e-25, 1e-22, 1e-21, 1e-20, 1e-19, 1.1e-19]
GRADIENTS += [1e-18, 1e-15, 1e-10, 1e-5, 1.0, 1e10, 1e15, 1.8e19, 2e19, 1e30, 3e38]
GRADIENTS = np.float32([*GRADIENTS, np.inf, np.nan])
# Epsilon and initial accumulator value.
SETTINGS = {
    "no epsilon": (0.0, 0.0),
    "tiny epsilon": (1e-20, 0.0),
    "PyTorch's defaults": (1e-10, 0.0),
    "tiny accumulator": (0.0, 1e-38),
    "Keras' defaults": (1e-7, 0.1),
}


def run_torch(epsilon, start):
    import torch

    param = torch.nn.Parameter(torch.zeros(len(GRADIENTS)))
    optimizer = torch.optim.Adagrad(
        [param], lr=RATE, eps=epsilon, initial_accumulator_value=start
    )
    for _ in range(STEPS):
        param.grad = torch.tensor(GRADIENTS)
        optimizer.step()
    return param.detach().numpy(), optimizer.state[param]["sum"].numpy()


def run_keras3(epsilon, start):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    param = keras.Variable(np.zeros_like(GRADIENTS))
    optimizer = keras.optimizers.Adagrad(
        RATE, epsilon=epsilon, initial_accumulator_value=start
    )
    for _ in range(STEPS):
        optimizer.apply([keras.ops.array(GRADIENTS)], [param])
    return np.asarray(param.value), np.asarray(optimizer.variables[-1].value)


def run_optax(epsilon, start):
    import jax
    import optax

    optimizer = optax.adagrad(RATE, start, epsilon)
    params = jax.numpy.zeros_like(GRADIENTS)
    state = optimizer.init(params)
    for _ in range(STEPS):
        updates, state = optimizer.update(jax.numpy.asarray(GRADIENTS), state)
        params = optax.apply_updates(params, updates)
    return np.asarray(params), np.asarray(optax.tree.get(state, "sum_of_squares"))


def run_fbgemm(epsilon, start, kind="EXACT_ROWWISE_ADAGRAD"):
    import torch
    from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
    from fbgemm_gpu.split_embedding_configs import EmbOptimType

    # Four equal numbers in each row, so that the mean of squares is the square.
    place = training.EmbeddingLocation.HOST, training.ComputeDevice.CPU
    table = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(len(GRADIENTS), 4, *place)],
        optimizer=EmbOptimType[kind],
        learning_rate=RATE,
        eps=epsilon,
    )
    (weights,) = table.split_embedding_weights()
    weights.data.zero_()
    table.split_optimizer_states()[0][0].fill_(start)
    ids, offsets = torch.arange(len(GRADIENTS)), torch.arange(len(GRADIENTS) + 1)
    for _ in range(STEPS):
        gradient = torch.tensor(GRADIENTS)[:, None].repeat(1, 4)
        table(ids, offsets).backward(gradient)
    accumulator = table.split_optimizer_states()[0][0].reshape(len(GRADIENTS), -1)
    return weights.detach().numpy()[:, 0], accumulator.numpy()[:, 0]


def run_fbgemm_full(epsilon, start):
    return run_fbgemm(epsilon, start, "EXACT_ADAGRAD")


def run_ftrl(epsilon, start):
    import tensorflow as tf
    from tf_keras.optimizers import legacy

    param = tf.Variable(np.zeros_like(GRADIENTS))
    optimizer = legacy.Ftrl(RATE, initial_accumulator_value=start, beta=epsilon)
    for _ in range(STEPS):
        optimizer.apply_gradients([(tf.constant(GRADIENTS), param)])
    return param.numpy(), optimizer.get_slot(param, "accumulator").numpy()


def main(peer):
    arrays = {}
    for setting, numbers in SETTINGS.items():
        params, accumulator = globals()[f"run_{peer}"](*numbers)
        arrays[f"{setting}/params"] = params
        arrays[f"{setting}/accumulator"] = accumulator
    folder = pathlib.Path(__file__).parent
    np.savez_compressed(folder / f"extremes_{peer}.npz", **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
