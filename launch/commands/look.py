"""`winnow compare`, `inspect`, `coverage` and `report`: what scores, selections and results hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token

from launch.commands.arguments import CORPUS, NAME, NEW_PLACE, PLACE, SEVERAL, NamedPlaces, Rows
from pipeline_steps.errors import InvalidStudy, WinnowError
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.terminal import Terminal, print_json, wide


def compare(
    a: Annotated[str, PLACE],
    b: Annotated[str, PLACE],
    /,
    *,
    corpus: Annotated[str | None, CORPUS] = None,
    reading: Rows = USUAL,
    rate: float = 0.2,
    documents: int = 5,
    json: bool = False,
) -> int:
    """Say how much two selections of one corpus have in common, and how much they would by chance.

    Says, too, how alike two scores rank the corpus, and which documents only one of them keeps. A score store stands
    for its best documents: as many as the other side keeps, or --rate of them. Best is what the paper prefers: low
    perplexity, SemDeDup similarity and density, high scores else.

    Args:
        a: selection (.safetensors), folder of a score store, or dataset of winnow select.
        b: the other one.
        corpus: of both: show ids and texts of documents.
        rate: of two score stores, share that counts as kept.
        documents: documents to show of each kind.
        json: print one JSON object instead.

    Examples:
      winnow compare kept-ask-llm kept-density --corpus crawl/
      winnow compare work/scores/ask-llm work/scores/perplexity --rate 0.1 --json
      winnow compare selections/a.safetensors selections/b.safetensors
    """
    from launch import compare as comparing

    if documents < 0:
        raise WinnowError(f"--documents {documents} cannot be shown: give 0 or more")
    found = comparing.compare(a, b, rate, corpus, documents, reading)
    if json:
        print_json(found)
    else:
        comparing.show(found, wide())
    return 0


def inspect(
    path: Annotated[str, PLACE],
    /,
    *,
    corpus: Annotated[str | None, CORPUS] = None,
    embeddings: Annotated[str | None, PLACE] = None,
    reading: Rows = USUAL,
    json: bool = False,
) -> int:
    """Print how many documents a score store holds, how their scores are distributed (exactly), and what made them.

    Names the sources that are unfinished: it works while scoring is still running.

    Args:
        path: folder of the score store, local or e.g. s3://bucket/scores/ask-llm.
        corpus: the corpus that was scored: also show the first words of the documents of highest and lowest scores.
        embeddings: embedding store of the same corpus: also show the nearest documents of the highest and lowest
            scores.
        reading: how the rows of the corpus are read.
        json: print one JSON object instead.

    Examples:
      winnow inspect scores/ask-llm
      winnow inspect scores/ask-llm --corpus crawl/
      winnow inspect scores/density --embeddings embeddings/
    """
    from launch.inspect import inspect as facts_of
    from launch.inspect import show

    facts = facts_of(path, corpus, embeddings, reading)
    if json:
        print_json(facts)
    else:
        show(facts, Terminal())
    return 0


def coverage(
    *selections: Annotated[str, PLACE],
    clusters: Annotated[str, PLACE],
    embeddings: Annotated[str, PLACE],
    density: Annotated[str, PLACE],
    quality: Annotated[str | None, PLACE] = None,
    json: bool = False,
) -> int:
    """Print how evenly selections cover the corpus, and how good they are.

    For each selection: its entropy over clusters, its kernel discrepancy to the corpus and to a uniform cover of it,
    and its mean quality: the trade-off between quality and coverage.

    Args:
        selections: files written by Selection.save.
        clusters: folder KMeansAssign wrote to.
        embeddings: folder Embedder wrote to.
        density: score store of DensityScorer.
        quality: score store whose mean is shown, e.g. of AskLLMScorer.
        json: print a JSON list instead.

    Examples:
      winnow coverage top.safetensors ips.safetensors --clusters clusters --embeddings embeddings --density density
    """
    from launch.coverage import compare as rows_of
    from launch.coverage import show_coverage

    if not selections:
        raise WinnowError("coverage needs a SELECTION: a file written by Selection.save (see winnow coverage --help)")
    rows = rows_of(list(selections), clusters, embeddings, density, quality)
    if json:
        print_json(rows)
    else:
        show_coverage(rows, Terminal())
    return 0


def _hours(kind: Any, words: Sequence[Token]) -> list[tuple[str, float]]:
    found = []
    for word in words:
        name, _, hours = word.value.partition("=")
        try:
            value = float(hours if name else "")
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise ValueError(f"{word.value!r} is not NAME=HOURS, e.g. ask-llm-xl=10.0")
        found.append((name, value))
    return found


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportFlags:
    """The flags of `winnow report`.

    Attributes:
        output: the report.
        format: markdown: Table 1 and words, for a model card.
        scores: score stores.
        lower_is_better: scores that are turned around before scorers are compared, beside those whose stores say that
            low is good.
        selections: selections, for their overlap.
        contamination: score store of the sampler contamination, to say what the selections hold of evaluation sets.
        corpus: corpus of the scores, to show documents of.
        clusters: folder KMeansAssign wrote to, to show selections by coverage and quality.
        figures: also write every figure as .svg, .pdf and .png into this folder.
        partial: average incomplete suites over the tasks all runs have, and say so.
        scoring_hours: accelerator hours of scoring.
    """

    output: Annotated[str, NEW_PLACE]
    format: Literal["html", "markdown"] = "html"
    scores: Annotated[NamedPlaces, Parameter(metavar="NAME=DIR")] = field(default_factory=list)
    lower_is_better: Annotated[list[str], SEVERAL, NAME] = field(default_factory=list)
    selections: Annotated[NamedPlaces, Parameter(metavar="NAME=FILE")] = field(default_factory=list)
    contamination: Annotated[str | None, PLACE] = None
    corpus: Annotated[str | None, CORPUS] = None
    clusters: Annotated[str | None, PLACE] = None
    reading: Rows = USUAL
    figures: Annotated[str | None, NEW_PLACE] = None
    partial: bool = False
    scoring_hours: Annotated[
        list[tuple[str, float]], SEVERAL, Parameter(converter=_hours, n_tokens=1, metavar="NAME=HOURS")
    ] = field(default_factory=list)


def report(*runs: Annotated[str, PLACE], flags: ReportFlags) -> int:
    """Gather the results of training runs and draw what the paper draws.

    Table 1 with confidence intervals, quality against quantity, efficiency, cost, agreement of scorers, documents to
    read. The run on everything is the sampler "full": over-scaling needs it of this model and of a larger one,
    effective model size of two sizes. Names of samplers are free; the paper's (random, density, semdedup, prototypes,
    dsir, quality-classifier, ask-llm-{small,base,large,xl,xxl,gemma-7b}, perplexity-{small,base,large,xl,xxl},
    perplexity-large-{20k,100k,300k,500k,700k}) are put into families, one figure each.

    Args:
        runs: files of results, or folders that hold results.jsonl anywhere.

    Examples:
      winnow report runs/ --output report.html
      winnow report runs/small runs/large/results.jsonl --output report.html --figures figures \\
          --scores ask-llm-small=scores/small ask-llm-xl=scores/xl perplexity-large=scores/perplexity \\
          --selections ask-llm-xl=selections/xl.safetensors random=selections/random.safetensors \\
          --corpus corpus/ --scoring-hours ask-llm-xl=10.0
      winnow report runs/ --output card.md --format markdown
    """
    from pipeline_steps.engines.models import require

    if not runs:
        raise InvalidStudy("report needs RUNS: files of results, or their folders (see winnow report --help)")
    for module, extra in (("scipy", "eval"), ("torch", "score"), ("matplotlib", "report"), ("jinja2", "report")):
        require(module, extra)
    from evaluate_suite.report import ReportSettings, write_report

    named = {name: dict(getattr(flags, name)) for name in ("scores", "selections", "scoring_hours")}
    command = " ".join(["winnow", *sys.argv[1:]])
    settings = ReportSettings(**{**vars(flags), **named, "runs": list(runs), "command": command})
    for line in write_report(settings):
        Terminal().print(line, highlight=False, soft_wrap=True)
    return 0
