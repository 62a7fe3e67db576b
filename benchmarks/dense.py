"""How long is a dense step, and does it have to be two passes over memory?

    python -m benchmarks.dense [--torch PYTHON] [--quick] [--out FOLDER]

First question: one step of `aj.adagrad` against one of `optax.adagrad`, jitted with
donation, on one large array, on the arrays of ResNet-50 and on many small arrays.

Second question: a step reads parameter, gradient and accumulator, and writes two of
them: five streams of memory. XLA on a CPU makes two loops of it, which is seven.
The other contenders are ways to write it that might become one loop.

PyTorch's fused kernel runs where `--torch` names a Python that has it. Results, with a
plot, go to benchmarks/results/dense.*.
"""

import functools
import itertools
import textwrap
from collections.abc import Callable
from typing import Any

from benchmarks import command, report
from benchmarks.machine import Machine
from benchmarks.side_by_side import measure, summarize
from benchmarks.workloads import DENSE, RATE, TINY, dense_step

CASES = {"one array of 64M": [(64 * 2**20,)], **DENSE}
FORM_SIZE = 16 * 2**20  # still far larger than any cache
QUICK_FORM_SIZE = 64
CHUNKS = 16  # of 2^20 elements; the smaller, the slower, as it turned out
EPSILON = 1e-7
MULTI_OUTPUT_FUSION = "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion"
FORMS_CASE, TORCH = "forms", "torch fused"

# --- Contenders: torch runs where jax may not be, so imports are inside ---------------


def optimizer_step(name: str, shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    import optax

    import adagrad_jax as aj

    optimizers = {"adagrad_jax": aj.adagrad, "optax": optax.adagrad}
    return dense_step(optimizers[name](RATE), shapes)


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

    size = len(param) // CHUNKS

    def update(i, carry):
        part = [jax.lax.dynamic_slice(x, (i * size,), (size,)) for x in (*carry, grad)]
        return tuple(
            jax.lax.dynamic_update_slice(x, new, (i * size,))
            for x, new in zip(carry, recurrence(*part), strict=True)
        )

    return jax.lax.fori_loop(0, CHUNKS, update, (param, accumulator))


def mapped(param, accumulator, grad):
    """Chunk by chunk into new arrays."""
    import jax

    chunks = [x.reshape(CHUNKS, -1) for x in (param, accumulator, grad)]
    new = jax.lax.map(lambda chunk: recurrence(*chunk), chunks)
    return tuple(x.reshape(-1) for x in new)


FORMS = (recurrence, recomputed, recomputed_apart, chunked, mapped)


def form_step(form: Callable, size: int) -> Callable[[], None]:
    """The bare recurrence on one array, written in one of the forms."""
    import jax
    import jax.numpy as jnp

    step = jax.jit(form, donate_argnums=(0, 1))
    grad = jax.random.normal(jax.random.key(0), (size,))
    carry = [jnp.ones(size), jnp.full(size, 0.1)]

    def run() -> None:
        carry[:] = jax.block_until_ready(step(*carry, grad))

    return run


def torch_step(shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    import torch

    params = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    for param in params:
        param.grad = torch.randn_like(param)
    return torch.optim.Adagrad(params, lr=RATE, fused=True).step


def make_step(case: str, name: str, quick: bool) -> Callable[[], None]:
    if case == FORMS_CASE:
        form = {form.__name__: form for form in FORMS}[name]
        return form_step(form, QUICK_FORM_SIZE if quick else FORM_SIZE)
    shapes = TINY if quick else CASES[case]
    if name == TORCH:
        return torch_step(shapes)
    return optimizer_step(name.removesuffix(" again"), shapes)


# --- The report -----------------------------------------------------------------------


def run_cases(args: Any, torch: bool) -> dict[str, report.Case]:
    """Optax runs twice: how far that is from 1 is how far noise goes.

    Of a thousand small steps the one whose arrays were made first is a few per cent
    faster, so processes are started several times over, each in another order.
    """
    from tqdm import tqdm

    names = ["optax", "optax again", "adagrad_jax"]
    orders = list(itertools.permutations(names))[: 1 if args.quick else None]
    cases = list(CASES)[: 1 if args.quick else None]
    team = functools.partial(command.team, args, XLA_FLAGS="")
    found = {}
    with tqdm(total=len(cases) * len(orders), unit="set") as bar:
        for case in cases:
            bar.set_description(case)
            times: dict[str, list[float]] = {}
            for order in orders:
                teams = [team(case, list(order))]
                teams += [team(case, [TORCH], peer="torch")] if torch else []
                for name, seconds in measure(teams, args.rounds).items():
                    times.setdefault(name, []).extend(seconds)
                bar.update()
            ordered = {name: times[name] for name in [*names, TORCH] if name in times}
            found[case] = summarize(ordered, "optax")
    return found


def run_forms(args: Any) -> report.Case:
    names, fusion = [form.__name__ for form in FORMS], " + multi-output fusion"
    team = functools.partial(command.team, args, FORMS_CASE)
    teams = [
        team(names, XLA_FLAGS=""),
        team(names[:3], suffix=fusion, XLA_FLAGS=MULTI_OUTPUT_FUSION),
    ]
    return summarize(measure(teams, args.rounds), "recurrence")


COLORS = {
    "optax again": "#bbbbbb",
    "adagrad_jax": "#66aadd",
    TORCH: "#ee6677",
}


def plot(results: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_cases(left, results["cases"])
    plot_forms(right, results["forms"])
    for axis in (left, right):
        report.tidy(axis)
    return figure


def plot_cases(axis: Any, cases: dict[str, Any]) -> None:
    contenders = [n for n in COLORS if all(n in rows for rows in cases.values())]
    for offset, name in enumerate(contenders):
        shift = 0.27 * (offset - (len(contenders) - 1) / 2)
        places = [case + shift for case in range(len(cases))]
        ratios = [rows[name]["ratio"] for rows in cases.values()]
        bars = axis.bar(places, ratios, 0.25, label=name, color=COLORS[name])
        axis.bar_label(bars, fmt="%.2f", padding=-14, fontsize=9)  # inside
    axis.axhline(1, color="black", linewidth=0.8, linestyle="--", zorder=0)
    names = [textwrap.fill(case, 14) for case in cases]
    axis.set_xticks(range(len(cases)), names)
    highest = max(rows[name]["ratio"] for rows in cases.values() for name in contenders)
    axis.set_ylim(0, max(1.3, 1.2 * highest))  # room for the legend
    axis.set(title="One step", ylabel="time / optax.adagrad's")
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
    args = command.parse(command.parser("dense", __doc__, rounds=15, torch="PyTorch"))
    if args.serve:
        return command.serve(args, make_step)
    folder = command.results_folder(args)
    machine = Machine(args.pythons, command.environment())
    cases = run_cases(args, torch=machine.can_run(TORCH, "torch", ["torch"]))
    forms = run_forms(args)
    results = {**machine.note, "rounds": args.rounds, "cases": cases, "forms": forms}
    tables = {**cases, "forms of the step": forms}
    report.write_timings(folder / "dense", results, tables, plot(results))


if __name__ == "__main__":
    main()
