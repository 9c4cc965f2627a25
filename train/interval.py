"""What is summed between two rows of metrics.jsonl, so that no step waits for a value from the device."""

from __future__ import annotations

import time
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor

from train.training_plan import Amount


class Interval:
    """Losses and seconds since the last row; continued from what a checkpoint carries.

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
        """What goes on after a resume; `sums` over all processes."""
        return {
            "sums": sums,
            "amount": astuple(self.amount),
            "seconds": self._seconds(),
            "waited": self._waited(waited),
        }

    def speed(self, waited: float, flops_per_sample: float, peak: float | None) -> dict[str, Any]:
        """Rates over the interval; `peak` of all devices together, `waited` seconds of this process for rows."""
        seconds = self._seconds()
        flops = self.amount.samples * flops_per_sample / seconds
        return {
            "seconds": seconds,
            "tokens_per_second": self.amount.encoder_tokens / seconds,
            "tflops": flops / 1e12,
            "mfu": flops / peak if peak else None,
            "data_wait": self._waited(waited) / seconds,
        }

    def _seconds(self) -> float:
        return max(time.perf_counter() - self._since, 1e-9)

    def _waited(self, waited: float) -> float:
        return self._waited_before + waited
