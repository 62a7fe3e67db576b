"""Adagrad with a regularizer that acts exactly: zeros that are zeros.

A penalty's gradient only ever brings weights near 0. Composite updates minimise the
penalty itself in each step, in closed form: a sum of losses linearised at one point
(mirror descent) or at all points so far (dual averaging), plus the distance that
Adagrad measures, plus the penalty. Both, and FTRL in its own module, are a ``_Rule``:
what to remember of a gradient, and which parameter minimises the sum.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._accumulators.memory import full_like
from adagrad_jax._accumulators.normalize import DivideByRoot
from adagrad_jax._accumulators.protocol import RowAccumulator
from adagrad_jax._accumulators.row_wise import RowWise
from adagrad_jax._checks import (
    check_fits_params,
    check_fits_state,
    check_hyperparameters,
    check_learning_rate,
    check_leaves,
    check_state,
)
from adagrad_jax._precision import at_least_float32
from adagrad_jax._rows.visit import grouped, map_rows, replace_rows, rows_of
from adagrad_jax._trees import ArrayTree, map_unzip

_WITHOUT_EPSILON = DivideByRoot(0.0, 0.0)


class ProximalAdagradState(NamedTuple):
    """What :func:`proximal_adagrad` remembers from step to step.

    Attributes:
      count: How many steps were taken, int32, of shape ().
      accumulator: As in :class:`ScaleByAdagradState`.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)
    accumulator: ArrayTree


