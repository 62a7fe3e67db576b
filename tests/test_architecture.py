"""The package is built as docs/architecture.md says: imports run down its floors."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import adagrad_jax as aj

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "adagrad_jax"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
        ast.parse(path.read_text())
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floors():
    """The parts on each floor of the page's table, from the top."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (table,) = re.findall(r"\| floor \| parts \|\n\|[-|]+\|\n(.*?)\n\n", page, re.S)
    return [re.findall(r"`(\w+)`", line) for line in table.splitlines()]


def imports(module):
    """All modules of the package that a module imports, wherever in it."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            # What is imported from a module is either a module or something in one.
            found = [name, name.rpartition(".")[0]]
            yield from [known for known in found if known in MODULES][:1]


def part_of(module):
    return module.split(".")[1] if "." in module else "__init__"


def test_the_page_names_every_part_once():
    named = [part for floor in floors() for part in floor]
    assert sorted(named) == sorted({part_of(module) for module in MODULES})


def test_imports_run_down():
    floor_of = {part: i for i, floor in enumerate(floors()) for part in floor}
    for module in MODULES:
        for other in imports(module):
            here, there = part_of(module), part_of(other)
            assert floor_of[here] <= floor_of[there], f"{module} imports {other}"


@pytest.mark.parametrize("name", [lambda module: module, part_of], ids=["files", "all"])
def test_imports_run_one_way(name):
    """No circle, neither of files nor of parts."""
    below = {}
    for module in MODULES:
        others = {name(other) for other in imports(module)} - {name(module)}
        below.setdefault(name(module), set()).update(others)
    while below:
        lowest = {part for part, others in below.items() if not others & set(below)}
        assert lowest, f"a circle among {sorted(below)}"
        below = {part: others for part, others in below.items() if part not in lowest}


OPTIONAL = "chex", "keras", "matplotlib", "orbax", "jax.experimental.sparse"


def test_nothing_is_imported_that_may_not_be_needed():
    """And its own modules only when they are used."""
    program = (
        "import sys, adagrad_jax as aj; before = set(sys.modules); aj.keras.Adagrad; "
        "print(*before); print(*set(sys.modules) - before)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    )
    before, after = (line.split() for line in run.stdout.decode().splitlines())
    assert not set(before) & {*OPTIONAL, "adagrad_jax.keras", "adagrad_jax.interop"}
    assert "adagrad_jax.keras" in after and not set(after) & set(OPTIONAL)
    with pytest.raises(AttributeError, match="no attribute 'adagard'"):
        aj.adagard  # noqa: B018


# What the rest may have of the rooms behind the door.
DOOR = {"visit", "gradient", "choice", "row_sparse", "packed", "explain"}
DOOR |= {"reduction", "row_sharding", "forward", "passes"}  # of sharding
INSIDE = {"ids", "summed", "fold", "then", "coalesce", "_entries", "_grouped"}


def test_gradients_of_rows_are_seen_through_the_door_only():
    for module, tree in MODULES.items():
        if module.startswith("adagrad_jax._rows"):
            continue
        behind = [m for m in imports(module) if m.startswith("adagrad_jax._rows")]
        if not behind:
            continue
        assert {m.rpartition(".")[2] for m in behind} <= DOOR, module
        called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                inside = INSIDE if node in called else INSIDE | {"values"}
                assert node.attr not in inside, f"{module}, line {node.lineno}"


def test_no_file_is_too_long_to_read():
    """But the object's, whose methods are all that its users know."""
    lines = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text().splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    long = {name for name, number in lines.items() if number > 500}
    assert long <= {"keras/_optimizer.py"}


def test_the_version_is_the_same_everywhere():
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert cited == aj.__version__


def test_what_is_tested_as_the_lowest_versions_are_those_that_are_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    bounds = [pin.replace("==", ">=") for pin in project["dependency-groups"]["lowest"]]
    assert bounds == project["project"]["dependencies"]
