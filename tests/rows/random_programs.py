"""Random programs that read tables, made of the forms in ``forms.py``."""

import dataclasses
import math
import random
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.rows.forms import (
    DONE,
    READS,
    ROWS,
    SURROUNDINGS,
    VIEWS,
    Dense,
    Either,
    Form,
    Given,
)

FORMS = {form.name: form for form in [*VIEWS, *SURROUNDINGS, *READS, *DONE]}
WIDTH = 3
SHAPES = [(7,), (7, WIDTH), (3, 4, WIDTH)]
ALONG_THE_SECOND_AXIS = {
    form.name for form in READS if 1 not in form.ranks and form.ranks.keys() == {2, 3}
}
OTHER = "c"  # the table that others are concatenated with


@dataclasses.dataclass(frozen=True)
class Term:
    """One read, by the names of its forms, from the outside in."""

    table: str
    around: tuple[str, ...]
    read: str
    done: str
    ids: Any  # an integer, or lists of them
    dtype: str = "int32"  # of the ids

    def forms(self) -> list[Form]:
        return [FORMS[name] for name in (*self.around, self.read, self.done)]

    def fits(self, rank: int) -> bool:
        """Whether each form takes what comes before it, from tables of that rank."""
        for form in self.forms()[:-1]:
            if rank not in form.ranks:
                return False
            rank = form.ranks[rank]
        return not self._closes_a_rule_over_parameters()

    def _closes_a_rule_over_parameters(self) -> bool:
        """Which JAX does not support, nor always refuse."""
        names = self.around
        for rule in {"custom_jvp", "custom_vjp"} & {*names}:
            inner = names[names.index(rule) :]
            if "scan" in inner or any("scale" in n or "other(" in n for n in inner):
                return True
        return False

    def tables(self) -> set[str]:
        uses_other = any("other(" in name for name in self.around)
        return {self.table, OTHER} if uses_other else {self.table}

    def apply(self, p: jax.Array, ids: jax.Array, k: Given, positive: bool) -> Any:
        """What is read, and what is made of it."""
        function = FORMS[self.read].apply(k)
        for name in reversed(self.around):
            function = FORMS[name].apply(function, k)
        x = function(p, ids)
        numbers = jnp.arange(x.size).reshape(x.shape) % 3
        w = 1 + numbers if positive else 1 - numbers
        return x, FORMS[self.done].apply()(x.astype(jnp.float32), w.astype(jnp.float32))


@dataclasses.dataclass(frozen=True)
class Program:
    """The sum of its terms, by all its tables.

    Attributes:
      tables: Shape and dtype of each.
      terms: What is read.
      positive: Whether all numbers are, so that every row that is read has a
        derivative. Others are of both signs and zero.
      auto: Whether the library chooses the tables.
      x64: With 64-bit types.
      seed: Of the numbers.
    """

    tables: dict[str, tuple[tuple[int, ...], str]]
    terms: tuple[Term, ...]
    positive: bool = True
    auto: bool = False
    x64: bool = False
    seed: int = 0

    def text(self) -> str:
        """For people."""
        terms = [
            f"  {term.table} | {' | '.join((*term.around, term.read))}, "
            f"ids = {term.ids} in {term.dtype}, {term.done}\n"
            for term in self.terms
        ]
        return f"  {self.tables}\n{''.join(terms)}"

    def loss(self, params: dict[str, Any], batch: Any) -> Any:
        k, ids = batch
        tables = params["tables"]
        k = k._replace(scale=params["scale"], other=tables.get(OTHER))
        results = [
            term.apply(tables[term.table], jnp.asarray(ids[i]), k, self.positive)
            for i, term in enumerate(self.terms)
        ]
        return sum(loss for _, loss in results), [rows for rows, _ in results]

    def arguments(self) -> tuple[Any, Any]:
        numbers = np.random.default_rng(self.seed)
        low, high = (1, 4) if self.positive else (-2, 3)
        tables = {
            name: numbers.integers(low, high, shape).astype(jnp.dtype(dtype))
            for name, (shape, dtype) in self.tables.items()
        }
        k = Given(
            scale=None,
            other=None,
            layer=np.int32(numbers.integers(2)),
            flag=np.bool_(numbers.integers(2)),
            phase=np.int32(numbers.integers(3)),
            rows=np.array([1, -2, 1, 9], np.int32),
        )
        params = {"tables": tables, "scale": np.float32(2)}
        return params, (k, [np.array(term.ids, term.dtype) for term in self.terms])

    def expected(self, table: str) -> str | None:
        """What its gradient must be, where that is known."""
        gives = [
            form.gives
            for term in self.terms
            if table in term.tables()
            for form in term.forms()
        ]
        dense = any(isinstance(give, Dense) for give in gives)
        terms = [term for term in self.terms if table in term.tables()]
        if any(isinstance(give, Either) for give in gives) or any(
            # A number in each row of a table that lies the other way round.
            ("p.T" in term.around and "ids" not in term.read)
            # Along an axis of one index: each lookup reads all.
            or ("p[:, None]" in term.around and term.read in ALONG_THE_SECOND_AXIS)
            for term in terms
        ):
            return None
        if not dense:
            return ROWS
        # Without a derivative it does not count what is done; nor before the other.
        stopped = any("stop_gradient(p)" in str(term.around) for term in self.terms)
        # Nor where nothing is looked up; and of layers one may be needed as a whole.
        nothing = any(np.size(term.ids) == 0 for term in terms)
        layers = len(self.tables[table][0]) == 3
        return None if stopped or nothing or layers or table == OTHER else "dense"

    def row_axes(self, table: str) -> int:
        """How many axes at least must name a row: both, if it is read in a layer."""
        if len(self.tables[table][0]) < 3 or self.expected(table) != ROWS:
            return 1
        return 1 + all(map(_in_a_layer, (t for t in self.terms if t.table == table)))

    def names_exactly(self, table: str) -> bool:
        """Whether rows without a derivative must not be named."""
        return self.positive and not any(
            form.some or form.gives != ROWS  # what is computed as a whole is read so
            for term in self.terms
            if table in term.tables()
            for form in term.forms()
        )

    def rounds(self) -> float:
        """The coarsest epsilon of what it computes with."""
        text = repr(self)
        by_name = {"bfloat16": 2.0**-7, "float16": 2.0**-10}
        return max([2.0**-23, *(by_name[name] for name in by_name if name in text)])


