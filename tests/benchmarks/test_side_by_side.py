import os
import sys

from benchmarks import side_by_side


def test_contenders_take_turns():
    """Teams in processes of their own; one that cannot start is left out."""
    serve = "from benchmarks.side_by_side import serve; serve([{}])"
    code = {
        ("a", "b"): serve.format("lambda: sum(range(1000)), lambda: sum(range(9999))"),
        ("c",): serve.format("lambda: sum(range(2000))"),
        ("absent",): "raise SystemExit(1)",
    }
    teams = [
        side_by_side.Team(names, [sys.executable, "-c", text], dict(os.environ))
        for names, text in code.items()
    ]
    times = side_by_side.measure(teams, rounds=2)
    assert {name: len(x) for name, x in times.items()} == {"a": 2, "b": 2, "c": 2}
    assert side_by_side.median_ratio([2.0, 9.0, 3.0], [1.0, 3.0, 3.0]) == 2.0


def test_times_are_summarized_by_the_baselines():
    times = {"ours": [0.25, 0.5], "theirs": [0.125, 0.125]}
    ours = side_by_side.summarize(times, "theirs")["ours"]
    assert ours == {"milliseconds": 375.0, "quartiles": [312.5, 437.5], "ratio": 3.0}
    assert side_by_side.quartiles([0.5]) == [500.0, 500.0]
    assert side_by_side.summarize(times, "absent")["ours"]["ratio"] is None
