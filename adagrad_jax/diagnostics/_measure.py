"""Reads the effective learning rates out of an optimizer's state."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from adagrad_jax._adagrad import ScaleByAdagradState
from adagrad_jax._checks import check_hyperparameter, check_hyperparameters
from adagrad_jax._ftrl import FtrlState
from adagrad_jax._precision import at_least_float32
from adagrad_jax._regularized import AdagradDAState, ProximalAdagradState
from adagrad_jax._states import (
    ABSENT,
    Kept,
    Node,
    Path,
    injected,
    kept_in,
    labels,
    nearest,
    nodes,
    spread,
    without_variables,
)
from adagrad_jax.diagnostics._leaf import BARELY, QUANTILES, LeafReport
from adagrad_jax.diagnostics._report import Report

Shape = tuple[int, ...]


def report(
    state: optax.OptState,
    params: optax.Params,
    *,
    learning_rate: Any = None,
    initial_accumulator_value: Any = None,
    epsilon: Any = None,
    epsilon_in_sqrt: bool = False,
    dead_below: float = 1e-3,
    since: Report | None = None,
) -> Report:
    r"""Measures the effective learning rates that an Adagrad state stands for.

    To see whether, and where, learning has died out. For each coordinate of the
    parameters, with :math:`a` its sum of squared gradients, the step is its gradient
    times

    .. math::

        r = \frac{\eta}{\sqrt{a} + \epsilon}

    (:math:`\eta / \sqrt{a + \epsilon}` if ``epsilon_in_sqrt``), which was
    :math:`r_0` at the start, with :math:`a_0 = \text{initial\_accumulator\_value}`.
    A coordinate is dead where :math:`r / r_0 < \text{dead\_below}`, whatever has
    become of :math:`\eta`. From :math:`a_0 = 0` neither the growth of :math:`a` nor
    :math:`r_0` says anything; :math:`a = 1` then stands in for the start.

    The state may be that of any Optax transformation with
    :func:`adagrad_jax.scale_by_adagrad` in it, or :func:`adagrad_jax.proximal_adagrad`
    and its siblings (:func:`adagrad_jax.ftrl` with its usual power and no beta):
    ``optax.chain``, ``partition``, ``masked``, ``MultiSteps``, ``inject_hyperparams``
    ... Leaves that are updated by
    something else are left out. Where several coordinates share an accumulator
    (:class:`adagrad_jax.RowWise`, :class:`adagrad_jax.Norm`) they share its rate; for
    :class:`adagrad_jax.SM3` :math:`a` is the least bound that is kept for the
    coordinate, and for :class:`adagrad_jax.FullMatrix` it is on the matrix's diagonal.

    Quantiles are exact, not sampled; they are found on the host, to which one leaf at a
    time is copied. NaN is left out and counted in ``not_finite``. So is an infinite
    :math:`a`, but it also is a rate of 0, and dead.

    Args:
      state: The optimizer's state, outside of ``jax.jit``.
      params: The parameters that it belongs to; only shapes and paths are read.
      learning_rate: :math:`\eta`: a number, or a schedule, called with the count in the
        state's ``optax.ScaleByScheduleState``. If None it is what
        ``optax.inject_hyperparams`` has in the state, ``learning_rate`` or ``lr``;
        failing that rates are multiples of it. Where leaves differ: a tree of such, a
        prefix of ``params``; or a dictionary from the labels of an ``optax.partition``
        in the state. The same goes for the next two.
      initial_accumulator_value: :math:`a_0` that the optimizer was built with. If None,
        the injected one, else 0.1 as in :func:`adagrad_jax.adagrad`.
      epsilon: :math:`\epsilon`. If None, the injected one (also ``eps``), else 1e-7.
      epsilon_in_sqrt: As in :func:`adagrad_jax.scale_by_adagrad`.
      dead_below: In (0, 1]. By the default :math:`a` has grown a million times, which
        like-sized gradients do in a million steps; sooner than that, some were huge.
      since: An earlier report of the same parameters, to see how fast rates fall.

    Returns:
      A :class:`Report`.

    Raises:
      TypeError: If an accumulator is of no known form, or ``state`` is traced by
        ``jax.jit``, or an argument is no number.
      ValueError: If there is no Adagrad in ``state``, or two for one leaf; if
        ``params`` or ``since`` belong to something else; if an accumulator is less than
        ``initial_accumulator_value``, which then was another; if a schedule is given
        and there is no count for it; if an argument is out of range.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> params = {"bias": jnp.zeros(3), "table": jnp.zeros((1000, 8))}
      >>> optimizer = aj.adagrad(0.5)
      >>> gradients = {"bias": jnp.array([0.0, 1.0, 1e4]),
      ...     "table": params["table"].at[:250].set(2.0)}
      >>> _, state = optimizer.update(gradients, optimizer.init(params))
      >>> print(aj.diagnostics.report(state, params, learning_rate=0.5))
      Effective learning rates: learning_rate / (sqrt(a) + epsilon)
      learning_rate 0.5, initial_accumulator_value 0.1, epsilon 1e-07
      <BLANKLINE>
      leaf        size   lowest   median  highest  growth   dead  untouched
      ---------------------------------------------------------------------
      bias           3  5.0e-05  4.8e-01  1.6e+00      11  33.3%
      table         8k  2.5e-01  1.6e+00  1.6e+00       1     0%      75.0%
      ---------------------------------------------------------------------
      2 leaves      8k  5.0e-05           1.6e+00          <0.1%      75.0%
      <BLANKLINE>
      growth: median of a / initial_accumulator_value
      dead: rate below 0.001 times that at the start
      untouched: rows still at initial_accumulator_value

    References:
      Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and
      Stochastic Optimization", JMLR 12 (2011), Figure 1, for the steps; Zeiler,
      "ADADELTA", arXiv:1212.5701 (2012), Section 2.2.2, for how they die out.
    """
    check_hyperparameter("dead_below", dead_below, positive=True)
    if dead_below > 1:
        raise ValueError(f"`dead_below` must be at most 1, got {dead_below!r}.")
    state, params = without_variables(state), without_variables(params)
    everything = list(nodes(state))
    found = _adagrads(state, everything)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    order = {path: index for index, path in enumerate(paths)}
    given = [
        _Given("learning_rate", learning_rate, params, everything),
        _Given(
            "initial_accumulator_value", initial_accumulator_value, params, everything
        ),
        _Given("epsilon", epsilon, params, everything),
    ]
    leaves: dict[int, LeafReport] = {}
    for adagrad in found:
        hyperparams, count = _near(adagrad, everything)
        for kept in kept_in(adagrad, params):
            _check_fits(kept)
            index = order[kept.path]
            if index in leaves:
                raise ValueError(
                    "`state` must have one Adagrad for each parameter, but "
                    f"{_at(kept.path)} there are two; pass the part of it that has one."
                )
            of_leaf = {g.name: g.of(index, adagrad.path) for g in given}
            rule = _rule(of_leaf, hyperparams, count, bool(epsilon_in_sqrt))
            leaves[index] = _leaf_report(kept, rule, float(dead_below))
    result = Report(
        tuple(leaf for _, leaf in sorted(leaves.items())),
        float(dead_below),
        bool(epsilon_in_sqrt),
    )
    return result if since is None else _compare(result, since)


# What is in the state


_KINDS = (ScaleByAdagradState, ProximalAdagradState, AdagradDAState, FtrlState)


def _adagrads(state: optax.OptState, everything: Sequence[Node]) -> list[Node]:
    found = [node for node in everything if isinstance(node.value, _KINDS)]
    if not found:
        raise ValueError(
            "`state` must contain the state of adagrad_jax.scale_by_adagrad, got a "
            f"{type(state).__name__} without it; pass what the optimizer's init or "
            "update returned."
        )
    return found


def _near(node: Node, among: Sequence[Node]) -> tuple[dict[str, Any], Any]:
    """The hyperparameters and the count that are nearest to an Adagrad state."""
    hyperparams = injected(node.path, among)
    if not isinstance(node.value, ScaleByAdagradState):  # the others have no epsilon
        return {"epsilon": 0.0, **hyperparams}, node.value.count
    schedules = [n for n in among if isinstance(n.value, optax.ScaleByScheduleState)]
    counting = nearest(node.path, schedules)
    return hyperparams, None if counting is None else counting.value.count


def _check_fits(kept: Kept) -> None:
    lacks = "`state` has nothing" if kept.value is ABSENT else "`params` has no leaf"
    if kept.value is ABSENT or kept.param is ABSENT:
        raise ValueError(
            f"`params` must be what `state` was made for, but {_at(kept.path)} they "
            f"differ: {lacks} there."
        )


class _Given:
    """What was given for a hyperparameter: one, a tree of them, or some by label."""

    def __init__(
        self, name: str, value: Any, params: optax.Params, everything: Sequence[Node]
    ) -> None:
        self.name = name
        self._by_label: Mapping[Any, Any] = {}
        try:
            self._values = spread(value, params)
        except ValueError as error:
            parts = [getattr(node.value, "inner_states", {}) for node in everything]
            known = {label for part in parts for label in part}
            if isinstance(value, Mapping) and known.issuperset(value):
                self._by_label = value
                return
            among = f" (here {', '.join(map(repr, known))})" if known else ""
            raise ValueError(
                f"`{name}` must be one for all leaves, a tree of them that is a prefix "
                "of `params`, or a dictionary of them by the labels of an "
                f"optax.partition{among}; {error}"
            ) from error

    def of(self, index: int, path: Path) -> Any:
        """For the leaf with this index, whose Adagrad's state has this path."""
        if not self._by_label:
            return self._values[index]
        around = labels(path)
        for label in reversed(around):
            if label in self._by_label:
                return self._by_label[label]
        raise ValueError(
            f"`{self.name}` must have one for each label with an Adagrad, got none for "
            f"{' or '.join(map(repr, around))}."
        )


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How a leaf's sums of squares become rates."""

    learning_rate: float | None
    initial_accumulator_value: Any
    epsilon: float
    epsilon_in_sqrt: bool

    def rate(self, a: Any) -> Any:
        """The effective learning rate, of float64 numbers."""
        if self.epsilon_in_sqrt:
            root = np.sqrt(a + self.epsilon)
        else:
            root = np.sqrt(a) + self.epsilon
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(
                1.0 if self.learning_rate is None else self.learning_rate, root
            )

    def sum_at(self, share: float, a: float) -> float:
        """The sum of squares whose rate is ``share`` of that of ``a``."""
        if self.epsilon_in_sqrt:
            return (a + self.epsilon) / share**2 - self.epsilon
        return ((math.sqrt(a) + self.epsilon) / share - self.epsilon) ** 2


