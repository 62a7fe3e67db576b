"""Which learning rate is best, and how much of a difference is chance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUM_RATES = 5
MOST_RATES = 11  # if the best one is again and again at the end
COARSE = 2  # between the numbers of the first rates


def rate(number: int) -> float:
    """1, 2, 3, 6 and 10 have the numbers 0 to 4, and so on, down too."""
    return float(f"{10 ** (number / 4):.0e}")


def try_rates(
    loss_at: Callable[[float], float],
    first: int,
    num_rates: int = NUM_RATES,
    most_rates: int = MOST_RATES,
) -> dict[float, float]:
    """The loss by rate: of some, of further ones until the best one is inside, and of
    those between it and its neighbours.

    Args:
      loss_at: The validation loss at a rate; if not finite, the rate is no good.
      first: The number of the lowest rate of the first ones.
      num_rates: How many there are at first, a factor of 3 apart.
      most_rates: How many of these there are at most.
    """
    stop = first + COARSE * num_rates
    losses = {n: loss_at(rate(n)) for n in range(first, stop, COARSE)}
    while len(losses) < most_rates and is_at_end(losses):
        # Where all diverge the lowest rate is the best one: lower ones may not.
        down = lowest(losses) == min(losses)
        new = min(losses) - COARSE if down else max(losses) + COARSE
        losses[new] = loss_at(rate(new))
    best = lowest(losses)
    losses |= {n: loss_at(rate(n)) for n in (best - 1, best + 1)}
    return {rate(n): losses[n] for n in sorted(losses)}


def lowest(losses: dict[Any, float]) -> Any:
    """The key of the lowest loss, of equal ones the lowest key.

    What is not finite is higher than all others.
    """

    def order(key: Any) -> tuple[float, Any]:
        return (losses[key] if math.isfinite(losses[key]) else math.inf), key

    return min(losses, key=order)


def is_at_end(losses: dict[Any, float]) -> bool:
    """Whether a better rate may lie beyond those that were tried."""
    return lowest(losses) in (min(losses), max(losses))


def band(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, ...]:
    """Median, lowest and highest of ``(seeds, points)`` at each point."""
    curves = np.asarray(curves)
    return np.median(curves, axis=0), curves.min(axis=0), curves.max(axis=0)


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """The mean, and its standard error, of one number for each seed."""
    values = np.asarray(values, np.float64)
    error = values.std(ddof=1) / len(values) ** 0.5
    return {"mean": float(values.mean()), "standard_error": float(error)}


def difference(found: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """The mean of ``found - baseline``, both (seeds, test rows), and its error.

    A seed gives both the same start and order, and test rows are the same too. Other
    seeds or other test rows would give another mean: the standard error is for both.
    """
    differences = np.asarray(found, np.float64) - baseline
    of_seeds = mean_and_error(differences.mean(axis=1))
    of_rows = mean_and_error(differences.mean(axis=0))
    error = math.hypot(of_seeds["standard_error"], of_rows["standard_error"])
    return {"mean": of_seeds["mean"], "standard_error": error}
