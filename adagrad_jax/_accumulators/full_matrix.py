"""The paper's full-matrix form, which few can afford and small leaves can."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import InDType
from adagrad_jax._accumulators.normalize import Normalize
from adagrad_jax._precision import at_least_float32


@dataclasses.dataclass(frozen=True)
class FullMatrix(InDType):
    r"""A whole matrix per parameter: the full-matrix form of Adagrad.

    .. math::

        G_0 = \text{initial\_accumulator\_value} \cdot I, \qquad
        G_t = G_{t-1} + g_t g_t^\top, \qquad
        u_t = G_t^{-1/2} g_t

    with the parameter flattened to a vector of :math:`n` numbers. The root is taken by
    a symmetric eigendecomposition :math:`G = V \Lambda V^\top`, in whose basis the
    division is :class:`Diagonal`'s: :math:`u = V ((V^\top g) / (\sqrt{\Lambda} +
    \epsilon))`. It learns in few steps what is correlated, and costs :math:`n^2`
    memory and :math:`O(n^3)` time in each.

    With ``block_size`` the vector is cut into blocks of so many numbers, each with a
    matrix of its own: :math:`n \cdot \text{block\_size}` memory. The memory of a leaf
    is of shape ``(num_blocks, b, b)``.

    Eigenvalues below :math:`b` units of rounding of the largest are taken for that: an
    eigendecomposition cannot tell them from 0. Once a product of two gradients has
    overflowed (in float32 from about 1e19) updates are NaN.

    Args:
      dtype: As in :class:`Diagonal`.
      block_size: How many numbers are in a block, at least 1. None: all, in one.
      max_size: The most numbers that a leaf may have without ``block_size``, lest a
        forgotten embedding table ask for a terabyte. 1,024 take 4 MiB, and a good part
        of a second in each step on a CPU.

    Raises:
      TypeError: If ``dtype`` is none of those; if a parameter is complex; if a
        gradient is a :class:`RowSparse`, whose rows the matrix would mix.
      ValueError: If ``block_size`` or ``max_size`` is no positive integer; in ``init``,
        if a leaf is larger than ``max_size`` and there is no ``block_size``.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.FullMatrix())
      >>> gradient = jnp.array([3.0, 4.0])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(state.accumulator[0], update.round(3))  # a vector's own direction
      [[ 9. 12.]
       [12. 16.]] [0.6 0.8]

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Figure 1 with the full :math:`G_t`.
    """

    block_size: int | None = None
    max_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive("max_size", self.max_size)
        if self.block_size is not None:
            _check_positive("block_size", self.block_size)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """A diagonal matrix for each block."""
        dtype = self._dtype_of(param)
        if jnp.iscomplexobj(param):
            found = jnp.result_type(param)
            raise TypeError(
                f"FullMatrix()'s parameters must be real, got dtype {found}; wrap the "
                "optimizer with optax.contrib.split_real_and_imaginary."
            )
        num_blocks, size = self._blocks(math.prod(jnp.shape(param)))
        diagonal = jnp.eye(size, dtype=dtype) * jnp.asarray(
            initial_accumulator_value, dtype
        )
        return jnp.broadcast_to(diagonal, (num_blocks, size, size))

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the outer product, then multiplies by the inverse of the root."""
        num_blocks, size, _ = accumulator.shape
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        flat = _on_all_devices(gradient.astype(dtype)).ravel()
        padded = jnp.pad(flat, (0, num_blocks * size - flat.size))
        g = padded.reshape(num_blocks, size, 1)
        # What divides is what is kept, rounded as it is kept.
        total = (accumulator.astype(dtype) + g * g.mT).astype(accumulator.dtype)
        if flat.size == 0:
            return gradient, total
        update = _divide_by_root(total.astype(dtype), g, normalize)
        update = update.ravel()[: flat.size].reshape(gradient.shape)
        return _sharded_like(gradient, update.astype(gradient.dtype)), total

    def _blocks(self, size: int) -> tuple[int, int]:
        """How many blocks a leaf of so many numbers has, and of how many numbers."""
        if self.block_size is not None:
            return -(-size // self.block_size), self.block_size
        if size > self.max_size:
            raise ValueError(
                f"FullMatrix() is for leaves of at most max_size={self.max_size} "
                f"numbers, got {size}, whose matrix has {size**2:,}; give it a "
                "block_size, raise max_size, or give this leaf another accumulator "
                "with optax.partition."
            )
        return 1, size


@jax.custom_jvp
def _divide_by_root(
    matrices: jax.Array, gradients: jax.Array, normalize: Normalize
) -> jax.Array:
    """``normalize`` in the matrices' eigenbases, of columns ``(num_blocks, b, 1)``."""
    eigenvalues, vectors = _decompose(matrices)
    divided = normalize(_product(vectors.mT, gradients), eigenvalues[:, :, None])
    return _product(vectors, divided)


@_divide_by_root.defjvp
def _divide_by_root_jvp(
    primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    """By Daleckii and Krein's formula, which equal eigenvalues do not disturb.

    A decomposition's own derivative divides by the differences of eigenvalues.
    """
    matrices, gradients, normalize = primals
    d_matrices, d_gradients, d_normalize = tangents
    eigenvalues, vectors = _decompose(matrices)
    columns = _product(vectors.mT, gradients)
    divided, d_divided = jax.jvp(
        lambda columns, normalize: normalize(columns, eigenvalues[:, :, None]),
        (columns, normalize),
        (_product(vectors.mT, d_gradients), d_normalize),
    )
    rotated = _product(_product(vectors.mT, d_matrices), vectors)
    slopes = _divided_differences(eigenvalues, normalize)
    d_divided += _product(slopes * rotated, columns)
    return _product(vectors, divided), _product(vectors, d_divided)


def _decompose(matrices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues, kept away from 0 by what rounding may make of them, and vectors."""
    eigenvalues, vectors = jnp.linalg.eigh(matrices, symmetrize_input=False)
    size, eps = matrices.shape[-1], jnp.finfo(matrices.dtype).eps
    return jnp.maximum(eigenvalues, eigenvalues[:, -1:] * size * eps), vectors


def _divided_differences(eigenvalues: jax.Array, normalize: Normalize) -> jax.Array:
    """``(f(a) - f(b)) / (a - b)`` of all pairs, of the function that divides."""

    def f(x: jax.Array) -> jax.Array:
        return normalize(jnp.ones_like(x), x)

    a, b = eigenvalues[:, :, None], eigenvalues[:, None, :]
    # Where a difference would be lost to rounding, the derivative between them.
    near = jnp.abs(a - b) <= jnp.finfo(a.dtype).eps ** (1 / 3) * (a + b)
    between = (a + b) / 2
    _, slope = jax.jvp(f, (between,), (jnp.ones_like(between),))
    return jnp.where(near, slope, (f(a) - f(b)) / jnp.where(near, 1, a - b))


# Accelerators' usual precision of products is less than the leaf's.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _check_positive(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def _on_all_devices(x: jax.Array) -> jax.Array:
    """The whole of it, where sharding is part of types (``AxisType.Explicit``)."""
    return jax.reshard(x, PartitionSpec()) if _has_explicit_sharding(x) else x


def _sharded_like(like: jax.Array, x: jax.Array) -> jax.Array:
    if not _has_explicit_sharding(like):
        return x
    return jax.reshard(x, jax.typeof(like).sharding)


def _has_explicit_sharding(x: jax.Array) -> bool:
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
