"""All benchmarks with peers, one after the other, and what they found in one table.

    make bench      # python -m benchmarks [--full] [--quick] [--out FOLDER]

Each runs in a process of its own, on the CPU, and writes its results as if it had been
started by itself. One that fails does not stop the others, but is reported, and makes
the exit code 1. Peers are those that `make bench-peers` has installed, or whose Pythons
are named: `--torch PYTHON`, `--tensorflow PYTHON`, `--keras PYTHON`.

The table, as JSON, in Markdown and as a plot, goes to benchmarks/results/all.*.
`--collect` runs nothing, but makes it of the results that are there.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import command, overview, report
from benchmarks.overview import Benchmark

PEERS = {
    "torch": "PyTorch, and FBGEMM if it has that",
    "tensorflow": "TensorFlow and tf_keras",
    "keras": "Keras 3 and JAX",
}
LEFT_OUT = "not available", "not enough memory"  # words of benchmarks
LAST_LINES = 5  # of what a benchmark said that failed


def installed(peer: str) -> str | None:
    """The Python that `make bench-peers` made for it, in a folder beside our own."""
    folder = pathlib.Path(f"{sys.prefix}-{peer}")
    return str(folder / "bin" / "python") if (folder / ".peer").exists() else None


def parse_arguments() -> argparse.Namespace:
    parser = command.parser("all", __doc__, **PEERS)
    parser.prog = "python -m benchmarks"
    parser.set_defaults(**{peer: installed(peer) for peer in PEERS})
    parser.add_argument(
        "--full", action="store_true", help="rows: all sizes, not only what is promised"
    )
    parser.add_argument("--rounds", type=int, help="turns in a case (default: theirs)")
    parser.add_argument("--memory", type=float, help="GiB for tables (default: theirs)")
    parser.add_argument(
        "--collect", action="store_true", help="run nothing: results that are there"
    )
    return command.parse(parser)


def chosen(args: argparse.Namespace) -> list[Benchmark]:
    """What is to be run; in a hurry `benchmarks.rows` has one plan only."""
    if not (args.full or args.quick):
        return overview.BENCHMARKS
    return [
        overview.ROWS if each is overview.ROWS_TARGET else each
        for each in overview.BENCHMARKS
    ]


# --- Running them ---------------------------------------------------------------------


def command_line(
    benchmark: Benchmark, args: argparse.Namespace, folder: pathlib.Path
) -> list[str]:
    line = [sys.executable, "-m", f"benchmarks.{benchmark.name}", "--out", str(folder)]
    line += ["--quick"] if args.quick else benchmark.options
    for option in benchmark.takes:
        if (value := getattr(args, option)) is not None:
            line += [f"--{option}", str(value)]
    return line


def run(line: list[str], log: pathlib.Path, bar: Any) -> bool:
    """Whether it ended well; what it says goes to a file."""
    with log.open("w") as file:
        process = subprocess.Popen(
            line,
            env=command.environment(JAX_PLATFORMS="cpu"),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if sys.stderr.isatty():
                    bar.refresh()  # so that the time goes on
        finally:
            process.kill()
    return process.returncode == 0


def run_all(
    benchmarks: list[Benchmark], args: argparse.Namespace, folder: pathlib.Path
) -> dict[str, tuple[bool, list[str]]]:
    """By name, whether it ended well, and the lines of what it said."""
    from tqdm import tqdm

    logs, said = pathlib.Path(tempfile.mkdtemp(prefix="adagrad_jax_logs_")), {}
    print(f"What each of them says is in {logs}")
    form = "{desc} |{bar}| {n_fmt} of {total_fmt}, {elapsed}"
    with tqdm(benchmarks, bar_format=form) as bar:
        for benchmark in bar:
            bar.set_description_str(f"{benchmark.name:12}")
            log = logs / f"{benchmark.name}.log"
            well = run(command_line(benchmark, args, folder), log, bar)
            # Its own progress bar begins each line anew.
            lines = re.split(r"[\r\n]+", log.read_text().strip())
            said[benchmark.name] = well, lines
    return said


def report_runs(said: dict[str, tuple[bool, list[str]]]) -> None:
    """Who was left out, for another reason than being absent, and what failed."""
    for name, (_, lines) in said.items():
        for line in lines:
            if any(words in line for words in LEFT_OUT) and "(no --" not in line:
                print(f"{name}: {line}")
    for name, (well, lines) in said.items():
        if not well:
            print(f"\n{name} FAILED:")
            print("".join(f"    {line}\n" for line in lines[-LAST_LINES:]), end="")


# --- The command ----------------------------------------------------------------------


def main() -> None:
    args = parse_arguments()
    folder, benchmarks, said = command.results_folder(args), chosen(args), {}
    if not args.collect:
        absent = [peer for peer in PEERS if peer not in args.pythons]
        if absent:
            print(f"Without {', '.join(absent)}: `make bench-peers` installs them.")
        said = run_all(benchmarks, args, folder)
    # The file of one that failed is of an earlier run.
    failed = {name for name, (well, _) in said.items() if not well}
    found = overview.collect([b for b in benchmarks if b.name not in failed], folder)
    if found["rows"]:
        table = overview.table(found)
        print(f"\n{report.text(table, left=3)}\n\n{overview.legend(found)}")
        print(f"\n{overview.summary(found)}")
        figure = overview.plot(found)
        report.write(folder / "all", found, report.markdown(table), figure)
    if args.quick:
        print("In a hurry: this shows that everything runs, the figures mean nothing.")
    report_runs(said)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
