"""Copies: which share what an optimizer remembers, and which have it for themselves."""

import copy
import pickle

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules
from tests.keras.common import stepped, wu

KINDS = {
    "plain": {},
    "clipped": {"clipnorm": 0.1},
    "decaying": {"decay": 0.1, "weight_decay": 0.01},
    "averaging": {"use_ema": True},
    "scheduled": {"learning_rate": schedules.InverseTimeDecay(0.5, 1, 0.5)},
}


def steps(opt, *variables, number=2):
    for _ in range(number):
        opt.minimize(lambda: sum(jnp.sum(v * v) for v in variables), variables)
    return [v.numpy() for v in variables]


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_goes_on_bit_for_bit_and_alone(kind, how):
    opt, (w, u) = Adagrad(**{"learning_rate": 0.5, **KINDS[kind]}), wu()
    opt.exclude_from_weight_decay([u])
    steps(opt, w, u)
    before = w.numpy(), u.numpy()
    remembered = opt.get_weights()
    if how == "deepcopy":
        other, (w2, u2) = copy.deepcopy(opt), (w, u)
    else:
        (w2, u2), other = pickle.loads(pickle.dumps(((w, u), opt)))
    assert other.get_config() == opt.get_config()
    found = steps(other, w2, u2)
    for kept, wanted in zip(opt.get_weights(), remembered, strict=True):
        np.testing.assert_array_equal(kept, wanted)
    w.assign(before[0])
    u.assign(before[1])
    for a, b in zip(found, steps(opt, w, u), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_shallow_copy_shares_what_is_remembered_not_what_is_set():
    opt, w, u = stepped()
    other = copy.copy(opt)
    other.clipnorm = 0.5
    assert opt.clipnorm is None
    late = Variable([1.0], name="late")
    other.apply_gradients([(jnp.ones(1), late)])
    assert opt.get_slot(late, "accumulator") is other.get_slot(late, "accumulator")
    assert int(opt.iterations) == 2
    other.lr = 0.25
    assert float(opt.lr) == 0.25


def test_an_unpickled_optimizer_waits_for_its_variables():
    opt, w, u = stepped()
    other = pickle.loads(pickle.dumps(opt))
    weights = [weight.value for weight in other.weights]
    with pytest.raises(ValueError, match="w, u must be given again after pickling"):
        other.stateless_apply(weights, [jnp.ones(2), None], [w.value, u.value])
    with pytest.raises(ValueError, match=r"of w is of shape \(2,\) .* must be \(3,\)"):
        other.apply_gradients([(jnp.ones(3), Variable(jnp.ones(3), name="w"))])
    other.build([w, u])
    other.stateless_apply(weights, [jnp.ones(2), None], [w.value, u.value])


def test_variables_of_one_name_cannot_be_told_apart():
    opt, a, b = Adagrad(), Variable([1.0]), Variable([2.0])
    opt.apply_gradients([(jnp.ones(1), a), (jnp.ones(1), b)])
    with pytest.raises(ValueError, match="two variables have the name 'Variable'"):
        pickle.dumps(opt)
    copy.deepcopy(opt).apply_gradients([(jnp.ones(1), a), (jnp.ones(1), b)])


def test_other_transformations():
    opt, (w, _) = Optimizer(optax.scale_by_rss(), 0.1), wu()
    steps(opt, w)
    other = copy.deepcopy(opt)
    steps(other, w)
    assert int(opt.iterations) == 2 and int(other.iterations) == 4
    with pytest.raises(TypeError, match="cannot be pickled, for its transformation"):
        pickle.dumps(opt)


def test_slots_that_users_added_are_in_files(tmp_path):
    opt, w, u = stepped()
    opt.add_slot(u, "mine", [7.0])
    opt.save(tmp_path / "o.npz")
    other = Adagrad.load(tmp_path / "o.npz", [w, u])
    assert other.get_slot(u, "mine").numpy() == 7
    assert other.get_slot_names() == ["accumulator", "mine"]
