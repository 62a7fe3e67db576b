"""Where arrays lie among devices, as far as their types tell.

On a mesh with explicit axes a type says how an array is sharded, and each operation
must know how its result is; inside ``jax.shard_map`` a type says over which axes an
array varies, and a loop's carry must begin as it will end.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
Result = TypeVar("Result")


def varying_as(tree: Tree, *others: Any) -> Tree:
    """``tree``, of a type that varies over the axes that it and ``others`` vary over.

    For what is there before a loop in which it meets the others.
    """
    axes = {axis for x in jax.tree.leaves((tree, others)) for axis in _varying_axes(x)}

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _varying_axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def with_automatic_axes(
    function: Callable[..., Result], args: tuple[Any, ...], like: Any = None
) -> Result:
    """``function(*args)``, in which XLA decides where arrays lie.

    On other meshes it does so anyway.

    Args:
      function: What to call.
      args: Trees of arrays.
      like: A tree like the result, of arrays as which it is to be sharded; None, for
        all of it on every device.
    """
    meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(args)]
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return function(*args)
    mesh = explicit[0]

    def sharding_of(x: Any) -> NamedSharding:
        return NamedSharding(mesh, jax.typeof(x).sharding.spec)

    shardings = NamedSharding(mesh, PartitionSpec())
    if like is not None:
        shardings = jax.tree.map(sharding_of, like)
    automatic: Any = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=shardings
    )
    return automatic(*args)


def gathered(x: jax.Array) -> jax.Array:
    """With all of the first axis on every device, where the type tells how it lies."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types or sharding.spec[0] is None:
        return x
    return jax.reshard(x, PartitionSpec(None, *sharding.spec[1:]))


def _varying_axes(x: Any) -> set[str]:
    return set(jax.typeof(x).mat.varying)
