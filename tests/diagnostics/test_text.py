"""Paths and numbers in a few characters."""

import math

import pytest

from adagrad_jax.diagnostics import _text


def test_long_paths_keep_their_numbers_and_their_last_part():
    cut = _text.fit("transformer/encoder_layer_11/attention/kernel", 30)
    assert cut == "tra…mer/enc…_11/att…ion/kernel"
    assert _text.fit("a/b", 30) == "a/b"
    assert len(_text.fit("x" * 99, 30)) == 30


@pytest.mark.parametrize(
    "number, text",
    [(0, "0"), (999, "999"), (999.9, "1k"), (64e6, "64M"), (1234, "1.23k")]
    + [(1e18, "1.0e+18"), (math.inf, "inf"), (math.nan, "nan"), (0.25, "0.25")],
)
def test_short_numbers(number, text):
    assert _text.short(number) == text
