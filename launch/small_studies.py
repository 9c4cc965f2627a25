"""The studies behind `winnow quickstart`, `score`, `select` and `tokenize`: written to their folder, then run.

The study file stays, so `winnow run`, `winnow status` and `winnow plan` take these folders up where the commands left.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.plan import Plan
from launch.progress import StageProgress
from launch.runner import run
from launch.stages.corpora import Files
from launch.study_file import Study, parse_study, study_text
from launch.yaml_places import YamlFile, read_text
from pipeline_steps.errors import CorpusError, InvalidStudy, WinnowError
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus, refuse_changed_files
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.samplers import EMBEDDED, Sampler, find
from pipeline_steps.stores.artefact import json_types, refuse_differences
from pipeline_steps.stores.files import DELETE, read_json, write_atomically
from pipeline_steps.terminal import Terminal


QUICKSTART = "quickstart.yaml"


@dataclass(frozen=True)
class SmallStudy:
    """A study that a command has made of its flags.

    Attributes:
        command: the command, for messages and for the first line of the file.
        path: where the study file stands.
        values: what the file says, but for its engine.
        workers: processes at a time; tasks of each stage too, unless a file that is there says how many.
        free: keys whose values may differ from those of a file that is there.
    """

    command: str
    path: str
    values: Mapping[str, Any]
    workers: int
    free: tuple[str, ...] = ()

    def study(self) -> Study:
        """Return the study.

        Raises:
            StoreMismatch: the file that is there says something else, or the corpus has changed since.
            InvalidStudy: the values cannot be those of a study.
        """
        text = self._text()
        try:
            return parse_study(self.path, text)
        except InvalidStudy as error:  # whoever gave flags has no file to look into
            raise InvalidStudy(str(error).removeprefix(self.path).partition(": ")[2] or str(error)) from None

    def run(self) -> Plan:
        """Write the study file and do what is left; raises as `study` and `launch.runner.run`."""
        plan = Plan.of(self.study())
        with StageProgress(Terminal(stderr=True)) as progress:
            run(plan, None, progress, what=self.command, prepare=self._write)
        return plan

    def _write(self) -> None:
        write_atomically(self.path, self._text().encode())

    def _text(self) -> str:
        if self.workers < 1:
            raise WinnowError(f"--workers {self.workers} does nothing: give at least 1")
        tasks = self._tasks()
        if Path(self.path).exists():
            text = read_text(self.path, Path(self.path))
            if Path(str(self.values["output"]), "stages").is_dir():  # tasks of a stage stay as many as they were
                tasks = parse_study(self.path, text).engine.tasks
            found, wanted = YamlFile.read(self.path, text).plain, json_types(dict(self.values))
            keys = {**found, **wanted}.keys() - {"output", "engine", "on_bad_row", *self.free}
            refuse_differences(
                {key: found.get(key) for key in keys}, {key: wanted.get(key) for key in keys}, self.path
            )
        values = {**self.values, "engine": {"workers": self.workers, "tasks": tasks}}
        return f"# Written by {self.command}.\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"

    def _tasks(self) -> int:
        """Return the tasks of each stage: as many as workers, but not more than files; one if only some are read."""
        corpus, output = self.values.get("corpus"), str(self.values["output"])
        if corpus is None or self.values.get("models"):  # the corpus is dealt into files of our own
            return self.workers
        glob = {name: value for name, value in self.values.items() if name == "glob"}
        files = list_corpus(corpus, **glob)
        with suppress(FileNotFoundError):
            noted = read_json(os.path.join(output, "study.json"), DELETE)
            listed = CorpusFiles(**read_json(str(Files(corpus, "train").listing(output)), DELETE)).listing
            refuse_changed_files(
                {**noted, "files": listed}, {"corpus": corpus, "files": files.listing, **glob}, output
            )
        return 1 if self.values["limit"] >= 0 else max(1, min(self.workers, len(files.sizes)))


def quickstart_values(output: str, flags: Any) -> dict[str, Any]:
    """Return what the packaged quickstart study says, with the flags of `winnow quickstart` in place of its own."""
    values: dict[str, Any] = YamlFile.read(QUICKSTART, study_text(QUICKSTART)).plain
    if flags.corpus is not None:
        values |= {"corpus": spelled(flags.corpus), "limit": flags.limit, **flags.reading.changed}
    elif flags.reading.changed:
        flag = f"--{min(flags.reading.changed).replace('_', '-')}"
        raise WinnowError(f"{flag} is of a corpus: give --corpus, or leave it out")
    for sampler in values["samplers"]:
        if isinstance(sampler, dict):
            ((_, settings),) = sampler.items()
            settings["model"] = flags.proxy or settings["model"]
    for model in values["models"].values():
        model["total_tokens"] = flags.train_tokens
    values |= {"output": output, "embedder": flags.embedder, "rates": [flags.rate]}
    return values | {"selection_seed": flags.seed, "seeds": [flags.seed + seed for seed in values["seeds"]]}


def score_values(
    output: str, sampler: str, flags: Any, evaluations: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what a study says that scores a corpus with one sampler's scorer.

    `evaluations` is the section that says which questions are looked for.

    Raises:
        WinnowError: the flags do not go together.
    """
    if "://" in output:
        raise WinnowError(f"{output} is not on this machine's disk: score into a local folder, and copy the store")
    row = find(sampler)
    targeted = row.stands_on in ("dsir", "quality-classifier")
    if targeted and flags.target is None:
        raise WinnowError(f"{sampler} needs --target PATH: the corpus of text it is to find more of")
    if not targeted and flags.target is not None:
        raise WinnowError(f"{sampler} has no target: leave --target out")
    if row.stands_on == "evaluations" and not evaluations:
        raise WinnowError(
            f"{sampler} needs evaluation sets: winnow score --evaluations TASK or --evaluation-texts NAME=PATH; then "
            "winnow select takes its scores"
        )
    if row.stands_on != "evaluations" and evaluations:
        raise WinnowError(f"{sampler} looks for no questions: leave --evaluations and --evaluation-texts out")
    model = _model(row, flags.proxy)
    values = corpus_values(output, flags.corpus, flags.limit, flags.reading) | {"embedder": flags.embedder}
    if flags.target is not None:
        values["target"] = spelled(flags.target)
    values |= evaluations or {}
    return values | {"samplers": [row.name if model == row.model else {row.name: {"model": model}}]}


