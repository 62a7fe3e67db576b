"""An optimizer goes on from a file as if it had never stopped."""

import os

import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Optimizer, Variable, schedules


def trained(make, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    w = Variable(rng.normal(size=(3, 2)), name="w", dtype=dtype)
    b = Variable(rng.normal(size=2), name="b", dtype=dtype)
    opt = make()
    for _ in range(3):
        step(opt, w, b)
    return opt, w, b


def step(opt, w, b):
    opt.minimize(lambda: jnp.sum((w * 2 + b[None]) ** 2), [w, b])


MAKERS = {
    "plain": lambda: Adagrad(0.3),
    "decay": lambda: Adagrad(0.3, decay=0.1, clipnorm=1.0),
    "schedule": lambda: Adagrad(schedules.ExponentialDecay(0.3, 2, 0.5)),
    "ema": lambda: Adagrad(0.3, use_ema=True, ema_overwrite_frequency=4),
    "accumulation": lambda: Adagrad(0.3, gradient_accumulation_steps=2),
    "adam": lambda: Optimizer(optax.scale_by_adam(), 0.1),
}


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_load_continues_bit_for_bit(name, dtype, tmp_path):
    opt, w, b = trained(MAKERS[name], dtype)
    path = tmp_path / "optimizer.npz"
    opt.save(path)
    w2, b2 = (Variable(v.value, name=n) for v, n in ((w, "w"), (b, "b")))
    custom = {"transformation": optax.scale_by_adam()} if name == "adam" else None
    other = type(opt).load(path, [b2, w2], custom)
    assert other.get_config() == opt.get_config()
    for _ in range(5):
        step(opt, w, b)
        step(other, w2, b2)
    np.testing.assert_array_equal(w.numpy(), w2.numpy())
    np.testing.assert_array_equal(b.numpy(), b2.numpy())
    assert os.listdir(tmp_path) == ["optimizer.npz"]


def test_only_variables_with_slots_are_in_it(tmp_path):
    w, u = Variable([1.0], name="w"), Variable([1.0], name="u")
    opt = Adagrad(0.1)
    opt.apply_gradients([(jnp.ones(1), u)])
    opt.save(tmp_path / "o.npz")
    other = Adagrad.load(tmp_path / "o.npz", [w, u])
    assert [v.name for v in other.weights] == [
        "Adagrad/iter:0",
        "Adagrad/u/accumulator:0",
    ]


def test_an_optimizer_without_steps(tmp_path):
    Adagrad(0.1, name="fresh").save(tmp_path / "o.npz")
    assert Adagrad.load(tmp_path / "o.npz", []).get_config()["name"] == "fresh"


def test_tensorflow_weights_are_accepted():
    w = Variable([1.0, 2.0], name="w")
    opt = Adagrad(0.1)
    opt.build([w])
    opt.set_weights([np.int64(7), np.array([5.0, 6.0], np.float32)])
    assert int(opt.iterations) == 7
    np.testing.assert_array_equal(opt.get_slot(w, "accumulator").numpy(), [5, 6])


def test_load_raises(tmp_path):
    opt, w, b = trained(MAKERS["plain"])
    path = tmp_path / "o.npz"
    opt.save(path)
    with pytest.raises(ValueError, match="optimizer of w too, but .* are b"):
        Adagrad.load(path, [b])
    with pytest.raises(
        ValueError, match=r"w/accumulator is of shape \(3, 2\).* \(5,\)"
    ):
        Adagrad.load(path, [Variable(jnp.ones(5), name="w"), b])
    half = Variable(w.value.astype(jnp.float16), name="w")
    with pytest.raises(ValueError, match="dtype float32 .* float16 here"):
        Adagrad.load(path, [half, b])
    with pytest.raises(FileNotFoundError):
        Adagrad.load(tmp_path / "none.npz", [w, b])


@pytest.mark.parametrize("damage", ["truncated", "altered", "other archive", "text"])
def test_damaged_files(damage, tmp_path):
    opt, w, b = trained(MAKERS["plain"])
    path = tmp_path / "o.npz"
    opt.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "altered":
        content = path.read_bytes()
        number = content.index(b"\x93NUMPY") + 130  # past the header of an array
        path.write_bytes(content[:number] + b"!" + content[number + 1 :])
    elif damage == "text":
        path.write_text("hello")
    else:
        np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match="not written by an optimizer's `save`"):
        Adagrad.load(path, [w, b])


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "o.npz", adagrad_jax=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="not written by"):
        Adagrad.load(tmp_path / "o.npz", [])


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    opt, w, b = trained(MAKERS["plain"])
    path = tmp_path / "o.npz"
    opt.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        opt.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["o.npz"]


def test_a_config_that_is_no_json_says_so(tmp_path):
    opt = Adagrad(0.1, weight_decay=jnp.ones(()))
    opt.save(tmp_path / "o.npz")
    assert Adagrad.load(tmp_path / "o.npz", []).get_config()["weight_decay"] == 1.0
    assert aj.keras.Adagrad is Adagrad


def test_variables_of_one_name_cannot_be_saved(tmp_path):
    a, b = Variable([1.0]), Variable([1.0])
    opt = Adagrad(0.1)
    opt.apply_gradients([(jnp.ones(1), a), (jnp.ones(1), b)])
    with pytest.raises(ValueError, match="two variables have the name 'Variable'"):
        opt.save(tmp_path / "o.npz")
    opt = Adagrad(0.1)
    opt.apply_gradients([(jnp.ones(1), b)])
    opt.save(tmp_path / "o.npz")
    with pytest.raises(ValueError, match="two variables have the name 'Variable'"):
        Adagrad.load(tmp_path / "o.npz", [a, b])


def test_what_is_excluded_from_weight_decay_stays_so(tmp_path):
    a, b, c = (Variable([1.0], name=name) for name in ("a", "b", "ab"))
    opt = Adagrad(0.1, weight_decay=0.5, donate_variables=True)
    opt.exclude_from_weight_decay([a], ["^b"])
    opt.build([a, b, c])
    opt.save(tmp_path / "o.npz")
    other = Adagrad.load(tmp_path / "o.npz", [a, b, c])
    zero = jnp.zeros(1)
    other.apply_gradients([(zero, a), (zero, b), (zero, c)])
    np.testing.assert_allclose([v.numpy()[0] for v in (a, b, c)], [1, 1, 0.95])
    assert other.get_config()["donate_variables"]


def test_a_wider_learning_rate_stays_so(x64, tmp_path):
    w = Variable(np.array([1.0]), name="w")
    opt = Adagrad(jnp.float64(0.1))
    opt.build([w])
    opt.save(tmp_path / "o.npz")
    other = Adagrad.load(tmp_path / "o.npz", [w])
    assert other.learning_rate.dtype == jnp.float64
    assert float(other.learning_rate) == 0.1


def test_another_librarys_variable_stays_excluded(tmp_path):
    w = keras.Variable(np.ones(1, np.float32), name="kernel")
    opt = Adagrad(0.1, weight_decay=0.5)
    opt.exclude_from_weight_decay([w])
    opt.build([w])
    opt.save(tmp_path / "o.npz")
    Adagrad.load(tmp_path / "o.npz", [w]).apply_gradients([(jnp.zeros(1), w)])
    assert float(w.value[0]) == 1
