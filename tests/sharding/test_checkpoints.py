"""Orbax's checkpoints of our states: other devices, damage, and being killed."""

import gc
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from examples import checkpoints as example

V, D = 24, 3
RNG = np.random.default_rng(0)
PARAMS = {
    "table": jnp.asarray(RNG.normal(size=(V, D)), jnp.float32),
    "half": jnp.asarray(RNG.normal(size=(V, D)), jnp.bfloat16),
    "w": jnp.asarray(RNG.normal(size=D), jnp.float32),
}
OPTIMIZERS = {
    "diagonal": aj.adagrad(lambda count: 0.1),
    "row-wise": aj.adagrad(accumulator=aj.RowWise()),
    "norm": aj.adagrad(accumulator=aj.Norm()),
    "sm3": aj.adagrad(accumulator=aj.SM3()),
    "rounded": aj.adagrad(accumulator=aj.RoundedDiagonal()),
    "half": aj.adagrad(accumulator=aj.Diagonal(dtype=jnp.bfloat16)),
    "proximal": aj.proximal_adagrad(0.1, l1=0.1),
    "adagrad_da": aj.adagrad_da(0.1),
    "ftrl": aj.ftrl(0.1),
    "lazy": aj.lazy_weight_decay(0.1, 0.1),
    "frequency": aj.frequency_adagrad(0.1),
    "keras3": aj.dialects.keras3(use_ema=True, gradient_accumulation_steps=2),
    "finite": aj.apply_if_finite(aj.adagrad(0.1), 3),
    "injected": optax.inject_hyperparams(aj.adagrad)(learning_rate=0.1),
    "multi-steps": optax.MultiSteps(aj.adagrad(0.1), 2).gradient_transformation(),
    "partition": optax.partition(
        {"rows": aj.adagrad(0.1), "rest": optax.adam(0.1)},
        {"table": "rows", "half": "rows", "w": "rest"},
    ),
}


def is_table(path, leaf):
    return path[-1].key in ("table", "half")


def by_rows(*sizes, axis="d", axis_type=AxisType.Auto):
    devices, names = jax.devices()[: np.prod(sizes)], ("d", "m")[: len(sizes)]
    mesh = jax.make_mesh(sizes, names, (axis_type,) * len(sizes), devices=devices)
    return aj.sharding.RowSharding(mesh, axis)


def some_states():
    """Of all optimizers, with numbers as after many steps."""
    rng = np.random.default_rng(0)

    def numbers(x):
        return np.asarray(rng.integers(0, 100, x.shape)).astype(x.dtype)

    shapes = {
        name: jax.eval_shape(optimizer.init, PARAMS)
        for name, optimizer in OPTIMIZERS.items()
    }
    return jax.tree.map(numbers, shapes)


def placed(states, rows):
    """The states, or of their shapes the shardings."""
    return {
        name: aj.sharding.shard_rows(state, rows, is_table, params=PARAMS)
        for name, state in states.items()
    }


def shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def states():
    with jax.numpy_dtype_promotion("standard"):  # Optax's own need it
        return some_states()


@pytest.fixture(scope="module", params=["sync", "async"])
def checkpoint(request, states, tmp_path_factory):
    """Of all states, on eight devices."""
    directory = tmp_path_factory.mktemp("checkpoints")
    options = ocp.CheckpointManagerOptions(
        enable_async_checkpointing=request.param == "async"
    )
    with ocp.CheckpointManager(directory, options=options) as manager:
        manager.save(1, args=ocp.args.StandardSave(placed(states, by_rows(8))))
    return directory


