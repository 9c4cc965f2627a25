"""Optimizers by name, and their learning rates as functions of the step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline_steps.errors import StoreMismatch
from train.adafactor import Adafactor
from train.sharding import cut_like, own_rows, whole


# Touvron et al. 2023 (LLaMA), Sec. 2.3
_BETAS = (0.9, 0.95)
_WEIGHT_DECAY = 0.1


class AdamW:
    """torch's fused AdamW with LLaMA's settings; matrices decay, vectors do not.

    Args:
        parameters: names and parameters; the names are the state's.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._named = list(parameters)
        groups = [
            {"params": [weight for _, weight in self._named if weight.ndim >= 2], "weight_decay": _WEIGHT_DECAY},
            {"params": [weight for _, weight in self._named if weight.ndim < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW([group for group in groups if group["params"]], betas=_BETAS, fused=True)
        for _, weight in self._named:
            self._adamw.state[weight] = {
                "step": torch.zeros((), device=weight.device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def step(self, step: int, rate: float) -> None:
        """Make step number `step` (the first is 1)."""
        for group in self._adamw.param_groups:
            group["lr"] = rate
        for state in self._adamw.state.values():
            state["step"].fill_(step - 1)
        self._adamw.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._adamw.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """First and second moments by parameter name."""
        return {
            f"{name}.{part}": whole(self._adamw.state[weight][moment]).clone()
            for name, weight in self._named
            for part, moment in enumerate(("exp_avg", "exp_avg_sq"))
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state written by `state_dict`. Raises StoreMismatch if it is of another model."""
        expected = {f"{name}.{part}": weight.shape for name, weight in self._named for part in (0, 1)}
        if {name: value.shape for name, value in state.items()} != expected:
            differing = sorted(state.keys() ^ expected.keys()) or ["shapes"]
            raise StoreMismatch(f"the optimizer state is of another model ({differing[0]}): use its own preset")
        for name, weight in self._named:
            for part, moment in enumerate(("exp_avg", "exp_avg_sq")):
                own = self._adamw.state[weight][moment]
                own_rows(own).copy_(cut_like(state[f"{name}.{part}"], own))


OPTIMIZERS: dict[str, type[Adafactor] | type[AdamW]] = {"adafactor": Adafactor, "adamw": AdamW}
WARMUP_STEPS = 10_000  # Raffel et al. 2020, Sec. 3.1.2
_ADAMW_PEAK = 6e-4  # Brown et al. 2020 (GPT-3), Table 2.1: 125M parameters


def learning_rate(step: int, optimizer: str, warmup_steps: int = WARMUP_STEPS, peak: float | None = None) -> float:
    """The inverse square root of the step, flat (Adafactor: relative steps) or rising (AdamW) for `warmup_steps`.

    Adafactor's peak is 1 / sqrt(warmup_steps) unless given, T5's 1 / sqrt(max(step, k)) (Raffel et al. 2020,
    Sec. 3.1.2); there is no ramp down, so every checkpoint of a run can be compared with any other.
    """
    falling = (warmup_steps / max(step, warmup_steps)) ** 0.5
    if optimizer == "adamw":
        return (peak or _ADAMW_PEAK) * falling * min(1.0, step / warmup_steps)
    return (peak or warmup_steps**-0.5) * falling
