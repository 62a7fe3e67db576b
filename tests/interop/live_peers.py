"""What a live peer makes of our state: run by ``tests.interop.live`` where it is.

``python live_peers.py PEER STATE RECORDED`` builds the peer's optimizer, gives it the
state in the file STATE, takes the steps that are left, and writes what it computed.
Nothing of adagrad_jax is imported, for it need not be installed there.
"""

import importlib.metadata
import json
import os
import sys

import numpy as np


def torch(state, hyperparameters):
    import torch

    params = [torch.nn.Parameter(torch.tensor(p)) for p in arrays(state, "params")]
    optimizer = torch.optim.Adagrad(params, **hyperparameters)
    entries = {
        i: {"step": torch.tensor(step), "sum": torch.tensor(array)}
        for i, (step, array) in enumerate(
            zip(arrays(state, "step"), arrays(state, "sum"), strict=True)
        )
    }
    optimizer.load_state_dict(optimizer.state_dict() | {"state": entries})
    for gradients in zip(*arrays(state, "gradients"), strict=True):
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = torch.tensor(gradient)
        optimizer.step()
        kept = [optimizer.state[param]["sum"] for param in params]
        yield [p.detach().numpy() for p in params], [k.numpy() for k in kept]


def keras(state, hyperparameters):
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    params = [keras.Variable(p) for p in arrays(state, "params")]
    rate = hyperparameters.pop("learning_rate")
    if isinstance(rate, dict):
        rate = keras.optimizers.schedules.InverseTimeDecay(**rate)
    optimizer = keras.optimizers.Adagrad(rate, **hyperparameters)
    optimizer.build(params)
    weights = arrays(state, "weights")
    for variable, array in zip(optimizer.variables, weights, strict=True):
        variable.assign(array)
    for gradients in zip(*arrays(state, "gradients"), strict=True):
        optimizer.apply(list(gradients), params)
        kept = optimizer.variables[-len(params) :]
        yield [np.asarray(p.value) for p in params], [np.asarray(k.value) for k in kept]


def fbgemm(state, hyperparameters):
    import torch
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    params = arrays(state, "params")
    kind = EmbOptimType(hyperparameters.pop("optimizer"))
    tables = SplitTableBatchedEmbeddingBagsCodegen(
        [(*p.shape, EmbeddingLocation.HOST, ComputeDevice.CPU) for p in params],
        optimizer=kind,
        **hyperparameters,
    )
    for weight, param in zip(tables.split_embedding_weights(), params, strict=True):
        weight.data.copy_(torch.tensor(param))
    kept = [entry for [entry] in tables.split_optimizer_states()]
    for theirs, ours in zip(kept, arrays(state, "momentum1"), strict=True):
        theirs.copy_(torch.tensor(ours))
    for gradients in zip(*arrays(state, "gradients"), strict=True):
        # One bag for each row, so that what it is given is the row's gradient.
        indices = torch.cat([torch.arange(len(p)) for p in params])
        offsets = torch.arange(len(indices) + 1)
        rows = tables(indices, offsets)
        rows.backward(torch.tensor(np.concatenate(gradients, axis=1)))
        weights = tables.split_embedding_weights()
        now = [entry for [entry] in tables.split_optimizer_states()]
        yield [w.detach().numpy() for w in weights], [k.numpy() for k in now]


def arrays(state, name):
    """What the file has of each parameter, or of each weight of Keras."""
    number = sum(key.startswith(f"{name}_") for key in state)
    return [state[f"{name}_{i}"] for i in range(number)]


def main(peer, state_file, recorded_file):
    with np.load(state_file) as file:
        state = dict(file)
    hyperparameters = json.loads(str(state["hyperparameters"]))
    package = {"fbgemm": "fbgemm-gpu-cpu"}.get(peer, peer)
    recorded = {"peer": f"{package} {importlib.metadata.version(package)}"}
    for step, of_step in enumerate(globals()[peer](state, hyperparameters)):
        for what, of_all in zip(("params", "accumulator"), of_step, strict=True):
            for i, array in enumerate(of_all):
                recorded[f"{what}_{i}_after_{step}"] = np.array(array)
    np.savez(recorded_file, **recorded)


if __name__ == "__main__":
    main(*sys.argv[1:])
