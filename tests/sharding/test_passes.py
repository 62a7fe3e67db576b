"""How many passes an exchange takes: told beforehand, and counted as it runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import adagrad_jax as aj
from adagrad_jax._rows.exchange import Exchange
from tests.sharding.test_exchange import BY_ROWS, IDS, MESH, V, new_params


def counted(ids, row_sharding, monkeypatch):
    """On eight devices, each of which reports each pass."""
    calls, ask = [], Exchange.ask

    def reporting(*args):
        jax.debug.callback(functools.partial(calls.append, 1))
        return ask(*args)

    monkeypatch.setattr(Exchange, "ask", reporting)

    def read(params, ids):
        return params["table"].at[ids].get(mode="fill", fill_value=0)

    params = {"table": new_params()["table"]}
    params = aj.sharding.shard_rows(params, row_sharding, lambda *_: True)
    read = jax.jit(aj.sharding.with_rows(read, row_sharding))
    jax.block_until_ready(read(params, ids))
    jax.effects_barrier()
    assert len(calls) % 8 == 0
    return len(calls) // 8


@pytest.mark.parametrize("capacity", [0.01, 1.0, 2.0])
@pytest.mark.parametrize("name", IDS)
def test_told_beforehand(name, capacity, monkeypatch):
    ids = jnp.asarray(np.where(IDS[name] < 0, V, IDS[name]), jnp.int32)
    by_rows = aj.sharding.RowSharding(MESH, "d", capacity=capacity)
    told = int(aj.sharding.num_passes(ids, V, by_rows))
    assert told == counted(ids, by_rows, monkeypatch)
    # Seven ids a device: at 0.01 two of them go to each owner in a pass.
    is_crowded = name in ("uniform", "of one owner") and capacity < 1
    assert told > 1 if is_crowded else told >= (name != "none")


def test_of_devices_that_are_not_there():
    """What is spread evenly needs one pass, however few ids each device has.

    What is all of one owner needs at least as many as its share has buffers.
    """
    num_rows, n, rng = 2**24, 1024, np.random.default_rng(0)
    for number in (2, 64):
        by_rows = aj.sharding.RowSharding(AbstractMesh((number,), ("d",)), "d")
        for few in (1, number // 4 + 1, 2 * number, 16 * number):
            spread = jnp.asarray(rng.integers(0, num_rows, number * few))
            assert aj.sharding.num_passes(spread, num_rows, by_rows) == 1
        crowded = jnp.arange(number * n) % (num_rows // number)
        assert aj.sharding.num_passes(crowded, num_rows, by_rows) >= number // 4


def test_nothing_to_send():
    by_one = aj.sharding.RowSharding(AbstractMesh((1,), ("d",)), "d")
    assert aj.sharding.num_passes(jnp.arange(8), 8, by_one) == 0
    assert aj.sharding.num_passes(jnp.zeros(0, int), V, BY_ROWS) == 0
    assert aj.sharding.num_passes(jnp.full(9, -1), V, BY_ROWS) == 0


def test_what_is_refused():
    with pytest.raises(TypeError, match="`ids` must be integers, got dtype float32"):
        aj.sharding.num_passes(jnp.ones(3), V, BY_ROWS)
    with pytest.raises(
        TypeError, match="must be an adagrad_jax.sharding.RowSharding, g"
    ):
        aj.sharding.num_passes(jnp.arange(3), V, "d")
    for wrong in (-8, 8.0, None):
        with pytest.raises(
            ValueError, match="`num_rows` must be an integer, 0 or more"
        ):
            aj.sharding.num_passes(jnp.arange(3), wrong, BY_ROWS)
    with pytest.raises(ValueError, match="give the table 104 rows"):
        aj.sharding.num_passes(jnp.arange(3), V + 1, BY_ROWS)
