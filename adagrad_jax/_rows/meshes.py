"""Types of arrays on meshes of devices: where they lie, along which axes they vary."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jax.sharding import AxisType, NamedSharding, PartitionSpec


def on_mesh_of(aval: Any) -> contextlib.AbstractContextManager[Any]:
    """Where arrays of this type may be used: in and out of ``auto_axes``."""
    mesh = getattr(getattr(aval, "sharding", None), "mesh", None)
    if mesh is None or mesh.empty or mesh == jax.sharding.get_abstract_mesh():
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh)


def placeholder(aval: Any) -> Any:
    """Zeros of a type, also on a mesh; what is an array already is left as it is."""
    if not hasattr(aval, "strip_weak_type"):
        return aval
    zeros = varying(jnp.zeros(aval.shape, aval.dtype), aval)
    return placed(zeros, aval)


def varying(x: jax.Array, aval: Any) -> jax.Array:
    """``x``, of which each device of a ``shard_map`` has its own where ``aval`` has."""
    axes = tuple(aval.mat.varying - jax.typeof(x).mat.varying)  # manual axis type
    return lax.pcast(x, axes, to="varying") if axes else x


def placed(x: jax.Array, aval: Any) -> jax.Array:
    """``x``, lying as its type says that ``aval`` does."""
    sharding = aval.sharding
    if sharding.mesh.empty or jax.typeof(x).sharding == sharding:
        return x
    return jax.reshard(x, sharding)


def replicated(x: jax.Array) -> jax.Array:
    """``x``, whole on each device, where that is part of its type."""
    mesh = jax.sharding.get_abstract_mesh()
    sharding = jax.typeof(x).sharding
    if sharding.mesh == mesh and not any(sharding.spec):
        return x
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
