"""The object does what TensorFlow 2.0.0 did with the same calls, or what is listed.

`object_calls.json` is what TensorFlow did, `object_differences.json` what is otherwise
here on purpose, under the heads of the rows of docs/keras.md that say why.
"""

import json
import math
import pathlib
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax.keras import Adagrad, Variable, _hyperparameters, schedules
from tests.golden import object_calls

FOLDER = pathlib.Path(object_calls.__file__).parent
RECORDED = json.loads((FOLDER / "object_calls.json").read_text())
DIFFERENT = json.loads((FOLDER / "object_differences.json").read_text())
LISTED = {code: here for calls in DIFFERENT.values() for code, here in calls.items()}
PAGE = FOLDER.parents[1] / "docs" / "keras.md"

# What users' programs have.
pytestmark = pytest.mark.usefixtures("standard_promotion")

# Errors of TensorFlow's own, for what is wrong with a value or its dtype.
OWN_ERRORS = {"InvalidArgumentError", "NotFoundError", "UnimplementedError"}


def show(value):
    """Values of ours as the recording script shows TensorFlow's."""
    if isinstance(value, Variable):
        return {value.name: value.numpy()}
    if isinstance(value, aj.RowSparse):
        return [np.asarray(value.values), np.asarray(value.ids)]
    if isinstance(value, jax.Array):
        return np.asarray(value)
    if isinstance(value, dict):
        return {key: show(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [show(item) for item in value]
    return value


VOCABULARY = {
    "Adagrad": Adagrad,
    "V": lambda value, name, dtype=None: Variable(
        # Python's floats are float32 there, also where JAX has 64-bit types on.
        value,
        name=name,
        dtype=dtype or (jnp.float32 if np.asarray(value).dtype == float else None),
    ),
    "A": lambda value, dtype="float32": jnp.asarray(value, dtype),
    "S": jnp.sum,
    "full": jnp.full,
    "take": lambda table, ids: table[jnp.array(ids)],
    "rows": lambda ids, values, shape: aj.RowSparse(ids, jnp.array(values), shape),
    "schedules": schedules,
    "compiled": jax.jit,
    "gradients": Adagrad.get_gradients,
    "updates": lambda opt, loss, params: [opt.get_updates(loss, params), None][1],
    "show": show,
}


def here(code):
    # Operations one by one: there is much to compile otherwise.
    _hyperparameters._names.clear()  # as in a process of its own
    wide = "float64'" in code
    with (
        warnings.catch_warnings(),
        jax.disable_jit("compiled" not in code),
        jax.enable_x64(wide),
    ):
        warnings.simplefilter("ignore")
        return object_calls.run(code, VOCABULARY)


def test_the_page_has_the_figures():
    page = PAGE.read_text()
    assert f"Of {len(RECORDED)} calls" in page
    assert f"\n{len(RECORDED) - len(LISTED)} do the same here" in page


def same(found, wanted):
    """The same but for the last digits of numbers."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(found, dict) and isinstance(wanted, dict):
        return [*found] == [*wanted] and all(same(found[k], wanted[k]) for k in found)
    if isinstance(found, float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=2e-6)
    if found in ("ValueError", "TypeError") and wanted in OWN_ERRORS:
        return True
    return found == wanted


@pytest.mark.parametrize("part", range(8))
def test_calls(part):
    wrong = []
    for code in [*RECORDED][part::8]:
        found = here(code)
        says = found.pop("says", "")
        expected = LISTED.get(code, RECORDED[code])
        if not same(found, expected):
            wrong.append(f"{code}: {found} {says}, not {expected}")
    assert not wrong, "\n".join(wrong)


def test_what_is_recorded_is_what_is_listed():
    assert list(RECORDED) == object_calls.calls()
    unneeded = [c for c, found in LISTED.items() if same(found, RECORDED[c])]
    assert not unneeded


def test_the_page_says_why_each_call_differs():
    heads = re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.M)
    assert [head for head in DIFFERENT if head not in heads] == []
