"""Adagrad for JAX: composable like Optax, exact like TensorFlow."""

import importlib
from typing import TYPE_CHECKING

from adagrad_jax._accumulators.diagonal import Diagonal as Diagonal
from adagrad_jax._accumulators.full_matrix import FullMatrix as FullMatrix
from adagrad_jax._accumulators.norm import Norm as Norm
from adagrad_jax._accumulators.protocol import Accumulator as Accumulator
from adagrad_jax._accumulators.protocol import RowAccumulator as RowAccumulator
from adagrad_jax._accumulators.rounded import RoundedDiagonal as RoundedDiagonal
from adagrad_jax._accumulators.row_wise import RowWise as RowWise
from adagrad_jax._accumulators.sm3 import SM3 as SM3
from adagrad_jax._adagrad import ScaleByAdagradState as ScaleByAdagradState
from adagrad_jax._adagrad import adagrad as adagrad
from adagrad_jax._adagrad import scale_by_adagrad as scale_by_adagrad
from adagrad_jax._apply import apply_updates as apply_updates
from adagrad_jax._clipping import cap_row_norms as cap_row_norms
from adagrad_jax._clipping import clip_by_global_norm as clip_by_global_norm
from adagrad_jax._clipping import clip_by_norm as clip_by_norm
from adagrad_jax._clipping import clip_by_value as clip_by_value
from adagrad_jax._clipping import global_norm as global_norm
from adagrad_jax._decay import add_decayed_weights as add_decayed_weights
from adagrad_jax._decay import inverse_time_decay as inverse_time_decay
from adagrad_jax._finite import all_finite as all_finite
from adagrad_jax._finite import apply_if_finite as apply_if_finite
from adagrad_jax._frequency import ScaleByFrequencyState as ScaleByFrequencyState
from adagrad_jax._frequency import frequency_adagrad as frequency_adagrad
from adagrad_jax._frequency import scale_by_frequency as scale_by_frequency
from adagrad_jax._ftrl import FtrlState as FtrlState
from adagrad_jax._ftrl import ftrl as ftrl
from adagrad_jax._lazy_decay import LazyWeightDecayState as LazyWeightDecayState
from adagrad_jax._lazy_decay import catch_up_weight_decay as catch_up_weight_decay
from adagrad_jax._lazy_decay import lazy_weight_decay as lazy_weight_decay
from adagrad_jax._regularized import AdagradDAState as AdagradDAState
from adagrad_jax._regularized import ProximalAdagradState as ProximalAdagradState
from adagrad_jax._regularized import adagrad_da as adagrad_da
from adagrad_jax._regularized import proximal_adagrad as proximal_adagrad
from adagrad_jax._rows.explain import Explanation as Explanation
from adagrad_jax._rows.explain import LeafExplanation as LeafExplanation
from adagrad_jax._rows.explain import explain as explain
from adagrad_jax._rows.gradient import grad as grad
from adagrad_jax._rows.gradient import value_and_grad as value_and_grad
from adagrad_jax._rows.row_sparse import RowSparse as RowSparse

if TYPE_CHECKING:
    from adagrad_jax import diagnostics as diagnostics
    from adagrad_jax import dialects as dialects
    from adagrad_jax import interop as interop
    from adagrad_jax import keras as keras
    from adagrad_jax import sharding as sharding

__version__ = "0.2.0"
__all__ = [
    "Accumulator",
    "AdagradDAState",
    "Diagonal",
    "Explanation",
    "FtrlState",
    "FullMatrix",
    "LazyWeightDecayState",
    "LeafExplanation",
    "Norm",
    "ProximalAdagradState",
    "RoundedDiagonal",
    "RowAccumulator",
    "RowSparse",
    "RowWise",
    "SM3",
    "ScaleByAdagradState",
    "ScaleByFrequencyState",
    "adagrad",
    "adagrad_da",
    "add_decayed_weights",
    "all_finite",
    "apply_if_finite",
    "apply_updates",
    "cap_row_norms",
    "catch_up_weight_decay",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "diagnostics",
    "dialects",
    "explain",
    "frequency_adagrad",
    "ftrl",
    "global_norm",
    "grad",
    "interop",
    "inverse_time_decay",
    "keras",
    "lazy_weight_decay",
    "proximal_adagrad",
    "scale_by_adagrad",
    "scale_by_frequency",
    "sharding",
    "value_and_grad",
]


def __getattr__(name: str) -> object:
    """Imports the modules of the list when they are first used: most need none."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
