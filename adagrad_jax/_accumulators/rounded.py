"""Stochastic rounding: right on average, however small what is added."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from adagrad_jax._accumulators.memory import full_like
from adagrad_jax._accumulators.normalize import Normalize, divide
from adagrad_jax._precision import at_least_float32, squared_magnitude
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import (
    ROW_NUMBERS,
    grouped,
    map_rows,
    replace_rows,
    rows_of,
)


def round_stochastically(
    x: jax.Array,
    dtype: DTypeLike,
    key: jax.Array,
    numbers: jax.Array | None = None,
    width: int | None = None,
) -> jax.Array:
    """``x`` rounded up or down to ``dtype``, so that the mean of both is ``x``.

    Args:
      x: Real numbers.
      dtype: What to round to, of less precision.
      key: A :func:`counter_based` random key. A number's random bits depend on it and
        on the number's place in the table alone, so some rows are rounded as they would
        be among all.
      numbers: ``x.shape[:1]``, the rows' numbers in the table; if None, 0, 1, 2, ...
      width: How many numbers are along the table's last axis, where a row is one of
        them and the table has other axes; else None.
    """
    if x.ndim == 0:
        return round_stochastically(x[None], dtype, key)[0]
    numbers = jnp.arange(x.shape[0]) if numbers is None else numbers
    return _round(x, _random(key, numbers, x.shape[1:], width), dtype)


def _random(
    key: jax.Array, numbers: jax.Array, shape: tuple[int, ...], width: int | None
) -> jax.Array:
    """Of rows of this shape: bits for each line along the table's last axis."""
    if width is not None:
        lines, columns = jnp.divmod(numbers, width)
        random = jax.vmap(functools.partial(_uniform, key, (width,)))(lines)
        return jnp.take_along_axis(random, columns[:, None], axis=1)[:, 0]
    if not numbers.size or 0 in shape:
        return jnp.zeros((numbers.size, *shape), jnp.float32)
    inside = math.prod(shape[:-1])
    lines = numbers.astype(jnp.uint32)[:, None] * jnp.uint32(inside)
    lines = lines + jnp.arange(inside, dtype=jnp.uint32)[None]
    random = jax.vmap(functools.partial(_uniform, key, shape[-1:]))(lines.ravel())
    return random.reshape(numbers.size, *shape)


def width_of_line(table: jax.Array, gradient: Any) -> int | None:
    """The ``width`` for :func:`round_stochastically` of a gradient's rows."""
    one_number = isinstance(gradient, RowSparse) and gradient.row_axes == table.ndim
    return table.shape[-1] if one_number and table.ndim > 1 else None


def counter_based(key: jax.Array) -> jax.Array:
    """A key made of any other, of the kind whose bits are the same under ``jax.vmap``.

    XLA's generators (``rbg`` and ``unsafe_rbg``) draw a whole batch from the first key
    in it, so the bits of a row would depend on which rows are drawn with it.
    """
    if str(jax.random.key_impl(key)) in ("fry", "threefry2x32"):
        return key
    words = key
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        words = jax.random.key_data(key)
    made = jax.random.key(0, impl="threefry2x32")
    for word in range(words.shape[-1]):
        made = jax.random.fold_in(made, words[word])
    return made


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _round(x: jax.Array, random: jax.Array, dtype: DTypeLike) -> jax.Array:
    nearest = x.astype(dtype)
    error = x - nearest.astype(x.dtype)
    # Away from the nearest, beyond x: the other one of the two that x lies between.
    beyond = jnp.where(error > 0, jnp.inf, -jnp.inf).astype(dtype)
    other = jnp.nextafter(nearest, beyond)
    gap = jnp.abs(other.astype(x.dtype) - nearest.astype(x.dtype))
    # Not a division, which 0 / 0 might spoil: an exact or infinite x stays as it is.
    return jnp.where(random.astype(x.dtype) * gap < jnp.abs(error), other, nearest)


@_round.defjvp
def _round_jvp(dtype: DTypeLike, primals: Any, tangents: Any) -> tuple[Any, Any]:
    """As if nothing were rounded, which is so on average."""
    return _round(*primals, dtype), tangents[0].astype(dtype)


def _uniform(key: jax.Array, shape: tuple[int, ...], row: jax.Array) -> jax.Array:
    """Multiples of 2**-16 in [0, 1), the middle of each step."""
    bits = jax.random.bits(jax.random.fold_in(key, row), shape, jnp.uint16)
    return (bits.astype(jnp.float32) + 0.5) * jnp.float32(2.0**-16)