OTHERS = {
    "one": (1,),
    "three": (3,),
    "two-axes": (2, 4),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_state_comes_back_on_other_devices(name, states, checkpoint):
    axis = ("m", "d") if name == "two-axes" else "d"
    lie = placed(shapes_of(states), by_rows(*OTHERS[name], axis=axis))
    target = jax.tree.map(lambda x, s: x.update(sharding=s), shapes_of(states), lie)
    with ocp.CheckpointManager(checkpoint) as manager:
        restored = manager.restore(1, args=ocp.args.StandardRestore(target))
    assert jax.tree.structure(restored) == jax.tree.structure(states)
    leaves = map(jax.tree.leaves, (states, restored, lie))
    for old, new, sharding in zip(*leaves, strict=True):
        assert new.sharding == sharding and new.dtype == old.dtype
        np.testing.assert_array_equal(new, old)
    aj.sharding.check_fingerprint(restored, aj.sharding.fingerprint(states))


def test_a_table_that_other_devices_do_not_divide_is_read_by_the_host(
    states, checkpoint
):
    """And grows, to a number of rows that they divide."""
    optimizer, state = OPTIMIZERS["diagonal"], states["diagonal"]
    on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), states)
    with ocp.CheckpointManager(checkpoint) as manager:
        restored = manager.restore(1, args=ocp.args.StandardRestore(on_host))
    with pytest.raises(ValueError, match=r"give the table 25 rows"):
        placed(restored, by_rows(5))
    larger = PARAMS | {
        name: jnp.pad(PARAMS[name], ((0, 1), (0, 0))) for name in ("table", "half")
    }
    fresh = aj.sharding.shard_rows(
        optimizer.init(larger), by_rows(5), is_table, params=larger
    )
    grown = aj.sharding.grow_rows(restored["diagonal"], fresh)
    accumulator = grown[0].accumulator["table"]
    assert accumulator.sharding.spec == P("d") and accumulator.shape == (V + 1, D)
    np.testing.assert_array_equal(accumulator[:V], state[0].accumulator["table"])


# What a fingerprint tells


def test_a_fingerprint_is_the_same_wherever_a_tree_lies(states):
    """And whatever the types of a mesh's axes."""
    expected = aj.sharding.fingerprint(states["diagonal"])
    for rows in (
        by_rows(8),
        by_rows(2, 4, axis="m"),
        by_rows(2, 2, axis=("m", "d"), axis_type=AxisType.Explicit),
    ):
        state = aj.sharding.shard_rows(
            states["diagonal"], rows, is_table, params=PARAMS
        )
        assert aj.sharding.fingerprint(state) == expected
    assert aj.sharding.fingerprint(aj.sharding.gather_rows(state)) == expected


def tampered():
    """An array of each kind, and the same with one bit or one place changed."""
    table = RNG.normal(size=(5, 2)).astype(np.float32)
    flipped = table.view(np.uint32).copy()
    flipped[3, 1] ^= 1
    yield table, flipped.view(np.float32)
    yield table, table[[1, 0, 2, 3, 4]]
    yield np.float32(0.0), np.float32(-0.0)
    yield np.arange(4, dtype=np.int32), np.arange(1, 5, dtype=np.int32)
    yield np.array([True, False]), np.array([False, True])
    yield np.zeros(3, jnp.bfloat16), np.array([0, 0, 1e-30], jnp.bfloat16)
    yield np.zeros(3, jnp.float8_e4m3fn), np.array([0, 1, 0], jnp.float8_e4m3fn)
    yield np.array([1, 2], jnp.int4), np.array([2, 1], jnp.int4)
    yield np.array([1 + 2j], np.complex64), np.array([1 - 2j], np.complex64)
    yield jax.random.key(0), jax.random.key(1)
    with jax.enable_x64(True):
        yield np.float64(1), np.nextafter(np.float64(1), 2)


