"""One accumulator per row."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import (
    InDType,
    along_rows,
    check_row_axes,
    full_like,
)
from adagrad_jax._accumulators.normalize import Normalize
from adagrad_jax._accumulators.protocol import RowAccumulator
from adagrad_jax._precision import at_least_float32, squared_magnitude


@dataclasses.dataclass(frozen=True)
class RowWise(InDType, RowAccumulator):
    r"""One accumulator per row, of the mean of the row's squares.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t[r] = a_{t-1}[r] + \frac{1}{D} \sum_{d=1}^{D} |g_t[r, d]|^2

    for a parameter of rows of :math:`D` numbers (the first axis counts rows, all others
    are in the row), so that all of a row has one learning rate. An embedding table
    takes :math:`1 / D` of :class:`Diagonal`'s memory. For parameters of one axis, whose
    rows are single numbers, and for single numbers it is :class:`Diagonal`.

    **Several tables in one array** ask for ``row_axes=2``. Nothing tells an array of
    shape ``(8, 50_000, 16)`` that is eight tables from one table of eight rows, and by
    default it is the latter: it gets 8 numbers, not 400,000.

    Args:
      dtype: As in :class:`Diagonal`.
      row_axes: How many axes, the first ones, count rows. A parameter that has no more
        than these has rows of single numbers. A :class:`RowSparse` gradient's rows must
        be named by no more of them.

    Raises:
      TypeError: If ``dtype`` is none of those.
      ValueError: If ``row_axes`` is no positive integer; in ``update``, if a gradient's
        rows are named by more axes.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.RowWise())
      >>> gradient = jnp.array([[1.0, 7.0], [0.0, 0.0]])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(state.accumulator, update[0])
      [25.  0.] [0.2 1.4]
      >>> tables = jnp.zeros((8, 500, 16))
      >>> [aj.scale_by_adagrad(accumulator=aj.RowWise(row_axes=axes)).init(tables)
      ...     .accumulator.shape for axes in (1, 2)]
      [(8,), (8, 500)]

    References:
      Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of
      Deep Learning Recommendation Models", ISCA 2022, on row-wise sparse AdaGrad;
      FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
    """

    row_axes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_row_axes(self.row_axes)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array of shape ``param.shape[:row_axes]``, sharded like the rows.

        So it is one number for each of 8 rows if ``param`` is of shape
        ``(8, 50_000, 16)``: ``row_axes=2`` makes 8 tables of it.
        """
        rows = along_rows(param, self.row_axes)
        dtype = self._dtype_of(param)
        return full_like(rows, initial_accumulator_value, dtype)

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the mean of each row's squares, then divides the row by their root."""
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        inside = _inside(gradient, accumulator)
        width = max(1, math.prod(gradient.shape[axis] for axis in inside))
        sums = jnp.sum(squared_magnitude(gradient, dtype), axis=inside)
        total = accumulator.astype(dtype) + sums / width
        accumulator = total.astype(accumulator.dtype)
        return self.precondition(gradient, accumulator, normalize), accumulator

    def precondition(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> jax.Array:
        """Divides each row by the root of what is remembered of it."""
        inside = _inside(gradient, accumulator)
        return normalize(gradient, jnp.expand_dims(accumulator, inside))


def _inside(gradient: jax.Array, accumulator: jax.Array) -> tuple[int, ...]:
    """The axes inside a row, also where rows of several axes are in one."""
    return tuple(range(accumulator.ndim, gradient.ndim))
