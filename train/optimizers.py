"""Optimizers by name.

T5's Adafactor has factored second moments, no first moment, and steps relative to the size of the weights: Shazeer &
Stern 2018 (arXiv 1804.04235), Alg. 4 with T5's settings. Tensors of one shape are updated together, so that a step
costs a few operations per *shape* instead of dozens per tensor, and no value is read back from the device.
Shapes: G tensors of one shape [..., R, C].
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Tensor, nn

from pipeline_steps.errors import ModelError, StoreMismatch
from train.sharding import cut_like, joined_like, own_rows, sum_over_rows, whole
from train.training_plan import OptimizerSettings


# T5 operative_config.gin and Shazeer & Stern 2018, Alg. 4 and Sec. 9
_GRADIENT_FLOOR = 1e-30  # epsilon 1
_WEIGHT_FLOOR = 1e-3  # epsilon 2: the scale of weights that are near zero
_CLIP = 1.0  # largest root mean square of an update
_DECAY = 0.8  # second moments decay with 1 - t^-0.8
MIN_FACTORED = 128  # mesh optimize.py: a matrix with a smaller side keeps its full second moment
# Most values updated together: a few MB stay in a CPU's cache (a step of T5-Small 49 ms; 85 without a limit); on a
# GPU, what is stacked must stay small beside the model
_TOGETHER = {"cpu": 1 << 20}
_TOGETHER_ELSEWHERE = 1 << 26
# What transformers calls the modules of a T5 and of the Llama family that are looked up by token
_EMBEDDINGS = {"shared", "embed_tokens"}
_NOT_HIDDEN = _EMBEDDINGS | {"lm_head", "relative_attention_bias"}
_USUAL = OptimizerSettings()


@dataclass(frozen=True)
class _Group:
    """Parameters of one shape, and their state; of sharded ones (FSDP2), this process's rows."""

    names: list[str]
    parameters: list[nn.Parameter]
    moments: tuple[Tensor, ...]

    def take_gradients(self) -> Tensor:
        """Return float32 [G, ...]; a single gradient is returned as it lies, and used up."""
        gradients = [own_rows(parameter.grad) for parameter in self.parameters if parameter.grad is not None]
        return (gradients[0].unsqueeze(0) if len(gradients) == 1 else torch.stack(gradients)).float()

    def sum(self, partial: Tensor) -> Tensor:
        """Add up `partial` over the processes that share the rows of these parameters."""
        return sum_over_rows(partial, self.parameters[0])


