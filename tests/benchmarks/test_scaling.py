"""Does the benchmark of what devices send run, and does it find what it should?"""

import json

import jax

# JAX starts here, with the eight devices of all tests.
assert len(jax.devices()) == 8


def test_runs_and_the_exchange_does_not_grow(quick, tmp_path, machine_asks_itself):
    said = quick("scaling")
    cases = json.loads((tmp_path / "scaling.json").read_text())["cases"]
    assert all(title in said for title in cases)
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    of_two, of_four = (
        cases[f"adagrad, exchanged, {devices} devices"] for devices in (2, 4)
    )
    # At capacity 2, two rows are sent for each id, two ids, and what is agreed on.
    for purpose in ("read", "update"):
        assert of_two[purpose] == of_four[purpose]
        assert 0 <= of_two[purpose] - (2 + 2 / 32) < 0.01
    by_itself = [cases[f"adagrad, left to XLA, {n} devices"]["read"] for n in (2, 4)]
    assert by_itself[1] > 1.8 * by_itself[0] > 2 * of_two["read"]
