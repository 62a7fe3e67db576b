"""Injected hyperparameters, which are arrays, do to rows what the numbers do.

Where that cannot be told, the error says how to keep them numbers, and that works.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj
from tests.test_contract import CASES

pytestmark = pytest.mark.usefixtures("standard_promotion")

TABLE = jnp.array([[1.0, -2.0], [0.5, 3.0], [0.25, 1.5]])
ROWS = aj.RowSparse([2, 0, 2], jnp.array([[0.3, -1.0], [2.0, 0.1], [0.4, 0.2]]), (3, 2))


def two_steps(optimizer):
    @jax.jit
    def run(table):
        state = optimizer.init(table)
        for _ in range(2):
            updates, state = optimizer.update(ROWS, state, table)
            table = optax.apply_updates(table, updates)
        return table

    return run(TABLE)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_under_injected_hyperparameters(case):
    static = {"mask"} & set(case.arguments)

    def injected():
        inject = optax.inject_hyperparams(case.factory, tuple(static))
        return two_steps(inject(**case.arguments))

    try:
        expected = two_steps(case.build())
    except TypeError as error:
        assert "is a RowSparse, but" in str(error)
        expected = None
    for _ in range(4):
        try:
            actual = injected()
            break
        except (TypeError, ValueError) as error:
            named = set(re.findall(r"if '(\w+)' is in static_args=", str(error)))
            if not named - static:
                assert expected is None and "is a RowSparse, but" in str(error)
                return
            static |= named
    assert expected is not None
    np.testing.assert_allclose(actual, expected, rtol=2e-6)
