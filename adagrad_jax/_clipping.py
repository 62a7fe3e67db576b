"""Bounds: on gradients, before :func:`adagrad_jax.adagrad`; on rows' norms, after."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.memory import check_row_axes
from adagrad_jax._checks import check_fits_params, check_hyperparameter, check_leaves
from adagrad_jax._precision import at_least_float32, cast, squared_magnitude
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import grouped, map_rows, rows_of, sum_of_squares
from adagrad_jax._trees import LeafError, map_given


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

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient", real_because="complex numbers have no order")
        return jax.tree.map(lambda g: map_rows(g, _clip, max_abs), updates)

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
    return _clip_by_norm(max_norm, lambda leaves: [[leaf] for leaf in leaves])


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
    return _clip_by_norm(max_norm, lambda leaves: [leaves])


def global_norm(tree: Any) -> jax.Array:
    r"""The Euclidean norm of all leaves of ``tree`` together.

    .. math::

        n = \sqrt{\sum_{\text{leaves}} \lVert g \rVert_2^2}

    ``optax.global_norm`` that also takes a :class:`RowSparse`, whose repeated rows are
    summed first: it is the norm of the gradient, not of its entries.

    Args:
      tree: Gradients, updates or parameters, of any shapes.

    Returns:
      A number of shape (), in float32 or wider, so that no float16 square overflows.

    Raises:
      TypeError: If a leaf is neither floating-point nor complex.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> rows = aj.RowSparse([1, 1], jnp.array([[1.0], [2.0]]), (4, 1))
      >>> print(aj.global_norm({"table": rows, "bias": jnp.array([4.0])}))
      5.0
    """
    leaves = _gradient_leaves(tree)[0]
    return jnp.sqrt(_sum_of_squares(leaves))


def _sum_of_squares(leaves: list[Any]) -> jax.Array:
    total = jnp.zeros((), at_least_float32(*(leaf.dtype for leaf in leaves)))
    for leaf in leaves:
        total += sum_of_squares(leaf, total.dtype)
    return total


def _gradient_leaves(tree: Any) -> tuple[list[Any], Any]:
    """Leaves whose distinct rows are known, and the tree's structure."""
    check_leaves(tree, "gradient")
    leaves, structure = jax.tree.flatten(tree)
    return list(map(grouped, leaves)), structure


def _clip_by_norm(
    max_norm: ArrayLike, grouping: Callable[[list[Any]], list[list[Any]]]
) -> optax.GradientTransformationExtraArgs:
    """Leaves of one group have one norm, and are scaled by one factor."""
    check_hyperparameter("max_norm", max_norm, infinity=True)

    def clip(leaves: list[Any]) -> list[Any]:
        total = _sum_of_squares(leaves)
        return [map_rows(leaf, _shrink, total, max_norm) for leaf in leaves]

    def update(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
        leaves, structure = _gradient_leaves(updates)
        groups = map(clip, grouping(leaves))
        return structure.unflatten([leaf for group in groups for leaf in group])

    return optax.with_extra_args_support(optax.stateless(update))


def cap_row_norms(
    max_norm: ArrayLike, *, row_axes: int | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps each row of the parameters at a Euclidean norm of at most ``max_norm``.

    .. math::

        \theta[r] + u[r] \leftarrow (\theta[r] + u[r])
        \min(1, \text{max\_norm} / \lVert \theta[r] + u[r] \rVert_2)

    It caps parameters, not gradients, and so comes last in a chain, after the learning
    rate. The first axis counts rows, or the first ``row_axes`` axes. Of a table with a
    :class:`RowSparse` gradient only the rows in it are looked at; others have not
    moved.

    Args:
      max_norm: The bound, at least 0; infinity caps nothing.
      row_axes: How many axes, the first ones, count rows, 1 if None; see
        :class:`RowWise`.

    Returns:
      A stateless Optax transformation, which needs ``params`` in ``update`` and gives
      updates in their dtype. Norms are taken in float32 or wider.

    Raises:
      TypeError: If ``max_norm`` is no number, or a leaf is neither floating-point nor
        complex.
      ValueError: If ``max_norm`` is negative or NaN; if ``update`` is called without
        ``params``, or with others than the updates belong to, or with a gradient whose
        rows are named by more axes.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> cap = aj.cap_row_norms(5.0)
      >>> table, updates = jnp.zeros((2, 2)), jnp.array([[6.0, 8.0], [1.0, 0.0]])
      >>> capped, _ = cap.update(updates, cap.init(table), table)
      >>> print(aj.apply_updates(table, capped))
      [[3. 4.]
       [1. 0.]]

    References:
      FBGEMM's ``max_norm`` of ``EXACT_ROWWISE_ADAGRAD``.
    """
    check_hyperparameter("max_norm", max_norm, infinity=True)
    # Not 1 from the start, of which optax.inject_hyperparams would make an array.
    num_axes = 1 if row_axes is None else row_axes
    check_row_axes(num_axes)

    def cap(update: Any, param: Any) -> Any:
        if isinstance(update, RowSparse) and update.row_axes > num_axes:
            raise LeafError(
                f"its rows are named by {update.row_axes} axes, but cap_row_norms() "
                f"caps those of {num_axes}; tell it row_axes={update.row_axes}."
            )
        inside = max(jnp.ndim(param) - num_axes, 0)
        return map_rows(update, _Cap(inside), rows_of(param), max_norm)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        check_leaves(updates, "gradient")
        check_fits_params(updates, params)
        return map_given(cap, updates, params)

    return optax.with_extra_args_support(optax.stateless(update_fn))


@dataclasses.dataclass(frozen=True)
class _Cap:
    inside: int  # how many axes, the last ones, are in a row

    def __call__(
        self, update: jax.Array, param: jax.Array, max_norm: ArrayLike
    ) -> jax.Array:
        dtype = at_least_float32(update.dtype, param.dtype)
        old = cast(param, dtype)
        new = old + cast(update, dtype)
        inside = tuple(range(new.ndim - self.inside, new.ndim))
        total = jnp.sum(squared_magnitude(new, dtype), axis=inside, keepdims=True)
        # A row within the bound moves by its update, not by a rounded difference.
        within = jnp.sqrt(jax.lax.stop_gradient(total)) <= jnp.asarray(max_norm, dtype)
        capped = _shrink(new, total, max_norm) - old
        # In the parameter's dtype: rounded to less, it might miss the bound.
        return jnp.where(within, cast(update, dtype), capped).astype(param.dtype)


def _clip(gradient: jax.Array, max_abs: ArrayLike) -> jax.Array:
    bound = jnp.asarray(max_abs, gradient.dtype)
    return jnp.clip(gradient, -bound, bound)


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
