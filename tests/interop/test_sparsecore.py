"""The tables of jax-tpu-embedding, and their slots.

It runs on a TPU only. Its pairs are made by hand here, with types that have the names
and the fields of its own; what it computes is recorded (tests/golden/README.md).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import interop
from tests import golden_cases as golden
from tests.interop.common import assert_same, go_on, torch_state_dict

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


class EmbeddingVariables(NamedTuple):
    table: Any
    slot: Any


class AdagradSlotVariables(NamedTuple):
    accumulator: Any


class F2ASlotVariables(NamedTuple):
    accumulator: Any
    local_step: Any


class AdamSlotVariables(NamedTuple):
    momentum: Any
    velocity: Any


CASES = [
    case for case in golden.sparse_cases("sparsecore") if "from_zero" not in case.name
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sparsecore_goes_on(case):
    """A run of the peer, interrupted, goes on here with the peer's numbers."""
    dialects = {"adagrad": aj.dialects.sparsecore, "f2a": aj.dialects.sparsecore_f2a}
    rates = jnp.asarray(case.arrays["learning_rate"])
    arguments = case.hyperparameters | {"learning_rate": lambda count: rates[count]}
    optimizer = dialects[case.kind](**arguments)
    (variable,) = case.variables

    def fill(accumulators, start, state, params):
        slots = AdagradSlotVariables(*accumulators)
        if case.kind == "f2a":
            steps = variable.arrays["local_step"][start - 1]
            slots = F2ASlotVariables(*accumulators, steps)
        theirs = {"table": EmbeddingVariables(variable.params[start - 1], slots)}
        return interop.from_sparsecore(theirs, state, params, step=start)

    go_on(case, optimizer, fill)


PARAMS = {
    "dense": jnp.ones((2, 3)),
    "embeddings": {"items": jnp.ones((4, 3)), "users": jnp.ones((2, 8))},
}


def beside_dense(optimizer):
    return optax.partition(
        {"rows": optimizer, "dense": aj.adagrad(0.1)},
        {"dense": "dense", "embeddings": "rows"},
    )


OPTIMIZERS = {
    "sparsecore": aj.dialects.sparsecore(0.1),
    "f2a": beside_dense(aj.dialects.sparsecore_f2a(aj.inverse_time_decay(0.1, 0.5))),
    "frequency": optax.chain(
        aj.clip_by_global_norm(1.0), beside_dense(aj.frequency_adagrad(0.1))
    ),
    "masked": optax.chain(
        aj.scale_by_adagrad(),
        optax.masked(aj.scale_by_frequency(), {"dense": False, "embeddings": True}),
    ),
}


def new_variables(slots, dtype=np.float32):
    """Pairs of new tables."""
    return {
        "embeddings": {
            name: EmbeddingVariables(
                np.zeros(table.shape, dtype),
                slots(*(np.full(table.shape, 7, dtype) for _ in slots._fields)),
            )
            for name, table in PARAMS["embeddings"].items()
        }
    }


def trained(optimizer):
    rng, state, params = np.random.default_rng(0), optimizer.init(PARAMS), PARAMS
    for ids in ([0, 1, 1], [1, 0, 1]):
        gradients = {
            "dense": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
            "embeddings": {
                name: aj.RowSparse(
                    ids,
                    jnp.asarray(rng.normal(size=(3, table.shape[1])), jnp.float32),
                    table.shape,
                )
                for name, table in PARAMS["embeddings"].items()
            },
        }
        updates, state = optimizer.update(gradients, state, params)
        params = aj.apply_updates(params, updates)
    return params, state


