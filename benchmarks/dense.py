"""How long is a dense step, and does it have to be two passes over memory?

    python -m benchmarks.dense [--torch PYTHON] [--out FOLDER]

First question: one step of `aj.adagrad` against one of `optax.adagrad`, jitted with
donation, on one large array, on the arrays of ResNet-50 and on many small arrays.

Second question: a step reads parameter, gradient and accumulator, and writes two of
them: five streams of memory. XLA on a CPU makes two loops of it, which is seven.
The other contenders are ways to write it that might become one loop.

PyTorch's fused kernel runs where `--torch` names a Python that has it. Results, with a
plot, go to benchmarks/results/dense.*.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.side_by_side import Team, measure, median_ratio, serve

LARGE = 64 * 2**20
FORM_SIZE = 16 * 2**20  # still far larger than any cache
CHUNK = 2**20  # elements; the smaller, the slower, as it turned out
RATE, EPSILON = 0.01, 1e-7
MULTI_OUTPUT_FUSION = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"


def resnet50() -> list[tuple[int, ...]]:
    """The shapes of its 53 convolutions and of their normalizations: 159 arrays."""
    kernels = [(7, 7, 3, 64)]
    width = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow = 64 * 2**stage
        for block in range(blocks):
            kernels += [(1, 1, width, narrow), (3, 3, narrow, narrow)]
            kernels += [(1, 1, narrow, 4 * narrow)]
            if block == 0:
                kernels += [(1, 1, width, 4 * narrow)]  # on the shortcut
            width = 4 * narrow
    return [shape for k in kernels for shape in (k, k[-1:], k[-1:])]


CASES = {
    "one array of 64M": [(LARGE,)],
    "ResNet-50's 159 arrays": resnet50(),
    "1,000 arrays of 64": [(64,)] * 1000,
}

# --- Contenders: torch runs where jax may not be, so imports are inside ---------------


def optimizer_step(name: str, shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    """A jitted step of an Optax transformation, parameters and state donated."""
    import jax
    import optax

    import adagrad_jax as aj

    optimizer = {"adagrad_jax": aj.adagrad, "optax": optax.adagrad}[name](RATE)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = [jax.numpy.ones(shape) for shape in shapes]
    grads = [jax.random.normal(jax.random.key(0), shape) for shape in shapes]
    carry = [params, optimizer.init(params)]

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry, grads))

    return run


def recurrence(param, accumulator, grad):
    import jax.numpy as jnp

    accumulator = accumulator + grad * grad
    return param - RATE * grad / (jnp.sqrt(accumulator) + EPSILON), accumulator


def recomputed(param, accumulator, grad):
    """The parameter does not wait for the accumulator, but computes it again."""
    import jax

    _, kept = recurrence(param, accumulator, grad)
    return recurrence(param, accumulator, grad)[0], jax.lax.optimization_barrier(kept)


def recomputed_apart(param, accumulator, grad):
    """So that XLA does not see that it is the same: two loops that it could merge."""
    import jax

    again = jax.lax.optimization_barrier((accumulator, grad))
    param, _ = recurrence(param, accumulator, grad)
    return param, recurrence(param, *again)[1]


def chunked(param, accumulator, grad):
    """In place, chunk by chunk: the second loop would find its chunk in the cache."""
    import jax

    def update(i, carry):
        part = [
            jax.lax.dynamic_slice(x, (i * CHUNK,), (CHUNK,)) for x in (*carry, grad)
        ]
        return tuple(
            jax.lax.dynamic_update_slice(x, new, (i * CHUNK,))
            for x, new in zip(carry, recurrence(*part), strict=True)
        )

    return jax.lax.fori_loop(0, FORM_SIZE // CHUNK, update, (param, accumulator))


def mapped(param, accumulator, grad):
    """Chunk by chunk into new arrays."""
    import jax

    chunks = [x.reshape(-1, CHUNK) for x in (param, accumulator, grad)]
    new = jax.lax.map(lambda chunk: recurrence(*chunk), chunks)
    return tuple(x.reshape(-1) for x in new)


FORMS = (recurrence, recomputed, recomputed_apart, chunked, mapped)


def form_step(form: Callable) -> Callable[[], None]:
    """The bare recurrence on an array of FORM_SIZE, written in one of the forms."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(form, donate_argnums=(0, 1))
    grad = jax.random.normal(jax.random.key(0), (FORM_SIZE,))
    carry = [jnp.ones(FORM_SIZE), jnp.full(FORM_SIZE, 0.1)]

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry, grad))

    return run


