"""What a report says."""

import dataclasses
import math
from typing import Any

from adagrad_jax.diagnostics._figure import draw
from adagrad_jax.diagnostics._table import format_table

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""What part of a leaf's coordinates has at most the rate in ``LeafReport.rates``."""

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


@dataclasses.dataclass(frozen=True)
class Report:
    """What :func:`report` found: print it, plot it, or read ``leaves``.

    Attributes:
      leaves: A :class:`LeafReport` for each leaf that Adagrad updates, in the order of
        the parameters.
      dead_below: As given to :func:`report`.
      epsilon_in_sqrt: As given to :func:`report`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> params = {"bias": jnp.zeros(3)}
      >>> state = aj.adagrad(0.1).init(params)
      >>> len(aj.diagnostics.report(state, params).leaves)
      1
    """

    leaves: tuple[LeafReport, ...]
    dead_below: float
    epsilon_in_sqrt: bool

    def __str__(self) -> str:
        return self.table()

    def worst(self, max_leaves: int) -> list[LeafReport]:
        """The leaves that are worst off: not finite, then most dead, then most grown.

        Args:
          max_leaves: How many to return at most.

        Returns:
          The leaves, the worst first.

        Example:
          >>> import adagrad_jax as aj, jax.numpy as jnp
          >>> params = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
          >>> state = aj.ScaleByAdagradState({"a": params["a"] + 1.0,
          ...     "b": params["b"] + 5.0})
          >>> [leaf.path for leaf in aj.diagnostics.report(state, params).worst(1)]
          ['b']
        """
        return sorted(self.leaves, key=_badness, reverse=True)[:max_leaves]

    def table(self, max_leaves: int = 20) -> str:
        """The report as text, which is what printing it shows.

        Args:
          max_leaves: How many leaves to show, of the worst.

        Returns:
          Lines of at most 100 characters.

        Example:
          >>> import adagrad_jax as aj, jax.numpy as jnp
          >>> params = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
          >>> state = aj.scale_by_adagrad().init(params)
          >>> print(aj.diagnostics.report(state, params).table(max_leaves=1))
          Effective learning rates: learning_rate / (sqrt(a) + epsilon)
          initial_accumulator_value 0.1, epsilon 1e-07
          learning_rate is not known: rates are multiples of it
          <BLANKLINE>
          leaf        size   lowest   median  highest  growth  dead
          ---------------------------------------------------------
          a              3  3.2e+00  3.2e+00  3.2e+00       1    0%
          and 1 leaf that is no worse
          ---------------------------------------------------------
          2 leaves       6  3.2e+00           3.2e+00            0%
          <BLANKLINE>
          growth: median of a / initial_accumulator_value
          dead: rate below 0.001 times that at the start
        """
        return format_table(self, max_leaves)

    def plot(self, max_leaves: int = 30) -> Any:
        """Draws the range of rates of each leaf, and what share of it is dead.

        Args:
          max_leaves: How many leaves to draw, of the worst.

        Returns:
          A ``matplotlib.figure.Figure``, to be shown in a notebook or saved with
          ``savefig``.

        Raises:
          ImportError: If matplotlib is not installed.

        Example:
          >>> import adagrad_jax as aj, jax.numpy as jnp
          >>> params = {"bias": jnp.zeros(3)}
          >>> state = aj.adagrad(0.1).init(params)
          >>> figure = aj.diagnostics.report(state, params).plot()
          >>> figure.axes[0].get_xlabel()
          'effective rate, multiples of the learning rate (log scale)'
        """
        return draw(self, max_leaves)


def _badness(leaf: LeafReport) -> tuple[bool, float, float]:
    return leaf.not_finite > 0, leaf.dead, leaf.growth if leaf.size else -1.0
