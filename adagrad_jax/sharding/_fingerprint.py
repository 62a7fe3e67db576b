"""Whether a tree that was restored is the one that was saved.

Files may be altered on their way, and Orbax, which finds them truncated or lost, does
not know: numbers have no checksum in its files. Nor does it know that a state of the
same shapes is another optimizer's. So a fingerprint is saved beside the tree.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from adagrad_jax._states import nodes

Fingerprint = dict[str, dict[str, Any]]


def fingerprint(tree: Any) -> Fingerprint:
    r"""What tells a tree from others, on whatever devices it lies.

    To be saved beside it, and checked by :func:`check_fingerprint` when that is back.

    For each array its shape, its dtype and a checksum of its bits :math:`b_i`,

    .. math::

        \sum_i h(b_i, i) \mod 2^{32}

    with a mixing function :math:`h` that is one-to-one in :math:`b_i`, so that one
    number altered is always found; and which kinds of state are in the tree. Each
    device sums what it has; nothing is moved but these sums.

    In a program of several processes all of them must call it.

    Args:
      tree: Of arrays, sharded or not, or of numbers.

    Returns:
      Dictionaries of strings and numbers, which JSON can hold.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> aj.sharding.fingerprint({"bias": jnp.zeros(2, jnp.bfloat16)})["arrays"]
      {"['bias']": ['bfloat16', [2], 804215951]}
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [jnp.asarray(leaf) for _, leaf in leaves]
    keystr = jax.tree_util.keystr
    described = zip(leaves, arrays, _checksums(arrays), strict=True)
    return {
        "arrays": {
            keystr(path): [str(x.dtype), list(x.shape), checksum]
            for (path, _), x, checksum in described
        },
        "states": {
            keystr(path): type(node).__name__
            for path, node in nodes(tree)
            if hasattr(node, "_fields")
        },
    }


def check_fingerprint(tree: Any, saved: Any) -> None:
    """Raises unless ``tree`` has the fingerprint that was saved.

    Args:
      tree: What was restored, on whatever devices.
      saved: What :func:`fingerprint` said of what was saved.

    Raises:
      ValueError: With the path of what is not as it was saved: an array that was
        altered, that is of another shape or dtype, missing or too many, or a state of
        another optimizer. If ``saved`` is no fingerprint.

    Example:
      >>> import adagrad_jax as aj, jax.numpy as jnp
      >>> saved = aj.sharding.fingerprint({"bias": jnp.zeros(2)})
      >>> aj.sharding.check_fingerprint({"bias": jnp.zeros(2)}, saved)
      >>> try:
      ...     aj.sharding.check_fingerprint({"bias": jnp.ones(2)}, saved)
      ... except ValueError as error:
      ...     print(str(error)[:31])
      ['bias'] is not as it was saved
    """
    if not isinstance(saved, dict) or set(saved) != {"arrays", "states"}:
        raise ValueError(
            f"`saved` must be what fingerprint(tree) gave, got {saved!r:.100}; was the "
            "checkpoint written with a fingerprint beside its tree?"
        )
    found = fingerprint(tree)
    for kind in ("states", "arrays"):
        for path in {**saved[kind], **found[kind]}:
            was, now = saved[kind].get(path), found[kind].get(path)
            if was != now:
                raise ValueError(_difference(path, was, now))


def _difference(path: str, was: Any, now: Any) -> str:
    name = path or "the tree"
    if was is None or now is None:
        missing = "was not saved" if was is None else "was saved, but not restored"
        return f"{name} {missing}: the checkpoint is of another model or optimizer."
    if isinstance(was, str) or was[:2] != now[:2]:
        was, now = (x if isinstance(x, str) else f"{x[0]}{x[1]}" for x in (was, now))
        return (
            f"{name} was saved as {was}, and restored as {now}: the checkpoint is of "
            "another model or optimizer."
        )
    return (
        f"{name} is not as it was saved, its checksum is {now[2]} and was {was[2]}: "
        "the checkpoint was altered or damaged; restore another checkpoint."
    )


def _checksums(arrays: list[jax.Array]) -> list[int]:
    """Of each array, whose elements count once wherever they have copies."""
    parts = [[_of_shard(shard) for shard in _shards(x)] for x in arrays]
    mine = [sum(map(int, of_array)) % 2**32 for of_array in parts]
    of_processes = np.array([mine], np.uint32)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils  # which takes long

        of_processes = multihost_utils.process_allgather(of_processes[0])
    totals = of_processes.astype(np.uint64).sum(axis=0) % 2**32
    return [int(total) for total in totals]


def _shards(x: jax.Array) -> list[jax.Shard]:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return [shard for shard in x.addressable_shards if shard.replica_id == 0]


def _of_shard(shard: jax.Shard) -> jax.Array:
    first = [part.start or 0 for part in shard.index]
    return _sum_of_hashes(shard.data, np.array(first, np.uint32))


@jax.jit
def _sum_of_hashes(x: jax.Array, first: jax.Array) -> jax.Array:
    """Of a part of an array that begins at the index ``first``."""
    bits = _bits(x)
    place = jnp.zeros(bits.shape, jnp.uint32)
    for axis in range(bits.ndim):
        index = lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place = _mixed(place + index + (first[axis] if axis < x.ndim else 0))
    return jnp.sum(_mixed(bits + place), dtype=jnp.uint32)


def _bits(x: jax.Array) -> jax.Array:
    """Of each number 32 bits, or on a last axis more."""
    if jnp.iscomplexobj(x):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == bool or x.dtype.name.startswith(("int4", "uint4", "int2", "uint2")):
        return x.astype(jnp.uint32)
    if x.dtype.itemsize >= 4:
        return lax.bitcast_convert_type(x, jnp.uint32)
    narrow = {1: jnp.uint8, 2: jnp.uint16}[x.dtype.itemsize]
    return lax.bitcast_convert_type(x, narrow).astype(jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """One-to-one, each bit of it depends on all (the finalizer of MurmurHash3)."""
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        x = (x ^ (x >> shift)) * jnp.uint32(factor)
    return x ^ (x >> 16)