class AdagradDAState(NamedTuple):
    """What :func:`adagrad_da` remembers from step to step.

    Attributes:
      count: How many steps were taken, int32, of shape ().
      accumulator: A tree like the parameters, the sums of the gradients' squares.
      gradient_sum: A tree like the parameters, the sums of the gradients.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride] (Optax's name)
    accumulator: ArrayTree
    gradient_sum: ArrayTree


class Numbers(NamedTuple):
    """The hyperparameters of one step."""

    learning_rate: ArrayLike
    l1: ArrayLike
    l2: ArrayLike
    others: Any = ()


class Rule(Protocol):
    """How one parameter, or some rows of it, takes a step. Hashable.

    Memory is a tuple with an entry for each field of the state but the count; all of
    its arrays have the parameter's first axis.
    """

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        """The memory of a parameter before any gradient."""
        ...

    def remember(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> Any:
        """The memory with a gradient added."""
        ...

    def minimum(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> jax.Array:
        """The new parameter, given what is now remembered; real, float32 or wider."""
        ...


def proximal_adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
    *,
    l1: ArrayLike = 0.0,
    l2: ArrayLike = 0.0,
    group_lasso: ArrayLike | None = None,
    accumulator: RowAccumulator = Diagonal(),  # noqa: B008 (frozen, so safe to share)
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad with L1 and L2 penalties by forward-backward splitting (FOBOS).

    .. math::

        a_t = a_{t-1} + g_t^2, \qquad
        r_t = \frac{\eta_t}{\sqrt{a_t}}, \qquad
        v_t = \theta_{t-1} - r_t g_t, \qquad
        \theta_t = \frac{\mathrm{sign}(v_t) \max(|v_t| - r_t\,\text{l1},\, 0)}
                        {1 + r_t\,\text{l2}}

    which is the minimum of the linearised loss, of
    :math:`\text{l1} \lVert\theta\rVert_1 + \tfrac{\text{l2}}{2}\lVert\theta\rVert_2^2`,
    and of the distance from :math:`\theta_{t-1}` in Adagrad's metric. Weights that the
    loss does not hold up become exactly 0 and stay so.

    With ``group_lasso`` there is a penalty on the norm of each row besides, which makes
    whole rows 0, :math:`\text{group\_lasso} \sum_i \lVert\theta[i]\rVert_2`:

    .. math::

        \theta_t[i] \leftarrow \theta_t[i]
        \max\left(0, 1 - \frac{r_t[i]\,\text{group\_lasso}}{\lVert v'_t[i] \rVert_2}
        \right)

    with :math:`v'` what the L1 penalty left of :math:`v`.

    Of a table with a :class:`RowSparse` gradient only the rows in it are changed, and
    so regularised. A row that is rarely read is rarely shrunk: where zeros are wanted
    in such a table, :func:`adagrad_da` and :func:`ftrl`, whose thresholds catch up, are
    the better choice.

    Args:
      learning_rate: :math:`\eta_t \ge 0`: a number, an array of shape (), or a schedule
        ``count -> learning rate`` with count 0 at the first step.
      initial_accumulator_value: :math:`a_0 \ge 0`.
      l1: Strength of the L1 penalty, at least 0.
      l2: Strength of the L2 penalty, at least 0.
      group_lasso: Strength of the penalty on rows' norms, at least 0. All of a row must
        have one rate for it: it needs ``accumulator=RowWise()``.
      accumulator: What is remembered of each parameter; one that keeps rows apart, such
        as :class:`Diagonal` and :class:`RowWise`.

    Returns:
      An Optax transformation with a :class:`ProximalAdagradState`. It needs ``params``
      in ``update``, and gives updates in their dtype, so that where a parameter becomes
      0 it does so exactly. It should be the last of a chain.

    Raises:
      TypeError: If a hyperparameter is no number, ``accumulator`` does not keep rows
        apart, or a leaf is not real floating-point.
      ValueError: If a hyperparameter is negative, NaN or infinite; if ``group_lasso``
        is given without :class:`RowWise`; if ``update`` is called without ``params``,
        or with others than the gradients belong to.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.proximal_adagrad(1.0, 1.0, l1=0.5)
      >>> weights = jnp.array([0.25, 1.0])
      >>> gradient = jnp.array([0.0, 0.0])
      >>> updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
      >>> print(aj.apply_updates(weights, updates))
      [0.  0.5]

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), equation (4) and Section 5.1; Duchi and
      Singer, "Efficient Online and Batch Learning Using Forward Backward Splitting",
      JMLR 10 (2009), on mixed norms. TensorFlow's ``ProximalAdagradOptimizer``.
    """
    check_hyperparameters(l1=l1, l2=l2)
    kept_apart: Any = accumulator
    if not isinstance(kept_apart, RowAccumulator):
        raise TypeError(
            "`accumulator` must keep rows apart, as Diagonal() and RowWise() do, got "
            f"{accumulator!r}."
        )
    if group_lasso is not None:
        check_hyperparameters(group_lasso=group_lasso)
        if not isinstance(accumulator, RowWise):
            raise ValueError(
                "`group_lasso` needs accumulator=RowWise(), got "
                f"{accumulator!r}: it has a closed form where all of a row has one "
                "rate."
            )
    return regularized(
        _Proximal(accumulator),
        ProximalAdagradState,
        learning_rate,
        initial_accumulator_value,
        lambda rate, count: Numbers(rate, l1, l2, group_lasso),
    )


