"""The training loss on held-out text, with the same masks for every model.

A split is its documents one after the other, cut into windows as in training; what is left at the end is not used.
The mask of a window is a function of (seed, window), so models are compared on the very same targets, sentinels and
EOS included, as T5's own loss counts them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_steps.errors import InvalidCut, StoreMismatch
from train.objectives import Objective, make_objective
from train.token_store import TokenStore


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """The windows of a split, and how they become rows.

    Attributes:
        store: the split's tokens.
        objective: objective of the models that are measured.
        window_N: int64 [N], evenly spaced.
        seed: seed of the masks.
    """

    store: TokenStore
    objective: Objective
    window_N: np.ndarray
    seed: int

    @classmethod
    def open(
        cls, tokens: str, preset: str, input_length: int, most: int, seed: int, tokenizer: str, apart: bool = False
    ) -> HeldOutRows:
        """Open at most `most` windows of a token store, whose documents can be told apart if `apart`.

        Raises:
            StoreMismatch: it was tokenised with another tokenizer than the one of this sha256, or its documents
                cannot be told apart.
            InvalidCut: it holds less than two windows.
        """
        store = TokenStore.open(tokens)
        if store.tokenizer_sha256 != tokenizer:
            raise StoreMismatch(f"{tokens} was tokenised with another tokenizer than the model's: tokenise it anew")
        if apart:
            store.check_borders()
        objective = make_objective(preset, input_length, store.vocab_size, store.sentinels, store.eos)
        windows = store.tokens // objective.raw_length
        if windows < 2:
            raise InvalidCut(
                f"{tokens} holds {store.tokens:,} tokens, less than two windows of {objective.raw_length}: hold out "
                "more text"
            )
        count = min(windows, most)
        return cls(store, objective, np.arange(count) * windows // count, seed)

    def rows(self, window_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets int32 of some windows."""
        raw = np.empty((len(window_B), self.objective.raw_length), dtype=np.int32)
        for row, window in zip(raw, window_B.tolist(), strict=True):
            self.store.copy(window * self.objective.raw_length, row)
        return self.objective.rows(raw, window_B, self.seed)


@dataclass(frozen=True, eq=False)
class HeldOutLosses:
    """The perplexity of splits along the way, measured by all processes together.

    Attributes:
        splits: splits by name.
        micro_batch_size: rows in a forward pass of a process; 0: its share of a training batch.
        batch_size: rows of a training step.
    """

    splits: dict[str, HeldOutRows]
    micro_batch_size: int
    batch_size: int

    def __bool__(self) -> bool:
        """Return whether there are splits."""
        return bool(self.splits)

    def __call__(self, model: Any, accelerator: Any) -> list[dict[str, Any]]:
        """Return a row for each split; every process must call it."""
        return [self._measure(name, split, model, accelerator) for name, split in self.splits.items()]

    def _measure(self, name: str, split: HeldOutRows, model: Any, accelerator: Any) -> dict[str, Any]:
        import torch

        from train.batches import shares

        world, count = accelerator.num_processes, len(split.window_N)
        most = self.micro_batch_size or -(-self.batch_size // world)
        sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        for windows in shares(split.window_N, world, accelerator.process_index, most):
            shown = windows if len(windows) else split.window_N[:1]
            inputs, targets = (torch.from_numpy(a).long().to(accelerator.device) for a in split.rows(shown))
            with torch.no_grad(), accelerator.autocast():
                sums += model(inputs, targets)[1] * (len(windows) > 0)
        nll = accelerator.reduce(sums, "sum")[0].item() / (count * split.objective.target_length)
        return {"split": name, "nll": nll, "perplexity": math.exp(nll), "windows": count}
