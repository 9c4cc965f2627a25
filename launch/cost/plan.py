"""What a study takes and when its scores pay, and what a single training takes. Only small files are read."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from launch.cost.corpus_size import CorpusSize, size_of
from launch.cost.hardware import Hardware
from launch.cost.works import Work, Works
from launch.engines.slurm_scripts import job_of
from launch.exhibits import Fed, exhibits_of
from launch.plan import Plan
from launch.stages.base import Stage
from launch.stages.measurements import Measurement
from launch.stages.runs import Training
from launch.stages.scores import Scores, Selected, with_foundations
from launch.status import TaskStatus, tasks_of
from launch.study_file import Study, shipped
from launch.study_samplers import store_of
from launch.study_sections import KEYS
from launch.yaml_places import YamlFile, read_text
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.paper import C4_TOKENS
from pipeline_steps.samplers import FULL


SCORING = ("embeddings", "density", "clusters", "ngrams", "dsir", "quality", "evaluations", "scores")
_KINDS = (  # in tables
    "proxies", "corpus", "tokens", "join", *SCORING, "selections", "datasets", "runs", "measured", "report",
)  # fmt: skip

Origin = Literal["measured", "FLOPs", "assumed", "unknown"]


@dataclass(frozen=True)
class StageCost:
    """A stage and its price.

    Attributes:
        accelerator: whether hours are those of an accelerator, or of a core.
        hours: hours of the whole stage, those that are over included.
        flops: operations of the whole stage, by arithmetic.
        bytes: bytes that the stage leaves on disk.
    """

    stage: str
    kind: str
    group: str
    accelerator: bool
    tasks: int
    done: int
    hours: float | None
    hours_left: float | None
    origin: Origin
    flops: float | None
    bytes: float | None


@dataclass(frozen=True)
class BreakEven:
    """What scores cost beside the trainings that use them.

    Attributes:
        scores: the name of the store's stage.
        hours: accelerator hours of the store and of what only scorers stand on; None if they are not known.
        runs: how many trainings use the store.
        one: the share of a training that must be saved if one training pays for the scores, by model.
        shared: the same, if all `runs` pay alike.
    """

    scores: str
    hours: float | None
    runs: int
    one: Mapping[str, float | None]
    shared: Mapping[str, float | None]


@dataclass(frozen=True)
class StudyPlan:
    """What a study takes.

    Attributes:
        selected: trainings on selections, as factors by name: samplers, rates, models, seeds.
        everything: how many trainings are on everything.
        speed: operations per second of one accelerator, as reached.
        runs: how many trainings each model has.
        tokens: encoder positions of one training, by model.
        needs: the groups of stages that a group stands on.
        exhibits: what the study has for each of the paper's tables and figures.
    """

    study: str
    selected: Mapping[str, int]
    everything: int
    corpus: CorpusSize
    speed: float
    runs: Mapping[str, int]
    tokens: Mapping[str, int]
    needs: Mapping[str, tuple[str, ...]]
    stages: tuple[StageCost, ...]
    scorers: tuple[BreakEven, ...]
    exhibits: tuple[Fed, ...]

    def groups(self) -> dict[str, list[StageCost]]:
        """Return stages by group, kind after kind; score stores in the order of samplers, runs in that of models."""
        order = [*(one.scores for one in self.scorers), *(f"runs/{model}" for model in self.runs)]
        places = {group: place for place, group in enumerate(order)}
        found: dict[str, list[StageCost]] = {}
        for stage in sorted(self.stages, key=lambda one: (_KINDS.index(one.kind), places.get(one.group, len(places)))):
            found.setdefault(stage.group, []).append(stage)
        return found

    def hours(self, *kinds: str, accelerator: bool = True, left: bool = False) -> float:
        """Return the hours of stages of some kinds, as far as they are known; of all kinds if none is named."""
        chosen = [one for one in self.stages if one.accelerator == accelerator and (not kinds or one.kind in kinds)]
        return sum((one.hours_left if left else one.hours) or 0.0 for one in chosen)

    @property
    def bytes(self) -> float:
        """Return the bytes that all stages leave on disk, as far as they are known."""
        return sum(stage.bytes or 0.0 for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the plan and its totals as JSON types."""
        scoring, training = self.hours(*SCORING), self.hours("runs")
        return asdict(self) | {
            "totals": {
                "scoring_accelerator_hours": scoring,
                "training_accelerator_hours": training,
                "measuring_accelerator_hours": self.hours("measured"),
                "accelerator_hours": self.hours(),
                "accelerator_hours_left": self.hours(left=True),
                "core_hours": self.hours(accelerator=False),
                "core_hours_left": self.hours(accelerator=False, left=True),
                "scoring_share": scoring / (scoring + training) if scoring + training else None,
                "bytes": self.bytes,
            }
        }


