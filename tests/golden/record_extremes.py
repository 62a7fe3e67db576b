"""Records what the peers make of extreme float32 inputs, into extremes_PEER.npz.

Run it in each peer's own environment, with the peer's name, `torch` or `keras3`:

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
