"""Bad input stops here, before anything is computed, with the leaf's path.

Hyperparameters are checked when a transformation is built, as far as their values are
known then (a tracer's is not); trees, shapes and dtypes when it is initialised or
traced, where they are always known.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

from adagrad_jax._accumulators.protocol import Accumulator
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax._trees import at, is_bcoo, is_none

Path = tuple[Any, ...]


def check_hyperparameter(
    name: str,
    value: ArrayLike,
    *,
    positive: bool = False,
    infinity: bool = False,
) -> None:
    """Raises unless ``value`` is a real scalar in range, as far as can be told.

    Args:
      name: What the caller's signature calls it.
      value: A number or an array of shape (). A tracer's value is not known and passes.
      positive: Whether 0 is out of range too.
      infinity: Whether infinity is in range.
    """
    bound = f"{'' if infinity else 'finite and '}{'> 0' if positive else '>= 0'}"
    wanted = f"`{name}` must be a real number, {bound}"
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise TypeError(f"{wanted}, got {value!r} of type {type(value).__name__}.")
    if np.ndim(value):
        raise ValueError(
            f"{wanted}, got an array of shape {np.shape(value)}; for one value per "
            "leaf use optax.partition, for many at once jax.vmap."
        )
    if isinstance(value, Tracer):
        return
    if np.iscomplexobj(value):
        raise TypeError(f"{wanted}, got {value!r}.")
    number = float(value)
    too_small = number <= 0 if positive else number < 0
    if math.isnan(number) or too_small or (math.isinf(number) and not infinity):
        raise ValueError(f"{wanted}, got {value!r}.")


def check_hyperparameters(**values: ArrayLike) -> None:
    """``check_hyperparameter`` for each."""
    for name, value in values.items():
        check_hyperparameter(name, value)


def check_learning_rate(name: str, value: optax.ScalarOrSchedule) -> None:
    """``check_hyperparameter``, but a schedule, whose values come later, passes."""
    if not callable(value):
        check_hyperparameter(name, value)


def check_accumulator(value: Any) -> None:
    """Raises TypeError unless ``value`` has what an accumulator must have."""
    # A class has the methods too, but not bound to anything.
    if isinstance(value, type) or not isinstance(value, Accumulator):
        raise TypeError(
            f"`accumulator` must be an accumulator like Diagonal(), got {value!r}."
        )


def check_leaves(tree: Any, noun: str, *, real_because: str | None = None) -> None:
    """Raises TypeError unless each leaf is a floating-point or complex array.

    A gradient or update may be a :class:`RowSparse`, a parameter may not.

    Args:
      tree: Any tree; Python numbers count as arrays.
      noun: What its leaves are, for the message: "gradient", "parameter".
      real_because: Why complex leaves will not do, if so.
    """
    remedy = (
        "leave it out with optax.masked or optax.partition, for "
        "adagrad_jax.apply_updates leaves alone what has no derivative, or put None in "
        "its place among parameters and gradients (equinox.filter and flax.nnx.Param "
        "do so)"
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_bcoo):
        _check_kind(noun, path, leaf)
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, complex | float | int):
            dtype = jnp.result_type(leaf)
        if dtype is None:
            raise TypeError(
                f"{noun} {at(path)} must be an array, got {leaf!r} of type "
                f"{type(leaf).__name__}; {remedy}."
            )
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{noun} {at(path)} must be floating-point or complex, got dtype "
                f"{dtype}; {remedy}."
            )
        if real_because and jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"{noun} {at(path)} must be real, got dtype {dtype}: {real_because}."
            )


def check_no_bcoo(tree: Any, noun: str) -> None:
    """Raises TypeError if a leaf, as which no pytree counts here but it, is a BCOO."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_bcoo):
        _check_kind(noun, path, leaf)


def _is_bcoo(x: Any) -> bool:
    return is_bcoo(type(x))


def _check_kind(noun: str, path: Path, leaf: Any) -> None:
    """Raises TypeError for rows in a form, or in a place, that they must not have."""
    if _is_bcoo(leaf):
        # A pytree: whatever stands before us in a chain took its indices for numbers.
        raise TypeError(
            f"{noun} {at(path)} is a BCOO, which is for crossing jax.jit only: Optax "
            "would scale its indices, too; make it a RowSparse before anything else, "
            "by RowSparse.from_bcoo, or an array by .todense()."
        )
    if isinstance(leaf, RowSparse) and noun == "parameter":
        raise TypeError(
            f"parameter {at(path)} is a RowSparse, which is a gradient; call "
            "init(params) with the parameters, then update(gradients, state, params)."
        )


def check_state(state: Any, kind: type) -> None:
    """Raises TypeError unless ``state`` is one that ``init`` made."""
    if not isinstance(state, kind):
        raise TypeError(
            f"`state` must be what init(params) gave, a {kind.__name__}, got a "
            f"{type(state).__name__}; call update(gradients, state, params), in this "
            "order."
        )


