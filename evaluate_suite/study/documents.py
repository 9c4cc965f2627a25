"""Documents that scorers agree and disagree on (the paper's App. E). Shapes: N documents, S scorers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline_steps.errors import InvalidCut, StoreMismatch


Hidden = Callable[[str, str], bool]  # id and text of a document that is not to be shown
KINDS = {
    "agreed_high": "Every scorer likes them",
    "agreed_low": "No scorer likes them",
    "larger_only": "The largest proxy likes them, the smallest does not",
    "smaller_only": "The smallest proxy likes them, the largest does not",
}
_SPARE = 5  # candidates per document shown, for copies and for documents that are hidden


@dataclass(frozen=True)
class Document:
    """One to look at.

    Attributes:
        id: of the corpus.
        text: whole.
        percentiles: by scorer, 0 to 100; of the whole set.
    """

    id: str
    text: str
    percentiles: Mapping[str, float]


def percentiles(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Share of the other documents that score lower, in percent, float32 [N] by scorer; equal scores share their mean.

    Args:
        scores: float32 [N] by scorer, higher is better.

    Raises:
        InvalidCut: the scorers have not scored the same documents, or fewer than two of them.
    """
    from scipy.stats import rankdata

    sizes = {score_N.size for score_N in scores.values()}
    if len(sizes) != 1 or min(sizes) < 2:
        counts = ", ".join(f"{name} {score_N.size:,}" for name, score_N in scores.items())
        raise InvalidCut(f"percentiles need the same documents under every scorer, two at least ({counts or 'none'})")
    (N,) = sizes
    return {n: (100 * (rankdata(score_N) - 1) / (N - 1)).astype(np.float32) for n, score_N in scores.items()}


def candidates(
    percentile: Mapping[str, np.ndarray], count: int, smallest: str = "", largest: str = ""
) -> dict[str, list[int]]:
    """Ordinals of documents of each kind of `KINDS`, most typical first; more than `count`, some may not be shown.

    Args:
        percentile: float32 [N] by scorer, of `percentiles`.
        count: documents wanted.
        smallest: scorer with the smallest proxy; without it, only documents they agree on.
        largest: scorer with the largest.
    """
    mean_N = np.stack(list(percentile.values())).mean(axis=0, dtype=np.float64)
    most = _SPARE * count
    kinds = {"agreed_high": _first(-mean_N, most), "agreed_low": _first(mean_N, most)}
    if smallest and largest:
        difference_N = percentile[largest].astype(np.float64) - percentile[smallest]
        for kind, sign in (("larger_only", -1), ("smaller_only", 1)):
            kinds[kind] = [row for row in _first(sign * difference_N, most) if -sign * difference_N[row] > 0]
    return kinds


def pick(
    scores: Mapping[str, np.ndarray],
    documents: Iterable[tuple[int, str, str]],
    count: int,
    smallest: str = "",
    largest: str = "",
    hidden: Hidden | None = None,
) -> dict[str, list[Document]]:
    """At most `count` different texts of each kind of `KINDS`.

    Args:
        scores: float32 [N] by scorer, higher is better.
        documents: (ordinal, id, text) of the corpus, read once; only what may be shown is kept.
        count: documents of each kind.
        smallest: as for `candidates`.
        largest: as for `candidates`.
        hidden: says of a document that it is not to be shown.

    Raises:
        InvalidCut: the scorers have not scored the same documents.
        StoreMismatch: the corpus has other documents than were scored.
    """
    percentile = percentiles(scores)
    kinds = candidates(percentile, count, smallest, largest)
    N = next(iter(scores.values())).size
    texts = _read(documents, {row for rows in kinds.values() for row in rows}, N)
    return {k: list(islice(_different(rows, texts, percentile, hidden), count)) for k, rows in kinds.items()}


def _first(key_N: np.ndarray, count: int) -> list[int]:
    """Ordinals of the smallest keys, equal ones in order of the corpus."""
    if count < key_N.size:
        bound = np.partition(key_N, count - 1)[count - 1]
        rows_K = np.flatnonzero(key_N <= bound)
    else:
        rows_K = np.arange(key_N.size)
    return rows_K[np.argsort(key_N[rows_K], kind="stable")][:count].tolist()


def _read(documents: Iterable[tuple[int, str, str]], wanted: set[int], N: int) -> dict[int, tuple[str, str]]:
    kept, read = {}, 0
    for ordinal, id, text in documents:
        read += 1
        if ordinal in wanted:
            kept[ordinal] = (id, text)
    if read != N:
        raise StoreMismatch(f"the corpus has {read:,} documents, {N:,} were scored: give the corpus of these scores")
    return kept


def _different(
    rows: Sequence[int],
    texts: Mapping[int, tuple[str, str]],
    percentile: Mapping[str, np.ndarray],
    hidden: Hidden | None,
) -> Iterator[Document]:
    seen = set()
    for row in rows:
        id, text = texts[row]
        if text in seen or (hidden and hidden(id, text)):
            continue
        seen.add(text)
        yield Document(id, text, {name: float(values_N[row]) for name, values_N in percentile.items()})