class Adafactor:
    """T5's Adafactor, which updates parameters in place from their gradients and uses these up.

    Its state is two float32 tensors (rows, columns) per factored matrix and one per other tensor.

    Args:
        parameters: names and parameters; the names are the state's. FSDP2's sharded parameters too.
        settings: of the other optimizers: T5's Adafactor has none.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings = _USUAL) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in parameters:
            by_shape.setdefault(tuple(parameter.shape), []).append((name, parameter))
        self._groups = [_make_group(chunk) for members in by_shape.values() for chunk in _chunks(members)]

    @torch.no_grad()
    def step(self, step: int, rate: float) -> None:
        """Make step number `step` (the first is 1) at a relative learning rate."""
        decay = 1.0 - step**-_DECAY
        for group in self._groups:
            weights, size = [own_rows(weight) for weight in group.parameters], group.parameters[0].numel()
            update = _precondition(group, group.take_gradients(), decay)
            clip = _CLIP / _rms(group, update, size).clamp_(min=_CLIP)
            stacked = weights[0].unsqueeze(0) if len(weights) == 1 else torch.stack(weights)
            scale = _rms(group, stacked, size).clamp_(min=_WEIGHT_FLOOR)
            update *= clip * scale * rate
            torch._foreach_sub_(weights, list(update.unbind()))

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self._groups:
            for parameter in group.parameters:
                parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Return the whole state by parameter name; all processes of a sharded model must call it."""
        return {
            f"{name}.{part}": (
                moment if part == 1 else joined_like(moment, _state_shapes(parameter.shape)[0], parameter)
            ).clone()
            for name, part, moment, parameter in self._entries()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state written by `state_dict`. Raises StoreMismatch if it is of another model."""
        shapes = {
            f"{name}.{part}": _state_shapes(parameter.shape)[part] for name, part, _, parameter in self._entries()
        }
        _refuse_another(state, shapes)
        for name, part, moment, parameter in self._entries():
            full = state[f"{name}.{part}"]
            moment.copy_(full if part == 1 else cut_like(full, parameter))

    def _entries(self) -> Iterator[tuple[str, int, Tensor, nn.Parameter]]:
        """Yield the name, number and parameter of every moment: number 0 is of rows or full, 1 of columns."""
        for group in self._groups:
            for part, moments in enumerate(group.moments):
                yield from zip(group.names, repeat(part), moments, group.parameters)


class AdamW:
    """torch's fused AdamW.

    Args:
        parameters: names and parameters; the names are the state's.
        settings: moments and weight decay.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings = _USUAL) -> None:
        self._named = list(parameters)
        decaying: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, weight in self._named:
            decaying[_decays(name, weight, settings)].append(weight)
        groups = [
            {"params": decaying[True], "weight_decay": settings.weight_decay},
            {"params": decaying[False], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            fused=True,
        )
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
        """Return first and second moments by parameter name; all processes of a sharded model must call it."""
        return {
            f"{name}.{part}": whole(self._adamw.state[weight][moment]).clone()
            for name, weight in self._named
            for part, moment in enumerate(("exp_avg", "exp_avg_sq"))
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state written by `state_dict`. Raises StoreMismatch if it is of another model."""
        expected = {f"{name}.{part}": tuple(weight.shape) for name, weight in self._named for part in (0, 1)}
        _refuse_another(state, expected)
        for name, weight in self._named:
            for part, moment in enumerate(("exp_avg", "exp_avg_sq")):
                own = self._adamw.state[weight][moment]
                own_rows(own).copy_(cut_like(state[f"{name}.{part}"], own))


class Muon:
    """torch's Muon for the matrices of the hidden layers, and AdamW for all other parameters.

    Muon (Jordan 2024, kellerjordan.github.io/posts/muon) keeps a running mean of the gradient and makes it nearly
    orthogonal by five Newton-Schulz steps, in bfloat16 whatever the model's precision. Embeddings, the output layer,
    norms and biases are no maps between hidden states. The rate of a matrix [R, C] is scaled by 0.2 sqrt(max(R, C)),
    so that AdamW's rates can be kept (Liu et al. 2025, arXiv 2502.16982, Sec. 2.2), or, with `muon_adjust_lr_fn`
    "original", by sqrt(max(1, R / C)).

    Args:
        parameters: names and parameters; the names are the state's. Whole ones: a shard of a matrix is no matrix.
        settings: scale of the rate and weight decay, and AdamW's settings.

    Raises:
        ModelError: torch is older than 2.9.
    """

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], settings: OptimizerSettings = _USUAL) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ModelError(f"muon needs torch 2.9 or newer, not {torch.__version__}: install it, or choose adamw")
        named = list(parameters)
        self._hidden = {name: weight for name, weight in named if is_hidden_matrix(name, weight)}
        self._others = AdamW([(name, weight) for name, weight in named if name not in self._hidden], settings)
        self._muon = torch.optim.Muon(
            self._hidden.values(), weight_decay=settings.weight_decay, adjust_lr_fn=settings.muon_adjust_lr_fn
        )
        for weight in self._hidden.values():
            self._muon.state[weight] = {"momentum_buffer": torch.zeros_like(weight)}

    def step(self, step: int, rate: float) -> None:
        """Make step number `step` (the first is 1)."""
        for group in self._muon.param_groups:
            group["lr"] = rate
        self._muon.step()  # type: ignore[no-untyped-call]
        self._others.step(step, rate)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._muon.zero_grad()
        self._others.zero_grad()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the mean gradients of hidden matrices, and AdamW's moments of the others, by parameter name."""
        means = {name: self._muon.state[weight]["momentum_buffer"] for name, weight in self._hidden.items()}
        return {f"{name}.0": mean.clone() for name, mean in means.items()} | self._others.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state written by `state_dict`. Raises StoreMismatch if it is of another model."""
        own = {f"{name}.0": weight for name, weight in self._hidden.items()}
        means = {key: mean for key, mean in state.items() if key in own}
        _refuse_another(means, {key: tuple(weight.shape) for key, weight in own.items()})
        self._others.load_state_dict({key: moment for key, moment in state.items() if key not in own})
        for key, weight in own.items():
            self._muon.state[weight]["momentum_buffer"].copy_(means[key])


def is_hidden_matrix(name: str, weight: nn.Parameter) -> bool:
    """Return whether a parameter of a T5 or of the Llama family maps hidden states to hidden states."""
    return weight.ndim == 2 and _module_of(name) not in _NOT_HIDDEN


def _decays(name: str, weight: nn.Parameter, settings: OptimizerSettings) -> bool:
    if weight.ndim < 2:
        return settings.decay_norms
    return settings.decay_embeddings or _module_of(name) not in _EMBEDDINGS


def _module_of(name: str) -> str:
    """Return the last module of a parameter's name: q_proj of layers.0.self_attn.q_proj.weight."""
    return name.rpartition(".")[0].rpartition(".")[2]


def _refuse_another(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if {name: tuple(value.shape) for name, value in state.items()} != shapes:
        differing = sorted(state.keys() ^ shapes.keys()) or ["shapes"]
        raise StoreMismatch(f"the optimizer state is of another model ({differing[0]}): use its own preset")


def _together(tensor: Tensor) -> int:
    return _TOGETHER.get(tensor.device.type, _TOGETHER_ELSEWHERE)


def _chunks(members: list[tuple[str, nn.Parameter]]) -> Iterator[list[tuple[str, nn.Parameter]]]:
    parameter = members[0][1]
    count = max(1, _together(parameter) // max(1, parameter.numel()))
    for start in range(0, len(members), count):
        yield members[start : start + count]


def _make_group(members: list[tuple[str, nn.Parameter]]) -> _Group:
    names, parameters = [name for name, _ in members], [parameter for _, parameter in members]
    local, full = own_rows(parameters[0]), parameters[0].shape
    factored = len(_state_shapes(full)) == 2
    shapes = [local.shape[:-1], (*local.shape[:-2], full[-1])] if factored else [local.shape]
    moments = tuple(torch.zeros((len(members), *shape), device=local.device) for shape in shapes)
    return _Group(names, parameters, moments)


def _state_shapes(shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of a parameter's second moment: of rows and of columns, or of all of it."""
    if len(shape) >= 2 and min(shape[-2:]) >= MIN_FACTORED:
        return [tuple(shape[:-1]), (*shape[:-2], shape[-1])]
    return [tuple(shape)]


def _precondition(group: _Group, gradient: Tensor, decay: float) -> Tensor:
    """Divide gradients [G, ...], in place, by the root of their running second moment, which is updated."""
    if len(group.moments) == 1:
        (moment,) = group.moments
        moment.lerp_(gradient.square().add_(_GRADIENT_FLOOR), 1.0 - decay)
        return gradient.mul_(moment.rsqrt())
    row, column = group.moments
    rows, columns = group.parameters[0].shape[-2:]
    row.lerp_(_square_sum(gradient, -1).div_(columns).add_(_GRADIENT_FLOOR), 1.0 - decay)
    column.lerp_(group.sum(_column_square_sum(gradient)).div_(rows).add_(_GRADIENT_FLOOR), 1.0 - decay)
    mean = group.sum(row.sum(dim=-1, keepdim=True)).div_(rows)
    gradient *= (row / mean).rsqrt_().unsqueeze(-1)
    gradient *= column.rsqrt().unsqueeze(-2)
    return gradient


def _square_sum(stacked: Tensor, dim: int) -> Tensor:
    """Sum squares over a dimension, without an array of squares."""
    return torch.linalg.vector_norm(stacked, dim=dim).square_()


def _column_square_sum(stacked: Tensor) -> Tensor:
    """Sum squares over dimension -2, some rows at a time: `vector_norm` is slow across rows on a CPU."""
    rows = max(1, _together(stacked) * stacked.shape[-2] // stacked.numel())
    pieces = [piece.square().sum(dim=-2) for piece in torch.split(stacked, rows, dim=-2)]
    return pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(dim=0)


def _rms(group: _Group, stacked: Tensor, size: int) -> Tensor:
    """Return the root mean square of each of G tensors of `size` values, with dimensions that broadcast."""
    squares = group.sum(_square_sum(stacked.float().flatten(1), 1))
    return squares.div_(size).sqrt_().view(-1, *[1] * (stacked.ndim - 1))


OPTIMIZERS: dict[str, type[Adafactor] | type[AdamW] | type[Muon]] = {
    "adafactor": Adafactor,
    "adamw": AdamW,
    "muon": Muon,
}
