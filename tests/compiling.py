"""How what is tested is compiled: in a hurry, for it is small and runs only once.

Half of the time of the tests would go into making it faster. ``XLA_FLAGS`` with a
``--xla_backend_optimization_level`` has all of it compiled as it is for users.
"""

import importlib.metadata
import os

# jaxlib 0.10 has two ways to emit fused loops, of which its own takes twice as long;
# later there is but one.
_HAS_TWO_EMITTERS = importlib.metadata.version("jaxlib").startswith("0.10.")

FUSED_AS_USUAL = {"xla_cpu_use_fusion_emitters": True} if _HAS_TWO_EMITTERS else {}
"""Compiler options for what the other way computes wrong, or otherwise.

That is a scatter by ids of 8 bits, and what shares memory.
"""


def xla_flags() -> str:
    """What ``XLA_FLAGS`` gives, and those of them that make XLA compile in a hurry."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    if not any(flag.startswith("--xla_backend_optimization_level") for flag in flags):
        flags.append("--xla_backend_optimization_level=0")
        flags.append("--xla_cpu_parallel_codegen_split_count=1")
        if _HAS_TWO_EMITTERS:
            flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)
