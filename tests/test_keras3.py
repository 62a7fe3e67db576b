"""Optimizers and row-sparse training inside Keras 3 (JAX backend)."""

import contextlib
import dataclasses
import json

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

VOCABULARY, WIDTH = 200, 4  # more rows than ids in a batch


class RowSparseModel(keras3.RowSparseTraining, keras.Model):
    pass


def build(model_class=keras.Model, dtype=None, **options):
    """One table, with the layer's options."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    table = keras.layers.Embedding(
        VOCABULARY, WIDTH, name="table", dtype=dtype, **options
    )
    output = keras.layers.Dense(1, dtype=dtype)(keras.layers.Flatten()(table(ids)))
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


def says(words):
    """One warning with these words in it; None: none, which would be an error."""
    if words is None:
        return contextlib.nullcontext()
    return pytest.warns(UserWarning, match=words)


# Arguments, and what RowSparseTraining says of them.
OPTIONS = [
    ({}, None),
    ({"weight_decay": 0.1}, None),
    ({"clipnorm": 0.1}, None),
    ({"clipvalue": 0.01}, None),
    ({"global_clipnorm": 0.1}, None),
    ({"use_ema": True, "ema_overwrite_frequency": 3}, "`use_ema` averages whole"),
    ({"use_ema": True, "weight_decay": 0.1}, "`weight_decay` is of whole tables"),
    ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` keeps sums"),
    ({"loss_scale_factor": 16.0}, None),
    (
        {
            "learning_rate": keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5),
            "weight_decay": 0.5,
        },
        None,
    ),
]


@pytest.mark.parametrize(
    ("options", "words"), OPTIONS, ids=["-".join(o) or "plain" for o, _ in OPTIONS]
)
@pytest.mark.parametrize("model_class", [keras.Model, RowSparseModel])
def test_fit_is_as_with_keras_own_adagrad(options, words, model_class):
    options = {"learning_rate": 0.1, **options}
    theirs, ours = build(), build(model_class)
    a = fit(theirs, keras.optimizers.Adagrad(**options))
    with says(words if model_class is RowSparseModel else None):
        b = fit(ours, keras3.Adagrad(**options))
    assert_same(theirs, ours)
    assert int(theirs.optimizer.iterations) == int(ours.optimizer.iterations) != 0
    for name in a.history:
        np.testing.assert_allclose(a.history[name], b.history[name], rtol=1e-4)


class Spy(keras3.Adagrad):
    """Knows which variables had gradients of rows."""

    def _backend_update_step(self, grads, variables, rate):
        kinds = zip(variables, map(type, grads), strict=True)
        self._seen = {v.path: kind for v, kind in kinds}
        super()._backend_update_step(grads, variables, rate)

    def rows(self):
        return {path for path, kind in self._seen.items() if kind is aj.RowSparse}


def test_fit_changes_only_rows_that_were_read():
    model = build(RowSparseModel)
    table = model.get_layer("table").embeddings
    before = np.array(table)
    optimizer = Spy(0.1)
    fit(model, optimizer)
    assert optimizer.rows() == {"table/embeddings"}
    changed = (np.array(table) != before).any(1)
    assert changed[:20].all() and not changed[20:].any()


def small(w):
    """A regularizer that is no class of Keras'."""
    return 0.01 * keras.ops.sum(w**2)


