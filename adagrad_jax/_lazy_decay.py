"""Weight decay of all rows, computed for the rows that are read.

Dense weight decay multiplies every row of a table in every step. Between two reads of a
row nothing else happens to it, so that all of these factors may be multiplied when it
is read next: what is remembered of a row is how far decay had come when it was last
seen.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import along_rows, check_row_axes, full_like
from adagrad_jax._checks import (
    check_fits_params,
    check_fits_state,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
    check_state,
)
from adagrad_jax._precision import at_least_float32, cast
from adagrad_jax._rows.visit import map_and_replace_rows, rows_of
from adagrad_jax._trees import ArrayTree, map_unzip


class LogDecay(NamedTuple):
    """The logarithm of a product of decay factors, as a sum of two numbers.

    They are float32, or float64 with ``jax_enable_x64``.

    One float32 would not do: beside a sum of 10 a step's 1e-5 is off by up to 5 %.

    Attributes:
      high: The sum, rounded.
      low: What the rounding lost.
    """

    high: jax.Array
    low: jax.Array


class LazyWeightDecayState(NamedTuple):
    """What :func:`lazy_weight_decay` remembers from step to step.

    Attributes:
      count: How many steps were taken, int32, of shape ().
      log_decay: Of a row that has been in every step; two arrays of shape ().
      of_rows: A tree like the parameters: for each row, what ``log_decay`` was when the
        row had last decayed; two arrays of the shape of the first ``row_axes`` axes.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)
    log_decay: LogDecay
    of_rows: ArrayTree