def plan_study(study: Study, speed: float, documents: int | None = None, tokens: int | None = None) -> StudyPlan:
    """Work out a study on accelerators of some speed, without starting it; the user may know the corpus's size.

    Raises:
        InvalidStudy: nothing says how large a remote corpus is.
        CorpusError: a local corpus cannot be read.
    """
    plan = Plan.of(study)
    tasks = tasks_of(plan)
    corpus = size_of(plan, tasks, documents, tokens)
    costs = {one.stage: one for one in _priced(plan, tasks, Works(study, corpus), speed)}
    runs = study.runs()
    arguments = {**study.models, **study.references}
    factors = ("samplers", "rates", "models", "seeds")
    return StudyPlan(
        study=study.path,
        selected={name: len(getattr(study, name)) for name in factors},
        everything=sum(run.sampler == FULL for run in runs),
        corpus=corpus,
        speed=speed,
        runs={model: sum(run.model == model for run in runs) for model in arguments},
        tokens={model: given["total_tokens"] for model, given in arguments.items()},
        needs=_needs(plan),
        stages=tuple(costs.values()),
        scorers=tuple(_scorers(plan, costs)),
        exhibits=exhibits_of(plan),
    )


def _priced(plan: Plan, tasks: Sequence[TaskStatus], works: Works, speed: float) -> Iterator[StageCost]:
    """Yield each stage's price: as measured if a task of its kind has been done, else by arithmetic."""
    members: dict[Stage, list[TaskStatus]] = {stage: [] for stage in plan.stages.values()}
    whole: dict[Hashable, list[float]] = {}
    for task in tasks:
        members[task.stage].append(task)
        if share := 1.0 if task.found.state == "done" else task.share:
            whole.setdefault(_alike(task.stage), []).append(_device_hours(plan.study, task) / share)
    for stage, own in members.items():
        done = [one for one in own if one.found.state == "done"]
        left = sum(1 - one.share for one in own if one.found.state != "done")
        work = works.of(stage)
        hours, origin = _by_arithmetic(stage, work, speed)
        hours_left = None if hours is None else hours * left / len(own)
        if found := whole.get(_alike(stage)):
            usual = sum(found) / len(found)
            hours = sum(_device_hours(plan.study, one) for one in done) + usual * (len(own) - len(done))
            hours_left, origin = usual * left, "measured"
        yield StageCost(
            stage.name,
            stage.kind,
            stage.group,
            bool(stage.devices),
            len(own),
            len(done),
            hours,
            hours_left,
            origin,
            work.flops,
            work.bytes,
        )


def _by_arithmetic(stage: Stage, work: Work, speed: float) -> tuple[float | None, Origin]:
    if stage.devices and work.flops is not None:
        return work.flops / speed / 3600, "FLOPs"
    if not stage.devices and work.core_seconds is not None:
        return work.core_seconds / 3600, "assumed"
    return None, "unknown"


def _alike(stage: Stage) -> Hashable:
    """Return the same for stages whose tasks take equally long."""
    if isinstance(stage, Measurement):
        return stage.group, stage.training.run.model
    return stage.group if isinstance(stage, Training | Selected) else stage.name


def _device_hours(study: Study, task: TaskStatus) -> float:
    """Return the hours that a task has worked, times the accelerators or cores that it holds."""
    stage, devices = task.stage, max(1, task.stage.devices)
    if study.engine.kind == "slurm" and not stage.launched:
        job = job_of(study, stage)
        devices = max(1, job.gpus_per_task) if stage.devices else job.cpus_per_task
    return devices * task.found.seconds / 3600