class Tied(keras.layers.Layer):
    """Reads the table of another layer as a whole."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return x + 0.01 * keras.ops.mean(self.other.embeddings)


def build_tied(model_class=keras.Model):
    keras.utils.set_random_seed(0)
    ids = keras.Input((3,), dtype="int32")
    table = keras.layers.Embedding(VOCABULARY, WIDTH, name="table")
    hidden = keras.layers.Flatten()(table(ids))
    return model_class(ids, Tied(table)(keras.layers.Dense(1)(hidden)))


class Unread(keras.layers.Layer):
    """Has a table, but does not read it."""

    def __init__(self):
        super().__init__()
        self.table = keras.layers.Embedding(VOCABULARY, WIDTH, name="table")
        self.table.build()

    def call(self, x):
        return x


def build_unread(model_class=keras.Model):
    keras.utils.set_random_seed(0)
    numbers = keras.Input((3,))
    return model_class(numbers, Unread()(keras.layers.Dense(1)(numbers)))


def scaled_sgd(rate, **options):
    inner = keras.optimizers.SGD(rate, **options)
    return keras.optimizers.LossScaleOptimizer(inner)


def made(build=build, optimizer=keras3.Adagrad, **options):
    """How to build a model and an optimizer, the arguments of both and of `compile`."""
    compiling = {
        k: options.pop(k) for k in {"jit_compile", "run_eagerly"} & set(options)
    }
    decay = {"weight_decay": options.pop("weight_decay", None)}
    return build, options, optimizer, decay, compiling


DENSE = [
    (made(embeddings_regularizer="l2"), "layer 'table': its regularizer, L2"),
    (made(embeddings_regularizer=small), "layer 'table': its regularizer, function"),
    (made(embeddings_constraint="non_neg"), "layer 'table': its constraint, NonNeg"),
    (
        made(build_tied),
        r"layer 'table': `reduce_sum` .*, at .*test_keras3.py:\d+ \(.*call",
    ),
    (made(build_unread), "layer 'table': the loss does not read it"),
    (made(optimizer=keras.optimizers.Adagrad), "a Adagrad .* makes the same steps"),
    (made(optimizer=keras.optimizers.SGD), "a SGD .* around an Optax"),
    (made(optimizer=scaled_sgd), "a SGD .* around an Optax"),
    (made(run_eagerly=True), "without compilation .* copies the tables"),
    (
        made(jit_compile=False, weight_decay=0.1),
        "without compilation .* copies the tables",
    ),
]


@pytest.mark.parametrize(
    ("how", "words"), DENSE, ids=[words[:40] for _, words in DENSE]
)
def test_what_is_dense_is_as_in_keras_and_said_once(how, words):
    build, options, optimizer, decay, compiling = how
    theirs, ours = build(**options), build(RowSparseModel, **options)
    own = keras.optimizers.Adagrad if optimizer is keras3.Adagrad else optimizer
    theirs.compile(own(0.1, **decay), "mse", **compiling)
    ours.compile(optimizer(0.1, **decay), "mse", **compiling)
    x, y = data(10)  # the last batch is another shape, which is traced anew
    theirs.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    with pytest.warns(UserWarning, match=words) as said:
        ours.fit(x, y, batch_size=8, verbose=0, shuffle=False)
    assert len(said) == 1
    assert_same(theirs, ours)


def build_many(model_class=keras.Model):
    """Tables in all places where they may be."""
    keras.utils.set_random_seed(0)
    embedding, keras_layers = keras.layers.Embedding, keras.layers
    ids = keras.Input((3,), dtype="int32")
    shared = embedding(VOCABULARY, WIDTH, name="shared")
    both = keras_layers.Add()([shared(ids), shared(keras.ops.flip(ids, 1))])
    frozen = embedding(VOCABULARY, WIDTH, name="frozen", trainable=False)
    masked = embedding(VOCABULARY, WIDTH, name="masked", mask_zero=True)
    inner_ids = keras.Input((3,), dtype="int32")
    active = embedding(VOCABULARY, WIDTH, name="active", activity_regularizer="l2")
    inner = keras.Model(inner_ids, active(inner_ids))
    nested = keras.Sequential([inner, keras_layers.Dense(WIDTH)])
    pooled = keras_layers.GlobalAveragePooling1D()(masked(ids))
    parts = [keras_layers.Flatten()(x) for x in (both, frozen(ids), nested(ids))]
    hidden = keras_layers.Concatenate()([pooled, *parts])
    return model_class(ids, keras_layers.Dense(1)(hidden))


def test_tables_in_all_places_are_trained_in_rows():
    x, y = data(64)
    weights = np.random.default_rng(1).uniform(size=len(x))
    models = [build_many(), build_many(RowSparseModel)]
    adagrads = keras.optimizers.Adagrad, Spy
    optimizers = [adagrad(0.1, weight_decay=0.1) for adagrad in adagrads]
    for model, optimizer in zip(models, optimizers, strict=True):
        model.compile(optimizer, "mse", steps_per_execution=2)
        model.fit(x, y, 8, 2, sample_weight=weights, verbose=0, shuffle=False)
    paths = {path.split("/")[-2] for path in optimizers[1].rows()}
    assert paths == {"shared", "masked", "active"}
    assert_same(*models)


def test_train_on_batch_is_as_in_keras_and_says_what_it_costs():
    models = [build(), build(RowSparseModel)]
    x, y = data(16)
    for model, adagrad in zip(
        models, (keras.optimizers.Adagrad, keras3.Adagrad), strict=True
    ):
        model.compile(adagrad(0.1, weight_decay=0.1), "mse")
        ours = adagrad is keras3.Adagrad
        with says("`train_on_batch` hands all weights out" if ours else None) as said:
            for _ in range(3):
                model.train_on_batch(x, y, sample_weight=np.ones(16))
        assert not ours or len(said) == 1
    assert_same(*models)
    models[1].compile(keras3.Adagrad(0.1), "mse")
    models[1].train_on_batch(x, y)


def test_bases_the_wrong_way_round_are_an_error():
    with pytest.raises(TypeError, match=r"write class Wrong\(RowSparseTraining, keras"):

        class Wrong(keras.Model, keras3.RowSparseTraining):
            pass

    class Base(keras3.RowSparseTraining):
        pass

    with pytest.raises(TypeError, match="before keras.Model"):

        class AlsoWrong(keras.Sequential, Base):
            pass

    class Right(Base, keras.Sequential):
        pass


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


@contextlib.contextmanager
def dtype_policy(policy):
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_variables_of_16_bits_are_as_in_keras(dtype):
    """Small gradients too, of which the order of operations makes other numbers."""
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 3))
    variables = [keras.Variable(start, dtype=dtype) for _ in range(2)]
    optimizers = [adagrad(0.03, 0.0) for adagrad in (keras.optimizers.Adagrad, Spy)]
    for _ in range(3):
        gradient = rng.normal(size=start.shape) * 10.0 ** rng.uniform(
            -5, 1, start.shape
        )
        for variable, optimizer in zip(variables, optimizers, strict=True):
            optimizer.apply([jnp.asarray(gradient, dtype)], [variable])
        theirs, ours = (np.asarray(v.value, np.float32) for v in variables)
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    with dtype_policy(policy):
        models = [build(), build(), build(RowSparseModel)]
        optimizers = [
            keras.optimizers.Adagrad(0.1),
            keras3.Adagrad(0.1),
            keras3.Adagrad(0.1),
        ]
        for model, optimizer in zip(models, optimizers, strict=True):
            fit(model, optimizer)
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


@pytest.mark.parametrize("weight_decay", [None, 0.1])
@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_the_step_neither_makes_nor_visits_a_whole_table(policy, weight_decay):
    rows = 100_000
    with dtype_policy(policy):
        model = RowSparseModel(
            ids := keras.Input((3,), dtype="int32"),
            keras.layers.Dense(1)(keras.layers.Embedding(rows, 16)(ids)[:, 0]),
        )
    model.compile(keras3.Adagrad(0.1, weight_decay=weight_decay), "mse")
    x, y = np.ones((16, 3), np.int32), np.ones((16, 1), np.float32)
    model.optimizer.build(model.trainable_variables)
    variables = [
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    ]
    state = tuple([v.value for v in group] for group in variables)
    step = jax.jit(model.train_step, donate_argnums=0).lower(state, (x, y)).compile()
    memory = step.memory_analysis()
    assert memory.temp_size_in_bytes < rows * 16
    assert memory.alias_size_in_bytes >= 2 * 4 * rows * 16  # table and accumulator
    # Loops are counted as if they ran once; a whole table would be 16 * rows at least.
    assert step.cost_analysis()["flops"] < rows


def scaled(adagrad, **options):
    """With a scale of which half, but not all of it, overflows; then it grows again."""
    return keras.optimizers.LossScaleOptimizer(
        adagrad(0.1, **options), initial_scale=2.0**127, dynamic_growth_steps=3
    )


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "global_clipnorm": 0.1}])
def test_loss_scaling_is_keras_own(options):
    models = [build(), build(RowSparseModel)]
    optimizers = [scaled(keras.optimizers.Adagrad, **options), scaled(Spy, **options)]
    scales = [[], []]
    x, y = data(32)
    for model, optimizer, seen in zip(models, optimizers, scales, strict=True):
        model.compile(optimizer, "mse")
        note = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_, optimizer=optimizer, seen=seen: seen.append(
                [float(optimizer.dynamic_scale), int(optimizer.step_counter)]
                + [int(optimizer.iterations)]
            )
        )
        model.fit(x, 100 * y, 4, 3, verbose=0, shuffle=False, callbacks=[note])
    assert scales[0] == scales[1]
    steps = [iterations for *_, iterations in scales[0]]
    assert 0 < steps[0] < 8  # some were left out, and some were not
    assert optimizers[1].inner_optimizer.rows() == {"table/embeddings"}
    assert_same(*models)


def test_loss_scaling_is_saved_with_the_model(tmp_path):
    model = build(RowSparseModel)
    model.compile(scaled(keras3.Adagrad, weight_decay=0.1), "mse")
    x, y = data(32)
    model.fit(x, y, 8, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    other = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects={"RowSparseModel": RowSparseModel}
    )
    for m in (model, other):
        m.fit(x, y, 8, verbose=0, shuffle=False)
    assert_same(model, other, rtol=0)


def test_decay_that_is_put_off_is_not_lost_in_a_step_of_ones_own():
    """Which takes gradients of whatever kind by itself, and knows of no rows."""
    models = [build(), build(RowSparseModel)]
    for model, adagrad in zip(
        models, (keras.optimizers.Adagrad, keras3.Adagrad), strict=True
    ):
        optimizer = adagrad(0.1, weight_decay=0.5)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        fit(model, optimizer, epochs=1)
        table = model.get_layer("table").embeddings
        rest = [v for v in model.trainable_variables if v is not table]
        gradient = aj.RowSparse([1], jnp.ones((1, WIDTH)), table.shape)
        dense = adagrad is keras.optimizers.Adagrad
        pairs = [(gradient.to_dense() if dense else gradient, table)]
        pairs += [(jnp.ones(v.shape), v) for v in rest]
        optimizer.apply_gradients(pairs)
        model.fit(*data(), batch_size=16, verbose=0, shuffle=False)
    assert_same(*models)


class ReadsByWeights(keras.layers.Layer):
    """Reads the rows of a table that another one names."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return self.table(keras.ops.argmax(x, -1))


def test_ids_that_depend_on_weights():
    def build():
        keras.utils.set_random_seed(0)
        ids = keras.Input((3,), dtype="int32")
        first, second = (keras.layers.Embedding(VOCABULARY, WIDTH) for _ in range(2))
        rows = ReadsByWeights(second)(first(ids)) + first(ids)
        hidden = keras.layers.Flatten()(rows)
        return RowSparseModel(ids, keras.layers.Dense(1)(hidden))

    fit(build(), keras3.Adagrad(0.1), epochs=1)
    with pytest.raises(ValueError, match="which rows .* depends on the weights"):
        fit(build(), keras3.Adagrad(0.1, weight_decay=0.1))
    remedy = keras3.Adagrad(0.1, weight_decay=0.1)
    remedy.exclude_from_weight_decay(var_names=["embeddings"])
    fit(build(), remedy, epochs=1)


def test_an_optimizer_that_is_built_too_early_decays_whole_tables():
    theirs, ours = build(), build(RowSparseModel)
    fit(theirs, keras.optimizers.Adagrad(0.1, weight_decay=0.1))
    optimizer = keras3.Adagrad(0.1, weight_decay=0.1)
    optimizer.build(ours.trainable_variables)
    with pytest.warns(UserWarning, match="an optimizer that is not built yet"):
        fit(ours, optimizer)
    assert_same(theirs, ours)


