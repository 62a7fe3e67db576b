import pytest

from tests.interop.common import OPTIMIZERS, train


@pytest.fixture(params=OPTIMIZERS)
def trained(request):
    """Parameters, and an optimizer's state before and after some steps."""
    return train()[request.param]
