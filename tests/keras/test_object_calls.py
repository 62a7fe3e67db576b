"""The object does what TensorFlow 2.0.0 did with the same calls, or what is listed."""

import copy
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
    "V": lambda value, name, dtype=None: Variable(value, name=name, dtype=dtype),
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
