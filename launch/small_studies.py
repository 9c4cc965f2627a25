"""The studies behind `winnow quickstart`, `winnow score` and `winnow select`: written to their folder, then run.

The study file stays, so `winnow run`, `winnow status` and `winnow plan` take these folders up where the commands left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from launch.study_file import Study, parse_study, study_text, write_study
from launch.yaml_places import YamlFile, read_text
from pipeline_steps.errors import CorpusError, WinnowError
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.samplers import EMBEDDED, Sampler, find
from pipeline_steps.stores.artefact import json_types, refuse_differences
from pipeline_steps.stores.files import write_atomically


QUICKSTART = "quickstart.yaml"


def quickstart_study(
    output: str, corpus: str | None, limit: int, proxy: str, embedder: str, rate: float, train_tokens: int, seed: int
) -> dict[str, Any]:
    """Return what the packaged quickstart study says, with these settings in place of its own."""
    values: dict[str, Any] = yaml.safe_load(study_text(QUICKSTART))
    if corpus is not None:
        values |= {"corpus": _spelled(corpus), "limit": limit}
    for sampler in values["samplers"]:
        if isinstance(sampler, dict) and "ask-llm" in sampler:
            sampler["ask-llm"]["model"] = proxy
    for model in values["models"].values():
        model["total_tokens"] = train_tokens
    values |= {"output": output, "embedder": embedder, "rates": [rate], "selection_seed": seed, "seeds": [seed]}
    return values


def score_study(
    output: str, sampler: str, corpus: str, proxy: str | None, embedder: str, target: str | None, limit: int
) -> dict[str, Any]:
    """Return a study that scores a corpus with one sampler's scorer.

    Raises:
        WinnowError: the settings do not go together.
    """
    if limit == 0 or limit < -1:
        raise WinnowError(f"--limit {limit} reads nothing: give a number of documents, or leave it out")
    if "://" in output:
        raise WinnowError(f"{output} is not on this machine's disk: score into a local folder, and copy the store")
    row = find(sampler)
    targeted = row.stands_on in ("dsir", "quality-classifier")
    if targeted and target is None:
        raise WinnowError(f"{sampler} needs --target PATH: the corpus of text it is to find more of")
    if not targeted and target is not None:
        raise WinnowError(f"{sampler} has no target: leave --target out")
    model = _model(row, proxy)
    values: dict[str, Any] = {"output": output, "corpus": _spelled(corpus), "limit": limit, "embedder": embedder}
    if target is not None:
        values["target"] = _spelled(target)
    return values | {"samplers": [row.name if model == row.model else {row.name: {"model": model}}]}


def _model(row: Sampler, proxy: str | None) -> str | None:
    """Return the model that a sampler asks. Raises WinnowError if it is missing, or out of place."""
    if proxy is not None:
        if row.model is None:
            raise WinnowError(f"{row.name} asks no model: leave --proxy out")
        if row.model and "@" not in row.model:
            raise WinnowError(
                f"{row.name} asks {row.model}: leave --proxy out, or give --sampler with its scorer's name"
            )
        return proxy
    if row.model is not None and "@" in row.model:
        raise WinnowError(f"{row.name} asks a checkpoint ({row.model}): give its folder as --proxy")
    if row.model == "" and row.name == "ask-llm":
        return EMBEDDED
    if row.model == "":
        raise WinnowError(f"{row.name} asks a model: give its Hub id or folder as --proxy, e.g. google/t5-v1_1-base")
    return row.model


def given_scores_study(output: str, corpus: str, limit: int, scores: str, mode: str) -> dict[str, Any]:
    """Return a study that cuts a score store which exists already."""
    sampler = {"given": {"scores": scores, "mode": mode}}
    return {"output": output, "corpus": _spelled(corpus), "limit": limit, "samplers": [sampler]}


def _spelled(corpus: str) -> str:
    """Return one spelling, which is noted: crawl and crawl/ are the same."""
    return corpus.rstrip("/") or "/"


def written(path: str, values: Mapping[str, Any], about: str, workers: int, free: tuple[str, ...] = ()) -> Study:
    """Write a study file, unless it is there, and return the study.

    Args:
        path: where it stands.
        values: what the study says, but for its engine.
        about: a comment for its first line.
        workers: processes at a time; tasks too, unless a file that is there says how many.
        free: keys whose values may differ from those of the file that is there.

    Raises:
        StoreMismatch: the file that is there says something else; names each difference.
        InvalidStudy: the values cannot be those of a study.
    """
    if workers < 1:
        raise WinnowError(f"--workers {workers} does nothing: give at least 1")
    tasks = _tasks(values, workers)
    if Path(path).exists():
        text = read_text(path, Path(path))
        tasks = parse_study(path, text).engine.tasks
        found, wanted = YamlFile.read(path, text).plain, json_types(dict(values))
        compared = [key for key in {**found, **wanted} if key not in ("output", "engine", *free)]
        refuse_differences({key: found.get(key) for key in compared}, {key: wanted.get(key) for key in compared}, path)
    text = write_study({**values, "engine": {"workers": workers, "tasks": tasks}}, about)
    return parse_study(path, text)


def save(study: Study, values: Mapping[str, Any], about: str) -> None:
    """Write the file of a study that `written` has returned: nothing stands against running it."""
    engine = {"workers": study.engine.workers, "tasks": study.engine.tasks}
    write_atomically(study.path, write_study({**values, "engine": engine}, about).encode())


def _tasks(values: Mapping[str, Any], workers: int) -> int:
    """Return the tasks of each stage: as many as workers, but not more than files; one if only some are read."""
    if values.get("corpus") is None or values.get("models"):  # the corpus is dealt into files of our own
        return workers
    return 1 if values["limit"] >= 0 else max(1, min(workers, len(list_corpus(values["corpus"]).sizes)))


def refuse_inside(corpus: str, *folders: str) -> None:
    """Raise CorpusError if one of our folders is inside the corpus's: our files would be read as its own."""
    for folder in (one for one in folders if os.path.isdir(corpus) and "://" not in one):
        if Path(folder).resolve().is_relative_to(Path(corpus).resolve()):
            raise CorpusError(
                f"{folder} is inside the corpus {corpus}, and would be read as part of it: choose another"
            )
