"""Functions of tables whose rows lie on several devices, without their gradients."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from adagrad_jax._rows.choice import TableFilter
from adagrad_jax._rows.lookups import evaluate
from adagrad_jax._rows.sharded import RowShardings, check_row_sharding, plan
from adagrad_jax._rows.trace import Call, as_positions


def with_rows(
    fun: Callable[..., Any],
    row_sharding: RowShardings,
    argnums: int | Sequence[int] = 0,
    *,
    tables: Literal["auto"] | TableFilter = "auto",
) -> Callable[..., Any]:
    """``fun``, reading tables where their rows lie: to evaluate, predict and serve.

    It computes what ``fun`` does. Each of its reads of rows becomes the exchange that
    it is in ``adagrad_jax.value_and_grad(fun, row_sharding=...)``, where XLA, left to
    itself, would handle all ids on every device.

    Args:
      fun: A function; as for ``value_and_grad``, it is traced as by ``jax.jit``.
      row_sharding: As for ``value_and_grad``.
      argnums: Which of its positional arguments have the tables.
      tables: As for ``value_and_grad``.

    Returns:
      A function of the arguments of ``fun`` that returns the same. It has no
      derivatives with respect to the tables.

    Raises:
      TypeError: As ``value_and_grad``.
      ValueError: As ``value_and_grad``.

    Example:
      >>> import adagrad_jax as aj, jax, jax.numpy as jnp
      >>> mesh = jax.make_mesh((4,), ("rows",), (jax.sharding.AxisType.Auto,))
      >>> by_rows = aj.sharding.RowSharding(mesh, "rows")
      >>> params = {"table": jnp.arange(8.0).reshape(8, 1)}
      >>> params = aj.sharding.shard_rows(params, by_rows, lambda path, leaf: True)
      >>> def predict(params, ids):
      ...     return 10 * params["table"][ids].sum(axis=1)
      >>> predict = jax.jit(aj.sharding.with_rows(predict, by_rows))
      >>> print(predict(params, jnp.array([7, 0, 7])))
      [70.  0. 70.]
    """
    check_row_sharding(row_sharding)
    positions = as_positions(argnums)

    @functools.wraps(fun)
    def fun_with_rows(*args: Any, **kwargs: Any) -> Any:
        call = Call.of(fun, positions, args, kwargs)
        planned = plan(call, False, tables, row_sharding)
        traced, uses = planned.traced, planned.choice.uses
        arguments = [
            planned.tables.get(i, leaf) for i, leaf in enumerate(traced.leaves)
        ]
        taps = [read.tap() for read in uses.reads]
        results, _ = evaluate(traced.jaxpr, arguments, uses, taps, traced.num_values)
        return traced.unflatten(results)

    return fun_with_rows
