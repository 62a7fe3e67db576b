"""Gradients from denormal to infinite, as the peers took them.

Recorded by tests/golden/record_extremes.py; docs/numerics.md has the tables.
"""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests.golden import record_extremes as extremes

GRADIENTS = extremes.GRADIENTS


def fbgemm(kind, epsilon, start):
    return aj.dialects.fbgemm(
        extremes.RATE, epsilon, optimizer=kind, initial_accumulator_value=start
    )


DIALECTS = {
    "torch": lambda epsilon, start: aj.dialects.torch(
        extremes.RATE, initial_accumulator_value=start, eps=epsilon
    ),
    "keras3": lambda epsilon, start: aj.dialects.keras3(extremes.RATE, start, epsilon),
    "optax": lambda epsilon, start: aj.dialects.optax(extremes.RATE, start, epsilon),
    "fbgemm": functools.partial(fbgemm, "exact_row_wise_adagrad"),
    "fbgemm_full": functools.partial(fbgemm, "exact_adagrad"),
    "ftrl": lambda epsilon, start: aj.ftrl(
        extremes.RATE, initial_accumulator_value=start, beta=epsilon
    ),
}


@functools.cache
def recorded(peer):
    folder = pathlib.Path(extremes.__file__).parent
    with np.load(folder / f"extremes_{peer}.npz") as file:
        return dict(file)


@functools.cache
def ours(peer, setting):
    optimizer = DIALECTS[peer](*extremes.SETTINGS[setting])

    # Rows of four equal numbers, for FBGEMM's accumulator of a row.
    gradients = jnp.repeat(jnp.asarray(GRADIENTS)[:, None], 4, axis=1)

    @jax.jit
    def step(state, params):
        updates, state = optimizer.update(gradients, state, params)
        return state, optax.apply_updates(params, updates)

    params = jnp.zeros_like(gradients)
    state = optimizer.init(params)
    for _ in range(extremes.STEPS):
        state, params = step(state, params)
    return np.asarray(params)[:, 0]


def differ(peer, setting):
    """Where we are more than 4 epsilons from the peer."""
    here, there = ours(peer, setting), recorded(peer)[f"{setting}/params"]
    near = np.isclose(here, there, rtol=4 * np.finfo(np.float32).eps, atol=0)
    return ~(near | np.isnan(here) & np.isnan(there))


@pytest.mark.parametrize("peer", ["torch", "fbgemm", "fbgemm_full"])
@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_pytorch_and_fbgemm_differ_only_where_a_denormal_number_matters(setting, peer):
    epsilon, start = extremes.SETTINGS[setting]
    smallest = float(np.finfo(np.float32).tiny)  # that is normal
    squares = np.square(GRADIENTS, dtype=np.float64) < smallest
    roots = (squares | (0 < start < smallest)) & (epsilon < 1e-12)
    allowed = (GRADIENTS < smallest) | roots
    assert not np.any(differ(peer, setting) & ~allowed)


@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_keras_differs_only_where_it_divides_by_0_and_we_stand_still(setting):
    there = recorded("keras3")[f"{setting}/params"]
    different = differ("keras3", setting)
    assert not np.any(np.isfinite(there[different]))
    assert not np.any(ours("keras3", setting)[different])


@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_optax_differs_only_where_it_loses_the_step_of_an_underflown_square(setting):
    epsilon, _ = extremes.SETTINGS[setting]
    different = differ("optax", setting)
    kept = recorded("optax")
    assert not np.any(kept[f"{setting}/params"][different])
    assert not np.any(kept[f"{setting}/accumulator"][different])
    here, gradients = ours("optax", setting)[different], GRADIENTS[different]
    assert epsilon > 0 or not len(gradients)
    steps = extremes.STEPS * extremes.RATE * np.float64(gradients)
    np.testing.assert_allclose(here * np.sqrt(epsilon), -steps, rtol=1e-5)


@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_tensorflows_ftrl_differs_only_where_it_has_0_for_nan(setting):
    different, kept = differ("ftrl", setting), recorded("ftrl")
    assert not np.any(kept[f"{setting}/params"][different])
    np.testing.assert_array_equal(
        different, ~np.isfinite(kept[f"{setting}/accumulator"])
    )
    assert np.all(np.isnan(ours("ftrl", setting)[different]))


PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "numerics.md").read_text()
ROW = r"^\| (\S+), (\S+) \| (\S+) \| (\S+(?: \| \S+)+) \|$"
# By how many columns they have.
TABLES = {4: ("torch", "keras3"), 6: ("fbgemm", "optax", "ftrl")}
NAMES = {"torch": "PyTorch", "keras3": "Keras 3", "optax": "Optax"}
NAMES |= {"fbgemm": "FBGEMM row-wise", "fbgemm_full": "FBGEMM in full"}
NAMES |= {"ftrl": "TensorFlow's FTRL"}


def test_the_tables_are_what_was_measured():
    rows = re.findall(ROW, PAGE, re.M)
    assert len(rows) > 15
    for *row, columns in rows:
        epsilon, start, gradient = map(float, row)
        moved = [float(column) for column in columns.split(" | ")]
        numbers = list(extremes.SETTINGS.values())
        setting = list(extremes.SETTINGS)[numbers.index((epsilon, start))]
        near = np.isclose(GRADIENTS, gradient, rtol=1e-3, atol=0, equal_nan=True)
        (at,) = np.flatnonzero(near)
        found = [
            array[at]
            for peer in TABLES[len(moved)]
            for array in (recorded(peer)[f"{setting}/params"], ours(peer, setting))
        ]
        np.testing.assert_allclose(moved, found, rtol=5e-3)


def test_so_many_differ():
    for peer, name in NAMES.items():
        differences = [differ(peer, setting) for setting in extremes.SETTINGS]
        count, total = np.sum(differences), np.size(differences)
        assert f"{count} of {total} in {name}" in " ".join(PAGE.split())
