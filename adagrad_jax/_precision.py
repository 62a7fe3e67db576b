"""In which precision squares are taken and summed.

A float16 square overflows at 256, and a bfloat16 sum stops growing once a square is
less than about 1/256 of it. So arithmetic on squares is in float32 or wider, whatever
the dtypes of gradients and accumulators are.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def at_least_float32(*dtypes: DTypeLike) -> jnp.dtype:
    """What to sum squares in: float64 if any has 64-bit parts, else float32."""
    wide = any(jnp.finfo(dtype).bits == 64 for dtype in dtypes)
    return jnp.dtype(jnp.float64 if wide else jnp.float32)


def is_narrow(dtype: DTypeLike) -> bool:
    """Whether it is a floating-point dtype of less than 32 bits."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


def widest(*dtypes: DTypeLike) -> jnp.dtype:
    """One that holds the numbers of each, also where JAX is not to promote dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.dtype(functools.reduce(jnp.promote_types, dtypes))


def squared_magnitude(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """``|x|^2`` elementwise in the real ``dtype``; for complex x, re^2 + im^2."""
    if jnp.iscomplexobj(x):
        # Not abs(x)**2: the derivative of abs at 0 is not defined.
        return squared_magnitude(x.real, dtype) + squared_magnitude(x.imag, dtype)
    x = x.astype(dtype)
    return x * x


def cast(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """``x`` with parts of the real ``dtype``: a complex array stays complex."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(x.real.astype(dtype), x.imag.astype(dtype))
    return x.astype(dtype)
