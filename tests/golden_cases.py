"""The peers' recorded runs (tests/golden), and how one of ours is held against them."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.sparse import BCOO

import adagrad_jax as aj

FOLDER = pathlib.Path(__file__).parent / "golden"


@dataclasses.dataclass
class Variable:
    """One variable of a case; arrays have the step as their first axis."""

    name: str
    dtype: Any
    init: np.ndarray
    params: np.ndarray
    acc: np.ndarray
    grads: np.ndarray | None
    present: np.ndarray | None
    arrays: dict[str, np.ndarray]  # whatever else was recorded

    def rows(self, t: int, values: str = "grad_values") -> aj.RowSparse:
        """The sparse gradient of step t, padded, so that each has as many rows."""
        offsets = self.arrays["grad_offsets"]
        entries = slice(*offsets[t : t + 2])
        ids, rows = self.arrays["grad_indices"][entries], self.arrays[values][entries]
        padding = max(np.diff(offsets)) - len(ids)
        return aj.RowSparse(
            np.pad(ids, (0, padding), constant_values=len(self.init)),
            np.pad(rows, [(0, padding)] + [(0, 0)] * (rows.ndim - 1)).astype(
                self.dtype
            ),
            self.init.shape,
        )


@dataclasses.dataclass
class Case:
    peer: str
    name: str
    kind: str
    steps: int
    hyperparameters: dict[str, Any]
    variables: list[Variable]
    arrays: dict[str, np.ndarray]
    manifest: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.peer}-{self.name}"

    def only(self, name: str) -> "Case":
        """The same case with but one of its variables."""
        variables = [v for v in self.variables if v.name == name]
        return dataclasses.replace(self, variables=variables)


@functools.cache
def _peer(peer: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    manifest = json.loads((FOLDER / f"{peer}.json").read_text())
    with np.load(FOLDER / f"{peer}.npz") as archive:
        return manifest, dict(archive)


def behaviour(peer: str, name: str) -> dict[str, Any]:
    (fact,) = [f for f in _peer(peer)[0]["behaviour"] if f["name"] == name]
    return fact


def dense_cases(peer: str, *kinds: str) -> list[Case]:
    """The cases (of these kinds, if any are given) in which no gradient is sparse."""
    return _cases(peer, kinds, sparse=False)


def sparse_cases(peer: str, *kinds: str) -> list[Case]:
    """The cases (of these kinds, if any are given) in which some gradient is sparse."""
    return _cases(peer, kinds, sparse=True)


def _cases(peer: str, kinds: tuple[str, ...], sparse: bool) -> list[Case]:
    manifest, archive = _peer(peer)
    return [
        _case(peer, entry, archive)
        for entry in manifest["cases"]
        if entry["kind"] in (kinds or [entry["kind"]])
        and any("sparse" in v["gradient"] for v in entry["variables"]) == sparse
    ]


def _case(peer: str, entry: dict[str, Any], archive: dict[str, np.ndarray]) -> Case:
    variables = []
    for v in entry["variables"]:
        arrays = {name: archive[key] for name, key in v["keys"].items()}
        if "grad_sq_acc" in arrays:  # AdagradDA's word for it
            arrays["acc"] = arrays.pop("grad_sq_acc")
        known = {
            name: arrays.pop(name, None)
            for name in ("init", "params", "acc", "grads", "present")
        }
        dtype = jnp.dtype(v["dtype"])
        variables.append(Variable(v["name"], dtype, **known, arrays=arrays))
    return Case(
        peer=peer,
        name=entry["name"],
        kind=entry["kind"],
        steps=entry["steps"],
        hyperparameters=entry["hyperparameters"],
        variables=variables,
        arrays={name: archive[key] for name, key in entry["keys"].items()},
        manifest=entry,
    )


def recorded_gradients(case: Case) -> Callable[[int, Any], dict[str, Any]]:
    """Step and parameters to gradients: those recorded, zeros where there was none."""

    def gradient(v: Variable, t: int) -> Any:
        if v.grads is None:
            return v.rows(t)
        present = True if v.present is None else v.present[t]
        return np.where(present, v.grads[t], 0).astype(v.dtype)

    def gradients(t: int, params: Any) -> dict[str, Any]:
        return {v.name: gradient(v, t) for v in case.variables}

    return gradients


def check(
    case: Case,
    optimizer: optax.GradientTransformation,
    *,
    gradients: Callable[[int, Any], Any] | None = None,
    before_step: Callable[[int, Any], Any] = lambda t, state: state,
    after_step: Callable[[Any], Any] = lambda params: params,
    operand: Callable[[Variable, int], Any] = lambda variable, t: 0.0,
    units: int = 6,
    jit: bool = True,
) -> None:
    """Runs the case twice: from the peer's state before each step, and all through.

    A step may add an error of ``units`` of the dtype's epsilon, relative to the size of
    the operands (tests/golden/README.md, "How exact to be": 6 given the
    gradient, 16 where clipping or the gradient itself is computed too). ``operand`` is
    of what size besides parameters and updates what they are computed of is.
    """

    def apply(gradients: Any, state: Any, params: Any) -> tuple[Any, Any, Any]:
        updates, state = optimizer.update(_to_rows(gradients), state, params)
        after = optax.apply_updates(params, updates)
        dense = jax.tree.map(
            lambda u, old, new: new - old if isinstance(u, aj.RowSparse) else u,
            updates,
            params,
            after,
        )
        return after, state, dense

    for follow_peer in (True, False):
        _run(
            case,
            optimizer,
            gradients or recorded_gradients(case),
            before_step,
            after_step,
            operand,
            units,
            jax.jit(apply) if jit else apply,
            follow_peer,
        )


def _from_rows(gradients: Any) -> Any:
    """RowSparse to BCOO, which may enter jit."""
    return jax.tree.map(
        lambda g: g.to_bcoo() if isinstance(g, aj.RowSparse) else g, gradients
    )


def _to_rows(gradients: Any) -> Any:
    return jax.tree.map(
        lambda g: aj.RowSparse.from_bcoo(g) if isinstance(g, BCOO) else g,
        gradients,
        is_leaf=lambda g: isinstance(g, BCOO),
    )


def _run(
    case,
    optimizer,
    gradients,
    before_step,
    after_step,
    operand,
    units,
    apply,
    follow_peer,
) -> None:
    params = {v.name: jnp.asarray(v.init, v.dtype) for v in case.variables}
    state = optimizer.init(params)
    size = {name: _magnitude(p) for name, p in params.items()}
    for t in range(case.steps):
        if follow_peer and t:
            params = {
                v.name: jnp.asarray(v.params[t - 1], v.dtype) for v in case.variables
            }
            size = {name: _magnitude(p) for name, p in params.items()}
            for field, arrays in {
                "accumulator": {v.name: v.acc for v in case.variables},
                "average": {v.name: v.arrays.get("average") for v in case.variables},
                "gradient_sum": {
                    v.name: v.arrays.get("grad_acc") for v in case.variables
                },
                "linear": {v.name: v.arrays.get("linear") for v in case.variables},
            }.items():
                known = {
                    name: array[t - 1]
                    for name, array in arrays.items()
                    if array is not None and not np.isnan(array[t - 1]).any()
                }  # NaN: not made yet
                state = _replace(state, field, known)
        before = params
        state = before_step(t, state)
        given = _from_rows(gradients(t, params))
        params, state, updates = apply(given, state, params)
        params = after_step(params)
        accumulators = _accumulators(state)
        allowed = units * (1 if follow_peer else t + 1)
        for v in case.variables:
            where = f"{case}, step {t}, {v.name}, {follow_peer=}"
            assert params[v.name].dtype == v.dtype, where
            operands = params[v.name], v.params[t], updates[v.name], operand(v, t)
            for array in operands:
                size[v.name] = np.maximum(size[v.name], _magnitude(array))
            compare_parameters(
                params[v.name],
                v.params[t],
                before[v.name],
                size[v.name],
                allowed,
                where,
                follow_peer,
            )
            if v.present is None or v.present[: t + 1].any():  # else not made yet
                compare(
                    accumulators[v.name], v.acc[t], np.abs(v.acc[t]), allowed, where
                )


def _magnitude(x: Any) -> np.ndarray:
    return np.abs(np.nan_to_num(np.asarray(x, np.float64), posinf=0, neginf=0))


def _variable(path: Any, field: str) -> str | None:
    """Whose ``field`` lies at this path of a state, if one does."""
    names = [getattr(key, "name", getattr(key, "key", None)) for key in path]
    return names[-1] if field in names else None


def _accumulators(state: Any) -> dict[str, Any]:
    """By variable, wherever chain or partition may have put them."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = [(_variable(path, "accumulator"), leaf) for path, leaf in leaves]
    return {name: leaf for name, leaf in named if name}


