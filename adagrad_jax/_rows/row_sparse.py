"""The gradient of a table of which only some rows were read."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._precision import widest
from adagrad_jax._rows.exchange import (
    Arrived,
    arrive,
    entries_of,
    fold_arrived,
    join,
)
from adagrad_jax._rows.fold import (
    ROW_NUMBERS,
    Reduction,
    Stage,
    all_rows,
    before_all,
    fold,
    index_of,
    result_of,
    to_visit,
)
from adagrad_jax._rows.parts import check_inexact, check_parts, row_or_none, scalar
from adagrad_jax._rows.row_sharding import RowSharding
from adagrad_jax._rows.sums import Sums

if TYPE_CHECKING:
    from jax.experimental.sparse import BCOO


class _OpaqueType(type):
    """Lets JAX's own errors, which name a value's type and no more, say what to do."""

    def __repr__(cls) -> str:
        return (
            "adagrad_jax.RowSparse (cannot leave or enter jit, vmap, scan or cond, nor "
            "what has one inside, as optax.MultiSteps and optax.apply_if_finite have "
            "(adagrad_jax.apply_if_finite takes it): apply it inside, or pass "
            ".to_bcoo() or its .ids and .values. It is no array for jax.numpy: use the "
            "clips and the global_norm of adagrad_jax, or .to_dense(). Between devices "
            "use adagrad_jax.sharding.psum or pmean: jax.lax's would add up ids)"
        )


_NO_ARRAY = (
    "a RowSparse is no array, and what was tried with it needs one: scalar factors and "
    "sums are all that it takes part in. adagrad_jax.global_norm(gradients) is its "
    "norm, .to_dense() an ordinary array, as large as the table."
)

_DENSE_SUM = (
    "RowSparse + array would be an array as large as the table, and so would be all "
    "that is made of it. For weight decay use adagrad_jax.add_decayed_weights or "
    "lazy_weight_decay; for momentum and the like write .to_dense() + array. (array + "
    "RowSparse, a table and its update, adds to the table's rows.)"
)


class RowSparse(metaclass=_OpaqueType):
    r"""A table-shaped array that is zero but for some rows.

    .. math::

        \text{dense}[r] = \sum_{i : \text{ids}[i] = r} \text{values}[i]

    Rows are those of the first axis, or of several first axes, as for ``L`` tables in
    one array ``(L, V, D)``: how many is told by the axes that are left in ``values``.
    Then ids count all of their rows, row-major: row ``v`` of table ``l`` has the id
    ``l * V + v``.

    What :func:`value_and_grad` returns for a table that was read by rows. It is a leaf,
    **not a pytree**, so that code which does not know it cannot mistake ids for
    numbers: such code raises. Code that is linear in gradients works: it may be
    multiplied and divided by scalars, negated, and added to another. ``array +
    RowSparse`` is an array: ``optax.apply_updates`` adds so to a table, and inside
    ``jax.jit`` with the table donated only its rows are written. ``RowSparse + array``,
    which would make a gradient as large as its table, raises.

    For the same reason it cannot cross the boundary of ``jax.jit``, ``jax.vmap`` or
    ``jax.lax.scan``: there pass :meth:`to_bcoo`, or ``ids`` and ``values``.

    Args:
      ids: ``(n,)`` integers, rows of the table in any order; repeated ones are added
        up. Those outside ``[0, num_rows)`` name no row, and their values are dropped;
        negative ones do not count from the end.
      values: ``(n, *shape[row_axes:])``, what is added to each of these rows;
        ``row_axes``, at least 1, is what fits.
      shape: The table's shape, of at least one axis.

    Raises:
      TypeError: If ``ids`` are not integers, or ``values`` neither floating-point nor
        complex.
      ValueError: If the shapes do not fit.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> gradient = aj.RowSparse([2, 0, 2], jnp.array([[1.0], [2.0], [3.0]]), (4, 1))
      >>> print((0.5 * gradient).to_dense().T)
      [[1. 0. 2. 0.]]
      >>> of_two_tables = aj.RowSparse([3 + 1], jnp.array([[5.0]]), (2, 3, 1))
      >>> print(of_two_tables.row_axes, of_two_tables.to_dense()[1].T)
      2 [[0. 5. 0.]]
    """

    # NumPy's scalars and arrays leave arithmetic with us to us.
    __array_ufunc__ = None

    def __init__(
        self, ids: ArrayLike | Sequence[int], values: ArrayLike, shape: tuple[int, ...]
    ) -> None:
        # Not jnp.asarray(ids), which would wrap 64-bit ids around to other rows.
        if not isinstance(ids, jax.Array):
            # NumPy takes an empty list for one of floating-point numbers.
            empty = isinstance(ids, list | tuple) and not ids
            ids = np.asarray(ids, np.int32 if empty else None)
        values, shape = jnp.asarray(values), tuple(shape)
        check_parts(ids, values, shape)
        self.shape = shape
        self.row_axes: int = len(shape) - values.ndim + 1
        # Of the rows as they will be, and of the sums that they are made of. Entries
        # may be more precise: only their sums are rounded.
        self.dtype: jnp.dtype = values.dtype
        self._sum_dtype = self.dtype
        self._ids = row_or_none(ids, self.num_rows)
        self._entries = values
        # Known once the entries have been grouped by row, and what to do to each row's
        # sum after that: put off until the row is visited, a block of rows at a time.
        self._grouped: Sums | Arrived | None = None
        self._stages: tuple[Stage, ...] = ()
        # Where the table's rows lie, if they do so on several devices.
        self.row_sharding: RowSharding | None = None

    @classmethod
    def on_devices(
        cls,
        ids: jax.Array,
        values: jax.Array,
        shape: tuple[int, ...],
        row_sharding: RowSharding | None,
    ) -> "RowSparse":
        """Of a table whose rows lie so."""
        result = cls(ids, values, shape)
        result.row_sharding = row_sharding
        return result

    @property
    def ids(self) -> jax.Array:
        """``(n,)`` int32; :attr:`num_rows` stands for no row."""
        return self._materialized()._ids

    @property
    def values(self) -> jax.Array:
        """``(n, *shape[row_axes:])``, as precise as the rows were read."""
        return self._materialized()._entries

    @property
    def num_rows(self) -> int:
        """How many rows the table has: those along its first :attr:`row_axes` axes."""
        return math.prod(self.shape[: self.row_axes])

    @property
    def ndim(self) -> int:
        """The number of the table's axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of the table's elements."""
        return int(np.prod(self.shape))

    def __repr__(self) -> str:
        axes = f"row_axes={self.row_axes}, " if self.row_axes > 1 else ""
        return (
            f"RowSparse({self._ids.size} rows, {axes}shape={self.shape}, "
            f"dtype={self.dtype})"
        )

    def __format__(self, spec: str) -> str:
        # So errors of others, such as Optax's own Adagrad, write what they refuse.
        return f"{self!r} (adagrad_jax's transformations take it, others .to_dense())"

    def coalesce(self) -> "RowSparse":
        """The same with each row once, in ascending order.

        The length of ``ids`` and ``values`` stays static, as ``jax.jit`` needs it, so
        after the distinct rows there may follow ids of :attr:`num_rows` with zeros.

        Example:
          >>> import adagrad_jax as aj, jax.numpy as jnp
          >>> values = jnp.array([[1.0], [2.0], [3.0]])
          >>> once = aj.RowSparse([2, 0, 2], values, (4, 1)).coalesce()
          >>> print(once.ids, once.values.T)
          [0 2 4] [[2. 4. 0.]]
        """
        rows = self.summed()
        # Rows out of range, which come last, are the only ones that may be too many.
        n = self._ids.size
        most = n if is_symbolic_dim(n) else min(n, self.num_rows)
        order = jnp.argsort(rows._ids)[:most]
        return self._of(rows._ids[order], rows._entries[order])

    def to_dense(self) -> jax.Array:
        """An ordinary array, as large as the table."""
        return jnp.zeros(self.shape, self.dtype) + self

    def to_bcoo(self) -> "BCOO":
        """A ``jax.experimental.sparse.BCOO``, a pytree, which may cross ``jax.jit``.

        It is sparse in the axes that name a row, and dense in the others.

        Of :attr:`values`: where they are more precise than the table, say so again
        behind it: ``RowSparse.from_bcoo(x).astype(table.dtype)``.
        """
        ids, rows = self.ids, self.shape[: self.row_axes]
        index = index_of(ids, rows)
        # BCOO has the axis' length in each of the axes for what names nothing.
        none = ids >= self.num_rows
        columns = [jnp.where(none, n, i) for n, i in zip(rows, index, strict=True)]
        from jax.experimental.sparse import BCOO  # which takes long

        return BCOO((self.values, jnp.stack(columns, axis=1)), shape=self.shape)

    @classmethod
    def from_bcoo(cls, array: "BCOO") -> "RowSparse":
        """From a BCOO whose first axes are sparse and whose others are dense.

        Raises:
          ValueError: If ``array`` has batch axes, or no sparse axis.
        """
        if array.n_batch != 0 or array.n_sparse == 0:
            raise ValueError(
                "a BCOO must have n_batch=0 and n_sparse at least 1, to be sparse in "
                "its rows and dense inside them, got "
                f"n_batch={array.n_batch} and n_sparse={array.n_sparse}; "
                "BCOO.fromdense(x, n_dense=x.ndim - 1) makes one, and "
                "array.todense() is an ordinary gradient."
            )
        rows = array.shape[: array.n_sparse]
        index = [array.indices[:, axis] for axis in range(array.n_sparse)]
        ids, *others = map(row_or_none, index, rows)
        named = ids < rows[0]
        for size, of_axis in zip(rows[1:], others, strict=True):
            ids, named = ids * size + of_axis, named & (of_axis < size)
        ids = jnp.where(named, ids, math.prod(rows))
        return cls(ids, array.data, array.shape)

    def astype(self, dtype: DTypeLike) -> "RowSparse":
        """The same in another dtype, to which the sum of each row is rounded once."""
        like = jnp.zeros((), dtype)
        check_inexact("dtype", like.dtype)
        if self.dtype == like.dtype:
            return self
        if self._grouped is not None or self.dtype != self._entries.dtype:
            return self._put_off(_convert, like)
        # Entries are left as precise as they are.
        result = copy.copy(self)
        result._entries = self._entries.astype(widest(self.dtype, like.dtype))
        result.dtype = result._sum_dtype = like.dtype
        return result

    def __neg__(self) -> "RowSparse":
        return self * -1

    def __mul__(self, factor: Any) -> "RowSparse":
        return self._each_row(_multiply, scalar("multiplied", factor))

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> "RowSparse":
        return self._each_row(_divide, scalar("divided", divisor))

    def __add__(self, other: Any) -> Any:
        if isinstance(other, RowSparse):
            return self._joined(other)
        if isinstance(other, jax.Array | np.ndarray):
            raise TypeError(_DENSE_SUM)
        if isinstance(other, int) and other == 0:  # where sum() begins
            return self
        if isinstance(other, int | float | complex | np.generic):
            raise TypeError(_NO_ARRAY)
        return NotImplemented

    def __radd__(self, other: Any) -> Any:
        if isinstance(other, jax.Array | np.ndarray):
            return self._added_to(jnp.asarray(other))
        return self + other

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return other + (-self)

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(
            "a RowSparse can neither be compared nor be true or false; do so with "
            ".to_dense(), or with its .ids and .values."
        )

    __eq__: Callable[..., Any] = _refuse
    __ne__: Callable[..., Any] = _refuse
    __bool__: Callable[..., Any] = _refuse
    __lt__: Callable[..., Any] = _refuse
    __le__: Callable[..., Any] = _refuse
    __gt__: Callable[..., Any] = _refuse
    __ge__: Callable[..., Any] = _refuse

    def _no_array(self, *_: Any, **__: Any) -> Any:
        raise TypeError(_NO_ARRAY)

    __array__: Callable[..., Any] = _no_array
    __getitem__: Callable[..., Any] = _no_array
    __iter__: Callable[..., Any] = _no_array
    __len__: Callable[..., Any] = _no_array
    __abs__: Callable[..., Any] = _no_array
    __pow__: Callable[..., Any] = _no_array
    __rpow__: Callable[..., Any] = _no_array
    __matmul__: Callable[..., Any] = _no_array
    __rmatmul__: Callable[..., Any] = _no_array
    __rtruediv__: Callable[..., Any] = _no_array

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no attribute {name!r}: {_NO_ARRAY}")

    def __hash__(self) -> int:
        return object.__hash__(self)

    def then(self, function: Callable[..., jax.Array], *operands: Any) -> "RowSparse":
        """Each row's sum, as ``function(rows, ids, *operands)`` makes it of the sums.

        It is not computed here but where the rows are used, a few at a time; so
        ``function``, hashable, may see any number of rows ``(k, ...)`` with their ids
        ``(k,)``, and some rows that stand for none, with an id in range: what it makes
        of these is dropped.
        """
        return self._put_off(function, ROW_NUMBERS, *operands)

    def visited(
        self,
        function: Callable[..., tuple[Any, Any, Any]],
        reduction: Reduction,
        tables: Any,
        operands: tuple[Any, ...] = (),
        adds: bool = False,
    ) -> tuple[Any, Any, Any]:
        """:class:`Visited`, by :class:`Visit`; other rows as a :class:`RowSparse`."""
        what = function, reduction, tables, operands, adds
        visit, operands = to_visit(self._stages, *what)
        grouped = self._group()
        if isinstance(grouped, Arrived):
            mapped, *others = fold_arrived(visit, grouped, tables, operands)
        else:
            visit_rows = fold if self.num_rows else before_all
            mapped, *others = visit_rows(visit, grouped, tables, operands)
            if isinstance(mapped, jax.Array):
                mapped = replace(grouped, rows=mapped, dtype=mapped.dtype)
        return self._with(mapped), *others

    def _with(self, grouped: Any) -> Any:
        """The same table's, with other rows; or what is none."""
        if not isinstance(grouped, Sums | Arrived):
            return grouped
        result = copy.copy(self)
        result._grouped, result._stages = grouped, ()
        first = grouped.first if isinstance(grouped, Arrived) else grouped
        result.dtype = result._sum_dtype = first.dtype
        return result

    def with_values(self, values: jax.Array) -> "RowSparse":
        """The same, with others in the place of its :attr:`values`."""
        return self._of(self.ids, values).astype(self.dtype)

    def summed(self) -> "RowSparse":
        """The same with each row once, in any order; see :meth:`coalesce`."""
        return self.grouped()._materialized()

    def grouped(self) -> "RowSparse":
        """The same, with its rows found and summed, once for all visits."""
        result = copy.copy(self)
        result._grouped = self._group()
        return result

    def _group(self) -> Sums | Arrived:
        """The sums of its rows, at the devices that have these."""
        if self._grouped is not None:
            return self._grouped
        how = self.num_rows, self.row_axes, self._sum_dtype
        if self.row_sharding is not None:
            return arrive(self._ids, self._entries, *how, self.row_sharding)
        return Sums.of(self._ids, self._entries, *how)

    def _of(self, ids: jax.Array, values: jax.Array) -> "RowSparse":
        """Other entries, of the same table."""
        return RowSparse.on_devices(ids, values, self.shape, self.row_sharding)

    def _materialized(self) -> "RowSparse":
        """The same, with nothing left to be done to its rows, nor to group them."""
        if self._grouped is None:
            return self
        if isinstance(self._grouped, Arrived):
            mapped, _, _ = self.visited(_same, "sum", ())
            return self._of(*entries_of(mapped._grouped))
        ids, rows = self._grouped.distinct.ids, all_rows(self._grouped, self._stages)
        named = jnp.expand_dims(ids < self.num_rows, range(1, rows.ndim))
        return RowSparse(ids, jnp.where(named, rows, 0), self.shape)

    def _each_row(self, function: Callable[..., jax.Array], operand: Any) -> Any:
        """Of a function that is linear: of each entry, where nothing is put off."""
        if self._grouped is not None or self.dtype != self._entries.dtype:
            return self._put_off(function, operand)
        return self._of(self._ids, function(self._entries, operand))

    def _put_off(
        self, function: Callable[..., jax.Array], *operands: Any
    ) -> "RowSparse":
        """With a function still to be applied to the sum of each row."""
        result = self.grouped()
        result.dtype = self._result_of(function, operands).dtype
        result._stages = (*result._stages, (function, operands))
        return result

    def _result_of(
        self, function: Callable[..., Any], operands: tuple[Any, ...]
    ) -> Any:
        """What a function of rows gives of one."""
        row = jax.ShapeDtypeStruct((1, *self.shape[self.row_axes :]), self.dtype)
        return result_of(function, row, self.row_axes, operands)

    def _joined(self, other: "RowSparse") -> "RowSparse":
        if self.shape != other.shape:
            raise ValueError(
                "RowSparse arrays can be added if they are of one shape, got "
                f"{self.shape} and {other.shape}."
            )
        axes = max(self.row_axes, other.row_axes)
        parts = [part._materialized()._of_smaller_rows(axes) for part in (self, other)]
        wide = widest(*(part._entries.dtype for part in parts))
        pairs = [(part._ids, part._entries.astype(wide)) for part in parts]
        by_rows = self.row_sharding or other.row_sharding
        ids, values = join(pairs, math.prod(self.shape[:axes]), by_rows)
        total = RowSparse.on_devices(ids, values, self.shape, by_rows)
        return total.astype(widest(*(part.dtype for part in parts)))

    def _of_smaller_rows(self, row_axes: int) -> "RowSparse":
        """The same, with ids for the rows in each row, of ``row_axes`` axes."""
        if row_axes == self.row_axes:
            return self
        inside = math.prod(self.shape[self.row_axes : row_axes])
        named = self._ids[:, None] < self.num_rows
        ids = self._ids[:, None] * inside + jnp.arange(inside, dtype=jnp.int32)[None]
        ids = jnp.where(named, ids, self.num_rows * inside).ravel()
        values = self._entries.reshape(-1, *self.shape[row_axes:])
        return self._of(ids, values).astype(self.dtype)

    def _added_to(self, dense: jax.Array) -> jax.Array:
        if dense.shape != self.shape:
            raise ValueError(
                f"a RowSparse of shape {self.shape} cannot be added to an array of "
                f"shape {dense.shape}: it does not broadcast; .to_dense() does."
            )
        zero = jax.ShapeDtypeStruct((), self.dtype)
        dtype = jax.eval_shape(jnp.add, dense, zero).dtype
        return self.added_to(dense.astype(dtype))

    def added_to(self, table: jax.Array) -> jax.Array:
        """``table``, with its dtype, and these rows added to its own."""
        return self.visited(_given, "sum", table, adds=True)[1]


def _same(rows: jax.Array, tables: Any) -> tuple[jax.Array, Any, Any]:
    return rows, tables, ()


def _given(rows: jax.Array, table: jax.Array) -> tuple[Any, jax.Array, Any]:
    return (), rows, ()


def _multiply(rows: jax.Array, factor: ArrayLike) -> jax.Array:
    return rows * factor


def _divide(rows: jax.Array, divisor: ArrayLike) -> jax.Array:
    return rows / divisor


def _convert(rows: jax.Array, like: jax.Array) -> jax.Array:
    return rows.astype(like.dtype)
