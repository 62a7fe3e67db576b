"""Which of a function's parameters are tables whose rows lie on several devices."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.extend import core
from jax.sharding import NamedSharding

from adagrad_jax._rows import placement
from adagrad_jax._rows.choice import (
    Choice,
    TableFilter,
    choose,
    name_of,
    wherever_possible,
)
from adagrad_jax._rows.row_sharding import RowSharding
from adagrad_jax._rows.views import Table

RowShardings = RowSharding | Callable[[tuple[Any, ...], Any], RowSharding | None]
"""One for all tables, or a function of key path and leaf; its None: not by rows."""


def check_row_sharding(row_sharding: Any) -> None:
    if not (
        row_sharding is None
        or isinstance(row_sharding, RowSharding)
        or callable(row_sharding)
    ):
        raise TypeError(
            "`row_sharding` must be an adagrad_jax.sharding.RowSharding, or a function "
            f"(path, leaf) -> RowSharding or None, got {row_sharding!r}."
        )


def choose_sharded(
    jaxpr: core.Jaxpr,
    keyed: Sequence[tuple[Any, Any]],
    tables: Literal["auto"] | TableFilter,
    num_values: int,
    row_sharding: RowShardings | None,
) -> tuple[Choice, dict[int, Table]]:
    """Which parameters get a gradient of rows, and these as :class:`Table`.

    Raises:
      TypeError: If ``row_sharding`` gives something else than it should.
      ValueError: If a parameter was to lie by rows and does not, cannot, or is read
        otherwise than by rows.
    """
    if isinstance(row_sharding, RowSharding):
        by_rows = {i: row_sharding for i, (_, x) in enumerate(keyed) if _lies(x)}
        tables = wherever_possible if tables == "auto" else tables
    else:
        by_rows = _given(keyed, row_sharding)
    choice = choose(jaxpr, keyed, tables, num_values, required=by_rows.keys())
    if isinstance(row_sharding, RowSharding):
        by_rows = dict.fromkeys(choice.row_axes, row_sharding)
    for i, sharding in by_rows.items():
        _check(*keyed[i], sharding)
    return choice, {
        i: Table(i, jax.numpy.asarray(keyed[i][1]), axes, _if_several(by_rows.get(i)))
        for i, axes in choice.row_axes.items()
    }


def _if_several(row_sharding: RowSharding | None) -> RowSharding | None:
    """One device has all rows, as if nothing was said."""
    if row_sharding is None or row_sharding.num_shards == 1:
        return None
    return row_sharding


def _given(
    keyed: Sequence[tuple[Any, Any]], row_sharding: Any
) -> dict[int, RowSharding]:
    if row_sharding is None:
        return {}
    of_all = {i: row_sharding(*pair) for i, pair in enumerate(keyed)}
    for i, sharding in of_all.items():
        if sharding is not None and not isinstance(sharding, RowSharding):
            raise TypeError(
                "`row_sharding` must give an adagrad_jax.sharding.RowSharding or None, "
                f"got {sharding!r} for {name_of(keyed[i][0])}."
            )
    return {i: sharding for i, sharding in of_all.items() if sharding is not None}


def _spec(leaf: Any) -> Any:
    """Along which axes its first axis is split, if that is known."""
    sharding = placement.sharding_of(leaf)
    if sharding is None:
        return None
    if not isinstance(sharding, NamedSharding):
        return ()
    first = tuple(sharding.spec)[:1]
    return first[0] if first and isinstance(first[0], tuple) else first


def _lies(leaf: Any) -> bool:
    """Whether it is known to lie by rows."""
    return bool(any(_spec(leaf) or ()))


def _check(path: Any, leaf: Any, row_sharding: RowSharding) -> None:
    name, context = name_of(path), jax.sharding.get_abstract_mesh()
    manual = sorted(set(row_sharding.axes) & set(context.manual_axes))
    if manual:
        raise ValueError(
            f"{name}, whose rows lie along {row_sharding.axes}, cannot be read inside "
            f"a shard_map over {manual}, where devices may run apart and wait for one "
            "another for ever; leave that shard_map out: value_and_grad(..., "
            "row_sharding=) is used as on one device, under jax.jit."
        )
    if not (context.empty or set(row_sharding.axes) <= set(context.axis_names)):
        raise ValueError(
            f"{name} was to lie by rows along {row_sharding.axes}, but the mesh in use "
            f"has the axes {context.axis_names}; make the RowSharding with that mesh."
        )
    try:
        row_sharding.sharding(leaf)
    except ValueError as error:
        raise ValueError(
            f"{name} is read by rows along {row_sharding.axes}, but {error}"
        ) from None
    spec = _spec(leaf)
    if (
        row_sharding.num_shards > 1
        and spec is not None
        and tuple(spec) != row_sharding.axes
    ):
        raise ValueError(
            f"{name} was to lie by rows along {row_sharding.axes}, by `row_sharding`, "
            f"but it lies as {placement.sharding_of(leaf)}; "
            "adagrad_jax.sharding.shard_rows puts it, and what is kept of it, there. "
            "(Let a function of path and leaf give None for what does not lie by rows.)"
        )