def test_a_fingerprint_sees_each_bit_in_its_place():
    for one, other in tampered():
        saved = aj.sharding.fingerprint({"x": one})
        aj.sharding.check_fingerprint({"x": one}, saved)
        with pytest.raises(ValueError, match=r"\['x'\] is not as it was saved"):
            aj.sharding.check_fingerprint({"x": other}, saved)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"y": jnp.ones(2)}, r"\['x'\] was saved, but not restored"),
        ({"x": jnp.ones(2), "y": 0.0}, r"\['y'\] was not saved"),
        ({"x": jnp.ones(3)}, r"as float32\[2\], and restored as float32\[3\]"),
        ({"x": jnp.ones(2, jnp.float16)}, r"restored as float16\[2\]"),
    ],
)
def test_a_fingerprint_sees_what_is_no_number(other, message):
    saved = aj.sharding.fingerprint({"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=message):
        aj.sharding.check_fingerprint(other, saved)


def test_a_fingerprint_sees_a_state_of_another_optimizer():
    """Of the same shapes and the same numbers."""
    ours, optax_s = (f(0.1).init(PARAMS["w"]) for f in (aj.adagrad, optax.adagrad))
    saved = aj.sharding.fingerprint(ours[0])
    with pytest.raises(ValueError, match="saved as ScaleByAdagradState, and restored"):
        aj.sharding.check_fingerprint(optax_s[0], saved)
    with pytest.raises(ValueError, match="must be what fingerprint"):
        aj.sharding.check_fingerprint(ours, {"step": 1})


# The example, which is what the docs say to do


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(example, "NUM_ROWS", 512)


def test_training_goes_on_on_other_devices(small, tmp_path):
    """And if all checkpoints are there, nothing more is done."""
    expected = example.train(tmp_path / "whole", 4, num_steps=6, save_each=3)
    example.train(tmp_path / "parts", 4, num_steps=3, save_each=3)
    for _ in range(2):
        trained = example.train(tmp_path / "parts", 2, num_steps=6, save_each=3)
        for a, e in zip(*map(jax.tree.leaves, (trained, expected)), strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    assert len(trained["params"]["table"].sharding.device_set) == 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(example, "NUM_ROWS", 512)
        trained = example.train(directory, 4, num_steps=1, save_each=1)
    return directory, jax.device_get(trained)


def files_of(directory):
    return sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())


def restore(directory):
    target = example.target(example.shardings(example.by_rows(2)))
    with example.open_checkpoints(directory) as manager:
        restored = example.restore(manager, target)
    assert restored is not None, "a silent fresh start"
    return restored[1]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, alter, pathlib.Path.unlink])
@pytest.mark.filterwarnings("ignore")
def test_what_was_damaged_is_an_error_or_does_not_matter(
    damage, small, saved, tmp_path
):
    """Not all that Orbax writes is needed to read what it wrote."""
    directory, trained = saved
    found = []
    for number, path in enumerate(files_of(directory)):
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        damage(copy / path)
        try:
            restored = restore(copy)
        except ValueError as error:
            assert "step 1" in str(error) and "cannot be used" in str(error)
            found.append(path)
        else:
            for a, e in zip(*map(jax.tree.leaves, (restored, trained)), strict=True):
                np.testing.assert_array_equal(a, e)
    numbers = max(files_of(directory), key=lambda p: (directory / p).stat().st_size)
    assert numbers in found and len(found) >= 3
    # Reads that were given up complain when they are collected: here, not in a test of
    # something else.
    gc.collect()


def test_what_is_no_checkpoint_is_not_trained_over(small, tmp_path):
    (tmp_path / "model.npz").write_bytes(b"0")
    with pytest.raises(ValueError, match=r"but \['model.npz'\]; give an empty"):
        restore(tmp_path)


@pytest.mark.parametrize(
    "optimizer", [aj.ftrl(0.1), optax.adagrad(optax.constant_schedule(0.1))]
)
def test_the_checkpoint_of_another_optimizer(optimizer, small, saved, monkeypatch):
    def init():
        params = {
            "table": jnp.ones((512, example.DIM)),
            "weights": jnp.ones(example.DIM),
        }
        return {"params": params, "state": optimizer.init(params)}

    monkeypatch.setattr(example, "init", init)
    with pytest.raises(ValueError, match="cannot be used"):
        restore(saved[0])


def test_killed_at_random_moments_it_ends_with_the_same_bits():
    """A short form of the command."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.sharding.kills", "2", "12"],
        cwd=pathlib.Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "ended with the same bits" in result.stdout
