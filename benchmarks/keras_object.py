"""What does an optimizer object cost beside the pure function inside it?

    python -m benchmarks.keras_object [--tensorflow PYTHON] [--out FOLDER]

`aj.keras.Adagrad.apply_gradients` against the same transformation in a jitted function
with donation, and against the objects of Keras 3 (JAX backend) and TensorFlow, on the
arrays of ResNet-50, on many small arrays and on one: there it is all overhead.

Then one batch of `fit` in Keras 3: a model with an embedding table of 1,000,000 rows,
with Keras' own Adagrad and with `adagrad_jax.keras3`.

Keras 3 must be installed where this runs, TensorFlow and tf_keras where `--tensorflow`
says; a peer that is not there is left out. Results, with a plot, go to
benchmarks/results/keras_object.*.
"""

import argparse
import functools
import json
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.dense import resnet50
from benchmarks.side_by_side import Team, measure, median_ratio, serve

RATE = 0.01
SHAPES = {
    "ResNet-50's 159 arrays": resnet50(),
    "1,000 arrays of 64": [(64,)] * 1000,
    "one array of 8": [(8,)],
}
ROWS, WIDTH, BATCH, FIELDS = 1_000_000, 64, 512, 16
FIT = f"fit, {ROWS:,} rows"
BASELINES = {**dict.fromkeys(SHAPES, "function"), FIT: "Keras 3"}
# Contender, reference, at most this share of its time, in which case.
TARGETS = [
    ("object", "function", 1.1, "ResNet-50's 159 arrays"),
    ("object", "Keras 3", 1 / 6, "ResNet-50's 159 arrays"),
    ("object", "TensorFlow", 1 / 2, "ResNet-50's 159 arrays"),
    ("object", "function", 1.3, "1,000 arrays of 64"),
    ("adagrad_jax.keras3", "Keras 3", 1 / 10, FIT),
]

# --- Contenders; imports are inside, for not every Python has every framework ---------


def gradients_of(case: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES[case]]


def function(case: str) -> Callable[[], None]:
    """The transformation of the object, jitted, everything donated."""
    import jax
    import jax.numpy as jnp
    import optax

    import adagrad_jax as aj

    optimizer = aj.dialects.keras(RATE)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    grads = [jnp.asarray(g) for g in gradients_of(case)]
    params = [jnp.ones(g.shape) for g in grads]
    carry = [params, optimizer.init(params)]

    def run() -> None:
        carry[:] = step(*carry, grads)
        jax.block_until_ready(carry)

    return run


def our_object(case: str, *, taken: bool = False) -> Callable[[], None]:
    """If ``taken``, the variables' arrays have been read, and so must be copied."""
    import jax
    import jax.numpy as jnp

    from adagrad_jax.keras import Adagrad, Variable

    grads = [jnp.asarray(g) for g in gradients_of(case)]
    variables = [Variable(jnp.ones(g.shape), name=f"v{i}") for i, g in enumerate(grads)]
    optimizer = Adagrad(RATE)

    def run() -> None:
        if taken:
            _ = [variable.value for variable in variables]
        optimizer.apply_gradients(zip(grads, variables, strict=True))
        jax.block_until_ready([variable._array for variable in variables])

    return run


def keras3_object(case: str) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp
    import keras

    grads = [jnp.asarray(g) for g in gradients_of(case)]
    variables = [keras.Variable(np.ones(g.shape, np.float32)) for g in grads]
    optimizer = keras.optimizers.Adagrad(RATE)

    def run() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))
        jax.block_until_ready([variable.value for variable in variables])

    return run


def tensorflow_object(case: str) -> Callable[[], None]:
    """That of TensorFlow 2.0, as tf_keras still has it."""
    import tensorflow as tf
    import tf_keras

    grads = [tf.constant(g) for g in gradients_of(case)]
    variables = [tf.Variable(np.ones(g.shape, np.float32)) for g in grads]
    optimizer = tf_keras.optimizers.legacy.Adagrad(RATE)

    def run() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return run


