"""Optimizers in files: a NumPy archive of arrays, and JSON inside it. No code."""

import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from adagrad_jax.keras._variable import Variable

_HEADER = "adagrad_jax"
_FORMAT = 1


class Saved(NamedTuple):
    """What is in a file.

    Attributes:
      config: What else is needed to make such an optimizer.
      variables: The names of the variables that it trained.
      arrays: Its weights.
    """

    config: dict[str, Any]
    variables: list[str]
    arrays: dict[str, np.ndarray]


def write(
    path: str | os.PathLike[str],
    config: Mapping[str, Any],
    variables: Sequence[str],
    weights: Mapping[str, Variable],
) -> None:
    """Writes all to a file beside ``path``, then puts that in its place."""
    names = list(weights)
    arrays = [weight.numpy() for weight in weights.values()]
    header = {
        "format": _FORMAT,
        "config": config,
        "variables": list(variables),
        # NumPy's files do not know bfloat16, so arrays are written as bytes.
        "weights": [
            {"name": name, "dtype": array.dtype.name, "shape": array.shape}
            for name, array in zip(names, arrays, strict=True)
        ],
    }
    contents: dict[str, Any] = {_HEADER: _bytes(json.dumps(header).encode())}
    for i, array in enumerate(arrays):
        contents[str(i)] = _bytes(array.tobytes())
    path = pathlib.Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, **contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> Saved:
    """What :func:`write` wrote."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            header = json.loads(archive[_HEADER].tobytes())
            arrays = {
                entry["name"]: archive[str(i)]
                .view(jnp.dtype(entry["dtype"]))
                .reshape(entry["shape"])
                for i, entry in enumerate(header["weights"])
            }
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{os.fspath(path)} was not written by an optimizer's `save`, or is "
            f"damaged: {error}"
        ) from error
    if header["format"] != _FORMAT:
        raise ValueError(
            f"{os.fspath(path)} is of format {header['format']}, this version reads "
            f"{_FORMAT}; use the version of adagrad_jax that wrote it, or a newer one."
        )
    return Saved(header["config"], header["variables"], arrays)


def restore(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    weights: Mapping[str, Variable],
) -> None:
    """Gives each weight its array."""
    if set(arrays) != set(weights):
        raise ValueError(
            f"{os.fspath(path)} has the weights {', '.join(arrays)}, the optimizer has "
            f"{', '.join(weights)}."
        )
    for name, weight in weights.items():
        array = arrays[name]
        # A counter may be int64 there and int32 here.
        floats = jnp.issubdtype(weight.dtype, jnp.inexact)
        if array.shape != weight.shape or (floats and array.dtype != weight.dtype):
            raise ValueError(
                f"{name} is of shape {array.shape} and dtype {array.dtype} in "
                f"{os.fspath(path)}, but {weight.shape} and {weight.dtype} here."
            )
    for name, weight in weights.items():
        weight.assign(arrays[name])


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
