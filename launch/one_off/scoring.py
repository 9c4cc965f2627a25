"""`winnow score`: one scorer and all it stands on over a whole corpus.

It is a study that trains nothing, kept in its folder as <sampler>.yaml; samplers of one corpus share a folder and with
it embeddings, clusters and n-grams.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from launch.progress import StageProgress
from launch.study.access import check_access, note_files
from launch.study.commands import claim
from launch.study.local import run_local
from launch.study.outputs import forget_lost
from launch.study.progress import begun, fingerprints, tasks_left
from launch.study.reading import parse_study
from launch.study.schema import MODELS, PAPER_SAMPLERS, Sampler, of_table
from launch.study.stages import Stage, stages_of, store_of
from launch.study.yaml_lines import read_text, read_yaml
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import CorpusError, WinnowError
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus, refuse_changed_files
from pipeline_steps.samplers import EMBEDDED, find
from pipeline_steps.stores.artefact import refuse_differences
from pipeline_steps.stores.files import DELETE, read_json, write_atomically, write_json


_TARGETED = ("dsir", "quality-classifier")


@dataclass(frozen=True)
class ScoreSettings:
    """What decides the scores of a corpus.

    Attributes:
        corpus: as `pipeline_steps.readers.corpus.open_corpus` takes it.
        sampler: whose scorer is run.
        limit: the first documents of it; -1 for all.
        embedder: of density, SemDeDup and prototypes.
        target: corpus that DSIR and the quality classifier find more of.
    """

    corpus: str
    sampler: Sampler
    limit: int = -1
    embedder: str = "hashed-ngrams"
    target: str | None = None


def find_sampler(name: str) -> Sampler:
    """Return a sampler of the table, as a study states it. Raises WinnowError if there is none."""
    return of_table(find(name))


def with_proxy(sampler: Sampler, proxy: str | None) -> Sampler:
    """A sampler and the model it asks. Raises WinnowError: that is missing, or out of place."""
    name = sampler.name
    if proxy is not None:
        if sampler.scorer not in MODELS:
            raise WinnowError(f"{name} asks no model: leave --proxy out")
        if sampler.model and "@" not in sampler.model:
            raise WinnowError(f"{name} asks {sampler.model}: leave --proxy out, or give --sampler {sampler.scorer}")
        return replace(sampler, model=proxy)
    if "@" in sampler.model:
        raise WinnowError(f"{name} asks a checkpoint ({sampler.model}): give its folder as --proxy")
    if sampler.scorer == "ask-llm" and not sampler.model:
        return replace(sampler, model=EMBEDDED)
    if sampler.scorer in MODELS and not sampler.model:
        raise WinnowError(f"{name} asks a model: give its Hub id or folder as --proxy, e.g. google/t5-v1_1-base")
    return sampler


def check_settings(settings: ScoreSettings) -> CorpusFiles:
    """The files of the corpus.

    Raises:
        CorpusError: it cannot be listed.
        WinnowError: the settings do not go together, or one holds a credential.
    """
    refuse_credentials(asdict(settings), "winnow score")
    if settings.limit == 0 or settings.limit < -1:
        raise WinnowError(f"--limit {settings.limit} reads nothing: give a number of documents, or leave it out")
    if settings.sampler.scorer in _TARGETED and settings.target is None:
        raise WinnowError(f"{settings.sampler.name} needs --target PATH: the corpus of text it is to find more of")
    if settings.sampler.scorer not in _TARGETED and settings.target is not None:
        raise WinnowError(f"{settings.sampler.name} has no target: leave --target out")
    if settings.target is not None:
        list_corpus(settings.target)
    return list_corpus(settings.corpus)


def refuse_inside(corpus: str, *folders: str) -> None:
    """Files of ours in a corpus's folder would be read as its own. Raises CorpusError if one of these is in it."""
    for folder in (one for one in folders if os.path.isdir(corpus) and "://" not in one):
        if Path(folder).resolve().is_relative_to(Path(corpus).resolve()):
            raise CorpusError(
                f"{folder} is inside the corpus {corpus}, and would be read as part of it: choose another"
            )


def score(folder: str, settings: ScoreSettings, files: CorpusFiles, workers: int, progress: StageProgress) -> str:
    """Score what is not scored yet; the score store's folder.

    The caller holds the lock of `folder`.

    Raises:
        WinnowError: the input is at fault, or the folder holds other work.
        StageFailed: a process died.
    """
    refuse_inside(settings.corpus, folder)
    if "://" in folder:
        raise WinnowError(f"{folder} is not on this machine's disk: score into a local folder, and copy the store")
    path = Path(folder, f"{settings.sampler.name}.yaml")
    text = _study_text(path, settings, files, workers)
    study = parse_study(str(path), text)
    study = replace(study, engine=replace(study.engine, workers=workers))
    stages, wanted = stages_of(study), store_of(study.samplers[0])
    chosen, made = needed(stages, wanted), fingerprints(stages)
    begun_before = [name for name, stage in chosen.items() if begun(study, stage, made[name])]
    for sentence in forget_lost(study, chosen, made, {wanted}):
        progress.note(sentence)
    listed = check_access(study, [name for name, stage in chosen.items() if tasks_left(study, stage, made[name])])
    claim_files(folder, settings.corpus, files)
    claim(study)
    note_files(study, listed, begun_before)
    write_atomically(str(path), text.encode())
    run_local(study, chosen, made, progress)
    return os.path.join(folder, wanted)


def needed(stages: Mapping[str, Stage], name: str) -> dict[str, Stage]:
    """A stage and all it stands on, each after those it needs."""
    found = {name}
    for other in reversed(list(stages)):
        if other in found:
            found.update(stages[other].needs)
    return {other: stage for other, stage in stages.items() if other in found}


def _study_text(path: Path, settings: ScoreSettings, files: CorpusFiles, workers: int) -> str:
    """The study file; one that is there must say the same, but for the number of tasks, which stays."""
    # A reader counts its limit in each task
    tasks = 1 if settings.limit >= 0 else max(1, min(workers, len(files.sizes)))
    wanted = _study(settings)
    if path.exists():
        text = read_text(str(path), path)
        tasks = parse_study(str(path), text).engine.tasks
        found = read_yaml(str(path), text).plain
        refuse_differences({key: found[key] for key in found.keys() - {"output", "engine"}}, wanted, str(path))
    made = {"output": str(path.parent), **wanted, "engine": {"tasks": tasks}}
    about = f"# Written by winnow score: {settings.sampler.name} over a whole corpus. Nothing is trained.\n"
    return about + yaml.safe_dump(made, sort_keys=False, allow_unicode=True)


def claim_files(folder: str, corpus: str, files: CorpusFiles) -> None:
    """Note which files the corpus has. Raises StoreMismatch if they were others, in name, size or version."""
    path, wanted = Path(folder, "corpus.json"), {"corpus": corpus, "files": files.listing}
    if path.exists():
        found = read_json(str(path), DELETE)
        refuse_changed_files(found, wanted, folder)
        refuse_differences(found, wanted, folder)
    write_json(str(path), wanted)


def _study(settings: ScoreSettings) -> dict[str, Any]:
    sampler = settings.sampler
    named: Any = sampler.name
    if PAPER_SAMPLERS.get(sampler.name) != sampler:
        given = {"scorer": sampler.scorer, "mode": sampler.mode, "model": sampler.model}
        named = {sampler.name: {key: value for key, value in given.items() if value}}
    made: dict[str, Any] = {"corpus": settings.corpus, "limit": settings.limit, "embedder": settings.embedder}
    if settings.target is not None:
        made["target"] = settings.target
    return made | {"samplers": [named]}
