"""Random programs are evaluated by their rows, and held against JAX.

``python -m tests.rows.programs --count 5000 --seed 1`` tries so many, and prints for
each kind of difference the simplest program that has it, as ``--program`` takes it.
``forms.py`` has the table of what programs are made of, and of what each must give.
"""

import argparse
import dataclasses
import functools
import math
import os
from typing import Any

if __name__ == "__main__":  # else conftest.py has done so
    from tests.compiling import xla_flags

    os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags()}

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import adagrad_jax as aj
from tests.compiling import FUSED_AS_USUAL
from tests.rows.forms import DONE, READS, ROWS
from tests.rows.random_programs import Program, Term, random_program

# Beside what is so for all tests.
IN_A_HURRY = {"xla_llvm_disable_expensive_passes": True}


# What is compared.


@dataclasses.dataclass(frozen=True)
class Difference:
    """What is not as it must be.

    Attributes:
      kind: "value", "gradient", "ids" (a row with a derivative has none, or there are
        ids of no row), "error": it is wrong. "dense", "rows", "named" (a row that was
        not read), "row_axes", "explain": it is not what was promised.
      text: What was found.
    """

    kind: str
    text: str

    def wrong(self) -> bool:
        return self.kind in ("value", "gradient", "ids", "error")


@dataclasses.dataclass
class Outcome:
    """Of a program: what differs, and why JAX does not take it, where it does not."""

    differences: list[Difference]
    refused: str = ""


def check(program: Program) -> Outcome:
    """Evaluates a program, and what it is to be compared with."""
    with (
        jax.enable_x64(program.x64),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        return _check(program)


def _check(program: Program) -> Outcome:
    args, dense, filters = program.arguments(), {}, []
    by_jax = jax.value_and_grad(program.loss, has_aux=True)
    narrow = any(term.dtype.endswith("int8") for term in program.terms)
    options = IN_A_HURRY | (FUSED_AS_USUAL if narrow else {})

    def by_rows(*args: Any) -> Any:
        value, gradients, chosen = _by_rows(program, args, dense)
        filters.append(chosen)
        return value, jax.tree.map(_unpacked, gradients)

    @functools.partial(jax.jit, compiler_options=options)
    def both(*args: Any) -> Any:
        return by_jax(*args), by_rows(*args)

    try:
        expected, actual = jax.tree.map(np.asarray, both(*args))
    except Exception:
        return _failed(by_jax, by_rows, args)
    found = [
        *_values(program, expected, actual),
        *_gradients(program, expected[1], actual[1]),
        *_kinds(program, actual[1], dense),
        *_explained(program, args, actual[1], filters[-1]),
    ]
    return Outcome(found)


def _failed(by_jax: Any, by_rows: Any, args: Any) -> Outcome:
    """Whether it is JAX that raises, be it as late as when it compiles: so must we."""
    theirs, ours = _raises(by_jax, args), _raises(by_rows, args)
    if theirs and ours:
        return Outcome([], theirs)
    text = f"JAX: {theirs or 'raises nothing'}; here: {ours or 'nothing raises'}"
    return Outcome([Difference("error", text)], theirs)


def _raises(function: Any, args: Any) -> str:
    try:
        jax.jit(function)(*args)
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


def _by_rows(program: Program, args: Any, dense: dict[str, str]) -> Any:
    """Value and gradients, and what has chosen all tables that can have rows.

    The others go into ``dense``, with the reason.
    """

    def gradient(tables: Any) -> Any:
        return aj.value_and_grad(program.loss, has_aux=True, tables=tables)(*args)

    def choose(names: Any) -> Any:
        return lambda path, leaf: path[0].key == "tables" and path[1].key in names

    if program.auto:
        return *gradient("auto"), "auto"
    try:
        return *gradient(choose(program.tables)), choose(program.tables)
    except ValueError as error:
        if "was chosen by `tables`" not in str(error):
            raise
    for name in program.tables:
        try:
            gradient(choose([name]))
        except ValueError as error:
            dense[name] = str(error)
    rest = choose(program.tables.keys() - dense.keys())
    return *gradient(rest), rest


def _unpacked(leaf: Any) -> Any:
    """A ``RowSparse`` as what can leave ``jit``."""
    if not isinstance(leaf, aj.RowSparse):
        return leaf
    like = jnp.zeros((leaf.shape[0], 0), leaf.dtype)  # remembers length and dtype
    return {"ids": leaf.ids, "values": leaf.values, "like": like}


def _to_dense(shape: tuple[int, ...], rows: dict[str, np.ndarray]) -> np.ndarray:
    """By NumPy: ids are row-major over as many leading axes as values do not have."""
    ids, values = rows["ids"], rows["values"].astype(np.float64)
    row_axes = len(shape) - values.ndim + 1
    dense = np.zeros((math.prod(shape[:row_axes]), *shape[row_axes:]))
    inside = (ids >= 0) & (ids < len(dense))
    np.add.at(dense, ids[inside], values[inside])
    return dense.reshape(shape).astype(rows["like"].dtype)


def _values(program: Program, expected: Any, actual: Any) -> list[Difference]:
    if _close(program, expected[0], actual[0]):
        return []
    return [Difference("value", f"JAX has {expected[0]}, here it is {actual[0]}")]


def _close(program: Program, expected: Any, actual: Any) -> bool:
    """Whether equal; or near, where sums are not exact.

    Numbers are integers, and partial sums of positive ones are exact as long as the
    last of them is; those of others are in float32, which has room enough.
    """
    eps = program.rounds()
    wide = [
        (np.asarray(e, np.float64), np.asarray(a, np.float64))
        for e, a in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True)
    ]
    if any(e.shape != a.shape for e, a in wide):
        return False
    if any(
        e.dtype != a.dtype
        for e, a in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True)
    ):
        return False
    finite = [np.abs(e[np.isfinite(e)]).max(initial=0) for e, _ in wide]
    most = max(finite, default=0)
    exact = "tanh" not in repr(program) and most <= 1 / eps
    tolerance = 0 if exact else 4 * eps * most
    if not exact and most > 2.0**14 and eps > 2.0**-20:
        return True  # float16 ends at 2**16, and before where sums are of both signs
    return all(
        np.allclose(a, e, rtol=0, atol=tolerance, equal_nan=True) for e, a in wide
    )


