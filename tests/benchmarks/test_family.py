"""The benchmark of the family runs; what it measures is not tested."""

import json

from benchmarks import family


def test_family_in_a_hurry(quick, machine_asks_itself, tmp_path):
    said = quick("family")
    cases = json.loads((tmp_path / "family.cpu.json").read_text())["cases"]
    measured = {name for contenders in cases.values() for name in contenders}
    everyone = {name for case in family.CASES for name in case.contenders}
    assert measured == everyone
    assert said.count(" met\n") + said.count(" MISSED\n") == 5
    assert (tmp_path / "family.cpu.md").read_text().count("| 1.3 |") == 3
    assert (tmp_path / "family.cpu.png").stat().st_size > 10_000
