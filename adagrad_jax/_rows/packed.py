"""A gradient of rows as a pytree, to cross the boundary of ``jax.jit``."""

import dataclasses
from typing import Any

import jax

from adagrad_jax._rows.row_sharding import RowSharding
from adagrad_jax._rows.row_sparse import RowSparse


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """A :class:`RowSparse` as a pytree: for ``jax.jit``, nothing of it is lost."""

    ids: jax.Array
    values: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    dtype: Any = dataclasses.field(metadata={"static": True})
    row_sharding: RowSharding | None = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, gradient: RowSparse) -> "Packed":
        return cls(
            gradient.ids,
            gradient.values,
            gradient.shape,
            gradient.dtype,
            gradient.row_sharding,
        )

    def unpacked(self) -> RowSparse:
        rows = RowSparse.on_devices(
            self.ids, self.values, self.shape, self.row_sharding
        )
        return rows.astype(self.dtype)
