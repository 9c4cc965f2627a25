"""The measurements of a run while it trains: sums between two rows of its files, and other trackers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor

from pipeline_steps.errors import ModelError
from train.training_plan import Amount, TrainingPlan


class Interval:
    """Losses and seconds since the last row of metrics.jsonl, summed so that no step waits for the device.

    A resumed run continues the interval that its checkpoint carries.

    Args:
        device: where losses are summed.
        carried: what `carry` returned in the run that was stopped, on the main process; else empty.

    Attributes:
        sums: float64 [2], nats and squared normalisers of this process's targets.
        amount: what all processes have shown.
    """

    def __init__(self, device: torch.device, carried: dict[str, Any]) -> None:
        self.sums = torch.tensor(carried.get("sums", [0.0, 0.0]), dtype=torch.float64, device=device)
        self.amount = Amount(*carried.get("amount", ()))
        self._waited_before: float = carried.get("waited", 0.0)
        self._since = time.perf_counter() - carried.get("seconds", 0.0)

    def add(self, sums: Tensor, amount: Amount) -> None:
        """Count a step."""
        self.sums += sums
        self.amount += amount

    def pause(self, seconds: float) -> None:
        """Do not count time that was not spent on training."""
        self._since += seconds

    def carry(self, sums: list[float], waited: float) -> dict[str, Any]:
        """Return what a resumed run goes on with; `sums` are over all processes."""
        return {
            "sums": sums,
            "amount": astuple(self.amount),
            "seconds": self._seconds(),
            "waited": self._waited(waited),
        }

    def speed(self, waited: float, flops_per_sample: float | None, peak: float | None) -> dict[str, Any]:
        """Return rates over the interval.

        Args:
            waited: seconds that this process waited.
            flops_per_sample: operations of a row; None if they are not known.
            peak: operations per second of all devices; None if it is not known.
        """
        seconds = self._seconds()
        flops = None if flops_per_sample is None else self.amount.samples * flops_per_sample / seconds
        return {
            "seconds": seconds,
            "tokens_per_second": self.amount.encoder_tokens / seconds,
            "tflops": None if flops is None else flops / 1e12,
            "mfu": None if flops is None or not peak else flops / peak,
            "data_wait": self._waited(waited) / seconds,
        }

    def _seconds(self) -> float:
        return max(time.perf_counter() - self._since, 1e-9)

    def _waited(self, waited: float) -> float:
        return self._waited_before + waited


def find_trackers(name: str) -> list[Any]:
    """Return the trackers of accelerate that an argument names, before there is an Accelerator to ask.

    Raises:
        ModelError: the tracker is not known to accelerate, or not installed.
    """
    if name == "none":
        return []
    if name not in (known := LoggerType.list()):
        raise ModelError(f"no tracker {name!r}: choose one of {', '.join(known)}, or none")
    found = [one for one in get_available_trackers() if name in ("all", one.value)]
    if not found:
        raise ModelError(f"the tracker {name} is not installed: pip install {name}, or say --report_to none")
    return found


def start_trackers(accelerator: Accelerator, plan: TrainingPlan, done: int) -> Callable[[str, dict[str, Any]], None]:
    """Return a function that takes rows by name; TensorBoard's files are in <run>/pretrain."""
    name = plan.loop.report_to
    accelerator.log_with = find_trackers(name)
    if not accelerator.log_with:
        return lambda _, row: None
    settings = {key: value for key, value in plan.resolved.items() if isinstance(value, (int, float, str, bool))}
    options = {"tensorboard": {"purge_step": done + 1}}  # what a killed run has shown beyond its checkpoint
    accelerator.init_trackers("pretrain", settings, options if name == "tensorboard" else {})

    def report(group: str, row: dict[str, Any]) -> None:
        prefix = f"{group}/{row['split']}" if "split" in row else group
        shown = {f"{prefix}/{key}": value for key, value in row.items() if isinstance(value, (int, float))}
        accelerator.log(shown, step=row["step"])

    return report
