"""Bad input raises early, and says where it is and what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

HYPERPARAMETERS = [
    (aj.adagrad, "learning_rate"),
    (aj.adagrad, "initial_accumulator_value"),
    (aj.adagrad, "epsilon"),
    (aj.scale_by_adagrad, "initial_accumulator_value"),
    (aj.scale_by_adagrad, "epsilon"),
    (aj.clip_by_value, "max_abs"),
    (aj.clip_by_norm, "max_norm"),
    (aj.clip_by_global_norm, "max_norm"),
    (aj.add_decayed_weights, "weight_decay"),
    (lambda decay: aj.inverse_time_decay(0.1, decay), "decay"),
    (lambda learning_rate: aj.inverse_time_decay(learning_rate, 1), "learning_rate"),
    (aj.dialects.keras, "clipnorm"),
    (aj.dialects.keras, "clipvalue"),
    (aj.dialects.keras, "decay"),
    (aj.dialects.keras, "epsilon"),
    (aj.dialects.keras, "lr"),
    (aj.dialects.keras3, "global_clipnorm"),
    (aj.dialects.keras3, "weight_decay"),
    (aj.dialects.keras3, "loss_scale_factor"),
    (lambda ema_momentum: aj.dialects.keras3(use_ema=True, ema_momentum=ema_momentum),
     "ema_momentum"),
    (lambda eps: aj.dialects.optax(0.1, eps=eps), "eps"),
    (aj.dialects.torch, "lr"),
    (aj.dialects.torch, "lr_decay"),
    (aj.dialects.torch, "weight_decay"),
    (aj.dialects.torch, "eps"),
    (aj.dialects.tf1, "learning_rate"),
]  # fmt: skip


@pytest.mark.parametrize("make, name", HYPERPARAMETERS)
@pytest.mark.parametrize(
    "value, error, message",
    [
        (-0.5, ValueError, ".* got -0.5"),
        (float("nan"), ValueError, ".* got nan"),
        (np.float32("nan"), ValueError, ".* got .*nan"),
        ("0.1", TypeError, ".* got '0.1' of type str"),
        (1 + 2j, TypeError, ".* got"),
        (jnp.array(-1.0), ValueError, ".* got .*-1.*"),
        (np.ones(3), ValueError, r".* shape \(3,\); .*optax.partition"),
    ],
)
def test_hyperparameter(make, name, value, error, message):
    with pytest.raises(error, match=f"`{name}` must be a real number{message}"):
        make(**{name: value})


OPTIONAL = {  # None is how the peers say "not given"; all others must be numbers
    (aj.dialects.keras, "clipnorm"),
    (aj.dialects.keras, "clipvalue"),
    (aj.dialects.keras, "epsilon"),
    (aj.dialects.keras, "lr"),
    (aj.dialects.keras3, "global_clipnorm"),
    (aj.dialects.keras3, "weight_decay"),
    (aj.dialects.keras3, "loss_scale_factor"),
}


@pytest.mark.parametrize("make, name", HYPERPARAMETERS)
def test_none_is_no_number(make, name):
    if (make, name) in OPTIONAL:
        make(**{name: None})
    else:
        with pytest.raises(TypeError, match=f"`{name}` must be a real .* got None"):
            make(**{name: None})


@pytest.mark.parametrize("name", ["learning_rate", "epsilon"])
def test_infinite_hyperparameter(name):
    with pytest.raises(ValueError, match=f"`{name}` .* finite .* got inf"):
        aj.adagrad(**{name: float("inf")})


def test_a_traced_hyperparameter_passes():
    """Its value is not known yet: a check on it would break jit and vmap."""

    @jax.jit
    def step(rate, epsilon, gradient):
        optimizer = aj.adagrad(rate, epsilon=epsilon)
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    np.testing.assert_allclose(step(0.1, 1e-7, jnp.ones(2)), -0.0953, atol=1e-4)


def update(gradients, params):
    optimizer = aj.adagrad()
    return optimizer.update(gradients, optimizer.init(params))


ONES = jnp.ones(2)


@pytest.mark.parametrize(
    "gradients, params, message",
    [
        ({"w": jnp.ones(3)}, {"w": ONES}, r"at \['w'\] of shape \(3,\) .* \(2,\)"),
        ({"w": jnp.ones(1)}, {"w": ONES}, r"at \['w'\] of shape \(1,\) .* \(2,\)"),
        ({"v": ONES}, {"w": ONES}, r"gradient at \['v'\] has no accumulator"),
        ({}, {"w": [ONES]}, r"accumulator at \['w'\]\[0\] has no gradient"),
        ({"w": None}, {"w": ONES}, r"accumulator at \['w'\] has no gradient"),
        ({"w": ONES, "v": ONES}, {"w": ONES}, r"gradient at \['v'\] has no acc"),
        ([ONES], (ONES,), r"gradients are in PyTreeDef\(\[\*\]\), accumulators in oth"),
        (jnp.ones(3), ONES, r"\(the tree is one leaf\) of shape \(3,\)"),
    ],
)
def test_gradients_that_do_not_fit_the_state(gradients, params, message):
    with pytest.raises(ValueError, match=f"{message}.*; call init with the parameters"):
        update(gradients, params)
    with pytest.raises(ValueError, match=message):  # and at trace time
        jax.eval_shape(update, gradients, params)


BAD_LEAVES = [
    (jnp.ones(2, jnp.int32), "int32"),
    (np.ones(2, bool), "bool"),
    (3, "int"),
    (jax.random.key(0), "key<"),
    (np.zeros(2, jax.dtypes.float0), "float0"),
    ("text", "must be an array, got 'text' of type str"),
    (jnp.tanh, "must be an array, got .*tanh"),
]


@pytest.mark.parametrize("leaf, message", BAD_LEAVES, ids=[m for _, m in BAD_LEAVES])
def test_leaves_that_are_not_floating_point(leaf, message):
    good, bad = {"a": {"b": ONES}}, {"a": {"b": leaf}}
    optimizer = aj.adagrad()
    with pytest.raises(TypeError, match=rf"parameter at \['a'\]\['b'\] .*{message}"):
        optimizer.init(bad)
    with pytest.raises(TypeError, match=rf"gradient at \['a'\]\['b'\] .*{message}"):
        optimizer.update(bad, optimizer.init(good))
    for clip in (aj.clip_by_value, aj.clip_by_norm, aj.clip_by_global_norm):
        with pytest.raises(TypeError, match=r"\['a'\]\['b'\] .*leave it out with opta"):
            clip(1.0).update(bad, clip(1.0).init(good))
    decay = aj.add_decayed_weights(0.1)
    with pytest.raises(TypeError, match=r"gradient at \['a'\]\['b'\]"):
        decay.update(bad, decay.init(good), good)


def test_the_remedy_works():
    params = {"steps": jnp.array(3), "w": ONES}
    optimizer = optax.masked(aj.adagrad(), {"steps": False, "w": True})
    updates, _ = optimizer.update(params, optimizer.init(params))
    assert updates["steps"] == 3 and updates["w"][0] < 0


def test_a_complex_gradient_of_a_real_parameter():
    params = {"w": ONES}
    gradients = {"w": ONES.astype(jnp.complex64)}
    optimizer = aj.adagrad()
    state = optimizer.init(params)
    with pytest.raises(TypeError, match=r"gradient at \['w'\] is complex, its param"):
        optimizer.update(gradients, state, params)
    more = params | {"name": "a model may hold what is not trained"}
    optimizer.update({"w": ONES}, state, more)


@pytest.mark.parametrize("accumulator", [aj.Diagonal, "Diagonal", None, jnp.float32])
def test_what_is_no_accumulator(accumulator):
    with pytest.raises(TypeError, match=r"`accumulator` must be .* Diagonal\(\), got"):
        aj.adagrad(accumulator=accumulator)
