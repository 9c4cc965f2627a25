"""Write the report of a study: everything in it comes from files."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.checkpoint import SELECTED_DOCUMENTS, TRAINING_HOURS
from evaluate_suite.report.documents import MOST_SCORERS, Document, ends, pick, read_documents
from evaluate_suite.report.figures_corpus import oriented
from evaluate_suite.report.figures_schematic import Place, judge, places
from evaluate_suite.report.gallery import study_figures
from evaluate_suite.report.outcomes import outcomes
from evaluate_suite.report.page import Scorers, Words, markdown, render
from evaluate_suite.report.points import (
    StudyResults,
    finals,
    lower_is_better,
    models,
    read_measurements,
    result_files,
)
from evaluate_suite.report.scores import Score
from evaluate_suite.report.style import save
from evaluate_suite.report.table_data import time_unit
from evaluate_suite.report.tables_corpus import contamination_table
from evaluate_suite.report.verdicts import flat, intervals_in_words, table_rate, verdicts
from evaluate_suite.results import BITS
from pipeline_steps import __version__
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.samplers import ordered
from pipeline_steps.scorers.contamination import Overlaps, overlaps
from pipeline_steps.stores.files import write_atomically
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection
from pipeline_steps.stores.source_store import SourceStore


if TYPE_CHECKING:
    from rich.table import Table

_DOCUMENTS = 10  # of each kind
_ROWS = 40  # of a table that a terminal shows whole
_LIBRARIES = ("datatrove", "torch", "transformers", "accelerate", "tokenizers", "numpy", "scipy", "matplotlib")
_SAID = ("proxy", "model", "embedded", "hash")  # of how scores were made


@dataclass(frozen=True)
class ReportSettings:
    """What a report is made from.

    Attributes:
        runs: files of results, or folders that hold results.jsonl anywhere; the costs.jsonl beside them are read too.
        output: file of the report.
        format: "html", or "markdown" for a model card.
        scores: score stores of one corpus by sampler.
        selections: selection files of that corpus by sampler.
        corpus: the corpus of the scores, to show documents of.
        reading: how its rows are read.
        figures: folder that every figure is also written to, as .svg, .pdf and .png.
        partial: average incomplete suites over the tasks that all runs have, and say so.
        scoring_hours: accelerator hours of scoring the corpus by sampler.
        command: what the report was asked for with.
        notes: paragraphs on how this was made.
        facts: further names and values; "corpus" is what the corpus is called.
        lower_is_better: scorers whose low scores are good, of stores that do not say so themselves.
        contamination: score store of ContaminationScorer, of that corpus.
        evaluation: folder of the units that `winnow evaluate` measured; `evaluation` beside the results unless given.
        clusters: folder of `KMeansAssign` of that corpus: the coverage of selections.
    """

    runs: Sequence[str]
    output: str
    format: str = "html"
    scores: Mapping[str, str] = field(default_factory=dict)
    selections: Mapping[str, str] = field(default_factory=dict)
    corpus: str | None = None
    reading: Reading = USUAL
    figures: str | None = None
    partial: bool = False
    scoring_hours: Mapping[str, float] = field(default_factory=dict)
    command: str = ""
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    lower_is_better: Sequence[str] = ()
    contamination: str | None = None
    evaluation: str | None = None
    clusters: str | None = None

    @cached_property
    def measurements(self) -> StudyResults:
        """What was measured; raises as `read_measurements`."""
        study = read_measurements(self.runs, self.partial)
        hours = {**study.scoring_hours, **self.scoring_hours}
        return replace(study, scoring_hours=hours, evaluations=tuple(self.evaluations))

    @property
    def evaluations(self) -> list[str]:
        """Folders of units."""
        files = [file for runs in self.runs for file in result_files(runs)]
        beside = dict.fromkeys(f"{file.rpartition('/')[0] or '.'}/evaluation" for file in files)
        return [self.evaluation] if self.evaluation else list(beside)


def write_report(settings: ReportSettings) -> Iterator[str]:
    """Write the report, and yield a line for the terminal on each thing there is now.

    Raises:
        WinnowError: results, stores, selections or the corpus cannot be used together.
    """
    study = settings.measurements
    stores = _open_stores(settings)
    selections = _open_selections(settings, stores)
    overlap = _overlaps(settings, selections)
    contamination = contamination_table(selections, overlap) if selections or overlap else None
    found = outcomes(study)
    words = Words(_facts(settings, stores), settings.notes)
    scores = {name: store.scores for name, store in stores.items()}
    units = {name: store.made.get("unit", "score") for name, store in stores.items()}
    lower = [name for name, store in stores.items() if _is_lower(settings.lower_is_better, name, store)]
    page, drawn = settings.format == "html", []
    if page or settings.figures:
        placed = _places(settings, stores, selections)
        drawn = list(study_figures(study, found, scores, lower, units, selections, placed))
        if settings.clusters and placed is None:
            yield "Coverage and quality are not drawn: that needs selections, and scores of Ask-LLM."
    for one in drawn if settings.figures else []:
        save(one.figure, f"{settings.figures}/{one.name}")
    if settings.figures:
        yield f"figures  {settings.figures}: {len(drawn)}, each .svg, .pdf and .png"
    if page:
        documents = _choose_documents(settings, stores, oriented(scores, lower))
        corpus = Scorers(scores, lower, units, selections, documents, contamination)
        text = render(study, found, drawn, corpus, words)
    else:
        text = markdown(study, found, words, contamination)
    write_atomically(settings.output, text.encode())
    yield f"report   {settings.output}"


def terminal_table(settings: ReportSettings) -> Table:
    """Return the outcome of a study for a terminal: a row per run, and below them what the numbers support.

    Of a study with many runs, only those at the rate that most samplers have; the report has the others.
    """
    from rich.table import Table

    study = settings.measurements
    points, names = finals(study), models(study)
    if len(points) > _ROWS:
        points = [point for model in names for point in finals(study, model, table_rate(study, model))]
    order = ordered(point.sampler for point in points)
    points = sorted(points, key=lambda point: (names.index(point.model), order.index(point.sampler), point.rate))
    documents, hours = study.costs(SELECTED_DOCUMENTS), study.costs(TRAINING_HOURS)
    tasks = list(dict.fromkeys(measure for point in points for measure in point.scores if lower_is_better(measure)))
    unit, per_hour = time_unit([*hours.values(), *study.scoring_hours.values()])
    table = Table(title="The same model, the same tokens, other documents", title_justify="left")
    for name in ["sampler"] + ["model"] * (len(names) > 1):
        table.add_column(name, no_wrap=True)
    short = {"hq_perplexity": "HQ", "c4_perplexity": "C4"}
    columns = [BITS.get(task, "").lower() or f"{short.get(task) or task.replace('_', '-')} ppl" for task in tasks]
    for name in ["rate", "documents", "tokens", "epochs", *columns, f"scoring {unit}", f"training {unit}"]:
        table.add_column(name, justify="right")
    for point in points:
        scores = [point.scores.get(task) for task in tasks]
        table.add_row(
            point.sampler,
            *([point.model] if len(names) > 1 else []),
            f"{point.rate:g}",
            f"{documents[point.run]:,.0f}" if point.run in documents else "–",
            f"{point.encoder_tokens:,}",
            f"{point.epoch:.2f}",
            *[_shown(task, score) for task, score in zip(tasks, scores, strict=True)],
            f"{per_hour * study.scoring_hours[point.sampler]:.1f}" if point.sampler in study.scoring_hours else "–",
            f"{per_hour * hours[point.run]:.1f}" if point.run in hours else "–",
        )
    found, said = outcomes(study), []
    for model in names:
        if (rate := table_rate(study, model)) is not None:
            said += [f"{model}, {100 * rate:g} %"] if len(names) > 1 else []
            said += flat(verdicts(study, found, model, rate))
    table.caption, table.caption_justify = "\n".join([intervals_in_words(study), *said]), "left"
    return table


def _shown(task: str, score: Score | None) -> str:
    digits = 3 if task in BITS else 1
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}]" if score else "–"


def _is_lower(given: Sequence[str], name: str, store: ScoreStore) -> bool:
    """Return whether low scores are good. Where any name is given, that decides for stores that do not say."""
    return name in given or (not given or "lower_is_better" in store.made) and store.lower_is_better


def _open_stores(settings: ReportSettings) -> dict[str, ScoreStore]:
    """Open the score stores, by scorer.

    Raises:
        StoreMismatch: they are of different documents, or a name of `lower_is_better` is none of them.
    """
    opened = {name: ScoreStore.open(path) for name, path in settings.scores.items()}
    first = next(iter(opened.values()), None)
    for store in opened.values():
        if first is not None:
            first.check_same_corpus(store)
    unknown = sorted(set(settings.lower_is_better) - opened.keys())
    if unknown:
        known = ", ".join(opened) or "none"
        raise StoreMismatch(f"--lower-is-better {' '.join(unknown)}: no such --scores; those given are {known}")
    return opened


def _open_selections(settings: ReportSettings, stores: Mapping[str, ScoreStore]) -> dict[str, np.ndarray]:
    """Load masks bool [N] of selections of one corpus, that of the scores if there are any.

    Raises:
        StoreMismatch: they are of different corpora.
    """
    loaded = {name: Selection.load(path) for name, path in settings.selections.items()}
    digest, corpus = next(((store.corpus_digest, store.path) for store in stores.values()), ("", ""))
    for name, selection in loaded.items():
        path = settings.selections[name]
        digest, corpus = (digest, corpus) if digest else (selection.corpus_digest, path)
        if selection.corpus_digest != digest:
            raise StoreMismatch(
                f"{path} and {corpus} are of different corpora: give selections made from scores of one corpus"
            )
    return {name: selection.mask for name, selection in loaded.items()}


def _overlaps(settings: ReportSettings, selections: Mapping[str, np.ndarray]) -> Overlaps | None:
    """Return what documents share with evaluation sets; None if that was not measured.

    Raises:
        StoreMismatch: the store is of another corpus than the selections, or holds other scores.
    """
    if settings.contamination is None:
        return None
    store = ScoreStore.open(settings.contamination)
    for name in selections:
        Selection.load(settings.selections[name]).check_corpus(store.corpus_digest, store.path)
    return overlaps(store)


def _places(
    settings: ReportSettings, stores: Mapping[str, ScoreStore], selections: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, Place]] | None:
    """Return the scorer that judges quality, and where selections stand; None without clusters, judge or selections.

    Raises:
        StoreMismatch: the clusters are of another corpus.
        StoreIncomplete: they are not finished.
    """
    judged_by = judge({name: str(store.made.get("scorer")) for name, store in stores.items()})
    if settings.clusters is None or judged_by is None or not selections:
        return None
    assignments = SourceStore(f"{settings.clusters}/assignments")
    assignments.check_complete()
    assignments.check_same_corpus(stores[judged_by])
    cluster_N = assignments.column("cluster").astype(np.int64)
    return judged_by, places(selections, cluster_N, stores[judged_by].scores)


def _choose_documents(
    settings: ReportSettings, stores: Mapping[str, ScoreStore], scores: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], list[Document]]:
    """Pick documents of every kind, read from the corpus of the scores; none without a corpus.

    Raises:
        CorpusError: the corpus cannot be read.
        StoreMismatch: it is not the one that was scored, or there are no scores.
    """
    if settings.corpus is None:
        return {}
    if not stores:
        raise StoreMismatch("--corpus shows documents by their scores: give --scores as well")
    documents = read_documents(settings.corpus, next(iter(stores.values())).keys, settings.reading)
    return pick(scores, documents, _DOCUMENTS, *ends(scores), each=len(scores) <= MOST_SCORERS)


def _facts(settings: ReportSettings, stores: Mapping[str, ScoreStore]) -> dict[str, str]:
    """Return command, settings, how scores were made, and versions: name -> value."""
    found = ({"command": settings.command} if settings.command else {}) | dict(settings.facts)
    for name in ordered(stores):
        made = {key: value for key, value in stores[name].made.items() if key in _SAID}
        if made:
            found[f"scores of {name}"] = json.dumps(made)
    versions = [f"winnow-llm {__version__}"]
    for library in _LIBRARIES:
        try:
            versions.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    machine = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return found | {"versions": ", ".join(versions), "machine": machine}
