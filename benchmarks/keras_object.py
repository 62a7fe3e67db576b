"""What does an optimizer object cost beside the pure function inside it?

    python -m benchmarks.keras_object [--tensorflow PYTHON] [--quick] [--out FOLDER]

`aj.keras.Adagrad.apply_gradients` against the same transformation in a jitted function
with donation, and against the objects of Keras 3 (JAX backend) and TensorFlow, on the
arrays of ResNet-50, on many small arrays and on one: there it is all overhead.

Then one batch of `fit` in Keras 3: a model with an embedding table of 1,000,000 rows,
with Keras' own Adagrad and with `adagrad_jax.keras3`.

Keras 3 must be installed where this runs, TensorFlow and tf_keras where `--tensorflow`
says; a peer that is not there is left out. Results, with a plot, go to
benchmarks/results/keras_object.*.
"""

import functools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.side_by_side import measure, median_ratio, summarize
from benchmarks.workloads import (
    DENSE,
    MANY_SMALL,
    RATE,
    RESNET50,
    TINY,
    Shapes,
    dense_step,
)

ONE_SMALL = "one array of 8"
SHAPES = {**DENSE, ONE_SMALL: [(8,)]}
ROWS, WIDTH, BATCH, FIELDS = 1_000_000, 64, 512, 16
FIT = f"fit, {ROWS:,} rows"
BASELINES = {**dict.fromkeys(SHAPES, "function"), FIT: "Keras 3"}
QUICK = (ONE_SMALL, FIT)
# Contender, reference, at most this share of its time, in which case.
TARGETS = [
    ("object", "function", 1.1, RESNET50),
    ("object", "Keras 3", 1 / 6, RESNET50),
    ("object", "TensorFlow", 1 / 2, RESNET50),
    ("object", "function", 1.3, MANY_SMALL),
    ("adagrad_jax.keras3", "Keras 3", 1 / 10, FIT),
]
Times = dict[str, list[float]]


# --- Contenders; imports are inside, for not every Python has every framework ---------


def gradients_of(shapes: Shapes) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def function(shapes: Shapes) -> Callable[[], None]:
    """The transformation of the object, jitted, everything donated."""
    import adagrad_jax as aj

    return dense_step(aj.dialects.keras(RATE), shapes)


def our_object(shapes: Shapes, *, taken: bool = False) -> Callable[[], None]:
    """If ``taken``, the variables' arrays have been read, and so must be copied."""
    import jax
    import jax.numpy as jnp

    from adagrad_jax.keras import Adagrad, Variable

    grads = [jnp.asarray(g) for g in gradients_of(shapes)]
    variables = [Variable(jnp.ones(g.shape), name=f"v{i}") for i, g in enumerate(grads)]
    optimizer = Adagrad(RATE)

    def run() -> None:
        if taken:
            _ = [variable.value for variable in variables]
        optimizer.apply_gradients(zip(grads, variables, strict=True))
        jax.block_until_ready([variable._array for variable in variables])

    return run


def keras3_object(shapes: Shapes) -> Callable[[], None]:
    import jax
    import jax.numpy as jnp
    import keras

    grads = [jnp.asarray(g) for g in gradients_of(shapes)]
    variables = [keras.Variable(np.ones(g.shape, np.float32)) for g in grads]
    optimizer = keras.optimizers.Adagrad(RATE)

    def run() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))
        jax.block_until_ready([variable.value for variable in variables])

    return run


def tensorflow_object(shapes: Shapes) -> Callable[[], None]:
    """That of TensorFlow 2.0, as tf_keras still has it."""
    import tensorflow as tf
    import tf_keras

    grads = [tf.constant(g) for g in gradients_of(shapes)]
    variables = [tf.Variable(np.ones(g.shape, np.float32)) for g in grads]
    optimizer = tf_keras.optimizers.legacy.Adagrad(RATE)

    def run() -> None:
        optimizer.apply_gradients(zip(grads, variables, strict=True))

    return run


