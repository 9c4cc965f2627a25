"""Score stores: read one as arrays over the whole corpus or a source at a time, and combine several into one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline_steps.errors import InvalidScore, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.source_store import SourceStore


SCORE_FIELDS = (pa.field("id", pa.string()), pa.field("score", pa.float32()), pa.field("tokens", pa.uint32()))


class ScoreStore(SourceStore):
    """Scores of a corpus, in corpus order: sources sorted by name, documents as they stand in them.

    The parts are plain Parquet (`<path>/parts/*.parquet`): pandas, polars and duckdb read them as they are.
    """

    _partial = False

    @cached_property
    def manifest(self) -> dict[str, dict[str, Any]]:
        """The entry of each source, or, of a store that was opened as `partial`, of each finished source."""
        return self.sealed() if self._partial else super().manifest

    @classmethod
    def open(cls, path: str, partial: bool = False) -> ScoreStore:
        """Return a finished store; with `partial`, the sources that a running or stopped job has finished so far.

        Raises:
            StoreIncomplete: it is not a store, is half written, or holds nothing.
            StoreMismatch: it holds something else, or files that its last finished run did not read.
        """
        store = cls(str(path))
        store._partial = partial
        if store.kind != "scores":
            raise StoreMismatch(f"{path} holds {store.kind}, not scores")
        if not store.manifest:
            raise StoreIncomplete(
                f"{path} is empty: {'no source is finished' if partial else 'no documents were read'}"
            )
        return store

    @property
    def scores(self) -> np.ndarray:
        """Return the scores: float32 [N]."""
        return self.column("score")

    @property
    def keys(self) -> np.ndarray:
        """Return the `document_key` of each document: uint64 [N]."""
        return self.column("key")

    @property
    def tokens(self) -> np.ndarray:
        """Return the tokens of each document, 0 where the scorer counts none: uint32 [N]."""
        return self.column("tokens")

    @property
    def lower_is_better(self) -> bool:
        """Return whether low scores are the good ones, as the scorer recorded it.

        Raises:
            StoreMismatch: the store does not say, so an earlier version of this package wrote it.
        """
        if "lower_is_better" not in self.made:
            raise StoreMismatch(
                f"{self.path} does not say whether its low scores are the good ones: an earlier version wrote it; "
                "score the corpus again, into another folder"
            )
        return bool(self.made["lower_is_better"])

    def to_arrow(self) -> pa.Table:
        """Return all columns as one table, with each document's `source`; `.to_pandas()` makes a DataFrame."""
        parts = []
        for index, source in enumerate(self.sources):
            columns = self.read(source)
            index_N = pa.array(np.full(len(columns["key"]), index, dtype=np.int32))
            parts.append(pa.table({"source": pa.DictionaryArray.from_arrays(index_N, list(self.sources)), **columns}))
        return pa.concat_tables(parts)

    def locate(self, source: str) -> str | None:
        """Return the stored source that this file is: of the same path or, if the corpus has moved, the most alike.

        Alike are paths that end in the same folders and name; None if there is none, or no single best one.
        """
        if source in self.manifest:
            return source
        node = self._by_suffix
        for name in reversed(source.split("/")):
            if name not in node.children:
                break
            node = node.children[name]
        return node.source if node is not self._by_suffix and node.sources == 1 else None

    @cached_property
    def _by_suffix(self) -> _Suffix:
        root = _Suffix()
        for source in self.manifest:
            node = root
            for name in reversed(source.split("/")):
                node = node.children.setdefault(name, _Suffix())
                node.source, node.sources = source, node.sources + 1
        return root


class _Suffix:
    """The stored sources whose paths end alike: how many there are, one of them, and those that agree further."""

    __slots__ = ("children", "source", "sources")

    def __init__(self) -> None:
        self.children: dict[str, _Suffix] = {}
        self.source, self.sources = "", 0


def combine(
    target: str,
    weights: Mapping[str, float],
    how: Literal["rank", "product"] = "rank",
    lower_is_better: bool | None = None,
) -> ScoreStore:
    """Write a store whose score is a weighted combination of others; a finished target is left as it is.

    "rank": the mean of the documents' ranks in each store, from 0 (lowest score) to 1 (highest), equal scores at
    the middle of theirs. Needs no common unit. A negative weight turns a store's order around. Holds 4 bytes a
    document and store in memory while it ranks.

    "product": the weighted sum of scores that are logs, which is the log of the product of what they are logs of.
    Quality times inverse density, sampled in proportion, is
    `combine(target, {ask_llm: 1.0, density: -1.0}, "product")` followed by `IPSFilter(target, method="direct")`.

    Args:
        target: folder of the new score store, any fsspec path.
        weights: by folder of each store, its weight.
        how: "rank" or "product".
        lower_is_better: whether low combined scores are the good ones, which the target records. By default the
            larger part of the weights decides: a positive weight keeps its store's direction, a negative one turns it
            around, and equal parts make high scores the good ones.

    Raises:
        StoreMismatch: the stores are not of the same documents, or the target was made otherwise.
        InvalidScore: no weights are given, they sum to nothing, or a combined score is not finite.
    """
    stores = {path: ScoreStore.open(path) for path in weights}
    total = sum(abs(weight) for weight in weights.values())
    if not 0 < total < float("inf"):
        raise InvalidScore(f"cannot combine scores with weights {dict(weights)}: give at least one that is not zero")
    first, *others = stores.values()
    for other in others:
        first.check_same_corpus(other)
    result = ScoreStore(str(target), pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS]))
    parts = [
        {"weight": weight, "of": stores[path].made, "fingerprint": stores[path].fingerprint}
        for path, weight in weights.items()
    ]
    inputs = {"scores": [part["fingerprint"] for part in parts]}
    if lower_is_better is None:
        directions = (-weight if stores[path].lower_is_better else weight for path, weight in weights.items())
        lower_is_better = sum(directions) < 0
    made = {"scorer": "combine", "how": how, "parts": parts, "lower_is_better": lower_is_better}
    result.begin("scores", made, inputs)
    ranked = {path: np.sort(store.scores) for path, store in stores.items()} if how == "rank" else {}
    for source in tqdm(first.manifest, desc=f"combine into {target}", unit="file"):
        if result.read_to_continue(source) is None:
            columns = {path: store.read(source, ["score", "tokens"]) for path, store in stores.items()}
            score = np.zeros(first.sources[source])
            for path, weight in weights.items():
                own = columns[path]["score"].astype(np.float64)
                score += weight * own if how == "product" else _rank(ranked[path], own, weight) / total
            counted = [own["tokens"] for own in columns.values() if own["tokens"].any()]
            named = first.read(source, ["key", "id"])
            tokens = counted[0] if counted else np.zeros(len(score), dtype=np.uint32)
            result.seal(source, named | {"score": _finite(score, source), "tokens": tokens})
    result.finish_task(0, 1, first.manifest)
    return ScoreStore.open(target)


def _rank(sorted_N: np.ndarray, score_N: np.ndarray, weight: float) -> np.ndarray:
    """Return each score's mean rank, 0 to 1, times |weight|; from the other end if that is negative."""
    twice = np.searchsorted(sorted_N, score_N, "left") + np.searchsorted(sorted_N, score_N, "right") - 1
    rank = twice / max(2 * (sorted_N.size - 1), 1)
    return abs(weight) * (rank if weight > 0 else 1 - rank)


def _finite(score_N: np.ndarray, source: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        score = score_N.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(score))
    if bad.size:
        raise InvalidScore(f"document {bad[0]} of {source} gets the score {score_N[bad[0]]}: use smaller weights")
    return score
