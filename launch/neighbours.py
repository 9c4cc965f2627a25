"""The nearest documents of those with the highest and the lowest scores, for `winnow inspect --embeddings`."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import SourceStore


_TITLE = "highest and lowest scores, and under each the nearest documents; the first of a file is document 0"


def neighbours(scores: str, embeddings: str, examples: int = 3, nearest: int = 3) -> list[dict[str, Any]]:
    """Examples of either end, each with the documents of largest cosine, as JSON types.

    Two passes over the stores; memory is one source file's embeddings.

    Raises:
        StoreMismatch: the stores are not of the same documents.
    """
    store, vectors = ScoreStore.open(scores), SourceStore(embeddings)
    store.check_same_corpus(vectors)
    ends = _ends(store, examples)
    queries = np.stack([vectors.read(source, ["embedding"])["embedding"][row] for _, source, row in ends])
    queries = queries.astype(np.float32) / np.linalg.norm(queries.astype(np.float32), axis=1, keepdims=True)
    found: list[list[tuple[float, str, int, float]]] = [[] for _ in ends]
    for source in store.sources:
        embedding = vectors.read(source, ["embedding"])["embedding"].astype(np.float32)
        own = store.read(source, ["score"])["score"]
        cosine = queries @ (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).T
        for query, (_, at, place) in enumerate(ends):
            if source == at:
                cosine[query, place] = -np.inf
            rows = np.argsort(-cosine[query], kind="stable")[:nearest]
            best = [(float(cosine[query, row]), source, int(row), float(own[row])) for row in rows]
            found[query] = heapq.nlargest(nearest, [*found[query], *best])
    names = ("cosine", "source", "document", "score")
    return [
        {
            "score": score,
            "source": source,
            "document": row,
            "nearest": [dict(zip(names, n, strict=True)) for n in near],
        }
        for (score, source, row), near in zip(ends, found, strict=True)
    ]


def _ends(store: ScoreStore, examples: int) -> list[tuple[float, str, int]]:
    """Score, source and row of the documents with the highest scores, then of those with the lowest."""
    high: list[tuple[float, str, int]] = []
    low: list[tuple[float, str, int]] = []
    for source in store.sources:
        score = store.read(source, ["score"])["score"]
        order = np.argsort(score, kind="stable")
        outer = {int(row) for row in [*order[:examples], *order[-examples:]]}
        rows = [(float(score[row]), source, row) for row in outer]
        high, low = heapq.nlargest(examples, [*high, *rows]), heapq.nsmallest(examples, [*low, *rows])
    return high + [end for end in reversed(low) if end not in high]


def show_neighbours(rows: list[dict[str, Any]], console: Console) -> None:
    """Print what `neighbours` found."""
    table = Table(title=_TITLE, title_justify="left", title_style="", box=None)
    for name, justify in {"score": "right", "cosine": "right", "document": "left"}.items():
        table.add_column(name, justify=justify, no_wrap=name != "document")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(f"{row['score']:.4g}", "", f"{row['document']} of {row['source']}", style="bold")
        for near in row["nearest"]:
            table.add_row(f"{near['score']:.4g}", f"{near['cosine']:.3f}", f"  {near['document']} of {near['source']}")
    console.print(table)
