"""How a method trains a task: at a rate, from a seed, measured on the way."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import adagrad_jax as aj
from benchmarks.census.model import TrainState, shuffled_batches
from benchmarks.quality.methods import Method
from benchmarks.quality.tasks import Examples, Task

PART = 50  # steps between two moves of the progress bar


class Evaluation(NamedTuple):
    """For each row: its loss, and whether the answer is wrong."""

    losses: np.ndarray
    wrong: np.ndarray

    @property
    def scores(self) -> dict[str, float]:
        return {
            "loss": float(self.losses.mean(dtype=np.float64)),
            "error": float(self.wrong.mean()),
        }


class Trainer:
    """One method on one task. The jitted step changes the state in place, and takes the
    learning rate as an argument, so that all rates and seeds share one compilation."""

    def __init__(self, task: Task, method: Method):
        self.task, self.method = task, method
        self.value_and_grad = task.value_and_grad if method.ours else jax.value_and_grad
        self.step = jax.jit(self._step, donate_argnums=0)

    def init(self, seed: int) -> TrainState:
        key, step_key = jax.random.split(jax.random.key(seed))
        params = self.task.init(key)
        optimizer = self.method.make(1.0, self.task.is_linear)
        return TrainState(params, optimizer.init(params), step_key)

    def _step(self, state: TrainState, batch: Examples, rate: jax.Array) -> TrainState:
        task = self.task
        key, step_key = jax.random.split(state.key)

        def loss_of(params: Any) -> jax.Array:
            logits = task.logits(params, batch.inputs, step_key)
            return task.losses(logits, batch.labels).mean()

        _, gradients = self.value_and_grad(loss_of)(state.params)
        updates, optimizer = self.method.make(rate, task.is_linear).update(
            gradients, state.optimizer, state.params
        )
        return TrainState(aj.apply_updates(state.params, updates), optimizer, key)

    def run(
        self,
        seed: int,
        examples: Examples,
        rate: float,
        fractions: Sequence[float],
        held_out: Examples,
        bar: tqdm,
    ) -> list[Evaluation]:
        """On the rows held out, after each of those fractions of the run.

        The seed gives the parameters' start, the order of the rows and what drops out.
        """
        batches = shuffled_batches(
            len(examples.labels), self.task.passes, seed, self.task.batch
        )
        state, found = self.init(seed), []
        marks = [0, *(round(part * len(batches)) for part in fractions)]
        for start, stop in itertools.pairwise(marks):
            for number, batch in enumerate(batches[start:stop], 1):
                state = self.step(state, examples.take(batch), np.float32(rate))
                if number % PART == 0:
                    # Steps are not waited for: without it, hundreds would be queued.
                    jax.block_until_ready(state.params)
                    bar.update(PART)
            bar.update((stop - start) % PART)
            measured = self.task.measure(state.params, held_out)
            found.append(Evaluation(*map(np.asarray, measured)))
        return found

    def validation_loss(self, rate: float, bar: tqdm) -> float:
        """The mean over the seeds by which rates are chosen; sees no test rows."""
        losses = []
        for seed in self.task.choosing_seeds:
            learn, validation = self.task.split(seed)
            [last] = self.run(seed, learn, rate, (1.0,), validation, bar)
            losses.append(last.scores["loss"])
        return float(np.mean(losses))
