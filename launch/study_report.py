"""Gather runs, scores, selections and documents into the report of a study."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluate_suite.figures.scorers import oriented
from evaluate_suite.figures.style import save
from evaluate_suite.study.documents import Document, pick
from evaluate_suite.study.gallery import study_figures
from evaluate_suite.study.outcomes import outcomes
from evaluate_suite.study.page import Scorers, markdown, render
from evaluate_suite.study.points import read_study
from evaluate_suite.study.samplers import FAMILIES
from pipeline_steps import __version__
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.readers.corpus import open_corpus
from pipeline_steps.stores.files import write_atomically
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection


if TYPE_CHECKING:
    from launch.commands.studies import ReportFlags


_DOCUMENTS = 10  # of each kind
_LIBRARIES = ("matplotlib", "numpy", "scipy")


@dataclass(frozen=True, eq=False)
class Stores:
    """Score stores of one corpus, by scorer.

    Attributes:
        opened: the stores.
        lower: scorers whose low scores are the good ones.
    """

    opened: dict[str, ScoreStore]
    lower: frozenset[str]


def write_study_report(runs: Sequence[str], args: ReportFlags, command: str) -> Iterator[str]:
    """Read what `winnow report` was given, write the report, and say which files there are now.

    Raises:
        WinnowError: results, stores, selections or the corpus cannot be used together.
    """
    study = read_study(list(runs), args.partial)
    study = replace(study, scoring_hours={**study.scoring_hours, **dict(args.scoring_hours)})
    stores = open_stores(args.scores, args.lower_is_better)
    selections = open_selections(args.selections, stores)
    found = outcomes(study)
    versions = _versions(command)
    scores = {name: store.scores for name, store in stores.opened.items()}
    units = {name: store.made.get("unit", "score") for name, store in stores.opened.items()}
    page = args.format == "html"
    figures = list(study_figures(study, found, scores, stores.lower, units)) if page or args.figures else []
    for one in figures if args.figures else []:
        save(one.figure, f"{args.figures}/{one.name}")
    if args.figures:
        yield f"figures  {args.figures}: {len(figures)}, each .svg, .pdf and .png"
    if not page:
        text = markdown(study, found, versions)
    else:
        turned = oriented(scores, stores.lower)
        documents = choose_documents(args.corpus, stores, turned) if args.corpus else {}
        text = render(study, found, figures, Scorers(scores, stores.lower, selections, documents), versions)
    write_atomically(args.output, text.encode())
    yield f"report   {args.output}"


def open_stores(named: Sequence[tuple[str, str]], lower: Sequence[str]) -> Stores:
    """Score stores of the same documents.

    Raises:
        StoreMismatch: they are not, or a name of `lower` is none of them.
    """
    opened = {name: ScoreStore.open(path) for name, path in named}
    first = next(iter(opened.values()), None)
    for store in opened.values():
        if first is not None:
            first.check_same_corpus(store)
    unknown = sorted(set(lower) - opened.keys())
    if unknown:
        known = ", ".join(opened) or "none"
        raise StoreMismatch(f"--lower-is-better {' '.join(unknown)}: no such --scores; those given are {known}")
    turned = {name for name, store in opened.items() if store.made.get("scorer") == "PerplexityScorer"}
    return Stores(opened, frozenset({*lower, *turned}))


def open_selections(named: Sequence[tuple[str, str]], stores: Stores) -> dict[str, np.ndarray]:
    """Masks bool [N] of selections of one corpus, that of the scores if there are any.

    Raises:
        StoreMismatch: they are of different corpora.
    """
    loaded = {name: Selection.load(path) for name, path in named}
    paths = dict(named)
    digest, corpus = next(((s.corpus_digest, s.path) for s in stores.opened.values()), ("", ""))
    for name, selection in loaded.items():
        if not digest:
            digest, corpus = selection.corpus_digest, paths[name]
        if selection.corpus_digest != digest:
            raise StoreMismatch(
                f"{paths[name]} and {corpus} are of different corpora: give selections made from scores of one corpus"
            )
    return {name: selection.mask for name, selection in loaded.items()}


def choose_documents(corpus: str, stores: Stores, scores: dict[str, np.ndarray]) -> dict[str, list[Document]]:
    """Documents of `documents.KINDS`, read from the corpus of the scores.

    Args:
        corpus: as `pipeline_steps.readers.corpus.open_corpus` takes it.
        stores: whose keys say that it is the same corpus.
        scores: float32 [N] by scorer, higher is better.

    Raises:
        CorpusError: the corpus cannot be read.
        StoreMismatch: it is not the one that was scored, or there are no scores.
    """
    if not stores.opened:
        raise StoreMismatch("--corpus shows documents by their scores: give --scores as well")
    key_N = next(iter(stores.opened.values())).keys
    smallest, largest = _ends(scores)
    return pick(scores, _documents(corpus, key_N), _DOCUMENTS, smallest, largest)


def _documents(corpus: str, key_N: np.ndarray) -> Iterator[tuple[int, str, str]]:
    """Ordinal, id and text of each document, checked against what was scored."""
    with tempfile.TemporaryDirectory() as folder:
        data = None
        for step in open_corpus(corpus, str(Path(folder, "files.txt"))):
            data = step.run(data, 0, 1)
        for ordinal, document in enumerate(data or ()):
            if ordinal >= len(key_N) or document_key(document.id, document.text) != int(key_N[ordinal]):
                raise StoreMismatch(
                    f"document {ordinal:,} of {corpus} ({document.id}) is not the one that was scored there: give the "
                    "corpus of these scores"
                )
            yield ordinal, document.id, document.text


def _ends(scores: dict[str, np.ndarray]) -> tuple[str, str]:
    """Scorers with the smallest and the largest proxy of one kind; "" if there are no two sizes."""
    for family in ("Ask-LLM, by proxy", "Perplexity, by proxy"):
        there = [name for name in FAMILIES[family] if name in scores]
        if len(there) > 1:
            return there[0], there[-1]
    return "", ""


def _versions(command: str) -> dict[str, str]:
    found = {"command": command, "winnow-llm": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
