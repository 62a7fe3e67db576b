"""The benchmark of sparsity runs; which method is better is not tested."""

import json


def test_sparsity_in_a_hurry(quick, tmp_path):
    quick("sparsity")
    curves = json.loads((tmp_path / "sparsity.json").read_text())["curves"]
    sparse, dense = curves["row-sparse"], curves["dense"]
    assert set(sparse) == set(dense) and len(sparse) == 5
    # The penalties of FTRL and dual averaging catch up with rows that were not read.
    assert sparse["aj.ftrl"] == dense["aj.ftrl"]
    for curve in [*sparse.values(), *dense.values()]:
        shares = [point["share"] for point in curve]
        assert shares == sorted(shares, reverse=True)
    assert (tmp_path / "sparsity.md").exists()
    assert (tmp_path / "sparsity.png").stat().st_size > 10_000
