"""Killed and resumed, the sharded demo ends with the same bits; if not, it says so."""

import dataclasses
import fcntl
import json
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks.census.sharded import __main__ as demo
from benchmarks.census.sharded import processes, report, training
from benchmarks.census.sharded.job import Job


def test_demo_in_a_hurry(quick, tmp_path):
    said = quick("census.sharded")
    results = json.loads((tmp_path / "census.sharded.json").read_text())
    kill, settings = results["kill"], results["settings"]
    assert f"Killed after step {kill['after_step']} of 9, resumed from step" in said
    assert "the result is the same to the bit." in said
    assert settings["num_processes"] == 2 and settings["num_devices"] == 4
    # There was a checkpoint, and something was left to do, and to do again.
    assert 2 <= kill["resumed_from"] <= kill["after_step"] < settings["num_steps"]
    first, second = results["losses"]["interrupted"]
    (whole,) = results["losses"]["uninterrupted"]
    assert first[: kill["resumed_from"]] + second == whole and len(whole) == 9
    # What one device comes to, but for rounding.
    (alone,) = results["losses"]["one device"]
    assert alone == pytest.approx(whole, rel=1e-5)
    scores = results["scores"]
    assert scores["interrupted"] == scores["uninterrupted"]
    assert scores["one device"] == pytest.approx(scores["uninterrupted"], rel=1e-3)
    assert min(results["passes"]) >= 1 and len(results["passes"]) == 9
    assert min(results["payloads"].values()) > 0
    assert "| 8 devices, killed after" in (tmp_path / "census.sharded.md").read_text()
    assert (tmp_path / "census.sharded.png").stat().st_size > 10_000


# --- What is compared -----------------------------------------------------------------


def result():
    arrays = {"['crosses']": ["float32", [8, 1], 1], "['b']": ["float32", [2], 2]}
    states = {"[0]": "ScaleByAdagradState"}
    return {"fingerprint": {"arrays": arrays, "states": states}}


def lives():
    """Uninterrupted, and in two parts, of which the second repeats a step."""
    whole = demo.Life(losses={1: 0.5, 2: 0.25, 3: 0.125}, result=result())
    first = demo.Life(losses={1: 0.5, 2: 0.25})
    second = demo.Life(begins=1, losses={2: 0.25, 3: 0.125}, result=result())
    return whole, [first, second]


def test_the_same():
    demo.check_same(*lives())


def lose_a_bit(first, second):
    second.losses[2] += 2.0**-40


def alter_the_first(first, second):
    first.losses[2] = 0.3


def alter_an_array(first, second):
    second.result["fingerprint"]["arrays"]["['b']"][2] = 3


def forget_an_array(first, second):
    del second.result["fingerprint"]["arrays"]["['b']"]


def take_another_optimizer(first, second):
    second.result["fingerprint"]["states"]["[0]"] = "ScaleByRssState"


def end_early(first, second):
    second.result = {}


@pytest.mark.parametrize(
    "differ, message",
    [
        (lose_a_bit, r"loss of step 2 is 0\.2500000000009\d+, and was 0\.25"),
        (alter_the_first, r"loss of step 2 is 0\.3, and was 0\.25"),
        (alter_an_array, r"\['b'\] is \['float32', \[2\], 3\], and was"),
        (forget_an_array, r"\['b'\] is None, and was"),
        (take_another_optimizer, r"\[0\] is ScaleByRssState, and was ScaleByAdagrad"),
        (end_early, "did not come to its end"),
    ],
)
def test_a_difference_is_an_error(differ, message):
    whole, parts = lives()
    differ(*parts)
    with pytest.raises(demo.Different, match=message):
        demo.check_same(whole, parts)


def test_the_command_fails_if_there_is_one(monkeypatch):
    def differ(seed, quick):
        whole, parts = lives()
        alter_an_array(*parts)
        demo.check_same(whole, parts)

    monkeypatch.setattr(demo, "run_demo", differ)
    monkeypatch.setattr(sys, "argv", ["sharded", "--quick"])
    with pytest.raises(SystemExit, match=r"NOT the same to the bit\. \['b'\] is"):
        demo.main()


