"""Pre-train a model on a selection of a tokenised corpus for a fixed number of tokens.

    accelerate launch -m train.pretrain --config t5-small-paper.yaml --tokens TOKENS --run-dir RUN --selection FILE
    accelerate launch -m train.pretrain --tokens TOKENS --run-dir RUN --total-tokens 1048576

Killed at any time and started again, it continues and ends with the same weights; a finished run says so and returns.
Exit code: 0 finished, 2 refused, 75 stopped by SIGTERM or SIGUSR1 after writing a checkpoint (start it again: the
code of a temporary failure), 130 by SIGINT. Launchers change exit codes; RUN/preempted.json is there in both cases.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from pipeline_steps.errors import ModelError, WinnowError
from pipeline_steps.stores.artefact import claim
from pipeline_steps.stores.selection import Selection
from pipeline_steps.terminal import complain, one_line
from train.arguments import FREE, NEWER, PretrainArguments, parse
from train.branches import OF_BRANCH, find_branch_point, refuse_another_trunk
from train.folders import locked
from train.held_out import HeldOutLosses, HeldOutRows
from train.objectives import Objective, make_objective
from train.presets import HUB, is_causal
from train.replay import Replay
from train.run_directory import is_finished, note_preemption, tidy
from train.schedules import Schedule
from train.signals import REQUEUE
from train.token_store import TokenStore, stage
from train.training_plan import Amount, LoopSettings, TokenBudget, TrainingPlan


def main(argv: list[str] | None = None) -> None:
    """Run the command line; exits."""
    try:
        arguments = parse(PretrainArguments, argv, "train.pretrain", str(__doc__))
        note_preemption(Path(arguments.run_dir), None)  # first of all: a job that is refused must not be requeued
        sys.exit(run(PretrainPlan.make(arguments)))
    except (WinnowError, OSError) as error:
        complain(error)
        sys.exit(2)


def run(plan: TrainingPlan) -> int:
    """Start a plan, or continue it, and then its branches; return the exit code."""
    leave: Callable[[], None] | None = None
    stopped = None
    for one in chain([plan], plan.branches()):
        with _opened(one) as finished:
            if finished:
                continue
            from train.loop import Trainer  # seconds to import; mistakes above are told before

            leave, stopped = Trainer.leave, Trainer(one).train()
            if stopped is not None:
                note_preemption(plan.run_dir, stopped)
                break
    if leave is not None:
        leave()
    if stopped is None:
        return 0
    return 128 + stopped if stopped == signal.SIGINT else REQUEUE


@contextmanager
def _opened(plan: TrainingPlan) -> Iterator[bool]:
    """Lock and claim a run's folder; yield whether the run is finished, which is then said."""
    if not plan.run_dir.exists():  # a mistake must not leave a folder behind
        from train.metrics import find_trackers

        find_trackers(plan.loop.report_to)
        plan.open_measurements()
        plan.branch_point()
    # Workers outlive a launcher that is killed: the first of them holds the lock for all
    is_first = int(os.environ.get("RANK", 0)) == 0
    with locked(plan.run_dir, "training run") if is_first else nullcontext():
        claim(f"{plan.run_dir}/resolved.json", plan.resolved, str(plan.run_dir), NEWER)
        if is_first:
            tidy(plan.run_dir)
        finished = is_finished(plan.run_dir, plan.budget.steps)
        news = plan.budget.rounding
        if finished:
            news = f"{plan.run_dir} is finished: {plan.budget.steps:,} steps, {plan.extent}; nothing to do"
        if news and is_first:
            sys.stderr.write(one_line(news) + "\n")
        yield finished


