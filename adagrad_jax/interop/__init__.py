r"""Checkpoints of other frameworks' Adagrads: their state in, ours out, and back.

There is one idea, and it is the same in both directions: **fill a fresh state with what
another one remembers**. For each framework there are two functions, ``from_x(theirs,
ours, params)``, which returns our state filled, and ``to_x(ours, theirs, params)``,
which returns theirs filled. The state to be filled is what the new optimizer gives
before its first step; whatever the other side does not know stays as it is there.

================= ====================================================================
framework         what its state is here
================= ====================================================================
PyTorch           ``optimizer.state_dict()`` of ``torch.optim.Adagrad``
Keras             ``optimizer.get_weights()`` of TensorFlow 2.0, or the values of
                  ``optimizer.variables`` of Keras 3: a list of arrays
Optax             the state of any chain with ``optax.scale_by_rss`` in it
FBGEMM            ``tables.split_optimizer_states()`` of exact (row-wise) Adagrad
jax-tpu-embedding a tree of ``EmbeddingVariables``: a table, and its slots
================= ====================================================================

Our state may come from any chain: accumulators are looked for inside ``optax.chain``,
``partition``, ``masked``, ``inject_hyperparams`` and the like. What is carried over:

- *Accumulators*, matched to parameters by the leaf's path, and checked: their shapes,
  and that they are sums of squares, of which none becomes 0. They take the dtype, and
  here the sharding, of those that they replace. Nothing is shared with the memory of
  the other side.
- *The number of steps taken*, to every schedule in the state, so that learning rates
  go on from where they were. Parts of ``optax.partition`` may have numbers of their
  own. (:func:`adagrad_jax.scale_by_frequency` counts steps for its rows, whose reads
  only jax-tpu-embedding has counted: with others it begins anew.)

Hyperparameters are not: make the new optimizer with those of the old one, with the
function in :mod:`adagrad_jax.dialects` that is named after the framework.

Frameworks without trees number their parameters, so for those ``order`` says which is
which; else a bias and a kernel, which a dictionary sorts by name, may come in another
order than the layer has them. Shapes are checked, but two leaves of one shape look
alike.
"""

from adagrad_jax.interop._fbgemm import from_fbgemm as from_fbgemm
from adagrad_jax.interop._fbgemm import to_fbgemm as to_fbgemm
from adagrad_jax.interop._keras import from_keras as from_keras
from adagrad_jax.interop._keras import to_keras as to_keras
from adagrad_jax.interop._optax import from_optax as from_optax
from adagrad_jax.interop._optax import to_optax as to_optax
from adagrad_jax.interop._sparsecore import from_sparsecore as from_sparsecore
from adagrad_jax.interop._sparsecore import to_sparsecore as to_sparsecore
from adagrad_jax.interop._torch import from_torch as from_torch
from adagrad_jax.interop._torch import to_torch as to_torch

__all__ = [
    "from_fbgemm",
    "from_keras",
    "from_optax",
    "from_sparsecore",
    "from_torch",
    "to_fbgemm",
    "to_keras",
    "to_optax",
    "to_sparsecore",
    "to_torch",
]
