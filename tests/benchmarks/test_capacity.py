"""Does the benchmark of buffers run, and does it find what it should?"""

import json


def test_runs_and_passes_cost_what_they_send(quick, tmp_path):
    said = quick("capacity")
    cases = json.loads((tmp_path / "capacity.json").read_text())["cases"]
    assert all(title in said for title in cases)
    assert (tmp_path / "capacity.png").stat().st_size > 10_000
    for case in cases.values():
        passes = [each["passes"] for each in case.values()]
        assert passes == sorted(passes, reverse=True)  # the larger the fewer
    # With one pass, what is read and the sums: a buffer of all ids for each of two.
    assert cases["uniform, 2 devices"]["2"] == {"passes": 1, "sent": 2 * 2}
    assert cases["all alike, 4 devices"]["0.25"]["passes"] == 1
