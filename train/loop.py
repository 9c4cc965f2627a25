"""The training loop: every step is a function of the weights before it and of (seed, step)."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from pipeline_steps.errors import ModelError
from pipeline_steps.files import read_json
from pipeline_steps.numerics.keys import mix
from train.checkpoints import (
    latest_checkpoint,
    load_model,
    load_optimizer,
    remove_checkpoint,
    save_checkpoint,
    sweep,
)
from train.model import Z_LOSS, build_model, token_losses
from train.optimizer import Adafactor, learning_rate
from train.plan import Plan
from train.run_directory import (
    Metrics,
    checkpoint_folder,
    list_checkpoints,
    refuse_differences,
    versions,
    write_environment,
)


class Trainer:
    """One run: started, or continued from its newest valid checkpoint.

    Batches are cut by rank here and the learning rate is a function of the step: accelerate's own samplers and
    schedulers change what a run sees with the number of processes.

    Raises:
        ModelError: fp16, which T5 does not survive, was asked for; more processes than rows; a loss is not finite.
        StoreMismatch: the checkpoint is of another run.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.accelerator = Accelerator()
        self.main = self.accelerator.is_main_process
        if self.accelerator.mixed_precision == "fp16":
            raise ModelError("T5 diverges in fp16: launch with --mixed_precision bf16 or no")
        if self.accelerator.num_processes > plan.arguments.batch_size:
            raise ModelError(
                f"{self.accelerator.num_processes} processes cannot share a batch of {plan.arguments.batch_size}: "
                "launch fewer"
            )
        newest = latest_checkpoint(plan.run_dir)
        state = read_json(f"{newest}/state.json") if newest else {}
        if state:
            refuse_differences(state["hashes"], plan.hashes, str(newest))
        self.accelerator.wait_for_everyone()  # before one of them tidies up
        self.raw_model = load_model(newest) if newest else self._initial_model()
        self.model = self.accelerator.prepare(self.raw_model).train()
        self.optimizer = Adafactor(self.raw_model.named_parameters())
        if newest:
            self.optimizer.load_state_dict(load_optimizer(newest))
        self.done: int = state.get("step", 0)
        self._open_interval(state.get("interval", {}))

    def train(self) -> int | None:
        """Train to the end: None. On SIGTERM or SIGINT write a checkpoint and stop: the signal's number."""
        with _signals() as stopped:
            metrics = self._open_files() if self.main else None
            number = self._steps(metrics, stopped)
        if metrics:
            metrics.close()
        self._close()
        return number

    def _steps(self, metrics: Metrics | None, stopped: list[int]) -> int | None:
        arguments, grid, last = self.plan.arguments, set(self.plan.grid), self.plan.budget.steps
        shown = self.main and sys.stderr.isatty()
        for step in tqdm(
            range(self.done + 1, last + 1), initial=self.done, total=last, unit="step", disable=not shown
        ):
            logged = step % arguments.log_every == 0 or step in grid
            norm = self._update(step, measure=logged)
            if logged:
                row = self._close_interval(step, norm)
                if metrics:
                    metrics.append(row)
            # Processes get a signal at different steps; they agree where they talk to each other anyway.
            stop = step < last and (logged or self.accelerator.num_processes == 1) and self._any(stopped)
            if stop or step in grid or (arguments.save_every and step % arguments.save_every == 0):
                self._save(step)
            if stop:
                return stopped[0] if stopped else signal.SIGTERM
        return None

    def _update(self, step: int, measure: bool) -> float | None:
        """Make one step; the norm of the gradient if it is to be measured."""
        arguments, corruption = self.plan.arguments, self.plan.corruption
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        samples = np.arange((step - 1) * arguments.batch_size, step * arguments.batch_size)
        mine = np.array_split(samples, world)[rank]
        inputs, targets = corruption.corrupt(self.plan.replay.batch(mine), mine, arguments.seed)
        if self.raw_model.config.dropout_rate:
            torch.manual_seed(int(mix(np.array([step * world + rank]), arguments.seed)[0]))
        device = self.accelerator.device
        nll, z_loss = token_losses(
            self.model, torch.from_numpy(inputs).to(device).long(), torch.from_numpy(targets).to(device).long()
        )
        self.sums += torch.stack([nll.detach().sum(dtype=torch.float64), z_loss.detach().sum(dtype=torch.float64)])
        self.summed_steps += 1
        # T5's loss: the sum over the tokens of all processes, over a constant. DDP takes the mean over processes.
        normaliser = arguments.batch_size * corruption.target_length / world
        self.accelerator.backward((nll.sum() + Z_LOSS * z_loss.sum()) / normaliser)
        norm = None
        if measure:
            gradients = [weight.grad for weight in self.raw_model.parameters() if weight.grad is not None]
            norm = float(torch.nn.utils.get_total_norm(gradients))
        self.optimizer.step(step, learning_rate(step, arguments.warmup_steps))
        self.optimizer.zero_grad()
        return norm

    def _open_interval(self, carried: dict[str, Any]) -> None:
        """Begin to sum losses and seconds anew, or where a stopped run left off."""
        sums = carried.get("sums", [0.0, 0.0]) if self.main else [0.0, 0.0]
        self.sums = torch.tensor(sums, dtype=torch.float64, device=self.accelerator.device)
        self.summed_steps: int = carried.get("steps", 0)
        self.since = time.perf_counter() - carried.get("seconds", 0.0)

    def _close_interval(self, step: int, norm: float | None) -> dict[str, Any]:
        """The row of metrics for the steps since the last one."""
        sums = self.accelerator.reduce(self.sums, "sum").tolist()
        tokens = self.summed_steps * self.plan.arguments.batch_size * self.plan.corruption.target_length
        seconds = time.perf_counter() - self.since
        self._open_interval({})
        if not math.isfinite(sums[0]):
            raise ModelError(
                f"the loss is {sums[0]} at step {step} of {self.plan.run_dir}: start a new run with more "
                "--warmup-steps, or in float32; the last checkpoint is intact"
            )
        return self.plan.counts(step) | {
            "nll": sums[0] / tokens,
            "z_loss": Z_LOSS * sums[1] / tokens,
            "lr": learning_rate(step, self.plan.arguments.warmup_steps),
            "grad_norm": norm,
            "seconds": seconds,
        }

    def _save(self, step: int) -> None:
        """Write a checkpoint, then drop those before it that are not to be kept."""
        before = time.perf_counter()
        sums = self.accelerator.reduce(self.sums, "sum").tolist()
        if self.main:
            state = self.plan.state(step) | {"versions": versions()}
            if self.summed_steps:
                seconds = before - self.since
                state["interval"] = {"sums": sums, "steps": self.summed_steps, "seconds": seconds}
            keep = {checkpoint_folder(self.plan.run_dir, kept) for kept in [*self.plan.grid, step]}
            save_checkpoint(
                self.plan.run_dir, self.raw_model, self.optimizer.state_dict(), self.plan.store.tokenizer, state
            )
            for folder in list_checkpoints(self.plan.run_dir):
                if folder not in keep:
                    remove_checkpoint(folder)
        self.accelerator.wait_for_everyone()
        self.since += time.perf_counter() - before  # saving is not training

    def _initial_model(self) -> Any:
        return build_model(self.plan.arguments.preset, self.plan.store.vocab_size, self.plan.arguments.init_seed)

    def _open_files(self) -> Metrics:
        """Tidy up behind a killed run and open the metrics."""
        sweep(self.plan.run_dir, self.done)
        write_environment(
            self.plan.run_dir,
            device=str(self.accelerator.device),
            processes=self.accelerator.num_processes,
            threads=torch.get_num_threads(),
        )
        return Metrics(self.plan.run_dir, self.done)

    def _close(self) -> None:
        """Part from the other processes.

        DDP goes first: if it is freed after the process group, it frees the group's last reference while holding
        the interpreter's lock, for which the group's own threads wait, and the process now and then never ends.
        """
        self.accelerator.wait_for_everyone()
        self.model = self.raw_model
        self.accelerator.free_memory()  # accelerate's own references to DDP, and a collection of garbage
        self.accelerator.end_training()

    def _any(self, stopped: list[int]) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(stopped)
        flag = torch.tensor(len(stopped), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum").item())


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the numbers of SIGTERM and SIGINT are put into instead of ending the process."""
    stopped: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