def fit(num_rows: int, *, by_rows: bool) -> Callable[[], None]:
    """A batch in Keras 3, with its own Adagrad or with ours and row-sparse training."""
    import keras

    from adagrad_jax import keras3

    class RowSparse(keras3.RowSparseTraining, keras.Sequential):
        pass

    model = (RowSparse if by_rows else keras.Sequential)(
        [
            keras.layers.Embedding(num_rows, WIDTH),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    optimizer = keras3.Adagrad if by_rows else keras.optimizers.Adagrad
    model.compile(optimizer=optimizer(RATE), loss="mse")
    rng = np.random.default_rng(0)
    ids = rng.integers(0, num_rows, (BATCH, FIELDS)).astype(np.int32)
    targets = rng.normal(size=(BATCH, 1)).astype(np.float32)

    def run() -> None:
        model.train_on_batch(ids, targets)  # returns the loss: it has been computed

    return run


CONTENDERS: dict[str, Callable[[Shapes], Callable[[], None]]] = {
    "function": function,
    "object": our_object,
    "object, arrays taken": functools.partial(our_object, taken=True),
    "Keras 3": keras3_object,
    "TensorFlow": tensorflow_object,
}


def make_step(case: str, name: str, quick: bool) -> Callable[[], None]:
    if case == FIT:
        return fit(100 if quick else ROWS, by_rows=name != "Keras 3")
    return CONTENDERS[name](TINY if quick else SHAPES[case])


# --- Measurements ---------------------------------------------------------------------


def run_case(case: str, args: Any, tensorflow: bool) -> Times:
    ours = ["function", "object", "object, arrays taken"]
    if case == FIT:
        ours = ["adagrad_jax.keras3"]
    # To see whether they run, one process (and one import of Keras) is enough.
    alone = [[*ours, "Keras 3"]] if args.quick else [ours, ["Keras 3"]]
    teams = [command.team(args, case, names) for names in alone]
    if tensorflow and case != FIT:
        teams.append(command.team(args, case, ["TensorFlow"], "tensorflow"))
    return measure(teams, args.rounds)


def targets(times: dict[str, Times]) -> list[dict[str, Any]]:
    """What was wanted, as far as it was measured."""
    found = []
    for name, reference, bound, case in TARGETS:
        seconds = times.get(case, {})
        if name in seconds and reference in seconds:
            ratio = median_ratio(seconds[name], seconds[reference])
            found.append(report.target(f"{name} / {reference}, {case}", ratio, bound))
    return found


def overhead(times: Times) -> float:
    """Microseconds that a call with one small variable takes longer."""
    pairs = zip(times["object"], times["function"], strict=True)
    return 1e6 * statistics.median(a - b for a, b in pairs)


def plot(cases: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(cases))
    most = max(map(len, cases.values()))
    for axis, (case, rows) in zip(axes, cases.items(), strict=True):
        names = list(rows)[::-1]
        values = [rows[name]["milliseconds"] for name in names]
        ours = [name.startswith(("object", "adagrad_jax")) for name in names]
        colors = ["#1f4e9c" if own else "#bbbbbb" for own in ours]
        bars = axis.barh(names, values, color=colors, height=0.65)
        axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(min(values) / 3, max(values) * 5)
        axis.set_ylim(len(names) - most - 0.5, len(names) - 0.5)  # bars of one height
        axis.set(title=case, xlabel="milliseconds a step")
        report.tidy(axis)
    return figure


def main() -> None:
    args = command.parse(
        command.parser(
            "keras_object", __doc__, rounds=25, tensorflow="TensorFlow and tf_keras"
        )
    )
    if args.serve:
        return command.serve(args, make_step)

    from tqdm import tqdm

    folder = command.results_folder(args)
    machine = Machine(args.pythons, command.environment())
    modules = ["tensorflow", "tf_keras"]
    tensorflow = machine.can_run("TensorFlow", "tensorflow", modules)
    chosen = tqdm(QUICK if args.quick else BASELINES, unit="case")
    times = {case: run_case(case, args, tensorflow) for case in chosen}
    cases = {case: summarize(times[case], BASELINES[case]) for case in times}
    more = overhead(times[ONE_SMALL])
    results = {**machine.note, "rounds": args.rounds, "cases": cases}
    results |= {"targets": targets(times), "one small variable, us": more}
    figure = plot(cases)
    report.write_timings(folder / "keras_object", results, cases, figure)
    print(f"one small variable: {more:.0f} us more than the function's")


if __name__ == "__main__":
    main()
