"""The example of a language model with hashed n-grams runs, and its rows are rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import adagrad_jax as aj
from examples.ngram_lm import __main__ as program
from examples.ngram_lm import text
from examples.ngram_lm.model import Model, ngram_ids

pytestmark = pytest.mark.usefixtures("standard_promotion")
MODEL = Model(rows=512, width=16, heads=2, dim=4, length=12)


def test_it_runs(tmp_path, capsys):
    program.main(["--quick", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    assert "1,024 rows:" in said and "by rows:" in said and "dense:" in said
    assert (tmp_path / "losses.png").stat().st_size > 10_000


def test_the_same_bytes_are_the_same_row():
    """Of two and of three; where one of them differs, most likely another."""
    line = np.frombuffer(b"abcabcxbc", np.uint8)[None].astype(np.int32)
    ids = np.asarray(ngram_ids(jnp.asarray(line), 2**20))[0]
    assert ids.shape == (9, 2) and (ids >= 0).all() and (ids < 2**20).all()
    twos, threes = ids.T
    assert twos[1] == twos[4] and twos[2] == twos[5] == twos[8]
    assert threes[2] == threes[5] != threes[8]
    assert len(set(twos)) == 6 and len(set(threes)) == 8


def test_rows_are_what_an_ordinary_gradient_has():
    """Of tables in a stack, inside scan and remat, of the sum of two microbatches."""
    params = MODEL.init(jax.random.key(0))
    noise = jax.random.normal(jax.random.key(1), params["layers"]["ngrams"].shape)
    params["layers"]["ngrams"] = noise
    learn, check = text.load(10_000)
    assert (learn.size, check.size) == (10_000, 1000)
    batches = [text.windows(learn, MODEL.length + 1, 3, seed) for seed in (0, 1)]

    @jax.jit
    def both(params):
        rows, dense = (
            jax.tree.map(program.add, *(of(MODEL.loss)(params, b)[1] for b in batches))
            for of in (program.by_rows, jax.value_and_grad)
        )
        assert isinstance(rows["layers"]["ngrams"], aj.RowSparse)
        rows["layers"]["ngrams"] = rows["layers"]["ngrams"].to_dense()
        return rows, dense

    # In bfloat16 the order of sums makes a difference.
    rows, dense = jax.tree.map(np.asarray, both(params))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02 * b.max()),
        rows,
        dense,
    )
    assert (dense["layers"]["ngrams"] != 0).any(axis=2).sum() < 2 * 2 * 3 * 12 * 2 + 1
