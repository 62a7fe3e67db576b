"""JAX as it is becoming: row gradients under flags that are off by default.

All of ``test_gradient.py`` runs under them with the environment that JAX reads them
from: ``JAX_REMAT3=1 JAX_CUSTOM_VJP3=1 JAX_CUSTOM_JVP3=1``.
"""

import dataclasses

import jax
import pytest

from tests.rows.programs import check
from tests.rows.random_programs import Program, Term

# Not jax_scan3, which has no derivatives yet.
FLAGS = ["jax_remat3", "jax_custom_vjp3", "jax_custom_jvp3"]
KNOWN = [flag for flag in FLAGS if flag in jax.config.values]
SURROUNDINGS = ["remat", "remat_of_a_closure", "scan", "scan_of_remat"]
SURROUNDINGS += ["layers_with_their_ids", "custom_jvp", "custom_vjp"]


@pytest.fixture(params=KNOWN)
def flag(request):
    """What was traced before is traced anew: JAX's caches know of these flags."""
    before = getattr(jax.config, request.param)
    jax.config.update(request.param, True)
    yield request.param
    jax.config.update(request.param, before)


def program(name):
    """With a rule of JAX's own, ``relu``'s, in what is done with the rows."""
    layers = name.startswith("layers")
    table = ((3, 4, 3) if layers else (7, 3), "float32")
    term = Term("a", (name,), "p[ids]", "jnp.sum(w * jax.nn.relu(x))", [1, 4, 1])
    jit = dataclasses.replace(term, around=("jit", name))
    return Program({"a": table}, (term, jit))


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_values_and_gradients_are_those_of_jax(flag, name):
    outcome = check(program(name))
    assert not outcome.refused
    assert not [found for found in outcome.differences if found.wrong()]


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_what_must_be_rows_is_rows(flag, name):
    assert not check(program(name)).differences
