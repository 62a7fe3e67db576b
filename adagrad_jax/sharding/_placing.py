"""Where the arrays of a training go, and how they come back, whole or larger."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from adagrad_jax._rows.row_sharding import RowSharding, check_is_one
from adagrad_jax._states import Path, kept_anywhere
from adagrad_jax._trees import at

TableFilter = Callable[[Path, Any], bool]


def shard_rows(
    tree: Any,
    row_sharding: RowSharding,
    tables: TableFilter,
    *,
    params: Any = None,
) -> Any:
    """Tables by rows, each device a block of them, and all else whole on every device.

    Of a state, what is kept of a table's rows lies as the table does: accumulators of
    all kinds, averages, sums of gradients, also inside what ``optax.chain``,
    ``partition`` and the like put around it. Counts, and what is kept of a table as a
    whole, such as ``Norm`` does, are on every device.

    Args:
      tree: Parameters, or with ``params`` the state that an ``init`` made for them; of
        arrays, NumPy's too, or of ``jax.ShapeDtypeStruct``.
      row_sharding: Which device has which rows.
      tables: ``(path, leaf) -> bool``, which of the parameters are tables, by the key
        path and the parameter.
      params: For a state, the parameters that it was made for, or their
        ``jax.ShapeDtypeStruct``.

    Returns:
      The tree, of arrays that lie so. Of ``jax.ShapeDtypeStruct``, the tree of
      their shardings: for ``out_shardings`` of a jitted ``init`` and for restoring a
      checkpoint, where what fits no single device must be made in its place.

    Raises:
      TypeError: If ``row_sharding`` is something else.
      ValueError: If the devices do not divide a table's number of rows, with the number
        to round it up to; if ``tables`` chooses nothing; if ``tree`` keeps nothing of
        ``params``.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> mesh = jax.make_mesh((4,), ("rows",))
      >>> by_rows = aj.sharding.RowSharding(mesh, "rows")
      >>> def is_table(path, leaf):
      ...     return leaf.ndim == 2
      >>> params = {"table": jnp.ones((1000, 2)), "bias": jnp.zeros(2)}
      >>> params = aj.sharding.shard_rows(params, by_rows, is_table)
      >>> print(params["table"].sharding.spec, params["bias"].sharding.spec)
      P('rows',) P()
      >>> init = aj.adagrad().init
      >>> shapes = jax.eval_shape(init, params)
      >>> lie = aj.sharding.shard_rows(shapes, by_rows, is_table, params=params)
      >>> state = jax.jit(init, out_shardings=lie)(params)
      >>> print(state[0].accumulator["table"].sharding.spec)
      P('rows',)
    """
    check_is_one(row_sharding)
    chosen = _chosen(tree if params is None else params, row_sharding, tables)
    if params is None:
        by_rows = set(chosen)
    else:
        by_rows = _kept_by_rows(tree, params, chosen)
    everywhere = NamedSharding(row_sharding.mesh, PartitionSpec())

    def sharding_of(path: Path, leaf: Any) -> NamedSharding:
        return row_sharding.sharding(leaf) if path in by_rows else everywhere

    shardings = jax.tree_util.tree_map_with_path(sharding_of, tree)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(tree)):
        return shardings
    return jax.device_put(tree, shardings)


def gather_rows(tree: Any) -> Any:
    """Each array whole, as one of NumPy's in this host's memory: for serving.

    In a program of several processes all of them must call it, and each gets all.

    Args:
      tree: Of arrays, sharded or not.

    Returns:
      A tree like it, of NumPy arrays.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> by_rows = aj.sharding.RowSharding(jax.make_mesh((4,), ("rows",)), "rows")
      >>> params = {"table": jnp.arange(8.0).reshape(8, 1)}
      >>> params = aj.sharding.shard_rows(params, by_rows, lambda path, leaf: True)
      >>> print(aj.sharding.gather_rows(params)["table"].T)
      [[0. 1. 2. 3. 4. 5. 6. 7.]]
    """

    def gather(x: Any) -> np.ndarray[Any, Any]:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            from jax.experimental import multihost_utils  # which takes long

            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return jax.tree.map(gather, tree)


def grow_rows(tree: Any, larger: Any) -> Any:
    r"""``larger`` with the numbers of ``tree`` where that has a place for them.

    For tables that get more rows, and what is kept of them: how new rows begin is what
    ``larger`` says, which ``init`` makes of the larger parameters. Of a table
    :math:`T` of :math:`V` rows and a larger one :math:`L` it is

    .. math::

        T_r \text{ if } r < V \text{, else } L_r

    so also for tables whose number of rows other devices do not divide.

    Args:
      tree: Parameters or a state, of JAX's arrays on the devices of ``larger``, or of
        NumPy's, as :func:`gather_rows` and a checkpoint give them.
      larger: A tree like it, of arrays that may be larger along any axis.

    Returns:
      Arrays of the shapes of ``larger``, which lie as those do.

    Raises:
      ValueError: If the trees differ, or an array is of more axes, smaller along one,
        or of another dtype.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad()
      >>> table = jnp.ones((2, 1))
      >>> _, state = optimizer.update(table, optimizer.init(table), table)
      >>> state = aj.sharding.grow_rows(state, optimizer.init(jnp.ones((3, 1))))
      >>> print(state.accumulator.T)
      [[1.1 1.1 0.1]]
    """
    _check_larger(tree, larger)
    return jax.tree.map(_grown, tree, larger)


def _chosen(
    params: Any, row_sharding: RowSharding, tables: TableFilter
) -> dict[Path, Any]:
    """The tables among parameters, by their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    chosen = {path: leaf for path, leaf in leaves if tables(path, leaf)}
    for path, leaf in chosen.items():
        try:
            row_sharding.sharding(leaf)
        except ValueError as error:
            raise ValueError(f"table {at(path)}: {error}") from error
    if not chosen:
        paths = ", ".join(at(path) for path, _ in leaves)
        raise ValueError(
            f"`tables` must choose a parameter that is to be sharded by rows, of those "
            f"{paths}; jax.device_put places a tree without one."
        )
    return chosen


