"""The notebooks run as they stand, but for the size of what they train."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

COLAB = pathlib.Path(__file__).parent.parent / "colab"

# What is made smaller, to save time; how many plots there are; and what is printed.
QUICKSTART = (
    {"500, 40_000, 100": "500, 8_000, 100", "1_000_000": "10_000"},
    4,
    ["on 8 devices", "the same table after training: True"],
)
SHARDED_TABLES = (
    {"2**18, 2**18, 16": "2**12, 2**12, 16", "STEPS = 8192, 250": "STEPS = 512, 5"},
    2,
    ["along ('devices',)", "right of 512 new pairs", "step 5: loss 0."],
)
PORT_KERAS = (
    {"WITH_SCHEDULES = 300": "WITH_SCHEDULES = 20", "500_000, 512 * 20": "5_000, 1024"},
    5,
    ["with the same data: True", "steps taken: 150", "the same loss: True"],
)
RECOMMENDER = (
    {
        "5_000_000, 5_000_000, 16": "20_000, 20_000, 16",
        "STEPS = 4096, 600": "STEPS = 512, 30",
        "[10_000, 100_000, 1_000_000, ROWS]": "[1_000, 10_000]",
    },
    4,
    ["rows      1,024", "hardly moved from initial_accumulator_value", "recommended"],
)
NGRAM_LM = (
    {
        "NUM_BYTES = 4_000_000": "NUM_BYTES = 100_000",
        "[0, 2**12, 2**15, 2**18], 300, 25": "[0, 2**10], 4, 2",
        "[2**14, 2**16, 2**18, 2**20], 15": "[2**12], 1",
    },
    2,
    ["rows      4,096", "1,024 rows: ", "dense"],
)
SPARSITY = (
    {
        "600, 20_000": "100, 2_000",
        "STRENGTHS = [0.05, 0.15, 0.5], 9": "STRENGTHS = [0.15], 3",
    },
    4,
    [
        "in the loss           0 weights are 0",
        "numbers of weights differ by",
        "of which",
    ],
)
NOTEBOOKS = {
    "quickstart": QUICKSTART,
    "sharded_tables": SHARDED_TABLES,
    "port_keras": PORT_KERAS,
    "recommender": RECOMMENDER,
    "ngram_lm": NGRAM_LM,
    "sparsity": SPARSITY,
}


def test_each_is_run():
    assert {path.stem for path in COLAB.glob("*.ipynb")} == NOTEBOOKS.keys()


# Jupyter's own libraries, not ours, warn of each other.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_from_top_to_bottom(name):
    sizes, num_plots, expected = NOTEBOOKS[name]
    notebook = nbformat.read(COLAB / f"{name}.ipynb", as_version=4)
    for large, small in sizes.items():
        (cell,) = [cell for cell in notebook.cells if large in cell.source]
        cell.source = cell.source.replace(large, small)
    NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": COLAB.parent}},
    ).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    plots = sum("image/png" in out.get("data", {}) for out in outputs)
    printed = "".join(out.get("text", "") for out in outputs)
    assert plots == num_plots
    assert all(text in printed for text in expected), printed
