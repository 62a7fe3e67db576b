"""Training on several devices: sums over them, and tables that no one of them holds."""

from adagrad_jax._rows.row_sharding import RowSharding as RowSharding
from adagrad_jax.sharding._reductions import pmean as pmean
from adagrad_jax.sharding._reductions import psum as psum

__all__ = ["RowSharding", "pmean", "psum"]
