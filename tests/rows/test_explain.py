"""``explain``: it says what gradients there will be, and computes nothing."""

import inspect
import json

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import adagrad_jax as aj

IDS = jnp.array([1, 4, 1])


def model(params, ids):
    rows = params["table"][ids] + params["stack"][1][ids]
    scores = rows @ params["tied"].T  # here
    return (
        jnp.sum(scores) + jnp.sum(params["tied"][ids]) + jnp.sum(params["small"][ids])
    )


PARAMS = {
    "table": jnp.ones((32, 4)),
    "stack": jnp.ones((2, 32, 4)),
    "tied": jnp.ones((32, 4)),
    "small": jnp.ones((3, 4)),
    "unread": jnp.ones((5, 4)),
    "bias": jnp.ones(()),
}


def as_types(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture(scope="module")
def leaves():
    explanation = aj.explain(model)(PARAMS, IDS)
    return {leaf.path: leaf for leaf in explanation.leaves}


def test_it_agrees_with_the_gradients(leaves):
    kinds = []
    jax.eval_shape(lambda: kinds.append(aj.grad(model)(PARAMS, IDS)))
    assert len(leaves) == len(kinds[0])
    for name, leaf in kinds[0].items():
        kind = "rows" if isinstance(leaf, aj.RowSparse) else "dense"
        assert leaves[f"['{name}']"].gradient == kind


def test_of_rows_it_says_how_many(leaves):
    table, stack = leaves["['table']"], leaves["['stack']"]
    assert (table.num_ids, table.num_reads, table.row_axes) == (3, 1, 1)
    assert (table.bytes_touched, table.bytes_total) == (3 * 16, 32 * 16)
    assert (stack.row_axes, stack.bytes_touched) == (2, 3 * 16)
    assert table.reason is table.remedy is table.primitive is None


def test_of_the_others_it_says_why_and_what_to_do(leaves):
    lines, first = inspect.getsourcelines(model)
    (line,) = [i for i, text in enumerate(lines, first) if "# here" in text]
    tied = leaves["['tied']"]
    assert tied.primitive == "dot_general"
    assert tied.where == f"{__file__}:{line} (model)"
    assert tied.where in tied.reason and "another array" in tied.remedy
    assert tied.bytes_touched == tied.bytes_total == 32 * 16
    assert leaves["['small']"].reason.startswith("3 ids are read of 3 rows")
    assert leaves["['unread']"].reason == "it is not read"
    assert "has no rows" in leaves["['bias']"].reason


@pytest.mark.parametrize(
    "num_ids, shape, kind",
    [
        (3, (3, 4), "dense"),
        (3, (4, 4), "rows"),
        (1000, (1001, 4), "rows"),
        (1024, (4096, 16), "dense"),
        (1024, (7 * 1024, 16), "dense"),
        (1024, (7 * 1024 + 1, 16), "rows"),
        (1024, (4096, 64), "rows"),
        (1024, (97 * 1024 + 1,), "rows"),
        (4096, (4096, 256), "dense"),
        (4096, (8192, 256), "rows"),
    ],
)
def test_small_tables_are_dense(num_ids, shape, kind):
    """By what is faster: docs/row_sparse.md has the rule."""
    table = jax.ShapeDtypeStruct(shape, jnp.float32)
    ids = jax.ShapeDtypeStruct((num_ids,), jnp.int32)
    (leaf,) = aj.explain(lambda table, ids: jnp.sum(table[ids] ** 2))(table, ids).leaves
    assert leaf.gradient == kind


def test_what_it_advises_works():
    small = aj.grad(model, tables=lambda path, leaf: path[-1].key == "small")
    kinds = []
    jax.eval_shape(lambda: kinds.append(small(PARAMS, IDS)))
    assert isinstance(kinds[0]["small"], aj.RowSparse)

    def untied(params, ids):
        return jnp.sum(params["tied"][ids] @ params["output"].T)

    explanation = aj.explain(untied)(PARAMS | {"output": PARAMS["tied"]}, IDS)
    (tied,) = [leaf for leaf in explanation.leaves if leaf.path == "['tied']"]
    assert tied.gradient == "rows"


def test_types_do_and_nothing_is_computed(leaves):
    explanation = aj.explain(model)(as_types(PARAMS), as_types(IDS))
    assert list(explanation.leaves) == list(leaves.values())
    large = jax.ShapeDtypeStruct((2**30, 2**20), jnp.float32)  # which no memory holds
    (leaf,) = aj.explain(lambda table, ids: jnp.sum(table[ids]))(large, IDS).leaves
    assert leaf.gradient == "rows" and leaf.path == ""


def test_it_is_read_by_people_and_by_programs(leaves):
    explanation = aj.explain(model)(PARAMS, IDS)
    text = str(explanation)
    header, *lines = text.splitlines()
    assert header.split()[:4] == ["leaf", "shape", "dtype", "gradient"]
    assert all(leaf.path in text for leaf in leaves.values())
    assert any(leaves["['tied']"].reason in line for line in lines)
    assert not any(line != line.rstrip() for line in lines)
    assert json.loads(json.dumps(explanation.to_dict())) == explanation.to_dict()


def test_argnums_and_auxiliary_data():
    def loss(scale, table, *, ids):
        return scale * jnp.sum(table[ids]), table

    explain = aj.explain(loss, argnums=(1, 0), has_aux=True)
    leaves = explain(jnp.ones(()), PARAMS["table"], ids=IDS).leaves
    assert [leaf.gradient for leaf in leaves] == ["rows", "dense"]


def test_what_tables_cannot_have_is_explained():
    def every(path, leaf):
        return leaf.ndim == 2

    explanation = aj.explain(model, tables=every)(PARAMS, IDS)
    gradients = {leaf.path: leaf.gradient for leaf in explanation.leaves}
    assert gradients["['small']"] == "rows" and gradients["['tied']"] == "dense"
    with pytest.raises(ValueError, match="tied"):
        aj.grad(model, tables=every)(PARAMS, IDS)


def test_it_says_which_rows_are_exchanged():
    """And what should lie by rows but is read otherwise, without an error."""
    mesh = jax.make_mesh((4,), ("d",), (AxisType.Auto,))
    by_rows = aj.sharding.RowSharding(mesh, "d")

    def exchanged(path, leaf):
        return by_rows if path[-1].key in ("table", "tied") else None

    explanation = aj.explain(model, row_sharding=exchanged)(PARAMS, IDS)
    leaves = {leaf.path: leaf for leaf in explanation.leaves}
    assert leaves["['table']"].gradient == "rows"
    assert leaves["['table']"].exchanged == ("d",)
    assert leaves["['small']"].exchanged == ()
    assert leaves["['tied']"].gradient == "dense" and leaves["['tied']"].reason
    assert str(explanation).count("rows lie, and are exchanged, along ('d',)") == 1


def test_it_says_so_of_types():
    mesh = jax.make_mesh((4,), ("d",), (AxisType.Explicit,))
    by_rows = NamedSharding(mesh, PartitionSpec("d"))
    table = jax.ShapeDtypeStruct((1000, 4), jnp.float32, sharding=by_rows)
    explain = aj.explain(lambda table, ids: jnp.sum(table[ids]))
    with jax.set_mesh(mesh):
        (leaf,) = explain(table, IDS).leaves
    assert leaf.gradient == "rows" and leaf.exchanged == ("d",)


def test_it_warns_of_16_bits_where_they_are_slow(monkeypatch):
    table = jax.ShapeDtypeStruct((1000, 4), jnp.bfloat16)

    def warnings(version):
        monkeypatch.setattr("importlib.metadata.version", lambda _: version)
        explain = aj.explain(lambda table, ids: jnp.sum(table[ids]))
        return explain(table, IDS).leaves[0].warnings

    assert warnings("0.12.0") == ()
    (warning,) = warnings("0.10.2")
    assert "converts a bfloat16 table" in warning
