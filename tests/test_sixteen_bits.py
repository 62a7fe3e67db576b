"""In float16 and bfloat16 the dialects round what, and when, their peers round.

Held against what the peers computed (tests/golden/record_sixteen_bits.py), each step
from the peer's own state, over all sizes that these formats have.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests.golden import record_sixteen_bits as recorded

FOLDER = pathlib.Path(__file__).parent / "golden"


def keras(rate, start, epsilon, **more):
    return aj.dialects.keras(rate, start, epsilon, **more)


def tf1(rate, start, epsilon):
    return aj.dialects.tf1(rate, start)


def keras3(rate, start, epsilon, **more):
    return aj.dialects.keras3(rate, start, epsilon, **more)


def torch(rate, start, epsilon, **more):
    return aj.dialects.torch(rate, eps=epsilon, initial_accumulator_value=start, **more)


def fbgemm(rate, start, epsilon, row_wise=True):
    kind = "exact_row_wise_adagrad" if row_wise else "exact_adagrad"
    return aj.dialects.fbgemm(rate, epsilon, optimizer=kind)


# The dialect, and how many units in the last place a parameter may be off. TensorFlow
# 1 and Optax multiply by the inverse of the root, where we divide by it; Keras 3 decays
# in a step of its own; PyTorch and FBGEMM add before they round.
CASES = {
    ("tf20", "dense"): (keras, 0),
    ("tf20", "rows"): (keras, 0),
    ("tf20", "decay"): (keras, 0),
    ("tf20", "v1"): (tf1, 1),
    ("tf20", "v1_rows"): (tf1, 1),
    ("keras3", "dense"): (keras3, 0),
    ("keras3", "weight_decay"): (keras3, 1),
    ("optax", "dense"): (lambda *numbers: aj.dialects.optax(*numbers), 2),
    ("torch", "dense"): (torch, 1),
    ("torch", "decay"): (torch, 1),
    ("torch", "weight_decay"): (torch, 1),
    ("fbgemm", "row_wise"): (fbgemm, 1),
    ("fbgemm", "full"): (fbgemm, 1),
}


class Run:
    """What a peer computed with one setting in one dtype."""

    def __init__(self, peer, variant, setting, dtype):
        with np.load(FOLDER / f"sixteen_bits_{peer}.npz") as archive:
            key = f"{variant}/{setting}/{dtype}"
            self.params = [archive["params"], *archive[f"{key}/params"]]
            self.accumulators = [None, *archive[f"{key}/acc"]]
            self.gradients = archive["gradients"]
        self.dtype = dtype
        self.rows = recorded.variants(peer)[variant].get("sparse", False)

    def gradient(self, t):
        gradient = jnp.asarray(self.gradients[t], self.dtype)
        if not self.rows:
            return gradient
        return aj.RowSparse([5, 0, 2], gradient[1:4], gradient.shape)

    def check(self, t, params, accumulator, ulps, skip=False):
        """Both after step t; but for where the peer divided by 0, or was lost before.

        ``skip`` is where else not to look at the parameters.
        """
        assert params.dtype == self.dtype
        theirs, before = self.params[t + 1], self.params[t]
        kept = self.accumulators[t + 1].reshape(accumulator.shape)
        np.testing.assert_array_equal(np.asarray(accumulator, np.float32), kept)
        known = np.isfinite(theirs) & np.isfinite(before) & ~np.asarray(skip)
        ours = np.asarray(params, np.float32)[known]
        theirs, before = theirs[known], before[known]
        if not ulps:
            np.testing.assert_array_equal(ours, theirs)
        info = jnp.finfo(self.dtype)
        size = np.maximum(np.abs(theirs), np.abs(theirs - before))
        size = np.maximum(size, float(info.smallest_normal))
        ulp = float(info.eps) * 2.0 ** np.floor(np.log2(size))
        assert np.all(np.abs(ours - theirs) <= ulps * ulp)


def runs(peer, variant, settings=recorded.SETTINGS, types=recorded.TYPES):
    arguments = dict(recorded.variants(peer)[variant])
    for setting in settings:
        numbers = recorded.SETTINGS[setting]
        if not recorded.takes(peer, numbers[1], arguments):
            continue
        more = {k: v for k, v in arguments.items() if k not in ("v1", "sparse")}
        for dtype in types:
            yield numbers, more, Run(peer, variant, setting, dtype)


def test_every_run_is_tested():
    for peer in ("tf20", "keras3", "optax", "torch", "fbgemm"):
        with np.load(FOLDER / f"sixteen_bits_{peer}.npz") as archive:
            variants = {name.split("/")[0] for name in archive if "/" in name}
        assert variants == {variant for p, variant in CASES if p == peer}


@pytest.mark.parametrize("peer, variant", CASES)
def test_dialect(peer, variant):
    dialect, ulps = CASES[peer, variant]
    # The CPU kernels of FBGEMM take no bfloat16.
    types = ["float16"] if peer == "fbgemm" else recorded.TYPES
    for numbers, more, run in runs(peer, variant, types=types):
        optimizer = dialect(*numbers, **more)
        state = optimizer.init(jnp.asarray(run.params[0], run.dtype))
        for t in range(recorded.STEPS):
            params = jnp.asarray(run.params[t], run.dtype)
            old = optax.tree.get(state, "accumulator")
            if t:
                kept = jnp.asarray(run.accumulators[t], old.dtype).reshape(old.shape)
                state = optax.tree.set(state, accumulator=kept)
            updates, state = optimizer.update(run.gradient(t), state, params)
            accumulator = optax.tree.get(state, "accumulator")
            # Optax loses the step of a gradient whose square underflows.
            skip = (accumulator == 0) if peer == "optax" else False
            after = aj.apply_updates(params, updates)
            run.check(t, after, accumulator, ulps, skip)


@pytest.mark.parametrize("variant", ["dense", "rows", "decay"])
def test_keras_object(variant):
    """Its step is compiled, for both dtypes in one."""
    settings = ["zero", "large_epsilon", "no_epsilon_in_float16"]
    for setting in settings:
        pair = list(runs("tf20", variant, [setting]))
        (rate, start, epsilon), more, _ = pair[0]
        opt = aj.keras.Adagrad(rate, start, epsilon, **more)
        variables = [
            aj.keras.Variable(run.params[0], dtype=run.dtype) for _, _, run in pair
        ]
        opt.build(variables)
        for t in range(recorded.STEPS):
            gradients = []
            for (_, _, run), variable in zip(pair, variables, strict=True):
                variable.assign(run.params[t])
                if t:
                    kept = run.accumulators[t]
                    opt.get_slot(variable, "accumulator").assign(kept)
                gradients.append(run.gradient(t))
            opt.apply_gradients(zip(gradients, variables, strict=True))
            for (_, _, run), variable in zip(pair, variables, strict=True):
                slot = opt.get_slot(variable, "accumulator")
                run.check(t, variable.value, slot.value, 0)


def test_where_the_denominator_is_rounded_to_zero_nothing_moves():
    """Where the peers have NaN or infinity: epsilon 1e-9 is 0 in float16."""
    for dialect in (keras, torch):
        optimizer = dialect(0.5, 0.0, 1e-9)
        gradient = jnp.array([0.0, 1e-6, 1.0], jnp.float16)  # 1e-12 is 0 too
        updates, _ = optimizer.update(gradient, optimizer.init(gradient))
        np.testing.assert_array_equal(updates, [0, 0, -0.5])
