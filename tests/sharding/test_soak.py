"""The soak's short form: see soak.py, which CI has no time for."""

from tests.sharding import soak


def test_random_batches_end_where_float64_does():
    soak.step.clear_cache()
    (table, accumulator), _ = soak.soak(300, seed=1)
    assert soak.step._cache_size() == 1
    # An accumulator is a sum of some hundred squares, rounded each time.
    assert table < 2e-6 and accumulator < 5e-5
