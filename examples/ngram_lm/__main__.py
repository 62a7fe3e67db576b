"""A language model with tables of hashed n-grams: what they are worth, what they cost.

    python -m examples.ngram_lm [--quick] [--out FOLDER]

A small transformer learns Python's standard library, byte by byte, without tables and
with tables of 2^14 to 2^22 rows a layer. A step reads a few thousand of their rows. By
`aj.value_and_grad` it also writes no more: tables are trained by Adagrad with an
accumulator for each row, the rest by AdamW, through `optax.partition`; the gradients of
microbatches are added, rows to rows, and clipped by the norm of all. So a step takes
the same time whatever the number of rows (right panel), where an ordinary gradient's
goes through the tables.

Under five minutes on two CPU cores. The plot goes to examples/ngram_lm/losses.png.
"""

import argparse
import functools
import pathlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

import adagrad_jax as aj
from examples.ngram_lm import text
from examples.ngram_lm.model import Model

SIZES = [0, 2**14, 2**16, 2**18, 2**20, 2**22]
BATCH, MICROBATCHES = 16, 2


def optimizer() -> optax.GradientTransformation:
    """AdamW, and for tables Adagrad, each row at its own rate."""
    of_tables = aj.adagrad(0.1, 0.0, 1e-8, accumulator=aj.RowWise(row_axes=2))
    return optax.chain(
        aj.clip_by_global_norm(1.0),
        optax.partition({"tables": of_tables, "rest": optax.adamw(3e-3)}, labels),
    )


def is_table(path: Any, leaf: Any) -> bool:
    """The embedding of bytes is none: AdamW wants its whole gradient."""
    del leaf
    return path[-1].key == "ngrams"


def labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: "tables" if is_table(path, leaf) else "rest", params
    )


by_rows = functools.partial(aj.value_and_grad, tables=is_table)


def make_step(model: Model, value_and_grad: Callable[..., Any]) -> Callable[..., Any]:
    """A step on a batch, whose microbatches come one after the other."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, batch: jax.Array) -> Any:
        losses, gradients = [], None
        for part in np.split(np.arange(BATCH), MICROBATCHES):
            loss, more = value_and_grad(model.loss)(params, batch[part])
            losses.append(loss)
            gradients = (
                more if gradients is None else jax.tree.map(add, gradients, more)
            )
        gradients = jax.tree.map(lambda g: g / MICROBATCHES, gradients)
        updates, state = optimizer().update(gradients, state, params)
        return aj.apply_updates(params, updates), state, sum(losses) / MICROBATCHES

    return step


def add(a: Any, b: Any) -> Any:
    return a + b


def train(
    model: Model, steps: int, every: int, num_bytes: int, bar: Any
) -> list[tuple[int, float]]:
    """The loss of validation after each ``every`` steps."""
    learn, check = text.load(num_bytes)
    length = model.length + 1
    unseen = [text.windows(check, length, 64, seed) for seed in range(2)]
    evaluate, step = jax.jit(model.loss), make_step(model, by_rows)
    params = model.init(jax.random.key(0))
    state, curve = optimizer().init(params), []
    for number in range(1, steps + 1):
        batch = text.windows(learn, length, BATCH, number)
        params, state, _ = step(params, state, batch)
        bar.update()
        if number % every == 0:
            loss = statistics.mean(float(evaluate(params, x)) for x in unseen)
            curve.append((number, loss))
            bar.set_postfix_str(f"{loss:.3f} bits a byte")
    return curve


def time_steps(models: list[Model], turns: int) -> dict[str, list[float]]:
    """Milliseconds of a step for each of the models, by rows and dense, in turns."""
    runs = {}
    for name, value_and_grad in (
        ("by rows", by_rows),
        ("dense", jax.value_and_grad),
    ):
        for model in models:
            step = make_step(model, value_and_grad)
            params = model.init(jax.random.key(0))
            runs[name, model.rows] = [step, params, optimizer().init(params)]
    batch = text.windows(text.load(10**6)[0], models[0].length + 1, BATCH, 0)
    times: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    for turn in range(turns + 1):  # the first one compiles
        for key in random.sample(list(runs), len(runs)):
            run = runs[key]
            start = time.perf_counter()
            run[1:] = jax.block_until_ready(run[0](*run[1:], batch)[:2])
            if turn:
                times[key].append(1e3 * (time.perf_counter() - start))
    medians = {key: statistics.median(x) for key, x in times.items()}
    return {
        name: [medians[name, model.rows] for model in models]
        for name in ("by rows", "dense")
    }


def plot(
    curves: dict[int, list[tuple[int, float]]], times: dict[str, list[float]]
) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    sizes = [rows for rows in curves if rows]
    for i, (rows, curve) in enumerate(curves.items()):
        color = f"{0.75 - 0.6 * i / len(curves):.2f}" if not rows else f"C{i}"
        left.plot(*zip(*curve, strict=True), color=color, label=named(rows))
    left.set(xlabel="step", ylabel="validation loss, bits a byte")
    left.legend(frameon=False, fontsize=9)
    for name, values in times.items():
        right.loglog(sizes, values, marker="o", label=name)
    right.set(
        xlabel="rows of a layer's table", ylabel="milliseconds a step", ylim=(10, None)
    )
    right.set_xticks(sizes, [f"$2^{{{rows.bit_length() - 1}}}$" for rows in sizes])
    right.minorticks_off()
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def named(rows: int) -> str:
    return f"$2^{{{rows.bit_length() - 1}}}$ rows" if rows else "no tables"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="does it run?")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the plot")
    args = parser.parse_args(arguments)
    sizes, steps, every, num_bytes, turns = SIZES, 400, 20, 4 * 10**6, 5
    if args.quick:
        sizes, steps, every, num_bytes, turns = [0, 2**10], 4, 2, 10**5, 1
    curves = {}
    with tqdm(total=steps * len(sizes), unit="step", mininterval=1) as bar:
        for rows in sizes:
            bar.set_description("no tables" if not rows else f"{rows:,} rows")
            curves[rows] = train(Model(rows), steps, every, num_bytes, bar)
    times = time_steps([Model(rows) for rows in sizes if rows], turns)
    for rows, curve in curves.items():
        print(f"{rows:>9,} rows: {curve[-1][1]:.3f} bits a byte")
    for name, values in times.items():
        print(f"{name:>8}:", ", ".join(f"{ms:.0f}" for ms in values), "ms a step")
    default = tempfile.mkdtemp() if args.quick else pathlib.Path(__file__).parent
    path = pathlib.Path(args.out or default) / "losses.png"
    plot(curves, times).savefig(path, dpi=140)
    print(f"Wrote {path.name}")


if __name__ == "__main__":
    main()
