"""What a weight begins with, by the names that Keras has for it."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Shape = Sequence[int]


def initial_value(initializer: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """The array that ``initializer`` gives.

    Args:
      initializer: One of Keras' names; a function of shape and dtype, Keras' or JAX'
        initializers among them, or the class of one; or the value itself.
      shape: What a function is asked for.
      dtype: The same; a value is converted to it.

    Raises:
      TypeError: If it is None, or gives no array.
      ValueError: If it is an unknown name.
    """
    if isinstance(initializer, str):
        if initializer not in _BY_NAME:
            raise ValueError(
                f"Unknown initializer: {initializer}; known: {', '.join(_BY_NAME)}."
            )
        initializer = _BY_NAME[initializer]
    if isinstance(initializer, type):
        initializer = initializer()
    if initializer is None:
        raise TypeError(
            "`initializer` must be a name, a function or a value, got None."
        )
    if callable(initializer):
        first = next(iter(inspect.signature(initializer).parameters), None)
        key = (_key(),) if first == "key" else ()  # those of JAX
        initializer = initializer(*key, shape, dtype)
    try:
        return jnp.asarray(np.asarray(initializer), dtype)
    except TypeError as error:
        raise TypeError(
            f"`initializer` must be a name, a function or a value, got {initializer!r}."
        ) from error


def _key() -> jax.Array:
    """From NumPy's generator, so that its seed repeats a program's random numbers."""
    return jax.random.key(np.random.randint(2**31 - 1))


def _random(draw: Callable[..., jax.Array], scale: float) -> Callable[..., jax.Array]:
    return lambda shape, dtype: draw(_key(), shape, dtype) * jnp.asarray(scale, dtype)


def _scaled(
    scale: float, fan: str, draw: Callable[..., jax.Array], variance: float
) -> Callable[..., jax.Array]:
    """Random numbers of variance ``scale`` over the mean, or first, of both fans."""

    def make(shape: Shape, dtype: Any) -> jax.Array:
        field = math.prod(shape[:-2])
        fan_in = field * shape[-2 if len(shape) > 1 else -1] if shape else 1
        fan_out = field * shape[-1] if shape else 1
        count = max(1.0, fan_in if fan == "in" else (fan_in + fan_out) / 2)
        return _random(draw, math.sqrt(scale / count / variance))(shape, dtype)

    return make


def _orthogonal(shape: Shape, dtype: Any) -> jax.Array:
    return jax.nn.initializers.orthogonal()(_key(), shape, dtype)


def _identity(shape: Shape, dtype: Any) -> jax.Array:
    if len(shape) != 2:
        raise ValueError(f"an identity matrix must have 2 axes, got shape {shape}.")
    return jnp.eye(*shape, dtype=dtype)


def _uniform(key: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
    return jax.random.uniform(key, tuple(shape), dtype, -1.0, 1.0)  # variance 1/3


def _truncated(key: jax.Array, shape: Shape, dtype: Any) -> jax.Array:
    return jax.random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype)


_TRUNCATED = 0.87962566103423978**2  # the variance of that
_BY_NAME: dict[str, Callable[..., jax.Array]] = {
    "zeros": jnp.zeros,
    "ones": jnp.ones,
    "constant": jnp.zeros,  # Keras' default constant
    "normal": _random(jax.random.normal, 0.05),
    "random_normal": _random(jax.random.normal, 0.05),
    "uniform": _random(_uniform, 0.05),
    "random_uniform": _random(_uniform, 0.05),
    "truncated_normal": _random(_truncated, 0.05),
    "glorot_normal": _scaled(1.0, "both", _truncated, _TRUNCATED),
    "glorot_uniform": _scaled(1.0, "both", _uniform, 1 / 3),
    "he_normal": _scaled(2.0, "in", _truncated, _TRUNCATED),
    "he_uniform": _scaled(2.0, "in", _uniform, 1 / 3),
    "lecun_normal": _scaled(1.0, "in", _truncated, _TRUNCATED),
    "lecun_uniform": _scaled(1.0, "in", _uniform, 1 / 3),
    "orthogonal": _orthogonal,
    "identity": _identity,
}
_BY_NAME.update(
    {name.title().replace("_", ""): function for name, function in _BY_NAME.items()}
)
_BY_NAME["VarianceScaling"] = _BY_NAME["lecun_normal"]
