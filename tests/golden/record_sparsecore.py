"""Records what jax-tpu-embedding's optimizers compute, into sparsecore.json and .npz.

Its primitives run on a TPU's SparseCores only, but are lowered anywhere. In what they
are lowered to, a function of one row, its slots and hyperparameters is the optimizer:
this function is taken out as it is, compiled for the CPU, and called with each row that
a step reads, with the sum of its entries. Hyperparameters are those that the spec gives
for the step. What is not recorded is what the hardware does around that function.

Run it with jax-tpu-embedding 0.2.0 installed (Python 3.12 or later):

    python tests/golden/record_sparsecore.py
"""

import functools
import json
import pathlib
import platform
import re
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import mlir
from jax_tpu_embedding.sparsecore.lib.nn import embedding_spec
from jaxlib import _jax
from jaxlib.mlir import ir

FOLDER = pathlib.Path(__file__).parent
DIM = 4
SPECS = {
    "adagrad": embedding_spec.AdagradOptimizerSpec,
    "f2a": embedding_spec.F2AOptimizerSpec,
}
RATES = [0.3, 0.2, 0.1, 0.05, 0.4, 0.0, 0.25, 0.15]
PENALTIES = {"l1_regularization_strength": 0.02, "l2_regularization_strength": 0.1}
# Name: kind, hyperparameters, number of steps, rows. A rate of None is RATES[step].
CASES = {
    "defaults": ("adagrad", {}, 8, 6),
    "large_rate": ("adagrad", {"learning_rate": 0.7}, 8, 6),
    "schedule": ("adagrad", {"learning_rate": None}, 8, 6),
    "from_zero": (
        "adagrad",
        {"learning_rate": 0.1, "initial_accumulator_value": 0.0},
        8,
        6,
    ),
    "f2a_defaults": ("f2a", {}, 8, 6),
    "f2a_linear": ("f2a", {"learning_rate": 0.1, "rho": 1.0}, 8, 6),
    "f2a_rho_0": ("f2a", {"learning_rate": 0.1, "rho": 0.0}, 8, 6),
    "f2a_capped": (
        "f2a",
        {"learning_rate": 0.1, "rho": 1.0, "max_lr_multiplier": 1.5},
        8,
        6,
    ),
    "f2a_penalties": ("f2a", {"learning_rate": 0.1, **PENALTIES}, 8, 6),
    "f2a_counted_before": (
        "f2a",
        {"learning_rate": 0.1, "initial_local_step_value": 3.0},
        8,
        6,
    ),
    "f2a_schedule": ("f2a", {"learning_rate": None, "rho": 0.7}, 8, 6),
    "f2a_from_zero": (
        "f2a",
        {"learning_rate": 0.1, "initial_accumulator_value": 0.0},
        8,
        6,
    ),
    "f2a_long": ("f2a", {"learning_rate": 0.05, "rho": 0.8}, 300, 40),
}


