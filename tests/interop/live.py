"""A state written by us, loaded into a live peer that trains on, held against ours.

Give it the Python that has the peer (PyTorch, Keras 3 on JAX, or FBGEMM):

    python -m tests.interop.live torch path/to/its/bin/python

Of each of the peer's cases it writes what was handed over and what the peer made of it
to ``tests/golden/live_CASE.npz``, for ``test_live.py``, and says how far we are apart.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import adagrad_jax as aj

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden"
STEPS_HERE, STEPS_THERE = 3, 4


class Case(NamedTuple):
    """What is trained, and with what."""

    peer: str
    optimizer: Callable[..., Any]
    hyperparameters: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


LAYERS = {"bias": (3,), "kernel": (4, 3), "scale": ()}
TABLES = {"items": (5, 4), "users": (5, 8)}
SCHEDULE = {"initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 0.05}


def keras3(learning_rate, **hyperparameters):
    """The dialect, with a schedule of ours for Keras' InverseTimeDecay."""
    if isinstance(learning_rate, dict):
        assert learning_rate == SCHEDULE
        learning_rate = aj.inverse_time_decay(0.1, 0.05)
    return aj.dialects.keras3(learning_rate, **hyperparameters)


CASES = {
    "torch": Case("torch", aj.dialects.torch, {"lr": 0.1}, LAYERS),
    "torch_everything": Case(
        "torch",
        aj.dialects.torch,
        {
            "lr": 0.1,
            "lr_decay": 0.05,
            "weight_decay": 0.01,
            "initial_accumulator_value": 0.1,
            "eps": 1e-3,
            "maximize": True,
        },
        LAYERS,
    ),
    "keras": Case("keras", keras3, {"learning_rate": 0.1}, LAYERS),
    "keras_one_number": Case("keras", keras3, {"learning_rate": 0.1}, {"w": ()}),
    "keras_everything": Case(
        "keras",
        keras3,
        {
            "learning_rate": SCHEDULE,
            "weight_decay": 0.01,
            "clipnorm": 1.0,
            "use_ema": True,
            "ema_momentum": 0.9,
            "ema_overwrite_frequency": 2,
        },
        LAYERS,
    ),
    "fbgemm": Case(
        "fbgemm",
        aj.dialects.fbgemm,
        {"learning_rate": 0.1, "optimizer": "exact_row_wise_adagrad"},
        TABLES,
    ),
    "fbgemm_full": Case(
        "fbgemm",
        aj.dialects.fbgemm,
        {"learning_rate": 0.1, "optimizer": "exact_adagrad"},
        TABLES,
    ),
}


def train(case, forget=False):
    """Our parameters and state at the start and after each step, and all gradients.

    The state may be forgotten where the peer takes over, to see that it matters.
    """
    rng = np.random.default_rng(0)

    def random():
        return {k: np.float32(rng.normal(size=s)) for k, s in case.shapes.items()}

    params = random()
    gradients = [random() for _ in range(STEPS_HERE + STEPS_THERE)]
    optimizer = case.optimizer(**case.hyperparameters)

    @jax.jit
    def step(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, params)
    runs = [(params, jax.jit(optimizer.init)(params))]
    for count, gradient in enumerate(gradients):
        params, state = runs[-1]
        if forget and count == STEPS_HERE:
            state = optimizer.init(params)
        runs.append(step(gradient, state, params))
    return runs, gradients


def handed_over(case):
    """What the peer is given: our parameters and state, and the gradients to come."""
    runs, gradients = train(case)
    params, state = runs[STEPS_HERE]
    kept = _theirs(case, params, state)
    kept["params"] = list(params.values())
    kept["gradients"] = [
        np.stack([gradient[name] for gradient in gradients[STEPS_HERE:]])
        for name in params
    ]
    return {
        f"{name}_{i}": np.asarray(array)
        for name, arrays in kept.items()
        for i, array in enumerate(arrays)
    } | {"hyperparameters": np.array(json.dumps(case.hyperparameters))}


def _theirs(case, params, state):
    """Our state as the peer has it."""
    zeros = [np.zeros(p.shape, np.float32) for p in params.values()]
    if case.peer == "torch":
        empty = {
            "state": {i: {"step": 0.0, "sum": z} for i, z in enumerate(zeros)},
            "param_groups": [{"params": list(range(len(zeros)))}],
        }
        filled = aj.interop.to_torch(state, empty, params, step=STEPS_HERE)["state"]
        return {k: [filled[i][k] for i in range(len(zeros))] for k in ("step", "sum")}
    if case.peer == "keras":
        rate = case.hyperparameters["learning_rate"]
        head = [np.int32(0)] if isinstance(rate, dict) else [np.int32(0), rate]
        arrays = zeros * (1 + case.hyperparameters.get("use_ema", False))
        weights = aj.interop.to_keras(state, head + arrays, params, step=STEPS_HERE)
        return {"weights": weights}
    if case.hyperparameters["optimizer"] == "exact_row_wise_adagrad":
        zeros = [z[:, 0] for z in zeros]
    filled = aj.interop.to_fbgemm(state, [[z] for z in zeros], params)
    return {"momentum1": [entry for [entry] in filled]}


def continued(case, forget=False):
    """What our own run goes on to, under the names that the peer's has."""
    runs, _ = train(case, forget)
    found = {}
    for step, (params, state) in enumerate(runs[STEPS_HERE + 1 :]):
        accumulator = optax.tree.get(state, "accumulator")
        for what, tree in (("params", params), ("accumulator", accumulator)):
            for i, array in enumerate(tree.values()):
                found[f"{what}_{i}_after_{step}"] = np.asarray(array)
    return found


def units_apart(ours, theirs):
    """The largest difference, in float32 epsilons of the largest number on the way."""
    sizes = {}
    for name in ours:
        of = name.partition("_after_")[0]
        sizes[of] = max(sizes.get(of, 0), np.max(np.abs(theirs[name])))
    epsilon = np.finfo(np.float32).eps
    return max(
        np.max(np.abs(array - theirs[name]))
        / (sizes[name.partition("_after_")[0]] * epsilon)
        for name, array in ours.items()
    )


def recorded(name):
    """What the peer was given, and what it made of it."""
    with np.load(GOLDEN / f"live_{name}.npz") as file:
        return dict(file)


def record(name, python):
    case, file = CASES[name], GOLDEN / f"live_{name}.npz"
    given = handed_over(case)
    with tempfile.TemporaryDirectory() as folder:
        state, made = f"{folder}/state.npz", f"{folder}/made.npz"
        np.savez(state, **given)
        script = str(HERE / "live_peers.py")
        subprocess.run([python, script, case.peer, state, made], check=True)
        with np.load(made) as theirs:
            np.savez_compressed(
                file, **{f"given_{k}": x for k, x in given.items()}, **theirs
            )
    apart = units_apart(continued(case), recorded(name))
    print(f"{name}: at most {apart:.2f} epsilons apart in {STEPS_THERE} steps")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peer", choices=sorted({case.peer for case in CASES.values()}))
    parser.add_argument("python", help="of the environment that the peer is in")
    arguments = parser.parse_args()
    for name, case in CASES.items():
        if case.peer == arguments.peer:
            record(name, arguments.python)


if __name__ == "__main__":
    main()
