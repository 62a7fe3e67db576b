"""What benchmarks have in common: options, the note of the machine, tables."""

import json
import sys

from benchmarks import command, report
from benchmarks.machine import Machine


def arguments(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["rows", *argv])
    parser = command.parser("rows", "A question?\n\nMore.", 15, torch="it", keras="it")
    return command.parse(parser)


def test_common_options(monkeypatch):
    args = arguments(monkeypatch, "--torch", "/their/python")
    assert args.rounds == 15
    assert args.pythons == {"jax": sys.executable, "torch": "/their/python"}
    assert arguments(monkeypatch, "--quick").rounds == 1
    assert arguments(monkeypatch, "--quick", "--rounds", "3").rounds == 3


def test_quick_results_do_not_take_the_place_of_real_ones(monkeypatch, tmp_path):
    real = command.ROOT / "benchmarks" / "results"
    assert command.results_folder(arguments(monkeypatch)) == real
    scratch = command.results_folder(arguments(monkeypatch, "--quick"))
    assert scratch.is_dir() and not scratch.is_relative_to(command.ROOT)
    scratch.rmdir()
    out = tmp_path / "new" / "folder"
    args = arguments(monkeypatch, "--quick", "--out", str(out))
    assert command.results_folder(args) == out and out.is_dir()


def test_a_team_is_the_same_command_with_serve(monkeypatch):
    args = arguments(monkeypatch, "--quick", "--torch", "/their/python")
    team = command.team(
        args, "a case", ["step", "next"], "torch", " + x", XLA_FLAGS="y"
    )
    assert team.names == ("step + x", "next + x") and team.env["XLA_FLAGS"] == "y"
    python, *argv = team.command
    assert python == "/their/python"
    assert argv[:2] == ["-m", "benchmarks.rows"]
    served = arguments(monkeypatch, *argv[2:])
    assert served.quick and served.serve == ["a case", "step", "next"]


def test_what_a_peers_python_lacks_is_said(machine_asks_itself, capsys):
    pythons = {"jax": sys.executable, "torch": sys.executable, "keras": "/no/python"}
    machine = Machine(pythons, {})
    note = machine.note["machine"]
    assert {"device", "backend", "cpu", "cores", "load"} <= set(note)
    assert machine.can_run("optax.adagrad", "jax", ["jax", "optax"])
    assert machine.ask("torch", "print('a warning')\nanswer = {'a': 1}") == {"a": 1}
    assert not machine.can_run("torch", "torch", ["no_such_module"])
    assert not machine.can_run("Keras 3", "keras", ["keras"])
    assert not machine.can_run("tf_keras", "tensorflow", ["tf_keras"])
    torch, keras, tensorflow = capsys.readouterr().out.splitlines()
    assert torch.startswith("torch: not available (ModuleNotFoundError: ")
    assert keras.startswith("Keras 3: not available (") and "/no/python" in keras
    assert tensorflow == "tf_keras: not available (no --tensorflow)"


def test_tables(tmp_path, capsys):
    rows = {
        "theirs": {"milliseconds": 1234.5, "ratio": 1.0, "wanted": None},
        "ours": {"milliseconds": 0.12345, "ratio": 0.5, "wanted": 0.4},
    }
    table = report.timings({"a case": rows})
    assert report.markdown(table).splitlines() == [
        "| case |  | ms | ratio | wanted |",
        "| --- | --- | --- | --- | --- |",
        "| a case | theirs | 1,234 | 1.00 |  |",
        "|  | ours | 0.123 | 0.50 | 0.4 |",
    ]
    assert report.text(table, left=2).splitlines() == [
        "case               ms  ratio  wanted",
        "------------------------------------",
        "a case  theirs  1,234   1.00",
        "        ours    0.123   0.50     0.4",
    ]
    targets = [report.target("ours", 0.5, 0.4), report.target("theirs", 0.3, 0.4)]
    assert [row[-1] for row in report.verdicts(targets)] == ["", "MISSED", "met"]
    report.write(tmp_path / "a.cpu", {"cases": rows}, report.markdown(table), None)
    assert json.loads((tmp_path / "a.cpu.json").read_text()) == {"cases": rows}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.cpu.json",
        "a.cpu.md",
    ]
    assert "Wrote a.cpu.json, a.cpu.md to " in capsys.readouterr().out
