"""What is measured of all leaves; it knows how it is shown."""

import dataclasses
from typing import Any

from adagrad_jax.diagnostics._figure import draw
from adagrad_jax.diagnostics._leaf import LeafReport
from adagrad_jax.diagnostics._table import format_table


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
          >>> state = aj.ScaleByAdagradState({"a": params["a"] + 1.0,
          ...     "b": params["b"] + 0.4})
          >>> print(aj.diagnostics.report(state, params).table(max_leaves=1))
          Effective learning rates: learning_rate / (sqrt(a) + epsilon)
          initial_accumulator_value 0.1, epsilon 1e-07
          learning_rate is not known: rates are multiples of it
          <BLANKLINE>
          leaf        size   lowest   median  highest  growth  dead
          ---------------------------------------------------------
          a              3  1.0e+00  1.0e+00  1.0e+00      10    0%
          and 1 leaf that is no worse
          ---------------------------------------------------------
          2 leaves       6  1.0e+00           1.6e+00            0%
          <BLANKLINE>
          growth: median of a / initial_accumulator_value
          dead: rate below 0.001 times that at the start
        """
        shown = self.worst(max_leaves)
        return format_table(shown, self.leaves, self.dead_below, self.epsilon_in_sqrt)

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
        return draw(self.worst(max_leaves), len(self.leaves), self.dead_below)


def _badness(leaf: LeafReport) -> tuple[bool, float, float]:
    return leaf.not_finite > 0, leaf.dead, leaf.growth if leaf.size else -1.0
