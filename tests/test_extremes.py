"""Gradients from denormal to infinite, as PyTorch and Keras 3 took them.

Recorded by tests/golden/record_extremes.py; docs/numerics.md has the table.
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
DIALECTS = {
    "torch": lambda epsilon, start: aj.dialects.torch(
        extremes.RATE, initial_accumulator_value=start, eps=epsilon
    ),
    "keras3": lambda epsilon, start: aj.dialects.keras3(extremes.RATE, start, epsilon),
}


@functools.cache
def recorded(peer):
    folder = pathlib.Path(extremes.__file__).parent
    with np.load(folder / f"extremes_{peer}.npz") as file:
        return dict(file)


@functools.cache
def ours(peer, setting):
    optimizer = DIALECTS[peer](*extremes.SETTINGS[setting])

    @jax.jit
    def step(state, params):
        updates, state = optimizer.update(jnp.asarray(GRADIENTS), state, params)
        return state, optax.apply_updates(params, updates)

    params = jnp.zeros(len(GRADIENTS), jnp.float32)
    state = optimizer.init(params)
    for _ in range(extremes.STEPS):
        state, params = step(state, params)
    return np.asarray(params)


def differ(peer, setting):
    """Where we are more than 4 epsilons from the peer."""
    here, there = ours(peer, setting), recorded(peer)[f"{setting}/params"]
    near = np.isclose(here, there, rtol=4 * np.finfo(np.float32).eps, atol=0)
    return ~(near | np.isnan(here) & np.isnan(there))


@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_pytorch_differs_only_where_a_denormal_number_matters(setting):
    epsilon, start = extremes.SETTINGS[setting]
    smallest = float(np.finfo(np.float32).tiny)  # that is normal
    squares = np.square(GRADIENTS, dtype=np.float64) < smallest
    roots = (squares | (0 < start < smallest)) & (epsilon < 1e-12)
    allowed = (GRADIENTS < smallest) | roots
    assert not np.any(differ("torch", setting) & ~allowed)


@pytest.mark.parametrize("setting", extremes.SETTINGS)
def test_keras_differs_only_where_it_divides_by_0_and_we_stand_still(setting):
    there = recorded("keras3")[f"{setting}/params"]
    different = differ("keras3", setting)
    assert not np.any(np.isfinite(there[different]))
    assert not np.any(ours("keras3", setting)[different])


PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "numerics.md").read_text()
ROW = r"^\| (\S+), (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$"


def test_the_table_is_what_was_measured():
    rows = re.findall(ROW, PAGE, re.M)
    assert len(rows) > 5
    for row in rows:
        epsilon, start, gradient, *moved = map(float, row)
        numbers = list(extremes.SETTINGS.values())
        setting = list(extremes.SETTINGS)[numbers.index((epsilon, start))]
        (at,) = np.flatnonzero(np.isclose(GRADIENTS, gradient, rtol=1e-3, atol=0))
        found = [
            array[at]
            for peer in DIALECTS
            for array in (recorded(peer)[f"{setting}/params"], ours(peer, setting))
        ]
        np.testing.assert_allclose(moved, found, rtol=5e-3)


def test_so_many_differ():
    for peer, name in (("torch", "PyTorch"), ("keras3", "Keras 3")):
        differences = [differ(peer, setting) for setting in extremes.SETTINGS]
        count, total = np.sum(differences), np.size(differences)
        assert f"{count} of {total} in {name}" in " ".join(PAGE.split())
