"""Span-corruption perplexity: the training objective on held-out text, with the same masks for every model.

Windows and masks are `train.held_out`'s, the same for every model. All windows have equally many targets, so the mean
over windows is the mean over tokens, and windows are the units of the bootstrap.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluate_suite.bootstrap import perplexity_interval
from evaluate_suite.results import ResultRow
from pipeline_steps import __version__
from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.files import load_tensors, read_json, save_tensors
from train.held_out import HeldOutRows
from train.token_store import TokenStore


_BATCH_TOKENS = 4096  # encoder positions in one forward pass: stays in a CPU's cache


@dataclass(frozen=True)
class HeldOut:
    """A split to measure on.

    Attributes:
        task: name in the results, e.g. "in_distribution".
        tokens: folder of its token store.
        max_windows: measure on this many windows at most, evenly spaced over the split.
        seed: of the masks.
    """

    task: str
    tokens: str
    max_windows: int = 256
    seed: int = 0


def evaluate_run(run_dir: Path, sampler: str, splits: list[HeldOut], cache: Path) -> list[ResultRow]:
    """Rows of every checkpoint of a training run on every split; measured once, then read from `cache`.

    Raises:
        StoreIncomplete: the run has no checkpoint.
        StoreMismatch: a split was tokenised with another tokenizer than the model's.
    """
    checkpoints = sorted((run_dir / "checkpoints").glob("step-*/state.json"))
    if not checkpoints:
        raise StoreIncomplete(f"{run_dir} has no checkpoint: train it first")
    input_length = read_json(f"{run_dir}/resolved.json")["input_length"]
    rows = []
    for state_file in tqdm(checkpoints, desc=sampler, unit="checkpoint", disable=not sys.stderr.isatty()):
        for split in splits:
            nll_N = window_losses(state_file.parent, split, input_length, cache / sampler)
            rows.append(_row(sampler, read_json(str(state_file)), split.task, nll_N))
    return rows


def window_losses(checkpoint: Path, split: HeldOut, input_length: int, cache: Path) -> np.ndarray:
    """Mean NLL of the targets of each window, in nats, float64 [N]; from the cache if it was measured before."""
    store = TokenStore.open(split.tokens)
    state = read_json(f"{checkpoint}/state.json")
    made = {
        "weights": state["xxh3"]["model.safetensors"],
        "corpus_digest": store.corpus_digest,
        "input_length": input_length,
        "split": {name: value for name, value in asdict(split).items() if name != "tokens"},
    }
    file = cache / f"{checkpoint.name}-{split.task}.safetensors"
    if file.exists():
        tensors, header = load_tensors(str(file))
        if header == made:
            return tensors["nll"]
    nll_N = _measure(checkpoint, split, state, input_length)
    save_tensors(str(file), {"nll": nll_N}, made)
    return nll_N


def _measure(checkpoint: Path, split: HeldOut, state: dict[str, Any], input_length: int) -> np.ndarray:
    import torch

    from train.checkpoints import load_checkpoint
    from train.losses import TokenLosses

    rows = HeldOutRows.open(
        split.tokens, state["preset"], input_length, split.max_windows, split.seed, state["hashes"]["tokenizer"]
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = TokenLosses(load_checkpoint(checkpoint)[0].to(device))
    losses = []
    for part in np.array_split(rows.window_N, -(-len(rows.window_N) * input_length // _BATCH_TOKENS)):
        inputs, targets = (torch.from_numpy(array).long().to(device) for array in rows.rows(part))
        losses.append(model.by_token(inputs, targets).double().mean(dim=1).cpu().numpy())
    return np.concatenate(losses)


def _row(sampler: str, state: dict[str, Any], task: str, nll_N: np.ndarray) -> ResultRow:
    perplexity = perplexity_interval(nll_N)
    return ResultRow(
        sampler=sampler,
        rate=state["selected_documents"] / state["corpus_documents"],
        model=state["preset"],
        seed=state["seed"],
        step=state["step"],
        encoder_tokens=state["encoder_tokens"],
        epoch=state["epoch"],
        task=task,
        metric="perplexity",
        value=perplexity.value,
        stderr=perplexity.stderr,
        ci95_low=perplexity.low,
        ci95_high=perplexity.high,
        n=nll_N.size,
        n_shot=0,
        harness_version=f"winnow-llm {__version__}",
    )
