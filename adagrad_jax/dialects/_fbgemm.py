"""Adagrad of FBGEMM's embedding tables."""

from collections.abc import Iterable
from typing import Literal

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from adagrad_jax._accumulators.diagonal import Diagonal
from adagrad_jax._accumulators.row_wise import RowWise
from adagrad_jax._adagrad import scale_by_adagrad, scale_by_learning_rate
from adagrad_jax._around_update import given, is_set
from adagrad_jax._checks import check_hyperparameters, check_learning_rate
from adagrad_jax._clipping import cap_row_norms
from adagrad_jax._decay import add_decayed_weights
from adagrad_jax._sixteen_bits import chain_with_rate


def fbgemm(
    learning_rate: optax.ScalarOrSchedule = 0.01,
    eps: ArrayLike = 1e-8,
    *,
    optimizer: Literal[
        "exact_row_wise_adagrad", "exact_adagrad"
    ] = "exact_row_wise_adagrad",
    weight_decay: ArrayLike = 0.0,
    weight_decay_mode: Literal["NONE", "L2", "DECOUPLE"] = "NONE",
    max_norm: ArrayLike | None = None,
    initial_accumulator_value: ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The exact Adagrad of FBGEMM's embedding tables (TorchRec).

    .. math::

        a_t[r] = a_{t-1}[r] + \frac{1}{D} \sum_d g_t[r, d]^2, \qquad
        \theta_t[r] = \theta_{t-1}[r] - \eta_t \frac{g_t[r]}{\sqrt{a_t[r]} + \text{eps}}

    row by row, or with ``"exact_adagrad"`` number by number. "Exact" is that repeated
    rows are summed first. Weight decay is of the rows in a row-sparse gradient only:
    "L2" adds :math:`\text{weight\_decay} \cdot \theta` to :math:`g`, "DECOUPLE"
    multiplies :math:`\theta` by :math:`1 - \eta_t \cdot \text{weight\_decay}`.
    Accumulators of 16-bit tables are float32. (FBGEMM 1.8 ignores both on a CPU for
    tables that serve one feature, and ``max_norm`` on any CPU.)

    Args:
      learning_rate: :math:`\eta_t`: a number, an array of shape (), or a schedule.
      eps: Added to the root.
      optimizer: Whether a row has one accumulator, :class:`RowWise`, or each number in
        it: the values of ``EmbOptimType``.
      weight_decay: Its strength, at least 0.
      weight_decay_mode: What it is, by the name in ``WeightDecayMode``.
      max_norm: Bound on the norm of each row that was changed, as in
        :func:`adagrad_jax.cap_row_norms`; None and 0 mean none.
      initial_accumulator_value: The accumulators at the start, at least 0.

    Returns:
      An Optax transformation.

    Raises:
      TypeError: If an argument is no number.
      ValueError: If one is negative, NaN or infinite, or a name is unknown.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> optimizer = aj.dialects.fbgemm(0.1)
      >>> table = jnp.ones((3, 2))
      >>> gradient = aj.RowSparse([1, 1], jnp.ones((2, 2)), (3, 2))
      >>> updates, _ = optimizer.update(gradient, optimizer.init(table))
      >>> print(updates.to_dense()[1])
      [-0.1 -0.1]

    References:
      FBGEMM, ``SplitTableBatchedEmbeddingBagsCodegen`` with ``EXACT_ROWWISE_ADAGRAD``
      or ``EXACT_ADAGRAD``.
    """
    check_learning_rate("learning_rate", learning_rate)
    check_hyperparameters(
        eps=eps, weight_decay=weight_decay, **given(max_norm=max_norm)
    )
    accumulators = {
        "exact_row_wise_adagrad": RowWise(),
        "exact_adagrad": Diagonal(),
    }
    _check_name("optimizer", optimizer, accumulators)
    _check_name("weight_decay_mode", weight_decay_mode, ("NONE", "L2", "DECOUPLE"))
    decay = [add_decayed_weights(weight_decay)]
    scale = scale_by_adagrad(
        initial_accumulator_value, eps, accumulator=accumulators[optimizer]
    )
    return chain_with_rate(
        decay if weight_decay_mode == "L2" else [],
        [scale, *(decay if weight_decay_mode == "DECOUPLE" else [])],
        scale_by_learning_rate(learning_rate),
        [cap_row_norms(max_norm)] if is_set(max_norm) else [],
        rate_dtype=jnp.float32,
    )


def _check_name(argument: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(
            f"`{argument}` must be one of {', '.join(known)}, got {name!r}."
        )
