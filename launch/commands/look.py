"""`winnow compare`, `winnow inspect` and `winnow coverage`: what scores and selections hold."""

from __future__ import annotations

from typing import Annotated

from launch.commands.arguments import CORPUS, PLACE
from pipeline_steps.errors import WinnowError
from pipeline_steps.terminal import Terminal, print_json, wide


def compare(
    a: Annotated[str, PLACE],
    b: Annotated[str, PLACE],
    /,
    *,
    corpus: Annotated[str | None, CORPUS] = None,
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
    found = comparing.compare(a, b, rate, corpus, documents)
    if json:
        print_json(found)
    else:
        comparing.show(found, wide())
    return 0


def inspect(
    path: Annotated[str, PLACE], /, *, embeddings: Annotated[str | None, PLACE] = None, json: bool = False
) -> int:
    """Print how many documents a score store holds, how their scores are distributed (exactly), and what made them.

    Names the sources that are unfinished: it works while scoring is still running.

    Args:
        path: folder of the score store, local or e.g. s3://bucket/scores/ask-llm.
        embeddings: embedding store of the same corpus: also show the nearest documents of the highest and lowest
            scores.
        json: print one JSON object instead.

    Examples:
      winnow inspect scores/ask-llm
      winnow inspect scores/density --embeddings embeddings/
    """
    from launch.inspect import inspect as facts_of
    from launch.inspect import show
    from launch.neighbours import neighbours, show_neighbours

    facts = facts_of(path)
    if embeddings:
        facts["examples"] = neighbours(path, embeddings)
    if json:
        print_json(facts)
        return 0
    show(facts, Terminal())
    if embeddings:
        show_neighbours(facts["examples"], Terminal())
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
