"""Sums of gradients over devices, and data parallel training with them.

What several devices do with parts of a batch is what one does with all of it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import adagrad_jax as aj
from tests.sharding import training

SHAPE = (40, 3)
RNG = np.random.default_rng(0)


def make_mesh(*sizes):
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes))


def in_shard_map(body, mesh, check_vma, *args):
    """``body`` of parts of the arguments, which are split over all axes of the mesh."""
    split = P(mesh.axis_names)
    mapped = jax.shard_map(
        body, mesh=mesh, in_specs=split, out_specs=P(), check_vma=check_vma
    )
    return jax.block_until_ready(jax.jit(mapped)(*args))


def expected_sum(ids, values, shape=SHAPE):
    """By NumPy, in float64."""
    total = np.zeros(shape)
    named = (ids >= 0) & (ids < shape[0])
    np.add.at(total, ids[named], np.asarray(values, float)[named])
    return total


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("sizes", [(4,), (2, 4)], ids=["one-axis", "two-axes"])
def test_rows_are_summed_over_devices(sizes, check_vma):
    """Duplicates on a device and across devices, and ids of no row, included."""
    mesh = make_mesh(*sizes)
    ids = RNG.integers(-2, SHAPE[0] + 2, 64)
    ids[:20] = 7
    values = RNG.normal(size=(64, 3)).astype(np.float32)
    dense = RNG.normal(size=(8, 2)).astype(np.float32)

    def body(ids, values, dense):
        tree = {"rows": aj.RowSparse(ids, values, SHAPE), "dense": dense, "none": None}
        total = aj.sharding.psum(tree, mesh.axis_names)
        mean = aj.sharding.pmean(tree, mesh.axis_names)
        return [
            (x["rows"].to_dense(), x["dense"], x["none"] is None) for x in (total, mean)
        ]

    total, mean = in_shard_map(body, mesh, check_vma, ids, values, dense)
    rows = expected_sum(ids, values)
    np.testing.assert_allclose(total[0], rows, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean[0], rows / mesh.size, rtol=1e-5, atol=1e-5)
    in_parts = dense.reshape(mesh.size, -1, 2)
    np.testing.assert_allclose(total[1], in_parts.sum(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean[1], in_parts.mean(0), rtol=1e-5, atol=1e-6)
    assert total[2] and mean[2]


@pytest.mark.parametrize("axis", ["data", "model", ("model", "data")])
def test_along_some_axes_of_a_mesh(axis):
    """The others keep what is theirs."""
    mesh = make_mesh(2, 4)
    ids = np.arange(8) % 3

    def body(ids):
        rows = aj.RowSparse(ids, jnp.ones((1, 3)), SHAPE)
        return aj.sharding.psum(rows, axis).to_dense()[None]

    kept = tuple(name for name in mesh.axis_names if name not in axis)
    mapped = jax.shard_map(
        body, mesh=mesh, in_specs=P(mesh.axis_names), out_specs=P(kept)
    )
    total = jax.block_until_ready(jax.jit(mapped)(ids))
    groups = {"data": ids.reshape(2, 4).T, "model": ids.reshape(2, 4)}
    groups = groups[axis] if isinstance(axis, str) else ids.reshape(1, 8)
    expected = [expected_sum(group, np.ones((group.size, 3))) for group in groups]
    np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("check_vma", [True, False])
def test_what_is_the_same_everywhere_counts_as_often_as_there_are_devices(check_vma):
    """As with jax.lax.psum."""

    def body(_):
        rows = aj.RowSparse([1], jnp.ones((1, 3)), SHAPE)
        return aj.sharding.psum((rows.to_dense(), rows), "data")[1].to_dense()

    total = in_shard_map(body, make_mesh(4), check_vma, np.zeros(4))
    np.testing.assert_array_equal(total, 4 * expected_sum(np.array([1]), np.ones(1)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_of_16_bits_are_rounded_once(dtype):
    """On each device 1 + many small ones, which alone are lost beside the 1."""
    small = 2.0**-12
    values = jnp.full((4 * 64, 3), small, dtype).at[::64].set(1)

    def body(values):
        rows = aj.RowSparse(jnp.full(64, 5), values, SHAPE)
        total = aj.sharding.psum(rows, "data")
        halves = aj.sharding.pmean(rows, "data")
        assert total.dtype == halves.dtype == dtype
        return total.to_dense()[5], halves.to_dense()[5]

    total, mean = in_shard_map(body, make_mesh(4), True, values)
    exact = np.float64(4 + 4 * 63 * small)
    assert jnp.asarray(exact, dtype) != 4
    np.testing.assert_array_equal(total, jnp.full(3, exact, dtype))
    np.testing.assert_array_equal(mean, jnp.full(3, exact / 4, dtype))


def test_what_was_put_off_is_done_before_the_sum():
    """A clip of each device's own rows is none of the total."""
    ids, values = np.array([3, 3, 3, 4]), np.full((4, 3), 2.0, np.float32)

    def body(ids, values):
        rows = aj.RowSparse(ids, values, SHAPE)
        clip = aj.clip_by_value(2.5)
        clipped, _ = clip.update({"table": rows}, clip.init(None))
        return aj.sharding.psum(clipped, "data")["table"].to_dense()

    total = in_shard_map(body, make_mesh(2), True, ids, values)
    assert total[3, 0] == 2.5 + 2 and total[4, 0] == 2


