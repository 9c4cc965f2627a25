"""Which stages of a study feed each table and figure of the paper, and what is not there to feed them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from evaluate_suite.exhibits import EXHIBITS, LARGER, SMALLER, Exhibit
from evaluate_suite.registry import SUITES, by_suite, find_tasks
from launch.plan import Plan
from launch.stages.base import Stage
from launch.stages.foundations import Assignments
from launch.stages.measurements import AtSteps, FewShots, Measurement, Perplexity
from launch.stages.runs import Training
from launch.study_samplers import StudySampler, store_of
from pipeline_steps.samplers import FULL


_SHOWN = 3  # names of one kind that are missing


@dataclass(frozen=True)
class Fed:
    """A table or figure of the paper, and what a study has for it.

    Attributes:
        exhibit: its number.
        about: what it shows.
        stages: how many stages feed it, by kind.
        lacks: what the study does not have and it needs; nothing of an exhibit that can be drawn.
    """

    exhibit: str
    about: str
    stages: Mapping[str, int]
    lacks: tuple[str, ...]


def exhibits_of(plan: Plan) -> tuple[Fed, ...]:
    """Return what a study has for each of the paper's tables and figures."""
    found = _Found(plan)
    return tuple(found.fed(exhibit) for exhibit in EXHIBITS)


class _Found:
    """What a plan has, by what exhibits ask for."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._missing = plan, defaultdict[str, dict[str, None]](dict)
        self._trainings = defaultdict[tuple[str, str], list[Training]](list)
        self._measured = defaultdict[Stage, list[Measurement]](list)
        for stage in plan.stages.values():
            if isinstance(stage, Training):
                self._trainings[stage.run.model, stage.run.sampler].append(stage)
            elif isinstance(stage, Measurement):
                self._measured[stage.training].append(stage)
        self._sizes = _sizes(plan)
        trained = sorted(plan.study.models, key=lambda model: self._sizes.get(model, 0))
        self._roles = {SMALLER: trained[:1], LARGER: trained[1:][-1:]}

    def fed(self, exhibit: Exhibit) -> Fed:
        """Return what there is for an exhibit."""
        self._missing.clear()
        stages = dict.fromkeys(self._stages(exhibit))
        kinds = [stage.kind for stage in stages]
        lacks = (f"{what}{_names(list(names))}" for what, names in self._missing.items())
        return Fed(exhibit.name, exhibit.about, {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}, (*lacks,))

    def _lack(self, what: str, name: str = "") -> None:
        self._missing[what][name] = None

    def _stages(self, exhibit: Exhibit) -> Iterator[Stage]:
        """Yield the stages that an exhibit needs, and note what is not there."""
        for role in exhibit.models:
            if not self._roles[role]:
                self._lack("a second model that is trained on selections" if role == LARGER else "models")
            for model in self._roles[role]:
                yield from self._runs(exhibit, model)
        everything = [run for (_, sampler), runs in self._trainings.items() for run in runs if sampler == FULL]
        if len({run.run.model for run in everything}) < exhibit.sizes:
            self._lack(f"references: {exhibit.sizes} sizes on everything")
        yield from everything if exhibit.sizes else ()
        for sampler in self._samplers("scores of ", exhibit.scores):
            yield self._plan.stages[f"scores/{store_of(sampler)}"]
        kept = {sampler.name for sampler in self._samplers("selections of ", exhibit.kept)}
        selected = [stage for stage in self._plan.stages.values() if getattr(stage, "sampler", None) in kept]
        if exhibit.kept and not selected:
            self._lack("rates")
        yield from selected
        clusters = [stage for stage in self._plan.stages.values() if isinstance(stage, Assignments)]
        if exhibit.clustered and not clusters:
            self._lack("clusters, on which semdedup and prototypes stand")
        yield from clusters if exhibit.clustered else ()

    def _samplers(self, what: str, names: tuple[str, ...]) -> list[StudySampler]:
        known = {sampler.name: sampler for sampler in self._plan.study.samplers}
        for name in names:
            if name not in known:
                self._lack(what, name)
        return [known[name] for name in names if name in known]

    def _runs(self, exhibit: Exhibit, model: str) -> Iterator[Stage]:
        """Yield the runs of a model and what is measured of them."""
        for sampler in (FULL, *exhibit.samplers):
            runs = self._trainings[model, sampler]
            if not runs:
                self._lack(f"{model} trained on ", sampler)
            elif sampler != FULL and len({run.run.rate for run in runs}) < exhibit.rates:
                self._lack(f"{exhibit.rates} rates")
            for run in runs:
                yield run
                for measure in (*exhibit.measures, *exhibit.along):
                    yield from self._measuring(run, measure, measure in exhibit.along)
        if exhibit.over_scaled:
            yield from self._next_larger(model, exhibit.measures)

    def _next_larger(self, model: str, measures: tuple[str, ...]) -> Iterator[Stage]:
        larger = [name for name, size in self._sizes.items() if size > self._sizes.get(model, 0)]
        if model not in self._sizes or not larger:
            return self._lack("references: a model on everything that is larger than ", model)
        for run in self._trainings[min(larger, key=self._sizes.__getitem__), FULL]:
            yield run
            for measure in measures:
                yield from self._measuring(run, measure, False)

    def _measuring(self, run: Training, measure: str, along: bool) -> Iterator[Stage]:
        """Yield what measures a suite of a run, at several checkpoints where these are needed."""
        found = [stage for stage in self._measured[run] if _measures(stage, measure)]
        if not found:
            self._lack("evaluation: ", measure)
        elif along and not any(_is_along(stage) for stage in found):
            self._lack("evaluation: every, for several checkpoints of ", measure)
        yield from found


def _measures(stage: Measurement, suite: str) -> bool:
    """Return whether a stage measures a suite; any held-out text but the high-quality one stands for C4's."""
    if isinstance(stage, Perplexity):
        tasks = {task for task, _ in stage.held_out}
        (own,) = (task.name for task in by_suite()["hq_perplexity"])
        return suite == "hq_perplexity" and own in tasks or suite == "c4_perplexity" and bool(tasks - {own})
    if isinstance(stage, FewShots):
        asked = {task.name for task in find_tasks(stage.tasks_asked)}
        return suite in SUITES and {task.name for task in by_suite()[suite] if task.scored} <= asked
    return stage.what == suite


def _is_along(stage: Measurement) -> bool:
    from train.arguments import PretrainArguments

    if isinstance(stage, AtSteps):
        return len(stage.steps) > 1
    return len(PretrainArguments(tokens="", run_dir="", **stage.training.arguments).kept_steps) > 1


def _sizes(plan: Plan) -> dict[str, int]:
    """Return the parameters of the models whose size is known, by their name in the study."""
    from evaluate_suite.model_sizes import parameters

    given = {**plan.study.models, **plan.study.references}
    return {model: size for model, arguments in given.items() if (size := parameters(arguments["preset"]))}


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
