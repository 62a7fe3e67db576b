"""What devices send each other in a step on a table that lies on them by rows.

    python -m benchmarks.scaling [--quick] [--out FOLDER]

Nothing is timed: payloads are read off compiled steps, on devices that one CPU acts
as, at a fixed number of distinct ids for each. The unit is what these ids' rows take.
Beside the exchange there is what XLA does by itself. Results, with a plot, go to
benchmarks/results/scaling.*; docs/sharding.md says what to expect.
"""

import math
import os
import re
from typing import TYPE_CHECKING, Any

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from jax.sharding import AxisType, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

import adagrad_jax as aj  # noqa: E402
from benchmarks import command, report  # noqa: E402
from benchmarks.machine import Machine  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS_PER_DEVICE, WIDTH = 65_536, 32
OPTIMIZERS = {
    "adagrad": aj.adagrad(0.1),
    "with a global clip and decay": optax.chain(
        aj.add_decayed_weights(1e-4), aj.clip_by_global_norm(1.0), aj.adagrad(0.1)
    ),
}
KINDS = ["all-to-all", "all-reduce", "all-gather", "reduce-scatter"]
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}


def is_table(path: Any, leaf: Any) -> bool:
    return leaf.ndim == 2


def compiled(
    devices: int,
    num_ids: int,
    optimizer: Any,
    num_tables: int,
    exchanged: bool,
    in_one_array: bool = False,
) -> Any:
    """A step of ``num_ids`` ids a device in each table, compiled, not run.

    In one array the rows of a table come after those of the one before.
    """
    kinds = (AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("d",), kinds, devices=jax.devices()[:devices])
    by_rows = aj.sharding.RowSharding(mesh, "d")
    num_rows, num_arrays = ROWS_PER_DEVICE * devices, num_tables
    if in_one_array:
        num_rows, num_arrays = num_rows * num_tables, 1
    shape = jax.ShapeDtypeStruct((num_rows, WIDTH), "float32")
    params = {str(i): shape for i in range(num_arrays)}
    state = jax.eval_shape(optimizer.init, params)
    shardings = (
        aj.sharding.shard_rows(params, by_rows, is_table),
        aj.sharding.shard_rows(state, by_rows, is_table, params=params),
    )
    params, state = jax.tree.map(
        lambda x, sharding: x.update(sharding=sharding), (params, state), shardings
    )
    split = NamedSharding(mesh, P("d"))
    ids = jax.ShapeDtypeStruct((num_ids * devices,), "int32", sharding=split)

    def loss(params: Any, ids: Any) -> Any:
        if in_one_array:
            ids = ids[:, None] + jnp.arange(num_tables) * (num_rows // num_tables)
        return sum(jnp.sum(jnp.sin(table[ids])) for table in params.values())

    def step(params: Any, state: Any, ids: Any) -> Any:
        row_sharding = by_rows if exchanged else None
        value, gradients = aj.value_and_grad(
            loss, tables=is_table, row_sharding=row_sharding
        )(params, ids)
        updates, state = optimizer.update(gradients, state, params)
        return aj.apply_updates(params, updates), state, value

    jitted = jax.jit(step, donate_argnums=(0, 1), out_shardings=(*shardings, None))
    return jitted.lower(params, state, ids).compile()


def collectives(program: str) -> list[tuple[str, str, int]]:
    """Each one's kind, what it is for, and its payload on a device in bytes."""
    found = []
    for line in program.splitlines():
        match = re.search(rf"= (.*?) ({'|'.join(KINDS)})\(", line)
        if match is None:
            continue
        payload = sum(
            BYTES[dtype] * math.prod(int(k) for k in shape.split(",") if k)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1])
        )
        name = re.search(r'op_name="([^"]*)"', line)
        name = name[1] if name else ""
        purpose = "update" if "jit(arrive)" in name else "read"
        purpose = "later passes" if "jit(fold_arrived)" in name else purpose
        found.append((match[2], purpose, payload))
    return found


def measure(devices: int, num_ids: int, *how: Any) -> dict[str, Any]:
    """In units of the ids' rows, but for the numbers of collectives."""
    program = compiled(devices, num_ids, *how)
    found, unit = collectives(program.as_text()), num_ids * WIDTH * 4
    sent = {
        purpose: sum(x for _, p, x in found if p == purpose) / unit
        for purpose in ("read", "update", "later passes")
    }
    memory = program.memory_analysis().temp_size_in_bytes / unit
    return {**sent, "temporary memory": memory, "collectives": len(found)}


def to_table(cases: dict[str, dict[str, Any]]) -> report.Table:
    names = list(next(iter(cases.values())))
    rows = [
        [title, *(f"{case[n]:.2f}" if n != names[-1] else f"{case[n]}" for n in names)]
        for title, case in cases.items()
    ]
    return [["units of a device's rows", *names], *rows]


def plot(lines: dict[str, list[float]], devices: list[int]) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, values in lines.items():
        style = "-" if name.startswith("adagrad") else "--"
        color = "C0" if name.endswith("exchanged") else "C1"
        axes.plot(devices, values, style, marker="o", color=color, label=name)
    axes.set(
        xlabel="devices, each with as many ids",
        ylabel="sent, in rows of a device's ids",
        xticks=devices,
        ylim=(0, None),
    )
    axes.legend(frameon=False)
    report.tidy(axes, grid=True)
    return figure


def main() -> None:
    args = command.parse(command.parser("scaling", __doc__))

    from tqdm import tqdm

    num_ids, devices = (64, [2, 4]) if args.quick else (1024, [2, 4, 8])
    jobs = {}
    for name, optimizer in OPTIMIZERS.items():
        for exchanged, path in ((True, "exchanged"), (False, "left to XLA")):
            for number in devices:
                title = f"{name}, {path}, {number} devices"
                jobs[title] = number, num_ids, optimizer, 1, exchanged
    if not args.quick:
        jobs["adagrad, 26 tables, 8 devices"] = (
            8, num_ids, OPTIMIZERS["adagrad"], 26, True,
        )  # fmt: skip
        jobs["adagrad, 26 tables in one array, 8 devices"] = (
            8, num_ids, OPTIMIZERS["adagrad"], 26, True, True,
        )  # fmt: skip
    cases = {title: measure(*job) for title, job in tqdm(jobs.items(), unit="step")}
    print(report.text(to_table(cases)))
    lines = {
        f"{name}, {path}": [
            sum(
                cases[f"{name}, {path}, {number} devices"][p]
                for p in ("read", "update")
            )
            for number in devices
        ]
        for name in OPTIMIZERS
        for path in ("exchanged", "left to XLA")
    }
    note = Machine(args.pythons, command.environment()).note
    stem = command.results_folder(args) / "scaling"
    results = {**note, "ids": num_ids, "width": WIDTH, "cases": cases}
    report.write(stem, results, report.markdown(to_table(cases)), plot(lines, devices))


if __name__ == "__main__":
    main()