def test_the_kill_comes_after_the_first_checkpoint():
    for seed in range(50):
        job = Job(cross_rows=8, num_steps=9, save_each=2, seed=seed, quick=True)
        kill = demo.draw_kill(job)
        assert job.save_each < kill.step < job.num_steps and kill.index in (0, 1)


# --- What is sent ---------------------------------------------------------------------


def test_each_visit_repeats_a_later_pass():
    payloads = {"read": 10, "update": 20, "later passes": 40, "sum": 5}
    assert sum(report.sent(payloads, 1).values()) == 5 + 10 + 20
    assert sum(report.sent(payloads, 3).values()) == 5 + 3 * 10 + 20 + 2 * 40


def test_payloads_are_read_off_a_program():
    program = """
    %a = (s32[1,96]{1,0}, s32[1,96]{1,0}) all-to-all(%x), op_name="jit(step)/while"
    %b = f32[2,96,1]{2,1,0} all-to-all(%x), op_name="jit(step)/jit(arrive)/x"
    %c = f32[96,1]{1,0} all-to-all(%x), op_name="jit(step)/jit(fold_arrived)/x"
    %d = f32[100]{0} all-reduce(%x), op_name="jit(step)/sum"
    """
    found = training.payloads(program)
    assert found == {"read": 768, "update": 768, "later passes": 384, "sum": 400}


# --- Processes ------------------------------------------------------------------------

PROGRAM = """
import fcntl, json, sys, time
from benchmarks.census.sharded import processes
tell, job = processes.teller(), json.loads(sys.argv[1])
lock = open(f"{job['folder']}/{job['index']}", "w")
fcntl.flock(lock, fcntl.LOCK_EX)  # until the process ends
print("no report")
tell({"index": job["index"]})
if job["fails"] and job["index"] == 1:
    sys.exit("it went wrong")
time.sleep(600)
"""


@dataclasses.dataclass(frozen=True)
class Sleep:
    folder: str
    fails: bool = False
    num_processes: int = 2
    port: int = 0
    index: int = 0


@pytest.fixture
def sleepers(monkeypatch):
    monkeypatch.setattr(processes, "PROGRAM", [sys.executable, "-c", PROGRAM])


def test_one_that_fails_ends_the_other(sleepers, tmp_path):
    job = Sleep(str(tmp_path), fails=True)
    with pytest.raises(RuntimeError, match="process 1 ended with 1:") as error:
        with processes.Processes(job, tmp_path) as group:
            assert list(group) == [{"index": 0}]
    assert "it went wrong" in str(error.value) and "no report" in str(error.value)
    assert [process.returncode for process in group.processes] == [-9, 1]


def test_one_that_is_killed_ends_the_other(sleepers, tmp_path):
    with processes.Processes(Sleep(str(tmp_path)), tmp_path) as group:
        for told in group:
            assert told == {"index": 0}
            group.kill(1)
    assert [process.returncode for process in group.processes] == [-9, -9]


def test_none_outlives_the_parent(tmp_path):
    """Though that is killed, and cannot end them."""
    code = "from tests.benchmarks import test_census_sharded as here\n"
    code += f"here.be_a_parent({str(tmp_path)!r})"
    root = pathlib.Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout.readline() == "all are there\n"
        assert is_locked(tmp_path / "0") and is_locked(tmp_path / "1")
        parent.kill()
    end = time.monotonic() + 60
    while is_locked(tmp_path / "0") or is_locked(tmp_path / "1"):
        assert time.monotonic() < end, "a process is still there"
        time.sleep(0.05)


def be_a_parent(folder):
    processes.PROGRAM = [sys.executable, "-c", PROGRAM]
    group = processes.Processes(Sleep(folder), pathlib.Path(folder))
    with group:
        told = sorted(group.reports.get()[1]["index"] for _ in range(2))
        assert told == [0, 1]
        print("all are there", flush=True)
        time.sleep(600)


def is_locked(path):
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