def _in_a_layer(term: Term) -> bool:
    rank = 3
    for form in term.forms()[:-1]:
        if form.name == "vmap_of_middle_axes":
            return False  # ids are of the first axis, whole layers
        if form.ranks[rank] == 2 or 1 not in form.ranks and form.ranks[rank] == 0:
            return True
        if form.ranks[rank] != 3:
            return False
    return False


# Programs by chance.


def random_program(seed: int, number: int) -> Program:
    """The program of that number, in which a form is that each has in its turn."""
    chance = random.Random(f"{seed}, {number}")
    names = list(FORMS)
    wanted = names[number % len(names)]
    positive = chance.random() < 0.75 or "float16" in wanted
    x64 = chance.random() < 0.1
    dtypes = [
        "float32",
        "float32",
        "float16",
        "bfloat16",
        "float64" if x64 else "float32",
    ]
    tables = {
        "a": (chance.choice(SHAPES), chance.choice(dtypes) if positive else "float32"),
        "b": (SHAPES[1], "float32"),
        OTHER: ((5, WIDTH), chance.choice(dtypes) if positive else "float32"),
    }
    while True:
        tables["a"] = (chance.choice(SHAPES), tables["a"][1])
        terms = [
            _random_term(chance, tables, x64)
            for _ in range(chance.choice([1, 1, 1, 2]))
        ]
        names = [form.name for term in terms for form in term.forms()]
        low = any("float16" in name for name in names)
        if wanted in names and (positive or not low):
            break
    used = set().union(*(term.tables() for term in terms)) | {chance.choice("ab")}
    tables = {name: table for name, table in tables.items() if name in used}
    auto, seed = chance.random() < 0.1, chance.randrange(1000)
    return Program(tables, tuple(terms), positive, auto, x64, seed)


def _random_term(chance: random.Random, tables: Any, x64: bool) -> Term:
    def allowed(forms: list[Form]) -> list[str]:
        kinds = [Dense] if chance.random() < 0.9 else []
        kinds += [Either] if chance.random() < 0.8 else []
        return [form.name for form in forms if not isinstance(form.gives, tuple(kinds))]

    dtypes = ["int8", "uint8", "uint16", "int32", "int32", "int32", "uint32"]
    dtype = chance.choice(["int64", "uint64"] if x64 else dtypes)
    while True:
        term = Term(
            table=chance.choice("aab"),
            around=tuple(
                chance.choice(allowed(chance.choice([VIEWS, VIEWS, SURROUNDINGS])))
                for _ in range(chance.choice([0, 1, 1, 2, 2, 3, 3]))
            ),
            read=chance.choice(allowed(READS)),
            done=chance.choice(allowed(DONE)),
            ids=_random_ids(chance, dtype),
            dtype=dtype,
        )
        if term.fits(len(tables[term.table][0])):
            return term


def _random_ids(chance: random.Random, dtype: str) -> Any:
    """Within, or also before and beyond, as far as 32 bits can tell."""
    shape = chance.choice(
        [(3,), (3,), (3,), (5,), (5,), (1,), (2, 2), (2, 2), (), (), (0,), (2, 0)]
    )
    ids = [chance.randint(0, 4) for _ in range(math.prod(shape))]
    if chance.random() < 0.6:
        low = 0 if dtype.startswith("u") else -9
        ids = [chance.randint(low, 12) for _ in ids]
        if "64" in dtype and ids:
            ids[0] = 2**31 - 1  # longer ones JAX cuts to 32 bits, in some programs
    return np.array(ids, dtype).reshape(shape).tolist()
