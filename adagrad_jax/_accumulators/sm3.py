"""One accumulator per row, one per column: memory that grows with the axes' lengths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import InDType, along_axes, full_like
from adagrad_jax._accumulators.normalize import Normalize
from adagrad_jax._precision import at_least_float32, squared_magnitude
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import map_replace_and_total
from adagrad_jax._trees import LeafError


@dataclasses.dataclass(frozen=True)
class SM3(InDType):
    r"""One accumulator for each index of each axis: SM3-II, a cover of Adagrad's.

    .. math::

        \nu_t[i, j] = \min(r_{t-1}[i], c_{t-1}[j]) + |g_t[i, j]|^2, \qquad
        r_t[i] = \max_j \nu_t[i, j], \qquad c_t[j] = \max_i \nu_t[i, j]

    for a matrix, with a vector for each axis of any array in the same way. The gradient
    is divided by the root of :math:`\nu_t`, which is at least :class:`Diagonal`'s sum
    of squares and near it where rows and columns are alike: an :math:`m \times n`
    matrix has :math:`m + n` accumulators. For parameters of one axis it is
    :class:`Diagonal`.

    Bounds are shared, and so is a NaN: from one number it spreads to its row and
    column, and from there to the leaf.

    The memory of a leaf is a tuple of vectors, one per axis; all of them start at
    ``initial_accumulator_value``. A row without gradient changes none of them, so a
    :class:`RowSparse` gradient gives what its dense form gives, for the cost of its
    rows.

    Args:
      dtype: As in :class:`Diagonal`.

    Raises:
      TypeError: If ``dtype`` is none of those.
      ValueError: In ``update``, if a :class:`RowSparse` gradient's rows are named by
        more than one axis.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.SM3())
      >>> gradient = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> _, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> rows, columns = state.accumulator
      >>> print(rows, columns)
      [9. 1.] [9. 1.]

    References:
      Anil, Gupta, Koren and Singer, "Memory-Efficient Adaptive Optimization", NeurIPS
      2019, Algorithm SM3-II.
    """

    def init(
        self, param: jax.Array, initial_accumulator_value: ArrayLike
    ) -> tuple[jax.Array, ...]:
        """A vector for each axis, sharded like it; for a number, one number."""
        dtype = self._dtype_of(param)
        along = [along_axes(param, [axis]) for axis in range(jnp.ndim(param))] or [
            param
        ]
        return tuple(full_like(x, initial_accumulator_value, dtype) for x in along)

    def update(
        self,
        gradient: jax.Array,
        accumulator: tuple[jax.Array, ...],
        normalize: Normalize,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Divides by the root of the least bound, then takes the largest as bounds."""
        sums = _sums(gradient, accumulator)
        largest = [
            # Not just the maximum: there may be nothing to take it of.
            jnp.maximum(vector, jnp.max(sums, axis=others, initial=0))
            for vector, others in zip(accumulator, _other_axes(gradient), strict=True)
        ]
        return normalize(gradient, sums), tuple(largest)

    def update_rows(
        self,
        gradient: RowSparse,
        accumulator: tuple[jax.Array, ...],
        normalize: Normalize,
    ) -> tuple[RowSparse, tuple[jax.Array, ...]]:
        """The same of the rows in ``gradient``: others would change no bound.

        That is so because each bound was reached by some number of its row or column,
        whose other bounds are no less.
        """
        if gradient.row_axes > 1:
            raise LeafError(
                f"SM3() takes rows of the first axis, got a RowSparse of shape "
                f"{gradient.shape} whose rows are named by {gradient.row_axes} axes, "
                "which share the bounds along each; use RowWise(row_axes="
                f"{gradient.row_axes}) or Diagonal() for this leaf (optax.partition), "
                "or give it .to_dense()."
            )
        of_rows, *of_others = accumulator
        update, of_rows, largest = map_replace_and_total(
            gradient, _Update(self), "max", of_rows, of_others, normalize
        )
        return update, (of_rows, *map(jnp.maximum, of_others, largest))


@dataclasses.dataclass(frozen=True)
class _Update:
    of: SM3

    def __call__(
        self,
        gradient: jax.Array,
        of_rows: jax.Array,
        of_others: list[jax.Array],
        normalize: Normalize,
    ) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
        """Of some rows; and for each the largest sums along the other axes."""
        accumulator = (of_rows, *of_others)
        update, (new, *_) = self.of.update(gradient, accumulator, normalize)
        sums = _sums(gradient, accumulator)
        others = _other_axes(gradient)[1:]
        return update, new, [jnp.max(sums, axis=axes[1:], initial=0) for axes in others]


def _sums(gradient: jax.Array, accumulator: tuple[jax.Array, ...]) -> jax.Array:
    """Each number's square on the least bound of the lines through it."""
    dtype = at_least_float32(gradient.dtype, *(a.dtype for a in accumulator))
    bounds = [
        jnp.expand_dims(vector.astype(dtype), others)
        for vector, others in zip(accumulator, _other_axes(gradient), strict=True)
    ]
    squares = squared_magnitude(gradient, dtype)
    # What divides is rounded as what is kept is.
    kept_in = accumulator[0].dtype
    return (functools.reduce(jnp.minimum, bounds) + squares).astype(kept_in)


def _other_axes(gradient: jax.Array) -> list[tuple[int, ...]]:
    """For each axis all others; a single number has one line, too."""
    axes = range(gradient.ndim)
    return [tuple(other for other in axes if other != axis) for axis in axes] or [()]
