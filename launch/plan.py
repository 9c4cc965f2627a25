"""From a study to its stages: work that several runs share is there once.

A plan also knows what of a study decides which stages are chosen: `winnow run --only`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from evaluate_suite.results import MACRO
from launch.stages.base import Stage
from launch.stages.corpora import SHARDS, Corpus, Deal, Files, OwnTokenStage, Split, Text, TokenStage
from launch.stages.datasets import Dataset, DatasetBefore, dataset_of
from launch.stages.foundations import EvaluationNgrams, Foundations, Target
from launch.stages.joins import Joined, JoinKeysStage
from launch.stages.measurements import BitsPerByte, FewShots, FineTuned, Measurement, Perplexity
from launch.stages.report import Report, Reported
from launch.stages.runs import Run, Training
from launch.stages.scores import Contaminated, GivenScores, Proxy, Scores, ScoringCheckpoint, Selected
from launch.study_file import Study
from launch.study_samplers import SamplerSettings, StudySampler, store_of
from launch.study_sections import JoinSettings
from launch.yaml_places import nearest
from pipeline_steps.errors import InvalidStudy
from pipeline_steps.readers.reading import Reading
from pipeline_steps.samplers import FULL, of_scorer
from train.arguments import FREE, PretrainArguments
from train.presets import is_causal


@dataclass(frozen=True)
class Plan:
    """A study and its stages by name, each after those it needs."""

    study: Study
    stages: Mapping[str, Stage]

    @classmethod
    def of(cls, study: Study) -> Plan:
        """Return the plan of a study. Raises InvalidStudy if two of its stages, corpora or domains would be one."""
        stages = dict[str, Stage]()
        for stage in _in_order(_Stages(study).last()):
            if stages.setdefault(stage.name, stage) is not stage:
                raise InvalidStudy(
                    f"{study.path}: two stages would be called {stage.name}: give a sampler another name"
                )
        sources = dict.fromkeys(source for stage in stages.values() for source in stage.sources)
        _refuse_twice(study, "corpora", [source.name for source in sources])
        return cls(study, stages)

    @property
    def output(self) -> str:
        """Return the folder of all that the study makes."""
        return self.study.output

    def chosen(self, only: str | None) -> list[Stage]:
        """Return one stage, or all whose names begin so; all without a name.

        Raises:
            InvalidStudy: there is none.
        """
        wanted = "" if only is None else f"{only}/"
        found = [stage for name, stage in self.stages.items() if f"{name}/".startswith(wanted)]
        if not found:
            known = list(dict.fromkeys([*(stage.kind for stage in self.stages.values()), *self.stages]))[:40]
            raise InvalidStudy(f"{self.study.path} has no stage {only!r}: {nearest(only, known)}")
        return found


def _refuse_twice(study: Study, what: str, names: Sequence[str]) -> None:
    if twice := [name for at, name in enumerate(names) if name in names[:at]]:
        raise InvalidStudy(f"{study.path}: two {what} would be called {twice[0]}: give a held-out text another name")


def _in_order(stages: Iterable[Stage]) -> Iterator[Stage]:
    """Yield stages and all they need, each once and after its inputs; without recursion, for plans are deep."""
    seen = set[Stage]()
    todo = [(stage, False) for stage in reversed(list(stages))]
    while todo:
        stage, is_ready = todo.pop()
        if is_ready:
            yield stage
        elif stage not in seen:
            seen.add(stage)
            todo.append((stage, True))
            todo += [(one, False) for one in reversed(stage.inputs) if one not in seen]


class _Stages:
    """The stages of a study, each made when it is first asked for."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._tasks = study.engine.tasks
        self._models = {**study.models, **study.references}

    def last(self) -> Iterator[Stage]:
        """Yield the stages that no other needs, and score stores and selections, which users want for themselves."""
        study = self.study
        for sampler in study.samplers:
            yield self.scores(sampler)
            yield from (self.selected(sampler, rate) for rate in study.rates)
        if self._contamination:
            yield self._contamination
        for dataset in study.datasets:
            yield self._dataset(dataset)
        if study.token_store:
            eos, tokenizer = study.token_store.append_eos, study.tokenizer
            yield OwnTokenStage(text=self.text, tokenizer=tokenizer, append_eos=eos, tasks=self._over_text)
        if study.join:
            yield self._joined(study.join)
        if study.models:
            measured = [one for run in study.runs() for one in self._measured(self.training(run))]
            yield Report(
                measured=tuple(measured),
                samplers=tuple(self._reported()),
                text=self.text,
                contamination=self._contamination,
                study=study.path,
            )

    # ------------------------------------------------------------------------------------------------------- corpora

    @property
    def _is_dealt(self) -> bool:
        """Whether held-out text is taken from the corpus itself; where nothing is trained, nothing is held out."""
        return bool(self.study.models) and not self.study.held_out

    @cached_property
    def _corpus(self) -> Corpus:
        study = self.study
        source = None if study.corpus is None else Files(study.corpus, "corpus", study.limit, study.reading)
        tasks = min(self._tasks, SHARDS) if source is None else 1
        return Corpus(deal=Deal(source=source, limit=study.limit, tasks=tasks))

    @cached_property
    def text(self) -> Text:
        """Return the text that is selected from."""
        if self._is_dealt:
            return Split(self._corpus, "train")
        assert self.study.corpus is not None  # the study file refuses held-out text, and no models, without a corpus
        return Files(self.study.corpus, "train", self.study.limit, self.study.reading)

    @cached_property
    def _beside(self) -> Reading:
        """The reading of the target and the held-out texts: as that of the corpus, but of all their files."""
        return replace(self.study.reading, glob="")

    @cached_property
    def _over_text(self) -> int:
        """Tasks of a stage over the corpus: a reader counts its limit in each task."""
        return 1 if isinstance(self.text, Files) and self.text.limit >= 0 else self._tasks

    def _tokenized(self, text: Text, model: str, tasks: int = 1) -> TokenStage:
        """Return a text as a model of the study reads it: to a decoder, EOS says where a document ends."""
        is_decoder = is_causal(self._models[model]["preset"])
        beside = "decoders/" if is_decoder else ""
        tokenizer = self.study.tokenizer_of(is_decoder)
        return TokenStage(text=text, tokenizer=tokenizer, append_eos=is_decoder, beside=beside, tasks=tasks)

    @cached_property
    def _held_out(self) -> dict[str, list[Text]]:
        if self._is_dealt:
            return {task: [Split(self._corpus, task)] for task in ("in_distribution", "high_quality")}
        return {
            task: [Files(path, f"{task}/{source}", reading=self._beside) for source, path in sources.items()]
            for task, sources in self.study.held_out.items()
        }

    @cached_property
    def _domains(self) -> tuple[tuple[str, Text], ...]:
        asked = self.study.evaluation.domains
        if isinstance(asked, str):  # the held-out texts
            found = tuple(
                (task if len(texts) == 1 else one.name.replace("/", "-"), one)
                for task, texts in self._held_out.items()
                for one in texts
            )
            _refuse_twice(self.study, "domains", [MACRO, *(name for name, _ in found)])
            return found
        return tuple((name, Files(path, f"domains/{name}", reading=self._beside)) for name, path in asked.items())

    @cached_property
    def _foundations(self) -> Foundations:
        target = None if self.study.target is None else Files(self.study.target, "target", reading=self._beside)
        own = Target(self.text, prose_only=True) if target is None else Target(target)
        evaluations = EvaluationNgrams.of(self.study) if self.study.contamination else None
        return Foundations(self.text, own, self.study.embedder, self._tasks, self._over_text, evaluations)

    # -------------------------------------------------------------------------------------------- scores, selections

    @cached_property
    def _contamination(self) -> Scores | GivenScores | None:
        """What the documents share with evaluation sets; None if the study does not ask for it."""
        if self.study.contamination is None:
            return None
        return self.scores(SamplerSettings(name="contamination").chosen())

    @property
    def _contaminated(self) -> Contaminated | None:
        asked = self.study.contamination
        if self._contamination is None or asked is None or asked.exclude is None:
            return None
        return Contaminated(self._contamination, asked.exclude)

    def scores(self, sampler: StudySampler) -> Scores | GivenScores:
        """Return the scores that a sampler cuts."""
        if sampler.scores:
            named = sampler.row if sampler.row == sampler.name else ""
            return GivenScores(store=store_of(sampler), path=sampler.scores, row=named)
        plainest = of_scorer(sampler.scorer)
        asks_model = sampler.model is not None
        served = sampler.options.get("vllm") or {}
        return Scores(
            store=store_of(sampler),
            text=self.text,
            row=plainest.name if plainest else sampler.row,
            model=self._judge(sampler.model) if sampler.model is not None else None,
            stands_on=self._foundations.of(sampler),
            options=dict(sampler.options),
            tasks=self._over_text,
            devices=int(asks_model) * int(served.get("tensor-parallel-size", 1)),
        )

    def _judge(self, model: str) -> str | Proxy | ScoringCheckpoint:
        if model in self.study.proxies:
            return Proxy(called=model, tokenizer=self.study.tokenizer, config=self.study.proxies[model])
        trained, is_checkpoint, step = model.partition("@")
        if is_checkpoint:
            return ScoringCheckpoint(self.training(self._full(trained)), int(step))
        return model

    def _full(self, model: str) -> Run:
        """Return the run on everything whose checkpoints score."""
        return Run(FULL, 1.0, model, self.study.seeds[0])

    def _mode(self, sampler: StudySampler) -> str:
        """Return how a sampler's scores are cut; a given store says which end of its scores is good."""
        if not sampler.scores or sampler.asked_mode:
            return sampler.asked_mode or sampler.cut
        from launch.datasets.settings import usual_mode

        return usual_mode(sampler.scores)

    def selected(self, sampler: StudySampler, rate: float) -> Selected:
        """Return the documents that a sampler keeps at a rate."""
        seed = self.study.selection_seed
        return Selected(
            scores=self.scores(sampler),
            sampler=sampler.name,
            mode=self._mode(sampler),
            rate=rate,
            seed=seed,
            shaping=sampler.shaping,
            labels=sampler.labels,
            exclude=sampler.exclude,
            contaminated=self._contaminated,
        )

    def _joined(self, settings: JoinSettings) -> Joined:
        keys = JoinKeysStage(text=self.text, on=settings.on, tasks=self._over_text)
        chosen = settings.model_dump(exclude={"on", "memory"})
        return Joined(keys=keys, memory=settings.memory, **chosen)

    def _dataset(self, settings: Any) -> Dataset:
        named = [one for one in self.study.samplers if settings.sampler in (None, one.name)]
        assert isinstance(self.text, Files)  # the study file refuses datasets of a dealt corpus
        before = DatasetBefore(self.scores(named[0]), self.text, self._contaminated)
        return dataset_of(self.study, settings, named[0], self._mode(named[0]), before)

    # --------------------------------------------------------------------------------------------- runs, measurements

    def training(self, run: Run) -> Training:
        """Return the training of a run."""
        arguments = self._models[run.model]
        sampler = next((one for one in self.study.samplers if one.name == run.sampler), None)
        return Training(
            run=run,
            tokens=self._tokenized(self.text, run.model, self._over_text),
            selection=self.selected(sampler, run.rate) if sampler else None,
            arguments={name: value for name, value in arguments.items() if name not in FREE},
            others={name: value for name, value in arguments.items() if name in FREE},
            milestones=tuple(self._milestones(run)),
            trunk=self.training(replace(run, model=trunk)) if (trunk := arguments.get("branch_from")) else None,
            precision=arguments.get("mixed_precision") or self._precision,
            launch=self.study.engine.launch,
            devices=self._launched_devices(nodes=True),
        )

    def _milestones(self, run: Run) -> list[int]:
        """Return the steps whose checkpoints are kept: those asked for, those that score, and where branches begin."""
        wanted = set(self._models[run.model].get("milestones", []))
        for sampler in self.study.samplers:
            model, is_checkpoint, step = (sampler.model or "").partition("@")
            if is_checkpoint and self._full(model) == run:
                wanted.add(int(step))
        for model, arguments in self._models.items():
            if arguments.get("branch_from") == run.model:
                branch = self._said(model)
                wanted.add(branch.schedule_to(branch.budget).decay_start)
        return sorted(wanted)

    @property
    def _precision(self) -> str:
        """Return the precision for runs that do not set it: the one in engine.launch, or accelerate's default."""
        return self._launched("mixed_precision") or "no"

    def _launched(self, option: str) -> str:
        """Return what engine.launch says about an option of accelerate launch; "" if nothing."""
        said = re.findall(rf"--{option.replace('_', '[_-]')}[= ]+(\S+)", self.study.engine.launch)
        return said[-1] if said else ""

    def _launched_devices(self, nodes: bool) -> int:
        processes = self._launched("num_processes") or "1"
        if processes.isdigit():
            return int(processes)
        # $NUM_PROCESSES of a Slurm job: see docs/slurm.md
        training = self.study.engine.training
        of_a_node = str(training.get("gpus-per-node", 1)).rpartition(":")[2]
        return int(of_a_node) * (int(training.get("nodes", 1)) if nodes else 1)

    def _measured(self, training: Training) -> Iterator[Measurement]:
        evaluation, model = self.study.evaluation, training.run.model
        is_decoder = is_causal(self._models[model]["preset"])
        held_out = ((t, tuple(self._tokenized(one, model) for one in texts)) for t, texts in self._held_out.items())
        yield Perplexity(training=training, held_out=tuple(held_out), devices=1)
        if evaluation.domains:
            yield BitsPerByte(domains=self._domains, devices=1, **self._at(training, "domains"))
        tuned: dict[str, Any] = {
            "budget": evaluation.budget,
            "data_root": evaluation.data_root,
            "precision": self._precision,
            "launch": self.study.engine.launch,
            "devices": self._launched_devices(nodes=False),
        }
        for suite in [] if is_decoder else evaluation.suites:
            yield FineTuned(what=suite, **tuned, **self._at(training, suite))
        if evaluation.few_shot:
            is_tuned = evaluation.instruction_tune and not is_decoder
            tuned["devices"] = tuned["devices"] if is_tuned else 1
            yield FewShots(
                tasks_asked=tuple(evaluation.few_shot),
                instruction_tune=is_tuned,
                limit=evaluation.limit,
                **tuned,
                **self._at(training, "few_shot"),
            )

    def _at(self, training: Training, measure: str) -> dict[str, Any]:
        """Return the checkpoints at which a training is measured, as arguments of `AtSteps`: a task for each."""
        every, said = self.study.evaluation.every_of(measure), self._said(training.run.model)
        if not every or training.run.model in self.study.references:
            return {"training": training}
        begun = said.schedule_to(said.budget).decay_start if said.branch_from else 0  # before, it is the trunk's
        steps = [step for step in said.budget.grid(said.checkpoints)[::-every][::-1] if step > begun]
        return {"training": training} | ({"steps": tuple(steps), "tasks": len(steps)} if len(steps) > 1 else {})

    def _said(self, model: str) -> PretrainArguments:
        return PretrainArguments(tokens="", run_dir="", **self._models[model])

    def _reported(self) -> Iterator[Reported]:
        for sampler in self.study.samplers:
            selection = self.selected(sampler, min(self.study.rates)) if self.study.rates else None
            yield Reported(sampler.name, self.scores(sampler), selection)
