"""Gradients of which tables have only the rows that were read."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from adagrad_jax._precision import widest
from adagrad_jax._rows.choice import TableFilter
from adagrad_jax._rows.exchange import join
from adagrad_jax._rows.lookups import Read, evaluate
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.sharded import Plan, RowShardings, check_row_sharding, plan
from adagrad_jax._rows.trace import Call, as_positions
from adagrad_jax._rows.views import Table


def value_and_grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    tables: Literal["auto"] | TableFilter = "auto",
    row_sharding: RowShardings | None = None,
) -> Callable[..., tuple[Any, Any]]:
    r"""``jax.value_and_grad``, with a :class:`RowSparse` gradient for embedding tables.

    A leaf :math:`T` that ``fun`` reads only by whole rows, :math:`R_i =
    T[\text{ids}_i]`, has a gradient that is zero but in these rows:

    .. math::

        \nabla_T \text{fun} = \sum_i e_{\text{ids}_i} \otimes
            \frac{\partial\, \text{fun}}{\partial R_i}

    That sum is returned unsummed, as ids and values, so that no array of the table's
    size is made. Every other leaf gets an ordinary array. Row reads are ``table[ids]``,
    ``jnp.take(table, ids, axis=0)``, ``table.at[ids].get()``, ``lax.dynamic_slice``,
    and what Flax's ``Embed``, Equinox's ``Embedding``, Haiku's ``Embed`` and Keras'
    ``Embedding`` make of them, also inside ``jit``, ``vmap``, ``remat`` and ``scan``,
    and after the table was cast, sliced, reshaped, masked, put together with others.
    ``fun`` needs no change.

    A leaf that is also read otherwise (an output layer tied to the table), or goes into
    a function with a derivative rule of its own, gets an ordinary array too. So does
    one that is not read at all, or only at rows that the program fixes (``stack[0]``),
    or so small that an array is faster: of no more rows than ids are read, or of 1,024
    ids and more, of fewer than :math:`\text{ids} \cdot (1 + 96 / D)` rows of
    :math:`D` numbers.

    Args:
      fun: As for ``jax.value_and_grad``. It is traced as by ``jax.jit``, so its Python
        cannot depend on the values of what it is differentiated by.
      argnums: As for ``jax.value_and_grad``.
      has_aux: As for ``jax.value_and_grad``.
      holomorphic: As for ``jax.value_and_grad``.
      allow_int: As for ``jax.value_and_grad``.
      tables: Which leaves get a :class:`RowSparse`: "auto", as above, or a function
        ``(path, leaf) -> bool`` of the leaf's key path. A leaf so chosen gets one also
        if it is not read at all; if it cannot, that is an error.
      row_sharding: Where rows lie, if on several devices: an
        ``adagrad_jax.sharding.RowSharding`` for all tables, or a function ``(path,
        leaf) -> RowSharding | None``. Rows are then read, and their gradients summed,
        by an exchange among these devices, each of which handles its part of the ids
        (see docs/sharding.md). It implies rows: "auto" does not weigh, and what the
        function gives one for must be read by rows only. On a mesh with explicit axes
        types say where rows lie, without it.

    Returns:
      A function of the arguments of ``fun`` that returns its value (with ``has_aux`` a
      pair with the auxiliary data) and the gradients: equal to those of
      ``jax.value_and_grad`` but for the order in which duplicates are summed.

    Raises:
      TypeError: As ``jax.value_and_grad``; and if ``tables`` chooses a leaf that is not
        an array of floating-point or complex numbers, with an axis of rows.
      ValueError: If ``tables`` or ``row_sharding`` chooses a leaf whose gradient is
        not row-sparse: the message has its path, the primitive and the line of code
        that is the reason. If a leaf cannot lie as ``row_sharding`` says, or is known
        not to.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> params = {"table": jnp.ones((1000, 2)), "bias": jnp.zeros(2)}
      >>> def loss(params, ids):
      ...     rows = params["table"][ids]
      ...     return jnp.sum(rows**2) + 6 * jnp.sum(params["bias"])
      >>> value, gradients = aj.value_and_grad(loss)(params, jnp.array([3, 7, 3]))
      >>> print(value, gradients["bias"])
      6.0 [6. 6.]
      >>> gradients["table"]
      RowSparse(3 rows, shape=(1000, 2), dtype=float32)
      >>> print(gradients["table"].ids)
      [3 7 3]
    """
    if tables != "auto" and not callable(tables):
        raise TypeError(
            '`tables` must be "auto" or a function (path, leaf) -> bool, got '
            f"{tables!r}."
        )
    check_row_sharding(row_sharding)
    differentiate = functools.partial(
        jax.value_and_grad,
        argnums=(0, 1),
        has_aux=True,
        holomorphic=holomorphic,
        allow_int=allow_int,
    )
    positions = as_positions(argnums)

    @functools.wraps(fun)
    def value_and_grad_of_fun(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        call = Call.of(fun, positions, args, kwargs)
        planned = plan(call, has_aux, tables, row_sharding)
        value, gradients = _gradients(differentiate, planned)
        return value, call.unflatten(gradients)

    return value_and_grad_of_fun


def grad(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    has_aux: bool = False,
    holomorphic: bool = False,
    allow_int: bool = False,
    *,
    tables: Literal["auto"] | TableFilter = "auto",
    row_sharding: RowShardings | None = None,
) -> Callable[..., Any]:
    """``jax.grad``, with a :class:`RowSparse` gradient for embedding tables.

    Args:
      fun: As for :func:`value_and_grad`, like the other arguments.
      argnums: As there.
      has_aux: As there.
      holomorphic: As there.
      allow_int: As there.
      tables: As there.
      row_sharding: As there.

    Returns:
      A function of the arguments of ``fun`` that returns the gradients, with
      ``has_aux`` a pair of them and the auxiliary data.

    Raises:
      TypeError: As :func:`value_and_grad`.
      ValueError: As :func:`value_and_grad`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> def loss(table, ids):
      ...     return jnp.sum(table[ids] * table[ids + 1])
      >>> gradient = aj.grad(loss)(jnp.ones((1000, 1)), jnp.array([5, 6]))
      >>> print(gradient.ids, gradient.coalesce().values.T)
      [5 6 6 7] [[1. 2. 1. 0.]]
    """
    with_value = value_and_grad(
        fun,
        argnums,
        has_aux,
        holomorphic,
        allow_int,
        tables=tables,
        row_sharding=row_sharding,
    )

    @functools.wraps(fun)
    def grad_of_fun(*args: Any, **kwargs: Any) -> Any:
        value, gradients = with_value(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return grad_of_fun


def _gradients(
    differentiate: Callable[..., Any], planned: Plan
) -> tuple[Any, list[Any]]:
    """The value, and the gradient of each leaf.

    ``differentiate`` is ``jax.value_and_grad`` by two arguments, with auxiliary data.
    """
    traced, tables, uses = planned.traced, planned.tables, planned.choice.uses
    leaves = traced.leaves

    def value_of(dense: dict[int, Any], taps: list[jax.Array]) -> Any:
        args = [tables[i] if i in tables else dense[i] for i in range(len(leaves))]
        results, ids = evaluate(traced.jaxpr, args, uses, taps, traced.num_values)
        unchanged = {id(table.value) for table in tables.values()}
        computed = [result for result in results if id(result) not in unchanged]
        result = traced.unflatten(results)
        value, aux = result if traced.has_aux else (result, None)
        return value, (aux, ids, computed)

    dense = {i: leaf for i, leaf in enumerate(leaves) if i not in tables}
    taps = [read.tap() for read in uses.reads]
    (value, (aux, ids, computed)), (gradients, rows) = differentiate(value_of)(
        dense, taps
    )
    rows = _after(rows, (computed, gradients))
    reads = list(zip(uses.reads, ids, rows, strict=True))
    for i, table in tables.items():
        mine = [read for read in reads if read[0].table == i]
        gradients[i] = _row_sparse(table, mine)
    result = (value, aux) if traced.has_aux else value
    return result, [gradients[i] for i in range(len(leaves))]


def _after(rows: list[jax.Array], others: Any) -> list[jax.Array]:
    """``rows``, not to be used before ``others`` are computed.

    A table can be changed in place only after its last read, and what its gradient does
    not depend on (the loss, if it is linear) might read it later: XLA would copy it.
    """
    if not rows:
        return rows
    numbers = [
        leaf
        for leaf in jax.tree.leaves(others)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return lax.optimization_barrier((rows, numbers))[0]


def _row_sparse(
    table: Table, reads: list[tuple[Read, jax.Array, jax.Array]]
) -> RowSparse:
    """The gradient of ``table`` from the ids and the derivatives of each read."""
    parts = []
    for dtypes in dict.fromkeys(read.rounded_to for read, *_ in reads) or [()]:
        part = _entries(
            table,
            [(ids, rows) for read, ids, rows in reads if read.rounded_to == dtypes],
        )
        # Where the table was cast twice, its derivative is too.
        for dtype in (*reversed(dtypes), table.dtype):
            part = part.astype(dtype)
        parts.append(part)
    return sum(parts[1:], parts[0])


def _entries(table: Table, reads: list[tuple[jax.Array, jax.Array]]) -> RowSparse:
    """Of all reads, one after the other, as precise as the most precise of them."""
    axes = table.row_axes or 1
    row, real = table.shape[axes:], not jnp.issubdtype(table.dtype, jnp.complexfloating)
    nothing = jnp.zeros(0, jnp.int32), jnp.zeros((0, *row), table.dtype)
    parts = []
    for ids, rows in reads or [nothing]:
        rows = rows.reshape(*ids.shape, *row)
        parts.append((ids, rows.real if real else rows))
    # Not rounded to the table's dtype: their sums will be.
    dtype = widest(table.dtype, *(rows.dtype for _, rows in parts))
    parts = [(ids, rows.astype(dtype)) for ids, rows in parts]
    num_rows = math.prod(table.shape[:axes])
    ids, entries = join(parts, num_rows, table.row_sharding)
    return RowSparse.on_devices(ids, entries, table.shape, table.row_sharding)
