"""How far Adagrad's learning rates have fallen, leaf by leaf.

The sums that Adagrad divides by only grow, so learning may die out: in a few
coordinates, in a whole leaf, or after one exploding gradient. :func:`report` reads the
optimizer's state and says where; print the result, or call its ``plot``.
"""

from adagrad_jax.diagnostics._leaf import QUANTILES as QUANTILES
from adagrad_jax.diagnostics._leaf import LeafReport as LeafReport
from adagrad_jax.diagnostics._measure import report as report
from adagrad_jax.diagnostics._report import Report as Report

__all__ = ["QUANTILES", "LeafReport", "Report", "report"]
