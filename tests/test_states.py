"""Where things are in a state: its walk, what is kept of parameters, what is near."""

import jax
import numpy as np
import optax
import pytest
from jax.tree_util import keystr

import adagrad_jax as aj
from adagrad_jax._states import (
    ABSENT,
    Node,
    counters,
    injected,
    kept_in,
    nearest,
    nodes,
    replace,
)

PARAMS = {"a": np.float32(1), "b": {"c": np.float32(2), "d": np.float32(3)}}


def decay(count):
    return 0.1 / (1 + count)


def kinds(state, kind):
    return [node for node in nodes(state) if isinstance(node.value, kind)]


def test_paths_are_those_of_the_leaves():
    state = optax.chain(optax.clip(1.0), aj.adagrad(decay)).init(PARAMS)
    leaves = jax.tree_util.tree_leaves_with_path(state)
    paths = [path for path, _ in leaves]
    assert [node for node in nodes(state) if node.path in paths] == leaves
    new = replace(state, {path: i for i, path in enumerate(paths)})
    assert jax.tree.leaves(new) == list(range(len(paths)))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    one = replace(state, {paths[1]: "new"})
    assert jax.tree.leaves(one) == [leaves[0][1], "new", *(x for _, x in leaves[2:])]


def kept(accumulator, params=PARAMS):
    """By path, both sides of each pair."""
    node = Node((), aj.ScaleByAdagradState(accumulator))
    pairs = list(kept_in(node, params))
    assert [keystr(pair.place) for pair in pairs] == [
        f".accumulator{keystr(pair.path)}" for pair in pairs
    ]
    return {keystr(pair.path): (pair.param, pair.value) for pair in pairs}


def test_what_is_kept_may_be_a_tree():
    pair = (np.ones(2), np.ones(3))
    found = kept({"a": pair, "b": {"c": 5, "d": 6}})
    assert found == {"['a']": (1, pair), "['b']['c']": (2, 5), "['b']['d']": (3, 6)}


def test_what_is_masked_is_left_out():
    masked = optax.MaskedNode()
    assert kept({"a": 4, "b": masked}) == {"['a']": (1, 4)}
    found = kept({"a": masked, "b": {"c": masked, "d": 6}})
    assert found == {"['b']['d']": (3, 6)}


def test_containers_of_other_types_fit_if_the_keys_do():
    assert kept([1, 2], params=(3, 4)) == {"[0]": (3, 1), "[1]": (4, 2)}


@pytest.mark.parametrize(
    "accumulator, found",
    [
        ({"a": 4}, {"['b']": (PARAMS["b"], ABSENT), "['a']": (1, 4)}),
        (
            {"a": 4, "b": {"c": 5, "d": 6, "e": 7}},
            {
                "['a']": (1, 4),
                "['b']['e']": (ABSENT, 7),
                "['b']['c']": (2, 5),
                "['b']['d']": (3, 6),
            },
        ),
        ({"a": 4, "b": 5}, {"['a']": (1, 4), "['b']": (ABSENT, 5)}),
    ],
    ids=["less", "more", "a leaf for a branch"],
)
def test_what_only_one_tree_has(accumulator, found):
    assert kept(accumulator) == found


def test_hyperparameters_are_those_around_it_inner_over_outer():
    adagrad = optax.inject_hyperparams(aj.adagrad)

    @optax.inject_hyperparams
    def outer(weight_decay, learning_rate):
        del learning_rate
        return optax.chain(optax.add_decayed_weights(weight_decay), adagrad(0.5, 0.25))

    optimizer = optax.partition(
        {"x": outer(0.1, 2.0), "y": adagrad(3.0)}, {"a": "x", "b": "y"}
    )
    state = optimizer.init(PARAMS)
    of_a, of_b = (
        injected(node.path, nodes(state))
        for node in kinds(state, aj.ScaleByAdagradState)
    )
    names = ["weight_decay", "learning_rate", "initial_accumulator_value"]
    np.testing.assert_allclose([of_a[name] for name in names], [0.1, 0.5, 0.25])
    assert of_b["learning_rate"] == 3 and "weight_decay" not in of_b


def test_the_nearest_is_in_the_innermost_container_that_has_one():
    scheduled = optax.scale_by_schedule(decay)
    inner = optax.chain(aj.scale_by_adagrad(), optax.identity(), scheduled, scheduled)
    state = optax.chain(scheduled, inner, aj.scale_by_adagrad()).init(PARAMS)
    first, last = kinds(state, aj.ScaleByAdagradState)
    schedules = kinds(state, optax.ScaleByScheduleState)
    assert nearest(first.path, schedules) is schedules[1]
    assert nearest(last.path, schedules) is schedules[0]
    assert nearest(first.path, []) is None


def test_counts_are_of_the_innermost_part_of_a_partition():
    inner = optax.partition(
        {"p": aj.adagrad(decay), "q": aj.adagrad(0.1)}, {"a": "p", "b": "q"}
    )
    outer = optax.partition(
        {"x": inner, "y": optax.chain(aj.adagrad(decay), optax.scale_by_adam())},
        {"a": "x", "b": {"c": "x", "d": "y"}},
    )
    state = optax.chain(outer, optax.scale_by_schedule(decay)).init(PARAMS)
    part = "[0].inner_states['x'].inner_state.inner_states['p']"
    assert [keystr(counter.part) for counter in counters(state)] == [
        part,
        "[0].inner_states['y']",
        "",
    ]
    leaves = dict(jax.tree_util.tree_leaves_with_path(state))
    assert all(counter.count is leaves[counter.place] for counter in counters(state))
