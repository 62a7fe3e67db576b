"""Does a training on several processes, one of which is killed, end with the same bits?

    python -m benchmarks.census.sharded [--quick] [--out FOLDER]

The model of the census demo, unmodified, with a cross table of 2^24 rows that lies by
its rows on eight virtual devices, four in each of two processes, is trained for one
pass over the data:

1. on one device, which says what is to be expected;
2. on all eight, uninterrupted;
3. once more: somewhere in the middle, at a step drawn from the seed, one of the two
   processes is killed (SIGKILL); both are started again in the same directory, and go
   on from the last checkpoint that is complete.

The losses of all steps and the fingerprint of all parameters and accumulators must then
be those of the second to the bit. Results, with a plot of the loss, of the bytes that
each device sends and of the passes that it takes, go to
benchmarks/results/census.sharded.*.
"""

import dataclasses
import pathlib
import random
import tempfile
import time
from typing import Any

from benchmarks import command, report
from benchmarks.census.sharded.job import Job
from benchmarks.census.sharded.processes import Processes
from benchmarks.census.sharded.report import plot, summary, table


@dataclasses.dataclass
class Life:
    """Of processes that train, from their beginning or from a checkpoint.

    Attributes:
      begins: After which step.
      losses: By step.
      passes: By step, too.
      result: What the processes told at last; nothing, if they were killed.
    """

    begins: int = 0
    losses: dict[int, float] = dataclasses.field(default_factory=dict)
    passes: dict[int, int] = dataclasses.field(default_factory=dict)
    result: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kill:
    """Of which process, when which step is done."""

    index: int
    step: int


def draw_kill(job: Job) -> Kill:
    """In the middle third of the steps."""
    rng = random.Random(job.seed)
    middle = range(job.num_steps // 3, 2 * job.num_steps // 3)
    return Kill(rng.randrange(job.num_processes), rng.choice(middle))


def live(job: Job, logs: pathlib.Path, bar: Any, kill: Kill | None = None) -> Life:
    """Starts all processes of a job; they end by themselves, or by the kill."""
    life = Life()
    with Processes(job, logs) as processes:
        for told in processes:
            if "begins" in told:
                life.begins = bar.n = told["begins"]
                bar.refresh()
            elif "step" in told:
                step = told["step"]
                life.losses[step], life.passes[step] = told["loss"], told["passes"]
                bar.set_postfix(loss=f"{told['loss']:.4f}", refresh=False)
                bar.update()
                if kill is not None and step == kill.step:
                    processes.kill(kill.index)
            else:
                life.result = told
    return life


def train(
    job: Job, folder: pathlib.Path, title: str, kill: Kill | None = None
) -> list[Life]:
    """One life, or two with a kill between them, in a directory of their own."""
    folder.mkdir()
    job = dataclasses.replace(job, directory=str(folder / "checkpoints"))
    lives = []
    with command.progress_bar(job.num_steps, " steps") as bar:
        bar.set_description(title)
        if kill is not None:
            lives.append(live(job, folder, bar, kill))
            bar.write(
                f"Process {kill.index} was killed after step {max(lives[0].losses)} of "
                f"{job.num_steps}; all are started again."
            )
        lives.append(live(job, folder, bar))
    return lives


class Different(Exception):
    """Two trainings that should be the same are not."""


def check_same(whole: Life, lives: list[Life]) -> None:
    """Raises unless those lives have what the uninterrupted one has, to the bit.

    Raises:
      Different: With the first loss, or the array, that is not the same.
    """
    for life in lives:
        for step, loss in life.losses.items():
            if loss != (was := whole.losses.get(step)):
                raise Different(
                    f"The loss of step {step} is {loss!r}, and was {was!r}."
                )
    was, now = (each.result.get("fingerprint") for each in (whole, lives[-1]))
    steps = set().union(*(life.losses for life in lives))
    if was is None or now is None or steps != set(whole.losses):
        raise Different("One of the two did not come to its end.")
    for kind in was:
        for path in was[kind] | now[kind]:
            old, new = was[kind].get(path), now[kind].get(path)
            if old != new:
                raise Different(f"{path} is {new}, and was {old}.")


def run_demo(seed: int, quick: bool) -> dict[str, Any]:
    """All three trainings; returns all that they told.

    Raises:
      Different: If the third is not the same as the second.
    """
    if quick:
        job = Job(cross_rows=2**16, num_steps=9, save_each=2, seed=seed, quick=True)
    else:  # one pass
        job = Job(
            cross_rows=2**24, num_steps=779, save_each=100, seed=seed, quick=False
        )
    by_one = dataclasses.replace(job, num_processes=1, num_devices=1)
    plan = {
        "one device": (by_one, None),
        "uninterrupted": (job, None),
        "interrupted": (job, draw_kill(job)),
    }
    trainings, seconds = {}, {}
    with tempfile.TemporaryDirectory(prefix="adagrad_jax_") as temporary:
        for number, (name, (its_job, kill)) in enumerate(plan.items(), 1):
            start = time.perf_counter()
            title, folder = f"{number}/{len(plan)} {name}", pathlib.Path(temporary)
            trainings[name] = train(its_job, folder / str(number), title, kill)
            seconds[name] = time.perf_counter() - start
    (whole,), lives = trainings["uninterrupted"], trainings["interrupted"]
    check_same(whole, lives)
    (alone,) = trainings["one device"]
    return {
        "settings": dataclasses.asdict(job),
        **alone.result["note"],
        "kill": {
            "process": draw_kill(job).index,
            "after_step": max(lives[0].losses),
            "resumed_from": lives[1].begins,
        },
        **losses_and_scores(trainings),
        "payloads": whole.result["payloads"],
        "passes": [*whole.passes.values()],
        "fingerprint": whole.result["fingerprint"]["arrays"],
        "seconds": seconds,
    }


def losses_and_scores(trainings: dict[str, list[Life]]) -> dict[str, Any]:
    """By each of them: the losses of its lives, and the last one's scores."""
    return {
        "losses": {
            name: [[*life.losses.values()] for life in lives]
            for name, lives in trainings.items()
        },
        "scores": {
            name: lives[-1].result["scores"] for name, lives in trainings.items()
        },
    }


def main() -> None:
    parser = command.parser("census.sharded", __doc__ or "")
    parser.add_argument("--seed", type=int, default=0)
    args = command.parse(parser)
    try:
        results = run_demo(args.seed, args.quick)
    except Different as error:
        raise SystemExit(f"The result is NOT the same to the bit. {error}") from error
    print(summary(results))
    stem = command.results_folder(args) / "census.sharded"
    report.write(stem, results, report.markdown(table(results)), plot(results))


if __name__ == "__main__":
    main()
