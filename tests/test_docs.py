"""What the documents say is so."""

import itertools
import json
import pathlib
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from adagrad_jax import keras3
from benchmarks import overview

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.usefixtures("standard_promotion")
def test_the_readme_example_runs(capsys):
    """In at most 16 lines, as its author promised."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    lines = [line for line in example.splitlines() if line]
    assert len(lines) <= 16
    exec(compile(example, "README.md", "exec"), {})
    assert float(capsys.readouterr().out) < 1e-3


def milliseconds(num_ids, drawn):
    """Of each contender with a table of 1,000,000 rows of 64, to three digits."""
    results = json.loads((ROOT / "benchmarks/results/rows.target.cpu.json").read_text())
    (case,) = [
        case
        for case in results["cases"]
        if (case["rows"], case["dim"], case["n"], case["ids"])
        == (1_000_000, 64, num_ids, drawn)
    ]
    return {name: f"{time:.3g}" for name, time in case["milliseconds"].items()}


def test_the_readme_has_the_figures_of_the_benchmark():
    """Ours in bold."""
    names = ["adagrad_jax", "FBGEMM", "torch", "tf_keras", "Keras 3", "optax.adagrad"]
    for n in 8192, 65536:
        times = milliseconds(n, "Zipf")
        ours, *others = (times[name] for name in names)
        assert f"| {n:,} | **{ours}** | {' | '.join(others)} |" in README


def test_the_pages_say_how_many_targets_were_met():
    found = json.loads((ROOT / "benchmarks/results/all.json").read_text())
    targets = found["targets"]
    met = sum(map(overview.met, targets))
    benchmarks = (ROOT / "benchmarks/README.md").read_text()
    assert f"{met} of the {len(targets)} targets" in " ".join(README.split())
    assert f"{met} of {len(targets)} targets are met" in " ".join(benchmarks.split())


def test_the_benchmarks_page_has_the_figures_of_row_wise():
    results = json.loads(
        (ROOT / "benchmarks/results/rows.row_wise.cpu.json").read_text()
    )
    page = (ROOT / "benchmarks/README.md").read_text()
    page = page.partition("## And beside FBGEMM's row-wise kernel?")[2]
    for title, contenders in results["cases"].items():
        ours, theirs = contenders.values()
        rows, ids, drawn = re.match(r"(.*), (.*) ids, (.*)", title).groups()
        case = f"| {rows.replace(' x ', ' | ')} | {ids} | {drawn} |"
        (line,) = [line for line in page.splitlines() if line.startswith(case)]
        found = re.findall(r"[\d.]+", line.removeprefix(case))[:3]
        exact = ours["milliseconds"], theirs["milliseconds"], ours["ratio"]
        # Each to the digits that are written.
        for number, written in zip(exact, found, strict=True):
            assert f"{number:.{len(written.partition('.')[2])}f}" == written


def test_the_page_on_performance_has_the_figures_of_the_benchmark():
    page = (ROOT / "docs" / "performance.md").read_text()
    for n, drawn in itertools.product((8192, 65536), ("Zipf", "uniform")):
        times = milliseconds(n, drawn)
        line = f"| {times['adagrad_jax']} | {times['optax.adagrad']} |"
        assert f"| {n:,} | {drawn} {line}" in page
    times = milliseconds(65536, "Zipf")
    unique = times["adagrad_jax, unique ids"]
    assert f"{unique} ms instead of {times['adagrad_jax']}" in " ".join(page.split())


def run_examples(page, file_name):
    """All in one namespace, as a reader would paste them."""
    namespace = {}
    for example in re.findall(r"```python\n(.*?)\n *```", page, re.S):
        exec(compile(textwrap.dedent(example), file_name, "exec"), namespace)
    return namespace


# They have tests of their own, here and in test_library_page.py.
APART = {"row_sparse", "scaling", "sharding", "family", "keras", "libraries"}
APART |= {"architecture"}  # its example is of names that are nowhere
OTHERS = sorted(
    path.stem
    for path in (ROOT / "docs").glob("*.md")
    if path.stem not in APART and "```python" in path.read_text()
)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", OTHERS)
def test_the_examples_of_the_other_pages_run(name, capsys):
    """And print what is below them."""
    page = (ROOT / "docs" / f"{name}.md").read_text()
    run_examples(page, "model.py")
    promised = re.findall(r"```text\n(.*?)\n *```", page, re.S)
    assert capsys.readouterr().out.split() == " ".join(promised).split()


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_scaling_run(capsys):
    """And print what is said of them."""
    page = (ROOT / "docs" / "scaling.md").read_text()
    run_examples(page, "scaling.md")
    before, after = capsys.readouterr().out.split()
    assert f"Here it is {after} pass where it was {before}." in page


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_row_sparse_gradients_run(capsys):
    """And print what is promised."""
    page = (ROOT / "docs" / "row_sparse.md").read_text()
    namespace = run_examples(page, "model.py")
    assert isinstance(namespace["gradient"], aj.RowSparse)
    # Some steps overflowed and were left out, the others moved the rows that they read.
    skipped, scaled = namespace["state"].total_notfinite, namespace["scaled"]["table"]
    assert 0 < skipped < 10 and namespace["scale"] == 2.0 ** (20 - skipped)
    moved = (scaled != 0).any(axis=1)
    assert list(jnp.flatnonzero(moved)) == [3, 14] and jnp.isfinite(scaled).all()
    explained, promised = re.findall(r"```text\n(.*?)```", page, re.S)
    _, *printed = capsys.readouterr().out.strip().split("\n")
    number = len(explained.splitlines())
    assert "\n".join(printed[:number]) == explained.strip()
    message, stacked, ids = printed[number:]
    assert message == " ".join(promised.split())
    assert stacked.startswith("2 -0.0953")  # -0.1 / sqrt(0.1 + 1)
    assert ids == "[ 3 14  3 15]"


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_the_keras_optimizer_run(capsys):
    namespace = run_examples((ROOT / "docs" / "keras.md").read_text(), "keras.md")
    assert capsys.readouterr().out == "True [1. 1.]\n"
    assert namespace["opt"].iterations == 1


@pytest.mark.usefixtures("standard_promotion")
def test_the_port_of_the_keras_page_runs():
    page = (ROOT / "docs" / "keras.md").read_text()
    tensorflow, port = re.findall(r"```py\n(.*?)```", page, re.S)
    assert len(tensorflow.splitlines()) == len(port.splitlines())
    namespace = {"ids": np.array([1, 3]), "y": np.zeros((2, 3), np.float32)}
    exec(compile(textwrap.dedent(port), "keras.md", "exec"), namespace)
    changed = (namespace["table"].numpy() != 1).any(axis=1)
    assert list(np.flatnonzero(changed)) == [1, 3]


@pytest.mark.usefixtures("standard_promotion")
def test_the_examples_of_the_family_run(capsys):
    namespace = run_examples((ROOT / "docs" / "family.md").read_text(), "family.md")
    reads, decayed, *report = capsys.readouterr().out.splitlines()
    assert reads == "[4 0 1]"
    np.testing.assert_allclose(float(decayed), 0.999**2, rtol=1e-6)
    assert namespace["report"].leaves[0].untouched_rows == 997
    assert "99.7%" in "".join(report)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.filterwarnings("ignore:.*pmap")
def test_the_examples_of_several_devices_run(capsys):
    """To the numbers of one device."""
    page = (ROOT / "docs" / "sharding.md").read_text()
    page = page.replace('jax.config.update("jax_num_cpu_devices", 8)', "")
    names = run_examples(page, "sharding.md")
    of_one_copy = jax.tree.map(lambda x: x[-1], names["in_pmap"])
    by_rows = names["params"], names["state"]
    copies = names["in_shard_map"][:2], of_one_copy[:2]
    for trained in (*copies, by_rows, names["in_explicit"][:2]):
        for a, e in zip(
            *map(jax.tree.leaves, (trained, names["expected"])), strict=True
        ):
            np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    specs, predicted, grown, restored = capsys.readouterr().out.splitlines()
    assert specs == "P('data',) P('data',)"
    after = names["mean_loss"](jax.device_get(names["params"]), names["batch"])
    np.testing.assert_allclose(float(predicted), after, rtol=1e-5)
    assert grown == "(10002, 8) P('data',)" and restored == "1 4"


def test_the_memory_is_what_the_states_take():
    page = (ROOT / "docs" / "accumulators.md").read_text()
    (table,) = re.findall(r"<!-- memory -->\n.*?\|\n\|-.*?\n(.*?)<!--", page, re.S)
    rows = [line.strip("| \n").split(" | ") for line in table.splitlines()]
    assert len(rows) == 14
    for optimizer, *promised in rows:
        for dtypes, text in zip((["f4"], ["bfloat16", "f2"]), promised, strict=True):
            for dtype in dtypes:
                kept = memory_per_parameter(optimizer, jnp.dtype(dtype))
                digits = len(text.partition(".")[2])
                assert f"{kept:.{digits}f}" == text, (optimizer, dtype)


def memory_per_parameter(optimizer, dtype):
    """In bytes, of an optimizer written as in the table: a name, and an accumulator."""
    function, _, accumulator = optimizer.replace("`", "").partition(", ")
    options = {"accumulator": eval(f"aj.{accumulator}")} if accumulator else {}
    if function == "lazy_weight_decay":
        options["weight_decay"] = 0.1
    table = jnp.ones((10_000, 64), dtype)
    state = getattr(aj, function)(0.1, **options).init(table)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / table.size


def test_every_public_name_is_in_the_reference():
    pages = (ROOT / "docs" / "api").glob("*.md")
    reference = "\n".join(page.read_text() for page in pages)
    documented = re.findall(
        r"^\.\. auto\w+:: (?:adagrad_jax\.)?([\w.]+)", reference, re.M
    )
    assert len(documented) == len(set(documented))
    modules = {
        "diagnostics": aj.diagnostics,
        "dialects": aj.dialects,
        "interop": aj.interop,
        "keras": aj.keras,
        "keras.schedules": aj.keras.schedules,
        "keras3": keras3,
        "sharding": aj.sharding,
    }
    named = {
        f"{module}.{name}"
        for module, contents in modules.items()
        for name in getattr(contents, "__all__", vars(contents))
        if not name.startswith("_")
        and (
            hasattr(contents, "__all__")
            or getattr(getattr(contents, name), "__module__", "").startswith(
                f"adagrad_jax.{module}"
            )
        )
    }
    assert set(documented) == set(aj.__all__) | set(modules) | named


def test_all_is_what_is_exported():
    exported = {name for name in vars(aj) if not name.startswith("_")}
    # What __init__ itself needs; keras3 is there once it has been imported by itself.
    exported -= {"TYPE_CHECKING", "importlib", "keras3"}
    lazy = {"diagnostics", "dialects", "interop", "keras", "sharding"}
    assert set(aj.__all__) == exported | lazy
    assert sorted(aj.__all__) == aj.__all__


DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
DOCUMENTS += [ROOT / "benchmarks" / "README.md", *(ROOT / "colab").glob("*.ipynb")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_local_link_leads_somewhere(path):
    """To a file that there is, and to a heading in it."""
    document = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", document):
        linked = path.parent / target if target else path
        assert linked.exists(), f"{path.name}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked.read_text()), f"{path.name}: #{anchor}"


def anchors(page):
    """Of the headings, as GitHub and MyST make them."""
    page = re.sub(r"```.*?```", "", page, flags=re.S)
    headings = re.findall(r"^#+ (.*)", page, re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
