"""The gradients of a loss without arguments by the variables that it reads."""

# The arrays of variables are read here without marking them as taken.
# pyright: reportPrivateUsage=false

import inspect
from collections.abc import Callable, Iterator, KeysView, Sequence, Set, ValuesView
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from adagrad_jax._rows.choice import wherever_possible
from adagrad_jax._rows.gradient import value_and_grad
from adagrad_jax.keras._variable import (
    Substitution,
    Variable,
    argument_needed,
    is_staged,
    substituted,
)


def listed(var_list: Any, loss: Callable[[], ArrayLike]) -> list[Variable]:
    """The variables that ``var_list`` is, or gives; raises if there is no gradient."""
    if not callable(loss):
        raise TypeError(
            f"'{type(loss).__name__}' object is not callable: `loss` must be a "
            "function without arguments, so that it can be differentiated."
        )
    if callable(var_list) and not isinstance(var_list, Variable):
        loss()
        var_list = var_list()
    if isinstance(var_list, Iterator | KeysView | ValuesView | Set):
        var_list = list(var_list)
    variables = jax.tree.leaves(var_list, is_leaf=_is_leaf)
    for variable in variables:
        if not isinstance(variable, Variable):
            raise ValueError(
                f"`var_list` must have Variable objects only, got {variable!r} of "
                f"type {type(variable).__name__}; of others take the gradients "
                "with adagrad_jax.value_and_grad, then call apply_gradients."
            )
        if jnp.issubdtype(variable.dtype, jnp.complexfloating):
            raise ValueError(
                f"Invalid type {variable.dtype} for {variable.name}, expected: "
                "[float32, float64, float16, bfloat16]."
            )
    return variables


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, Variable)


def weighted_sum(losses: Any, weights: Any) -> jax.Array:
    """The sum of all numbers in a tree of losses, each times its weight.

    Args:
      losses: Arrays, Variables or numbers; None for none.
      weights: A tree like it of arrays of the same shape, or (), and dtype; Python
        numbers and lists of them are converted. None weighs as 1.

    Raises:
      TypeError: If a loss is no number, or integer or complex.
      ValueError: If weights are of other dtypes, shapes or trees than losses.
    """
    leaves, structure = jax.tree.flatten(losses, is_leaf=lambda x: x is None)
    if not leaves:
        raise ValueError(
            f"`loss` gave {losses!r}, in which there is no loss; return an array, or a "
            "list, tuple or dictionary of them."
        )
    values = [_loss_value(leaf) for leaf in leaves]
    if weights is not None:
        one = structure == jax.tree.structure(0)
        parts, given = [weights], structure
        if not one:
            parts, given = jax.tree.flatten(weights, is_leaf=_is_leaf)
        if given != structure:
            raise ValueError(
                f"`grad_loss` is a {given}, but the loss a {structure}; give a weight "
                "for each loss, or None."
            )
        weighted = zip(values, map(_weight, parts, values), strict=True)
        values = [v if w is None else v * w for v, w in weighted]
    with jax.numpy_dtype_promotion("standard"):
        total = sum(map(jnp.sum, values[1:]), start=jnp.sum(values[0]))
    if not jnp.issubdtype(total.dtype, jnp.floating):
        raise TypeError(
            f"`loss` gave numbers of dtype {total.dtype}, which have no gradient; "
            "return real floating-point ones."
        )
    return total


def _loss_value(value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`loss` gave {value!r} of type {type(value).__name__}, which is no loss; "
            "return an array, or a list, tuple or dictionary of them."
        ) from error


def _weight(weight: Any, value: jax.Array) -> Any:
    """What multiplies one loss."""
    if weight is None:
        return None
    if isinstance(weight, Variable):
        weight = weight.value
    if not hasattr(weight, "dtype"):
        try:
            weight = jnp.asarray(np.asarray(weight, np.float64), value.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`grad_loss` must be numbers, got {weight!r}.") from error
    fits = np.shape(weight) in ((), value.shape)
    if not fits or weight.dtype != value.dtype:
        raise ValueError(
            f"`grad_loss` has shape {np.shape(weight)} and dtype {weight.dtype}, the "
            f"loss {value.shape} and {value.dtype}; they must be the same, or "
            "`grad_loss` a single number of that dtype."
        )
    return jnp.asarray(weight)


def gradients_by(
    variables: Sequence[Variable],
    loss: Callable[[], Any],
    grad_loss: Any,
    scale: Callable[[ArrayLike], ArrayLike],
    known: set[Any],
) -> list[Any]:
    """For each variable its gradient, None where the loss does not read it.

    Args:
      variables: Of whatever dtypes; one may be there twice.
      loss: It is its sum that is differentiated.
      grad_loss: Weights of its elements in that sum.
      scale: What is done to the sum.
      known: What has been seen of losses, for those to come.
    """
    if is_staged():
        raise TypeError(
            "gradients cannot be taken, nor variables changed, while a function is "
            "traced; inside jax.jit and the like use adagrad_jax.value_and_grad and "
            "`stateless_apply`, on arrays."
        )
    chosen = [v for v in variables if jnp.issubdtype(v.dtype, jnp.floating)]
    chosen = list({id(v): v for v in chosen}.values())
    if not chosen:
        return [None] * len(variables)
    traces: list[Substitution] = []

    def total(arrays: list[jax.Array]) -> jax.Array:
        with substituted(chosen, arrays) as here:
            value = weighted_sum(loss(), grad_loss)
        traces.append(here)
        return jnp.asarray(scale(value))

    arrays = [v._array for v in chosen]
    try:
        # TensorFlow clips gradients of rows otherwise, however small the table is.
        by_rows = value_and_grad(total, tables=wherever_possible)
        _, gradients = by_rows(arrays)
    except jax.errors.UnexpectedTracerError as error:  # the second try
        raise argument_needed(" or ".join(v.name for v in chosen)) from error
    if traces[0].nested and _is_new(loss, known):
        jax.eval_shape(total, arrays)
        _check_read_again(*traces)
    read = traces[0].read
    by_variable = dict(zip(map(id, chosen), gradients, strict=True))
    return [by_variable[id(v)] if id(v) in read else None for v in variables]


def _is_new(loss: Callable[[], ArrayLike], known: set[Any]) -> bool:
    """Whether this is its first step; a lambda in a loop is one and the same."""
    function = inspect.unwrap(getattr(loss, "func", loss))  # of a partial, or of jit
    code: Any = getattr(function, "__code__", type(function))
    new = code not in known
    known.add(code)
    return new


def _check_read_again(first: Substitution, second: Substitution) -> None:
    """Raises if JAX remembers what a variable stood for when the loss was first run."""
    remembered = first.nested - second.nested
    if remembered:
        raise argument_needed(" and ".join(remembered))


def check_none_missing(pairs: Sequence[tuple[Any, Variable]]) -> None:
    for gradient, variable in pairs:
        if gradient is None:
            raise ValueError(
                f"Variable {variable.name} has `None` for gradient: the loss does not "
                "read it, or it has no floating-point numbers."
            )
