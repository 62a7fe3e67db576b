"""What a Keras 3 optimizer does around its update: accumulate before, average after."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import full_like
from adagrad_jax._adagrad import scale_by
from adagrad_jax._checks import (
    check_fits_params,
    check_fits_state,
    check_hyperparameter,
    check_hyperparameters,
    check_leaves,
    check_row_sparse,
    check_state,
)
from adagrad_jax._clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from adagrad_jax._decay import add_decayed_weights
from adagrad_jax._trees import ArrayTree


def chain(
    before: list[Any], rated: list[Any], by_rate: Any
) -> optax.GradientTransformationExtraArgs:
    return optax.chain(*before, *rated, by_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keras3Options:
    """The arguments that all of Keras 3's optimizers have, in the order of its configs.

    :func:`adagrad_jax.dialects.keras3` says what each means.
    """

    weight_decay: ArrayLike | None = None
    clipnorm: ArrayLike | None = None
    global_clipnorm: ArrayLike | None = None
    clipvalue: ArrayLike | None = None
    use_ema: bool = False
    ema_momentum: ArrayLike = 0.99
    ema_overwrite_frequency: int | None = None
    loss_scale_factor: ArrayLike | None = None
    gradient_accumulation_steps: int | None = None

    def __post_init__(self) -> None:
        check_hyperparameters(
            **given(
                weight_decay=self.weight_decay,
                clipnorm=self.clipnorm,
                clipvalue=self.clipvalue,
                global_clipnorm=self.global_clipnorm,
            )
        )
        check_count("gradient_accumulation_steps", self.gradient_accumulation_steps, 2)
        check_count("ema_overwrite_frequency", self.ema_overwrite_frequency, 1)
        check_hyperparameters(ema_momentum=self.ema_momentum)
        if isinstance(self.ema_momentum, int | float) and self.ema_momentum > 1:
            raise ValueError(
                f"`ema_momentum` must be in [0, 1], got {self.ema_momentum!r}."
            )
        if self.loss_scale_factor is not None:
            check_hyperparameter(
                "loss_scale_factor", self.loss_scale_factor, positive=True
            )

    @property
    def changes_all_rows(self) -> bool:
        """Whether steps change all of a table, even if its weights do not decay."""
        overwrites = self.use_ema and self.ema_overwrite_frequency is not None
        return overwrites or self.gradient_accumulation_steps is not None

    def around(
        self,
        scale: optax.GradientTransformation,
        by_rate: optax.GradientTransformation,
        decay_mask: Any = None,
        *,
        chain: Callable[..., optax.GradientTransformation] = chain,
    ) -> optax.GradientTransformationExtraArgs:
        """All of Keras 3's step, in its order.

        Args:
          scale: What makes the optimizer what it is, without a learning rate.
          by_rate: The learning rate. It comes after weight decay, which is decoupled.
          decay_mask: Which parameters decay; see ``add_decayed_weights``.
          chain: What puts clips, ``scale`` with the decay, and ``by_rate`` together:
            ``chain_with_rate`` if ``scale`` is ``scale_by_adagrad``.
        """
        clips = {
            clip_by_norm: self.clipnorm,
            clip_by_value: self.clipvalue,
            clip_by_global_norm: self.global_clipnorm,
        }
        decay = self.weight_decay
        calls = self.gradient_accumulation_steps or 1
        decays = [] if decay is None else [decay_whole_params(decay, decay_mask)]
        clips = [clip(bound) for clip, bound in clips.items() if is_set(bound)]
        step = chain(clips, [scale, *decays], by_rate)
        if calls > 1:
            step = accumulate_gradients(step, calls)
        factor, frequency = self.loss_scale_factor, self.ema_overwrite_frequency
        average = average_params(self.ema_momentum, frequency, calls)
        return optax.chain(
            *([scale_by(1 / factor)] if factor is not None else []),
            step,
            *([average] if self.use_ema else []),
        )


def given(**values: ArrayLike | None) -> dict[str, ArrayLike]:
    """Those of the optional arguments that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def is_set(value: ArrayLike | None) -> TypeGuard[ArrayLike]:
    """Whether an optional argument is neither None nor the number 0."""
    return value is not None and not (isinstance(value, int | float) and value == 0)


def check_count(name: str, value: Any, least: int) -> None:
    """Raises ValueError unless ``value`` is None or an integer that is large enough."""
    if value is not None and not (isinstance(value, int) and value >= least):
        raise ValueError(
            f"`{name}` must be an integer >= {least} or None, got {value!r}"
            f"{_if_injected(name, value)}."
        )


def _if_injected(name: str, value: Any) -> str:
    """What to do where a number has become an array that need not be known."""
    if not isinstance(value, jax.Array):
        return ""
    return (
        f"; optax.inject_hyperparams leaves it a number if {name!r} is in static_args="
    )


