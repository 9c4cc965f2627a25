"""The perplexity of the training objective on held-out text: span corruption for a T5, the next token for a Llama.

Windows and masks are `train.held_out`'s, the same for every model. All windows have equally many targets, so the mean
over windows is the mean over tokens, and windows are the units of the bootstrap. A split of several sources, such as
the paper's high-quality text (v1 App. C.2), counts them alike and is reported by source too.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluate_suite.bootstrap import perplexity_interval
from evaluate_suite.checkpoint import Checkpoint, find_checkpoints
from evaluate_suite.results import ResultRow
from evaluate_suite.units import once, unit_file
from pipeline_steps import __version__
from pipeline_steps.errors import InvalidCut, StoreIncomplete
from pipeline_steps.stores.files import read_json
from train.held_out import HeldOutRows
from train.run_directory import list_checkpoints
from train.token_store import TokenStore


_BATCH_TOKENS = {"cpu": 4096}  # encoder positions in one forward pass: stays in a CPU's cache
_BATCH_TOKENS_ELSEWHERE = 131_072


@dataclass(frozen=True)
class HeldOut:
    """A split to measure on.

    Attributes:
        task: name in the results, e.g. "in_distribution".
        tokens: folder of its token store; of several, separated by commas, their folders' names are the sources.
        max_windows: measure on this many windows at most, evenly spaced over the split.
        seed: seed of the masks.
    """

    task: str
    tokens: str
    max_windows: int = 256
    seed: int = 0

    @property
    def sources(self) -> list[HeldOut]:
        """Return a split for each store, of equally many windows."""
        folders = self.tokens.split(",")
        if len(folders) == 1:
            return [self]
        names = [Path(one).name for one in folders]
        if len(set(names)) < len(names):
            raise InvalidCut(f"{self.task} has two sources of one name ({', '.join(names)}): rename a folder")
        most = max(self.max_windows // len(folders), 1)
        return [replace(self, task=f"{self.task}/{Path(one).name}", tokens=one, max_windows=most) for one in folders]


def trained_checkpoints(sampler: str, run_dir: str) -> list[Checkpoint]:
    """Return all checkpoints of a training run.

    Raises:
        StoreIncomplete: the run has no checkpoint.
    """
    if not list_checkpoints(Path(run_dir)):
        raise StoreIncomplete(f"{run_dir} has no checkpoint: train it first")
    return find_checkpoints(sampler, run_dir)


def perplexity_rows(checkpoint: Checkpoint, split: HeldOut, cache: Path) -> list[ResultRow]:
    """Return the row of a checkpoint on a split, and those of the split's sources if there are several.

    Raises:
        StoreMismatch: a store was tokenised with another tokenizer than the model's.
    """
    run_dir = Path(checkpoint.model).parent.parent
    input_length = read_json(f"{run_dir}/resolved.json")["input_length"]
    losses = [window_losses(checkpoint, one, input_length, cache) for one in split.sources]
    rows = [_row(checkpoint, split.task, np.concatenate(_of_one_length(losses)))]
    if len(losses) > 1:
        rows += [_row(checkpoint, one.task, nll) for one, nll in zip(split.sources, losses, strict=True)]
    return rows


def window_losses(checkpoint: Checkpoint, split: HeldOut, input_length: int, cache: Path) -> np.ndarray:
    """Return the mean NLL of the targets of each window, in nats, float64 [N]; from the cache if it is there."""
    made = checkpoint.identity | {
        "corpus_digest": TokenStore.open(split.tokens).corpus_digest,
        "input_length": input_length,
        "split": {name: value for name, value in asdict(split).items() if name != "tokens"},
    }
    file = unit_file(cache, checkpoint.sampler, checkpoint.name, split.task)
    found = once(file, made, lambda: {"nll": _measure(checkpoint, split, input_length).tolist()})
    return np.array(found["nll"], dtype=np.float64)


def _measure(checkpoint: Checkpoint, split: HeldOut, input_length: int) -> np.ndarray:
    """Compute the mean NLL of the targets of each window of a split with one store, float64 [N]."""
    import torch

    from pipeline_steps.engines.models import pick_device
    from train.checkpoints import load_checkpoint
    from train.layers import prepare_for_training
    from train.losses import TokenLosses

    state = checkpoint.state
    rows = HeldOutRows.open(
        split.tokens,
        state["preset"],
        input_length,
        split.max_windows,
        split.seed,
        state["hashes"]["tokenizer"],
        apart := state.get("mask_documents", False),
    )
    device = pick_device()
    raw = load_checkpoint(Path(checkpoint.model))[0].to(device)
    prepare_for_training(raw, padded=False, apart=apart)
    model = TokenLosses(raw, eos=rows.store.eos if apart else None)
    most = _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ELSEWHERE)
    losses = []
    parts = np.array_split(rows.window_N, -(-len(rows.window_N) * input_length // most))
    for part in tqdm(parts, desc=split.task, unit="batch", leave=False, disable=not sys.stderr.isatty()):
        inputs, targets = (torch.from_numpy(array).long().to(device) for array in rows.rows(part))
        losses.append(model.by_token(inputs, targets).double().mean(dim=1).cpu().numpy())
    return np.concatenate(losses)


def _of_one_length(losses: list[np.ndarray]) -> list[np.ndarray]:
    """Return evenly spaced windows of each source, as many as the shortest has: sources count alike."""
    least = min(map(len, losses))
    return [nll_N[np.arange(least) * len(nll_N) // least] for nll_N in losses]


def _row(checkpoint: Checkpoint, task: str, nll_N: np.ndarray) -> ResultRow:
    perplexity = perplexity_interval(nll_N)
    estimate = perplexity.value, perplexity.stderr, nll_N.size
    row = checkpoint.row(task, "perplexity", estimate, 0, f"winnow-llm {__version__}")
    return replace(row, ci95_low=perplexity.low, ci95_high=perplexity.high)
