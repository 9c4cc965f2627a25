"""Documents with the highest and the lowest scores, and those that are nearest to them, for `winnow inspect`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from launch.texts import openings
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import SourceStore


_WORDS = 60  # characters of a text in a table of 80 columns


def extremes(store: ScoreStore, examples: int = 3) -> list[dict[str, Any]]:
    """Return the documents with the highest scores, then those with the lowest, as JSON types.

    One pass over the store; memory is one source file's scores.
    """
    high: list[tuple[float, str, int]] = []
    low: list[tuple[float, str, int]] = []
    for source in store.sources:
        score = store.read(source, ["score"])["score"]
        order = np.argsort(score, kind="stable")
        outer = {int(row) for row in [*order[:examples], *order[-examples:]]}
        rows = [(float(score[row]), source, row) for row in outer]
        high, low = heapq.nlargest(examples, [*high, *rows]), heapq.nsmallest(examples, [*low, *rows])
    ends = high + [end for end in reversed(low) if end not in high]
    return [_named(store, *end) for end in ends]


def add_neighbours(found: list[dict[str, Any]], store: ScoreStore, embeddings: str, nearest: int = 3) -> None:
    """Add to each of the documents those of largest cosine. One pass; memory is one source file's embeddings.

    Raises:
        StoreMismatch: the embeddings are not of the same documents.
    """
    vectors = SourceStore(embeddings)
    store.check_same_corpus(vectors)
    queries = np.stack([vectors.read(one["source"], ["embedding"])["embedding"][one["document"]] for one in found])
    queries = queries.astype(np.float32) / np.linalg.norm(queries.astype(np.float32), axis=1, keepdims=True)
    best: list[list[tuple[float, str, int, float]]] = [[] for _ in found]
    for source in store.sources:
        embedding = vectors.read(source, ["embedding"])["embedding"].astype(np.float32)
        own = store.read(source, ["score"])["score"]
        cosine = queries @ (embedding / np.linalg.norm(embedding, axis=1, keepdims=True)).T
        for query, one in enumerate(found):
            if source == one["source"]:
                cosine[query, one["document"]] = -np.inf
            rows = np.argsort(-cosine[query], kind="stable")[:nearest]
            near = [(float(cosine[query, row]), source, int(row), float(own[row])) for row in rows]
            best[query] = heapq.nlargest(nearest, [*best[query], *near])
    for one, near in zip(found, best, strict=True):
        one["nearest"] = [
            {"cosine": cosine} | _named(store, score, source, row) for cosine, source, row, score in near
        ]


def add_texts(found: list[dict[str, Any]], corpus: str, reading: Reading = USUAL) -> None:
    """Add to each document its first words.

    Raises:
        StoreMismatch: the corpus lacks one of the documents.
    """
    texts = openings(corpus, reading, {one["key"] for one in _all(found)})
    for one in _all(found):
        if one["key"] not in texts:
            raise StoreMismatch(
                f"{corpus} does not hold document {one['id']} as it was scored: give the scored corpus"
            )
        one["text"] = " ".join(texts[one["key"]].split())[:_WORDS]


def show_examples(found: list[dict[str, Any]], console: Console) -> None:
    """Print documents, and under each those that are nearest."""
    near = any("nearest" in one for one in found)
    title = "highest and lowest scores" + (", and under each the nearest documents" if near else "")
    table = Table(title=title, title_justify="left", title_style="", box=None)
    table.add_column("score", justify="right", no_wrap=True)
    if near:
        table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("document", overflow="fold")
    for one in found:
        cells = [f"{one['score']:.4g}", *([""] if near else []), _words(one)]
        table.add_row(*cells, style="bold")
        for other in one.get("nearest", ()):
            table.add_row(f"{other['score']:.4g}", f"{other['cosine']:.3f}", f"  {_words(other)}")
    console.print(table, markup=False)


def _named(store: ScoreStore, score: float, source: str, row: int) -> dict[str, Any]:
    columns = store.read(source, ["key", "id"])
    found = {"score": score, "source": source, "document": row}
    return found | {"id": str(columns["id"][row]), "key": int(columns["key"][row])}


def _all(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for one in found:
        yield one
        yield from one.get("nearest", ())


def _words(one: dict[str, Any]) -> str:
    name = one["id"] or f"document {one['document']} of {one['source']}"
    return f"{name}  {one['text']}" if "text" in one else name
