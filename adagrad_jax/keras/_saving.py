"""What an optimizer remembers, to files and back, and from TensorFlow's lists.

A file is a NumPy archive of arrays, and JSON inside it. No code.
"""

import dataclasses
import json
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adagrad_jax.keras._built import base_names
from adagrad_jax.keras._variable import Variable

_HEADER = "adagrad_jax"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Saved:
    """What is in a file.

    Attributes:
      path: The file.
      config: What else is needed to make such an optimizer.
      variables: The names of the variables that it trained.
      arrays: Its weights.
    """

    path: str
    config: dict[str, Any]
    variables: list[str]
    arrays: dict[str, np.ndarray]

    def arguments(self) -> dict[str, Any]:
        """To make such an optimizer with."""
        arguments: dict[str, Any] = self.config["arguments"]
        wider = {k: v for k, v in self.config["dtypes"].items() if v != "float32"}
        return {
            # A number would become float32.
            name: jnp.asarray(value, wider[name]) if name in wider else value
            for name, value in arguments.items()
        }

    def trained(self, variables: Sequence[Any]) -> list[Any]:
        """Those of ``variables`` that it trained, in its order."""
        return self._named(self.variables, variables)

    def slots(self, variables: Sequence[Any]) -> list[tuple[Any, str]]:
        """Whose each slot is, and its name, in the order in which they were added."""
        slots: list[tuple[str, str]] = self.config.get("slots", [])
        owners = self._named([name for name, _ in slots], variables)
        return [*zip(owners, [slot for _, slot in slots], strict=True)]

    def _named(self, names: Sequence[str], variables: Sequence[Any]) -> list[Any]:
        known = dict(zip(base_names(variables), variables, strict=True))
        missing = [name for name in dict.fromkeys(names) if name not in known]
        if missing:
            raise ValueError(
                f"{self.path} is of an optimizer of {', '.join(missing)} too, "
                f"but the variables given are {', '.join(known)}."
            )
        return [known[name] for name in names]

    def restore(self, weights: Mapping[str, Variable]) -> None:
        """Gives each weight its array."""
        if set(self.arrays) != set(weights):
            raise ValueError(
                f"{self.path} has the weights {', '.join(self.arrays)}, the optimizer "
                f"has {', '.join(weights)}."
            )
        for name, weight in weights.items():
            array = self.arrays[name]
            # A counter may be int64 there and int32 here.
            floats = jnp.issubdtype(weight.dtype, jnp.inexact)
            if array.shape != weight.shape or (floats and array.dtype != weight.dtype):
                raise ValueError(
                    f"{name} is of shape {array.shape} and dtype {array.dtype} in "
                    f"{self.path}, but {weight.shape} and {weight.dtype} here."
                )
        for name, weight in weights.items():
            weight.assign(self.arrays[name])


def config_of(
    arguments: Mapping[str, Any],
    numbers: Mapping[str, Any],
    excluded: Sequence[str],
) -> dict[str, Any]:
    """What another optimizer must know beside the weights to go on as this one.

    Args:
      arguments: What ``get_config`` gives.
      numbers: Those of them whose dtypes count, as they are kept.
      excluded: Regular expressions for the names of variables that do not decay.
    """
    dtypes = {
        name: value.dtype.name
        for name, value in numbers.items()
        if isinstance(value, Variable | jax.Array)
    }
    return {"arguments": arguments, "excluded": [*excluded], "dtypes": dtypes}


def by_name(
    weights: Sequence[Variable], slots: Mapping[str, Mapping[str, Variable]]
) -> dict[str, Variable]:
    """The weights by names that no two of them share; ``slots`` are some of them."""
    named = {
        f"{key}/{slot}": weight
        for key, kept in slots.items()
        for slot, weight in kept.items()
    }
    owned = set(map(id, named.values()))
    others = [weight for weight in weights if id(weight) not in owned]
    return {**{f"#{i}": weight for i, weight in enumerate(others)}, **named}


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
    return Saved(os.fspath(path), header["config"], header["variables"], arrays)


def checked_list(
    optimizer: str, variables: Sequence[Variable], weights: Sequence[Any]
) -> list[np.ndarray]:
    """An array for each weight, from such a list as TensorFlow's ``get_weights`` gives.

    Raises:
      ValueError: If there are too many or too few, or one is of another shape.
    """
    weights = list(weights)
    if len(variables) == len(weights) + 1:
        weights = [np.array(0), *weights]
    if len(variables) != len(weights):
        hint = "" if variables else " Call `build(variables)` before."
        raise ValueError(
            f"You called `set_weights(weights)` on optimizer {optimizer} with a "
            f"weight list of length {len(weights)}, but the optimizer was "
            f"expecting {len(variables)} weights.{hint} Provided weights: "
            f"{str(weights)[:50]}"
        )
    for variable, weight in zip(variables, weights, strict=True):
        if variable.shape != np.shape(weight):
            raise ValueError(
                f"Optimizer weight shape {variable.shape} not compatible with "
                f"provided weight shape {np.shape(weight)}: {variable.name}."
            )
    return [
        np.asarray(weight, variable.dtype)
        for variable, weight in zip(variables, weights, strict=True)
    ]


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
