"""The settings that decide a dataset, and the command that repeats them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pipeline_steps import samplers
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.filters.cuts import Cut
from pipeline_steps.numerics.priority import Mode
from pipeline_steps.readers.corpus import CorpusFiles
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.stores.artefact import json_types
from pipeline_steps.stores.score_store import ScoreStore


Format = Literal["parquet", "jsonl"]
COUNT = "count"


@dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """The settings of a dataset of chosen documents, all of them resolved.

    Attributes:
        corpus: a path, as `pipeline_steps.readers.corpus.open_corpus` takes it.
        cut: which documents are kept.
        output: where the dataset goes.
        limit: how many documents of the corpus are read, from its beginning; -1 for all.
        sampler: the name of the sampler that scores the corpus; None if only `scores` says.
        model: the model that the sampler asks; None if it asks none, or if `scores` are given.
        options: further arguments of the sampler's scorer.
        embedder: the model of the embeddings that the sampler stands on; None likewise.
        target: the corpus whose likes the sampler finds; None likewise.
        scores: the user's own score store, which stands in for scoring.
        format: of the files.
        score_column: the column that scores go to; None if the dataset has none.
        private: whether a repository that has to be made on the Hub is private.
        reading: how rows of the corpus are read.
        labels: the label store whose strata, or whose mixture, are cut; None for the corpus as a whole.
        repeat: whether a document that is kept several times has as many rows, instead of a row with its count.
        exclude: score stores whose worse scores leave a document out, each as `FoundCut` takes it.

    Raises:
        WinnowError: a setting holds a credential.
        InvalidCut: the scores go to the column of the counts, or there are labels missing.
    """

    corpus: str
    cut: Cut
    output: str
    limit: int = -1
    sampler: str | None = None
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    embedder: str | None = None
    target: str | None = None
    scores: str | None = None
    format: Format = "parquet"
    score_column: str | None = None
    private: bool = False
    reading: Reading = USUAL
    labels: str | None = None
    repeat: bool = False
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        refuse_credentials(asdict(self), "winnow select")
        if self.cut.mixture is not None and self.labels is None:
            raise InvalidCut("a mixture is of the labels of documents: give --labels, a store of MetadataLabels")
        if len(self.added) < 2 * (self.score_column is not None) + (self.count_column is not None):
            raise InvalidCut(f"the column {COUNT!r} holds counts: give --score-column another name")

    @property
    def count_column(self) -> str | None:
        """Return the column that says how often a document is kept; None if each row is kept once."""
        return None if self.cut.is_plain or self.repeat else COUNT

    @property
    def rank_column(self) -> str | None:
        """Return the column of ranks, 1 for the document that is kept first; None if there are no scores."""
        return None if self.score_column is None else f"{self.score_column}_rank"

    @property
    def added(self) -> dict[str, str]:
        """Return the columns that are added to those of the corpus, with their Arrow types by name."""
        columns = {self.score_column: "float", self.rank_column: "int64", self.count_column: "uint8"}
        return {name: kind for name, kind in columns.items() if name is not None}

    def made(self) -> dict[str, Any]:
        """Return all settings as JSON types, without those that were added later and are at their defaults."""
        made = json_types(asdict(self) | {"cut": self.cut.made()})
        return {name: value for name, value in made.items() if value or name not in ("labels", "repeat", "exclude")}

    def made_from(self, files: CorpusFiles) -> dict[str, Any]:
        """Return what decides the dataset, as JSON types: two datasets of the same have the same files."""
        made = self.made()
        del made["output"], made["private"], made["reading"]
        made |= self.reading.changed | {"files": files.listing, "proxy": made.pop("model"), **made.pop("cut")}
        return made

    def command(self, output: str) -> str:
        """Return the command line that writes this dataset to `output`; "" if only a study file can say it."""
        if self.options or "@" in (self.model or ""):
            return ""
        usual = samplers.find(self.sampler).model if self.sampler else None
        flags = {
            "corpus": self.corpus,
            "limit": self.limit if self.limit >= 0 else None,
            **self.reading.changed,
            "sampler": self.sampler,
            "proxy": None if self.model == usual else self.model,
            "embedder": self.embedder,
            "target": self.target,
            "scores": self.scores,
            **self.cut.made(),
            "labels": self.labels,
            "exclude": list(self.exclude) or None,
            "repeat": self.repeat or None,
            "score_column": self.score_column,
            "format": self.format,
            "output": output,
        }
        given = ((f"--{name.replace('_', '-')}", value) for name, value in flags.items() if value is not None)
        return shlex.join(["winnow", "select", *(word for flag, value in given for word in (flag, *_words(value)))])


def _words(value: Any) -> list[str]:
    """Return what follows a flag."""
    if isinstance(value, dict):
        return [f"{name}={one}" for name, one in value.items()]
    if isinstance(value, list):
        return value
    return [] if value is True else [str(value)]


def usual_mode(scores: str) -> Mode:
    """Return how samplers cut scores of this kind; "top" for scores of a scorer that no sampler has."""
    row = samplers.of_scorer(ScoreStore(scores).made.get("scorer"))
    return "top" if row is None else row.cut


def usual_column(sampler: str | None, scores: str | None) -> str | None:
    """Return the column that scores go to unless the user names one: the scorer's; None for a draw by chance."""
    row = samplers.find(sampler or "") if scores is None else samplers.of_scorer(ScoreStore(scores).made.get("scorer"))
    return "score" if row is None else samplers.score_name({"scorer": row.scorer_name})


def check_scores(scores: str, sampler: str) -> None:
    """Raise StoreMismatch unless a score store holds the scores of a sampler."""
    found, row = ScoreStore(scores).made, samplers.find(sampler)
    asked = (found.get("proxy") or {}).get("model", row.model)
    if found.get("scorer") != row.scorer_name or (row.model and asked != row.model):
        made = f"{found.get('scorer')} by {asked}" if row.model else found.get("scorer")
        raise StoreMismatch(
            f"{scores} holds scores of {made}, not of {sampler}: leave --sampler out, or give its own scores"
        )
