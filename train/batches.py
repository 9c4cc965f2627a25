"""The batches of a process, made ahead of their use by a thread.

Batches are cut by rank here: accelerate's samplers change what a run sees with the number of processes. All
processes make equally many forward passes of a step, as DDP and FSDP need; one that has no row left for a pass shows
a row that does not count. Shapes: B rows of a forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.training_plan import TrainingPlan


_AHEAD = 4  # steps: rides out a slow read of a network file system


@dataclass(frozen=True)
class Rows:
    """Rows of one forward pass: samples int64 [B], inputs int64 [B, I], targets int64 [B, T]; whether they count."""

    samples: np.ndarray
    inputs: Tensor
    targets: Tensor
    counts: bool


def shares(samples: np.ndarray, world: int, rank: int, most: int) -> list[np.ndarray]:
    """Cut the samples of a process into pieces of at most `most` (0: one); every process gets as many pieces."""
    largest = -(-len(samples) // world)
    pieces = -(-largest // most) if most else 1
    return np.array_split(np.array_split(samples, world)[rank], pieces)


class Batches:
    """The rows that a process sees in each step.

    Args:
        plan: the run.
        rank: this process's number.
        world: how many processes there are.
        pin: copy to memory a GPU reads from directly.

    Attributes:
        waited: seconds that steps have waited for their rows.
    """

    def __init__(self, plan: TrainingPlan, rank: int, world: int, pin: bool) -> None:
        self._plan, self._rank, self._world, self._pin = plan, rank, world, pin
        self.waited = 0.0

    def steps(self, first: int, last: int) -> Iterator[tuple[int, list[Rows]]]:
        """Yield steps `first` to `last` and their rows."""
        with ThreadPoolExecutor(1, "batches") as thread:
            coming: list[Future[list[Rows]]] = []
            for step in range(first, last + 1):
                while len(coming) < _AHEAD and step + len(coming) <= last:
                    coming.append(thread.submit(self.rows, step + len(coming)))
                start = time.perf_counter()
                rows = coming.pop(0).result()
                self.waited += time.perf_counter() - start
                try:
                    yield step, rows
                except GeneratorExit:
                    thread.shutdown(cancel_futures=True)
                    raise

    def rows(self, step: int) -> list[Rows]:
        """Return this process's rows of a step, one element a forward pass."""
        budget = self._plan.budget
        samples = np.arange(budget.samples_after(step - 1), budget.samples_after(step))
        pieces = shares(samples, self._world, self._rank, self._plan.loop.micro_batch_size)
        return [self._make(piece if len(piece) else samples[:1], len(piece) > 0) for piece in pieces]

    def _make(self, samples: np.ndarray, counts: bool) -> Rows:
        inputs, targets = (torch.from_numpy(array).long() for array in self._plan.rows(samples))
        if self._pin:
            inputs, targets = inputs.pin_memory(), targets.pin_memory()
        return Rows(samples, inputs, targets, counts)