def _kept_by_rows(tree: Any, params: Any, chosen: dict[Path, Any]) -> set[Path]:
    """Where a state has something for each row of the tables chosen."""
    kept = list(kept_anywhere(tree, params))
    if not kept:
        raise ValueError(
            "`tree` must be a state that was made for `params`, but it has nothing "
            "with their keys in it; of parameters themselves, leave `params` out."
        )
    return {
        (*place, *path)
        for of, _, value, place in kept
        for path, leaf in jax.tree_util.tree_leaves_with_path(value)
        if of in chosen and np.shape(leaf)[:1] == np.shape(chosen[of])[:1]
    }


def _check_larger(tree: Any, larger: Any) -> None:
    if jax.tree.structure(tree) != jax.tree.structure(larger):
        raise ValueError(
            "`tree` and `larger` must be alike but for their arrays, got "
            f"{jax.tree.structure(tree)} and {jax.tree.structure(larger)}; make both "
            "by the same `init`."
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(larger), strict=True
    )
    for (path, old), new in pairs:
        shape, room = np.shape(old), np.shape(new)
        if len(shape) != len(room) or any(np.greater(shape, room)):
            raise ValueError(
                f"the array {at(path)} of shape {shape} has no room in one of shape "
                f"{room}; give `larger` at least as many rows."
            )
        if jnp.asarray(old).dtype != jnp.asarray(new).dtype:
            raise ValueError(
                f"the array {at(path)} of dtype {old.dtype} would be rounded to "
                f"{new.dtype}; make `larger` of the same dtypes."
            )


def _grown(old: Any, new: Any) -> jax.Array:
    new, shape = jnp.asarray(new), np.shape(old)
    if not isinstance(old, jax.Array):
        # No device has room for all of it: it goes where the new rows are.
        padded = np.zeros(new.shape, new.dtype)
        padded[tuple(map(slice, shape))] = old
        old = jax.device_put(padded, new.sharding)
    put = jax.jit(_put_over, static_argnums=2, out_shardings=new.sharding)
    return put(old, new, shape)


def _put_over(old: jax.Array, new: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The numbers of ``old`` up to ``shape``, beyond that those of ``new``."""
    room = [(0, n - m, 0) for n, m in zip(new.shape, old.shape, strict=True)]
    old = lax.pad(old, jnp.zeros((), old.dtype), room)
    is_old = jnp.ones(new.shape, bool)
    for axis, size in enumerate(shape):
        is_old &= lax.broadcasted_iota(jnp.int32, new.shape, axis) < size
    return jnp.where(is_old, old, new)
