"""The order of operations in 16 bits, where it shows.

Of a small gradient in float16, learning rate times gradient may be so small that it is
rounded by half of itself, or to 0; the quotient of gradient and root is not. Which of
the two a framework multiplies or divides first makes other numbers, so for leaves of
less than 32 bits the dialects multiply by the rate where the framework does.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from adagrad_jax._checks import check_state
from adagrad_jax._precision import is_narrow

FactorIn = Callable[[DTypeLike], jax.Array]
"""From the dtype of a gradient to what multiplies it before it is divided."""


def chain_with_rate(
    before: Sequence[optax.GradientTransformation],
    rated: Sequence[optax.GradientTransformation],
    by_rate: optax.GradientTransformation,
    after: Sequence[optax.GradientTransformation] = (),
    *,
    rate_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """``optax.chain(*before, *rated, by_rate, *after)``, of the same state.

    Only that leaves of less than 32 bits are multiplied by the rate in ``rated``: these
    get ``factor_in``, and must use it.

    Args:
      before: What comes first.
      rated: ``scale_by_adagrad``, and what may come between it and the rate.
      by_rate: What multiplies by the learning rate, with its sign.
      after: What comes last.
      rate_dtype: In what to multiply and divide such leaves; None for their own dtype.
    """
    parts = [*before, *rated, by_rate, *after]
    parts = [optax.with_extra_args_support(part) for part in parts]
    first, last = len(before), len(before) + len(rated)

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        check_state(state, tuple)

        def factor_in(dtype: DTypeLike) -> jax.Array:
            one = jnp.ones((), rate_dtype or dtype)
            factor: Any = parts[last].update(one, state[last], **extra_args)[0]
            return factor

        states: list[Any] = []
        for place, (part, kept) in enumerate(zip(parts, state, strict=True)):
            more = {"factor_in": factor_in} if first <= place < last else {}
            new, kept = part.update(updates, kept, params, **extra_args, **more)
            if place == last:
                new = jax.tree.map(_where_wide, new, updates)
            updates = new
            states.append(kept)
        return updates, tuple(states)

    return optax.GradientTransformationExtraArgs(
        lambda params: tuple(part.init(params) for part in parts), update_fn
    )


def _where_wide(update: Any, if_narrow: Any) -> Any:
    return if_narrow if is_narrow(if_narrow.dtype) else update


def without_rate(
    scale: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """``scale`` with its 16-bit arithmetic, where the rate comes afterwards."""

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, Any]:
        def one(dtype: DTypeLike) -> jax.Array:
            return jnp.ones((), dtype)

        more: Any = {**extra_args, "factor_in": one}
        return scale.update(updates, state, params, **more)

    return optax.GradientTransformationExtraArgs(scale.init, update_fn)
