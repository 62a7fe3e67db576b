"""Who takes part: the family, and whom it is compared with.

A method makes an optimizer of a learning rate; the first rates that are tried are five
of 0.001, 0.003, 0.01, 0.03, and so on, where its best one is expected.

FTRL and dual averaging forget where the parameters started, and a network whose layers
start at 0 does not learn. They train the linear part, whose weights start at 0, and
``aj.adagrad`` trains the rest, as one would use them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import adagrad_jax as aj

# A mean over a batch has small gradients; from 0.1 Adagrad would be almost SGD.
INITIAL_ACCUMULATOR = 1e-6
EPSILON = 1e-7
FTRL_L1 = 1e-3  # for the sum of a weight's gradients
PROXIMAL_L1 = 1e-5  # for each step
BASELINE = "aj.adagrad"

IsLinear = Callable[[Any], bool]
Make = Callable[[Any, IsLinear], optax.GradientTransformation]


class Method(NamedTuple):
    """One way to train.

    Attributes:
      make: An optimizer, by the learning rate and by which leaves, by their paths, are
        the linear part.
      first: The number of the first rate that is tried, as `choice.rate` counts.
      ours: Of the family, whose tables have row-sparse gradients.
      fits_tables: Whether it can train an embedding table.
    """

    make: Make
    first: int = -12
    ours: bool = True
    fits_tables: bool = True


def adagrad(rate: Any, accumulator: Any = aj.Diagonal()) -> Any:  # noqa: B008 (frozen)
    return aj.adagrad(rate, INITIAL_ACCUMULATOR, EPSILON, accumulator=accumulator)


def with_accumulator(accumulator: Any) -> Make:
    return lambda rate, _: adagrad(rate, accumulator)


def for_linear_part(make: Callable[[Any], Any]) -> Make:
    """That for the linear part, ``aj.adagrad`` for the rest, both at one rate."""

    def made(rate: Any, is_linear: IsLinear) -> optax.GradientTransformation:
        def labels(params: Any) -> Any:
            return jax.tree.map_with_path(
                lambda path, _: "linear" if is_linear(path) else "rest", params
            )

        parts = {"linear": make(rate), "rest": adagrad(rate)}
        return optax.partition(parts, labels)

    return made


METHODS = {
    BASELINE: Method(with_accumulator(aj.Diagonal())),
    "aj.adagrad, RowWise": Method(with_accumulator(aj.RowWise())),
    "aj.adagrad, SM3": Method(with_accumulator(aj.SM3())),
    "aj.adagrad, RoundedDiagonal": Method(
        with_accumulator(aj.RoundedDiagonal(jnp.bfloat16))
    ),
    "aj.adagrad, Norm": Method(with_accumulator(aj.Norm()), first=-6),
    # A matrix for the 64 weights into each hidden unit.
    "aj.adagrad, FullMatrix": Method(
        with_accumulator(aj.FullMatrix(block_size=64)), fits_tables=False
    ),
    "aj.frequency_adagrad": Method(
        lambda rate, _: aj.frequency_adagrad(rate, INITIAL_ACCUMULATOR, EPSILON)
    ),
    "aj.proximal_adagrad": Method(
        lambda rate, _: aj.proximal_adagrad(rate, INITIAL_ACCUMULATOR, l1=PROXIMAL_L1)
    ),
    "aj.adagrad_da + aj.adagrad": Method(
        for_linear_part(lambda rate: aj.adagrad_da(rate, INITIAL_ACCUMULATOR))
    ),
    "aj.ftrl + aj.adagrad": Method(
        for_linear_part(
            lambda rate: aj.ftrl(
                rate,
                initial_accumulator_value=INITIAL_ACCUMULATOR,
                l1_regularization_strength=FTRL_L1,
            )
        )
    ),
    "optax.adagrad": Method(
        lambda rate, _: optax.adagrad(rate, INITIAL_ACCUMULATOR, EPSILON), ours=False
    ),
    "optax.adam": Method(lambda rate, _: optax.adam(rate), -14, ours=False),
    "optax.sgd, momentum": Method(
        lambda rate, _: optax.sgd(rate, momentum=0.9), -10, ours=False
    ),
    "optax.sgd": Method(lambda rate, _: optax.sgd(rate), -6, ours=False),
}
