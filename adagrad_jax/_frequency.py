"""Steps by frequency: the more seldom a row is read, the longer a step it takes.

Adagrad's steps fall with the gradients that a row has seen, those of rare rows less
than those of frequent ones. F2A says by how much more: each row counts the steps that
read it, and the share of all steps multiplies its own.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._accumulators.memory import along_rows, check_row_axes, full_like
from adagrad_jax._accumulators.protocol import Accumulator
from adagrad_jax._adagrad import chain, scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._checks import (
    check_alike,
    check_fits_state,
    check_hyperparameter,
    check_leaves,
    check_state,
)
from adagrad_jax._precision import at_least_float32
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import grouped, map_rows, replace_rows, rows_of
from adagrad_jax._trees import ArrayTree, map_unzip


class ScaleByFrequencyState(NamedTuple):
    """What :func:`scale_by_frequency` remembers from step to step.

    Attributes:
      count: How many steps were taken, int32, of shape ().
      read_counts: A tree like the parameters: for each row, how many steps have read
        it; an int32 array of the shape of the first ``row_axes`` axes.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)
    read_counts: ArrayTree


def scale_by_frequency(
    rho: ArrayLike = 0.5,
    max_multiplier: ArrayLike = 1e6,
    *,
    row_axes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies each row of the updates by how seldom it has been read.

    .. math::

        c_t[r] = c_{t-1}[r] + (1 \text{ if step } t \text{ reads } r), \qquad
        u_t[r] \leftarrow u_t[r] \cdot
        \min\Big(\Big(\frac{t}{c_t[r]}\Big)^{\rho},\ \text{max\_multiplier}\Big)

    with :math:`t` the number of the step, from 1, and :math:`c_0 = 0`. A row that every
    step reads takes the steps that it would take without; one that every hundredth
    step reads, with :math:`\rho = 1/2`, ten times as long ones. It comes after
    :func:`scale_by_adagrad`, whose accumulators shall not see it; the two together are
    :func:`frequency_adagrad`.

    **What reads a row.** A :class:`RowSparse` gradient reads the rows that it has an
    entry of, once however often they are repeated, and also if their sum is 0. An
    ordinary one does not tell which rows were read: it is taken to read those in which
    any number is not 0, so a weight decay that comes before makes it read all. Rows are
    those of the first axis, or of the first ``row_axes`` axes; the numbers of a vector
    are rows by themselves, and a single number is one.

    Counts are integers, exact up to 2,147,483,647, where they stay. (In float32, in
    which jax-tpu-embedding counts, they stay at 16,777,216.)

    Args:
      rho: :math:`\rho \ge 0`. 0 changes nothing. In Adagrad's accumulators a frequent
        row's steps have already fallen with the root of its count.
      max_multiplier: The most that a step is multiplied by, more than 0; infinity for
        no bound.
      row_axes: How many axes, the first ones, count rows, 1 if None; see
        :class:`RowWise`.

    Returns:
      An Optax transformation with a :class:`ScaleByFrequencyState`, which takes 4 bytes
      a row and is sharded like the rows. It keeps the updates' dtypes; the multiplier
      is computed in float32, or float64 if the updates are.

    Raises:
      TypeError: If a hyperparameter is no number, or a leaf is neither floating-point
        nor complex.
      ValueError: If a hyperparameter is out of range; if ``row_axes`` is no positive
        integer; if updates have another tree or other rows than the parameters that
        ``init`` saw, or rows that are named by more axes.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> by_frequency = aj.scale_by_frequency()
      >>> table = jnp.zeros((3, 1))
      >>> state = by_frequency.init(table)
      >>> for ids in [[0], [0], [0], [0, 1, 1]]:  # no step reads row 2
      ...     rows = aj.RowSparse(ids, jnp.ones((len(ids), 1)), table.shape)
      ...     updates, state = by_frequency.update(rows, state)
      >>> print(state.read_counts, updates.to_dense().ravel())
      [4 1 0] [1. 4. 0.]

    References:
      jax-tpu-embedding 0.2.0, ``F2AOptimizerSpec`` (Frequency Aware Adagrad), which
      cites no paper. Rates by counts of reads, for SGD: Li et al., "Frequency-aware SGD
      for Efficient Embedding Learning with Provable Benefits", ICLR 2022.
    """
    return scale_by_share_of_steps(rho, max_multiplier, row_axes=row_axes)


def scale_by_share_of_steps(
    rho: ArrayLike,
    max_multiplier: ArrayLike,
    *,
    row_axes: int | None = None,
    first_step: int = 1,
    initial_count: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """:func:`scale_by_frequency`, with steps and reads that are counted from others.

    Args:
      rho: As there.
      max_multiplier: As there.
      row_axes: As there.
      first_step: The number of the first step; what would be less than 1 is 1.
      initial_count: The counts of reads at the start.
    """
    check_hyperparameter("rho", rho)
    check_hyperparameter("max_multiplier", max_multiplier, positive=True, infinity=True)
    # Not 1 from the start, of which optax.inject_hyperparams would make an array.
    row_axes = 1 if row_axes is None else row_axes
    check_row_axes(row_axes)
    new_counts = functools.partial(_new_counts, row_axes)

    def init_fn(params: optax.Params) -> ScaleByFrequencyState:
        check_leaves(params, "parameter")
        return ScaleByFrequencyState(
            count=jnp.zeros((), jnp.int32),
            read_counts=jax.tree.map(lambda p: new_counts(p, initial_count), params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByFrequencyState]:
        del extra_args
        check_leaves(updates, "gradient")
        check_state(state, ScaleByFrequencyState)
        check_fits_state(updates, state.read_counts, new_counts)
        check_alike(updates, params)
        count: Any = optax.safe_increment(state.count)
        number = jnp.maximum(count + (first_step - 1), 1)
        operands = number, rho, max_multiplier
        scale = functools.partial(_scale_leaf, operands=operands)
        new, read_counts = map_unzip(scale, 2, updates, state.read_counts)
        return new, ScaleByFrequencyState(count, read_counts)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _new_counts(row_axes: int, param: Any, initial: ArrayLike) -> jax.Array:
    return full_like(along_rows(param, row_axes), initial, jnp.int32)


def _scale_leaf(
    update: Any, read_counts: Any, operands: tuple[Any, ...]
) -> tuple[Any, Any]:
    count = _count if isinstance(update, RowSparse) else _count_if_not_zero
    update = grouped(update)
    # Twice over the rows: what multiplies them is put off until they are used.
    read_counts = replace_rows(update, count, read_counts)
    return map_rows(update, _scale, rows_of(read_counts), *operands), read_counts


def _count(update: jax.Array, read_counts: jax.Array) -> Any:
    del update  # whatever it is: it is there
    return optax.safe_increment(read_counts)


def _count_if_not_zero(update: jax.Array, read_counts: jax.Array) -> jax.Array:
    inside = tuple(range(read_counts.ndim, update.ndim))
    read = jnp.any(update != 0, axis=inside)
    return jnp.where(read, optax.safe_increment(read_counts), read_counts)


def _scale(
    update: jax.Array,
    read_counts: jax.Array,
    number: jax.Array,
    rho: ArrayLike,
    max_multiplier: ArrayLike,
) -> jax.Array:
    dtype = at_least_float32(update.dtype)
    # A row that no step has read has no update, and its count is kept away from 0.
    reads = jnp.maximum(read_counts, 1).astype(dtype)
    multiplier = (number.astype(dtype) / reads) ** jnp.asarray(rho, dtype)
    multiplier = jnp.minimum(multiplier, jnp.asarray(max_multiplier, dtype))
    inside = range(read_counts.ndim, update.ndim)
    multiplier = jnp.expand_dims(multiplier, tuple(inside))
    if jnp.iscomplexobj(update):
        return update * multiplier.astype(update.dtype)
    return (update.astype(dtype) * multiplier).astype(update.dtype)


def frequency_adagrad(
    learning_rate: optax.ScalarOrSchedule = 0.001,
    initial_accumulator_value: ArrayLike = 0.1,
    epsilon: ArrayLike = 1e-7,
    *,
    rho: ArrayLike = 0.5,
    max_multiplier: ArrayLike = 1e6,
    row_axes: int | None = None,
    accumulator: Accumulator = Diagonal(),  # noqa: B008 (frozen, so safe to share)
    epsilon_in_sqrt: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad whose rows take the longer steps the more seldom they are read (F2A).

    .. math::

        a_t = a_{t-1} + |g_t|^2, \qquad
        c_t[r] = c_{t-1}[r] + (1 \text{ if step } t \text{ reads } r), \qquad
        \theta_t[r] = \theta_{t-1}[r] - \eta_t
        \min\Big(\Big(\frac{t}{c_t[r]}\Big)^{\rho},\ \text{max\_multiplier}\Big)
        \frac{g_t[r]}{\sqrt{a_t[r]} + \epsilon}

    :func:`adagrad` with :func:`scale_by_frequency` before the learning rate, which says
    what reads a row. With ``rho=0`` it is :func:`adagrad`, and so it is for what every
    step reads: biases and dense layers.

    As jax-tpu-embedding computes it, without epsilon and with a step that it is told:
    :func:`adagrad_jax.dialects.sparsecore_f2a`. :mod:`adagrad_jax.diagnostics` reports
    learning rates before they are multiplied.

    Args:
      learning_rate: As in :func:`adagrad`.
      initial_accumulator_value: As in :func:`scale_by_adagrad`.
      epsilon: As in :func:`scale_by_adagrad`.
      rho: As in :func:`scale_by_frequency`.
      max_multiplier: As in :func:`scale_by_frequency`.
      row_axes: As in :func:`scale_by_frequency`; an ``accumulator`` of rows has its
        own.
      accumulator: As in :func:`scale_by_adagrad`.
      epsilon_in_sqrt: As in :func:`scale_by_adagrad`.

    Returns:
      An Optax transformation whose updates are to be added to the parameters, with
      :func:`apply_updates`. Its state has a :class:`ScaleByAdagradState` and a
      :class:`ScaleByFrequencyState` in it.

    Raises:
      TypeError: As :func:`adagrad` and :func:`scale_by_frequency`.
      ValueError: As :func:`adagrad` and :func:`scale_by_frequency`.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> optimizer = aj.frequency_adagrad(0.1)
      >>> table = jnp.zeros((3, 1))
      >>> state = optimizer.init(table)
      >>> for ids in [[0], [0], [0], [0, 1]]:
      ...     rows = aj.RowSparse(ids, jnp.ones((len(ids), 1)), table.shape)
      ...     updates, state = optimizer.update(rows, state)
      >>> print(updates.to_dense().ravel())  # row 1: twice its first step of Adagrad
      [-0.0494 -0.1907  0.    ]
      >>> print(optax.tree.get(state, "read_counts"))
      [4 1 0]

    References:
      As :func:`scale_by_frequency` and :func:`adagrad`.
    """
    return chain(
        scale_by_adagrad(
            initial_accumulator_value,
            epsilon,
            accumulator=accumulator,
            epsilon_in_sqrt=epsilon_in_sqrt,
        ),
        scale_by_frequency(rho, max_multiplier, row_axes=row_axes),
        scale_by_learning_rate(learning_rate),
    )
