"""Documents to look at: what a scorer likes most and least, what scorers agree on and what not (the paper's App. E).

Shapes: N documents, S scorers. Scores are turned so that higher is better.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline_steps.errors import InvalidCut, StoreMismatch
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.samplers import FAMILIES, label
from pipeline_steps.stores.documents import key_of


Hidden = Callable[[str, str], bool]  # id and text of a document that is not to be shown
KINDS = ("agreed_high", "agreed_low", "larger_only", "smaller_only")
MOST_SCORERS = 6  # of which each gets its own lists
_SPARE = 50  # candidates per document shown, for copies and for documents that are hidden
_KEPT = 4000  # characters of a text that are kept; texts that begin alike count as copies


@dataclass(frozen=True)
class Document:
    """A document to look at.

    Attributes:
        id: of the corpus.
        text: the beginning, at most.
        percentiles: by scorer, 0 to 100; of the whole set.
        score: of the scorer whose list the document is in; None in lists of several scorers.
    """

    id: str
    text: str
    percentiles: Mapping[str, float]
    score: float | None = None


def percentiles(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the share of the other documents that score lower, in percent, float32 [N] by scorer.

    Equal scores share their mean.

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
    percentile: Mapping[str, np.ndarray], count: int, smallest: str = "", largest: str = "", each: bool = False
) -> dict[tuple[str, str], list[int]]:
    """Return ordinals of documents by kind and scorer, most typical first; more than `count`, some may not be shown.

    Args:
        percentile: float32 [N] by scorer, of `percentiles`.
        count: documents wanted.
        smallest: scorer with the smallest proxy; without it, only documents they agree on.
        largest: scorer with the largest.
        each: also the "highest" and "lowest" of each scorer; the kinds of `KINDS` have the scorer "".
    """
    most, kinds = _SPARE * count, dict[tuple[str, str], list[int]]()
    for name, values_N in percentile.items() if each else ():
        kinds["highest", name], kinds["lowest", name] = _first(-values_N, most), _first(values_N, most)
    if len(percentile) > 1 or not each:
        mean_N = np.stack(list(percentile.values())).mean(axis=0, dtype=np.float64)
        kinds |= {("agreed_high", ""): _first(-mean_N, most), ("agreed_low", ""): _first(mean_N, most)}
    if smallest and largest:
        difference_N = percentile[largest].astype(np.float64) - percentile[smallest]
        for kind, sign in (("larger_only", -1), ("smaller_only", 1)):
            kinds[kind, ""] = [row for row in _first(sign * difference_N, most) if -sign * difference_N[row] > 0]
    return kinds


def ends(names: Iterable[str]) -> tuple[str, str]:
    """Return the scorers that are set against each other: smallest and largest proxy of one kind, or the only two.

    "" and "" if there are none.
    """
    names = list(names)
    for family, members in FAMILIES.items():
        there = [name for name in members if name in names]
        if family.endswith(", by proxy") and len(there) > 1:
            return there[0], there[-1]
    return (names[0], names[1]) if len(names) == 2 else ("", "")


def titles(smallest: str, largest: str) -> dict[str, str]:
    """Return the headings of `KINDS`."""
    small, large = label(smallest), label(largest)
    differ = (f"{large} likes them, {small} does not", f"{small} likes them, {large} does not")
    return dict(zip(KINDS, ("Every scorer likes them", "No scorer likes them", *differ), strict=True))


def pick(
    scores: Mapping[str, np.ndarray],
    documents: Iterable[tuple[int, str, str]],
    count: int,
    smallest: str = "",
    largest: str = "",
    each: bool = False,
    hidden: Hidden | None = None,
) -> dict[tuple[str, str], list[Document]]:
    """Return at most `count` different texts of each kind and scorer of `candidates`.

    Args:
        scores: float32 [N] by scorer, higher is better.
        documents: (ordinal, id, text) of the corpus, read once; only what may be shown is kept.
        count: documents of each kind.
        smallest: as for `candidates`.
        largest: as for `candidates`.
        each: as for `candidates`.
        hidden: says of a document that it is not to be shown.

    Raises:
        InvalidCut: the scorers have not scored the same documents.
        StoreMismatch: the corpus has other documents than were scored.
    """
    percentile = percentiles(scores)
    kinds = candidates(percentile, count, smallest, largest, each)
    texts = _read(documents, {row for rows in kinds.values() for row in rows}, next(iter(scores.values())).size)
    return {
        (kind, name): list(islice(_different(rows, texts, percentile, scores.get(name), hidden), count))
        for (kind, name), rows in kinds.items()
    }


def read_documents(corpus: str, key_N: np.ndarray, reading: Reading = USUAL) -> Iterator[tuple[int, str, str]]:
    """Yield ordinal, id and text of each document of a corpus, checked against what was scored.

    Args:
        corpus: as `pipeline_steps.readers.corpus.open_corpus` takes it.
        key_N: `document_key` of each document that was scored.
        reading: how its rows are read.

    Raises:
        CorpusError: the corpus cannot be read.
        StoreMismatch: it is not the one that was scored.
    """
    from pipeline_steps.readers.corpus import open_corpus

    with tempfile.TemporaryDirectory() as folder:
        data = None
        for step in open_corpus(corpus, str(Path(folder, "files.txt")), reading=reading):
            data = step.run(data, 0, 1)
        for ordinal, document in enumerate(data or ()):
            if ordinal >= len(key_N) or key_of(document) != int(key_N[ordinal]):
                raise StoreMismatch(
                    f"document {ordinal:,} of {corpus} ({document.id}) is not the one that was scored there: give the "
                    "corpus of these scores"
                )
            source = str(document.metadata.get("source", ""))
            yield ordinal, f"{document.id} · {source}" if source else document.id, document.text


def _first(key_N: np.ndarray, count: int) -> list[int]:
    """Return the ordinals of the smallest keys, equal ones in order of the corpus."""
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
            kept[ordinal] = (id, text[:_KEPT])
    if read != N:
        raise StoreMismatch(f"the corpus has {read:,} documents, {N:,} were scored: give the corpus of these scores")
    return kept


def _different(
    rows: Sequence[int],
    texts: Mapping[int, tuple[str, str]],
    percentile: Mapping[str, np.ndarray],
    score_N: np.ndarray | None,
    hidden: Hidden | None,
) -> Iterator[Document]:
    seen = set()
    for row in rows:
        id, text = texts[row]
        if text in seen or (hidden and hidden(id, text)):
            continue
        seen.add(text)
        score = None if score_N is None else float(score_N[row])
        yield Document(id, text, {name: float(values_N[row]) for name, values_N in percentile.items()}, score)
