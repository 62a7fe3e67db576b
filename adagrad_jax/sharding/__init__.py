"""Training on several devices: sums over them, and tables that no one of them holds."""

from adagrad_jax._rows.forward import with_rows as with_rows
from adagrad_jax._rows.passes import num_passes as num_passes
from adagrad_jax._rows.row_sharding import RowSharding as RowSharding
from adagrad_jax.sharding._fingerprint import check_fingerprint as check_fingerprint
from adagrad_jax.sharding._fingerprint import fingerprint as fingerprint
from adagrad_jax.sharding._placing import gather_rows as gather_rows
from adagrad_jax.sharding._placing import grow_rows as grow_rows
from adagrad_jax.sharding._placing import shard_rows as shard_rows
from adagrad_jax.sharding._reductions import pmean as pmean
from adagrad_jax.sharding._reductions import psum as psum

__all__ = [
    "RowSharding",
    "check_fingerprint",
    "fingerprint",
    "gather_rows",
    "grow_rows",
    "num_passes",
    "pmean",
    "psum",
    "shard_rows",
    "with_rows",
]
