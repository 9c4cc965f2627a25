"""`winnow inspect`: what a score store holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from datatrove.utils.batching import batched
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from launch.neighbours import add_neighbours, add_texts, extremes, show_examples
from pipeline_steps.errors import StoreIncomplete
from pipeline_steps.numerics.statistics import summarise
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.stores.score_store import ScoreStore


FRACTIONS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def inspect(
    path: str, corpus: str | None = None, embeddings: str | None = None, reading: Reading = USUAL
) -> dict[str, Any]:
    """Return facts about a score store, finished or not, as JSON types.

    Args:
        path: the store's folder.
        corpus: the corpus, to show words of documents.
        embeddings: its embedding store, to show the nearest documents too.
        reading: how the rows of the corpus are read.

    Raises:
        StoreIncomplete: there is no score store, or none of its sources is finished.
        StoreDamaged: one of its files is; names it.
        StoreMismatch: the corpus or the embeddings are others.
    """
    problem = None
    try:
        store = ScoreStore.open(path)
    except StoreIncomplete as error:
        problem = str(error)
        store = ScoreStore.open(path, partial=True)

    def scores() -> Iterator[np.ndarray]:
        for source in store.sources:
            for batch in store.batches(source, ["score"]):
                yield batch["score"]

    batches = (batch for source in store.sources for batch in store.batches(source, ["tokens"]))
    tokens = sum(int(batch["tokens"].sum(dtype=np.int64)) for batch in batches)
    summary = summarise(scores, FRACTIONS)
    examples = extremes(store)
    if embeddings:
        add_neighbours(examples, store, embeddings)
    if corpus:
        add_texts(examples, corpus, reading)
    return {
        "path": path,
        "complete": problem is None,
        "problem": problem,
        "documents": summary.documents,
        "sources": len(store.sources),
        "unfinished_sources": store.begun() if problem else {},
        "tokens": tokens,
        "mean": summary.mean,
        "standard_deviation": summary.deviation,
        "quantiles": {str(fraction): value for fraction, value in summary.quantiles.items()},
        "histogram": {"edges": summary.edges.tolist(), "counts": summary.counts.tolist()},
        "examples": examples,
        "config": store.made,
    }


def show(facts: dict[str, Any], console: Console) -> None:
    """Print what `inspect` found."""
    scorer = facts["config"]["scorer"] + (f", {facts['config']['unit']}" if "unit" in facts["config"] else "")
    counts = Table.grid(padding=(0, 2))
    counts.add_row("made by", scorer)
    counts.add_row("documents", f"{facts['documents']:,} in {facts['sources']:,} source files")
    counts.add_row("tokens", f"{facts['tokens']:,}" if facts["tokens"] else "not counted")
    counts.add_row("score", f"mean {facts['mean']:.5g}, standard deviation {facts['standard_deviation']:.5g}")
    state = Text("complete", "green") if facts["complete"] else Text(f"not complete: {facts['problem']}", "bold red")
    counts.add_row("state", state)
    for name, windows in facts["unfinished_sources"].items():
        counts.add_row("", f"unfinished: {name}, {windows} windows")
    console.print(Panel(Group(counts), title=Text(facts["path"], "bold"), title_align="left"))
    console.print(*_quantiles(facts["quantiles"]), _histogram(facts["histogram"]))
    show_examples(facts["examples"], console)
    config = json.dumps(facts["config"], indent=2, ensure_ascii=False, sort_keys=True)
    console.print(Panel(Text(config), title="config", title_align="left"))


def _quantiles(quantiles: dict[str, float]) -> Iterator[RenderableType]:
    yield Text("documents with at most this score")
    for some in batched(quantiles.items(), 6):  # so many fit into 80 columns
        table = Table(box=None)
        for fraction, _ in some:
            label = {"0.0": "lowest", "0.5": "median", "1.0": "highest"}.get(fraction, f"{float(fraction):.0%}")
            table.add_column(label, justify="right", no_wrap=True, min_width=10)
        table.add_row(*(f"{value:.4g}" for _, value in some))
        yield table


def _histogram(histogram: dict[str, list[float]]) -> RenderableType:
    table = Table(box=None, show_header=False, padding=(0, 1))
    most = max(histogram["counts"])
    for low, high, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"], strict=False):
        bar = "█" * round(40 * count / most) if round(40 * count / most) else ("▏" if count else "")
        table.add_row(f"{low:.4g}", "to", f"{high:.4g}", Text(bar, "cyan"), f"{int(count):,}")
    return table