class Rounded(NamedTuple):
    """The memory of :class:`RoundedDiagonal`.

    Attributes:
      sum_of_squares: An array like the parameter.
      count: How many steps were taken, int32: which random numbers come next.
    """

    sum_of_squares: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)


@dataclasses.dataclass(frozen=True)
class RoundedDiagonal:
    r""":class:`Diagonal` in 16 bits that does not stop growing.

    .. math::

        a_t = \mathrm{round}(a_{t-1} + |g_t|^2)

    A bfloat16 sum rounded to the nearest stops growing as soon as a square is less than
    about 1/256 of it; float16 at 1/2048. Here it is rounded up or down at random, with
    probabilities that make its mean exact, so that :math:`a_t` is an unbiased estimate
    of the sum of squares, for half of float32's memory.

    The random numbers follow from ``seed``, the step and the row, so the same run gives
    the same numbers, and a row-sparse gradient those of its dense form. (Leaves share
    them; each by itself is right on average.)

    Args:
      dtype: bfloat16, whose range is float32's, or float16, which overflows at 65,504.
      seed: Which random numbers to use.

    Raises:
      TypeError: If ``dtype`` is neither, or ``seed`` no integer.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> def grown(accumulator):
      ...     optimizer = aj.scale_by_adagrad(0.0, accumulator=accumulator)
      ...     def step(state, _):
      ...         return optimizer.update(jnp.ones(1000), state)[1], None
      ...     state, _ = jax.lax.scan(step, optimizer.init(jnp.ones(1000)), length=1000)
      ...     return state.accumulator
      >>> stuck = grown(aj.Diagonal(dtype=jnp.bfloat16))
      >>> print(stuck.mean())  # of 1000 steps
      256
      >>> kept = grown(aj.RoundedDiagonal())
      >>> print(kept.sum_of_squares.astype(jnp.float32).mean().round(-1))
      1000.0

    References:
      Gupta, Agrawal, Gopalakrishnan and Narayanan, "Deep Learning with Limited
      Numerical Precision", ICML 2015, Section 3.1.
    """

    dtype: DTypeLike = jnp.bfloat16
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            known = jnp.dtype(self.dtype) in (jnp.bfloat16, jnp.float16)
        except TypeError:
            known = False
        if not known:
            raise TypeError(
                f"`dtype` must be bfloat16 or float16, got {self.dtype!r}; for others "
                "use Diagonal(dtype=...)."
            )
        seed: Any = self.seed
        if not isinstance(seed, int) or abs(seed) >= 2**31:
            raise TypeError(f"`seed` must be an integer of 32 bits, got {seed!r}.")

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Rounded:
        """An array like ``param``, sharded like it, and a count."""
        full = full_like(param, initial_accumulator_value, self.dtype)
        return Rounded(full, jnp.zeros((), jnp.int32))

    def update(
        self, gradient: jax.Array, accumulator: Rounded, normalize: Normalize
    ) -> tuple[jax.Array, Rounded]:
        """Adds the gradient's squares, then divides it by their root."""
        sums = _Add()(gradient, accumulator.sum_of_squares, self._key(accumulator))
        return normalize(gradient, sums), Rounded(sums, accumulator.count + 1)

    def update_rows(
        self, gradient: RowSparse, accumulator: Rounded, normalize: Normalize
    ) -> tuple[RowSparse, Rounded]:
        """The same of the rows that are in ``gradient``."""
        gradient, sums = grouped(gradient), accumulator.sum_of_squares
        add = _Add(width_of_line(sums, gradient))
        sums = replace_rows(gradient, add, sums, self._key(accumulator), ROW_NUMBERS)
        update = map_rows(gradient, divide, rows_of(sums), normalize)
        return update, Rounded(sums, accumulator.count + 1)

    def _key(self, accumulator: Rounded) -> jax.Array:
        # Of this kind whatever jax_default_prng_impl is; see `counter_based`.
        key = jax.random.key(self.seed, impl="threefry2x32")
        return jax.random.fold_in(key, accumulator.count)


@dataclasses.dataclass(frozen=True)
class _Add:
    width: int | None = None

    def __call__(
        self,
        gradient: jax.Array,
        sums: jax.Array,
        key: jax.Array,
        numbers: jax.Array | None = None,
    ) -> jax.Array:
        dtype = at_least_float32(gradient.dtype, sums.dtype)
        total = sums.astype(dtype) + squared_magnitude(gradient, dtype)
        return round_stochastically(total, sums.dtype, key, numbers, self.width)
