"""A small transformer over bytes, each layer of which looks up hashed n-grams.

What stands in the last two and the last three bytes is hashed to rows of a table: a
memory of phrases that costs a lookup, not a multiplication, however many rows it has.
Layers are one `lax.scan` over stacked parameters, the tables ``(layers, rows, dim)``
among them; each is rematerialised, and computes in bfloat16.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

BYTES = 256
HASHES = 0x9E3779B1, 0x85EBCA6B  # odd, one for each length of n-gram


@dataclasses.dataclass(frozen=True)
class Model:
    """Its sizes.

    Attributes:
      rows: Of the table of each layer; 0 for none.
      layers: How many.
      width: Of the residual stream.
      heads: Of attention.
      dim: Numbers in a row of a table.
      length: Bytes in a window that are predicted.
    """

    rows: int
    layers: int = 2
    width: int = 64
    heads: int = 4
    dim: int = 16
    length: int = 128

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Float32; tables begin at 0."""
        layers, width, keys = self.layers, self.width, iter(jax.random.split(key, 8))

        def normal(*shape: int) -> jax.Array:
            return jax.random.normal(next(keys), shape) * shape[-2] ** -0.5

        stacked = {
            "scales": jnp.ones((layers, 2, width)),
            "attention": normal(layers, width, 3 * width),
            "mixed": normal(layers, width, width),
            "up": normal(layers, width, 4 * width),
            "down": normal(layers, 4 * width, width),
        }
        if self.rows:
            stacked["ngrams"] = jnp.zeros((layers, self.rows, self.dim))
            stacked["of_ngrams"] = normal(layers, len(HASHES) * self.dim, width)
        return {
            "bytes": jax.random.normal(next(keys), (BYTES, width)),
            "positions": 0.1 * jax.random.normal(next(keys), (self.length, width)),
            "layers": stacked,
            "logits": 0.1 * normal(width, BYTES),
        }

    def loss(self, params: dict[str, Any], text: jax.Array) -> jax.Array:
        """Bits a byte, of windows ``(batch, length + 1)``: each predicts the next."""
        x = (params["bytes"][text[:, :-1]] + params["positions"]).astype(jnp.bfloat16)
        ids = ngram_ids(text[:, :-1], self.rows) if self.rows else None

        @jax.checkpoint
        def layer(x: jax.Array, params: dict[str, Any]) -> tuple[jax.Array, None]:
            if ids is not None:
                rows = params["ngrams"][ids]  # (batch, length, n-grams, dim)
                rows = rows.reshape(*ids.shape[:2], -1).astype(jnp.bfloat16)
                x += rows @ params["of_ngrams"].astype(jnp.bfloat16)
            half = {
                k: v.astype(jnp.bfloat16) for k, v in params.items() if k != "ngrams"
            }
            x += self.attend(half, normalized(x) * half["scales"][0])
            hidden = jax.nn.gelu(normalized(x) * half["scales"][1] @ half["up"])
            return x + hidden @ half["down"], None

        x, _ = jax.lax.scan(layer, x, params["layers"])
        logits = normalized(x).astype(jnp.float32) @ params["logits"]
        scores = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(scores, text[:, 1:, None], axis=-1)
        return -jnp.mean(picked) / jnp.log(2.0)

    def attend(self, params: dict[str, Any], x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        qkv = (x @ params["attention"]).reshape(batch, length, 3, self.heads, -1)
        out = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True
        )
        return out.reshape(batch, length, width) @ params["mixed"]


def normalized(x: jax.Array) -> jax.Array:
    """To a mean square of 1; the sum in float32."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jax.lax.rsqrt(square + 1e-6)).astype(x.dtype)


def ngram_ids(text: jax.Array, rows: int) -> jax.Array:
    """Rows ``(batch, length, 2)``: of the two and the three bytes that end there."""
    key = text.astype(jnp.uint32)
    ids = []
    for n, odd in enumerate(HASHES, 1):
        before = jnp.pad(text, ((0, 0), (n, 0)))[:, : text.shape[1]]
        key = key * 257 + before.astype(jnp.uint32) + 1
        mixed = key * jnp.uint32(odd)
        ids.append((mixed ^ (mixed >> 15)) * jnp.uint32(HASHES[0]) >> 7)
    return (jnp.stack(ids, axis=-1) % rows).astype(jnp.int32)