def _rule(
    given: Mapping[str, Any],
    hyperparams: Mapping[str, Any],
    count: Any,
    epsilon_in_sqrt: bool,
) -> _Rule:
    """Each hyperparameter as given, else as injected, else as usual."""

    def look_up(name: str, alias: str, usual: float | None) -> Any:
        if given[name] is not None:
            return given[name]
        return hyperparams.get(name, hyperparams.get(alias, usual))

    rate: Any = look_up("learning_rate", "lr", None)
    if callable(rate):
        if count is None:
            raise ValueError(
                "`learning_rate` must be a number if `state` has no "
                f"optax.ScaleByScheduleState to count steps, got {rate!r}; pass its "
                "value at the step."
            )
        rate = rate(count)
    start = look_up("initial_accumulator_value", "", 0.1)
    epsilon: Any = look_up("epsilon", "eps", 1e-7)
    check_hyperparameters(initial_accumulator_value=start, epsilon=epsilon)
    if rate is not None:
        check_hyperparameters(learning_rate=rate)
    known = None if rate is None else float(rate)
    return _Rule(known, start, float(epsilon), epsilon_in_sqrt)


# What an accumulator says of each coordinate


def _sums_of_squares(kept: Any, shape: Shape) -> np.ndarray | None:
    """Broadcasts to the coordinates; None if ``kept`` is of no form that is known."""
    arrays = jax.tree.leaves(kept)
    if not all(isinstance(x, jax.Array | np.ndarray | np.generic) for x in arrays):
        return None
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in arrays):
        return None
    arrays = [np.asarray(x, at_least_float32(x.dtype)) for x in arrays]
    if not isinstance(kept, jax.Array | np.ndarray | np.generic):
        # SM3's, in whatever container a framework may keep a tuple.
        axes = [(size,) for size in shape] or [()]
        return _least(arrays) if [x.shape for x in arrays] == axes else None
    (sums,) = arrays
    if sums.shape == shape[: sums.ndim]:
        return sums.reshape(sums.shape + (1,) * (len(shape) - sums.ndim))
    if sums.ndim == 3 and sums.shape[1] == sums.shape[2]:
        diagonals = np.diagonal(sums, axis1=1, axis2=2).ravel()
        size = math.prod(shape)
        return diagonals[:size].reshape(shape) if diagonals.size >= size else None
    return None


