"""The examples do what they say, on the eight devices that conftest sets up."""

import os
import pathlib
import subprocess
import sys

import chex
import flax.jax_utils
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import adagrad_jax as aj
from examples import data_parallel as example

NUM_DEVICES = 8
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def batches():
    return example.random_batches(10)


@pytest.fixture(scope="module")
def expected(batches):
    """Parameters and state of one device that saw the whole batches."""
    return example.train_on_one_device(example.initial_params(), batches)


@pytest.fixture
def mesh():
    return Mesh(jax.devices(), ("data",))


def assert_close(actual, expected):
    """Parameters, accumulators and the count of steps."""
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-6)


def test_the_gradient_of_the_table_has_rows(batches):
    gradients = aj.grad(example.mean_loss)(example.initial_params(), batches[0])
    assert isinstance(gradients["table"], aj.RowSparse)


def assert_replicated(tree):
    for leaf in jax.tree.leaves(tree):
        assert len(leaf.sharding.device_set) == NUM_DEVICES
        assert leaf.sharding.is_fully_replicated
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf)


def assert_one_copy_each(tree, single):
    """A leading axis of devices, each with its own copy, all of them equal."""
    for leaf, one in zip(jax.tree.leaves(tree), jax.tree.leaves(single), strict=True):
        assert leaf.shape == (NUM_DEVICES, *one.shape)
        assert leaf.dtype == one.dtype
        devices = {shard.device for shard in leaf.addressable_shards}
        assert len(devices) == NUM_DEVICES
        for shard in leaf.addressable_shards:
            assert shard.data.shape == (1, *one.shape)
            np.testing.assert_array_equal(shard.data[0], leaf[0])


def test_training_on_one_device_learns(batches, expected):
    """What the strategies are compared in moves far more than the tolerance."""
    params = example.initial_params()
    state = example.optimizer.init(params)
    trained_params, trained_state = expected

    def largest_moves(before, after):
        moves = jax.tree.map(lambda b, a: jnp.max(jnp.abs(a - b)), before, after)
        return np.array(jax.tree.leaves(moves))

    assert np.all(largest_moves(params, trained_params) > 1e-3)
    assert np.all(largest_moves(state, trained_state) > 1e-3)
    loss, trained_loss = (
        np.mean([example.mean_loss(p, batch) for batch in batches])
        for p in (params, trained_params)
    )
    assert trained_loss < loss


@pytest.mark.parametrize("name", ["jit", "shard_map"])
def test_replicated_training_equals_one_device(name, batches, expected):
    trained = example.STRATEGIES[name](example.initial_params(), batches)
    assert_close(trained, expected)
    assert_replicated(trained)


def test_pmap_training_equals_one_device(batches, expected):
    trained = example.train_with_pmap(example.initial_params(), batches)
    assert_one_copy_each(trained, expected)
    assert_close(example.unreplicate(trained), expected)


def test_largest_difference_sees_every_copy(expected):
    copies = example.replicate(expected)
    assert example.largest_difference(copies, expected) == 0
    params, state = copies
    params["bias"] = params["bias"].at[-1].add(0.5)
    assert example.largest_difference((params, state), expected) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["jit", "shard_map", "pmap"])
def test_step_donates_and_returns_the_loss_of_the_whole_batch(name, batches, mesh):
    batch = batches[0]
    params = example.initial_params()
    whole = example.mean_loss(params, batch)
    trained = params, example.optimizer.init(params)
    if name == "pmap":
        step = example.pmap_step
        trained, batch = example.replicate(trained), example.split_batch(batch)
    else:
        jitted, shard_mapped = example.train_step, example.make_shard_map_step(mesh)
        step = jitted if name == "jit" else shard_mapped
        trained = jax.device_put(trained, NamedSharding(mesh, PartitionSpec()))
        batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    *_, loss = step(*trained, batch)
    np.testing.assert_allclose(loss, np.broadcast_to(whole, loss.shape), rtol=1e-6)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(trained))


def test_shard_map_sums_gradients_of_replicated_parameters(mesh):
    """Why the example differentiates by what each device calls its own."""

    def loss(param, x):
        return jnp.mean(param * x)

    def gradient_then_mean(param, x):
        return jax.lax.pmean(jax.grad(loss)(param, x), "data")

    too_late = jax.shard_map(
        gradient_then_mean,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data")),
        out_specs=PartitionSpec(),
    )
    param, x = jnp.array(1.0), jnp.arange(16.0)
    np.testing.assert_allclose(
        too_late(param, x), NUM_DEVICES * jax.grad(loss)(param, x)
    )


def test_row_sharded_table_keeps_its_accumulator_sharded_alike(batches, expected, mesh):
    by_row = NamedSharding(mesh, PartitionSpec("data", None))
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    shardings = {"table": by_row, "weights": replicated, "bias": replicated}

    params = jax.device_put(example.initial_params(), shardings)
    state = example.optimizer.init(params)
    for batch in [None, *batches]:  # checked before the first step, and after each
        if batch is not None:
            batch = jax.device_put(batch, split)
            params, state, _ = example.finished(
                example.train_step(params, state, batch)
            )
        accumulator = optax.tree.get(state, "accumulator")
        for name, param in params.items():
            assert param.sharding.is_equivalent_to(shardings[name], param.ndim)
            assert accumulator[name].sharding == param.sharding
        rows = {shard.data.shape for shard in accumulator["table"].addressable_shards}
        assert rows == {(example.NUM_ROWS // NUM_DEVICES, example.DIM)}
    assert_close((params, state), expected)


def test_flax_replicate_and_unreplicate_take_the_state(batches, expected):
    params = example.initial_params()
    single = params, example.optimizer.init(params)
    copies = flax.jax_utils.replicate(single)
    assert_one_copy_each(copies, single)
    chex.assert_trees_all_equal(flax.jax_utils.unreplicate(copies), single)
    for batch in batches:
        *copies, _ = example.finished(
            example.pmap_step(*copies, example.split_batch(batch))
        )
    assert_close(flax.jax_utils.unreplicate(tuple(copies)), expected)


def test_script_prints_a_row_for_each_strategy():
    # It must make its own devices: conftest's are not handed on.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.data_parallel"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    header, *rows = (line.split() for line in result.stdout.splitlines())
    assert header[:2] == ["strategy", "devices"]
    assert [(name, devices) for name, devices, _ in rows] == [
        (name, str(NUM_DEVICES)) for name in example.STRATEGIES
    ]
    assert all(float(difference) <= 1e-6 for *_, difference in rows)
