"""Where arrays lie among devices, as far as their types tell.

On a mesh with explicit axes a type says how an array is sharded, and each operation
must know how its result is; inside ``jax.shard_map`` a type says over which axes an
array varies, and a loop's carry must begin as it will end.
"""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import AbstractValue, Tracer
from jax.extend import core
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
Result = TypeVar("Result")


def varying_as(tree: Tree, *others: Any) -> Tree:
    """``tree``, of a type that varies over the axes that it and ``others`` vary over.

    For what is there before a loop in which it meets the others.
    """
    axes = {axis for x in jax.tree.leaves((tree, others)) for axis in varying_axes(x)}

    def cast(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - varying_axes(x)))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def with_automatic_axes(
    function: Callable[..., Result],
    args: tuple[Any, ...],
    specs: Any = None,
) -> Result:
    """``function(*args)``, in which XLA decides where arrays lie.

    On other meshes it does so anyway.

    Args:
      function: What to call.
      args: Trees of arrays.
      specs: How the result is to be sharded, a tree or its beginning; or else all of it
        is on every device.
    """
    meshes = [jax.typeof(x).sharding.mesh for x in jax.tree.leaves(args)]
    explicit = [mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types]
    if not explicit:
        return function(*args)
    mesh = explicit[0]
    specs = PartitionSpec() if specs is None else specs
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    automatic: Any = jax.sharding.auto_axes(
        function, axes=mesh.explicit_axes, out_sharding=shardings
    )
    return automatic(*args)


def spec_of(x: jax.Array) -> PartitionSpec:
    """How it lies, as far as its type tells."""
    return jax.typeof(x).sharding.spec


def sharding_of(x: Any) -> Any:
    """Where it lies, if that is known: by its type, or since it was put there."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x.sharding
    if not isinstance(x, jax.Array):
        return None
    by_type = jax.typeof(x).sharding
    if AxisType.Explicit in by_type.mesh.axis_types:
        return by_type
    is_known = not isinstance(x, Tracer) and getattr(x, "committed", False)
    return x.sharding if is_known else None


def gathered(x: jax.Array) -> jax.Array:
    """With all of the first axis on every device, where the type tells how it lies."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types or sharding.spec[0] is None:
        return x
    return jax.reshard(x, PartitionSpec(None, *sharding.spec[1:]))


def split_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """With the first axis where the type of another array says that it has its own."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return x
    return jax.reshard(x, PartitionSpec(spec_of(other)[0], *sharding.spec[1:]))


def on_mesh_of(aval: Any) -> contextlib.AbstractContextManager[Any]:
    """Where arrays of this type may be used: in and out of ``auto_axes``."""
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    if mesh is None or mesh.empty or mesh == jax.sharding.get_abstract_mesh():
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh)


def placeholder(aval: Any) -> Any:
    """Zeros of a type; what is an array already is left as it is."""
    if not isinstance(aval, AbstractValue):
        return aval
    zeros: Any = jnp.zeros(aval.shape, aval.dtype)  # pyright: ignore
    return placed(varying_as(zeros, aval), aval)


def placed(x: jax.Array, aval: Any) -> jax.Array:
    """``x``, lying as its type says that ``aval`` does."""
    sharding = aval.sharding
    if sharding.mesh.empty or jax.typeof(x).sharding == sharding:
        return x
    return jax.reshard(x, sharding)


def replicated(x: jax.Array) -> jax.Array:
    """``x``, whole on every device, and on the mesh of where we are."""
    mesh = jax.sharding.get_abstract_mesh()
    sharding = jax.typeof(x).sharding
    if sharding.mesh == mesh and not any(sharding.spec):
        return x
    if mesh.empty:
        if AxisType.Explicit not in sharding.mesh.axis_types:
            return x  # it lies where XLA wants it to
        mesh = sharding.mesh
    return jax.reshard(x, NamedSharding(mesh, PartitionSpec(*[None] * x.ndim)))


def becomes_automatic(reshard: core.JaxprEqn) -> bool:
    """Whether it only takes an array out of what types say, as ``auto_axes`` does."""
    mesh = reshard.params["dst_sharding"].mesh
    return AxisType.Explicit not in mesh.axis_types


def made_automatic(reshard: core.JaxprEqn, x: Any) -> Any:
    """What that equation makes of another array."""
    if not isinstance(x, jax.Array):
        return x
    mesh = reshard.params["dst_sharding"].mesh
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * x.ndim))
    return reshard.primitive.bind(x, **reshard.params | {"dst_sharding": sharding})


def varying_axes(x: Any) -> set[str]:
    """Of a mesh, inside ``jax.shard_map``, as far as that tells of them."""
    aval: Any = x if isinstance(x, AbstractValue) else jax.typeof(x)
    return set(aval.mat.varying)  # mat: manual axis type