def _needs(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Return the groups that each group stands on; if there are several of a kind, the kind."""
    found: dict[str, dict[str, str]] = {}
    for stage in plan.stages.values():
        known = found.setdefault(stage.group, {})
        known |= {need.group: need.kind for need in stage.inputs if need.group != stage.group}
    return {group: tuple(_shortened(needs)) for group, needs in found.items()}


def _shortened(groups: Mapping[str, str]) -> Iterable[str]:
    kinds = list(groups.values())
    return dict.fromkeys(group if kinds.count(kind) == 1 else kind for group, kind in groups.items())


# ----------------------------------------------------------------------------------------------------- when scores pay


def _scorers(plan: Plan, costs: Mapping[str, StageCost]) -> Iterator[BreakEven]:
    """Yield when each store pays: itself with what only scorers stand on. Chance and given stores cost nothing."""
    study = plan.study
    training = {model: _mean_of_runs(costs.values(), model) for model in study.models}
    runs = len(study.rates) * len(study.models) * len(study.seeds)
    stores = [store_of(sampler) for sampler in study.samplers if not sampler.scores]
    for store in dict.fromkeys(stores):
        stage = next(one for one in plan.stages.values() if isinstance(one, Scores) and one.store == store)
        if store != KEYS:
            below = [costs[one.name].hours for one in with_foundations(stage) if one.devices]
            known = [hours for hours in below if hours is not None]
            hours = sum(known) if len(known) == len(below) else None
            yield breaks_even(stage.name, hours, runs * stores.count(store), training)


def breaks_even(scores: str, hours: float | None, runs: int, training: Mapping[str, float | None]) -> BreakEven:
    """Return when scores pay, from accelerator hours of scoring and of one training by model.

       The extended version's Table 2 is an example: T5-XL scores C4 in 10 hours and T5-Large trains in 24. A training
    stopped at 56 % pays, as 0.56 x 24 + 10 = 23.44 < 24. The exact bound is 1 - 10 / 24 = 58.3 %, a saving of 41.7 %,
    which is what is returned here.
    """
    from evaluate_suite.report.outcomes import break_even

    def shares(among: int) -> dict[str, float | None]:
        return {
            model: break_even(hours, whole, among) if hours is not None and whole and among else None
            for model, whole in training.items()
        }

    return BreakEven(scores, hours, runs, shares(1), shares(runs))


def _mean_of_runs(costs: Iterable[StageCost], model: str) -> float | None:
    hours = [one.hours for one in costs if one.group == f"runs/{model}" and one.hours is not None]
    return sum(hours) / len(hours) if hours else None


# ----------------------------------------------------------------------------------------------------------- trainings


def is_study(config: str) -> bool:
    """Return whether a file, or one that comes with this package, is of a study and not of a training."""
    from train.arguments import PretrainArguments

    if not os.path.exists(config):
        return config in shipped()
    try:
        given = YamlFile.read(config, read_text(config, Path(config))).plain
    except InvalidStudy:
        return True  # whose reader says what is wrong, and where
    of_studies = set(Study.model_fields) - {one.name for one in fields(PretrainArguments)}
    return not isinstance(given, dict) or not of_studies.isdisjoint(given)


def plan_run(config: str, flags: list[str], corpus_tokens: int | None, hardware: Hardware) -> dict[str, Any]:
    """Return the tokens, repetitions, operations, hours and memory of a training, as JSON types.

    Raises what `Hardware.speed` and `train.costs.run_cost` raise.
    """
    from train.arguments import PretrainArguments, parse
    from train.costs import run_cost
    from train.token_store import TokenStore

    speed = hardware.accelerators * hardware.speed()
    nowhere = ["--tokens", "", "--run_dir", ""]  # a plan needs neither
    about = "Work out a training run without starting it."
    arguments = parse(PretrainArguments, ["--config", config, *flags], "winnow plan", about, nowhere)
    store = TokenStore.open(arguments.tokens) if os.path.exists(arguments.tokens) else None
    if corpus_tokens is None and store is not None:
        corpus_tokens = store.tokens
    cost = run_cost(arguments, corpus_tokens or C4_TOKENS, store.vocab_size if store else None)
    return {
        **asdict(cost),
        "preset": arguments.preset,
        "tokens_per_parameter": cost.tokens_per_parameter,
        "corpus_tokens": corpus_tokens or C4_TOKENS,
        **asdict(hardware),
        "hours": cost.hours(speed),
        "tokens_per_second": cost.encoder_tokens / (cost.hours(speed) * 3600),
    }