def torch_step(shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    import torch

    params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    return torch.optim.Adagrad(params, lr=RATE, fused=True).step


def make_step(name: str, case: str) -> Callable[[], None]:
    if name == "torch fused":
        return torch_step(CASES[case])
    forms = {form.__name__: form for form in FORMS}
    if name in forms:
        return form_step(forms[name])
    return optimizer_step(name.removesuffix(" again"), CASES[case])


# --- The report -----------------------------------------------------------------------


def team(names: list[str], case: str, python: str, flags: str = "") -> Team:
    suffix = " + multi-output fusion" if flags else ""
    return Team(
        tuple(name + suffix for name in names),
        [python, "-m", "benchmarks.dense", "--case", case, "--steps", *names],
        os.environ | {"XLA_FLAGS": flags},
    )


def run_case(case: str, torch: str | None, rounds: int) -> dict[str, list[float]]:
    """Optax runs twice: how far that is from 1 is how far noise goes.

    Of a thousand small steps the one whose arrays were made first is a few per cent
    faster, so processes are started several times over, each in another order.
    """
    times: dict[str, list[float]] = {}
    names = ["optax", "optax again", "adagrad_jax"]
    for order in itertools.permutations(names):
        teams = [team(list(order), case, sys.executable)]
        if torch:
            teams += [team(["torch fused"], case, torch)]
        for name, seconds in measure(teams, rounds).items():
            times.setdefault(name, []).extend(seconds)
    return {name: times[name] for name in [*names, "torch fused"] if name in times}


def run_forms(rounds: int) -> dict[str, list[float]]:
    names = [form.__name__ for form in FORMS]
    return measure(
        [
            team(names, "", sys.executable),
            team(names[:3], "", sys.executable, MULTI_OUTPUT_FUSION),
        ],
        rounds,
    )


def summarize(times: dict[str, list[float]], baseline: str) -> dict[str, Any]:
    return {
        name: {
            "milliseconds": 1e3 * statistics.median(seconds),
            "ratio": median_ratio(seconds, times[baseline]),
        }
        for name, seconds in times.items()
    }


def print_table(title: str, summary: dict[str, Any], baseline: str) -> None:
    print(f"\n{title}\n{'':38} {'ms':>9}  {'x ' + baseline:>12}")
    for name, row in summary.items():
        print(f"{name:38} {row['milliseconds']:9.2f}  {row['ratio']:12.2f}")


COLORS = {
    "optax again": "#bbbbbb",
    "adagrad_jax": "#66aadd",
    "torch fused": "#ee6677",
}


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    plot_cases(left, results["cases"])
    plot_forms(right, results["forms"])
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def plot_cases(axis: Any, cases: dict[str, Any]) -> None:
    contenders = [n for n in COLORS if all(n in rows for rows in cases.values())]
    for offset, name in enumerate(contenders):
        places = [case + (offset - 1) * 0.27 for case in range(len(cases))]
        ratios = [rows[name]["ratio"] for rows in cases.values()]
        bars = axis.bar(places, ratios, 0.25, label=name, color=COLORS[name])
        axis.bar_label(bars, fmt="%.2f", padding=-14, fontsize=9)  # inside
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--", zorder=0)
    names = [
        case.replace(" arrays", "\narrays").replace(" of", "\nof") for case in cases
    ]
    axis.set_xticks(range(len(cases)), names)
    axis.set(title="One step", ylabel="time / optax.adagrad's", ylim=(0, 1.3))
    axis.legend(frameon=False, ncols=len(contenders), loc="upper center")


def plot_forms(axis: Any, forms: dict[str, Any]) -> None:
    names = [name for name in forms if name != "recurrence"][::-1]
    ratios = [forms[name]["ratio"] for name in names]
    colors = ["#ccbb44" if "fusion" in name else "#4477aa" for name in names]
    labels = [name.replace(" + ", "\n+ ").replace("_", " ") for name in names]
    # From 1, the recurrence as it stands, to the left if faster, to the right if not.
    bars = axis.barh(labels, [ratio - 1 for ratio in ratios], left=1, color=colors)
    for bar, ratio in zip(bars, ratios, strict=True):
        axis.annotate(
            f" {ratio:.2f}",
            (max(ratio, 1), bar.get_y() + bar.get_height() / 2),
            va="center",
            fontsize=9,
        )
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xlim(0.4, 32)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set(title="Forms of the step, 16M elements", xlabel="time / the recurrence's")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=pathlib.Path, default="benchmarks/results")
    parser.add_argument("--steps", nargs="+", help=argparse.SUPPRESS)  # in a process
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps:
        return serve([make_step(name, args.case) for name in args.steps])

    import jax
    import optax

    cases = {}
    for case in CASES:
        cases[case] = summarize(run_case(case, args.torch, args.rounds), "optax")
        print_table(case, cases[case], "optax")
    forms = summarize(run_forms(args.rounds), "recurrence")
    print_table("One loop or two", forms, "recurrence")
    results = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        # Asked last: whoever asks takes a GPU's memory, which the contenders need.
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "optax": optax.__version__},
        "cases": cases,
        "forms": forms,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "dense.json").write_text(json.dumps(results, indent=2) + "\n")
    plot(results, args.out / "dense.png")


if __name__ == "__main__":
    main()