def given_scores_values(output: str, scores: str, flags: Any) -> dict[str, Any]:
    """Return what a study says that cuts a score store which is there already."""
    if flags.proxy or flags.target:
        raise WinnowError("--scores are used as they are: leave --proxy and --target out")
    values = corpus_values(output, flags.corpus, flags.limit, flags.reading)
    return values | {"samplers": [{"given": {"scores": scores}}]}


def corpus_values(output: str, corpus: str, limit: int, reading: Reading = USUAL) -> dict[str, Any]:
    """Return what a study says about its corpus. Raises WinnowError for a limit that reads nothing."""
    if limit == 0 or limit < -1:
        raise WinnowError(f"--limit {limit} reads nothing: give a number of documents, or leave it out")
    return {"output": output, "corpus": spelled(corpus), "limit": limit, **reading.changed}


def _model(row: Sampler, proxy: str | None) -> str | None:
    """Return the model that a sampler asks. Raises WinnowError if it is missing, or out of place."""
    if proxy is not None:
        if row.model is None:
            raise WinnowError(f"{row.name} asks no model: leave --proxy out")
        if row.model and "@" not in row.model:
            raise WinnowError(f"{row.name} asks {row.model}: leave --proxy out, or give --sampler its scorer's name")
        return proxy
    if row.model is not None and "@" in row.model:
        raise WinnowError(f"{row.name} asks a checkpoint ({row.model}): give its folder as --proxy")
    if row.model == "" and row.name == "ask-llm":
        Terminal(stderr=True).print(
            "ask-llm asks the embedded proxy, a T5 of 1M parameters that knows the look of informative prose, not "
            "facts or harm. It is for trying out: give --proxy, e.g. google/flan-t5-large",
            style="yellow",
            soft_wrap=True,
        )
        return EMBEDDED
    if row.model == "":
        raise WinnowError(f"{row.name} asks a model: give its Hub id or folder as --proxy, e.g. google/t5-v1_1-base")
    return row.model


def spelled(corpus: str) -> str:
    """Return the one spelling of a corpus that is noted: crawl and crawl/ are the same."""
    return corpus.rstrip("/") or "/"


def refuse_inside(corpus: str, *folders: str) -> None:
    """Raise CorpusError if one of our folders is inside the corpus's: our files would be read as its own."""
    for folder in (one for one in folders if os.path.isdir(corpus) and "://" not in one):
        if Path(folder).resolve().is_relative_to(Path(corpus).resolve()):
            raise CorpusError(
                f"{folder} is inside the corpus {corpus}, and would be read as part of it: choose another"
            )
