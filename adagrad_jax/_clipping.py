"""Clipping of gradients, to be chained before :func:`adagrad_jax.adagrad`."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._checks import check_hyperparameter, check_leaves
from adagrad_jax._precision import at_least_float32, squared_magnitude


def clip_by_value(
    max_abs: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    """Clips each number to ``[-max_abs, max_abs]`` (Keras' ``clipvalue``).

    Args:
      max_abs: The bound, at least 0; infinity clips nothing.

    Returns:
      A stateless Optax transformation, which keeps shapes and dtypes.

    Raises:
      TypeError: If ``max_abs`` is no number, or a leaf is not real floating-point
        (complex numbers have no order: use :func:`clip_by_norm`).
      ValueError: If ``max_abs`` is negative or NaN.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> clip = aj.clip_by_value(0.5)
      >>> gradient = jnp.array([-3.0, 0.25, 1.0])
      >>> print(clip.update(gradient, clip.init(gradient))[0])
      [-0.5   0.25  0.5 ]
    """
    check_hyperparameter("max_abs", max_abs, infinity=True)

    def clip(gradient: jax.Array) -> jax.Array:
        bound = jnp.asarray(max_abs, gradient.dtype)
        return jnp.clip(gradient, -bound, bound)

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient", real_because="complex numbers have no order")
        return jax.tree.map(lambda g: clip(jnp.asarray(g)), updates)

    return optax.with_extra_args_support(optax.stateless(update))


def clip_by_norm(
    max_norm: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales each leaf down to a Euclidean norm of at most ``max_norm``.

    .. math::

        g \leftarrow g \cdot \min(1, \text{max\_norm} / \lVert g \rVert_2)

    for every leaf by itself (Keras' ``clipnorm``); :func:`clip_by_global_norm` takes
    one norm for all. A leaf of zeros stays as it is, also with ``max_norm=0``.

    Args:
      max_norm: The bound, at least 0; infinity clips nothing.

    Returns:
      A stateless Optax transformation, which keeps shapes and dtypes. Norms are taken
      in float32 or wider.

    Raises:
      TypeError: If ``max_norm`` is no number, or a leaf is neither floating-point nor
        complex.
      ValueError: If ``max_norm`` is negative or NaN.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> clip = aj.clip_by_norm(1.0)
      >>> gradients = {"b": jnp.array([0.5]), "w": jnp.array([3.0, 4.0])}
      >>> print(clip.update(gradients, clip.init(gradients))[0])
      {'b': Array([0.5], dtype=float32), 'w': Array([0.6, 0.8], dtype=float32)}

    References:
      Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
      networks", ICML 2013, Algorithm 1.
    """
    check_hyperparameter("max_norm", max_norm, infinity=True)

    def clip(gradient: jax.Array) -> jax.Array:
        return _shrink(gradient, _sum_of_squares([gradient]), max_norm)

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient")
        return jax.tree.map(lambda g: clip(jnp.asarray(g)), updates)

    return optax.with_extra_args_support(optax.stateless(update))


def clip_by_global_norm(
    max_norm: ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales all leaves by one factor, to a joint norm of at most ``max_norm``.

    .. math::

        g \leftarrow g \cdot \min(1, \text{max\_norm} / n), \qquad
        n^2 = \sum_{\text{leaves}} \lVert g \rVert_2^2

    which keeps the direction of the whole gradient. Unlike ``optax``'s function of this
    name it does not turn zeros into NaN with ``max_norm=0``, and float16 leaves do not
    overflow: squares are summed in float32 or wider.

    Args:
      max_norm: The bound, at least 0; infinity clips nothing.

    Returns:
      A stateless Optax transformation, which keeps shapes and dtypes. A NaN anywhere
      makes all of the gradients NaN, so that it is noticed.

    Raises:
      TypeError: If ``max_norm`` is no number, or a leaf is neither floating-point nor
        complex.
      ValueError: If ``max_norm`` is negative or NaN.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> clip = aj.clip_by_global_norm(1.0)
      >>> gradients = {"b": jnp.array([3.0]), "w": jnp.array([0.0, 4.0])}
      >>> print(clip.update(gradients, clip.init(gradients))[0])
      {'b': Array([0.6], dtype=float32), 'w': Array([0. , 0.8], dtype=float32)}

    References:
      Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural
      networks", ICML 2013, Algorithm 1.
    """
    check_hyperparameter("max_norm", max_norm, infinity=True)

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient")
        updates = jax.tree.map(jnp.asarray, updates)
        sum_of_squares = _sum_of_squares(jax.tree.leaves(updates))
        return jax.tree.map(lambda g: _shrink(g, sum_of_squares, max_norm), updates)

    return optax.with_extra_args_support(optax.stateless(update))


def _sum_of_squares(leaves: list[jax.Array]) -> jax.Array:
    dtype = at_least_float32(*(leaf.dtype for leaf in leaves))
    zero = jnp.zeros((), dtype)
    return sum((jnp.sum(squared_magnitude(leaf, dtype)) for leaf in leaves), zero)


def _shrink(
    gradient: jax.Array, sum_of_squares: jax.Array, max_norm: ArrayLike
) -> jax.Array:
    """``gradient * min(1, max_norm / sqrt(sum_of_squares))``."""
    dtype = sum_of_squares.dtype
    bound = jnp.asarray(max_norm, dtype)
    # A NaN norm is not within: it must reach the gradient. Within, sqrt and division
    # are kept away from 0 for the sake of derivatives.
    within = jnp.sqrt(jax.lax.stop_gradient(sum_of_squares)) <= bound
    norm = jnp.sqrt(jnp.where(within, 1, sum_of_squares))
    factor = jnp.where(within, 1, bound / norm)
    if jnp.iscomplexobj(gradient):
        return gradient * factor.astype(gradient.dtype)
    return (gradient.astype(dtype) * factor).astype(gradient.dtype)