def _replace(state: Any, field: str, values: dict[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            values.get(_variable(path, field), leaf), leaf.dtype
        ),
        state,
    )


def compare_parameters(ours, theirs, before, size, units, where, follow_peer):
    """As compare; but where the peer divides 0 by 0, or by infinity, we stand still."""
    theirs = np.asarray(theirs, np.float64)
    undefined = np.isnan(theirs)
    known = ~np.isnan(np.asarray(before, np.float64))  # ours can go on from here
    stands = np.asarray(ours, np.float64) == np.asarray(before, np.float64)
    if follow_peer:
        assert np.all(stands[undefined & known]), where
    compare(
        np.where(undefined, 0, np.asarray(ours, np.float64)),
        np.where(undefined, 0, theirs),
        size,
        units,
        where,
        dtype=jnp.asarray(before).dtype,
    )


def compare(ours, theirs, size, units, where, dtype=None):
    """Equal within ``units`` of epsilon of ``size``, elementwise."""
    info = jnp.finfo(dtype or ours.dtype)
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs, np.float64)
    infinite = np.isinf(theirs)
    assert np.array_equal(ours[infinite], theirs[infinite]), where
    # XLA and TensorFlow flush subnormals to 0, the others do not; float16's are kept,
    # for it is computed in float32, but their last bit may be off like any other.
    half = info.dtype == jnp.float16
    floor = units * float(info.smallest_subnormal) if half else float(info.tiny)
    allowed = units * float(info.eps) * np.where(infinite, 0, size) + floor
    error = np.abs(np.where(infinite, 0, ours) - np.where(infinite, 0, theirs))
    worst = float(np.max(error / allowed, initial=0.0)) * units
    assert worst <= units, f"{where}: {worst:.1f} units of epsilon, allowed {units}"
