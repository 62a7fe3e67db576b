"""What becomes of an array: where it is, its dtype, its memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import adagrad_jax as aj
from adagrad_jax import interop
from tests.interop.common import (
    assert_same,
    decay,
    torch_state_dict,
)

# The peers were run with 64-bit types, and promote as they like.
pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")


def sharded_params():
    mesh = Mesh(np.array(jax.devices()[:2]), ("x",))
    rows = NamedSharding(mesh, PartitionSpec("x"))
    return {"w": jax.device_put(jnp.ones((4, 2)), rows)}, rows


def test_sharding_stays():
    params, rows = sharded_params()
    optimizer = aj.adagrad(decay)
    weights = [2, np.full((4, 2), 3.0)]
    state = interop.from_keras(weights, optimizer.init(params), params)
    assert optax.tree.get(state, "accumulator")["w"].sharding == rows
    # As init left it: bound to no device, so that it may meet sharded arrays.
    assert not optax.tree.get(state, "count").committed
    jax.jit(optimizer.update)(params, state)


def test_abstract_states_are_filled_too():
    params, rows = sharded_params()
    shape = jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=rows)
    state = (aj.ScaleByAdagradState({"w": shape}), optax.EmptyState())
    (filled, _) = interop.from_keras([2, np.ones((4, 2))], state, {"w": shape})
    assert filled.accumulator["w"].sharding == rows
    assert filled.accumulator["w"].dtype == jnp.float32


def test_memory_is_not_shared():
    params = jnp.zeros(2)
    theirs = np.array([1.0, 2.0])
    state = interop.from_keras([0, theirs], aj.adagrad().init(params), params)
    theirs[:] = 0
    ours = optax.tree.get(state, "accumulator")
    np.testing.assert_array_equal(ours, [1, 2])
    filled = interop.to_keras(state, [np.int64(0), theirs], params, step=1)
    filled[1][:] = 0
    np.testing.assert_array_equal(ours, [1, 2])


def test_dtype_is_that_of_the_replaced():
    params = {"half": jnp.ones(2, jnp.float16), "brain": jnp.ones(2, jnp.bfloat16)}
    optimizer = aj.dialects.torch()
    state_dict = torch_state_dict([np.full(2, 0.1), np.full(2, 0.1)], [1, 1])
    state = interop.from_torch(state_dict, optimizer.init(params), params)
    assert_same(
        optax.tree.get(state, "accumulator"),
        {
            "half": jnp.full(2, 0.1, jnp.float16),
            "brain": jnp.full(2, 0.1, jnp.bfloat16),
        },
    )
    state_dict["state"][1]["sum"] = np.array([1e5, 1.0])
    with pytest.raises(ValueError, match=r"\['half'\] overflows float16, got 100000"):
        interop.from_torch(state_dict, optimizer.init(params), params)


@dataclasses.dataclass
class Tensor:
    """What of a PyTorch tensor is used."""

    array: np.ndarray
    dtype: str = "torch.float32"

    def detach(self):
        return self

    cpu = detach

    def float(self):
        return Tensor(self.array.astype(np.float32))

    def __array__(self, dtype=None, copy=None):
        if self.dtype == "torch.bfloat16":
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.array(self.array, dtype)


def test_tensors():
    params = jnp.zeros(2)
    bfloat16 = Tensor(np.array([1.5, 2.5]), "torch.bfloat16")
    state_dict = torch_state_dict([bfloat16], [0])
    state_dict["state"][0]["step"] = Tensor(np.float32(3))
    fresh = aj.dialects.torch(decay).init(params)
    state = interop.from_torch(state_dict, fresh, params)
    np.testing.assert_array_equal(optax.tree.get(state, "accumulator"), [1.5, 2.5])
    filled = interop.to_torch(state, state_dict, params, as_tensor=Tensor)
    assert isinstance(filled["state"][0]["sum"], Tensor)
    assert isinstance(filled["state"][0]["step"], Tensor)
    np.testing.assert_array_equal(filled["state"][0]["sum"].array, [1.5, 2.5])
