"""What a study has to do, as stages that need each other: work that several runs share is there once.

corpus*, tokens/*, embeddings, clusters*, density/*, ngrams/*, dsir, quality   what scorers stand on
scores/<sampler>     one store for each scorer and proxy
selections/<sampler> all rates of a sampler
runs/<run>           one training
measured/<run>/...   perplexity, fine-tuned suites, few-shot tasks
report
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launch.study.samplers import Sampler
from launch.study.schema import FULL, Run, Study


Kind = Literal["pipeline", "training", "measuring", "report"]
SHARDS = 8  # files a corpus is dealt into: fixed, so that it does not depend on the number of tasks


@dataclass(frozen=True)
class Stage:
    """One node.

    Attributes:
        name: unique in the study; of its folder in many cases.
        kind: "pipeline" is datatrove's, the others are commands.
        needs: names of the stages that must be done before.
        tasks: of a pipeline, that run apart from each other; else 1.
        gpu: whether it runs a model.
        made: what decides its outcome beside `needs`, as JSON types.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    tasks: int
    gpu: bool
    made: Mapping[str, Any]


def stages_of(study: Study) -> dict[str, Stage]:
    """All stages, each after those it needs."""
    return {stage.name: stage for part in (_shared, _scores, _selections, _runs, _measured) for stage in part(study)}


def store_of(study: Study, sampler: Sampler) -> str:
    """Stage, and folder, of the scores a sampler cuts: those of the first sampler with the same scorer and proxy."""
    chance = not sampler.scorer
    scored = [one for one in study.samplers if one.scorer] if chance else list(study.samplers)
    same = [one for one in scored if chance or (one.scorer, one.model) == (sampler.scorer, sampler.model)]
    return f"scores/{same[0].name}" if same else "scores/keys"


def full_run(study: Study, model: str) -> Run:
    """The run on everything whose checkpoints score perplexity."""
    return Run(FULL, 1.0, model, study.seeds[0])


def is_dealt(study: Study) -> bool:
    """Whether held-out text is taken from the corpus itself."""
    return not study.held_out


def splits_of(study: Study) -> dict[str, list[str]]:
    """Token stores of held-out text by task."""
    if is_dealt(study):
        return {task: [f"tokens/{task}"] for task in ("in_distribution", "high_quality")}
    return {task: [f"tokens/{task}/{source}" for source in sources] for task, sources in study.held_out.items()}


def _pipeline(
    study: Study, name: str, needs: list[str], made: Mapping[str, Any], tasks: int = 0, gpu: bool = False
) -> Stage:
    return Stage(name, "pipeline", tuple(needs), tasks or study.engine.tasks, gpu, made)


def _shared(study: Study) -> Iterator[Stage]:
    """The corpus, its tokens, and what scorers stand on."""
    used = {sampler.scorer for sampler in study.samplers}
    corpus = {"corpus": study.corpus, "limit": study.limit}
    if is_dealt(study):
        yield _pipeline(study, "corpus/deal", [], corpus, 1 if study.corpus else SHARDS)
        yield _pipeline(study, "corpus", ["corpus/deal"], {}, 1)
    base = ["corpus"] if is_dealt(study) else []
    yield _pipeline(study, "tokens/train", base, corpus | {"tokenizer": study.tokenizer})
    for task, stores in splits_of(study).items():
        for store in stores:
            source = study.held_out.get(task, {}).get(store.rsplit("/", 1)[1])
            yield _pipeline(study, store, base, {"corpus": source, "tokenizer": study.tokenizer}, 1)
    if used & {"density", "semdedup", "prototypes"}:
        gpu = study.embedder != "hashed-ngrams"
        yield _pipeline(study, "embeddings", base, corpus | {"embedder": study.embedder}, gpu=gpu)
    if "density" in used:
        yield _pipeline(study, "density/sketch", ["embeddings"], {})
        yield _pipeline(study, "density/merge", ["density/sketch"], {}, 1)
    if used & {"semdedup", "prototypes"}:
        yield _pipeline(study, "clusters/fit", ["embeddings"], {}, 1)
        yield _pipeline(study, "clusters/assign", ["clusters/fit"], {})
    if "semdedup" in used:
        yield _pipeline(study, "clusters/similarities", ["clusters/assign"], {})
    if "dsir" in used:
        yield _pipeline(study, "ngrams/target", base, {"target": study.target})
        yield _pipeline(study, "ngrams/raw", base, corpus)
        yield _pipeline(study, "dsir", ["ngrams/target", "ngrams/raw"], {}, 1)
    if "quality-classifier" in used:
        yield _pipeline(study, "quality", base, corpus | {"target": study.target}, 1)


_STANDS_ON = {
    "density": ["density/merge"],
    "semdedup": ["clusters/similarities"],
    "prototypes": ["clusters/assign"],
    "dsir": ["dsir"],
    "quality-classifier": ["quality"],
}


def _scores(study: Study) -> Iterator[Stage]:
    base = ["corpus"] if is_dealt(study) else []
    scored = [sampler for sampler in study.samplers if sampler.scorer] or study.samplers[:1]  # chance takes another's
    for name, sampler in {store_of(study, one): one for one in reversed(scored)}.items():
        needs = [*base, *_STANDS_ON.get(sampler.scorer, [])]
        trained, at, _ = sampler.model.partition("@")
        if at:
            needs.append(f"runs/{full_run(study, trained).name}")
            yield from _run(study, full_run(study, trained))
        gpu = sampler.scorer in ("ask-llm", "perplexity")
        yield _pipeline(study, name, needs, {"scorer": sampler.scorer, "model": sampler.model}, gpu=gpu)


def _selections(study: Study) -> Iterator[Stage]:
    for sampler in study.samplers:
        made = {"mode": sampler.mode, "rates": list(study.rates)}
        yield _pipeline(study, f"selections/{sampler.name}", [store_of(study, sampler)], made, 1)


def _runs(study: Study) -> Iterator[Stage]:
    for run in study.runs():
        yield from _run(study, run)


def _run(study: Study, run: Run) -> Iterator[Stage]:
    needs = ["tokens/train"] if run.sampler == FULL else ["tokens/train", f"selections/{run.sampler}"]
    arguments = {**study.models, **study.references}[run.model]
    yield Stage(f"runs/{run.name}", "training", tuple(needs), 1, True, {**arguments, **asdict(run)})


def _measured(study: Study) -> Iterator[Stage]:
    evaluation, names = study.evaluation, []
    splits = tuple(store for stores in splits_of(study).values() for store in stores)
    for run in study.runs():
        trained = f"runs/{run.name}"
        measured: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "perplexity": (splits, {"splits": list(splits)})
        }
        measured |= {suite: ((), {"budget": evaluation.budget}) for suite in evaluation.suites}
        if evaluation.few_shot:
            asked = {name: value for name, value in asdict(evaluation).items() if name not in ("suites", "data_root")}
            measured["few-shot"] = ((), asked)
        for what, (more, made) in measured.items():
            names.append(f"measured/{run.name}/{what}")
            yield Stage(names[-1], "measuring", (trained, *more), 1, True, made)
    yield Stage("report", "report", tuple(names), 1, False, {})
