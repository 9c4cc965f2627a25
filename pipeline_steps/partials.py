"""Partial results of a distributed sum: one file per task, added up when all tasks of a run have written theirs."""

from __future__ import annotations

from typing import Any

import fsspec
import numpy as np

from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.files import load_tensors, save_tensors


def write_partial(
    folder: str, rank: int, world_size: int, tensors: dict[str, np.ndarray], header: dict[str, Any]
) -> None:
    """Write a task's part, atomically."""
    save_tensors(f"{folder}/partials/{world_size}/{rank:05d}.safetensors", tensors, header)


def complete_partials(folder: str) -> list[list[str]]:
    """The files of each run whose tasks have all written theirs.

    Raises:
        StoreIncomplete: there is none.
    """
    fs, root = fsspec.core.url_to_fs(f"{folder}/partials", use_listings_cache=False)
    sizes = sorted(int(name.rsplit("/", 1)[-1]) for name in fs.glob(f"{root}/*"))
    complete = [size for size in sizes if len(fs.glob(f"{root}/{size}/*.safetensors")) == size]
    if not complete:
        raise StoreIncomplete(f"{folder} has no complete set of partial results: run all tasks of its step")
    return [[f"{folder}/partials/{size}/{rank:05d}.safetensors" for rank in range(size)] for size in complete]


def add_up(folder: str, tensor: str, same: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The sum of one integer tensor over a run's parts, and the parts' header, of which whole numbers are added.

    Raises:
        StoreIncomplete: see `complete_partials`.
        StoreMismatch: the parts' headers do not agree in the entry `same`, or two runs come to different sums.
    """
    totals = [_sum(names, tensor, same) for names in complete_partials(folder)]
    for total, _ in totals[1:]:
        if not np.array_equal(total, totals[0][0]):
            raise StoreMismatch(
                f"{folder}/partials holds runs of different numbers of tasks that saw different documents: delete the "
                "folder of the older one"
            )
    return totals[0]


def _sum(names: list[str], tensor: str, same: str) -> tuple[np.ndarray, dict[str, Any]]:
    tensors, merged = load_tensors(names[0])
    total = tensors[tensor]
    for name in names[1:]:
        tensors, header = load_tensors(name)
        if header[same] != merged[same]:
            raise StoreMismatch(f"{name} and {names[0]} were made with other settings: run the step again")
        total = total + tensors[tensor]
        merged |= {key: merged[key] + value for key, value in header.items() if isinstance(value, int)}
    return total, merged