def test_the_remedy_for_a_constraint_bounds_rows():
    model = build(RowSparseModel)
    capped = optax.chain(aj.adagrad(0.5), aj.cap_row_norms(0.1))
    fit(model, keras3.Optimizer(capped, learning_rate=None))
    norms = np.linalg.norm(np.array(model.get_layer("table").embeddings), axis=1)
    assert norms[:20].max() == pytest.approx(0.1)


ACCUMULATORS = [
    aj.Diagonal(dtype=jnp.bfloat16),
    aj.RowWise(),
    aj.Norm(dtype="parameter"),
    aj.SM3(),
    aj.FullMatrix(block_size=2),
    aj.RoundedDiagonal(jnp.float16, seed=3),
]


@pytest.mark.parametrize("accumulator", ACCUMULATORS, ids=repr)
def test_accumulators_are_taken_and_written_down(accumulator):
    start = np.arange(6, dtype=np.float32).reshape(3, 2)
    variable, params = keras.Variable(start, name="w"), jnp.array(start)
    optimizer = keras3.Adagrad(0.5, 0.0, accumulator=accumulator)
    plain = optax.chain(
        aj.scale_by_adagrad(0.0, accumulator=accumulator, epsilon_in_sqrt=True),
        optax.scale(-0.5),
    )
    state = plain.init(params)
    for scale in (1.0, 3.0):
        gradient = scale * jnp.array(start)
        optimizer.apply_gradients([(gradient, variable)])
        updates, state = plain.update(gradient, state, params)
        params = aj.apply_updates(params, updates)
    np.testing.assert_allclose(variable, params, rtol=1e-6)
    config = json.loads(json.dumps(optimizer.get_config()))
    again = keras3.Adagrad.from_config(config)
    assert type(again.accumulator) is type(accumulator)
    assert again.get_config() == config


