"""Learning rate schedules with Keras' names and arguments, which are Optax's too.

Each is a function of the step, from 0, that works under ``jax.jit``: an
:class:`Optimizer` takes it as its ``learning_rate``, and so does any Optax
transformation. They compute in float32, as TensorFlow does.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from adagrad_jax._checks import check_hyperparameter


class LearningRateSchedule:
    """What the schedules have in common; subclass it, as a dataclass, for another.

    Example:
      >>> import dataclasses
      >>> from adagrad_jax.keras import schedules
      >>> @dataclasses.dataclass(frozen=True, eq=False)
      ... class Halve(schedules.LearningRateSchedule):
      ...     initial_learning_rate: float
      ...     def __call__(self, step):
      ...         return self.initial_learning_rate * 0.5**step
      >>> Halve(0.8)(2), Halve(0.8).get_config()
      (0.2, {'initial_learning_rate': 0.8})
    """

    def __call__(self, step: ArrayLike) -> ArrayLike:
        """The learning rate at ``step``, an integer of shape ()."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__.")

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        if not dataclasses.is_dataclass(self):
            raise NotImplementedError(
                f"{type(self).__name__} must be a dataclass, or define get_config."
            )
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LearningRateSchedule":
        """The schedule whose ``get_config`` gave ``config``."""
        return cls(**config)


@dataclasses.dataclass(frozen=True, eq=False)
class _DecayByRate(LearningRateSchedule):
    """A rate that falls with how often ``decay_steps`` steps have been taken."""

    initial_learning_rate: float
    decay_steps: int
    decay_rate: float
    staircase: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, positive=("decay_steps",), others=("decay_rate",))

    def __call__(self, step: ArrayLike) -> jax.Array:
        """The learning rate at ``step``, float32 of shape ()."""
        decays = (
            _whole_times(step, self.decay_steps)
            if self.staircase
            else _float32(step) / _float32(self.decay_steps)
        )
        initial = _float32(self.initial_learning_rate)
        return self._after(decays, initial, _float32(self.decay_rate))

    def _after(
        self, decays: jax.Array, initial: jax.Array, decay_rate: jax.Array
    ) -> jax.Array:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class ExponentialDecay(_DecayByRate):
    r"""A rate that is multiplied by ``decay_rate`` every ``decay_steps`` steps.

    .. math::

        \eta_t = \text{initial\_learning\_rate}
            \cdot \text{decay\_rate}^{\,t / \text{decay\_steps}}

    Args:
      initial_learning_rate: The rate at step 0.
      decay_steps: How many steps one decay takes, more than 0.
      decay_rate: What one decay multiplies by, at least 0.
      staircase: Whether to decay at once after ``decay_steps`` steps, not bit by bit:
        the exponent is rounded down.
      name: Kept for ``get_config`` only.

    Raises:
      TypeError, ValueError: If an argument is no number, or is out of range.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.ExponentialDecay(0.8, decay_steps=10, decay_rate=0.5)
      >>> print(schedule(0), schedule(20))
      0.8 0.2
    """

    def _after(
        self, decays: jax.Array, initial: jax.Array, decay_rate: jax.Array
    ) -> jax.Array:
        return initial * decay_rate**decays


@dataclasses.dataclass(frozen=True, eq=False)
class InverseTimeDecay(_DecayByRate):
    r"""A rate that falls as one over time.

    .. math::

        \eta_t = \frac{\text{initial\_learning\_rate}}
            {1 + \text{decay\_rate} \cdot t / \text{decay\_steps}}

    Args:
      initial_learning_rate: The rate at step 0.
      decay_steps: The unit of time, more than 0.
      decay_rate: How fast it falls, at least 0.
      staircase: Whether ``t / decay_steps`` is rounded down.
      name: Kept for ``get_config`` only.

    Raises:
      TypeError, ValueError: As :class:`ExponentialDecay`.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.InverseTimeDecay(0.8, decay_steps=10, decay_rate=1.0)
      >>> print(schedule(0), schedule(30))
      0.8 0.2
    """

    def _after(
        self, decays: jax.Array, initial: jax.Array, decay_rate: jax.Array
    ) -> jax.Array:
        return initial / (1 + decay_rate * decays)


