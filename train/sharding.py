"""FSDP2: parameters cut by rows among processes, and whole tensors; nothing happens to any other tensor."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


def shard(module: nn.Module, model: Any) -> nn.Module:
    """Cut the parameters of a module among all processes: each layer of its language model, then the rest."""
    layers = [layer for layer in model.modules() if type(layer).__name__ in (model._no_split_modules or ())]
    # A T5 block returns its position bias, a view, on which nobody works in place
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    for layer in layers:
        fully_shard(layer)
    fully_shard(module)
    return module


def own_rows(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of all rows; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(full: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor, or this process's rows of it where those of `parameter` are cut; on its device."""
    if not isinstance(parameter, DTensor):
        return full.to(parameter.device)
    return distribute_tensor(
        full.to(parameter.device), parameter.device_mesh, [Shard(0)], src_data_rank=None
    ).to_local()


def joined_like(rows: Tensor, shape: tuple[int, ...], parameter: Tensor) -> Tensor:
    """Join every process's rows to a tensor of `shape`: the inverse of `cut_like`."""
    if not isinstance(parameter, DTensor):
        return rows
    stride = torch.empty(shape, device="meta").stride()
    cut = DTensor.from_local(rows, parameter.device_mesh, [Shard(0)], shape=torch.Size(shape), stride=stride)
    return cut.full_tensor()


def sum_over_rows(partial: Tensor, parameter: Tensor) -> Tensor:
    """Add up, in place, what the processes that share the rows of `parameter` have summed over their own."""
    if isinstance(parameter, DTensor):
        torch.distributed.all_reduce(partial, group=parameter.device_mesh.get_group())
    return partial
