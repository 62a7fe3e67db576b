"""Which of a function's parameters are tables whose rows lie on several devices."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from adagrad_jax._rows import placement
from adagrad_jax._rows.choice import (
    Choice,
    TableFilter,
    choose,
    name_of,
    wherever_possible,
)
from adagrad_jax._rows.row_sharding import RowSharding
from adagrad_jax._rows.trace import Call, Traced, trace
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


@dataclasses.dataclass(frozen=True)
class Plan:
    """A call, traced, and which of its parameters are tables.

    Attributes:
      traced: The call.
      choice: What was chosen for each parameter.
      tables: Those with a gradient of rows, by their number.
    """

    traced: Traced
    choice: Choice
    tables: dict[int, Table]


def plan(
    call: Call,
    has_aux: bool,
    tables: Literal["auto"] | TableFilter,
    row_sharding: RowShardings | None,
    strict: bool = True,
) -> Plan:
    """Traces a call, and finds out which parameters get a gradient of rows.

    Where types tell that a table lies by rows, JAX would ask where the rows that are
    read shall be, or refuse. They are not read so: the function is traced as if such a
    table were whole everywhere.

    Raises:
      TypeError: If ``row_sharding`` gives something else than it should.
      ValueError: If a parameter was to lie by rows and does not, cannot, or (with
        ``strict``) is read otherwise than by rows.
    """
    by_type = {i: x for i, (_, leaf) in enumerate(call.keyed) if (x := _by_type(leaf))}
    whole = {i: _made_whole(call.keyed[i][1]) for i in by_type}
    while True:
        try:
            traced = trace(call, has_aux, whole)
        except Exception:
            if not whole:
                raise
            whole = {}  # the function itself may say how it lies
            continue
        choice, chosen = _choose(
            traced, call.keyed, tables, row_sharding, by_type, strict
        )
        if whole.keys() <= chosen.keys():
            return Plan(traced, choice, chosen)
        whole = {i: x for i, x in whole.items() if i in chosen}


def _made_whole(leaf: Any) -> jax.ShapeDtypeStruct:
    """The type of what lies by rows, as if all devices had all of them."""
    sharding = placement.sharding_of(leaf)
    whole = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec[1:]))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)


def _by_type(leaf: Any) -> RowSharding | None:
    """Where its rows lie, if its type tells, among several devices."""
    sharding, axes = placement.sharding_of(leaf), _spec(leaf)
    if not (
        isinstance(sharding, NamedSharding)
        and AxisType.Explicit in sharding.mesh.axis_types
        and any(axes)
    ):
        return None
    is_mapped = isinstance(leaf, jax.Array) and placement.varying_axes(leaf)
    return None if is_mapped else RowSharding(sharding.mesh, tuple(axes))


def _choose(
    traced: Traced,
    keyed: Sequence[tuple[Any, Any]],
    tables: Literal["auto"] | TableFilter,
    row_sharding: RowShardings | None,
    by_type: dict[int, RowSharding],
    strict: bool,
) -> tuple[Choice, dict[int, Table]]:
    jaxpr, preferred = traced.jaxpr.jaxpr, dict[int, RowSharding]()
    if isinstance(row_sharding, RowSharding):
        by_rows = {i: row_sharding for i, (_, x) in enumerate(keyed) if _lies(x)}
        tables = wherever_possible if tables == "auto" else tables
    elif row_sharding is None:
        by_rows, preferred = dict[int, RowSharding](), by_type
    else:
        by_rows = _given(keyed, row_sharding)
    choice = choose(jaxpr, keyed, tables, traced.num_values, strict, by_rows, preferred)
    if isinstance(row_sharding, RowSharding):
        by_rows = dict.fromkeys(choice.row_axes, row_sharding)
    for i, sharding in by_rows.items():
        _check(*keyed[i], sharding)
    by_rows = preferred | by_rows
    return choice, {
        i: Table(i, _as_array(keyed[i][1]), axes, _if_several(by_rows.get(i)))
        for i, axes in choice.row_axes.items()
    }


def _as_array(leaf: Any) -> Any:
    """Itself, if it is only the type of one."""
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.asarray(leaf)


def _if_several(row_sharding: RowSharding | None) -> RowSharding | None:
    """One device has all rows, as if nothing was said."""
    if row_sharding is None or row_sharding.num_shards == 1:
        return None
    return row_sharding


def _given(
    keyed: Sequence[tuple[Any, Any]], row_sharding: Any
) -> dict[int, RowSharding]:
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
