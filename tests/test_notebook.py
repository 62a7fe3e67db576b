"""The notebook runs as it stands, but for the size of its tables."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
SIZES = {"500, 40_000, 100": "500, 8_000, 100", "1_000_000": "10_000"}  # to save time


# Jupyter's own libraries, not ours, warn of each other.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_from_top_to_bottom():
    notebook = nbformat.read(ROOT / "colab" / "quickstart.ipynb", as_version=4)
    for large, small in SIZES.items():
        (cell,) = [cell for cell in notebook.cells if large in cell.source]
        cell.source = cell.source.replace(large, small)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": ROOT}},
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
    printed = "".join(out.get("text", "") for out in outputs)
    assert "on 8 devices" in printed
    assert "the same table after training: True" in printed
