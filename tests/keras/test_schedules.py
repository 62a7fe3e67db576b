"""Schedules by themselves: TensorFlow's and Keras 3's values, also when compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adagrad_jax.keras import schedules
from tests import golden_cases as golden

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

# They are computed in float32, in another order than there.
UNITS = 16

SCHEDULED = [
    case
    for peer in ("tf20", "keras3")
    for case in golden.dense_cases(peer)
    if "schedule_values" in case.arrays
]


@pytest.mark.parametrize("case", SCHEDULED, ids=str)
def test_schedule_values(case):
    rate = case.hyperparameters["learning_rate"]
    schedule = getattr(schedules, rate["schedule"])(**rate["args"])
    steps, wanted = case.arrays["schedule_steps"], case.arrays["schedule_values"]
    found = jax.vmap(schedule)(jnp.asarray(steps))
    assert found.dtype == jnp.float32
    # In units of the largest: what is left of a difference may be small.
    np.testing.assert_allclose(
        found, wanted, rtol=0, atol=UNITS * 2.0**-23 * np.max(np.abs(wanted))
    )
    assert type(schedule).from_config(schedule.get_config())(3) == schedule(3)


@pytest.mark.parametrize("decay_steps", [3, 7, 10, 49])
def test_staircases_fall_on_multiples_also_when_compiled(decay_steps):
    """1 / 49 * 49 is less than 1 in float32."""
    steps = jnp.arange(300)
    for schedule in (
        schedules.ExponentialDecay(1.0, decay_steps, 0.5, staircase=True),
        schedules.InverseTimeDecay(1.0, decay_steps, 0.5, staircase=True),
    ):
        whole = np.asarray(steps) // decay_steps
        exponential = isinstance(schedule, schedules.ExponentialDecay)
        wanted = 0.5**whole if exponential else 1 / (1 + 0.5 * whole)
        for function in (jax.vmap(schedule), jax.jit(jax.vmap(schedule))):
            np.testing.assert_allclose(function(steps), wanted, rtol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("cycle", [True, False])
def test_polynomial_decay_is_never_nan(power, cycle):
    schedule = schedules.PolynomialDecay(1.0, 7, 0.0, power, cycle)
    values = jax.jit(jax.vmap(schedule))(jnp.arange(200))
    assert jnp.all((values >= 0) & (values <= 1))
    assert cycle or jnp.all(values[7:] == 0)


@pytest.mark.parametrize("t_mul", [1.0, 2.0, 1.5])
def test_cosine_restarts_begin_at_the_top(t_mul):
    schedule = schedules.CosineDecayRestarts(1.0, 8, t_mul)
    steps = np.cumsum([0, *(8 * t_mul ** np.arange(4))])
    whole = steps[steps == steps.round()].astype(int)
    assert len(whole) > 3
    np.testing.assert_allclose(jax.vmap(schedule)(jnp.asarray(whole)), 1, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: schedules.ExponentialDecay(0.1, 0, 0.5),
        lambda: schedules.ExponentialDecay(float("nan"), 10, 0.5),
        lambda: schedules.InverseTimeDecay(0.1, 10, -1.0),
        lambda: schedules.PolynomialDecay(0.1, -5),
        lambda: schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2]),
        lambda: schedules.PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3]),
        lambda: schedules.CosineDecay(0.1, 0),
        lambda: schedules.CosineDecayRestarts(0.1, 10, t_mul=0.5),
    ],
)
def test_schedules_raise(make):
    with pytest.raises(ValueError):
        make()
