"""All benchmarks in one table: what it says, and that the command makes it."""

import json
import sys

import pytest

from benchmarks import __main__ as everything
from benchmarks import command, overview, report

DENSE, ROWS_TARGET, SMALL = overview.BENCHMARKS[0], overview.ROWS_TARGET, overview.SMALL


def timed(milliseconds, ratio, **more):
    return {"milliseconds": milliseconds, "ratio": ratio, **more}


@pytest.fixture
def results(tmp_path):
    """A folder with files as three benchmarks write them, two of them long ago."""
    dense = {
        "optax": timed(10.0, 1.0, quartiles=[9.0, 12.5]),
        "adagrad_jax": timed(8.0, 0.8, quartiles=[7.5, 8.5]),
    }
    rows = {"rows": 2000, "dim": 4, "n": 1024, "ids": "Zipf"}
    rows |= {"milliseconds": {"adagrad_jax": 2.0, "torch": 5.0, "FBGEMM": 1.0}}
    rows |= {"ratio": {"adagrad_jax": {"adagrad_jax": 1.0, "torch": 0.4, "FBGEMM": 2}}}
    rows |= {"not side by side": ["FBGEMM"]}
    small = {"auto": timed(1.5, 1.5), "rows": timed(1.0, 1.0)}
    files = {
        "dense": {"rounds": 3, "cases": {"one": dense}, "forms": {}},
        "rows.target.cpu": {
            "cases": [rows],
            "targets": [report.target("compiling / optax.adagrad's", 1.5, 2)],
        },
        "rows.small.cpu": {
            "cases": {"16,1024,4": small},
            "targets": [report.target("auto / the faster, 16,1024,4", 1.5, 1.15)],
        },
    }
    for stem, content in files.items():
        report.write_json(tmp_path / stem, content)
    return tmp_path


def test_one_table(results):
    found = overview.collect(overview.BENCHMARKS, results)
    assert list(found["benchmarks"]) == ["dense", "rows", "rows.small"]
    assert found["benchmarks"]["dense"]["rounds"] == 3
    spread, compiling = "9 to 12.5", "compiling / optax.adagrad's"
    assert overview.table(found)[1:] == [
        ["dense", "one", "optax", "10", spread, "1.25", "", ""],
        ["", "", "adagrad_jax", "8", "7.5 to 8.5", "1.00", "", ""],
        ["rows", "2,000 x 4, 1,024 ids, Zipf", "adagrad_jax", "2", "", "1.00", "", ""],
        ["", "", "torch", "5", "", "2.50", "", ""],
        ["", "", "FBGEMM", "1", "", "0.50*", "", ""],
        ["", "", compiling, "", "", "", "1.5, at most 2", "met"],
        ["rows.small", "4 x 16, 1,024 ids", "auto", "1.5", "", "1.00", "", ""],
        ["", "", "rows", "1", "", "0.67", "", ""],
        ["", "", "auto / the faster", "", "", "", "1.5, at most 1.15", "MISSED"],
    ]
    assert "*: not measured side by side" in overview.legend(found)
    met, missed = overview.summary(found).splitlines()
    assert met == "1 of 2 targets met"
    assert missed.startswith("missed: rows.small, auto / the faster, 4 x 16, 1,024 ids")
    overview.plot(found).savefig(results / "all.png")


def test_the_recorded_results_can_be_collected(tmp_path):
    """Files of every age; a ratio is that of the file, upside down."""
    folder = command.ROOT / "benchmarks" / "results"
    found = overview.collect(overview.BENCHMARKS, folder)
    ratios = {
        (row["benchmark"], row["case"], row["contender"]): row["ratio"]
        for row in found["rows"]
    }
    targets = {(t["benchmark"], t["what"]): t["ratio"] for t in found["targets"]}
    by_fbgemm = 1 / ratios["rows", "1,000,000 x 64, 65,536 ids, Zipf", "FBGEMM"]
    what = "adagrad_jax / FBGEMM, 65,536 ids, Zipf"
    assert by_fbgemm == pytest.approx(targets["rows", what])
    assert ratios["family", "matrices: one of 256", "FullMatrix"] == 1
    assert ratios["keras_object", "fit, 1,000,000 rows", "Keras 3"] > 1
    assert all(ratio is not None for ratio in ratios.values())
    overview.plot(found).savefig(tmp_path / "all.png")


def arguments(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["all", *argv])
    return everything.parse_arguments()


def test_peers_are_passed_on(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    for peer in ("torch", "keras"):
        (tmp_path / f".venv-{peer}").mkdir()
    (tmp_path / ".venv-torch" / ".peer").touch()  # only this one was installed
    args = arguments(monkeypatch, "--tensorflow", "/their/python", "--memory", "8")
    torch = str(tmp_path / ".venv-torch" / "bin" / "python")
    assert {
        "torch": torch,
        "tensorflow": "/their/python",
    }.items() <= args.pythons.items()
    assert "keras" not in args.pythons
    lines = {
        each.name: everything.command_line(each, args, tmp_path)[3:]
        for each in everything.chosen(args)
    }
    dense, rows, small = (lines[name] for name in ("dense", "rows", "rows.small"))
    out = ["--out", str(tmp_path)]
    assert dense == [*out, "--torch", torch] and small == out
    peers = ["--torch", torch, "--tensorflow", "/their/python"]
    assert rows == [*out, "--only-target", *peers, "--memory", "8.0"]
    args = arguments(monkeypatch, "--full")
    assert everything.chosen(args)[1] == overview.ROWS
    args = arguments(monkeypatch, "--quick")
    rows = everything.command_line(everything.chosen(args)[1], args, tmp_path)
    assert "--quick" in rows and "--only-target" not in rows


def test_who_was_left_out_is_said(capsys):
    lines = [
        "FBGEMM: not available (no such file)",
        "torch: not available (no --torch)",
    ]
    everything.report_runs({"rows": (True, lines), "dlrm": (False, list("abcdefg"))})
    assert capsys.readouterr().out.split("\n", 2) == [
        "rows: FBGEMM: not available (no such file)",
        "",
        "dlrm FAILED:\n    c\n    d\n    e\n    f\n    g\n",
    ]


def test_one_that_fails_does_not_stop_the_others(monkeypatch, tmp_path, capsys):
    """And leaves an old result out; the others are real, in a hurry."""
    absent = overview.Benchmark("no_such_benchmark", "dense")
    (tmp_path / "dense.json").write_text("of an earlier run")
    monkeypatch.setattr(overview, "BENCHMARKS", [absent, SMALL])
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setattr(sys, "argv", ["all", "--quick", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="1"):
        everything.main()
    said = capsys.readouterr().out
    assert "no_such_benchmark FAILED" in said and "No module named" in said
    assert "rows.small" in said and "of 2 targets met" in said
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found["benchmarks"]) == ["rows.small"] and len(found["rows"]) == 6
    assert found["rows"][0]["quartiles"]
    assert (tmp_path / "all.md").read_text().startswith("| benchmark | case |")
    assert (tmp_path / "all.png").stat().st_size > 10_000