def _gradients(program: Program, expected: Any, actual: Any) -> list[Difference]:
    found = []
    if not _close(program, expected["scale"], actual["scale"]):
        text = f"by scale: {expected['scale']} in JAX, {actual['scale']} here"
        found.append(Difference("gradient", text))
    for name, (shape, _) in program.tables.items():
        mine, theirs = actual["tables"][name], expected["tables"][name]
        dense = _to_dense(shape, mine) if isinstance(mine, dict) else mine
        if not _close(program, theirs, dense):
            text = f"by {name}: JAX has\n{theirs}, here it is\n{dense}"
            found.append(Difference("gradient", text))
        if isinstance(mine, dict):
            found.extend(_named(program, name, theirs, mine))
    return found


def _named(program: Program, name: str, theirs: Any, mine: Any) -> list[Difference]:
    """Each row that has a derivative, and no other, is named by an id in range."""
    ids, row_axes = mine["ids"], theirs.ndim - mine["values"].ndim + 1
    rows = theirs.reshape(math.prod(theirs.shape[:row_axes]), -1)
    has_derivative = set(np.flatnonzero((rows != 0).any(axis=1)).tolist())
    found, named = [], {i for i in ids.tolist() if i < len(rows)}
    if ids.dtype != np.int32 or (ids < 0).any() or (ids > len(rows)).any():
        found.append(Difference("ids", f"ids of {name} are {ids.dtype} {ids}"))
    if has_derivative - named:
        text = f"rows {sorted(has_derivative - named)} of {name} have no id"
        found.append(Difference("ids", text))
    if program.names_exactly(name) and named - has_derivative:
        text = f"rows {sorted(named - has_derivative)} of {name}, which were not read"
        found.append(Difference("named", text))
    if not program.auto and row_axes < program.row_axes(name) and len(ids):
        text = f"{name} has rows of shape {mine['values'].shape[1:]}"
        found.append(Difference("row_axes", text))
    return found


def _kinds(program: Program, actual: Any, dense: dict[str, str]) -> list[Difference]:
    found = []
    for name in program.tables:
        expected, has_rows = (
            program.expected(name),
            isinstance(actual["tables"][name], dict),
        )
        reason = dense.get(name, "")
        if reason and f"the leaf at ['tables']['{name}'] was chosen by" not in reason:
            found.append(Difference("error", f"refused for {name}: {reason}"))
        if expected == ROWS and not has_rows and not program.auto:
            found.append(Difference("dense", f"{name}: {reason}"))
        if expected == "dense" and has_rows:
            found.append(Difference("rows", f"{name} has rows, but can have none"))
    return found


def _explained(
    program: Program, args: Any, actual: Any, tables: Any
) -> list[Difference]:
    """What ``explain`` says is what comes."""
    if not hasattr(aj, "explain"):
        return []
    explained = aj.explain(lambda *args: program.loss(*args)[0], tables=tables)(*args)
    by_path = {leaf.path: leaf for leaf in explained.leaves}
    found = []
    for name in program.tables:
        leaf, mine = by_path[f"['tables']['{name}']"], actual["tables"][name]
        num_ids = len(mine["ids"]) if isinstance(mine, dict) else None
        says = leaf.num_ids if leaf.gradient == "rows" else None
        # What was rounded between reads and table is summed before, in each dtype.
        summed = says and num_ids and num_ids < says and "float16" in repr(program)
        if (says != num_ids and not summed) or (num_ids is None and not leaf.reason):
            text = f"{name}: {leaf}, but the gradient has {num_ids} ids"
            found.append(Difference("explain", text))
    return found


