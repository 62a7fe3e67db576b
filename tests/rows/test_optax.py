"""Row-sparse gradients in Optax's own code: the right numbers, or an error.

One table has every public transformation and wrapper of Optax, and what becomes of a
:class:`adagrad_jax.RowSparse` in it: after some steps the result is "equal" to that of
the dense gradient and the update still is one of rows, or it is equal and "dense", for
a reason that stands there, or it "raises" an error of ours, which says what to use.
Neither would be silently wrong, and is a failure here; so is a new name in Optax that
the table lacks.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import adagrad_jax as aj

# Optax relies on JAX's usual dtype promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")

NUM_ROWS, WIDTH, STEPS = 6, 3, 3


def some_params():
    rng = np.random.default_rng(0)
    return {
        "table": jnp.asarray(rng.uniform(0.5, 1.5, (NUM_ROWS, WIDTH)), jnp.float32),
        "w": jnp.asarray(rng.uniform(0.5, 1.5, (NUM_ROWS, WIDTH)), jnp.float32),
    }


def gradients(t):
    """Rows that repeat, in part out of range, others in each step."""
    rng = np.random.default_rng(t + 1)
    ids = [[4, 1, 4, 4, 6], [0, 1, -1, 0, 5], [2, 2, 2, 2, 2]][t]
    values = jnp.asarray(rng.normal(size=(5, WIDTH)), jnp.float32)
    return {
        "table": aj.RowSparse(ids, values, (NUM_ROWS, WIDTH)),
        "w": jnp.asarray(rng.normal(size=(NUM_ROWS, WIDTH)), jnp.float32),
    }


def to_dense(tree):
    return jax.tree.map(
        lambda x: x.to_dense() if isinstance(x, aj.RowSparse) else x, tree
    )


def loss(params):
    return sum(jnp.sum(jnp.square(p - 0.3)) for p in jax.tree.leaves(params))


@dataclasses.dataclass
class Case:
    """Of ``optax.<name>``, or ``optax.contrib``'s, called with these arguments."""

    name: str
    outcome: str  # "equal", "dense" or "raises"
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    note: str  # what this case of the name is about
    # What the transformation needs beside gradients, of them and the parameters.
    extra_args: Callable[[Any, Any], dict[str, Any]]
    start: Callable[[Any], Any]  # the parameters as it wants them

    def __str__(self):
        return f"{self.name}-{self.note}" if self.note else self.name

    def build(self):
        module, _, name = self.name.rpartition(".")
        built = getattr(optax.contrib if module else optax, name)
        built = built(*self.args, **self.kwargs)
        if self.name.startswith("inject_"):
            built = built(0.1)  # the hyperparameter
        if self.name == "measure_with_ema":
            built = optax.monitor({"measured": built})
        if isinstance(built, optax.MultiSteps):
            built = built.gradient_transformation()
        return optax.with_extra_args_support(built)


def nothing(gradients, params):
    return {}


def value(gradients, params):
    return {"value": loss(params)}


def line_search(gradients, params):
    return {"value": loss(params), "grad": gradients, "value_fn": loss}


def objective(gradients, params):
    return {"obj_fn": loss}


def case(
    outcome, name, *args, note="", extra_args=nothing, start=lambda p: p, **kwargs
):
    return Case(name, outcome, args, kwargs, note, extra_args, start)


def cases(outcome, names, *args, **kwargs):
    return [case(outcome, name, *args, **kwargs) for name in names.split()]


def half(updates, params):
    return jax.tree.map(lambda u: 0.5 * u, updates)


def first_two_steps(step, **extra_args):
    return step < 2


def by_schedule(count):
    return 0.1 / (1.0 + count)


def sum_of_table(updates):
    return jnp.sum(updates["table"])


def muon_axes(params):
    return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), params)


SGD, TRACE = optax.sgd(0.1), optax.trace(0.9)
ONLY_TABLE, ONLY_W = {"table": True, "w": False}, {"table": False, "w": True}
LABELS = {"table": "table", "w": "w"}
RATE = {"learning_rate": 0.1}
KEY = jax.random.key(0)

