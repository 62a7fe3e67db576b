"""Steps whose gradients are not finite: to see them, and to leave them out."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from adagrad_jax._around_update import check_count
from adagrad_jax._checks import check_no_bcoo, check_state
from adagrad_jax._rows.packed import Packed
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._rows.visit import total


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers in ``tree`` are finite: none is NaN or infinite.

    Of a :class:`RowSparse` it is the sums of its rows that count, in the table's dtype:
    an infinity and minus infinity in two entries of a row make a NaN of it, and finite
    ones may overflow. Integers and booleans are finite.

    Args:
      tree: Gradients, updates, parameters or a state, of any shapes.

    Returns:
      A boolean of shape ().

    Raises:
      TypeError: If a leaf is a BCOO, which does not tell its sums.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> rows = aj.RowSparse([1, 1], jnp.array([[3e38], [3e38]]), (4, 1))
      >>> print(aj.all_finite({"bias": jnp.ones(2)}), aj.all_finite(rows))
      True False
    """
    check_no_bcoo(tree, "leaf")
    finite = jnp.array(True)
    for leaf in jax.tree.leaves(tree):
        rows = isinstance(leaf, RowSparse)
        dtype = leaf.dtype if rows else jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            continue
        if rows:
            finite &= ~(total(leaf, _is_not_finite, "max") > 0)  # of no rows: -infinity
        else:
            finite &= jnp.all(jnp.isfinite(jnp.asarray(leaf)))
    return finite


def _is_not_finite(rows: jax.Array) -> jax.Array:
    """For each row 1 if any number in it is not finite, else 0."""
    finite = jnp.all(jnp.isfinite(rows), axis=tuple(range(1, rows.ndim)))
    return jnp.where(finite, 0.0, 1.0)


def apply_if_finite(
    inner: optax.GradientTransformation, max_consecutive_errors: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Leaves steps out whose gradients are not finite.

    ``optax.apply_if_finite`` that also takes :class:`RowSparse` gradients. If one of
    the gradients has a NaN or an infinity (see :func:`all_finite`), the updates are 0
    or of no rows, and the state of ``inner``, counts too, stays as it was. Inside
    ``jax.jit`` with state and parameters donated no table is copied for that; but under
    ``jax.vmap``, which takes both ways and then chooses, all are.

    Wrap all that the gradients go through, also clips: they make NaN of infinity, or
    finite numbers.

    Args:
      inner: The optimizer.
      max_consecutive_errors: After so many such steps in a row the next one is taken
        as it comes, as in Optax. None: never.

    Returns:
      An Optax transformation with an ``optax.ApplyIfFiniteState``, in which are the
      numbers of steps left out, and whether the last one was.

    Raises:
      TypeError: If a gradient is a BCOO.
      ValueError: If ``max_consecutive_errors`` is no integer, or negative.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.apply_if_finite(aj.adagrad(0.1))
      >>> gradient = jnp.array([1.0, jnp.inf])
      >>> updates, state = optimizer.update(gradient, optimizer.init(gradient))
      >>> print(updates, state.total_notfinite)
      [0. 0.] 1
    """
    check_count("max_consecutive_errors", max_consecutive_errors, 0)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> optax.ApplyIfFiniteState:
        # Two arrays: one that is there twice cannot be donated.
        counts = [jnp.zeros((), jnp.int32) for _ in range(2)]
        return optax.ApplyIfFiniteState(
            counts[0], jnp.array(True), counts[1], inner.init(params)
        )

    def update_fn(
        updates: optax.Updates, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.ApplyIfFiniteState]:
        check_no_bcoo(updates, "gradient")
        check_state(state, optax.ApplyIfFiniteState)
        finite = all_finite(updates)
        in_a_row = jnp.where(finite, 0, optax.safe_increment(state.notfinite_count))
        taken = finite
        if max_consecutive_errors is not None:
            taken |= in_a_row > max_consecutive_errors

        def take(gradients: Any, kept: Any) -> tuple[Any, Any]:
            new, kept = inner.update(_unpacked(gradients), kept, params, **extra_args)
            return _packed(new), kept

        def leave(gradients: Any, kept: Any) -> tuple[Any, Any]:
            like, _ = jax.eval_shape(take, gradients, kept)
            return jax.tree.map(_nothing, like, is_leaf=_is_packed), kept

        # Not a choice between two results: the old state would have to be kept for it.
        gradients = _packed(updates)
        new, kept = jax.lax.cond(taken, take, leave, gradients, state.inner_state)
        skipped = optax.safe_increment(state.total_notfinite)
        skipped = jnp.where(finite, state.total_notfinite, skipped)
        return _unpacked(new), optax.ApplyIfFiniteState(in_a_row, finite, skipped, kept)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


# lax.cond takes and gives arrays only.


def _is_packed(leaf: Any) -> bool:
    return isinstance(leaf, Packed)


def _packed(tree: Any) -> Any:
    return jax.tree.map(lambda g: Packed.of(g) if isinstance(g, RowSparse) else g, tree)


def _unpacked(tree: Any) -> Any:
    return jax.tree.map(
        lambda g: g.unpacked() if _is_packed(g) else g, tree, is_leaf=_is_packed
    )


def _nothing(update: Any) -> Any:
    """Zeros, or no rows: the ids are the integers in a Packed."""

    def fill(x: Any) -> jax.Array:
        inexact = jnp.issubdtype(x.dtype, jnp.inexact)
        return jnp.full_like(x, 0 if inexact else update.shape[0])

    return jax.tree.map(fill, update)