def _least(lines: list[np.ndarray]) -> np.ndarray:
    """SM3 bounds a coordinate's sum by that of each line through it."""
    if lines[0].ndim == 0:
        return lines[0]
    return functools.reduce(np.minimum, np.ix_(*lines))


def _leaf_report(found: Kept, rule: _Rule, dead_below: float) -> LeafReport:
    path, shape = found.path, jnp.shape(found.param)
    kept = getattr(found.value, "sum_of_squares", found.value)  # of RoundedDiagonal
    arrays = jax.tree.leaves(kept)
    if any(isinstance(x, Tracer) for x in arrays):
        raise TypeError(
            f"accumulator {_at(path)} must have a value, got a tracer; call report "
            "outside of jax.jit."
        )
    sums = _sums_of_squares(kept, shape)
    if sums is None:
        raise TypeError(
            f"accumulator {_at(path)} must be one of adagrad_jax's for a parameter of "
            f"shape {shape}, got a {type(kept).__name__} with shapes "
            f"{[jnp.shape(x) for x in arrays]}; leave the leaf out with optax.masked, "
            "or pass the parameters that `state` was made for."
        )
    # In the accumulator's own dtype, as it was when it was made.
    initial = jnp.asarray(rule.initial_accumulator_value, arrays[0].dtype)
    start = float(initial)
    reference = start or 1.0
    limit = rule.sum_at(dead_below, reference)
    at_quantiles = _at_quantiles(sums if 0 not in shape else np.zeros(0))
    smallest = np.nanmin([*at_quantiles, np.inf])
    if smallest < start:
        raise ValueError(
            "`initial_accumulator_value` must be what the optimizer was built with, "
            f"got {start:g}, but the accumulator {_at(path)} has {smallest:g} and can "
            "only have grown; if it differs between leaves, pass a tree of them."
        )
    in_rows = len(shape) > 1 and 0 not in shape and sums.size > 1
    row_axes = 1
    if arrays[0].shape == shape[: arrays[0].ndim] != shape:  # RowWise's tells
        row_axes = max(arrays[0].ndim, 1)
    inside = tuple(range(row_axes, sums.ndim))
    same = np.all(sums == start, axis=inside) if in_rows else None
    return LeafReport(
        path=jax.tree_util.keystr(path, simple=True, separator="/"),
        shape=shape,
        learning_rate=rule.learning_rate,
        initial_accumulator_value=float(rule.initial_accumulator_value),
        epsilon=rule.epsilon,
        rates=tuple(rule.rate(at_quantiles).tolist()),
        initial_rate=float(rule.rate(np.float64(start))),
        growth=float(at_quantiles[QUANTILES.index(0.5)]) / reference,
        dead=_share_of(sums > limit),
        moved=_share_of(sums > start),
        barely_moved=_share_of((sums > start) & (sums < BARELY * start)),
        not_finite=round(_share_of(~np.isfinite(sums)) * math.prod(shape)),
        rows=None if same is None else same.size,
        untouched_rows=None if same is None else int(np.count_nonzero(same)),
    )


