"""T5's Adafactor: factored second moments, no first moment, steps relative to the size of the weights.

Shazeer & Stern 2018 (arXiv 1804.04235), Alg. 4 with T5's settings. Tensors of one shape are updated together, so
that a step costs a few operations per *shape* instead of dozens per tensor, and no value is read back from the
device. Shapes: G tensors of one shape [..., R, C].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline_steps.errors import StoreMismatch


# T5 operative_config.gin and Shazeer & Stern 2018, Alg. 4 and Sec. 9
_GRADIENT_FLOOR = 1e-30  # epsilon 1
_WEIGHT_FLOOR = 1e-3  # epsilon 2: the scale of weights that are near zero
_CLIP = 1.0  # largest root mean square of an update
_DECAY = 0.8  # second moments decay with 1 - t^-0.8
MIN_FACTORED = 128  # mesh optimize.py: a matrix with a smaller side keeps its full second moment
WARMUP_STEPS = 10_000  # Raffel et al. 2020, Sec. 3.1.2


def learning_rate(step: int, warmup_steps: int = WARMUP_STEPS) -> float:
    """1 / sqrt(max(step, k)): constant for k steps, then falling (Raffel et al. 2020, Sec. 3.1.2)."""
    return max(step, warmup_steps) ** -0.5


class Adafactor:
    """Updates parameters in place from their gradients.

    Its state is two float32 tensors (rows, columns) per factored matrix and one per other tensor.

    Args:
        parameters: names and parameters; the names are the state's.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._groups: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters:
            self._groups.setdefault(tuple(parameter.shape), []).append((name, parameter))
        self._state: dict[tuple[int, ...], tuple[Tensor, ...]] = {}
        for shape, group in self._groups.items():
            stacked = (len(group), *shape)
            full = [stacked[:-1], (*stacked[:-2], stacked[-1])] if _is_factored(shape) else [stacked]
            self._state[shape] = tuple(torch.zeros(size, device=group[0][1].device) for size in full)

    @torch.no_grad()
    def step(self, step: int, rate: float) -> None:
        """Make step number `step` (the first is 1) at a relative learning rate."""
        decay = 1.0 - step**-_DECAY
        for shape, group in self._groups.items():
            weights: list[Tensor] = [parameter for _, parameter in group]
            gradient = torch.stack([weight.grad for weight in weights if weight.grad is not None]).float()
            update = _preconditioned(gradient, self._state[shape], decay)
            update /= (_rms(update) / _CLIP).clamp_(min=1.0)
            scale = _rms(torch.stack(weights).float()).clamp_(min=_WEIGHT_FLOOR)
            torch._foreach_sub_(weights, (update * (scale * rate)).unbind())

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self._groups.values():
            for _, parameter in group:
                parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """The state by parameter name, ready for safetensors."""
        return {
            f"{name}.{part}": moments[index].contiguous().clone()
            for shape, group in self._groups.items()
            for part, moments in enumerate(self._state[shape])
            for index, (name, _) in enumerate(group)
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state written by `state_dict`. Raises StoreMismatch if it is of another model."""
        expected = self.state_dict()
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in expected.items()}:
            differing = sorted(state.keys() ^ expected.keys()) or ["shapes"]
            raise StoreMismatch(f"the optimizer state is of another model ({differing[0]}): use its own preset")
        for shape, group in self._groups.items():
            for part, moments in enumerate(self._state[shape]):
                for index, (name, _) in enumerate(group):
                    moments[index].copy_(state[f"{name}.{part}"])


def _is_factored(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) >= MIN_FACTORED


def _preconditioned(gradient: Tensor, state: tuple[Tensor, ...], decay: float) -> Tensor:
    """Gradients [G, ...] over the root of their running second moment, which is updated."""
    square = gradient.square().add_(_GRADIENT_FLOOR)
    if len(state) == 1:
        state[0].lerp_(square, 1.0 - decay)
        return gradient * state[0].rsqrt()
    row, column = state
    row.lerp_(square.mean(dim=-1), 1.0 - decay)
    column.lerp_(square.mean(dim=-2), 1.0 - decay)
    relative = (row / row.mean(dim=-1, keepdim=True)).rsqrt()
    return gradient * relative.unsqueeze(-1) * column.rsqrt().unsqueeze(-2)


def _rms(stacked: Tensor) -> Tensor:
    """Root mean square of each of G tensors, with dimensions that broadcast against them."""
    return stacked.square().mean(dim=tuple(range(1, stacked.ndim)), keepdim=True).sqrt()
