"""Sums and means over devices, of trees that may have gradients of rows in them."""

from typing import Any, TypeVar

import jax
from jax import lax

from adagrad_jax._rows.reduction import AxisName, sum_over
from adagrad_jax._rows.row_sparse import RowSparse

Tree = TypeVar("Tree")


def psum(tree: Tree, axis_name: AxisName) -> Tree:
    r"""``jax.lax.psum``, which also takes :class:`RowSparse` gradients.

    For the bodies of ``jax.shard_map`` and ``jax.pmap``. Of the gradients :math:`G_d`
    of all devices :math:`d` along the named axes it is

    .. math::

        \sum_d G_d

    on each of them. For a :class:`RowSparse` every device sends its distinct rows to
    all others: at most as many as it has ids, never an array of the table's size. Rows
    that several devices have are added up as duplicates on one device are: in the
    precision in which they were read, and rounded to the table's dtype once.

    Args:
      tree: Arrays and :class:`RowSparse` gradients, which have the same number of ids
        on each device (a RowSparse pads with ids that name no row).
      axis_name: The name of a mapped axis, or a tuple of names.

    Returns:
      A tree like it, the same on all devices along these axes. Where ``shard_map``
      checks what varies (``check_vma``), its types say so.

    Raises:
      NameError: If there is no such axis, as outside of ``shard_map``.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> auto = (jax.sharding.AxisType.Auto,)
      >>> mesh = jax.make_mesh((2,), ("data",), axis_types=auto)
      >>> def body(ids):
      ...     rows = aj.RowSparse(ids, jnp.ones((ids.size, 1)), (4, 1))
      ...     return aj.sharding.psum(rows, "data").to_dense()
      >>> summed = jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=P())
      >>> print(summed(jnp.array([0, 2, 2, 2])).T)
      [[1. 0. 3. 0.]]
    """
    return _reduced(tree, axis_name, mean=False)


def pmean(tree: Tree, axis_name: AxisName) -> Tree:
    r"""``jax.lax.pmean``, which also takes :class:`RowSparse` gradients.

    Of the gradients of a loss that is a mean over the examples, of which each of the
    :math:`N` devices has equally many, it is the gradient of the whole batch's loss:

    .. math::

        \frac{1}{N} \sum_d G_d

    Where ``shard_map`` checks what varies (``check_vma``), a parameter that is the same
    on all devices has a gradient that is summed over them already, and is never
    row-sparse. Say before differentiating that each device has its own:
    ``params = jax.lax.pcast(params, "data", to="varying")``.

    Args:
      tree: As for :func:`psum`.
      axis_name: As there.

    Returns:
      As there.

    Raises:
      NameError: As :func:`psum`.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> def body(ids):
      ...     rows = aj.RowSparse(ids, jnp.ones((ids.size, 1)), (4, 1))
      ...     return aj.sharding.pmean(rows, "data").to_dense()
      >>> means = jax.pmap(body, axis_name="data")(jnp.array([[0, 2], [2, 2]]))
      >>> print(means[0].T)
      [[0.5 0.  1.5 0. ]]
    """
    return _reduced(tree, axis_name, mean=True)


def _reduced(tree: Any, axis_name: AxisName, *, mean: bool) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    by_rows = [isinstance(leaf, RowSparse) for leaf in leaves]
    # All arrays in one call: one message instead of many.
    dense = [x for x, rows in zip(leaves, by_rows, strict=True) if not rows]
    dense = iter((lax.pmean if mean else lax.psum)(dense, axis_name))
    return structure.unflatten(
        sum_over(x, axis_name, mean=mean) if rows else next(dense)
        for x, rows in zip(leaves, by_rows, strict=True)
    )