@dataclasses.dataclass(frozen=True, eq=False)
class PiecewiseConstantDecay(LearningRateSchedule):
    r"""A rate that jumps from value to value after given steps.

    .. math::

        \eta_t = \text{values}[i], \qquad
            i = |\{b \in \text{boundaries} : b < t\}|

    Args:
      boundaries: Steps in ascending order, each the last one of its value.
      values: One more than there are boundaries.
      name: Kept for ``get_config`` only.

    Raises:
      ValueError: If there are not as many values, or boundaries are out of order.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.PiecewiseConstantDecay([10, 20], [0.4, 0.2, 0.1])
      >>> print(schedule(10), schedule(11), schedule(99))
      0.4 0.2 0.1
    """

    boundaries: Sequence[float]
    values: Sequence[float]
    name: str | None = None

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.values) - 1:
            raise ValueError(
                "The length of boundaries should be 1 less than the length of values, "
                f"got {len(self.boundaries)} boundaries and {len(self.values)} values."
            )
        if list(self.boundaries) != sorted(self.boundaries):
            raise ValueError(
                f"`boundaries` must be in ascending order, got {self.boundaries}."
            )
        for value in self.values:
            check_hyperparameter("values", value)

    def __call__(self, step: ArrayLike) -> jax.Array:
        """The learning rate at ``step``, float32 of shape ()."""
        passed = _float32(step) > jnp.array(list(self.boundaries), jnp.float32)
        return jnp.array(list(self.values), jnp.float32)[jnp.sum(passed)]

    def get_config(self) -> dict[str, Any]:
        """The arguments that it was made with, sequences as lists."""
        return {
            "boundaries": list(self.boundaries),
            "values": list(self.values),
            "name": self.name,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class PolynomialDecay(LearningRateSchedule):
    r"""A rate that goes from one value to another as a power of the time left.

    .. math::

        \eta_t = (\text{initial} - \text{end})
            \Big(1 - \frac{\min(t, s)}{s}\Big)^{\text{power}} + \text{end}

    with :math:`s` the ``decay_steps``, or, with ``cycle``, its least multiple that is
    not below :math:`t`, so that the rate jumps up again.

    Args:
      initial_learning_rate: The rate at step 0.
      decay_steps: When it has arrived, more than 0.
      end_learning_rate: Where it arrives.
      power: Its shape: 1 is a straight line.
      cycle: Whether to go on beyond ``decay_steps``.
      name: Kept for ``get_config`` only.

    Raises:
      TypeError, ValueError: If an argument is no number, or is out of range.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.PolynomialDecay(1.0, 10, end_learning_rate=0.0)
      >>> print(schedule(5), schedule(99))
      0.5 0.0
    """

    initial_learning_rate: float
    decay_steps: int
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, positive=("decay_steps",), others=("end_learning_rate", "power"))

    def __call__(self, step: ArrayLike) -> jax.Array:
        """The learning rate at ``step``, float32 of shape ()."""
        total = _float32(self.decay_steps)
        if self.cycle:
            total *= jnp.maximum(1, -_whole_times(-jnp.asarray(step), self.decay_steps))
        # Not 1 - step / total, which may come out below 0.
        left = jnp.maximum(0, total - _float32(step)) / total
        end = _float32(self.end_learning_rate)
        share = left ** _float32(self.power)
        return (_float32(self.initial_learning_rate) - end) * share + end