CASES = [
    # Linear in the gradients
    case("equal", "identity"),
    case("dense", "set_to_zero"),  # zeros, as it makes them of anything
    case("equal", "scale", -0.1),
    case("equal", "scale", jnp.float32(-0.1), note="array"),
    case("equal", "scale", np.float32(-0.1), note="numpy"),
    case("equal", "scale_by_learning_rate", 0.1),
    case("equal", "scale_by_learning_rate", by_schedule, note="schedule"),
    case("equal", "scale_by_learning_rate", 0.1, flip_sign=False, note="ascent"),
    case("equal", "scale_by_schedule", by_schedule),
    *cases("equal", "scale_by_param_block_norm scale_by_param_block_rms"),
    case("equal", "sgd", 0.1),
    case("equal", "sgd", by_schedule, note="schedule"),
    case("raises", "sgd", 0.1, momentum=0.9, note="momentum"),
    case("raises", "sgd", 0.1, momentum=0.9, nesterov=True, note="nesterov"),
    case("raises", "trace", 0.9),
    case("raises", "trace", 0.9, nesterov=True, note="nesterov"),
    case("raises", "add_decayed_weights", 0.1),
    case("equal", "add_decayed_weights", 0.1, mask=ONLY_W, note="mask"),
    # (It adds to arrays that it keeps.)
    case("dense", "apply_every", 1),
    case("dense", "apply_every", 2, note="two"),
    case("equal", "stateless", half),
    case("equal", "stateless_with_tree_map", lambda g, p: 0.5 * g),
    case("raises", "stateless_with_tree_map", lambda g, p: g + p, note="sum"),
    case("raises", "stateless_with_tree_map", lambda g, p: g * p, note="product"),
    case("equal", "contrib.reduce_on_plateau", extra_args=value),
    # Not linear in the gradients
    *cases("raises", "scale_by_sign zero_nans keep_params_nonnegative centralize"),
    *cases("raises", "clip clip_by_block_rms clip_by_global_norm", 0.5),
    case("raises", "adaptive_grad_clip", 0.1),
    case("raises", "add_noise", 0.1, 0.5, key=KEY),
    case("raises", "ema", 0.9),
    *cases("raises", "scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan"),
    *cases("raises", "scale_by_amsgrad scale_by_belief scale_by_factored_rms"),
    *cases("raises", "scale_by_distance_over_gradients scale_by_lbfgs scale_by_lion"),
    *cases("raises", "scale_by_novograd scale_by_optimistic_gradient scale_by_radam"),
    *cases("raises", "scale_by_rms scale_by_rss scale_by_sm3 scale_by_stddev"),
    *cases("raises", "scale_by_trust_ratio scale_by_yogi normalize_by_update_norm"),
    case("raises", "scale_by_rprop", 0.1),
    case("raises", "scale_by_polyak", extra_args=value),
    case("raises", "scale_by_backtracking_linesearch", 5, extra_args=line_search),
    case("raises", "scale_by_zoom_linesearch", 5, extra_args=line_search),
    *cases("raises", "contrib.normalize contrib.scale_by_acprop", note=""),
    *cases("raises", "contrib.scale_by_ademamix contrib.scale_by_adopt"),
    *cases("raises", "contrib.scale_by_cocob contrib.scale_by_galore"),
    case("raises", "contrib.scale_by_madgrad", 0.1),
    case("raises", "contrib.scale_by_muon", weight_dimension_numbers=muon_axes),
    *cases("raises", "contrib.scale_by_simplified_ademamix"),
    case("raises", "contrib.differentially_private_aggregate", 1.0, 0.1, key=KEY),
    # (It computes its updates without the gradients.)
    case("dense", "contrib.hutchinson_estimator_diag_hessian", extra_args=objective),
    # Optimizers
    *cases(
        "raises", "adabelief adadelta adafactor adagrad adam adamax adamaxw", **RATE
    ),
    *cases("raises", "adamw adan amsgrad fromage lamb lars lion nadam nadamw", **RATE),
    *cases("raises", "novograd optimistic_adam optimistic_adam_v2 radam", **RATE),
    *cases("raises", "optimistic_gradient_descent rmsprop rprop sign_sgd", **RATE),
    *cases("raises", "signum sm3 yogi", **RATE),
    case("raises", "noisy_sgd", 0.1, key=KEY),
    case("raises", "polyak_sgd", extra_args=value),
    case("raises", "lbfgs", extra_args=line_search),
    *cases("raises", "contrib.acprop contrib.ademamix contrib.adopt", **RATE),
    *cases("raises", "contrib.cocob contrib.dadapt_adamw contrib.dog", **RATE),
    *cases("raises", "contrib.dowg contrib.galore contrib.madgrad", **RATE),
    *cases("raises", "contrib.muon contrib.prodigy", **RATE),
    *cases("raises", "contrib.simplified_ademamix contrib.schedule_free_adamw", **RATE),
    case("raises", "contrib.momo", extra_args=value),
    case("raises", "contrib.momo_adam", extra_args=value),
    case("raises", "contrib.sophia", **RATE, extra_args=objective),
    case("raises", "contrib.dpsgd", 0.1, 1.0, 0.1, seed=0),
    # (Its update is the difference of two points that it keeps.)
    case("dense", "contrib.schedule_free_sgd", 0.1),
    # Wrappers
    case("raises", "chain", optax.scale(2.0), TRACE, optax.scale(-0.1)),
    case("equal", "chain", optax.scale(2.0), aj.adagrad(0.1), note="adagrad"),
    case("raises", "chain", optax.clip(1.0), SGD, note="clip"),
    case("equal", "named_chain", ("a", optax.scale(2.0)), ("b", SGD)),
    case("equal", "with_extra_args_support", SGD),
    case("equal", "inject_hyperparams", optax.sgd),
    case("equal", "inject_hyperparams", aj.adagrad, note="adagrad"),
    case("equal", "inject_stateful_hyperparams", optax.sgd),
    case("equal", "masked", SGD, ONLY_TABLE),
    case("equal", "masked", optax.adam(0.1), ONLY_W, note="other"),
    case("raises", "masked", optax.adam(0.1), ONLY_TABLE, note="adam"),
    case("dense", "freeze", ONLY_TABLE),  # set_to_zero
    case("equal", "freeze", ONLY_W, note="other"),
    case("dense", "selective_transform", SGD, freeze_mask=ONLY_TABLE),  # set_to_zero
    case("equal", "selective_transform", SGD, freeze_mask=ONLY_W, note="other"),
    case("equal", "partition", {"table": SGD, "w": optax.adam(0.1)}, LABELS),
    case(
        "raises", "partition", {"w": SGD, "table": optax.adam(0.1)}, LABELS, note="not"
    ),
    case("equal", "partition", {"table": aj.adagrad(0.1), "w": SGD}, LABELS, note="aj"),
    case("equal", "multi_transform", {"table": SGD, "w": optax.adam(0.1)}, LABELS),
    case("raises", "flatten", SGD),
    case("raises", "apply_if_finite", SGD, 3),
    case("raises", "conditionally_transform", SGD, first_two_steps),
    case("raises", "conditionally_mask", SGD, first_two_steps),
    case("raises", "MultiSteps", SGD, 2),
    case(
        "raises",
        "MultiSteps",
        SGD,
        2,
        note="skip-not-finite",
        should_skip_update_fn=optax.skip_not_finite,
    ),
    case("raises", "lookahead", SGD, 2, 0.5, start=optax.LookaheadParams.init_synced),
    case(
        "raises",
        "lookahead",
        optax.adam(0.1),
        2,
        0.5,
        note="adam",
        start=optax.LookaheadParams.init_synced,
    ),
    case("equal", "measure_with_ema", lambda u: 1.0, 0.9),
    case("raises", "measure_with_ema", sum_of_table, 0.9, note="rows"),
    case("equal", "monitor", {"step": lambda u: 1.0}),
    case("raises", "monitor", {"norm": optax.tree.norm}, note="norm"),
    case("equal", "snapshot", "step", lambda u: 1.0),
    case("raises", "snapshot", "sum", sum_of_table, note="rows"),
    case("raises", "contrib.mechanize", SGD),
    case("dense", "contrib.sam", SGD, SGD),  # it goes back to where it was
    case("raises", "contrib.sam", SGD, optax.adam(0.1), note="adam"),
    case("dense", "contrib.schedule_free", SGD, **RATE),
    case("equal", "contrib.split_real_and_imaginary", SGD),
]

