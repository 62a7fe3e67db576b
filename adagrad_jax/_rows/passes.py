"""How often devices must send, for given ids."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh
from jax.typing import ArrayLike

from adagrad_jax._rows.distinct import find_distinct
from adagrad_jax._rows.exchange import Exchange, Queue, split_evenly
from adagrad_jax._rows.parts import row_or_none
from adagrad_jax._rows.row_sharding import RowSharding, check_is_one


def num_passes(ids: ArrayLike, num_rows: int, row_sharding: RowSharding) -> jax.Array:
    r"""How many passes it takes to exchange the rows of a batch's ids: for tuning.

    Each pass moves buffers of ``capacity`` times the even share of a device's ids, so
    what a device sends for reading and for updating is in proportion to the passes. It
    is 1 at best, 0 if there is nothing to send, as on a mesh of one device. Larger
    numbers say that ids crowd on few owners, as when a table's rows are in the order of
    how often they are read: then raise ``capacity``, or spread them, say by reading row
    :math:`(a \cdot \text{id}) \bmod V` for an odd :math:`a`, where :math:`V` is a power
    of two.

    No device but the one that has ``ids`` takes part, so ``row_sharding`` may be of a
    mesh that is not there yet (``jax.sharding.AbstractMesh``).

    Args:
      ids: Integers of any shape: the whole batch's, as one read of the table has them.
        Along their first axis the devices have equal parts of them. Out of range, they
        are of no row.
      num_rows: How many rows the table has.
      row_sharding: Where they lie; its ``capacity`` is what is to be tuned.

    Returns:
      An int32.

    Raises:
      TypeError: If ``ids`` are not integers, or ``row_sharding`` is something else.
      ValueError: If ``num_rows`` is no number of rows, or one that the devices do not
        divide.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> mesh = jax.sharding.AbstractMesh((4,), ("rows",))
      >>> by_rows = aj.sharding.RowSharding(mesh, "rows")
      >>> spread, crowded = jnp.arange(64) * 80 % 1024, jnp.arange(64)
      >>> for ids in spread, crowded:
      ...     print(aj.sharding.num_passes(ids, 1024, by_rows))
      1
      2
    """
    check_is_one(row_sharding)
    ids, number = jnp.asarray(ids), row_sharding.num_shards
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"`ids` must be integers, got dtype {ids.dtype}; pass what the table is "
            "read by."
        )
    is_integer = isinstance(num_rows, int | np.integer)  # pyright: ignore
    if not is_integer or num_rows < 0:
        raise ValueError(
            f"`num_rows` must be an integer, 0 or more, got {num_rows!r}; it is "
            "table.shape[0]."
        )
    row_sharding.sharding(jax.ShapeDtypeStruct((num_rows,), jnp.float32))
    if number == 1 or 0 in (ids.size, num_rows):
        return jnp.int32(0)
    ids = row_or_none(ids.reshape(-1), num_rows)
    ids = split_evenly(ids, row_sharding, num_rows)
    simulated = RowSharding(
        AbstractMesh((number,), ("devices",)),
        "devices",
        capacity=row_sharding.capacity,
    )
    exchange = Exchange(simulated, num_rows, ids.size // number)

    def count(ids: jax.Array) -> jax.Array:
        def one_more(count: jax.Array, queue: Queue, *_: Any) -> tuple[Any, Queue]:
            return count + 1, queue

        queue = exchange.queue(find_distinct(ids, num_rows).ids)
        return exchange.in_passes(one_more, jnp.int32(0), queue)[0]

    # Devices are simulated, by the same code: what they agree on is the axis' minimum.
    of_all = jax.vmap(count, axis_name="devices", out_axes=None)
    return of_all(ids.reshape(number, -1))