def forget_dense(state, fresh):
    """What only the dense leaf has is not in pairs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, new, old: old if "dense" in str(path) else new, state, fresh
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_there_and_back_bit_for_bit(name):
    optimizer = OPTIMIZERS[name]
    slots = AdagradSlotVariables if name == "sparsecore" else F2ASlotVariables
    params, state = trained(optimizer)
    given = new_variables(slots)
    theirs = interop.to_sparsecore(state, given, params)
    assert jax.tree.structure(theirs) == jax.tree.structure(given)
    for table, pair in theirs["embeddings"].items():
        np.testing.assert_array_equal(pair.table, params["embeddings"][table])
        assert all(x.dtype == np.float32 for x in jax.tree.leaves(pair))
    if name != "sparsecore":
        steps = theirs["embeddings"]["items"].slot.local_step
        np.testing.assert_array_equal(steps, np.repeat([[2], [2], [0], [0]], 3, axis=1))
    fresh = optimizer.init(PARAMS)
    ours = interop.from_sparsecore(theirs, fresh, params, step=2)
    assert_same(ours, forget_dense(state, fresh))
    assert_same(interop.to_sparsecore(ours, given, params), theirs)


def test_what_is_counted_together_must_all_be_there():
    """Else a dense leaf, with no reads of a hundred steps, would take long ones."""
    optimizer = aj.dialects.sparsecore_f2a(0.1)
    params, state = trained(optimizer)
    theirs = interop.to_sparsecore(state, new_variables(F2ASlotVariables), params)
    with pytest.raises(ValueError, match=r"\['dense'\], whose reads .*optax.partition"):
        interop.from_sparsecore(theirs, optimizer.init(PARAMS), params, step=2)


def test_others_have_counted_no_reads():
    """So counting begins where their state is taken over."""
    optimizer, params = aj.frequency_adagrad(optax.constant_schedule(0.1)), {"w": TABLE}
    state_dict = torch_state_dict([np.ones(TABLE.shape)], [100])
    state = interop.from_torch(state_dict, optimizer.init(params), params)
    _, by_frequency, by_rate = state
    assert (by_frequency.count, by_rate.count) == (0, 100)


def test_tuples_lists_and_another_dtype_there():
    table = jnp.ones((2, 3), jnp.float32)
    optimizer = aj.dialects.sparsecore(0.1)
    state = optimizer.init(table)
    for pair in (
        (np.zeros((2, 3)), (np.zeros((2, 3)),)),
        [jnp.zeros((2, 3), jnp.float32), [np.zeros((2, 3), np.float16)]],
    ):
        theirs = interop.to_sparsecore(state, pair, table)
        assert type(theirs) is type(pair) and type(theirs[1]) is type(pair[1])
        assert [x.dtype for x in jax.tree.leaves(theirs)] == [
            x.dtype for x in jax.tree.leaves(pair)
        ]
        np.testing.assert_array_equal(theirs[0], 1)
        ours = interop.from_sparsecore(theirs, state, table)
        expected = np.asarray(theirs[1][0], np.float32)
        np.testing.assert_array_equal(optax.tree.get(ours, "accumulator"), expected)


def test_state_is_placed_like_the_one_that_is_filled():
    params, state = trained(OPTIMIZERS["f2a"])
    theirs = interop.to_sparsecore(state, new_variables(F2ASlotVariables), params)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    by_rows = aj.sharding.RowSharding(mesh, "d")
    fresh = OPTIMIZERS["f2a"].init(PARAMS)
    fresh = aj.sharding.shard_rows(
        fresh, by_rows, lambda path, _: "items" in str(path), params=PARAMS
    )
    ours = interop.from_sparsecore(theirs, fresh, params, step=2)
    for got, like in zip(*map(jax.tree.leaves, (ours, fresh)), strict=True):
        assert got.sharding == like.sharding
    assert_same(
        jax.device_get(ours), forget_dense(state, OPTIMIZERS["f2a"].init(PARAMS))
    )


# What cannot be

TABLE = jnp.ones((2, 3))
ONES = np.ones((2, 3), np.float32)
ADAGRAD = aj.dialects.sparsecore(0.1).init({"t": TABLE})
F2A = aj.dialects.sparsecore_f2a(0.1).init({"t": TABLE})
OTHER = AdamSlotVariables(ONES, ONES)


@pytest.mark.parametrize(
    "variables, state, error, message",
    [
        ({"u": (ONES, (ONES,))}, ADAGRAD, ValueError, r"nothing at \['u'\]; give a"),
        ({}, ADAGRAD, ValueError, r"a pair of a table .* got the keys \(none\)"),
        ({"t": ONES}, ADAGRAD, TypeError, r"a pair .* \['t'\], got a ndarray of shape"),
        ({"t": (ONES, ONES)}, ADAGRAD, TypeError, r"a pair .* got a tuple of 2; give"),
        ({"t": (ONES, (ONES, ONES))}, ADAGRAD, ValueError, r"be accumulator, .* got 2"),
        ({"t": (ONES, (ONES,))}, F2A, ValueError, "accumulator, local_step, .* got 1;"),
        ({"t": (ONES, OTHER)}, F2A, ValueError, "local_step, .*got momentum, velocity"),
        ({"t": (ONES[:1], (ONES,))}, ADAGRAD, ValueError, r"table of .*\(1, 3\); unst"),
        ({"t": (ONES, (ONES[:1],))}, ADAGRAD, ValueError, r"accumulator of .*\(1, 3\)"),
    ],
)
def test_bad_pairs(variables, state, error, message):
    for convert in (
        lambda: interop.from_sparsecore(variables, state, {"t": TABLE}, step=1),
        lambda: interop.to_sparsecore(state, variables, {"t": TABLE}),
    ):
        with pytest.raises(error, match=message):
            convert()


@pytest.mark.parametrize(
    "accumulator, steps, message",
    [
        (-ONES, ONES, r"accumulator of the leaf at \['t'\] must be sums of squares"),
        (np.nan * ONES, ONES, r"accumulator .* must be sums of squares.* got nan"),
        (ONES, 0.5 * ONES, r"local_step of the leaf at \['t'\] .*got \[0.5 .* row 0;"),
        (ONES, -ONES, r"local_step .* got \[-1. -1. -1.\] in row 0"),
        (ONES, np.nan * ONES, "local_step .* got .nan"),
        (ONES, 2.0**31 * ONES, "local_step .* one whole number"),
        (ONES, ONES * [1, 1, 2], r"local_step .* got \[1. 1. 2.\] in row 0"),
    ],
)
def test_slots_that_cannot_be(accumulator, steps, message):
    variables = {"t": (ONES, (accumulator, steps))}
    with pytest.raises(ValueError, match=message):
        interop.from_sparsecore(variables, F2A, {"t": TABLE}, step=1)


def test_steps_of_f2a_must_be_given():
    pair = {"t": (ONES, (ONES, ONES))}
    with pytest.raises(ValueError, match="`step` must be given, the number of steps"):
        interop.from_sparsecore(pair, F2A, {"t": TABLE})
    state = interop.from_sparsecore(pair, F2A, {"t": TABLE}, step=5)
    assert optax.tree.get(state, "count") == 5
    no_count = {"t": (ONES, (ONES,))}
    interop.from_sparsecore(no_count, ADAGRAD, {"t": TABLE})


def test_what_is_frozen_here_is_left_out_there():
    params = {"t": TABLE, "u": TABLE}
    frozen = optax.masked(aj.dialects.sparsecore(0.1), {"t": True, "u": False})
    pairs = {"t": (ONES, (ONES,)), "u": (ONES, (ONES,))}
    with pytest.raises(ValueError, match=r"no accumulator of the leaf at \['u'\]"):
        interop.from_sparsecore(pairs, frozen.init(params), params)
    interop.from_sparsecore({"t": pairs["t"]}, frozen.init(params), params)
