"""What a study has to do, as stages that need each other: work that several runs share is there once.

proxies/*, corpus*, tokens/*, embeddings, clusters*, density/*, ngrams/*, dsir, quality   what scorers stand on
scores/<store>       one for each scorer and proxy
selections/<sampler>/<rate>
runs/<run>           one training
measured/<run>/...   perplexity, fine-tuned suites, few-shot tasks
report
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash

from launch.study.schema import MODELS, PAPER_SAMPLERS, Run, Sampler, Study
from pipeline_steps.samplers import EMBEDDED, FULL
from train.run_directory import FREE


Kind = Literal["pipeline", "proxy", "training", "measuring", "report"]
KEYS = "keys"  # store that chance draws from
# Names of what is read: a corpus whose held-out text is its own, or that has none; text to find more of
DEALT, TRAIN, TARGET = "corpus", "train", "target"
# Sealed files that list a corpus dealt for a study, and a model built for it
DEALT_FILES, PROXY_FILES = "corpus.json", "proxy.json"
_SKETCHES = 64  # tasks at most: each leaves 80 MB, and counting all of C4 is a core-hour
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
    return {
        stage.name: stage
        for part in (_corpus, _foundations, _scores, _selections, _runs, _measured)
        for stage in part(study)
    }


def store_of(sampler: Sampler) -> str:
    """Stage, and folder, of the scores that a sampler cuts.

    Named by what decides them, so that samplers of the same scorer and proxy share a store, and others can come to a
    study or go. Chance has a store of keys: what it draws must not hang on who scores beside it.
    """
    if not sampler.scorer:
        return f"scores/{KEYS}"
    if sampler.scored_by == (sampler.scorer, EMBEDDED, {}):
        return f"scores/{sampler.scorer}"
    for one in PAPER_SAMPLERS.values():
        if one.scored_by == sampler.scored_by:
            return f"scores/{one.name}"
    model = re.sub(r"[^A-Za-z0-9.]+", "-", sampler.model.rpartition("/")[2])
    decides = json.dumps([sampler.model, dict(sampler.options)], sort_keys=True).encode()
    return "scores/" + "-".join(filter(None, [sampler.scorer, model, xxhash.xxh3_64_hexdigest(decides)[:4]]))


def selection(study: Study, sampler: str, rate: float) -> str:
    """File of a selection."""
    return f"{study.output}/selections/{sampler}/{rate:g}.safetensors"


def listing_of(study: Study, name: str) -> Path:
    """File with the files of a corpus, as they were when the study began; its name, or <task>/<source>."""
    return Path(study.output) / "files" / f"{name.replace('/', '-')}.json"


def full_run(study: Study, model: str) -> Run:
    """The run on everything whose checkpoints score perplexity."""
    return Run(FULL, 1.0, model, study.seeds[0])


def is_dealt(study: Study) -> bool:
    """Whether held-out text is taken from the corpus itself; where nothing is trained, nothing is held out."""
    return bool(study.models) and not study.held_out


def splits_of(study: Study) -> dict[str, list[str]]:
    """Token stores of held-out text by task."""
    if is_dealt(study):
        return {task: [f"tokens/{task}"] for task in ("in_distribution", "high_quality")}
    return {task: [f"tokens/{task}/{source}" for source in sources] for task, sources in study.held_out.items()}


def _pipeline(
    study: Study, name: str, needs: list[str], made: Mapping[str, Any], tasks: int = 0, gpu: bool = False
) -> Stage:
    limited = study.limit >= 0 and not is_dealt(study)  # a reader counts its limit in each task
    return Stage(name, "pipeline", tuple(needs), tasks or (1 if limited else study.engine.tasks), gpu, made)


def _corpus(study: Study) -> Iterator[Stage]:
    """The corpus and its tokens."""
    corpus = {"corpus": study.corpus, "limit": study.limit}
    if is_dealt(study):
        yield _pipeline(study, "corpus/deal", [], corpus, 1 if study.corpus else SHARDS)
        yield _pipeline(study, "corpus", ["corpus/deal"], {}, 1)
    base = ["corpus"] if is_dealt(study) else []
    if study.models:
        yield _pipeline(study, "tokens/train", base, corpus | {"tokenizer": study.tokenizer})
    for task, stores in splits_of(study).items():
        for store in stores:
            source = study.held_out.get(task, {}).get(store.rsplit("/", 1)[1])
            yield _pipeline(study, store, base, {"corpus": source, "tokenizer": study.tokenizer}, 1)


def _foundations(study: Study) -> Iterator[Stage]:
    """What scorers stand on."""
    used = {sampler.scorer for sampler in study.samplers}
    corpus = {"corpus": study.corpus, "limit": study.limit}
    base = ["corpus"] if is_dealt(study) else []
    if used & {"density", "semdedup", "prototypes"}:
        gpu = study.embedder != "hashed-ngrams"
        yield _pipeline(study, "embeddings", base, corpus | {"embedder": study.embedder}, gpu=gpu)
    if "density" in used:
        yield _pipeline(study, "density/sketch", ["embeddings"], {}, min(study.engine.tasks, _SKETCHES))
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
    for proxy, config in study.proxies.items():
        made = {**config, "tokenizer": study.tokenizer}
        yield Stage(f"proxies/{proxy}", "proxy", (), 1, False, made)
    for name, sampler in {store_of(one): one for one in reversed(study.samplers)}.items():
        needs = [*base, *_STANDS_ON.get(sampler.scorer, [])]
        trained, at, _ = sampler.model.partition("@")
        if at:
            needs.append(f"runs/{full_run(study, trained).name}")
            yield from _run(study, full_run(study, trained))
        if sampler.model in study.proxies:
            needs.append(f"proxies/{sampler.model}")
        made = {"scorer": sampler.scorer, "model": sampler.model, "options": dict(sampler.options)}
        yield _pipeline(study, name, needs, made, gpu=sampler.scorer in MODELS)


def _selections(study: Study) -> Iterator[Stage]:
    for sampler in study.samplers:
        for rate in study.rates:
            name = f"selections/{sampler.name}/{rate:g}"
            yield _pipeline(study, name, [store_of(sampler)], {"mode": sampler.mode}, 1)


def _runs(study: Study) -> Iterator[Stage]:
    for run in study.runs():
        yield from _run(study, run)


def _run(study: Study, run: Run) -> Iterator[Stage]:
    needs = ["tokens/train"] if run.sampler == FULL else ["tokens/train", f"selections/{run.sampler}/{run.rate:g}"]
    arguments = {**study.models, **study.references}[run.model]
    decides = {name: value for name, value in arguments.items() if name not in FREE}
    precision = arguments.get("mixed_precision") or launched_precision(study)
    made = {**decides, **asdict(run), "mixed_precision": precision, "milestones": milestones_of(study, run)}
    yield Stage(f"runs/{run.name}", "training", tuple(needs), 1, True, made)


def launched_precision(study: Study) -> str:
    """Of what says nothing of it itself: that of engine.launch, as accelerate takes it."""
    return _launched(study, "mixed_precision") or "no"


def devices_of(study: Study, stage: Stage) -> int:
    """Accelerators that a task of a stage runs on, where there are any."""
    if stage.kind == "pipeline":
        sampler = next((one for one in study.samplers if one.scorer and store_of(one) == stage.name), None)
        served = sampler.options.get("vllm") if sampler else None
        return int(stage.gpu) * int((served or {}).get("tensor-parallel-size", 1))
    asked = stage.name.endswith("/few-shot") and not study.evaluation.instruction_tune
    if asked or stage.name.endswith("/perplexity") or not stage.gpu:  # one process, whatever engine.launch says
        return int(stage.gpu)
    processes = _launched(study, "num_processes") or "1"
    if processes.isdigit():
        return int(processes)
    # $NUM_PROCESSES of a Slurm job: see docs/slurm.md
    training = study.engine.training
    of_a_node = str(training.get("gpus-per-node", 1)).rpartition(":")[2]
    return int(of_a_node) * (int(training.get("nodes", 1)) if stage.kind == "training" else 1)


def _launched(study: Study, option: str) -> str:
    """What engine.launch says of an option of accelerate launch; "" if nothing."""
    said = re.findall(rf"--{option.replace('_', '[_-]')}[= ]+(\S+)", study.engine.launch)
    return said[-1] if said else ""


def milestones_of(study: Study, run: Run) -> list[int]:
    """Steps of a run whose checkpoints are to be kept: those that were asked for, and those that score perplexity."""
    wanted = set({**study.models, **study.references}[run.model].get("milestones", []))
    for sampler in study.samplers:
        model, at, step = sampler.model.partition("@")
        if at and full_run(study, model) == run:
            wanted.add(int(step))
    return sorted(wanted)


def _measured(study: Study) -> Iterator[Stage]:
    evaluation, names, precision = study.evaluation, [], launched_precision(study)
    splits = tuple(store for stores in splits_of(study).values() for store in stores)
    for run in study.runs():
        trained = f"runs/{run.name}"
        measured: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
            "perplexity": (splits, {"splits": list(splits)})
        }
        tuned = {"budget": evaluation.budget, "data_root": evaluation.data_root, "precision": precision}
        measured |= {suite: ((), tuned) for suite in evaluation.suites}
        if evaluation.few_shot:
            asked = {name: value for name, value in asdict(evaluation).items() if name != "suites"}
            asked["precision"] = precision
            measured["few-shot"] = ((), asked)
        for what, (more, made) in measured.items():
            names.append(f"measured/{run.name}/{what}")
            yield Stage(names[-1], "measuring", (trained, *more), 1, True, made)
    if names:
        yield Stage("report", "report", tuple(names), 1, False, {})