# The simplest that still differs.


def simplest(program: Program, kind: str) -> Program:
    """Makes it simpler, again and again, as long as that difference remains."""
    for simpler in _simpler(program):
        if _differs(simpler, kind):
            return simplest(simpler, kind)
    return program


def _differs(program: Program, kind: str) -> bool:
    if kind != "dense":
        return any(found.kind == kind for found in check(program).differences)
    # For which it need not be compiled.
    dense: dict[str, str] = {}
    try:
        jax.eval_shape(
            lambda *args: _by_rows(program, args, dense)[0], *program.arguments()
        )
    except Exception:
        return False
    return any(program.expected(name) == ROWS for name in dense)


def _simpler(program: Program) -> Any:
    def replace(**changes: Any) -> Program:
        return dataclasses.replace(program, **changes)

    for i in range(len(program.terms) if len(program.terms) > 1 else 0):
        yield replace(terms=program.terms[:i] + program.terms[i + 1 :])
    needed = set().union(*(term.tables() for term in program.terms))
    if needed < set(program.tables):
        yield replace(tables={name: program.tables[name] for name in sorted(needed)})
    for i, term in enumerate(program.terms):
        for simpler in _simpler_term(term):
            if simpler.fits(len(program.tables[term.table][0])):
                terms = (*program.terms[:i], simpler, *program.terms[i + 1 :])
                yield replace(terms=terms)
    for name, (shape, dtype) in program.tables.items():
        if dtype != "float32":
            yield replace(tables=program.tables | {name: (shape, "float32")})
    if program.x64 and "64" not in str(program.terms):
        yield replace(x64=False)


def _simpler_term(term: Term) -> Any:
    for i in range(len(term.around)):
        around = term.around[:i] + term.around[i + 1 :]
        yield dataclasses.replace(term, around=around)
    for name, simple in [("done", DONE[0].name), ("read", READS[0].name)]:
        if getattr(term, name) != simple:
            yield dataclasses.replace(term, **{name: simple})
    ids = np.array(term.ids, term.dtype)
    if ids.ndim != 1 or len(ids) > 1:
        flat = ids.reshape(-1)
        for fewer in [flat, flat[: ids.size // 2], flat[ids.size // 2 :], flat[1:]]:
            if fewer.shape != ids.shape:
                yield dataclasses.replace(term, ids=fewer.tolist())
    if term.dtype != "int32" and np.all(abs(ids.astype(float)) < 2**31):
        yield dataclasses.replace(term, dtype="int32")


# The command.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many programs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the first one's number")
    parser.add_argument("--wrong", action="store_true", help="wrong numbers only")
    parser.add_argument("--program", help="one only, as it was printed")
    options = parser.parse_args()
    if options.program:
        program = eval(options.program, {"Program": Program, "Term": Term})
        print(program, *check(program).differences, sep="\n")
        return
    found: dict[tuple[str, Any], int] = {}
    refused = 0
    for number in tqdm(range(options.first, options.first + options.count)):
        program = random_program(options.seed, number)
        outcome = check(program)
        refused += bool(outcome.refused)
        for difference in outcome.differences:
            if difference.wrong() or not options.wrong:
                _report(program, difference, found)
        if number % 100 == 99:
            jax.clear_caches()  # thousands of programs make each new one slower
    print(f"{options.count} programs, of which JAX refuses {refused}")
    for (kind, forms), count in sorted(found.items()):
        print(f"{count:5} x {kind}: {' | '.join(forms)}")


def _report(
    program: Program, difference: Difference, found: dict[tuple[str, Any], int]
) -> None:
    """Prints the simplest program with that difference, if there was none like it."""
    names = {form.name for term in program.terms for form in term.forms()}
    for kind, forms in found:
        if kind == difference.kind and names >= set(forms):
            found[kind, forms] += 1
            return
    program = simplest(program, difference.kind)
    (text, *_) = [
        found.text
        for found in check(program).differences
        if found.kind == difference.kind
    ]
    simple = {READS[0].name, DONE[0].name}
    names = [form.name for term in program.terms for form in term.forms()]
    found[
        difference.kind, tuple(dict.fromkeys(n for n in names if n not in simple))
    ] = 1
    tqdm.write(f"{difference.kind}: {text}\n{program.text()}  {program}\n")


if __name__ == "__main__":
    main()