# Public, and callable, but neither a transformation nor something that makes one. What
# says in its annotation that it returns something else need not be here.
NOT_TRANSFORMATIONS = set(
    "bias_correction matrix_inverse_pth_root sigmoid_binary_cross_entropy "
    "update_infinity_moment update_moment update_moment_per_elem_norm WrappedSchedule "
    "contrib.schedule_free_eval_params "
    "GradientTransformation GradientTransformationExtraArgs".split()
)


def may_make_transformations(function):
    if inspect.isclass(function):
        return hasattr(function, "init") and hasattr(function, "update")
    if not inspect.isroutine(function):
        return isinstance(function, functools.partial)
    returned = inspect.signature(function).return_annotation
    return returned is inspect.Signature.empty or "GradientTransf" in str(returned)


def test_every_transformation_of_optax_is_in_the_table():
    public = {
        prefix + name
        for module, prefix in ((optax, ""), (optax.contrib, "contrib."))
        for name, member in inspect.getmembers(module)
        if not name.startswith("_") and may_make_transformations(member)
    }
    assert len(public) > 120
    assert public == {case.name for case in CASES} | NOT_TRANSFORMATIONS


def train(case, convert):
    """Parameters, state and last update, with gradients that ``convert`` makes."""
    transformation = case.build()
    params = case.start(some_params())
    state = transformation.init(params)
    for t in range(STEPS):
        given = convert(gradients(t))
        updates, state = transformation.update(
            given, state, params, **case.extra_args(given, params)
        )
        params = optax.apply_updates(params, updates)
    return params, state, updates


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_or_raises(case):
    expected = train(case, to_dense)  # which does not raise
    if case.outcome == "raises":
        errors, remedy = (TypeError, ValueError, AttributeError), r"\.to_dense\(\)"
        with pytest.raises(errors, match=f"(?s)RowSparse.*{remedy}"):
            train(case, lambda gradients: gradients)
        return
    actual = train(case, lambda gradients: gradients)
    assert isinstance(actual[2]["table"], aj.RowSparse) == (case.outcome == "equal")
    actual = to_dense(actual)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(a) == jnp.shape(e)
        np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6)
