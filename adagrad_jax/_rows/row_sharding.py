"""Which device has which rows of a table."""

import dataclasses
import math
from typing import Any

from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class RowSharding:
    r"""Rows of tables, in equal blocks along one or several axes of a mesh.

    Of a table of :math:`V` rows the :math:`d`-th of :math:`N` devices has the rows

    .. math::

        d \cdot V / N, \ldots, (d + 1) \cdot V / N - 1

    and devices that differ only in the mesh's other axes have copies. Rows are those
    of the first axis. It may be hashed and compared, as static arguments must be.

    Args:
      mesh: Of which devices.
      axis: The name of the axis along which rows lie, or several names; the last one's
        index changes fastest from block to block.
      capacity: How large the buffers are in which devices send each other ids and
        rows, above 0: so many times the even share, the number of a device's ids over
        :math:`N`, to each other device; and where that is few, some more, for chance.
        What does not fit goes in further passes: never is an id dropped. At 2, ids
        spread evenly need one pass; more makes buffers larger, most of which are then
        sent empty, and less is enough where ids repeat. ``num_passes`` tells. Read by
        ``value_and_grad(row_sharding=)`` and ``with_rows``.

    Raises:
      TypeError: If ``mesh`` is no mesh.
      ValueError: If an axis is not the mesh's, if there is none or one twice, or if
        ``capacity`` is not above 0.

    Example:
      >>> import jax
      >>> from adagrad_jax._rows.row_sharding import RowSharding
      >>> mesh = jax.make_mesh((1,), ("model",))
      >>> by_rows = RowSharding(mesh, "model")
      >>> by_rows.axes, by_rows.num_shards
      (('model',), 1)
      >>> by_rows.sharding(jax.ShapeDtypeStruct((1000, 4), "float32")).spec
      P('model',)
    """

    mesh: Mesh | AbstractMesh
    axis: str | tuple[str, ...]
    _: dataclasses.KW_ONLY
    capacity: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh | AbstractMesh):  # pyright: ignore
            raise TypeError(
                "`mesh` must be a jax.sharding.Mesh, got "
                f"{type(self.mesh).__name__}; jax.make_mesh((jax.device_count(),), "
                '("model",)) makes one.'
            )
        if isinstance(self.axis, list):
            object.__setattr__(self, "axis", tuple(self.axis))
        names = self.mesh.axis_names
        if not self.axes or not set(self.axes) <= set(names):
            raise ValueError(
                f"`axis` must name one or several axes of the mesh, got {self.axis!r}; "
                f"its axes are {names}."
            )
        if len(set(self.axes)) < len(self.axes):
            raise ValueError(
                f"`axis` must name each axis once, got {self.axis!r}; rows lie in "
                "blocks along all of them."
            )
        if not 0 < self.capacity < math.inf:
            raise ValueError(
                f"`capacity` must be above 0 and finite, got {self.capacity!r}; it is "
                "how many times the even share of its ids a device may send to "
                "another in one pass: 2 is a good start."
            )

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes along which rows lie."""
        return (self.axis,) if isinstance(self.axis, str) else self.axis

    @property
    def num_shards(self) -> int:
        """In how many blocks the rows lie."""
        return math.prod(self.mesh.shape[axis] for axis in self.axes)

    @property
    def spec(self) -> PartitionSpec:
        """How the first axis of a table is split; so are the ids, on their way."""
        return PartitionSpec(self.axis)

    def sharding(self, leaf: Any) -> NamedSharding:
        """Where the rows of ``leaf``, anything with a shape, lie.

        Raises:
          ValueError: If they cannot be cut into equal blocks.
        """
        shape = tuple(leaf.shape)
        if not shape or shape[0] % self.num_shards:
            whole = -(-shape[0] // self.num_shards) * self.num_shards if shape else 0
            raise ValueError(
                f"the first axis of an array sharded by rows must be a multiple of the "
                f"{self.num_shards} blocks along {self.axes}, got the shape {shape}; "
                + (f"give the table {whole} rows." if shape else "a scalar has none.")
            )
        return NamedSharding(self.mesh, self.spec)


def check_is_one(row_sharding: Any) -> None:
    """Raises TypeError unless it is a :class:`RowSharding`."""
    if not isinstance(row_sharding, RowSharding):
        raise TypeError(
            "`row_sharding` must be an adagrad_jax.sharding.RowSharding, got "
            f"{row_sharding!r}; RowSharding(mesh, axis) makes one."
        )