def adagrad_da(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
    *,
    l1: ArrayLike = 0.0,
    l2: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Adagrad as regularised dual averaging, with L1 and L2 penalties.

    .. math::

        z_t = z_{t-1} + g_t, \qquad
        a_t = a_{t-1} + g_t^2, \qquad
        \theta_t = \frac{- \eta_t\, \mathrm{sign}(z_t)
            \max(|z_t| - t\,\text{l1},\, 0)}{\sqrt{a_t} + \eta_t\, t\, \text{l2}}

    which is the minimum of all losses so far, linearised where they were taken, of
    :math:`t` times :math:`\text{l1} \lVert\theta\rVert_1 + \tfrac{\text{l2}}{2}
    \lVert\theta\rVert_2^2`, and of the distance from 0 in Adagrad's metric. The
    threshold is for the mean of all gradients, not for one step's: weights are 0 more
    often than with :func:`proximal_adagrad`. Where the denominator is 0 so is the
    parameter.

    **The first step forgets the parameters' initial values**: a new one depends on the
    gradients alone. Parameters that must differ from one another from the start (a
    layer between others, an embedding) should be trained otherwise.

    Of a table with a :class:`RowSparse` gradient only the rows in it are computed anew,
    with the current :math:`t`; others stay as they are until they are read again.

    Args:
      learning_rate: As in :func:`proximal_adagrad`.
      initial_accumulator_value: :math:`a_0 \ge 0`.
      l1: Strength of the L1 penalty, at least 0.
      l2: Strength of the L2 penalty, at least 0.

    Returns:
      An Optax transformation with an :class:`AdagradDAState`. It needs ``params`` in
      ``update``, and gives updates in their dtype. It should be the last of a chain.

    Raises:
      TypeError: If a hyperparameter is no number, or a leaf is not real floating-point.
      ValueError: If a hyperparameter is negative, NaN or infinite; if ``update`` is
        called without ``params``, or with others than the gradients belong to.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.adagrad_da(1.0, 0.0, l1=0.5)
      >>> weights = jnp.array([3.0, 3.0])
      >>> gradient = jnp.array([0.4, -2.0])
      >>> updates, _ = optimizer.update(gradient, optimizer.init(weights), weights)
      >>> print(aj.apply_updates(weights, updates))
      [0.   0.75]

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), equation (3) and Section 5.1; Xiao,
      "Dual Averaging Methods for Regularized Stochastic Learning and Online
      Optimization", JMLR 11 (2010). TensorFlow's ``AdagradDAOptimizer``.
    """
    check_hyperparameters(l1=l1, l2=l2)
    return regularized(
        _DualAveraging(),
        AdagradDAState,
        learning_rate,
        initial_accumulator_value,
        lambda rate, count: Numbers(rate, l1, l2, count),
    )


def regularized(
    rule: Rule,
    state_type: type[Any],
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: ArrayLike,
    numbers_at: Callable[[Any, jax.Array], Numbers],
) -> optax.GradientTransformationExtraArgs:
    """The transformation that follows a rule.

    Args:
      rule: How each leaf takes its step.
      state_type: A NamedTuple of a count, and a tree ``accumulator`` and others like it
        for the entries of the rule's memory.
      learning_rate: A number or a schedule.
      initial_accumulator_value: For the rule's ``init``.
      numbers_at: The hyperparameters, by the learning rate and by the number of the
        step, 1 at first.
    """
    check_learning_rate("learning_rate", learning_rate)
    check_hyperparameters(initial_accumulator_value=initial_accumulator_value)

    def init_fn(params: optax.Params) -> Any:
        check_leaves(params, "parameter", real_because=_REAL)
        num_fields = len(rule.init(jnp.zeros(()), 0.0))
        memory = map_unzip(
            lambda param: rule.init(param, initial_accumulator_value),
            num_fields,
            params,
        )
        return state_type(jnp.zeros((), jnp.int32), *memory)

    def update_fn(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra_args
        check_leaves(updates, "gradient", real_because=_REAL)
        check_fits_params(updates, params)
        check_state(state, state_type)
        check_fits_state(updates, state.accumulator, _Init(rule))
        rate: Any = learning_rate
        if callable(learning_rate):
            rate = learning_rate(state.count)
        count: Any = optax.safe_increment(state.count)
        take_step = functools.partial(_take_step, rule, numbers_at(rate, count))
        new, *memory = map_unzip(take_step, len(state), updates, params, *state[1:])
        return new, type(state)(count, *memory)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


_REAL = "the sign of complex numbers is not defined"


def _take_step(
    rule: Rule, numbers: Numbers, gradient: Any, param: Any, *memory: Any
) -> tuple[Any, ...]:
    """The update of one leaf, and the entries of its memory after it."""
    gradient, param = grouped(gradient), jnp.asarray(param)
    remember = _Remember(rule)
    memory = replace_rows(gradient, remember, memory, rows_of(param), numbers)
    follow = _Follow(rule)
    return map_rows(gradient, follow, rows_of((memory, param)), numbers), *memory


# Not bound methods, nor closures, which are equal only if they are the same object: a
# rule is made anew wherever hyperparameters are injected.


@dataclasses.dataclass(frozen=True)
class _Init:
    rule: Rule

    def __call__(self, param: Any, initial_accumulator_value: Any) -> Any:
        return self.rule.init(param, initial_accumulator_value)[0]


@dataclasses.dataclass(frozen=True)
class _Remember:
    rule: Rule

    def __call__(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> Any:
        return self.rule.remember(gradient, memory, param, numbers)


@dataclasses.dataclass(frozen=True)
class _Follow:
    rule: Rule

    def __call__(
        self, gradient: jax.Array, tables: tuple[Any, jax.Array], numbers: Numbers
    ) -> jax.Array:
        """From the parameter to the minimum: what is to be added."""
        memory, param = tables
        new = self.rule.minimum(gradient, memory, param, numbers)
        # Rounded as it will be kept; else a 0 would not be reached exactly.
        return (new - param.astype(new.dtype)).astype(param.dtype)


@dataclasses.dataclass(frozen=True)
class _Proximal:
    accumulator: RowAccumulator

    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        return (self.accumulator.init(param, initial_accumulator_value),)

    def remember(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> Any:
        del param, numbers
        return (self.accumulator.update(gradient, memory[0], _WITHOUT_EPSILON)[1],)

    def minimum(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> jax.Array:
        dtype = at_least_float32(gradient.dtype, param.dtype)
        ones = jnp.ones(gradient.shape, dtype)
        rate = self.accumulator.precondition(ones, memory[0], _WITHOUT_EPSILON)
        rate = rate * jnp.asarray(numbers.learning_rate, dtype)
        value = param.astype(dtype) - rate * gradient.astype(dtype)
        value = soft_threshold(value, rate * jnp.asarray(numbers.l1, dtype))
        if numbers.others is not None:
            by = rate * jnp.asarray(numbers.others, dtype)
            value = _shrink_rows(value, by, memory[0].ndim)
        return value / (1 + rate * jnp.asarray(numbers.l2, dtype))


@dataclasses.dataclass(frozen=True)
class _DualAveraging:
    def init(self, param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
        return two_sums(param, initial_accumulator_value)

    def remember(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> Any:
        del param, numbers
        accumulator, gradient_sum = memory
        gradient = gradient.astype(gradient_sum.dtype)
        return accumulator + gradient * gradient, gradient_sum + gradient

    def minimum(
        self, gradient: jax.Array, memory: Any, param: jax.Array, numbers: Numbers
    ) -> jax.Array:
        del gradient, param
        accumulator, gradient_sum = memory
        rate, l1, l2, count = (
            jnp.asarray(number, gradient_sum.dtype) for number in numbers
        )
        # The root under which Adagrad divides, and the penalty's curvature beside it.
        normalize = DivideByRoot(0.0, rate * count * l2)
        return normalize(-rate * soft_threshold(gradient_sum, l1 * count), accumulator)


def two_sums(param: jax.Array, initial_accumulator_value: ArrayLike) -> Any:
    """For the gradients' squares and for something linear in them, in float32."""
    dtype = at_least_float32(jnp.result_type(param))
    values = (initial_accumulator_value, 0)
    return tuple(full_like(param, value, dtype) for value in values)


def soft_threshold(x: jax.Array, by: jax.Array) -> jax.Array:
    """``x`` moved towards 0 by ``by``, and not beyond."""
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - by, 0)


def _shrink_rows(x: jax.Array, by: jax.Array, row_axes: int) -> jax.Array:
    """Each row moved towards 0 by ``by``, which is the same in all of a row."""
    inside = tuple(range(row_axes, x.ndim))
    # Squared in units of the largest, so that no square is too small or too large. The
    # root and the divisions are kept away from 0 for the sake of derivatives.
    largest = jnp.max(jnp.abs(x), axis=inside, keepdims=True, initial=0)
    unit = jax.lax.stop_gradient(jnp.where(largest == 0, 1, largest))
    square = jnp.sum(jnp.square(x / unit), axis=inside, keepdims=True)
    norm = unit * jnp.sqrt(jnp.where(square == 0, 1, square))
    return x * jnp.maximum(1 - by / norm, 0)
