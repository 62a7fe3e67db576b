"""docs/libraries.md: its examples run, with rows, to the numbers of JAX's gradient."""

import contextlib
import io
import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import adagrad_jax as aj

# The libraries rely on JAX's usual promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "libraries.md"
SECTIONS = dict(
    re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
)

# The leaves whose gradient is of rows, of all gradients that an example takes.
ROWS = {
    "Plain JAX": {"['table']"},
    "Flax linen": {"['Embed_0']['embedding']"},
    "Flax NNX": {".embed.embedding.value", "['embed']['embedding'].value"},
    "Layers made by nnx.vmap and nnx.scan": {
        ".tables.embedding.value",
        ".layers.embed.embedding.value",
    },
    "Equinox": {".embed.weight"},
    "Haiku": {"['embed']['embeddings']"},
    "Keras 3": {"[0]"},
    "Freezing a table": {"['items']"},
    "Freezing some rows": {"['table']"},
    "A padding row": {"['table']"},
    "Bags: sum, mean, weighted": {
        "['sum']",
        "['mean']",
        "['segments']",
        "['offsets']",
    },
    "Negative sampling": {"['words']", "['contexts']"},
    "Sampled softmax": {"['table']", "['output']", "['bias']"},
    "Two towers": {"['users']", "['items']"},
    "Tied embeddings": set(),
    "An average of the weights": {"['table']"},
    "Gradient accumulation": {"['table']"},
    "Growing a table": {"['table']"},
    "Tables of jax-tpu-embedding": {"['table']"},
    "Learning rates and accumulators of each table": {"['items']", "['brands']"},
}


def examples(title):
    return re.findall(r"```python\n(.*?)```", SECTIONS[title], re.S)


def run(title):
    """The section's examples, after the page's first; and what they print."""
    common, *others = examples("Plain JAX")
    namespace, printed = {}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        for example in [common, *(others if title == "Plain JAX" else examples(title))]:
            exec(compile(example, "model.py", "exec"), namespace)
    return namespace, printed.getvalue()


def recorder(value_and_grad, rows):
    """``value_and_grad`` that puts the paths of row-sparse gradients into ``rows``."""

    def recording(fun, *args, **kwargs):
        differentiated = value_and_grad(fun, *args, **kwargs)

        def call(*args):
            value, gradients = differentiated(*args)
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
                if isinstance(leaf, aj.RowSparse):
                    rows.add(jax.tree_util.keystr(path))
            return value, gradients

        return call

    return recording


def trained(namespace):
    """The arrays that training has made, by any name that an example gives them."""
    names = ["params", "model", "state", "value", "average"]
    leaves = jax.tree.leaves([namespace.get(name) for name in names])
    return [
        leaf
        for leaf in leaves
        if isinstance(leaf, jax.Array)
        and not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]


def accumulators(state):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return [leaf for path, leaf in named.items() if "accumulator" in path]


def test_every_section_is_here():
    assert set(ROWS) == set(SECTIONS)


@pytest.mark.parametrize("title", ROWS)
def test_the_examples(title, monkeypatch):
    """Rows where the table above says so, and the numbers of ``jax.value_and_grad``."""
    rows = set()
    monkeypatch.setattr(aj, "value_and_grad", recorder(aj.value_and_grad, rows))
    namespace, printed = run(title)
    assert rows == ROWS[title]
    promised = re.findall(r"```text\n(.*?)```", SECTIONS[title], re.S)
    assert "\n".join(promised).split() == printed.split()
    # Every parameter has had a gradient.
    kept = [leaf for leaf in accumulators(namespace["state"]) if leaf.size > 1]
    assert kept and all(np.ptp(leaf) > 0 for leaf in kept)

    monkeypatch.setattr(aj, "value_and_grad", jax.value_and_grad)
    expected, _ = run(title)
    # A few roundings: repeated ids are summed in another order.
    chex.assert_trees_all_close(
        trained(namespace), trained(expected), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "accumulator",
    [aj.Diagonal(), aj.Diagonal(jnp.bfloat16), aj.RowWise(), aj.SM3(), aj.Norm()],
    ids=repr,
)
def test_what_grows_is_what_was_there_and_then_what_is_new(accumulator):
    namespace = {"jax": jax}
    (example,) = re.findall(r"def grow.*?\n\n\n", SECTIONS["Growing a table"], re.S)
    exec(example, namespace)
    optimizer = optax.partition({0: aj.adagrad(0.1, accumulator=accumulator)}, 0)
    small = {"table": jnp.arange(6.0).reshape(3, 2), "bias": jnp.ones(2)}
    large = small | {"table": jnp.zeros((5, 2))}
    old, fresh = (
        jax.tree.map(lambda a: a + 1, optimizer.init(small)),
        optimizer.init(large),
    )
    states = (namespace["grow"](old, fresh), old, fresh)
    for grown, was, new in zip(*map(jax.tree.leaves, states), strict=True):
        assert (grown.shape, grown.dtype) == (new.shape, new.dtype)
        added = np.ones(grown.shape, bool)
        added[tuple(map(slice, was.shape))] = False
        grown, new = np.asarray(grown), np.asarray(new)
        np.testing.assert_array_equal(grown[~added].reshape(was.shape), was)
        np.testing.assert_array_equal(grown[added], new[added])