@pytest.mark.parametrize("check_vma", [True, False])
def test_no_ids_at_all(check_vma):
    def body(x):
        rows = aj.RowSparse([], jnp.zeros((0, 3)), SHAPE)
        total, x = aj.sharding.psum((rows, x), "data")
        return total.to_dense() + jnp.sum(x)

    total = in_shard_map(body, make_mesh(4), check_vma, np.ones(4, np.float32))
    np.testing.assert_array_equal(total, np.full(SHAPE, 4.0))


def test_several_tables_in_one_array():
    shape = (4, 10, 3)
    ids = RNG.integers(0, 40, 16)
    values = RNG.integers(-4, 5, (16, 3)).astype(np.float32)

    def body(ids, values):
        return aj.sharding.psum(aj.RowSparse(ids, values, shape), "data").to_dense()

    total = in_shard_map(body, make_mesh(4), True, ids, values)
    np.testing.assert_array_equal(total.reshape(SHAPE), expected_sum(ids, values))


def test_each_device_sends_its_distinct_rows_and_no_table():
    """At most as many as there are ids, and as many as there are rows."""

    def body(num_rows, ids):
        rows = aj.RowSparse(ids, jnp.ones((ids.size, 16)), (num_rows, 16))
        return aj.sharding.psum(rows, "data").coalesce().values

    mesh = make_mesh(4)
    for num_rows, sent in [(100_000, 30), (10, 10)]:
        on_each = functools.partial(body, num_rows)
        mapped = jax.shard_map(on_each, mesh=mesh, in_specs=P("data"), out_specs=P())
        text = jax.jit(mapped).lower(jnp.arange(120)).as_text()
        assert f"tensor<{sent}x16xf32>) -> tensor<{4 * sent}x16xf32>" in text
        assert "all_reduce" not in text


# Data parallel training, on copies of the parameters


@pytest.fixture(scope="module")
def alone():
    with jax.enable_x64(True):
        return training.on_one_device()


def test_data_parallel_under_jit(x64, alone):
    """With nothing said but where the arrays lie."""
    mesh = make_mesh(8)
    put = functools.partial(training.put, mesh)
    trained = training.train(training.jitted(), put(P()), put(P("data")))
    training.assert_equal(trained, alone)


@pytest.mark.parametrize("check_vma", [True, False])
def test_data_parallel_under_shard_map(x64, alone, check_vma):
    mesh = make_mesh(8)
    put = functools.partial(training.put, mesh)
    step = training.shard_mapped(mesh, check_vma)
    training.assert_equal(training.train(step, put(P()), put(P("data"))), alone)


def test_data_parallel_under_pmap(x64, alone):
    def copied(tree):
        return jax.tree.map(lambda x: jnp.stack([x] * 8), tree)

    def split(batch):
        return jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)

    trained = training.train(training.pmapped(), copied, split)
    for device in range(8):
        one = jax.tree.map(lambda x, d=device: x[d], trained)
        training.assert_equal(one, alone)
