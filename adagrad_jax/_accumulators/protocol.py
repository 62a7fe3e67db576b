"""What Adagrad remembers of the gradients it has seen.

An accumulator is a small frozen object with two methods. ``init`` makes the memory of
one parameter; ``update`` adds a gradient to it and divides the gradient by the root of
what is now remembered. How that division is done (epsilon and its place, 0 / 0) is not
the accumulator's business: it is handed in as ``normalize``.

One that can also take a gradient of rows has a third method, ``update_rows``. Where the
memory of one row is apart from that of the others, :class:`RowAccumulator` has it.
"""

import abc
import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.normalize import Normalize
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import grouped, map_rows, replace_rows, rows_of


@runtime_checkable
class Accumulator(Protocol):
    """What the ``accumulator`` argument must offer. Instances must be hashable."""

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        """The memory of a parameter before any gradient; real, of any shape."""
        ...

    def update(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> tuple[jax.Array, Any]:
        """The normalized gradient, and the memory with the gradient added.

        The first has the gradient's shape and dtype, the second the accumulator's
        shapes and dtypes.
        """
        ...


@runtime_checkable
class TakesRows(Accumulator, Protocol):
    """An accumulator that takes :class:`RowSparse` gradients."""

    def update_rows(
        self, gradient: RowSparse, accumulator: Any, normalize: Normalize
    ) -> tuple[RowSparse, Any]:
        """What ``update`` does for ``gradient.to_dense()``."""
        ...


class RowAccumulator(abc.ABC):
    """An accumulator that keeps, for each row of a parameter, something of its own.

    To be derived from. Each array that ``init`` makes has the parameter's first axis,
    and ``update`` may be called with some rows of the gradient and the same rows of
    these arrays: so it can take a :class:`RowSparse` gradient, and only its rows are
    read and written.

    Where several axes name a row (``RowSparse.row_axes``) these arrays must have all of
    them, and ``update`` gets rows with one axis in their place.
    """

    @abc.abstractmethod
    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        """As in :class:`Accumulator`."""

    @abc.abstractmethod
    def update(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> tuple[jax.Array, Any]:
        """As in :class:`Accumulator`."""

    @abc.abstractmethod
    def precondition(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> jax.Array:
        """The first result of the ``update`` whose second was ``accumulator``."""

    def update_rows(
        self, gradient: RowSparse, accumulator: Any, normalize: Normalize
    ) -> tuple[RowSparse, Any]:
        """``update`` of the rows that are in ``gradient``."""
        gradient, kept = grouped(gradient), accumulator
        # Twice over the rows: what divides them is put off until they are used.
        kept = replace_rows(gradient, _Remember(self), kept, normalize)
        update = map_rows(gradient, _Precondition(self), rows_of(kept), normalize)
        return update, kept


# Not methods bound to an accumulator, which equal those of an equal one only if it is
# the same object: JAX would compile anew for each.


@dataclasses.dataclass(frozen=True)
class _Remember:
    of: RowAccumulator

    def __call__(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> Any:
        return self.of.update(gradient, accumulator, normalize)[1]


@dataclasses.dataclass(frozen=True)
class _Precondition:
    of: RowAccumulator

    def __call__(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> jax.Array:
        return self.of.precondition(gradient, accumulator, normalize)