@pytest.mark.parametrize("accumulator", [aj.RowWise(), aj.RoundedDiagonal()], ids=repr)
def test_accumulators_are_saved_with_the_model(tmp_path, accumulator):
    model = build(RowSparseModel)
    optimizer = Spy(0.1, accumulator=accumulator)
    fit(model, optimizer, epochs=1)
    assert optimizer.rows() == {"table/embeddings"}
    model.save(tmp_path / "model.keras")
    known = {"RowSparseModel": RowSparseModel, "Spy": Spy}
    other = keras.saving.load_model(tmp_path / "model.keras", custom_objects=known)
    for m in (model, other):
        m.fit(*data(), batch_size=16, verbose=0, shuffle=False)
    assert_same(model, other, rtol=0)


@dataclasses.dataclass(frozen=True)
class Mine(aj.RowWise):
    power: float = 0.5
    more: object = None


def test_an_accumulator_of_ones_own_is_written_down():
    config = keras3.Adagrad(0.1, accumulator=Mine(power=0.25)).get_config()
    with pytest.raises(ValueError, match="custom_objects={'Mine': Mine}"):
        keras3.Adagrad.from_config(config)
    again = keras3.Adagrad.from_config(config, {"Mine": Mine})
    assert again.accumulator == Mine(power=0.25)
    with pytest.raises(TypeError, match="`accumulator` may have .* 'more'"):
        keras3.Adagrad(0.1, accumulator=Mine(more=[1])).get_config()
    with pytest.raises(TypeError, match="must be an accumulator like Diagonal"):
        keras3.Adagrad(0.1, accumulator=aj.RowWise)

    class NoDataclass:
        init, update = Mine.init, Mine.update

    with pytest.raises(TypeError, match="must be a dataclass"):
        keras3.Adagrad(0.1, accumulator=NoDataclass()).get_config()
