"""Optimizers and row-sparse training inside Keras 3 (JAX backend)."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from adagrad_jax import keras3

pytestmark = [
    pytest.mark.usefixtures("standard_promotion"),
    # Keras' own, about its own use of NumPy, JAX and files.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

VOCABULARY, WIDTH = 50, 4


class RowSparseModel(keras3.RowSparseTraining, keras.Model):
    pass


def build(model_class=keras.Model, dtype=None):
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    rows = keras.layers.Embedding(VOCABULARY, WIDTH, name="table", dtype=dtype)(ids)
    output = keras.layers.Dense(1, dtype=dtype)(keras.layers.Flatten()(rows))
    return model_class(ids, output)


def data(n=64):
    rng = np.random.default_rng(0)
    return rng.integers(0, 20, (n, 3), np.int32), rng.normal(size=(n, 1)).astype(
        np.float32
    )


def fit(model, optimizer, epochs=2, **kwargs):
    model.compile(optimizer=optimizer, loss="mse", metrics=["mae"])
    x, y = data()
    return model.fit(
        x, y, batch_size=16, epochs=epochs, verbose=0, shuffle=False, **kwargs
    )


def assert_same(a, b, rtol=1e-5, atol=1e-6):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"clipnorm": 0.1},
    {"clipvalue": 0.01},
    {"global_clipnorm": 0.1},
    {"use_ema": True, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 2},
    {"loss_scale_factor": 16.0},
    {"learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("model_class", [keras.Model, RowSparseModel])
def test_fit_is_as_with_keras_own_adagrad(options, model_class):
    options = {"learning_rate": 0.1, **options}
    theirs, ours = build(), build(model_class)
    a = fit(theirs, keras.optimizers.Adagrad(**options))
    b = fit(ours, keras3.Adagrad(**options))
    assert_same(theirs, ours)
    assert int(theirs.optimizer.iterations) == int(ours.optimizer.iterations) != 0
    for name in a.history:
        np.testing.assert_allclose(a.history[name], b.history[name], rtol=1e-4)


def test_fit_changes_only_rows_that_were_read():
    model = build(RowSparseModel)
    table = model.get_layer("table").embeddings
    before = np.array(table)
    seen = []

    class Spy(keras3.Adagrad):
        def _backend_update_step(self, grads, variables, rate):
            seen.extend(type(g) for g in grads)
            super()._backend_update_step(grads, variables, rate)

    fit(model, Spy(0.1))
    assert aj.RowSparse in seen
    changed = (np.array(table) != before).any(1)
    assert changed[:20].all() and not changed[20:].any()


def test_row_sparse_model_with_another_optimizer():
    theirs, ours = build(), build(RowSparseModel)
    for model in (theirs, ours):
        fit(model, keras.optimizers.Adam(0.01))
    assert_same(theirs, ours)


def test_any_optax_transformation_with_keras_rate_or_its_own():
    models = [build() for _ in range(3)]
    optimizers = [
        keras.optimizers.Adam(0.01, epsilon=1e-30),  # which is elsewhere in Optax
        keras3.Optimizer(optax.scale_by_adam(eps=1e-30), 0.01),
        keras3.Optimizer(optax.adam(0.01, eps=1e-30), None),
    ]
    for model, optimizer in zip(models, optimizers, strict=True):
        fit(model, optimizer)
    assert_same(models[0], models[1], rtol=1e-4)
    assert_same(models[1], models[2])
    with pytest.raises(AttributeError, match="its transformation's own and"):
        optimizers[2].learning_rate = 0.1


def test_callbacks_set_the_learning_rate():
    model = build()
    schedule = keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: 0.5 / (1 + epoch)
    )
    fit(model, keras3.Adagrad(0.1), epochs=3, callbacks=[schedule])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.5 / 3)
    theirs = build()
    fit(theirs, keras.optimizers.Adagrad(0.1), epochs=3, callbacks=[schedule])
    assert_same(theirs, model)


@pytest.mark.parametrize("own_rate", [True, False])
def test_save_and_load_model_continue(tmp_path, own_rate):
    rate = None if own_rate else 0.01
    transformation = optax.adam(0.01) if own_rate else optax.scale_by_adam()
    model = build()
    fit(model, keras3.Optimizer(transformation, rate, name="my_adam"))
    path = tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(Exception, match="custom_objects={'my_adam'"):
        keras.saving.load_model(path)
    other = keras.saving.load_model(path, custom_objects={"my_adam": transformation})
    assert_same(model, other)
    for m in (model, other):
        m.fit(*data(), batch_size=16, verbose=0, shuffle=False)
    assert_same(model, other, rtol=0)
    assert int(other.optimizer.iterations) == 12


def test_save_and_load_adagrad(tmp_path):
    model = build(RowSparseModel)
    fit(model, keras3.Adagrad(0.1, initial_accumulator_value=0.2, epsilon=1e-5))
    path = tmp_path / "model.keras"
    model.save(path)
    other = keras.saving.load_model(
        path, custom_objects={"RowSparseModel": RowSparseModel}
    )
    assert type(other.optimizer) is keras3.Adagrad
    assert other.optimizer.get_config() == model.optimizer.get_config()
    for m in (model, other):
        m.fit(*data(), batch_size=16, verbose=0, shuffle=False)
    assert_same(model, other, rtol=0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        models = [build(), build(), build(RowSparseModel)]
        optimizers = [
            keras.optimizers.Adagrad(0.1),
            keras3.Adagrad(0.1),
            keras3.Adagrad(0.1),
        ]
        for model, optimizer in zip(models, optimizers, strict=True):
            fit(model, optimizer)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_same(models[0], models[1])
    # There repeated rows are summed in bfloat16 or float16, here in float32; eight
    # steps of 0.1 at most, and bfloat16 has 8 bits.
    assert_same(models[0], models[2], rtol=0, atol=8 * 0.1 * 2**-8)


def test_apply_gradients_eagerly_and_missing_gradients():
    w, u = keras.Variable([1.0, 2.0], name="w"), keras.Variable([3.0], name="u")
    opt = keras3.Adagrad(0.1)
    opt.apply_gradients([(jnp.ones(2), w), (jnp.ones(1), u)])
    theirs = keras.Variable([1.0, 2.0], name="w")
    keras.optimizers.Adagrad(0.1).apply_gradients([(jnp.ones(2), theirs)])
    np.testing.assert_allclose(w, theirs, rtol=1e-6)
    before = float(u.value[0])
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        opt.apply_gradients([(jnp.ones(2), w), (None, u)])
    assert float(u.value[0]) == before


def test_our_own_object_takes_keras_variables():
    w = keras.Variable([1.0, 2.0], name="w")
    opt = aj.keras.Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), w)])
    plain = aj.keras.Variable([1.0, 2.0], name="w")
    opt = aj.keras.Adagrad(0.1)
    for _ in range(2):
        opt.apply_gradients([(jnp.ones(2), plain)])
    np.testing.assert_array_equal(np.array(w), plain.numpy())


def test_the_step_makes_no_array_of_the_tables_size():
    rows = 100_000
    model = RowSparseModel(
        ids := keras.Input((3,), dtype="int32"),
        keras.layers.Dense(1)(keras.layers.Embedding(rows, 16)(ids)[:, 0]),
    )
    model.compile(optimizer=keras3.Adagrad(0.1), loss="mse")
    x, y = np.ones((16, 3), np.int32), np.ones((16, 1), np.float32)
    model.train_on_batch(x, y)
    variables = [
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    ]
    state = tuple([jnp.copy(v.value) for v in group] for group in variables)
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, (x, y)).compile()
    memory = step.memory_analysis()
    assert memory.temp_size_in_bytes < rows * 16
    assert memory.alias_size_in_bytes >= 2 * 4 * rows * 16  # table and accumulator