def decay_whole_params(
    weight_decay: ArrayLike, mask: Any = None
) -> optax.GradientTransformationExtraArgs:
    """Decays whole leaves, as Keras 3 does; PyTorch too refuses sparse gradients."""

    def refuse_rows(updates: Any, _: optax.Params | None) -> Any:
        check_leaves(updates, "gradient")
        reason = "`weight_decay` is of whole parameters here"
        injected = _if_injected("weight_decay", weight_decay)
        check_row_sparse(updates, f"{reason}{injected}")
        return updates

    decay = optax.chain(optax.stateless(refuse_rows), add_decayed_weights(weight_decay))
    return optax.with_extra_args_support(
        decay if mask is None else optax.masked(decay, mask)
    )


class AccumulateGradientsState(NamedTuple):
    """What `accumulate_gradients` remembers.

    Attributes:
      calls: How often it was called, shape (), int32.
      gradient_sum: The gradients since the last update, a tree like theirs.
      inner_state: The wrapped transformation's.
    """

    calls: jax.Array
    gradient_sum: ArrayTree
    inner_state: Any


def accumulate_gradients(
    inner: optax.GradientTransformation, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Calls ``inner`` once every ``steps`` calls, with the mean of their gradients.

    ``optax.MultiSteps`` will not do: its sums are float32 for float64 parameters too,
    and drop imaginary parts.
    """
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> AccumulateGradientsState:
        return AccumulateGradientsState(
            calls=jnp.zeros((), jnp.int32),
            gradient_sum=jax.tree.map(lambda p: full_like(p, 0), params),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, AccumulateGradientsState]:
        check_leaves(updates, "gradient")
        check_row_sparse(updates, "gradients are accumulated in arrays")
        check_state(state, AccumulateGradientsState)
        check_fits_state(updates, state.gradient_sum, full_like)
        updates = jax.tree.map(jnp.asarray, updates)
        total = jax.tree.map(
            lambda s, g: s + g.astype(s.dtype), state.gradient_sum, updates
        )

        def apply(total: Any, inner_state: Any) -> tuple[Any, Any, Any]:
            mean = jax.tree.map(
                lambda s, g: (s / steps).astype(g.dtype), total, updates
            )
            new_updates, inner_state = inner.update(
                mean, inner_state, params, **extra_args
            )
            return new_updates, jax.tree.map(jnp.zeros_like, total), inner_state

        def wait(total: Any, inner_state: Any) -> tuple[Any, Any, Any]:
            return jax.tree.map(jnp.zeros_like, updates), total, inner_state

        calls = state.calls + 1
        new_updates, total, inner_state = jax.lax.cond(
            calls % steps == 0, apply, wait, total, state.inner_state
        )
        return new_updates, AccumulateGradientsState(calls, total, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AverageParamsState(NamedTuple):
    """What `average_params` remembers.

    Attributes:
      calls: How often it was called, shape (), int32.
      average: The moving average of the parameters, a tree like theirs.
    """

    calls: jax.Array
    average: ArrayTree


def average_params(
    momentum: ArrayLike, overwrite_frequency: int | None, steps: int
) -> optax.GradientTransformationExtraArgs:
    """Averages the parameters as they will be after these updates; the last in a chain.

    Args:
      momentum: The share of the average that stays at each call; 0 until the first
        update has been done.
      overwrite_frequency: After so many updates, again and again, the parameters
        become their average.
      steps: How many calls make one update.
    """

    def init_fn(params: optax.Params) -> AverageParamsState:
        return AverageParamsState(
            calls=jnp.zeros((), jnp.int32),
            average=jax.tree.map(lambda p: full_like(p, 0), params),
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, AverageParamsState]:
        del extra_args
        check_state(state, AverageParamsState)
        check_fits_params(updates, params)
        updates_done = state.calls // steps
        share = jnp.where(updates_done == 0, 0, jnp.asarray(momentum, float))

        def mix(average: jax.Array, param: jax.Array) -> jax.Array:
            kept = share.astype(param.dtype)
            return kept * average + (1 - kept) * param

        average = jax.tree.map(mix, state.average, optax.apply_updates(params, updates))
        if overwrite_frequency is not None:
            check_row_sparse(updates, "`ema_overwrite_frequency` changes all rows")
            overwrite = (updates_done + 1) % overwrite_frequency == 0
            updates = jax.tree.map(
                lambda u, a, p: jnp.where(
                    overwrite, (a - p).astype(jnp.result_type(u)), u
                ),
                updates,
                average,
                params,
            )
        return updates, AverageParamsState(state.calls + 1, average)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