def map_leaves(
    function: Callable[[Any], Any],
    tree: Any,
    noun: str,
) -> Any:
    """``jax.tree.map``; the leaf's path is added to what ``function`` raises."""

    def at_path(path: Path, leaf: Any) -> Any:
        try:
            return function(leaf)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{noun} {at(path)}: {error}") from error

    return jax.tree_util.tree_map_with_path(at_path, tree)


def check_row_sparse(updates: Any, reason: str) -> None:
    """Raises TypeError if there is a :class:`RowSparse` among ``updates``."""
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        if isinstance(update, RowSparse):
            raise TypeError(
                f"gradient {at(path)} is a RowSparse, but {reason}; use "
                "jax.value_and_grad, or .to_dense() of it."
            )


def check_fits_state(
    updates: Any,
    accumulators: Any,
    init: Callable[[Any, Any], Any],
) -> None:
    """Raises ValueError unless ``accumulators`` could be ``init``'s for ``updates``.

    Args:
      updates: The gradients.
      accumulators: A tree that has, where ``updates`` has a leaf, that leaf's
        accumulator, which may be a tree itself.
      init: A hashable function from a parameter and an initial value to what an
        accumulator keeps of it.
    """
    remedy = "call init with the parameters that the gradients belong to"
    pairs = _pairs(updates, accumulators, "accumulator", remedy, more=False)
    for path, update, kept in pairs:
        shape = jnp.shape(update)
        if _shapes(kept) != _expected_shapes(init, shape):
            found, _ = _shapes(kept)
            raise ValueError(
                f"gradient {at(path)} of shape {shape} does not fit its accumulator "
                f"of shape {', '.join(map(str, found))}; {remedy}."
            )


def check_fits_params(
    updates: Any,
    params: Any,
    noun: str = "gradient",
    remedy: str = "call update(gradients, state, params) with the current parameters",
) -> None:
    """Raises ValueError unless ``params`` has the tree and shapes of ``updates``.

    Where a gradient is None they may have anything.
    """
    if params is None:
        raise ValueError(f"`params` must be given, got None; {remedy}.")
    for path, update, param in _pairs(updates, params, "parameter", remedy):
        if jnp.shape(update) != jnp.shape(param):
            raise ValueError(
                f"{noun} {at(path)} of shape {jnp.shape(update)} does not fit its "
                f"parameter of shape {jnp.shape(param)}; {remedy}."
            )


def check_alike(updates: Any, params: Any) -> None:
    """Raises if a gradient is of another shape than its parameter, or wrongly complex.

    Callers may pass no parameters, or more of them than have gradients: only where the
    trees are the same can this be told.

    Raises:
      TypeError: If a gradient is complex and its parameter real.
      ValueError: If their shapes differ.
    """
    if jax.tree.structure(updates) != jax.tree.structure(params):
        return
    check_fits_params(updates, params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    for (path, update), param in zip(leaves, jax.tree.leaves(params), strict=True):
        if jnp.iscomplexobj(update) and not jnp.iscomplexobj(param):
            raise TypeError(
                f"gradient {at(path)} is complex, its parameter is real: take the "
                "gradient of a real loss with jax.grad, or its real part."
            )


def _pairs(
    updates: Any, others: Any, noun: str, remedy: str, *, more: bool = True
) -> list[tuple[Path, Any, Any]]:
    """The leaves of ``updates`` with their paths and what ``others`` has in place.

    If there may be ``more``, it may have something in the place of a None, too.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(updates, is_leaf=is_none)
    try:
        in_place = structure.flatten_up_to(others)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_difference(updates, others, noun)}; {remedy}.") from error
    pairs = [(path, u, o) for (path, u), o in zip(leaves, in_place, strict=True)]
    if not more and any(u is None and jax.tree.leaves(o) for _, u, o in pairs):
        raise ValueError(f"{_difference(updates, others, noun)}; {remedy}.")
    return [(path, u, o) for path, u, o in pairs if u is not None]


def _difference(updates: Any, others: Any, noun: str) -> str:
    """Says in which leaf, or else in which containers, two trees differ."""
    ours, theirs = (
        [
            tuple(jax.tree_util.keystr((key,)) for key in path)
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        ]
        for tree in (updates, others)
    )
    # In a leaf's place the other tree may have a tree, with longer paths.
    for path in ours:
        if not any(other[: len(path)] == path for other in theirs):
            return f"gradient at {''.join(path)} has no {noun}"
    for other in theirs:
        if not any(other[: len(path)] == path for path in ours):
            return f"{noun} at {''.join(other)} has no gradient (zeros will do)"
    return (
        f"gradients are in {jax.tree.structure(updates)}, {noun}s in other containers, "
        f"{jax.tree.structure(others)}"
    )


@functools.lru_cache(maxsize=4096)
def _expected_shapes(
    init: Callable[[Any, Any], Any], shape: tuple[int, ...]
) -> tuple[Any, ...] | None:
    param = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        return _shapes(jax.eval_shape(init, param, 0.0))
    except ValueError:  # it takes no parameter of this shape
        return None


def _shapes(tree: Any) -> tuple[list[tuple[int, ...]], Any]:
    leaves, structure = jax.tree.flatten(tree)
    return [jnp.shape(leaf) for leaf in leaves], structure