@dataclasses.dataclass(frozen=True, eq=False)
class CosineDecay(LearningRateSchedule):
    r"""A rate that falls along half a wave, after a straight rise if asked for.

    .. math::

        \eta_t = \text{top} \cdot \Big((1 - \alpha)\,
            \frac{1 + \cos(\pi \min(t', s) / s)}{2} + \alpha\Big)

    with :math:`s` the ``decay_steps``, and ``top`` the ``initial_learning_rate`` and
    :math:`t' = t`, or, with ``warmup_target``, that and
    :math:`t' = t - \text{warmup\_steps}`.

    Args:
      initial_learning_rate: The rate at step 0.
      decay_steps: How long it falls, more than 0.
      alpha: What is left of it at the end, as a share of where it began to fall.
      name: Kept for ``get_config`` only.
      warmup_target: Where a straight rise ends. None: no rise.
      warmup_steps: How long that rise takes.

    Raises:
      TypeError, ValueError: If an argument is no number, or is out of range.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.CosineDecay(0.0, 10, warmup_target=1.0, warmup_steps=4)
      >>> print(schedule(2), schedule(4), schedule(9), schedule(14))
      0.5 1.0 0.5 0.0

    References:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
      ICLR 2017, Equation 5.
    """

    initial_learning_rate: float
    decay_steps: int
    alpha: float = 0.0
    name: str | None = None
    warmup_target: float | None = None
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check(self, positive=("decay_steps",), others=("alpha", "warmup_steps"))
        if self.warmup_target is not None:
            check_hyperparameter("warmup_target", self.warmup_target)

    def __call__(self, step: ArrayLike) -> jax.Array:
        """The learning rate at ``step``, float32 of shape ()."""
        step, initial = _float32(step), _float32(self.initial_learning_rate)
        if self.warmup_target is None:
            return initial * self._share(step)
        top, rise = _float32(self.warmup_target), _float32(self.warmup_steps)
        rising = initial + (top - initial) * step / jnp.maximum(1, rise)
        return jnp.where(step < rise, rising, top * self._share(step - rise))

    def _share(self, step: jax.Array) -> jax.Array:
        done = jnp.clip(step / _float32(self.decay_steps), 0, 1)
        return _half_wave(done, _float32(self.alpha))


@dataclasses.dataclass(frozen=True, eq=False)
class CosineDecayRestarts(LearningRateSchedule):
    r"""A rate that falls along half a wave, again and again.

    .. math::

        \eta_t = \text{initial\_learning\_rate} \cdot \Big((1 - \alpha)\,
            \text{m\_mul}^i\, \frac{1 + \cos(\pi\, t_i / s_i)}{2} + \alpha\Big)

    in the i-th fall, from 0, with :math:`t_i` the steps since it began and :math:`s_i =
    \text{first\_decay\_steps} \cdot \text{t\_mul}^i` its length.

    Args:
      initial_learning_rate: The rate at step 0.
      first_decay_steps: How long the first fall takes, more than 0.
      t_mul: How many times as long as the one before a fall takes, at least 1.
      m_mul: How many times as high it begins.
      alpha: What is left at the end of a fall, as a share of the rate at step 0.
      name: Kept for ``get_config`` only.

    Raises:
      TypeError, ValueError: If an argument is no number, or is out of range.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedule = schedules.CosineDecayRestarts(1.0, 10, t_mul=2.0, m_mul=0.5)
      >>> print(schedule(5), schedule(10), schedule(20))
      0.5 0.5 0.25

    References:
      Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts",
      ICLR 2017, Section 3.
    """

    initial_learning_rate: float
    first_decay_steps: int
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str | None = None

    def __post_init__(self) -> None:
        _check(self, positive=("first_decay_steps",), others=("m_mul", "alpha"))
        check_hyperparameter("t_mul", self.t_mul, positive=True)
        if self.t_mul < 1:
            raise ValueError(f"`t_mul` must be at least 1, got {self.t_mul!r}.")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """The learning rate at ``step``, float32 of shape ()."""
        ratio = _float32(self.t_mul)
        if self.t_mul == 1:
            number = _whole_times(step, self.first_decay_steps)
            begun = number * self.first_decay_steps
        else:
            falls = _float32(step) / _float32(self.first_decay_steps)
            number = jnp.floor(jnp.log(1 + falls * (ratio - 1)) / math.log(self.t_mul))
            # The logarithm may be off where one fall ends and the next begins.
            number += jnp.where(self._begin(number + 1) <= _float32(step), 1, 0)
            number -= jnp.where(self._begin(number) > _float32(step), 1, 0)
            begun = self._begin(number)
        length = _float32(self.first_decay_steps) * ratio**number
        wave = _half_wave(
            (_float32(step) - begun) / length,
            _float32(self.alpha),
            _float32(self.m_mul) ** number,
        )
        return _float32(self.initial_learning_rate) * wave

    def _begin(self, number: jax.Array) -> jax.Array:
        """The step at which a fall begins, if they become longer."""
        ratio = _float32(self.t_mul)
        return _float32(self.first_decay_steps) * (ratio**number - 1) / (ratio - 1)


