"""A live peer given our state went on as we do (recorded by ``tests.interop.live``)."""

import numpy as np
import pytest

from tests.interop import live

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.mark.parametrize("name", live.CASES)
def test_the_peer_was_given_what_we_write(name):
    recorded = live.recorded(name)
    for key, array in live.handed_over(live.CASES[name]).items():
        there = recorded[f"given_{key}"]
        assert array.dtype == there.dtype and array.shape == there.shape, key
        if array.dtype.kind == "f":  # where XLA may round otherwise on a processor
            np.testing.assert_allclose(array, there, 1e-6, 1e-6, err_msg=key)
        else:
            assert np.array_equal(array, there), key


@pytest.mark.parametrize("name", live.CASES)
def test_the_peer_went_on_as_we_do(name):
    assert live.units_apart(live.continued(live.CASES[name]), live.recorded(name)) < 2


@pytest.mark.parametrize("name", live.CASES)
def test_the_state_that_was_handed_over_mattered(name):
    """Begun anew where it was handed over, our run would be another."""
    ours = live.continued(live.CASES[name], forget=True)
    assert live.units_apart(ours, live.recorded(name)) > 1000
