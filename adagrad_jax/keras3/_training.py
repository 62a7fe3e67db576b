"""Training of Keras 3's models in the rows that a batch reads."""

# Keras' own types are partly unknown.
# pyright: reportUnknownParameterType=false, reportPrivateUsage=false

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import keras

from adagrad_jax._rows.gradient import value_and_grad
from adagrad_jax._rows.row_sparse import RowSparse
from adagrad_jax.keras3._dense import why_dense
from adagrad_jax.keras3._loss_scale import apply_unscaled, with_rows
from adagrad_jax.keras3._optimizer import to_dense


class RowSparseTraining:
    """Mixed into a Keras model, trains its embedding tables row-sparsely.

    ``fit`` then takes gradients with :func:`adagrad_jax.value_and_grad`: a table that
    the model reads by rows only, as ``keras.layers.Embedding`` does, gets a
    :class:`adagrad_jax.RowSparse` gradient, and an :class:`Optimizer` of this module
    changes no other rows. The numbers are those of ordinary training:

    - in ``mixed_float16`` too, whose ``LossScaleOptimizer`` may be around ours;
    - ``weight_decay`` of the rows that a batch does not read is put off until they are
      read, and at the latest until Keras hands the weights out: after each epoch, or
      ``train_on_batch``. It takes 8 bytes a row.

    Where a whole table is needed in each step, the first step warns of it and says
    why, and what to do.

    Put it first: ``class Model(RowSparseTraining, keras.Model)``, and use that class
    where you would use ``keras.Model``, for functional models too.

    Raises:
      TypeError: If a class has it behind ``keras.Model``, whose ``train_step`` would be
        used.

    Example:
      >>> import keras, numpy as np
      >>> from adagrad_jax import keras3
      >>> class Model(keras3.RowSparseTraining, keras.Model):
      ...     pass
      >>> ids = keras.Input((3,), dtype="int32")
      >>> rows = keras.layers.Embedding(1000, 4)(ids)
      >>> model = Model(ids, keras.layers.Dense(1)(keras.layers.Flatten()(rows)))
      >>> model.compile(optimizer=keras3.Adagrad(0.1), loss="mse")
      >>> history = model.fit(np.ones((8, 3), "int32"), np.ones((8, 1)), verbose=0)
    """

    _is_said = _is_said_of_batch = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if keras.Model in order and order.index(keras.Model) < order.index(
            RowSparseTraining
        ):
            raise TypeError(
                f"{cls.__name__} must have RowSparseTraining before keras.Model, whose "
                "own train_step would be used; write "
                f"class {cls.__name__}(RowSparseTraining, keras.Model)."
            )

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "optimizer":  # by `compile`, which Keras wants nobody to override
            self._is_said = self._is_said_of_batch = False
            optimizer = with_rows(value)
            if optimizer is not None:
                optimizer._decay_lazily()
        super().__setattr__(name, value)

    def train_step(self, state: Any, data: Any) -> Any:
        """One step of ``fit``; Keras calls it."""
        model: Any = self
        trainable, non_trainable, optimizer_variables, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)

        def loss(trainable: Any, optimizer_variables: Any) -> Any:
            return model.compute_loss_and_updates(
                trainable,
                non_trainable,
                metrics,
                x,
                y,
                sample_weight,
                training=True,
                optimizer_variables=optimizer_variables,
            )

        optimizer = with_rows(model.optimizer)
        if optimizer is not None and optimizer._lazily_decayed():
            trainable, optimizer_variables = _caught_up(
                model, optimizer, loss, trainable, optimizer_variables
            )
        differentiate = value_and_grad(loss, has_aux=True)
        (_, aux), grads = differentiate(trainable, optimizer_variables)
        unscaled_loss, predicted, non_trainable, metrics = aux
        if not self._is_said:
            self._is_said = True
            say = why_dense(model, loss, grads, trainable, optimizer_variables)
            if say:
                warnings.warn(say, stacklevel=2)
        if optimizer is None:
            trainable, optimizer_variables = model.optimizer.stateless_apply(
                optimizer_variables, to_dense(grads), trainable
            )
        else:
            with optimizer._step_of_rows():
                trainable, optimizer_variables = apply_unscaled(
                    model.optimizer, optimizer_variables, grads, trainable
                )
        logs, metrics = model._update_metrics_variables(
            metrics, unscaled_loss, x, y, predicted, sample_weight
        )
        return logs, (trainable, non_trainable, optimizer_variables, metrics)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """``keras.Model.train_on_batch``, which hands the weights out each time."""
        model: Any = super()
        logs = model.train_on_batch(*args, **kwargs)
        optimizer = with_rows(getattr(self, "optimizer", None))
        if (
            optimizer is not None
            and optimizer._lazily_decayed()
            and not self._is_said_of_batch
        ):
            self._is_said_of_batch = True
            warnings.warn(
                "`train_on_batch` hands all weights out after each batch, and so "
                "`weight_decay` takes the time of whole tables: use `fit`, which does "
                "so after each epoch.",
                stacklevel=2,
            )
        return logs

    def jax_state_sync(self) -> None:
        """Hands the weights out; Keras calls it after each epoch, and to save."""
        model: Any = super()
        synced = getattr(self, "_jax_state_synced", True)
        is_behind = getattr(self, "_jax_state", None) and not synced
        model.jax_state_sync()
        optimizer = with_rows(getattr(self, "optimizer", None))
        if is_behind and optimizer is not None:
            optimizer._catch_up_decay()


def _caught_up(
    model: Any,
    optimizer: Any,
    loss: Callable[..., Any],
    trainable: Any,
    optimizer_variables: Any,
) -> tuple[Any, Any]:
    """The variables' values with no row behind in its decay that ``loss`` will read."""
    place = {id(v): i for i, v in enumerate(model.trainable_variables)}
    places = [place[id(variable)] for variable in optimizer._lazily_decayed()]
    rows = _rows_read(loss, trainable, optimizer_variables, places)
    mapping = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.optimizer.variables, optimizer_variables, strict=True),
    ]
    with keras.StatelessScope(state_mapping=mapping) as scope:
        optimizer._catch_up_decay(rows)
    return (
        [scope.get_current_value(v) for v in model.trainable_variables],
        [scope.get_current_value(v) for v in model.optimizer.variables],
    )


def _rows_read(
    loss: Callable[..., Any],
    trainable: Any,
    optimizer_variables: Any,
    places: list[int],
) -> list[Any]:
    """Of the variables at these places the rows that ``loss`` reads, or all of them.

    Nothing else of the gradient is used, so that XLA computes nothing else.
    """

    def ids_of(trainable: Any) -> list[jax.Array | None]:
        differentiate = value_and_grad(loss, has_aux=True)
        grads = differentiate(trainable, optimizer_variables)[1]
        return [
            grads[i].to_bcoo().indices[:, 0]
            if isinstance(grads[i], RowSparse)
            else None
            for i in places
        ]

    # Under a vmap over the variables, of which there is one, to be told if ids depend
    # on them: then these are not the rows that the loss will read.
    one = [jnp.expand_dims(value, 0) for value in trainable]
    try:
        found = jax.vmap(ids_of, out_axes=None, axis_size=1)(one)
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        raise ValueError(
            "with `weight_decay` RowSparseTraining must know which rows a batch reads, "
            "but here that depends on the weights; before `compile` call "
            "optimizer.exclude_from_weight_decay(var_names=['embeddings']), or what "
            "names the tables, or derive the model from keras.Model alone."
        ) from error
    return [slice(None) if ids is None else ids for ids in found]
