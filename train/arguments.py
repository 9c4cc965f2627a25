"""The arguments of pre-training, and how any dataclass of arguments is read from YAML files and flags."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from pipeline_steps.command_line import Parser
from pipeline_steps.credentials import refuse_credentials, refuse_credentials_in_command
from pipeline_steps.errors import InvalidCut
from pipeline_steps.readers.special_files import refuse_special_files
from train.presets import z_loss_of
from train.schedules import DECAY_SETTINGS, Schedule
from train.training_plan import LoopSettings, OptimizerSettings, TokenBudget, precision_of


T = TypeVar("T")
_LONGEST = 1 << 16  # bytes of a file of arguments: the longest shipped has 600


# What may differ between two starts of a run: where things are, and how fast or how often they are done.
FREE = {"tokens", "selection", "run_dir", "stage_to", "micro_batch_size", "report_to", "save_every"}
FREE |= {"milestones", "keep_last", "shard", "held_out", "eval_every", "eval_windows", "model_name"}
FREE |= {"decay_at", "branch_from"}


def option(default: Any, help: str) -> Any:
    """Return a field of a dataclass of arguments with a default and its line of help."""
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class PretrainArguments:
    """The arguments of `train.pretrain`."""

    tokens: str = field(metadata={"help": "folder of the token store, written by winnow tokenize"})
    run_dir: str = field(metadata={"help": "everything this run writes; continued if it exists"})
    total_tokens: int = field(
        metadata={
            "help": "encoder positions to train on, rounded down to whole samples of input_length; the last batch may "
            "be smaller"
        }
    )
    selection: str | None = option(None, "selection file of this corpus; all documents if not given")
    preset: str = option(
        "t5-tiny",
        "architecture: t5-{tiny,small,base,large,xl}, t5-v1_1-{tiny,small,base,large,xl}: span corruption; "
        "llama-{nano,tiny,micro,mini,60m,130m,350m}, olmo-{4m,6m,8m,10m,14m,16m,20m,60m,90m,150m,300m,530m,750m,1b}: "
        "next token; hf:NAME[@REVISION], a Hub id or a folder with a config.json: next token, in the shape of that "
        "decoder of transformers, without its weights",
    )
    batch_size: int = option(16, "rows per step, over all processes")
    micro_batch_size: int = option(0, "rows in one forward pass of a process; 0: all of its share of the batch")
    input_length: int = option(128, "encoder positions of a row; the paper: 512")
    optimizer: Literal["adafactor", "adamw", "muon"] = option(
        "adafactor",
        "T5's; AdamW with LLaMA's settings; or Muon for the matrices of hidden layers with AdamW for the rest",
    )
    learning_rate: float | None = option(
        None,
        "the highest; if not given, adamw and muon: 6e-4; adafactor, relative to the weights: 0.01, or T5's "
        "1 / sqrt(warmup_steps) with inverse-sqrt",
    )
    warmup_steps: int = option(
        10_000,
        "k in T5's learning rate 1 / sqrt(max(step, k)); of other optimizers and schedules: steps of the linear rise",
    )
    schedule: Literal["inverse-sqrt", "constant", "cosine", "wsd"] = option(
        "inverse-sqrt", "the learning rate after the warm-up; wsd: constant, then a decay"
    )
    decay_fraction: float | None = option(None, "share of the steps in which wsd decays; if not given, 0.1")
    decay_shape: Literal["linear", "1-sqrt"] | None = option(
        None, "how wsd decays: linear, also if not given, or 1 - the square root of the progress"
    )
    final_lr_ratio: float | None = option(
        None, "the last learning rate over the highest; if not given, wsd: 0; cosine: 0.01"
    )
    decay_at: list[int] = option(
        [],
        "further budgets of a wsd run: its checkpoint where the decay to each begins is kept, and after it each is "
        "trained in RUN_DIR/branches/TOKENS",
    )
    branch_from: str | None = option(
        None, "wsd run of the same settings but for budget and decay, from whose stable phase this run goes on"
    )
    adam_beta1: float = option(OptimizerSettings.adam_beta1, "adamw, muon: share of the old first moment that stays")
    adam_beta2: float = option(OptimizerSettings.adam_beta2, "adamw, muon: share of the old second moment that stays")
    adam_epsilon: float = option(OptimizerSettings.adam_epsilon, "adamw, muon: added to the root of the second moment")
    weight_decay: float = option(
        OptimizerSettings.weight_decay, "adamw, muon: share of the weights, times the learning rate"
    )
    decay_embeddings: bool = option(OptimizerSettings.decay_embeddings, "adamw, muon: embeddings of tokens decay")
    decay_norms: bool = option(OptimizerSettings.decay_norms, "adamw, muon: norms and biases decay")
    muon_adjust_lr_fn: Literal["match_rms_adamw", "original"] = option(
        "match_rms_adamw",
        "how muon scales the learning rate of a matrix; match_rms_adamw: AdamW's can be kept",
    )
    max_grad_norm: float = option(0.0, "gradients are scaled down to this norm; 0: never, as T5")
    mixed_precision: Literal["no", "bf16"] | None = option(None, "if not given, what accelerate was launched with")
    z_loss: float | None = option(
        None, "weight of the squared log-normalisers in the loss; if not given, T5's 1e-4, and 0 for olmo-*"
    )
    mask_documents: bool = option(
        False, "of causal models: the documents in a row do not see each other; the store's must end in EOS"
    )
    compile: bool = option(False, "torch.compile the layers")
    shard: bool = option(False, "FSDP2: cut weights, gradients and optimizer state among processes")
    checkpoints: int = option(5, "checkpoints to keep, evenly spaced, the last step included")
    milestones: list[int] = option(
        [], "steps whose checkpoints are kept too; the paper: 20000 100000 300000 500000 700000"
    )
    save_every: int = option(0, "steps between additional checkpoints, to resume from; 0: none")
    keep_last: int = option(1, "how many of the newest checkpoints stay, beside those to keep")
    log_every: int = option(10, "steps between rows of metrics.jsonl")
    held_out: list[str] = option([], "NAME=FOLDER of token stores whose perplexity is measured along the way")
    eval_every: int = option(0, "steps between these measurements; 0: at kept checkpoints only")
    eval_windows: int = option(256, "windows of each that are measured, evenly spaced")
    report_to: str = option("tensorboard", "one of accelerate's trackers (wandb, mlflow, ...), all, or none")
    stage_to: str | None = option(None, "local folder the token store is copied to first, if it is on a network")
    model_name: str | None = option(None, "name of the model in results; the preset if not given")
    seed: int = option(0, "order of windows, masks, dropout")
    init_seed: int = option(0, "initial weights")

    def __post_init__(self) -> None:
        least = dict.fromkeys(("checkpoints", "log_every", "warmup_steps", "keep_last"), 1)
        least |= dict.fromkeys(("save_every", "seed", "micro_batch_size", "max_grad_norm", "eval_every"), 0)
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InvalidCut(f"{name} must be at least {lowest}, not {getattr(self, name)}")
        if self.z_loss is not None and not 0 <= self.z_loss < math.inf:
            raise InvalidCut(f"z_loss must be a finite number of 0 or more, not {self.z_loss}")
        if any("=" not in one for one in self.held_out):
            raise InvalidCut(f"held_out must be NAME=FOLDER, not {' '.join(self.held_out)}")
        self._check_optimizer()
        self._check_schedule()

    def _check_optimizer(self) -> None:
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidCut(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        for name in ("learning_rate", "adam_epsilon"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise InvalidCut(f"{name} must be above 0 and finite, not {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise InvalidCut(f"weight_decay must be at least 0 and finite, not {self.weight_decay}")
        changed = [one.name for one in fields(OptimizerSettings) if getattr(self, one.name) != one.default]
        for name in changed:
            of = "muon" if name.startswith("muon") else "adamw and muon"
            if self.optimizer not in of.split(" and "):
                raise InvalidCut(f"{name} is a setting of {of}, not of {self.optimizer}: leave it out")
        if self.optimizer == "muon" and self.shard:
            raise InvalidCut("muon needs whole matrices, which --shard cuts: leave out --shard, or choose adamw")

    def _check_schedule(self) -> None:
        if self.schedule != "wsd":
            for name in ("decay_at", "branch_from"):
                if getattr(self, name):
                    raise InvalidCut(f"{name} is a setting of the schedule wsd, not of {self.schedule}: leave it out")
        if self.branch_from and self.decay_at:
            raise InvalidCut("a branch cannot have branches: give decay_at to the run that it is branched from")
        for branch in self.branch_budgets:
            if branch.steps >= self.budget.steps:
                raise InvalidCut(
                    f"decay_at {branch.total_tokens:,} must be less than total_tokens {self.total_tokens:,} by a step "
                    "or more: give the largest budget as total_tokens"
                )
            self.schedule_to(branch)
        if self.schedule != "inverse-sqrt" or any(getattr(self, name) is not None for name in DECAY_SETTINGS):
            self.schedule_to(self.budget)

    @property
    def budget(self) -> TokenBudget:
        """The length of the run. Raises InvalidCut: it is shorter than one sample."""
        return TokenBudget(self.total_tokens, self.batch_size, self.input_length)

    @property
    def branch_budgets(self) -> list[TokenBudget]:
        """The lengths of the branches, ascending. Raises InvalidCut: one is shorter than one sample."""
        asked = {TokenBudget(tokens, self.batch_size, self.input_length).samples for tokens in self.decay_at}
        return [
            TokenBudget(samples * self.input_length, self.batch_size, self.input_length) for samples in sorted(asked)
        ]

    def schedule_to(self, budget: TokenBudget) -> Schedule:
        """Return the learning rate of a run to a budget. Raises InvalidCut: its settings contradict each other."""
        return Schedule(
            name=self.schedule,
            optimizer=self.optimizer,
            steps=budget.steps,
            warmup_steps=self.warmup_steps,
            peak=self.learning_rate,
            **{name: getattr(self, name) for name in DECAY_SETTINGS},
        )

    @property
    def loop(self) -> LoopSettings:
        """The settings of the loop. Raises ModelError: accelerate was launched with an unsupported precision."""
        same = {one.name: getattr(self, one.name) for one in fields(LoopSettings) if hasattr(self, one.name)}
        same["z_loss"] = z_loss_of(self.preset) if self.z_loss is None else self.z_loss
        settings = OptimizerSettings(**{one.name: getattr(self, one.name) for one in fields(OptimizerSettings)})
        return LoopSettings(**same, optimizer_settings=settings, precision=precision_of(self.mixed_precision))

    @property
    def kept_steps(self) -> list[int]:
        """The steps whose checkpoints stay: an even grid, milestones that the run reaches, and where decays begin."""
        kept = {step for step in self.milestones if 0 < step <= self.budget.steps}
        if self.schedule == "wsd":
            kept |= {self.schedule_to(budget).decay_start for budget in (self.budget, *self.branch_budgets)}
        return sorted({*self.budget.grid(self.checkpoints), *kept})


_NEWER = {"mask_documents", "z_loss", "schedule", *DECAY_SETTINGS, *(one.name for one in fields(OptimizerSettings))}
NEWER = {one.name: one.default for one in fields(PretrainArguments) if one.name in _NEWER}
"""Settings that the first runs do not name, and what they were then: those runs go on, and digests leave these out."""


def parse(kind: type[T], argv: list[str] | None, prog: str, description: str, unless: Sequence[str] = ()) -> T:
    """Return an instance of a dataclass whose fields have `help` in their metadata; exit with code 2 on a mistake.

    Flags overrule a YAML file, which overrules the defaults.

    A YAML value goes through the same conversion as a flag: YAML 1.1 reads `1e-3` as a string. A file that is not
    there may be one of those that come with this package. `unless` are flags that all others overrule.

    Raises:
        WinnowError: an argument holds a credential.
    """
    from transformers import HfArgumentParser  # half a second

    class TypedParser(HfArgumentParser):
        error = Parser.error

    finder = Parser(prog=prog, add_help=False, allow_abbrev=False)
    finder.add_argument("--config", metavar="FILE")
    refuse_credentials_in_command(sys.argv[1:] if argv is None else argv)  # a run notes its command
    config, flags = finder.parse_known_args(argv)
    parser = TypedParser(
        kind,
        prog=prog,
        description=description,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog=f"configurations that come with this package: {', '.join(shipped())}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with these names as keys; flags overrule it")
    if config.config is not None:
        flags = _as_flags(parser, config.config, [field.name for field in fields(kind)]) + flags  # type: ignore[arg-type]
    words = [*unless, *flags]
    _refuse_unknown_flags(parser, words)
    made, *_, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return made


def _refuse_unknown_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Exit with the nearest flag for one that is unknown, which argparse tells only if nothing else is wrong."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        if flag not in known:
            near = difflib.get_close_matches(flag, known, n=1)
            parser.error(f"unrecognized arguments: {flag}{f'. Did you mean {near[0]}?' if near else ''}")


def shipped() -> list[str]:
    """Return the names of the configurations that come with this package."""
    return sorted(entry.name for entry in files("train").joinpath("configs").iterdir() if entry.name.endswith(".yaml"))


def _read(path: str) -> Any:
    """Return the values of a YAML file. Raises ValueError if it is too large or no ordinary file."""
    file: Any = Path(path)
    if not file.exists() and path in shipped():
        file = files("train").joinpath("configs", path)
    else:
        refuse_special_files(path)
    with file.open("rb") as opened:
        text = opened.read(_LONGEST + 1)
    if len(text) > _LONGEST:
        raise ValueError(f"it has more than {_LONGEST:,} bytes, which is more than all arguments take")
    return yaml.safe_load(text)


def _as_flags(parser: argparse.ArgumentParser, path: str, known: list[str]) -> list[str]:
    try:
        values = _read(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        parser.error(f"{path} cannot be read as YAML: {error}")
    refuse_credentials(values, path)
    if not isinstance(values, dict):
        parser.error(f"{path} must hold keys and values, not {type(values).__name__}")
    flags = []
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in known:
            parser.error(f"{path}: no argument {key!r}; there are {', '.join(known)}")
        if isinstance(value, dict) or (isinstance(value, list) and any(isinstance(one, dict | list) for one in value)):
            parser.error(f"{path}: {key} must be a value or a list of values")
        if isinstance(value, list):
            flags += [f"--{name}", *map(str, value)] if value else []
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags
