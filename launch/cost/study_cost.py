"""`winnow plan` of a study: its stages, what each takes, and when scores pay. Reads small files only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.study.costs import (
    C4_DOCUMENTS,
    BreakEven,
    Corpus,
    Spent,
    StageCost,
    breaks_even,
    priced,
)
from launch.study.progress import fingerprints
from launch.study.schema import Study
from launch.study.stages import Stage, devices_of, stages_of, store_of
from launch.study.status import Task, tasks_of
from launch.study.works import Works
from pipeline_steps.errors import InvalidStudy, StoreIncomplete
from pipeline_steps.paper import C4_TOKENS
from pipeline_steps.samplers import FULL


_ALL_OF_C4 = re.compile(r"\bc4/en/c4-train\.\*")
SCORING = ("embeddings", "density", "clusters", "ngrams", "dsir", "quality", "scores")
_KINDS = ("proxies", "corpus", "tokens", *SCORING, "selections", "runs", "measured", "report")  # as they are shown


@dataclass(frozen=True)
class StudyPlan:
    """What a study takes.

    Attributes:
        study: its file.
        selected: trainings on selections, as factors by name: samplers, rates, models, seeds.
        everything: trainings on everything.
        corpus: what is selected from.
        speed: operations per second that are reckoned with, of one accelerator.
        runs: trainings by model.
        tokens: encoder positions of one training, by model.
        needs: groups of stages that a group stands on.
        stages: every stage and its price.
        scorers: when each store pays.
    """

    study: str
    selected: Mapping[str, int]
    everything: int
    corpus: Corpus
    speed: float
    runs: Mapping[str, int]
    tokens: Mapping[str, int]
    needs: Mapping[str, tuple[str, ...]]
    stages: tuple[StageCost, ...]
    scorers: tuple[BreakEven, ...]

    def groups(self) -> dict[str, list[StageCost]]:
        """Stages by the group they are shown in, kind after kind; score stores in the samplers' order."""
        found: dict[str, list[StageCost]] = {one.scores: [] for one in self.scorers}
        for stage in self.stages:
            found.setdefault(stage.group, []).append(stage)
        order = [f"runs/{model}" for model in self.runs]
        return {name: found[name] for name in sorted(found, key=lambda name: _place(name, order))}

    def hours(self, *kinds: str, accelerator: bool = True, left: bool = False) -> float:
        """Of stages whose names begin so, as far as they are known; of all without one."""
        chosen = [one for one in self.stages if one.accelerator == accelerator and (not kinds or _kind(one) in kinds)]
        return sum((one.hours_left if left else one.hours) or 0.0 for one in chosen)

    def as_json(self) -> dict[str, Any]:
        """JSON types."""
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
                "bytes": sum(stage.bytes or 0.0 for stage in self.stages),
            }
        }


def plan_study(study: Study, speed: float, documents: int | None = None, tokens: int | None = None) -> StudyPlan:
    """Work out a study without starting it.

    Args:
        study: the study.
        speed: operations per second of one accelerator, as reached.
        documents: of the corpus; by default its token store's or, of C4, those of the data set's card.
        tokens: of the corpus.

    Raises:
        InvalidStudy: nothing says how large the corpus is.
    """
    stages = stages_of(study)
    tasks: dict[str, list[Task]] = {}
    for task in tasks_of(study, stages, fingerprints(stages)):
        tasks.setdefault(task.stage.name, []).append(task)
    corpus = corpus_of(study, tasks.get("tokens/train", []), documents, tokens)
    works, spent = Works(study, corpus), _spent(study, tasks)
    priced_stages = tuple(
        priced(
            name,
            group_of(name),
            stage.gpu,
            (stage.tasks, sum(one.found.state == "done" for one in tasks[name])),
            works.of(stage),
            spent[name],
            speed,
        )
        for name, stage in stages.items()
    )
    runs = [run.model for run in study.runs()]
    arguments = {**study.models, **study.references}
    return StudyPlan(
        study=study.path,
        selected={
            "samplers": len(study.samplers),
            "rates": len(study.rates),
            "models": len(study.models),
            "seeds": len(study.seeds),
        },
        everything=sum(run.sampler == FULL for run in study.runs()),
        corpus=corpus,
        speed=speed,
        runs={model: runs.count(model) for model in arguments},
        tokens={model: given["total_tokens"] for model, given in arguments.items()},
        needs=_needs(stages),
        stages=priced_stages,
        scorers=tuple(_scorers(study, stages, {one.stage: one for one in priced_stages})),
    )


def corpus_of(study: Study, tokenised: list[Task], documents: int | None, tokens: int | None) -> Corpus:
    """Size of the corpus: as tokenised, as given, C4's, or the study's limit.

    Raises:
        InvalidStudy: none of these is there.
    """
    if tokenised and all(task.found.state == "done" for task in tokenised):
        from train.token_store import TokenStore

        try:
            store = TokenStore.open(str(Path(study.output) / "tokens" / "train"))
            return Corpus(store.documents, store.tokens, "its token store")
        except StoreIncomplete:  # moved away since
            pass
    mean = C4_TOKENS / C4_DOCUMENTS
    if documents or tokens:
        documents = documents or max(round((tokens or 0) / mean), 1)
        return Corpus(
            documents, tokens or round(documents * mean), "given" if tokens else f"given, {mean:.0f} a document"
        )
    all_of_c4 = study.corpus is not None and _ALL_OF_C4.search(study.corpus) is not None
    if all_of_c4 and study.limit < 0:
        return Corpus(C4_DOCUMENTS, C4_TOKENS, "C4")
    if study.limit >= 1:
        return Corpus(study.limit, round(study.limit * mean), f"the limit, {mean:.0f} a document")
    raise InvalidStudy(f"{study.path} does not say how large its corpus is: give --documents, and --corpus-tokens")


def group_of(stage: str) -> str:
    """What a stage is shown with: each score store by itself, runs by model, measurements by what is measured."""
    kind, _, rest = stage.partition("/")
    if kind == "scores":
        return stage
    if kind == "runs":
        return f"runs/{rest.partition('/')[0]}"
    return f"measured/{rest.rpartition('/')[2]}" if kind == "measured" else kind


def _spent(study: Study, tasks: Mapping[str, list[Task]]) -> dict[str, Spent]:
    """Device hours by stage, from the markers of tasks and the metrics of runs; whole tasks by group."""
    whole: dict[str, list[float]] = {}
    for name, members in tasks.items():
        hours = _devices(study, members[0].stage) / 3600
        shares = [(one.found.seconds, 1.0 if one.found.state == "done" else one.share) for one in members]
        whole.setdefault(_alike(name), []).extend(hours * seconds / share for seconds, share in shares if share)
    found = {}
    for name, members in tasks.items():
        hours, alike = _devices(study, members[0].stage) / 3600, whole[_alike(name)]
        done = [one for one in members if one.found.state == "done"]
        found[name] = Spent(
            hours=hours * sum(one.found.seconds for one in done),
            usual=sum(alike) / len(alike) if alike else None,
            left=sum(1 - one.share for one in members if one.found.state != "done"),
        )
    return found


def _alike(stage: str) -> str:
    """Stages whose tasks take equally long."""
    group = group_of(stage)
    if group.startswith("measured/"):
        return f"{group}/{stage.split('/')[1]}"  # of each model
    return group if group.startswith(("runs/", "selections")) else stage


def _devices(study: Study, stage: Stage) -> int:
    """Accelerators, or cores, that a task of a stage holds."""
    engine = study.engine
    if engine.kind == "slurm" and stage.kind not in ("training", "measuring"):
        return int(engine.slurm.get("gpus_per_task" if stage.gpu else "cpus_per_task", 1))
    return max(1, devices_of(study, stage))


def _needs(stages: Mapping[str, Stage]) -> dict[str, tuple[str, ...]]:
    """Groups that each group stands on; many of a kind by their kind."""
    found: dict[str, list[str]] = {}
    for name, stage in stages.items():
        known = found.setdefault(group_of(name), [])
        known += [need for need in map(group_of, stage.needs) if need not in (*known, group_of(name))]
    return {group: tuple(_shortened(needs)) for group, needs in found.items()}


def _shortened(groups: list[str]) -> Iterable[str]:
    kinds = [group.partition("/")[0] for group in groups]
    return dict.fromkeys(group if kinds.count(kind) == 1 else kind for group, kind in zip(groups, kinds, strict=True))


def _scorers(study: Study, stages: Mapping[str, Stage], prices: Mapping[str, StageCost]) -> Iterator[BreakEven]:
    """Of each store: itself and what only scorers stand on; the runs of samplers that cut it, chance aside."""
    training = {model: _mean_of_runs(prices, model) for model in study.models}
    runs = len(study.rates) * len(study.models) * len(study.seeds)
    for store in dict.fromkeys(store_of(one) for one in study.samplers if one.scorer):
        below = [prices[name] for name in _ancestors(stages, store) if prices[name].accelerator]
        known = [one.hours for one in below if one.hours is not None]
        hours = sum(known) if len(known) == len(below) else None
        sharing = sum(bool(one.scorer) and store_of(one) == store for one in study.samplers)
        yield breaks_even(store, hours, runs * sharing, training)


def _mean_of_runs(prices: Mapping[str, StageCost], model: str) -> float | None:
    hours = [one.hours for one in prices.values() if one.group == f"runs/{model}" and one.hours is not None]
    return sum(hours) / len(hours) if hours else None


def _ancestors(stages: Mapping[str, Stage], name: str) -> Iterator[str]:
    """A stage and what it stands on of scoring; a run whose checkpoint scores is trained anyway."""
    todo, seen = [name], set()
    while todo:
        one = todo.pop()
        if one not in seen and one.partition("/")[0] in SCORING:
            seen.add(one)
            todo += stages[one].needs
            yield one


def _place(group: str, runs: list[str]) -> tuple[int, int]:
    return _KINDS.index(group.partition("/")[0]), runs.index(group) if group in runs else 0


def _kind(cost: StageCost) -> str:
    return cost.stage.partition("/")[0]
