"""Several scores of one corpus made into one: because one score is rarely enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from pipeline_steps.errors import InvalidScore
from pipeline_steps.scorers.base import SCORE_FIELDS
from pipeline_steps.stores.score_store import ScoreStore


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
            key = first.read(source, ["key"])["key"]
            result.seal(source, {"key": key, "score": _finite(score, source), "tokens": (counted or [0 * key])[0]})
    result.finish_task(0, 1, first.manifest)
    return ScoreStore.open(target)


def _rank(sorted_N: np.ndarray, score_N: np.ndarray, weight: float) -> np.ndarray:
    """Mean rank of each score among all, between 0 and 1, times |weight|; from the other end if it is negative."""
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