_BY_NAME: dict[str, type[LearningRateSchedule]] = {
    schedule.__name__: schedule
    for schedule in (
        ExponentialDecay,
        InverseTimeDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
        CosineDecay,
        CosineDecayRestarts,
    )
}


def serialize(schedule: LearningRateSchedule) -> dict[str, Any]:
    """``{"class_name": ..., "config": ...}``, as TensorFlow writes it.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> schedules.serialize(schedules.PiecewiseConstantDecay([5], [0.2, 0.1]))
      {'class_name': 'PiecewiseConstantDecay',
       'config': {'boundaries': [5], 'values': [0.2, 0.1], 'name': None}}
    """
    return {"class_name": type(schedule).__name__, "config": schedule.get_config()}


def deserialize(
    config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
) -> LearningRateSchedule:
    """The schedule that ``config`` describes, TensorFlow's or Keras 3's.

    Args:
      config: What :func:`serialize` gave. No module that it may name is imported.
      custom_objects: Classes by the names that ``config`` may use for them.

    Raises:
      ValueError: If the name is of no schedule here, nor in ``custom_objects``.

    Example:
      >>> from adagrad_jax.keras import schedules
      >>> config = {"boundaries": [5], "values": [0.2, 0.1]}
      >>> schedules.deserialize(
      ...     {"class_name": "PiecewiseConstantDecay", "config": config}
      ... )
      PiecewiseConstantDecay(boundaries=[5], values=[0.2, 0.1], name=None)
    """
    known = {**_BY_NAME, **(custom_objects or {})}
    name = config.get("class_name")
    if name not in known:
        raise ValueError(
            f"Unknown learning rate schedule: {name!r}; known are {', '.join(known)}. "
            "Pass its class in `custom_objects`."
        )
    return known[name].from_config(config["config"])


def _check(schedule: Any, positive: Sequence[str], others: Sequence[str]) -> None:
    for name in positive:
        check_hyperparameter(name, getattr(schedule, name), positive=True)
    for name in ("initial_learning_rate", *others):
        check_hyperparameter(name, getattr(schedule, name))


def _float32(value: ArrayLike) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _whole_times(step: ArrayLike, steps: float) -> jax.Array:
    """How often ``steps`` goes into ``step``, rounded down.

    In integers where it can be: compiled, a division by a constant may be a product
    with its rounded inverse, and a multiple come out just below a whole number.
    """
    if isinstance(steps, int) and jnp.issubdtype(jnp.result_type(step), jnp.integer):
        return _float32(jnp.asarray(step) // steps)
    return jnp.floor(_float32(step) / _float32(steps))


def _half_wave(done: jax.Array, alpha: jax.Array, height: ArrayLike = 1.0) -> jax.Array:
    """From ``height``, times ``1 - alpha``, to 0 as ``done`` goes to 1; and alpha."""
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * done))
    return (1 - alpha) * height * cosine + alpha
