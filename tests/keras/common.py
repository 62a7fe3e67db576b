"""What the tests of the object share."""

import jax.numpy as jnp

from adagrad_jax.keras import Adagrad, Variable
from tests import golden_cases as golden


def fact(name):
    return golden.behaviour("tf20", name)


def wu():
    return Variable([1.0, 2.0], name="w"), Variable([3.0], name="u")


def stepped(**kwargs):
    """An optimizer after one step, and its variables."""
    w, u = wu()
    opt = Adagrad(0.1, **kwargs)
    opt.apply_gradients([(jnp.ones(2), w), (jnp.ones(1), u)])
    return opt, w, u
