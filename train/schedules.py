"""Learning rates as functions of the step.

A rate depends on integers and settings alone, never on a rate before it, so a resumed run and a branch of a run have
the rates of an undisturbed one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline_steps.errors import InvalidCut


WARMUP_STEPS = 10_000  # Raffel et al. 2020, Sec. 3.1.2
_ADAMW_PEAK = 6e-4  # Brown et al. 2020 (GPT-3), Table 2.1: 125M parameters
_ADAFACTOR_PEAK = WARMUP_STEPS**-0.5  # T5's highest, Raffel et al. 2020, Sec. 3.1.2
_COSINE_FLOOR = 0.01  # DataDecide's ladder: allenai/OLMo, scripts/ladder.py, alpha_f
# Hu et al. 2024 (MiniCPM, arXiv 2404.06395), Sec. 4: 10 % of the tokens suffice for the decay. Linear to zero is what
# OLMo-core's WSD does by default
_DECAY = {"decay_fraction": 0.1, "decay_shape": "linear"}
_USUAL: dict[str, dict[str, Any]] = {
    "inverse-sqrt": {},
    "constant": {},
    "cosine": {"final_lr_ratio": _COSINE_FLOOR},
    "wsd": _DECAY | {"final_lr_ratio": 0.0},
}
DECAY_SETTINGS = ("decay_fraction", "decay_shape", "final_lr_ratio")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of a run: warm-up in absolute steps, then what its name says.

    - inverse-sqrt: T5's, see `inverse_sqrt`.
    - constant: the peak, after a linear warm-up.
    - cosine: half a cosine from the peak to the floor, after a linear warm-up.
    - wsd: warm-up, stable, decay (Hu et al. 2024, arXiv 2404.06395): the peak, then down to the floor in the last
      ceil(decay_fraction x steps) steps, linearly or as 1 - sqrt (Haegele et al. 2024, arXiv 2405.18392).

    The last two reach the floor in the last step. Settings that are not given are the schedule's usual ones.

    Args:
        name: of the schedule.
        optimizer: adafactor's rates are relative to the weights, so its usual peak differs.
        steps: of the whole run.
        warmup_steps: steps up to the peak.
        peak: highest rate; the optimizer's usual one if None.
        decay_fraction: share of the steps in which wsd decays.
        decay_shape: linear or 1-sqrt.
        final_lr_ratio: floor of cosine and wsd, as a share of the peak.

    Raises:
        InvalidCut: the settings contradict each other.
    """

    name: str = "inverse-sqrt"
    optimizer: str
    steps: int
    warmup_steps: int = WARMUP_STEPS
    peak: float | None = None
    decay_fraction: float | None = None
    decay_shape: str | None = None
    final_lr_ratio: float | None = None

    def __post_init__(self) -> None:
        usual = _USUAL[self.name]
        for setting in DECAY_SETTINGS:
            if getattr(self, setting) is None:
                object.__setattr__(self, setting, usual.get(setting))
            elif setting not in usual:
                having = " or ".join(name for name, settings in _USUAL.items() if setting in settings)
                raise InvalidCut(f"{setting} is a setting of the schedule {having}, not of {self.name}: leave it out")
        if self.decay_fraction is not None and not 0 < self.decay_fraction < 1:
            raise InvalidCut(f"decay_fraction must be above 0 and below 1, not {self.decay_fraction:g}")
        if self.final_lr_ratio is not None and not 0 <= self.final_lr_ratio <= 1:
            raise InvalidCut(f"final_lr_ratio must be from 0 to 1, not {self.final_lr_ratio:g}")
        if self.name != "inverse-sqrt" and self.warmup_steps > self.decay_start:
            decays = f" whose decay begins after step {self.decay_start:,}" if self.name == "wsd" else ""
            raise InvalidCut(
                f"warmup_steps {self.warmup_steps:,} are too many for a run of {self.steps:,} steps{decays}: give "
                "fewer, or more tokens"
            )

    @property
    def decay_start(self) -> int:
        """The last step at the peak before wsd decays; of the other schedules, the last step but one."""
        return self.steps - 1 if self.decay_fraction is None else decay_start(self.steps, self.decay_fraction)

    @property
    def decay_settings(self) -> dict[str, Any]:
        """The settings of the decay that hold, given or usual; None for those that the schedule does not have."""
        return {name: getattr(self, name) for name in DECAY_SETTINGS}

    def rate(self, step: int) -> float:
        """Return the learning rate of a step; the first step is 1."""
        if self.name == "inverse-sqrt":
            return inverse_sqrt(step, self.optimizer, self.warmup_steps, self.peak)
        peak = self.peak or (_ADAFACTOR_PEAK if self.optimizer == "adafactor" else _ADAMW_PEAK)
        if step < self.warmup_steps:
            return peak * (step / self.warmup_steps)
        start = self.warmup_steps if self.name == "cosine" else self.decay_start
        if self.name == "constant" or step <= start:
            return peak  # to the bit, whatever the floor: branches of a run share it
        floor = self.final_lr_ratio or 0.0
        return peak * (floor + (1.0 - floor) * self._left(step - start, self.steps - start))

    def _left(self, done: int, whole: int) -> float:
        """Return what is left, after some steps of the decay, of the way from the peak to the floor: from 1 to 0."""
        if self.name == "cosine":
            return (1.0 + math.cos(math.pi * done / whole)) / 2.0
        return 1.0 - math.sqrt(done / whole) if self.decay_shape == "1-sqrt" else (whole - done) / whole


def decay_start(steps: int, decay_fraction: float) -> int:
    """Return the last step at the peak of a wsd run."""
    # The fraction as it is written: 0.1 x 70 is 7.000000000000001 in floating point
    return steps - math.ceil(Fraction(str(decay_fraction)) * steps)


def inverse_sqrt(step: int, optimizer: str, warmup_steps: int = WARMUP_STEPS, peak: float | None = None) -> float:
    """Return the inverse square root of the step, flat (Adafactor) or rising (the others) for `warmup_steps`.

    Adafactor's peak is 1 / sqrt(warmup_steps) unless given, T5's 1 / sqrt(max(step, k)) (Raffel et al. 2020,
    Sec. 3.1.2); there is no ramp down, so every checkpoint of a run can be compared with any other.
    """
    falling = (warmup_steps / max(step, warmup_steps)) ** 0.5
    if optimizer != "adafactor":
        return (peak or _ADAMW_PEAK) * falling * min(1.0, step / warmup_steps)
    return (peak or warmup_steps**-0.5) * falling
