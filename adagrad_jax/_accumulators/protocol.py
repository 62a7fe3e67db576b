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
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._precision import at_least_float32, squared_magnitude
from adagrad_jax._rows.row_sparse import (
    RowSparse,
    map_rows,
    replace_rows,
    sum_of_squares,
)

Normalize = Callable[[jax.Array, jax.Array], jax.Array]
"""``(gradient, sum_of_squares) -> gradient / root``, in the gradient's dtype.

The sum of squares broadcasts to the gradient. It is a pytree too, and so may be handed
through :meth:`RowSparse.then`.
"""


AccumulatorDType = DTypeLike | Literal["parameter"] | None


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
        gradient = gradient.grouped()
        # Twice over the rows: what divides them is put off until they are used.
        accumulator = replace_rows(gradient, _Remember(self), accumulator, normalize)
        update = map_rows(gradient, _Precondition(self), accumulator, normalize)
        return update, accumulator


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


@dataclasses.dataclass(frozen=True)
class Diagonal(RowAccumulator):
    r"""One accumulator per parameter: the diagonal form of Adagrad, and the usual one.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad a_t = a_{t-1} + |g_t|^2

    elementwise, so that each coordinate has a learning rate of its own, which falls the
    more the larger its gradients have been.

    Args:
      dtype: What to keep the accumulators in. ``None`` keeps float32 for parameters of
        less precision (and complex64), else the parameter's own (real) precision: a
        float16 square overflows at 256, a bfloat16 sum soon stops growing.
        ``"parameter"`` keeps the parameter's own precision even so, as other frameworks
        do; a floating-point dtype is taken as it is.

    Raises:
      TypeError: If ``dtype`` is none of these.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> weights = jnp.ones((2, 3), jnp.bfloat16)
      >>> aj.scale_by_adagrad().init(weights).accumulator.dtype
      dtype('float32')
      >>> half = aj.Diagonal(dtype=jnp.bfloat16)  # half the memory, less exact
      >>> aj.scale_by_adagrad(accumulator=half).init(weights).accumulator.dtype
      dtype(bfloat16)

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Figure 1 with ``diag(G_t)``.
    """

    dtype: AccumulatorDType = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array like ``param``, sharded like it, full of the initial value."""
        return full_like(param, initial_accumulator_value, dtype_of(self.dtype, param))

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the gradient's squares, then divides it by their root."""
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        total = accumulator.astype(dtype) + squared_magnitude(gradient, dtype)
        # What divides is what is kept, rounded as it is kept.
        accumulator = total.astype(accumulator.dtype)
        return self.precondition(gradient, accumulator, normalize), accumulator

    def precondition(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> jax.Array:
        """Divides the gradient by the root of what is remembered."""
        return normalize(gradient, accumulator)


@dataclasses.dataclass(frozen=True)
class RowWise(RowAccumulator):
    r"""One accumulator per row, of the mean of the row's squares.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t[r] = a_{t-1}[r] + \frac{1}{D} \sum_{d=1}^{D} |g_t[r, d]|^2

    for a parameter of rows of :math:`D` numbers (the first axis counts rows, all others
    are in the row), so that all of a row has one learning rate. An embedding table
    takes :math:`1 / D` of :class:`Diagonal`'s memory. For parameters of one axis, whose
    rows are single numbers, and for single numbers it is :class:`Diagonal`.

    Args:
      dtype: As in :class:`Diagonal`.

    Raises:
      TypeError: If ``dtype`` is none of those.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.RowWise())
      >>> gradient = jnp.array([[1.0, 7.0], [0.0, 0.0]])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(state.accumulator, update[0])
      [25.  0.] [0.2 1.4]

    References:
      Mudigere et al., "Software-Hardware Co-design for Fast and Scalable Training of
      Deep Learning Recommendation Models", ISCA 2022, on row-wise sparse AdaGrad;
      FBGEMM's ``EXACT_ROWWISE_ADAGRAD``.
    """

    dtype: AccumulatorDType = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array of shape ``param.shape[:1]``, sharded like the rows."""
        rows = along_axis(param, 0) if jnp.ndim(param) else param
        dtype = dtype_of(self.dtype, param)
        return full_like(rows, initial_accumulator_value, dtype)

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the mean of each row's squares, then divides the row by their root."""
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        inside = tuple(range(1, gradient.ndim))
        width = max(1, math.prod(gradient.shape[1:]))
        sums = jnp.sum(squared_magnitude(gradient, dtype), axis=inside)
        total = accumulator.astype(dtype) + sums / width
        accumulator = total.astype(accumulator.dtype)
        return self.precondition(gradient, accumulator, normalize), accumulator

    def precondition(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> jax.Array:
        """Divides each row by the root of what is remembered of it."""
        inside = tuple(range(1, gradient.ndim))
        return normalize(gradient, jnp.expand_dims(accumulator, inside))


@dataclasses.dataclass(frozen=True)
class Norm:
    r"""One accumulator for a whole parameter: AdaGrad-Norm.

    .. math::

        a_0 = \text{initial\_accumulator\_value}, \qquad
        a_t = a_{t-1} + \lVert g_t \rVert_2^2

    with the norm over all numbers of the parameter, so that they all have one learning
    rate: stochastic gradient descent whose rate need not be tuned.

    Args:
      dtype: As in :class:`Diagonal`.

    Raises:
      TypeError: If ``dtype`` is none of those.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.scale_by_adagrad(0.0, accumulator=aj.Norm())
      >>> gradient = jnp.array([3.0, 4.0])
      >>> update, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(state.accumulator, update)
      25.0 [0.6 0.8]

    References:
      Ward, Wu and Bottou, "AdaGrad Stepsizes: Sharp Convergence Over Nonconvex
      Landscapes", ICML 2019, Algorithm 1 (:math:`b_t^2` there is :math:`a_t`).
    """

    dtype: AccumulatorDType = None

    def __post_init__(self) -> None:
        check_dtype(self.dtype)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """One number."""
        return jnp.full((), initial_accumulator_value, dtype_of(self.dtype, param))

    def update(
        self, gradient: jax.Array, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[jax.Array, jax.Array]:
        """Adds the gradient's squared norm, then divides it by the root of the sum."""
        accumulator = self._remember(gradient, accumulator)
        return normalize(gradient, accumulator), accumulator

    def update_rows(
        self, gradient: RowSparse, accumulator: jax.Array, normalize: Normalize
    ) -> tuple[RowSparse, jax.Array]:
        """The same; rows that are not in the gradient add nothing to its norm."""
        gradient = gradient.grouped()
        accumulator = self._remember(gradient, accumulator)
        return gradient.then(_divide, accumulator, normalize), accumulator

    def _remember(
        self, gradient: jax.Array | RowSparse, accumulator: jax.Array
    ) -> jax.Array:
        dtype = at_least_float32(gradient.dtype, accumulator.dtype)
        total = accumulator.astype(dtype) + sum_of_squares(gradient, dtype)
        return total.astype(accumulator.dtype)


def _divide(
    rows: jax.Array, ids: jax.Array, accumulator: jax.Array, normalize: Normalize
) -> jax.Array:
    del ids
    return normalize(rows, accumulator)


def check_dtype(dtype: AccumulatorDType) -> None:
    """Raises TypeError unless it is a real floating-point dtype or one of our words."""
    if dtype is None or dtype == "parameter":
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            "`dtype` must be a real floating-point dtype, None or 'parameter', "
            f"got {dtype!r}."
        )


def dtype_of(dtype: AccumulatorDType, param: jax.Array) -> DTypeLike:
    """What to keep the accumulators of ``param`` in."""
    if dtype is None:
        return at_least_float32(jnp.result_type(param))
    if dtype == "parameter":
        return jnp.finfo(jnp.result_type(param)).dtype
    return dtype


def along_axis(
    param: jax.Array | jax.ShapeDtypeStruct, axis: int
) -> jax.Array | jax.ShapeDtypeStruct:
    """Something of shape ``param.shape[axis]``, sharded as that axis is."""
    if isinstance(param, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((param.shape[axis],), param.dtype)
    # What is computed of the parameter is sharded as that is.
    others = [other for other in range(jnp.ndim(param)) if other != axis]
    return jnp.sum(param, axis=others)


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
