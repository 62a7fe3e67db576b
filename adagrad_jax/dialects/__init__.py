r"""Adagrad as other frameworks mean it, with their names, defaults and rounding.

Each function takes the arguments of the optimizer that it stands for and returns an
Optax transformation that gives the same numbers, up to the last few bits:

================  ============================  =====  =====  ==========================
function          update                        acc.   rate   also
                                                first
================  ============================  =====  =====  ==========================
`keras`           lr * g / (sqrt(a) + 1e-7)     0.1    0.001  clipnorm, clipvalue,
                                                              decay
`keras3`          lr * g / sqrt(a + 1e-7)       0.1    0.001  weight decay, clipping,
                                                              averaging, accumulation
`optax`           lr * g / sqrt(a + 1e-7)       0.1    --
`torch`           lr * g / (sqrt(a) + 1e-10)    0      0.01   lr_decay, weight_decay,
                                                              maximize
`tf1`             lr * g / sqrt(a)              0.1    --
`fbgemm`          lr * g / (sqrt(a_row) + eps)  0      0.01   eps 1e-8, weight decay of
                                                              rows, max_norm
`sparsecore`      lr * g / sqrt(a)              0.1    0.001
`sparsecore_f2a`  lr * m * g / sqrt(a)          0.1    0.01   m by how seldom a row is
                                                              read, L1, L2
================  ============================  =====  =====  ==========================

with a = a + g^2 before each update (a_row: the mean of g^2 over the row). In 16 bits
they round what their peers round, and when (docs/numerics.md). All but `fbgemm` and
those of SparseCores (jax-tpu-embedding, whose tables are float32) keep accumulators in
the parameter's own precision, as the peers do, also where squares overflow, as in
float16 at 256; :func:`adagrad_jax.adagrad` does neither.

Where a peer divides by 0 and gets NaN or infinity (epsilon 0, no gradient yet) the
update here is 0. Arguments without a meaning for the numbers (``name``, ``foreach``,
``use_locking``) are left out.
"""

from adagrad_jax.dialects._fbgemm import fbgemm as fbgemm
from adagrad_jax.dialects._keras import keras as keras
from adagrad_jax.dialects._keras import keras3 as keras3
from adagrad_jax.dialects._keras import tf1 as tf1
from adagrad_jax.dialects._optax import optax as optax
from adagrad_jax.dialects._sparsecore import sparsecore as sparsecore
from adagrad_jax.dialects._sparsecore import sparsecore_f2a as sparsecore_f2a
from adagrad_jax.dialects._torch import torch as torch

__all__ = [
    "fbgemm",
    "keras",
    "keras3",
    "optax",
    "sparsecore",
    "sparsecore_f2a",
    "tf1",
    "torch",
]
