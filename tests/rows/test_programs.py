"""Random programs: JAX's gradients, and rows where ``forms.py`` says so.

``programs.py`` is a command for more of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

import adagrad_jax as aj
from tests.rows import programs
from tests.rows.random_programs import FORMS, Program, Term, random_program

COUNT, AT_ONCE = 200, 20
FIRST = range(0, COUNT, AT_ONCE)


@functools.lru_cache
def outcomes(first):
    made = [random_program(0, number) for number in range(first, first + AT_ONCE)]
    return [(program, programs.check(program)) for program in made]


def differences(first, wrong):
    return [
        f"{found.kind}: {found.text}\n{program}"
        for program, outcome in outcomes(first)
        for found in outcome.differences
        if found.wrong() == wrong
    ]


@pytest.mark.parametrize("first", FIRST)
def test_values_and_gradients_are_those_of_jax(first):
    """And every row that has a derivative has an id."""
    assert not differences(first, wrong=True)


@pytest.mark.parametrize("first", FIRST)
def test_what_must_be_rows_is_rows_and_names_what_was_read(first):
    assert not differences(first, wrong=False)


def test_every_form_is_tried():
    made = [random_program(0, number) for number in range(COUNT)]
    tried = {form.name for p in made for term in p.terms for form in term.forms()}
    assert tried == FORMS.keys()


def test_jax_takes_nearly_all():
    refused = [outcome.refused for first in FIRST for _, outcome in outcomes(first)]
    assert sum(map(bool, refused)) < COUNT / 20


# That what is wrong would be found.

REMAT = ["checkpoint", "remat"]  # as different versions of JAX call it
TERM = Term("b", (), "p[ids]", "jnp.sum(w * x)", [1, 4, 1])
PROGRAM = Program({"b": ((7, 3), "float32")}, (TERM,))


def changed(ids, values):
    """Derivatives of one place less."""
    return ids, values.at[0].set(0)


def unnamed(ids, values):
    return jnp.where(ids == 4, 7, ids), values


def named(ids, values):
    """A row that was not read, and whose derivative is right."""
    return jnp.append(ids, 2), jnp.append(values, 0 * values[:1], 0)


@pytest.mark.parametrize(
    "fault, kind", [(changed, "gradient"), (unnamed, "ids"), (named, "named")]
)
def test_a_fault_in_the_rows_is_found(monkeypatch, fault, kind):
    def faulty(*args, **options):
        def call(*args):
            value, gradients = by_rows(*args)
            gradient = gradients["tables"]["b"]
            ids, values = fault(gradient.ids, gradient.values)
            rows = aj.RowSparse(ids, values, gradient.shape)
            return value, gradients | {"tables": {"b": rows}}

        by_rows = value_and_grad(*args, **options)
        return call

    value_and_grad = aj.value_and_grad
    assert not programs.check(PROGRAM).differences
    monkeypatch.setattr(aj, "value_and_grad", faulty)
    assert kind in {found.kind for found in programs.check(PROGRAM).differences}


def test_what_is_printed_is_the_simplest_that_differs(monkeypatch):
    """Here all derivatives of what has a ``remat``."""

    def faulty(fun, **options):
        def call(*args):
            value, gradients = value_and_grad(fun, **options)(*args)
            if any(name in str(jax.make_jaxpr(fun)(*args)) for name in REMAT):
                gradients = jax.tree.map(lambda leaf: 2 * leaf, gradients)
            return value, gradients

        return call

    value_and_grad = aj.value_and_grad
    monkeypatch.setattr(aj, "value_and_grad", faulty)
    term = dataclasses.replace(TERM, around=("jit", "remat", "p.astype(jnp.float32)"))
    longer = dataclasses.replace(PROGRAM, terms=(term,))
    simplest = programs.simplest(longer, "gradient")
    assert simplest.terms[0].around == ("remat",)
    assert programs.simplest(simplest, "gradient") == simplest