def _at_quantiles(sums: np.ndarray) -> np.ndarray:
    """The sums whose rates are at :data:`QUANTILES`, from the lowest rate on."""
    known = sums[~np.isnan(sums)]
    if not known.size:
        return np.full(len(QUANTILES), np.nan)
    # The larger the sum, the lower the rate.
    from_last = np.floor(np.array(QUANTILES) * (known.size - 1) + 0.5)
    ranks = known.size - 1 - from_last.astype(int)
    return np.partition(known, ranks)[ranks].astype(np.float64)


def _share_of(mask: np.ndarray) -> float:
    return int(np.count_nonzero(mask)) / max(1, mask.size)


def _compare(now: Report, since: Report) -> Report:
    """``now`` with how far each leaf's median rate fell."""
    if [(leaf.path, leaf.shape) for leaf in now.leaves] != [
        (leaf.path, leaf.shape) for leaf in since.leaves
    ]:
        raise ValueError("`since` must be a report of the same parameters.")
    leaves: list[LeafReport] = []
    for leaf, before in zip(now.leaves, since.leaves, strict=True):
        if (leaf.learning_rate is None) != (before.learning_rate is None):
            raise ValueError(
                "`since` must have been made with a learning rate if this report is, "
                "and without if not; pass `learning_rate` to both."
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            fell = 1 - np.float64(leaf.median_rate) / before.median_rate
        leaves.append(dataclasses.replace(leaf, fell=float(fell)))
    return dataclasses.replace(now, leaves=tuple(leaves))


def _at(path: Path) -> str:
    return f"at {jax.tree_util.keystr(path)}" if path else "(the tree is one leaf)"
