"""What the documents say is so."""

import pathlib
import re
import types

import numpy as np
import pytest

import adagrad_jax as aj

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.usefixtures("standard_promotion")
def test_the_readme_example_runs(capsys):
    """In at most 15 lines, as its author promised."""
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 15
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip("[]\n").split()
    np.testing.assert_allclose(np.array(printed, float), [1, -2, 0.5], atol=0.01)


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_row_sparse_gradients_run(capsys):
    """All in one namespace, as a reader would paste them; and what is printed."""
    page = (ROOT / "docs" / "row_sparse.md").read_text()
    namespace = {}
    for example in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(example, "model.py", "exec"), namespace)
    assert isinstance(namespace["gradient"], aj.RowSparse)
    step, message, ids = capsys.readouterr().out.strip().split("\n")
    assert ids == "[ 3 14  3 15]"
    (promised,) = re.findall(r"```text\n(.*?)```", page, re.S)
    assert message == " ".join(promised.split())


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text()
    documented = set(re.findall(r":: (?:adagrad_jax\.)?([\w.]+)", reference))
    documented -= {"adagrad_jax", "dialects"}  # modules, the first by currentmodule
    dialects = {
        f"dialects.{name}"
        for name, value in vars(aj.dialects).items()
        if not name.startswith("_")
        and isinstance(value, types.FunctionType | type)
        and value.__module__ == "adagrad_jax.dialects"
    }
    assert documented == (set(aj.__all__) - {"dialects"}) | dialects


def test_all_is_what_is_exported():
    exported = {name for name in vars(aj) if not name.startswith("_")}
    assert set(aj.__all__) == exported
    assert sorted(aj.__all__) == aj.__all__


def test_every_local_link_of_the_documents_leads_somewhere():
    for document in ROOT.glob("*.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (ROOT / link).exists(), f"{document.name}: {link}"
