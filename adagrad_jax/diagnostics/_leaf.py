"""What is measured of one leaf of the parameters."""

import dataclasses
import math

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""What part of a leaf's coordinates has at most the rate in ``LeafReport.rates``."""

BARELY = 1.1
"""Below so many times :math:`a_0`, a rate is within a twentieth of the first one."""

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class LeafReport:
    r"""What :func:`report` found in one leaf of the parameters.

    Attributes:
      path: Where the leaf is: ``"encoder/0/kernel"``; ``""`` if the tree is one leaf.
      shape: The leaf's shape.
      learning_rate: :math:`\eta`, or None if it was neither given nor found.
      initial_accumulator_value: :math:`a_0`.
      epsilon: :math:`\epsilon`.
      rates: Effective learning rates at :data:`QUANTILES`, from the lowest to the
        highest. Each is that of some coordinate (nothing is interpolated).
      initial_rate: The effective learning rate with :math:`a_0` in :math:`a`'s place.
      growth: The median of :math:`a / a_0`, or of :math:`a` if :math:`a_0 = 0`.
      dead: The share of coordinates whose rate is less than ``dead_below`` times the
        one at the start.
      moved: The share of coordinates where :math:`a > a_0`.
      barely_moved: The share of coordinates where :math:`a_0 < a < 1.1\, a_0`: there
        are gradients, but Adagrad is still SGD of the rate :math:`\eta / \sqrt{a_0}`.
      not_finite: How many coordinates have a NaN or infinite :math:`a`.
      rows: How many rows a leaf of two axes or more has; None for others, and where
        rows are not told apart.
      untouched_rows: How many of them still have :math:`a = a_0` throughout: no
        gradient yet, or none large enough to change the sum.
      fell: By what share the median rate fell since the earlier report, if any.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> params = {"bias": jnp.zeros(3)}
      >>> state = aj.adagrad(0.1).init(params)
      >>> leaf = aj.diagnostics.report(state, params, learning_rate=0.1).leaves[0]
      >>> leaf.path, leaf.size, leaf.growth
      ('bias', 3, 1.0)
    """

    path: str
    shape: Shape
    learning_rate: float | None
    initial_accumulator_value: float
    epsilon: float
    rates: tuple[float, ...]
    initial_rate: float
    growth: float
    dead: float
    moved: float
    barely_moved: float
    not_finite: int
    rows: int | None
    untouched_rows: int | None
    fell: float | None = None

    @property
    def size(self) -> int:
        """How many coordinates the leaf has."""
        return math.prod(self.shape)

    @property
    def median_rate(self) -> float:
        """The effective learning rate that half of the coordinates have at most."""
        return self.rates[QUANTILES.index(0.5)]