@functools.cache
def row_update(kind, num_slots, num_hyperparameters):
    """The optimizer's own function of a row, compiled for the CPU."""
    primitive = SPECS[kind]().get_optimizer_primitive()

    def step(*args):
        return primitive.bind(
            *args,
            max_ids_per_partition=8,
            max_unique_ids_per_partition=8,
            computation_name="update_of_a_row",
        )

    def array(dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    tables = [array(jnp.float32, 8, DIM)] * (1 + num_slots)
    lowered = (
        jax.jit(step)
        .trace(
            *[array(jnp.int32, 8)] * 3,
            array(jnp.float32, 8),
            array(jnp.int32),
            *tables,
            array(jnp.float32, 8, DIM),
            *[array(jnp.float32)] * num_hyperparameters,
        )
        .lower(lowering_platforms=("tpu",))
    )
    (body,) = re.findall(
        r"func\.func private @update_of_a_row\((.*?)\n  }", lowered.as_text(), re.S
    )
    # It gives a tuple; what it is of is given by itself.
    arguments, lines = body.split(") -> ", 1)
    _, *lines, packed, _ = lines.split("\n")
    values, types = re.search(r"stablehlo\.tuple (.*?) : tuple<(.*)>", packed).groups()
    text = "\n".join(
        [
            "module @row {",
            f"func.func public @main({arguments}) -> ({types}) {{",
            *lines,
            f"return {values} : {types}",
            "}",
            "}",
        ]
    )
    client = jax.devices("cpu")[0].client
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        devices = _jax.DeviceList(tuple(jax.devices("cpu")[:1]))
        compiled = client.compile_and_load(module, devices)

    def call(*rows):
        rows = [jnp.full((1, DIM), row, jnp.float32) for row in rows]
        results = compiled.execute_sharded(rows)
        parts = results.disassemble_into_single_device_arrays()
        return [np.asarray(part)[0] for (part,) in parts]

    return call


def gradients(random, steps, num_rows):
    """Ids of a few rows, repeated ones too, frequent and rare; one row of zeros."""
    frequency = 1.0 / np.arange(1, num_rows) ** 1.5
    frequency /= frequency.sum()
    for t in range(steps):
        ids = random.choice(num_rows - 1, 5, p=frequency)
        values = random.normal(size=(5, DIM)) * 10.0 ** random.uniform(-2, 1, (5, 1))
        if t == 2:  # the last row is read once, and its gradient is 0
            ids[-1], values[-1] = num_rows - 1, 0
        yield ids.astype(np.int32), values.astype(np.float32)


def run(random, kind, hyperparameters, steps, num_rows):
    given = dict(hyperparameters)
    if "learning_rate" in given and given["learning_rate"] is None:
        given["learning_rate"] = lambda step: RATES[step]
    spec = SPECS[kind](**given)
    table = random.normal(size=(num_rows, DIM)).astype(np.float32)
    key = jax.random.key(0)
    slots = [
        np.array(init(key, table.shape, jnp.float32))
        for init in spec.slot_variables_initializers()
    ]
    arrays = {"init": table, "params": [], "acc": [], "local_step": [], "rate": []}
    batches = list(gradients(random, steps, num_rows))
    for t, (ids, values) in enumerate(batches):
        numbers = spec.get_hyperparameters(t)
        update = row_update(kind, len(slots), len(numbers))
        table, slots = table.copy(), [slot.copy() for slot in slots]
        for row in np.unique(ids):
            gradient = values[ids == row].sum(axis=0)
            table[row], *new = update(
                gradient, table[row], *(slot[row] for slot in slots), *numbers
            )
            for slot, changed in zip(slots, new, strict=True):
                slot[row] = changed
        arrays["rate"].append(np.float32(numbers[0]))
        arrays["params"].append(table)
        arrays["acc"].append(slots[0])
        arrays["local_step"].append(slots[-1])
    if kind == "adagrad":
        del arrays["local_step"]
    arrays["grad_indices"] = np.concatenate([ids for ids, _ in batches])
    arrays["grad_values"] = np.concatenate([values for _, values in batches])
    arrays["grad_offsets"] = np.arange(steps + 1) * len(batches[0][0])
    return {name: np.array(array) for name, array in arrays.items()}


def main():
    archive, cases = {}, []
    random = np.random.default_rng(0)
    for name, (kind, hyperparameters, steps, num_rows) in CASES.items():
        arrays = run(random, kind, hyperparameters, steps, num_rows)
        archive |= {f"{name}/{key}": array for key, array in arrays.items()}
        keys = {key: f"{name}/{key}" for key in arrays if key != "rate"}
        variable = {
            "name": "table",
            "shape": [num_rows, DIM],
            "dtype": "float32",
            "gradient": "sparse",
            "keys": keys,
        }
        cases.append(
            {
                "name": name,
                "kind": kind,
                "hyperparameters": hyperparameters,
                "steps": steps,
                "variables": [variable],
                "keys": {"learning_rate": f"{name}/rate"},
            }
        )
    packages = ("jax_tpu_embedding", "jax", "jaxlib", "numpy")
    manifest = {
        "peer": "sparsecore",
        "about": "The function of a row that each primitive is lowered to, on a CPU.",
        "npz": "sparsecore.npz",
        "versions": {package: metadata.version(package) for package in packages}
        | {"python": platform.python_version()},
        "cases": cases,
    }
    np.savez_compressed(FOLDER / "sparsecore.npz", **archive)
    (FOLDER / "sparsecore.json").write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