def fit(*, rows: bool) -> Callable[[], None]:
    """A batch in Keras 3, with its own Adagrad or with ours and row-sparse training."""
    import keras

    from adagrad_jax import keras3

    class RowSparse(keras3.RowSparseTraining, keras.Sequential):
        pass

    model = (RowSparse if rows else keras.Sequential)(
        [
            keras.layers.Embedding(ROWS, WIDTH),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras3.Adagrad if rows else keras.optimizers.Adagrad
    model.compile(optimizer=optimizer(RATE), loss="mse")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ROWS, (BATCH, FIELDS)).astype(np.int32)
    targets = rng.normal(size=(BATCH, 1)).astype(np.float32)

    def run() -> None:
        model.train_on_batch(ids, targets)  # returns the loss: it has been computed

    return run


CONTENDERS: dict[str, Callable[[str], Callable[[], None]]] = {
    "function": function,
    "object": our_object,
    "object, arrays taken": functools.partial(our_object, taken=True),
    "Keras 3": keras3_object,
    "TensorFlow": tensorflow_object,
}


def make_step(name: str, case: str) -> Callable[[], None]:
    if case == FIT:
        return fit(rows=name != "Keras 3")
    return CONTENDERS[name](case)


# --- Measurements ---------------------------------------------------------------------


def team(names: list[str], case: str, python: str) -> Team:
    command = [python, "-m", "benchmarks.keras_object", "--case", case]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return Team(tuple(names), [*command, "--steps", *names], environment)


def run_case(case: str, tensorflow: str | None, rounds: int) -> dict[str, Any]:
    ours = ["function", "object", "object, arrays taken"]
    if case == FIT:
        ours = ["adagrad_jax.keras3"]
    teams = [team(ours, case, sys.executable), team(["Keras 3"], case, sys.executable)]
    if tensorflow and case != FIT:
        teams.append(team(["TensorFlow"], case, tensorflow))
    times = measure(teams, rounds)
    baseline = times.get(BASELINES[case])
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(seconds),
            "ratio": median_ratio(seconds, baseline) if baseline else None,
            "times": seconds,
        }
        for name, seconds in times.items()
    }


def targets(cases: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What was wanted, what was found, and the bound."""
    found = []
    for name, reference, bound, case in TARGETS:
        rows = cases.get(case, {})
        if name in rows and reference in rows:
            ratio = median_ratio(rows[name]["times"], rows[reference]["times"])
            found.append((f"{name} / {reference}, {case}", ratio, bound))
    return found


def overhead(cases: dict[str, Any]) -> float:
    """Microseconds that a call with one small variable takes longer."""
    rows = cases["one array of 8"]
    pairs = zip(rows["object"]["times"], rows["function"]["times"], strict=True)
    return 1e6 * statistics.median(a - b for a, b in pairs)


def plot(cases: dict[str, Any], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(cases), figsize=(13, 3.6), layout="constrained")
    for axis, (case, rows) in zip(axes, cases.items(), strict=True):
        names = list(rows)[::-1]
        values = [rows[name]["milliseconds"] for name in names]
        ours = [name.startswith(("object", "adagrad_jax")) for name in names]
        colors = ["#1f4e9c" if own else "#bbbbbb" for own in ours]
        bars = axis.barh(names, values, color=colors, height=0.65)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 3, max(values) * 5)
        axis.set(title=case, xlabel="milliseconds a step")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tensorflow", metavar="PYTHON", help="a Python that has it")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path, default="benchmarks/results")
    parser.add_argument("--steps", nargs="+", help=argparse.SUPPRESS)  # in a process
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        return serve([make_step(name, args.case) for name in args.steps])

    import jax
    from tqdm import tqdm

    cases = {}
    for case in tqdm([*SHAPES, FIT], unit="case"):
        cases[case] = run_case(case, args.tensorflow, args.rounds)
    for case, rows in cases.items():
        print(f"\n{case}\n{'':24} {'ms':>9}  {'x ' + BASELINES[case]:>12}")
        for name, row in rows.items():
            ratio = "" if row["ratio"] is None else f"{row['ratio']:12.2f}"
            print(f"{name:24} {row['milliseconds']:9.3f}  {ratio}")
    print()
    for what, ratio, bound in targets(cases):
        verdict = "met" if ratio <= bound else "MISSED"
        print(f"{what:58} {ratio:.3f} (wanted: {bound:.3g})  {verdict}")
    print(f"one small variable: {overhead(cases):.0f} us more than the function's")
    for rows in cases.values():
        for row in rows.values():
            del row["times"]
    results = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        "cases": cases,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "keras_object.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(cases, args.out / "keras_object.png")


if __name__ == "__main__":
    main()
