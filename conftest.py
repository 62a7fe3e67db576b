"""Settings under which every test runs; they must be made before JAX starts."""

import os

from tests.compiling import xla_flags

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = xla_flags() + " --xla_force_host_platform_device_count=8"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

# It runs where its peer is installed, and its folder is the first that Python looks in.
collect_ignore = [
    "tests/golden/record_object_calls.py",
    "tests/golden/record_sparsecore.py",
]

# No silent promotion of dtypes or ranks in our own code.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compiling takes longer than hypothesis allows an example; the seed is fixed so that
# a run can be repeated.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True, scope="module")
def _forget_what_was_compiled():
    """Thousands of programs in one process make each new one slower to compile."""
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Runs the test with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """For other libraries' code, which relies on JAX's usual dtype promotion."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture(autouse=True)
def _keras_examples(request):
    """Keras promotes dtypes as it likes, also in the examples of docstrings."""
    if request.node.name.startswith("adagrad_jax.keras3."):
        request.getfixturevalue("standard_promotion")
