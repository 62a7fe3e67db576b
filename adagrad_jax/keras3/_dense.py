"""What makes steps take the time of whole tables, in words."""

# Keras' own types are partly unknown.
# pyright: reportUnknownParameterType=false, reportPrivateUsage=false

from collections.abc import Callable, Iterator
from typing import Any

import keras
from jax.core import Tracer

from adagrad_jax._rows.choice import wherever_possible
from adagrad_jax._rows.explain import LeafExplanation, explain
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax.keras3._loss_scale import with_rows


def why_dense(
    model: Any,
    loss: Callable[..., Any],
    grads: Any,
    trainable: Any,
    optimizer_variables: Any,
) -> str | None:
    """Why embedding tables are read or written as a whole, and what to do; or None.

    Args:
      model: A Keras model.
      loss: A function of the two last, which gives a value and auxiliary data.
      grads: Its gradient by the first of them.
      trainable: The values of the model's trainable variables.
      optimizer_variables: Those of the optimizer's.
    """
    place = {id(v): i for i, v in enumerate(model.trainable_variables)}
    tables = {
        place[id(v)]: (layer, v)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
        for v in layer.trainable_weights
        if id(v) in place and v.shape[0] == layer.input_dim
    }
    if not tables:
        return None
    names = ", ".join(dict.fromkeys(repr(layer.name) for layer, _ in tables.values()))
    reasons = [*_for_all(model, trainable)]
    explained = explain(loss, has_aux=True, tables=wherever_possible)
    leaves = explained(trainable, optimizer_variables).leaves
    for i, (layer, variable) in tables.items():
        for reason in _for_one(variable):
            reasons.append(f"layer {layer.name!r}: {reason}")
        if not isinstance(grads[i], RowSparse) and variable.regularizer is None:
            reason = _why_no_rows(leaves[i])
            if reason:
                reasons.append(f"layer {layer.name!r}: {reason}")
    if not reasons:
        return None
    listed = "".join(f"\n- {reason}" for reason in reasons)
    return (
        f"RowSparseTraining trains embeddings ({names}), but steps take the time of "
        f"whole tables, not of the rows that a batch reads:{listed}"
    )


def _for_all(model: Any, trainable: Any) -> Iterator[str]:
    optimizer = with_rows(model.optimizer)
    if optimizer is None:
        # Of a wrapper like the LossScaleOptimizer it is the one inside.
        kind = type(getattr(model.optimizer, "inner_optimizer", model.optimizer))
        same = kind is keras.optimizers.Adagrad
        remedy = (
            "adagrad_jax.keras3.Adagrad, with the same arguments, makes the same steps"
            if same
            else "use adagrad_jax.keras3.Adagrad, or keras3.Optimizer around an Optax "
            "transformation that takes rows"
        )
        yield (
            f"the optimizer, a {kind.__name__} that is not adagrad_jax.keras3's, takes "
            f"whole arrays: {remedy}."
        )
        return
    if not any(isinstance(value, Tracer) for value in trainable):
        yield (
            "without compilation (jit_compile=False or run_eagerly=True) each step "
            "copies the tables: leave both out."
        )
    if optimizer.gradient_accumulation_steps:
        yield (
            "`gradient_accumulation_steps` keeps sums of whole tables: use larger "
            "batches instead."
        )
    if optimizer.use_ema:
        yield (
            "`use_ema` averages whole tables: leave it out, or save weights of several "
            "epochs and average those."
        )
    if optimizer.weight_decay and not optimizer._decays_lazily:
        whole = optimizer.use_ema or optimizer.gradient_accumulation_steps
        remedy = (
            "it is put off until rows are read only without `use_ema` and "
            "`gradient_accumulation_steps`"
            if whole
            else "give `compile` an optimizer that is not built yet, and it is put off "
            "until rows are read"
        )
        yield f"`weight_decay` is of whole tables: {remedy}."


def _for_one(variable: Any) -> Iterator[str]:
    if variable.regularizer is not None:
        yield (
            f"its regularizer, {type(variable.regularizer).__name__}, is of the whole "
            "table: use `activity_regularizer` for the rows that are read, or the "
            "optimizer's `weight_decay`."
        )
    if variable.constraint is not None:
        yield (
            f"its constraint, {type(variable.constraint).__name__}, is put on the "
            "whole table: leave it out; the norms of rows are bounded by "
            "keras3.Optimizer(optax.chain(adagrad_jax.adagrad(rate), "
            "adagrad_jax.cap_row_norms(bound)), learning_rate=None)."
        )


def _why_no_rows(leaf: LeafExplanation) -> str | None:
    """None if it can have rows, but was thought too small to gain by them."""
    if leaf.gradient == "rows":
        return None
    if not leaf.num_reads and leaf.primitive is None:
        return "the loss does not read it: set its `trainable` to False."
    return (
        f"{leaf.reason}. Read the table by its layer only, or keep another for the "
        "other use."
    )
