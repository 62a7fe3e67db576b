"""What Adagrad remembers of the gradients it has seen.

An accumulator is a small frozen object with two methods. ``init`` makes the memory of
one parameter; ``update`` adds a gradient to it and divides the gradient by the root of
what is now remembered. How that division is done (epsilon and its place, 0 / 0) is not
the accumulator's business: it is handed in as ``normalize``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._precision import at_least_float32, squared_magnitude

Normalize = Callable[[jax.Array, jax.Array], jax.Array]
"""``(gradient, sum_of_squares) -> gradient / root``, in the gradient's dtype.

The sum of squares broadcasts to the gradient.
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
class RowAccumulator(Accumulator, Protocol):
    """An accumulator that keeps, for each row of a parameter, something of its own.

    It can take a :class:`RowSparse` gradient: ``update`` is then called with some rows
    of the gradient and the same rows of each array that ``init`` made, all of which
    have the parameter's first axis.
    """

    def precondition(
        self, gradient: jax.Array, accumulator: Any, normalize: Normalize
    ) -> jax.Array:
        """The first result of the ``update`` whose second was ``accumulator``."""
        ...


@dataclasses.dataclass(frozen=True)
class Diagonal:
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
        _check_dtype(self.dtype)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array like ``param``, sharded like it, full of the initial value."""
        return full_like(param, initial_accumulator_value, _dtype_of(self.dtype, param))

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
class RowWise:
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
        _check_dtype(self.dtype)

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> jax.Array:
        """An array of shape ``param.shape[:1]``, sharded like the rows."""
        shape = jnp.shape(param)
        dtype = _dtype_of(self.dtype, param)
        if isinstance(param, jax.ShapeDtypeStruct) or 0 in shape[1:]:
            first = jax.ShapeDtypeStruct(shape[:1], param.dtype)
        else:  # what is computed of the parameter is sharded as that is
            first = jnp.asarray(param)[(..., *[0] * (len(shape) - 1))]
        return full_like(first, initial_accumulator_value, dtype)

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


def _check_dtype(dtype: AccumulatorDType) -> None:
    if dtype is None or dtype == "parameter":
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            "`dtype` must be a real floating-point dtype, None or 'parameter', "
            f"got {dtype!r}."
        )


def _dtype_of(dtype: AccumulatorDType, param: jax.Array) -> DTypeLike:
    if dtype is None:
        return at_least_float32(jnp.result_type(param))
    if dtype == "parameter":
        return jnp.finfo(jnp.result_type(param)).dtype
    return dtype


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
