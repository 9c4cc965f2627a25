"""The settings of a dataset that `winnow select` makes, and the command that repeats them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from launch.one_off.parts import Format
from launch.one_off.scoring import ScoreSettings
from launch.study.schema import PAPER_SAMPLERS, Sampler
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.filters.cuts import Cut
from pipeline_steps.numerics.priority import Mode
from pipeline_steps.readers.corpus import CorpusFiles
from pipeline_steps.samplers import SAMPLERS, of_scorer
from pipeline_steps.samplers import Sampler as Row
from pipeline_steps.stores.score_store import ScoreStore


_SCORE_FLAGS = ("sampler", "proxy", "embedder", "target", "scores", "mode", "k", "rate", "token_budget", "seed")


@dataclass(frozen=True)
class SelectSettings:
    """The settings that decide a dataset.

    Attributes:
        corpus: as `pipeline_steps.readers.corpus.open_corpus` takes it.
        sampler: whose scorer is run, and whose mode is the cut's; None: only `scores` says.
        cut: what to keep.
        scores: a score store to use instead of scoring.
        limit: the first documents of the corpus; -1 for all.
        embedder: of density, SemDeDup and prototypes.
        target: corpus that DSIR and the quality classifier find more of.
        format: of the files.
        column: that scores go to; None: the usual one.
    """

    corpus: str
    sampler: Sampler | None
    cut: Cut
    scores: str | None = None
    limit: int = -1
    embedder: str = "hashed-ngrams"
    target: str | None = None
    format: Format = "parquet"
    column: str | None = None

    def made_from(self, files: CorpusFiles) -> dict[str, Any]:
        """All of it, as JSON types: what another command on the same output must equal."""
        embeds = self.sampler is not None and self.sampler.scorer in ("density", "semdedup", "prototypes")
        return {
            "corpus": self.corpus,
            "files": files.listing,
            "limit": self.limit,
            "sampler": self.sampler.name if self.sampler else None,
            "proxy": (self.sampler.model or None) if self.sampler and not self.scores else None,
            "embedder": self.embedder if embeds and not self.scores else None,
            "target": self.target,
            "scores": self.scores,
            **asdict(self.cut),
            "format": self.format,
            "score_column": self.score_column(),
        }

    def score_column(self) -> str | None:
        """Return the column that scores go to; None for chance, which has no scores."""
        if self.column is not None:
            return self.column
        if self.scores is not None:
            row = of_scorer(ScoreStore(self.scores).made.get("scorer"))
        else:
            row = _row(self.sampler.scorer if self.sampler else "")
        if row is None:
            return "score"
        return None if row.cut == "random" else row.metadata_key() or "score"

    def score_settings(self) -> ScoreSettings:
        """Return the settings of the scoring."""
        assert self.sampler is not None
        return ScoreSettings(self.corpus, self.sampler, self.limit, self.embedder, self.target)


def usual_mode(scores: str) -> Mode:
    """Return how the paper cuts scores of this kind; "top" for scores that are not the paper's."""
    row = of_scorer(ScoreStore(scores).made.get("scorer"))
    return "top" if row is None else row.cut


def check_scorer(settings: SelectSettings) -> None:
    """Raise StoreMismatch unless the scores are those of the sampler that is named beside them."""
    found = ScoreStore(settings.scores or "").made
    if settings.sampler is None:
        return
    named, scorer = settings.sampler.model, settings.sampler.scorer
    asked = (found.get("proxy") or {}).get("model", named)
    if found.get("scorer") != _row(scorer).scorer_name or (named and asked != named):
        made = found.get("scorer") if not named else f"{found.get('scorer')} by {asked}"
        raise StoreMismatch(
            f"{settings.scores} holds scores of {made}, not of {settings.sampler.name}: leave --sampler out, or give "
            "its own scores"
        )


def _row(scorer: str) -> Row:
    return SAMPLERS[scorer or "random"]


def command(made_from: Mapping[str, Any], output: str) -> str:
    """The command that makes a dataset, without what changes nothing."""
    words = ["winnow", "select", "--corpus", made_from["corpus"]]
    if made_from["limit"] >= 0:
        words += ["--limit", str(made_from["limit"])]
    for name in (*_SCORE_FLAGS, "score_column"):
        named = made_from["sampler"] in PAPER_SAMPLERS and PAPER_SAMPLERS[made_from["sampler"]].model
        if made_from[name] is not None and not (name == "proxy" and made_from["proxy"] == named):
            words += [f"--{name.replace('_', '-')}", f"{made_from[name]}"]
    return shlex.join([*words, "--format", made_from["format"], "--output", output])
