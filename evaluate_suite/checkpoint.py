"""A checkpoint to measure: where it is, and what its rows in the results say of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from evaluate_suite.noise_levels import RECIPE, recipe_number
from evaluate_suite.results import ResultRow
from pipeline_steps import __version__
from pipeline_steps.engines.models import load_config, model_identity
from pipeline_steps.errors import ModelError, StoreIncomplete
from pipeline_steps.stores.files import read_json
from train.run_directory import list_checkpoints, read_rows, step_of


_TOKENIZER = ("tokenizer.json", "spiece.model", "tokenizer.model", "vocab.json")
_HEADS = ("CausalLM", "LMHead", "ConditionalGeneration")  # in the class names of models that predict text
_NORMAL_95 = 1.959964  # of the standard normal distribution, the ends of its middle 95 %
# Metrics of rows of the task "cost", in costs.jsonl
TRAINING_HOURS, SCORING_HOURS = "training_accelerator_hours", "scoring_accelerator_hours"
SELECTED_DOCUMENTS, SELECTED_TOKENS, PARAMETERS = "selected_documents", "selected_tokens", "parameters"

Steps = Literal["all", "last"] | Collection[int]
"""Which checkpoints of a training run are meant."""


@dataclass(frozen=True)
class Checkpoint:
    """One model at one step of its training.

    Attributes:
        sampler: what chose its training documents, or any other name.
        model: folder or Hub id.
        architecture: its preset, or its name.
        state: of a checkpoint of `train.pretrain`; empty for other models.
        weights: checksum of the weights; of other models, their digest or commit.
        name: of its folder in caches.
        revision: of a Hub id, if it was given.
    """

    sampler: str
    model: str
    architecture: str
    state: dict[str, Any]
    weights: str
    name: str
    revision: str | None = None

    def tuned(self, folder: Path) -> Checkpoint:
        """What became of it in fine-tuning: other weights, the same rows."""
        weights = _weights(read_json(f"{folder}/state.json"))
        return replace(
            self,
            model=str(folder),
            weights=weights,
            name=f"{self.name}/{folder.parent.parent.name}/measured/{folder.name}",
            revision=None,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What pins its weights down."""
        return {"weights": self.weights}

    @property
    def rate(self) -> float:
        """The share of the documents that was asked for, or the exact share kept where an amount was asked for."""
        if not self.state:
            return 1.0
        asked = (self.state.get("cut") or {}).get("rate")
        return float(self.state["selected_documents"] / self.state["corpus_documents"] if asked is None else asked)

    def row(self, task: str, metric: str, estimate: tuple[float, float, int], shots: int, harness: str) -> ResultRow:
        """A row of the results, from value, standard error and number of units; the interval is the normal one."""
        value, stderr, n = estimate
        state = self.state
        return ResultRow(
            sampler=self.sampler,
            rate=self.rate,
            model=self.architecture,
            seed=state.get("seed", 0),
            step=state.get("step", 0),
            encoder_tokens=state.get("encoder_tokens", 0),
            epoch=state.get("epoch", 0.0),
            task=task,
            metric=metric,
            value=value,
            stderr=stderr,
            ci95_low=value - _NORMAL_95 * stderr,
            ci95_high=value + _NORMAL_95 * stderr,
            n=n,
            n_shot=shots,
            harness_version=harness,
        )


def cost_rows(checkpoint: Checkpoint) -> list[ResultRow]:
    """Return what a checkpoint has cost and was trained on; no rows for models that `train.pretrain` has not made.

    These are accelerator hours up to the checkpoint, from the metrics.jsonl of its run, the documents and tokens of
    its selection, its size, and the number of its settings (`noise_levels.recipe_number`).
    """
    run_dir = Path(checkpoint.model).parent.parent
    if not checkpoint.state or not (run_dir / "metrics.jsonl").exists():
        return []
    rows = [row for row in read_rows(run_dir / "metrics.jsonl") if row["step"] <= checkpoint.state["step"]]
    hours = sum(row["seconds"] * row.get("processes", 1) for row in rows) / 3600
    noted = [name for name in (SELECTED_DOCUMENTS, SELECTED_TOKENS, PARAMETERS) if name in checkpoint.state]
    found = {TRAINING_HOURS: hours, RECIPE: recipe_number(read_json(f"{run_dir}/resolved.json"))}
    found |= {name: checkpoint.state[name] for name in noted}
    return [
        checkpoint.row("cost", metric, (float(value), 0.0, 1), 0, f"winnow-llm {__version__}")
        for metric, value in found.items()
    ]


def find_checkpoints(sampler: str, where: str, steps: Steps = "all") -> list[Checkpoint]:
    """Return the checkpoints of a training run, by step; or a single one, or any other model.

    Args:
        sampler: its name in the results.
        where: run directory, checkpoint, model folder, or Hub id with or without @REVISION.
        steps: which of a run's checkpoints.

    Raises:
        StoreIncomplete: a run directory has no checkpoint, or none of a step.
        ModelError: there is no such model, or it has no tokenizer.
    """
    folder = Path(where)
    if (folder / "resolved.json").exists() or (folder / "checkpoints").exists():
        found = list_checkpoints(folder)
        if not found:
            raise StoreIncomplete(f"{where} has no checkpoint: train it first")
        if not isinstance(steps, str):
            known = {step_of(one): one for one in found}
            if missing := sorted(set(steps) - known.keys()):
                raise StoreIncomplete(f"{where} has no checkpoint of step {missing[0]:,}: it has {_listed(known)}")
            found = [known[step] for step in sorted(steps)]
        return [_open(sampler, str(one)) for one in (found[-1:] if steps == "last" else found)]
    return [_open(sampler, where)]


def _listed(steps: Collection[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps)


def is_causal(model: str, revision: str | None = None) -> bool:
    """Return whether a model is decoder-only, and not an encoder-decoder.

    Raises:
        ModelError: the model does not write text, or its configuration cannot be read.
    """
    config = load_config(model, revision)
    architectures = config.architectures or ["CausalLM"]
    if not any(head in one for one in architectures for head in _HEADS):
        raise ModelError(
            f"{model} is a {architectures[0]}, which does not write text: give a T5 or a decoder-only model"
        )
    return not config.is_encoder_decoder


def _open(sampler: str, where: str) -> Checkpoint:
    folder = Path(where)
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER):
        raise ModelError(
            f"{where} has no tokenizer ({' or '.join(_TOKENIZER)}): copy that of its training into the folder"
        )
    state = read_json(f"{where}/state.json") if (folder / "state.json").exists() else {}
    if "corpus_documents" in state:  # of pre-training; a fine-tuned one is a model like any other
        name = state.get("model", state["preset"])  # which older ones do not say
        return Checkpoint(sampler, where, name, state, _weights(state), folder.name)
    model, _, revision = (where, "", "") if folder.is_dir() else where.partition("@")
    if revision and Path(model).is_dir():
        raise ModelError(f"{where}: the folder {model} has no revisions: give it without @, or a checkpoint's folder")
    identity = model_identity(model, revision or None)
    weights, name = identity.get("digest") or identity["revision"], where if revision else identity["model"]
    return Checkpoint(sampler, model, name, {}, weights, name.replace("/", "--"), revision or None)


def _weights(state: dict[str, Any]) -> str:
    """Return the digest of a checkpoint's weights."""
    return str(state["files"]["model.safetensors"])


def harness_version() -> str:
    """Of this project and of lm-eval."""
    return f"winnow-llm {__version__}, lm-eval {version('lm_eval')}"
