"""The command line of a benchmark, and the processes that its contenders run in.

Every benchmark is ``python -m benchmarks.NAME [--quick] [--out FOLDER]``. One whose
contenders take turns has ``--rounds``, and an option for each peer that may need a
Python of its own. A team of contenders is started by the same command, with ``--serve``
and what it is to run. Nothing is imported here but Python's own: the Python of a peer
need not have anything else.
"""

import argparse
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks import side_by_side

ROOT = pathlib.Path(__file__).parents[1]
TURN = 0.05  # seconds


def parser(
    name: str, description: str, rounds: int = 0, **peers: str
) -> argparse.ArgumentParser:
    """The options that benchmarks have in common; for `parse`.

    Args:
      name: Of the module in this folder, and of its results.
      description: Its docstring.
      rounds: How often contenders have a turn, if they take turns.
      **peers: What the Python of each peer must have.
    """
    result = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description.splitlines()[0]
    )
    result.set_defaults(name=name, peers=list(peers), default_rounds=rounds)
    result.add_argument(
        "--quick", action="store_true", help="does it run? Tiny sizes, one round"
    )
    result.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder for the results (default: benchmarks/results, a new one if quick)",
    )
    if rounds:
        result.add_argument(
            "--rounds", type=int, help=f"turns in a case (default: {rounds})"
        )
        result.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    for peer, what in peers.items():
        result.add_argument(f"--{peer}", metavar="PYTHON", help=f"a Python with {what}")
    return result


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, with ``rounds`` settled and the ``pythons`` by peer."""
    args = parser.parse_args()
    if args.default_rounds:
        args.rounds = args.rounds or (1 if args.quick else args.default_rounds)
    named = {peer: getattr(args, peer) for peer in args.peers}
    args.pythons = {"jax": sys.executable} | {k: v for k, v in named.items() if v}
    return args


def results_folder(args: argparse.Namespace) -> pathlib.Path:
    """Where results go; those of ``--quick`` must not take the place of real ones."""
    if not args.out and args.quick:
        return pathlib.Path(tempfile.mkdtemp(prefix="adagrad_jax_"))
    folder = args.out or ROOT / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- Processes ------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    """Ours, with what every contender's Python needs to find and to keep quiet."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    common = {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(paths),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    return os.environ | common | more


def team(
    args: argparse.Namespace,
    case: str,
    steps: list[str],
    peer: str = "jax",
    suffix: str = "",
    **env: str,
) -> side_by_side.Team:
    """Those steps of a case, in one process of ``peer``, which comes to `serve`.

    Args:
      args: From `parse`.
      case: As ``make_step`` knows it.
      steps: The same.
      peer: Whose Python runs them.
      suffix: To their names in the results.
      **env: What the environment has beside `environment`.
    """
    command = [args.pythons[peer], "-m", f"benchmarks.{args.name}"]
    command += ["--quick"] if args.quick else []
    command += ["--serve", case, *steps]
    names = tuple(step + suffix for step in steps)
    return side_by_side.Team(names, command, environment(**env))


def serve(
    args: argparse.Namespace, make_step: Callable[[str, str, bool], Callable[[], Any]]
) -> None:
    """In a team's process: ``make_step(case, step, quick)`` for what `team` named."""
    case, *steps = args.serve
    made = [make_step(case, step, args.quick) for step in steps]
    side_by_side.serve(made, 0 if args.quick else TURN)


def progress_bar(total: int, unit: str) -> Any:
    """A tqdm of a long run; in a log file it writes a line now and then, not ten a
    second."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=0.1 if sys.stderr.isatty() else 15.0,
        # Short enough for 80 columns: a longer line loses its end.
        bar_format="{desc} {percentage:3.0f}%|{bar}| {remaining}, {rate_fmt}{postfix}",
    )
