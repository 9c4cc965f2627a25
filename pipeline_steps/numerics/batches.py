"""Batches of rows of like length: padding is work for nothing."""

from __future__ import annotations

from collections.abc import Sequence


def batches_by_length(lengths: Sequence[int], padded_tokens: int) -> list[list[int]]:
    """Row numbers by falling length, cut into batches of at most `padded_tokens`, padding included.

    A row longer than that is a batch of its own. Sort within a window only: then what is batched together, hence
    every last bit of a result, does not depend on the number of tasks.
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > padded_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches
