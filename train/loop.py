"""The training loop: every step is a function of the weights before it and of (seed, step)."""

from __future__ import annotations

import ctypes
import math
import signal
import sys
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from datatrove.utils.logging import logger
from tqdm import tqdm

from pipeline_steps.errors import ModelError, WinnowError
from pipeline_steps.numerics.keys import mix
from pipeline_steps.stores.artefact import refuse_differences
from pipeline_steps.stores.files import read_json
from train.batches import Batches, Rows
from train.checkpoints import drop_after, load_model, load_optimizer, prune, save_checkpoint, whole_weights
from train.costs import is_counted, peak_flops, training_flops
from train.layers import prepare_for_training
from train.losses import TokenLosses
from train.metrics import Interval, start_trackers
from train.model import size_of
from train.optimizers import OPTIMIZERS
from train.run_directory import Metrics, latest_checkpoint, read_state, versions, write_environment
from train.sharding import shard, whole
from train.signals import stopping_signals
from train.training_plan import TrainingPlan


# Parameters of mallopt, malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


class Trainer:
    """One run: started, or continued from its newest valid checkpoint.

    Batches are cut by rank in `train.batches` and the learning rate is a function of the step: accelerate's own
    samplers and schedulers change what a run sees with the number of processes.

    Raises:
        ModelError: more processes than rows; a tracker that is not installed; a loss that is not finite; a
            checkpoint cannot be written.
        StoreMismatch: the checkpoint is of another run, or holds a file that somebody has added.
        StoreDamaged: a process cannot read the checkpoint that the first process has chosen.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan
        loop = plan.loop
        self.accelerator = Accelerator(mixed_precision=loop.precision, project_dir=str(plan.run_dir))
        self.main, self.world = self.accelerator.is_main_process, self.accelerator.num_processes
        if self.world > plan.budget.batch_size:
            raise ModelError(f"{self.world} processes cannot share a batch of {plan.budget.batch_size}: launch fewer")
        newest = self._agree_on_checkpoint()
        state = read_json(f"{newest}/state.json") if newest else {}
        self.begun_in = newest.parent.parent if newest else plan.run_dir  # of a new branch, its trunk
        if state and self.begun_in == plan.run_dir:
            refuse_differences(state["hashes"], plan.hashes, str(newest))
        elif state and self.main:
            logger.info(f"{plan.run_dir} goes on from step {state['step']:,} of {self.begun_in}")
        self.raw_model = load_model(newest) if newest else plan.initial_model()
        self.size = size_of(self.raw_model)
        self.masks = prepare_for_training(self.raw_model, plan.padded, apart=plan.document_eos is not None)
        if self.device.type == "cpu":
            keep_freed_memory()
        if loop.compile:
            _compile_layers(self.raw_model)
        self.sharded = self.world > 1 and (loop.shard or self.accelerator.distributed_type == "FSDP")
        if self.sharded and plan.padded:
            raise ModelError("fine-tuning decodes along the way, which sharded weights cannot: launch without FSDP")
        if self.sharded and loop.optimizer == "muon":
            raise ModelError("muon needs whole matrices, which FSDP cuts: launch without FSDP, or choose adamw")
        losses = TokenLosses(self.raw_model, plan.padded, loop.z_loss, plan.document_eos)
        self.model: Any = self._distributed(losses).train()
        self.optimizer = OPTIMIZERS[loop.optimizer](self.raw_model.named_parameters(), loop.optimizer_settings)
        if newest:
            self.optimizer.load_state_dict(load_optimizer(newest))
        self.measure = plan.open_measurements()
        self.batches = Batches(plan, self.accelerator.process_index, self.world, self.device.type == "cuda")
        self.done: int = state.get("step", 0)
        self.interval = Interval(self.device, state.get("interval", {}) if self.main else {})
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else ""
        self.peak = (peak_flops(name) or 0.0) * self.world or None

    def _agree_on_checkpoint(self) -> Path | None:
        """Return the checkpoint that the first process chooses, after every process has verified it.

        Processes that chose for themselves could choose differently, where one machine reads bytes that others do
        not, and would train on from different steps.

        Raises:
            WinnowError: a process finds the checkpoint damaged; all processes raise the same.
        """
        newest, error = None, None
        try:
            if self.main:
                newest = latest_checkpoint(self.plan.run_dir) or self.plan.branch_point()
        except (WinnowError, OSError) as caught:
            error = caught
        newest, error = broadcast_object_list([newest, error])
        try:
            if newest and not self.main:
                read_state(newest)
        except (WinnowError, OSError) as caught:
            error = caught
        for found in gather_object([error]):
            if found is not None:
                raise found
        return newest

    @property
    def device(self) -> torch.device:
        """The device on which this process computes."""
        return torch.device(self.accelerator.device)

    def train(self) -> int | None:
        """Train to the end and return None; on a stopping signal write a checkpoint and return the signal's number."""
        with ExitStack() as stack:
            stopped = stack.enter_context(stopping_signals())
            files = self._open_files(stack) if self.main else {}
            trackers = start_trackers(self.accelerator, self.plan, self.done)
            number = self._steps(files, trackers, stopped)
        self._close()
        return number

    def _steps(self, files: dict[str, Metrics], trackers: Any, stopped: list[int]) -> int | None:
        loop, grid, last = self.plan.loop, set(self.plan.grid), self.plan.budget.steps
        with _bar(self.done, last, self.main) as bar:
            for step, rows in self.batches.steps(self.done + 1, last):
                logged = step % loop.log_every == 0 or step in grid
                norm = self._update(step, rows, measure=logged)
                bar.update()
                if logged:
                    row = self._close_interval(step, norm)
                    bar.set_postfix(
                        loss=f"{row['nll']:.3f}", tokens_s=f"{row['tokens_per_second']:,.0f}", refresh=False
                    )
                    self._log(files, trackers, "metrics", row)
                if step in grid or (loop.eval_every and step % loop.eval_every == 0):
                    for row in self._measure(step):
                        self._log(files, trackers, "held_out", row)
                # Processes get a signal at different steps; they agree where they talk to each other anyway.
                stop = step < last and (logged or self.world == 1) and self._any(stopped)
                if stop or step in grid or (loop.save_every and step % loop.save_every == 0):
                    self._save(step)
                if stop:
                    return stopped[0] if stopped else signal.SIGTERM
        return None

    def _update(self, step: int, passes: list[Rows], measure: bool) -> float | None:
        """Make one step; return the norm of the gradient if it is to be measured."""
        loop, budget = self.plan.loop, self.plan.budget
        amount = self.plan.amount(budget.samples_after(step - 1), budget.samples_after(step))
        rank = self.accelerator.process_index
        torch.manual_seed(int(mix(np.array([step * self.world + rank]), loop.seed)[0]))  # of torch's own dropout
        # T5's loss: the sum over the tokens of all processes, over their number. DDP takes the mean over processes.
        scale = self.world / amount.target_tokens
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, rows in enumerate(passes):
            last = number == len(passes) - 1
            with self._synchronised(last):
                with self.masks.drawn_for(rows.samples, loop.seed), self.accelerator.autocast():
                    loss, parts = self.model(self._to_device(rows.inputs), self._to_device(rows.targets))
                sums += parts.detach() * rows.counts
                self.accelerator.backward(loss * (scale * rows.counts))
        self.interval.add(sums, amount)
        norm = self._gradient_norm() if measure or loop.max_grad_norm else None
        if norm is not None and loop.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.raw_model.parameters(), loop.max_grad_norm, norm)
        self.optimizer.step(step, self.plan.learning_rate(step))
        self.optimizer.zero_grad()
        return float(norm) if norm is not None and measure else None

    def _gradient_norm(self) -> torch.Tensor:
        gradients = [weight.grad for weight in self.raw_model.parameters() if weight.grad is not None]
        return whole(torch.nn.utils.get_total_norm(gradients))

    def _close_interval(self, step: int, norm: float | None) -> dict[str, Any]:
        """Return the row of metrics for the steps since the last row."""
        sums = self.accelerator.reduce(self.interval.sums, "sum").tolist()
        seen = self.interval.amount
        lengths = seen.encoder_tokens // seen.samples, seen.target_tokens // seen.samples  # of a row, in the mean
        config = self.raw_model.config
        flops = training_flops(config, *lengths) if is_counted(config) else None
        speed = self.interval.speed(self.batches.waited, flops, self.peak)
        tokens = seen.target_tokens
        self.interval, self.batches.waited = Interval(self.device, {}), 0.0
        self._refuse_infinite(sums[0], step)
        losses = {"nll": sums[0] / tokens, "z_loss": self.plan.loop.z_loss * sums[1] / tokens}
        speed["processes"] = self.world
        return self.plan.counts(step) | losses | {"lr": self.plan.learning_rate(step), "grad_norm": norm} | speed

    def _measure(self, step: int) -> list[dict[str, Any]]:
        """Return what is measured on held-out data."""
        start = time.perf_counter()
        self.model.eval()
        found = [self.plan.counts(step) | row for row in self.measure(self.model, self.accelerator)]
        self.model.train()
        self.interval.pause(time.perf_counter() - start)
        return found

    def _save(self, step: int) -> None:
        """Write a checkpoint, then drop those before it that are not to be kept."""
        start = time.perf_counter()
        sums = self.accelerator.reduce(self.interval.sums, "sum").tolist()
        self._refuse_infinite(sums[0], step)
        tensors = whole_weights(self.raw_model), self.optimizer.state_dict()
        if self.main:
            state = self.plan.state(step) | {"versions": versions(), "parameters": self.size}
            if self.interval.amount.samples:
                state["interval"] = self.interval.carry(sums, self.batches.waited)
            save_checkpoint(self.plan.run_dir, self.raw_model, tensors, self.plan.tokenizer, state)
            prune(self.plan.run_dir, set(self.plan.grid), self.plan.loop.keep_last)
        self.accelerator.wait_for_everyone()
        self.interval.pause(time.perf_counter() - start)

    def _distributed(self, model: TokenLosses) -> Any:
        if not self.sharded:
            return self.accelerator.prepare(model)
        return shard(model.to(self.device), self.raw_model)

    def _synchronised(self, last: bool) -> Any:
        """Return a context for a pass whose gradients are exchanged if it is the last of its step."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
        return nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model)

    def _refuse_infinite(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss is {loss} at step {step} of {self.plan.run_dir}: start a new run with more "
                "warm-up, a lower learning rate, or in float32; the last checkpoint is intact"
            )

    def _to_device(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self.device, non_blocking=True)

    def _log(self, files: dict[str, Metrics], trackers: Any, name: str, row: dict[str, Any]) -> None:
        if self.main:
            files[name].append(row)
        trackers(name, row)

    def _open_files(self, stack: ExitStack) -> dict[str, Metrics]:
        """Set aside what is damaged after the checkpoint that the run continues from, and open the metrics."""
        drop_after(self.plan.run_dir, self.done)
        write_environment(
            self.plan.run_dir,
            device=str(self.device),
            processes=self.world,
            threads=torch.get_num_threads(),
            begun_in=str(self.begun_in),
        )
        names = ["metrics", "held_out"] if self.measure else ["metrics"]
        rows = {name: Metrics(self.plan.run_dir, name, self.done, self.begun_in) for name in names}
        return {name: stack.enter_context(one) for name, one in rows.items()}

    def _close(self) -> None:
        """End the run, but stay with the other processes: branches may follow.

        DDP goes before `leave`: if it is freed after the process group, it frees the group's last reference while
        holding the interpreter's lock, for which the group's own threads wait, and the process now and then never
        ends.
        """
        self.accelerator.wait_for_everyone()
        self.model = self.raw_model
        self.accelerator.free_memory()  # accelerate's own references to DDP, and a collection of garbage
        for tracker in self.accelerator.trackers:
            tracker.finish()

    @staticmethod
    def leave() -> None:
        """Part from the other processes, after the last run."""
        PartialState().destroy_process_group()

    def _any(self, stopped: list[int]) -> bool:
        if self.world == 1:
            return bool(stopped)
        flag = torch.tensor(len(stopped), device=self.device)
        return bool(self.accelerator.reduce(flag, "sum").item())


def _compile_layers(model: Any) -> None:
    for part in (model.encoder, model.decoder) if model.config.is_encoder_decoder else (model.base_model,):
        part.compile()


def _bar(done: int, last: int, main: bool) -> Any:
    """Return a progress bar; where nobody watches, it writes a line a minute."""
    return tqdm(
        initial=done, total=last, unit="step", disable=not main, mininterval=0.1 if sys.stderr.isatty() else 60.0
    )


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensor, where it can.

    glibc gives blocks of more than 32 MB back to the system at once, and each time one is needed again its pages are
    mapped and cleared anew: a step of T5-Small at 8 rows took 8.0 s so, and 6.0 with blocks kept (2 cores). Peak
    memory was within 2 percent, as each step needs the same blocks.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on macOS, nor with musl
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
