"""The arrays that accumulators remember in: their precision, and where they lie."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._precision import at_least_float32

AccumulatorDType = DTypeLike | Literal["parameter"] | None


@dataclasses.dataclass(frozen=True)
class InDType:
    """An accumulator whose memory is kept in a given dtype.

    Args:
      dtype: None, for float32 or the parameter's own real precision if that is more;
        "parameter", for the parameter's own even if it is less; or a dtype.

    Raises:
      TypeError: If ``dtype`` is none of these.
    """

    dtype: AccumulatorDType = None

    def __post_init__(self) -> None:
        if self.dtype is None or self.dtype == "parameter":
            return
        if not jnp.issubdtype(self.dtype, jnp.floating):
            raise TypeError(
                "`dtype` must be a real floating-point dtype, None or 'parameter', "
                f"got {self.dtype!r}."
            )

    def _dtype_of(self, param: jax.Array) -> DTypeLike:
        """What to keep the accumulators of ``param`` in."""
        if self.dtype is None:
            return at_least_float32(jnp.result_type(param))
        if self.dtype == "parameter":
            return jnp.finfo(jnp.result_type(param)).dtype
        return self.dtype


def along_axes(
    param: jax.Array | jax.ShapeDtypeStruct, axes: Sequence[int]
) -> jax.Array | jax.ShapeDtypeStruct:
    """Something that has these of the parameter's axes, sharded as they are.

    Those that the parameter has not are left out.
    """
    if isinstance(param, jax.ShapeDtypeStruct):
        shape = tuple(param.shape[axis] for axis in axes if axis < param.ndim)
        return jax.ShapeDtypeStruct(shape, param.dtype)
    # What is computed of the parameter is sharded as that is.
    others = [other for other in range(jnp.ndim(param)) if other not in axes]
    return jnp.sum(param, axis=others)


def along_rows(param: Any, row_axes: int) -> Any:
    """:func:`along_axes`, of those that name a row; a single number is one."""
    return along_axes(param, range(row_axes)) if jnp.ndim(param) else param


def check_row_axes(row_axes: Any) -> None:
    """Raises ValueError unless a row can be named by so many axes."""
    if not isinstance(row_axes, int) or isinstance(row_axes, bool) or row_axes < 1:
        injected = (
            "; optax.inject_hyperparams leaves it a number if 'row_axes' is in "
            "static_args="
        )
        raise ValueError(
            f"`row_axes` must be a positive integer, got {row_axes!r}"
            f"{injected if isinstance(row_axes, jax.Array) else ''}."
        )


def full_like(
    param: jax.Array | jax.ShapeDtypeStruct,
    value: ArrayLike,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """An array shaped and sharded like ``param``, of its dtype if None is given."""
    # full_like alone would keep a weak type, and the state's would change in a step.
    dtype = jnp.result_type(param) if dtype is None else dtype
    full = jnp.full_like(param, value, dtype=dtype)
    if isinstance(param, Tracer):
        # A constant made inside jit has no sharding; it takes the parameter's only
        # if it seems to depend on it. XLA drops the comparison afterwards.
        full = jnp.where(param == param, full, full)
    return full