@dataclass(frozen=True, eq=False)
class PretrainPlan:
    """A run of pre-training, resolved.

    Attributes:
        arguments: as given.
        loop: settings of the loop.
        budget: length of the run.
        schedule: learning rate of each step.
        store: the corpus.
        replay: order of the windows.
        objective: how a window becomes a row.
        resolved: all that decides the outcome, as JSON types; another one is refused in the same run directory.
    """

    arguments: PretrainArguments
    loop: LoopSettings
    budget: TokenBudget
    schedule: Schedule
    store: TokenStore
    replay: Replay
    objective: Objective
    resolved: dict[str, Any]

    padded = False

    @classmethod
    def make(cls, arguments: PretrainArguments) -> PretrainPlan:
        """Open the inputs and check that they fit together; raises what its parts raise."""
        if not is_causal(arguments.preset) and arguments.mask_documents:
            raise ModelError(f"{arguments.preset} is no causal model, which mask_documents is for: leave it out")
        budget, loop = arguments.budget, arguments.loop
        store = stage(arguments.tokens, arguments.stage_to)
        objective = make_objective(
            arguments.preset, arguments.input_length, store.vocab_size, store.sentinels, store.eos
        )
        if arguments.mask_documents:
            store.check_borders()
        selection = Selection.load(arguments.selection) if arguments.selection else None
        replay = Replay(store, selection, objective.raw_length, arguments.seed)
        schedule = arguments.schedule_to(budget)
        resolved = {name: value for name, value in asdict(arguments).items() if name not in FREE} | {
            **schedule.decay_settings,
            "total_tokens": budget.total_tokens,
            "mixed_precision": loop.precision,
            "corpus_digest": store.corpus_digest,
            "corpus_documents": store.documents,
            "corpus_tokens": store.tokens,
            "selection_digest": selection and selection.counts_digest,
            "selected_documents": replay.documents,
            "selected_tokens": replay.tokens,
            "cut": selection and selection.cut,
            "tokenizer_sha256": store.tokenizer_sha256,
            "vocab_size": store.vocab_size,
            "steps": budget.steps,
            "windows": replay.windows,
        }
        if arguments.preset.startswith(HUB):
            from train.hub_presets import HubPreset

            by_name = arguments.optimizer == "muon" or not arguments.decay_embeddings
            shape = HubPreset.parse(arguments.preset)
            resolved |= shape.settings(arguments.input_length, arguments.mask_documents, by_name)
        if arguments.branch_from:
            refuse_another_trunk(Path(arguments.branch_from), resolved)
        return cls(arguments, loop, budget, schedule, store, replay, objective, resolved)

    @property
    def run_dir(self) -> Path:
        """The folder where the run writes."""
        return Path(self.arguments.run_dir)

    @property
    def extent(self) -> str:
        """The amount that the run shows, in words."""
        return f"{self.budget.total_tokens:,} tokens"

    @property
    def tokenizer(self) -> Path:
        """The folder of the corpus's tokenizer."""
        return self.store.tokenizer

    @property
    def grid(self) -> list[int]:
        """The steps whose checkpoints are kept."""
        return self.arguments.kept_steps

    @property
    def document_eos(self) -> int | None:
        """The id that each document of a row begins with, where they do not see each other; None where they do."""
        return self.store.eos if self.arguments.mask_documents else None

    @property
    def hashes(self) -> dict[str, str]:
        """Digests of what a checkpoint may be continued with; a wsd run shares all but "branch" with its branches."""
        configuration = {
            name: value
            for name, value in self.resolved.items()
            if not name.endswith(("digest", "sha256")) and (name not in NEWER or value != NEWER[name])
        }
        parts = {"config": configuration}
        if self.schedule.name == "wsd":
            of_branch = {name: configuration.pop(name) for name in OF_BRANCH}
            parts = {"trunk": configuration, "branch": of_branch}
        digests = {
            name: xxhash.xxh3_128_hexdigest(json.dumps(part, sort_keys=True).encode()) for name, part in parts.items()
        }
        return digests | {
            "corpus": self.store.corpus_digest,
            "selection": self.resolved["selection_digest"] or "all documents",
            "tokenizer": self.store.tokenizer_sha256,
        }

    def initial_model(self) -> Any:
        """Make the model; its weights depend on the preset and `init_seed` alone."""
        from train.model import build_model

        return build_model(self.arguments.preset, self.store.vocab_size, self.arguments.init_seed, self.store.eos)

    def branch_point(self) -> Path | None:
        """Return the checkpoint of the trunk that a branch begins with; None if the run is no branch."""
        trunk = self.arguments.branch_from
        return find_branch_point(Path(trunk), self.hashes, self.schedule.decay_start) if trunk else None

    def branches(self) -> Iterator[PretrainPlan]:
        """Make the runs to the budgets of `decay_at`, once this one is finished."""
        for budget in self.arguments.branch_budgets:
            place, tokens = f"{self.run_dir}/branches/{budget.total_tokens}", budget.total_tokens
            trunk = str(self.run_dir)
            yield self.make(
                replace(self.arguments, run_dir=place, total_tokens=tokens, decay_at=[], branch_from=trunk)
            )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.schedule.rate(step)

    def rows(self, sample_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets of samples, int32 [B, I] and [B, T], all of them full."""
        return self.objective.rows(self.replay.batch(sample_B), sample_B, self.arguments.seed)

    def amount(self, first: int, last: int) -> Amount:
        """Return what samples `first` to `last` - 1 hold."""
        samples = last - first
        return Amount(samples, samples * self.arguments.input_length, samples * self.objective.target_length)

    def open_measurements(self) -> HeldOutLosses:
        """Open the held-out splits whose perplexity is measured."""
        arguments = self.arguments
        shape = (arguments.preset, arguments.input_length, arguments.eval_windows, arguments.seed)
        tokenizer, apart = self.store.tokenizer_sha256, arguments.mask_documents
        folders = dict(one.split("=", 1) for one in arguments.held_out)
        splits = {name: HeldOutRows.open(folder, *shape, tokenizer, apart) for name, folder in folders.items()}
        return HeldOutLosses(splits, arguments.micro_batch_size, arguments.batch_size)

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint says of itself."""
        names = ("preset", "seed", "init_seed", "selected_documents", "corpus_documents", "selected_tokens", "cut")
        said = {name: self.resolved[name] for name in names}
        said["model"] = self.arguments.model_name or self.arguments.preset
        if self.arguments.mask_documents:
            said["mask_documents"] = True
        return self.counts(step) | said | {"hashes": self.hashes}

    def counts(self, step: int) -> dict[str, int | float]:
        """Return what has been seen after a step: samples, tokens by kind, repetitions of the selection."""
        samples = self.budget.samples_after(step)
        return {
            "step": step,
            "samples": samples,
            "encoder_tokens": samples * self.arguments.input_length,
            "raw_tokens": samples * self.objective.raw_length,
            "target_tokens": samples * self.objective.target_length,
            "epoch": self.replay.epoch(samples),
        }


if __name__ == "__main__":
    main()