def lazy_weight_decay(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: ArrayLike,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    row_axes: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Decoupled weight decay of all rows, also of those that no batch has read.

    .. math::

        \theta_t[r] = \theta_s[r] \prod_{k=s+1}^{t} (1 - \eta_k\,\text{weight\_decay})
        + u_t[r]

    for a row that was last seen in step :math:`s`: all that dense decay (Keras 3's,
    :func:`add_decayed_weights` on an ordinary gradient) would have done to it since
    then, at the cost of the rows in the gradient. It comes last in a chain, after the
    learning rate, whose :math:`\eta_k` it must be told.

    That is exact if a row's gradient is taken where the row would have been: call
    :func:`catch_up_weight_decay` with the batch's ids before the loss, and without ids
    before evaluation and before parameters are saved. Without the first of them each
    row still decays as it should, but late. Decay counts from ``init``: an
    :class:`adagrad_jax.keras.Optimizer` around it should be built with all of its
    variables before its first step.

    Args:
      learning_rate: The optimizer's: a number, an array of shape (), or a schedule.
      weight_decay: The strength, at least 0, and less than 1 / learning rate.
      mask: A tree of booleans, or a function from parameters to one: which leaves decay
        (all if None), as ``optax.masked`` takes it.
      row_axes: How many axes, the first ones, count rows, 1 if None; see
        :class:`RowWise`.

    Returns:
      An Optax transformation with a :class:`LazyWeightDecayState` (in ``optax.masked``
      if there is a mask). It keeps the updates' dtypes and needs ``params`` in
      ``update``. It takes 8 bytes a row.

    Raises:
      TypeError: If a hyperparameter is no number, or a leaf is neither floating-point
        nor complex.
      ValueError: If a hyperparameter is negative, NaN or infinite, or their product not
        less than 1; if ``update`` is called without ``params``, or with others than the
        updates belong to, or with a gradient whose rows are named by more axes.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp, optax
      >>> rate, decay = 0.5, 0.2  # a row loses a tenth in each step
      >>> optimizer = optax.chain(
      ...     aj.adagrad(rate), aj.lazy_weight_decay(rate, decay)
      ... )
      >>> table = jnp.ones((3, 1))
      >>> state = optimizer.init(table)
      >>> for _ in range(2):  # no step reads row 0
      ...     gradient = aj.RowSparse([1], jnp.zeros((1, 1)), table.shape)
      ...     updates, state = optimizer.update(gradient, state, table)
      ...     table = aj.apply_updates(table, updates)
      >>> print(table.ravel())
      [1.   0.81 1.  ]
      >>> table, state = aj.catch_up_weight_decay(table, state)
      >>> print(table.ravel())
      [0.81 0.81 0.81]

    References:
      Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019; lazy
      updates: Carpenter, "Lazy Sparse Stochastic Gradient Descent for Regularized
      Multinomial Logistic Regression", 2008.
    """
    check_learning_rate("learning_rate", learning_rate)
    check_hyperparameters(weight_decay=weight_decay)
    _check_product(learning_rate, weight_decay)
    # Not 1 from the start, of which optax.inject_hyperparams would make an array.
    row_axes = 1 if row_axes is None else row_axes
    check_row_axes(row_axes)
    none_yet = functools.partial(_none_yet, row_axes=row_axes)

    def init_fn(params: optax.Params) -> LazyWeightDecayState:
        check_leaves(params, "parameter")
        return LazyWeightDecayState(
            count=jnp.zeros((), jnp.int32),
            log_decay=_none_yet(0.0),
            of_rows=jax.tree.map(none_yet, params),
        )

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LazyWeightDecayState]:
        del extra_args
        check_leaves(updates, "gradient")
        check_fits_params(updates, params)
        check_state(state, LazyWeightDecayState)
        check_fits_state(updates, state.of_rows, none_yet)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        dtype = state.log_decay.high.dtype
        share = jnp.asarray(rate, dtype) * jnp.asarray(weight_decay, dtype)
        log_decay = _add(state.log_decay, jnp.log1p(-share))
        decay = functools.partial(_decay, log_decay=log_decay)
        new, of_rows = map_unzip(decay, 2, updates, params, state.of_rows)
        count: Any = optax.safe_increment(state.count)
        return new, LazyWeightDecayState(count, log_decay, of_rows)

    transformation = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    if mask is not None:
        transformation = optax.masked(transformation, mask)
    return optax.with_extra_args_support(transformation)


def catch_up_weight_decay(
    params: optax.Params, state: optax.OptState, ids: Any = None
) -> tuple[optax.Params, optax.OptState]:
    """Does to rows what :func:`lazy_weight_decay` has put off.

    Before the loss of a batch, with the ids that it will read; before evaluation, and
    before parameters are saved, without: of all rows.

    Args:
      params: The parameters.
      state: The optimizer's state: any that has a :class:`LazyWeightDecayState` in it,
        be it in a chain, masked or partitioned.
      ids: A tree like ``params`` of integer arrays of any shape, the rows that will be
        read (row-major over ``row_axes`` axes); None for a leaf that is to be left
        alone. Repeated ids are harmless, and so are those that are out of range. None:
        all rows of all leaves.

    Returns:
      The parameters, and the state that knows of it. Parameters that do not decay are
      as they were.

    Raises:
      TypeError: If ids are not integers.
      ValueError: If there is no :class:`LazyWeightDecayState` in ``state``, or the
        trees differ.

    Example:
      See :func:`lazy_weight_decay`.
    """
    found = []

    def catch_up(node: Any) -> Any:
        nonlocal params
        if not isinstance(node, LazyWeightDecayState):
            return node
        found.append(node)
        params, of_rows = _catch_up(params, node, ids)
        return node._replace(of_rows=of_rows)

    state = jax.tree.map(
        catch_up, state, is_leaf=lambda x: isinstance(x, LazyWeightDecayState)
    )
    if not found:
        raise ValueError(
            "`state` must be of an optimizer with lazy_weight_decay in it, and has no "
            "LazyWeightDecayState."
        )
    return params, state


def _catch_up(params: Any, state: LazyWeightDecayState, ids: Any) -> tuple[Any, Any]:
    leaves, structure = jax.tree.flatten(params)
    try:
        # A mask may be a prefix of the parameters, and so a branch one MaskedNode.
        of_rows = jax.tree.map(
            lambda kept, branch: jax.tree.map(lambda _: kept, branch),
            state.of_rows,
            params,
            is_leaf=lambda x: isinstance(x, LogDecay | optax.MaskedNode),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`params` must be those that the state was made for, got "
            f"{jax.tree.structure(params)}: {error}"
        ) from error
    try:
        every = [slice(None)] * len(leaves)
        ids = every if ids is None else structure.flatten_up_to(ids)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "`ids` must be a tree like the parameters, with None for leaves that are "
            f"to be left alone, got {jax.tree.structure(ids)} for {structure}."
        ) from error
    of_rows = structure.flatten_up_to(of_rows)
    pairs = [
        _catch_up_leaf(jnp.asarray(param), kept, rows, state.log_decay)
        for param, kept, rows in zip(leaves, of_rows, ids, strict=True)
    ]
    return (
        structure.unflatten([param for param, _ in pairs]),
        structure.unflatten([kept for _, kept in pairs]),
    )


def _catch_up_leaf(
    param: jax.Array, of_rows: Any, rows: Any, log_decay: LogDecay
) -> tuple[jax.Array, Any]:
    if rows is None or isinstance(of_rows, optax.MaskedNode):
        return param, of_rows
    dtype = at_least_float32(param.dtype)
    shape = of_rows.high.shape
    if param.shape[: len(shape)] != shape:
        raise ValueError(
            f"a parameter of shape {param.shape} does not fit its state, for shape "
            f"{shape} of rows; pass the parameters that `init` saw."
        )
    if isinstance(rows, slice) or not param.ndim:
        change = _change(param, of_rows, log_decay)
        new = (cast(param, dtype) + change).astype(param.dtype)
        return new, _all_at(of_rows, log_decay)
    rows = jnp.asarray(rows)
    if rows.size and not jnp.issubdtype(rows.dtype, jnp.integer):
        raise TypeError(
            f"`ids` must be integers, got dtype {rows.dtype} for a parameter of shape "
            f"{param.shape}."
        )
    num_rows = math.prod(shape)
    if not rows.size or not num_rows:
        return param, of_rows
    # As indexing reads them, in a dtype that holds the last row's number; to catch up
    # with a row too many is no harm.
    wide = rows.dtype.itemsize == 8
    rows = rows.astype(rows.dtype if wide else jnp.int32).ravel()
    rows = jnp.where(rows < 0, rows + num_rows, rows).clip(0, num_rows - 1)
    index = jnp.unravel_index(rows, shape)
    old, kept = jax.tree.map(lambda table: table[index], (param, of_rows))
    change = _change(old, kept, log_decay)
    new = (cast(old, dtype) + change).astype(param.dtype)
    return param.at[index].set(new), jax.tree.map(
        lambda table, now: table.at[index].set(now), of_rows, _all_at(kept, log_decay)
    )


def _none_yet(param: Any, _: Any = None, *, row_axes: int = 1) -> LogDecay:
    rows = along_rows(param, row_axes)
    dtype = jnp.result_type(float)
    return LogDecay(full_like(rows, 0, dtype), full_like(rows, 0, dtype))


def _decay(
    update: Any, param: Any, of_rows: LogDecay, log_decay: LogDecay
) -> tuple[Any, LogDecay]:
    # Both at once: what is kept of the rows says how far they are to decay.
    return map_and_replace_rows(update, _decay_rows, of_rows, rows_of(param), log_decay)


def _decay_rows(
    update: jax.Array, of_rows: LogDecay, param: jax.Array, log_decay: LogDecay
) -> tuple[jax.Array, LogDecay]:
    change = _change(param, of_rows, log_decay)
    dtype = at_least_float32(update.dtype, change.dtype)
    decayed = cast(update, dtype) + cast(change, dtype)
    return decayed.astype(update.dtype), _all_at(of_rows, log_decay)


def _change(param: jax.Array, of_rows: LogDecay, log_decay: LogDecay) -> jax.Array:
    """What decay since ``of_rows`` adds to the parameter, float32 or wider."""
    missed = (log_decay.high - of_rows.high) + (log_decay.low - of_rows.low)
    dtype = at_least_float32(param.dtype)
    inside = range(missed.ndim, param.ndim)
    factor = jnp.expand_dims(jnp.expm1(missed).astype(dtype), inside)
    param = cast(param, dtype)
    return param * factor.astype(param.dtype)


def _all_at(of_rows: LogDecay, log_decay: LogDecay) -> LogDecay:
    # Of the old ones, so that XLA reads these before it writes, and copies none.
    return jax.tree.map(
        lambda old, now: jnp.where(jnp.isnan(old), old, now), of_rows, log_decay
    )


def _add(total: LogDecay, term: jax.Array) -> LogDecay:
    """The sum, exact but for one rounding of ``low`` (Knuth's two-sum)."""
    term = term + total.low
    high = total.high + term
    given = high - total.high
    return LogDecay(high, (total.high - (high - given)) + (term - given))


def _check_product(learning_rate: Any, weight_decay: Any) -> None:
    numbers = (learning_rate, weight_decay)
    if not any(callable(x) or isinstance(x, Tracer) for x in numbers):
        if float(learning_rate) * float(weight_decay) >= 1:
            raise ValueError(
                "`learning_rate` times `weight_decay` must be less than 1, or a step "
                f"leaves nothing of the parameters, got {learning_rate!r} times "
                f"{weight_decay!r}."
            )
