"""The documents that have a label and a score in every store: matched by id or key, with length and stratum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evaluate_suite.trust.agreement import LabelledDocuments
from evaluate_suite.trust.labels import Label, Labels
from pipeline_steps.errors import CorpusError, StoreIncomplete, StoreMismatch
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.score_store import ScoreStore


@dataclass(frozen=True)
class Saturation:
    """How many documents of a store a score cannot tell apart.

    Attributes:
        documents: of the store.
        values: different scores.
        lowest: share of the documents that have the lowest score, of those that are good where high ones are.
        highest: share of the documents that have the highest score.
        tied: share of the documents whose score another document has too.
    """

    documents: int
    values: int
    lowest: float
    highest: float
    tied: float


@dataclass(frozen=True, eq=False)
class Matched:
    """What labels and stores have in common.

    Attributes:
        documents: those with a label, and a score in every store.
        labels: labels of the file.
        unlabelled: rows of the file that have no label.
        missing: labels without a document, by store.
        saturation: of every store, over all of its documents.
    """

    documents: LabelledDocuments
    labels: int
    unlabelled: int
    missing: Mapping[str, int]
    saturation: Mapping[str, Saturation]


@dataclass(frozen=True)
class _Found:
    key: int
    score: float
    tokens: int


def match(labels: Labels, stores: Mapping[str, ScoreStore], strata: LabelStore | None = None) -> Matched:
    """Find the labelled documents in the stores.

    Args:
        labels: the labels.
        stores: score stores by name.
        strata: labels of the whole corpus that say each document's stratum; otherwise the label file may say it.

    Raises:
        CorpusError: no document has a label; or an id is that of two documents of a store.
        StoreMismatch: a document is not the same in two stores, or has no stratum.
        StoreIncomplete, StoreDamaged: a store is.
    """
    found = {name: _find(labels, store) for name, store in stores.items()}
    for name, there in found.items():
        if not there:
            raise _nothing(labels, stores[name])
    shared = [one for one in labels.by_name if all(one in there for there in found.values())]
    if not shared:
        raise CorpusError(f"no labelled document is in all of {', '.join(stores)}: give stores of one corpus")
    first = next(iter(stores))
    by_key: dict[int, str | int] = {}
    for one in shared:
        key = found[first][one].key
        for name, there in found.items():
            if there[one].key != key:
                raise StoreMismatch(
                    f"document {one!r} has another text in {stores[name].path} than in {stores[first].path}: give "
                    "stores of one corpus"
                )
        by_key[key] = one
    keys = sorted(by_key)
    rows = [labels.by_name[by_key[key]] for key in keys]
    key_N = np.array(keys, dtype=np.uint64)
    signs = {name: -1.0 if store.lower_is_better else 1.0 for name, store in stores.items()}
    length_N, unit = _lengths(labels, rows, [[found[name][by_key[key]].tokens for key in keys] for name in stores])
    stratum_N, names = _strata(key_N, rows, strata)
    documents = LabelledDocuments(
        key_N=key_N,
        label_N=np.array([row.value for row in rows]),
        scores={
            name: signs[name] * np.array([found[name][by_key[key]].score for key in keys], dtype=np.float64)
            for name in stores
        },
        length_N=length_N,
        unit=unit,
        stratum_N=stratum_N,
        strata=names,
    )
    missing = {name: len(labels.by_name) - len(there) for name, there in found.items()}
    saturated = {name: saturation(signs[name] * store.scores) for name, store in stores.items()}
    return Matched(documents, len(labels.by_name), labels.unlabelled, missing, saturated)


def saturation(score_N: np.ndarray) -> Saturation:
    """Count the scores that documents share; higher must be better. Raises StoreIncomplete if there are none."""
    if not score_N.size:
        raise StoreIncomplete("a score store holds no documents")
    values, counts = np.unique(score_N, return_counts=True)
    tied = int(counts[counts > 1].sum())
    n = score_N.size
    return Saturation(n, values.size, float(counts[0] / n), float(counts[-1] / n), tied / n)


def _find(labels: Labels, store: ScoreStore) -> dict[str | int, _Found]:
    """Return what a store holds of the labelled documents."""
    by_id = labels.how.on == "id"
    wanted = labels.by_name
    wanted_keys = None if by_id else np.array(sorted(wanted), dtype=np.uint64)
    found: dict[str | int, _Found] = {}
    for source in store.sources:
        for batch in store.batches(source, [*(["id"] if by_id else []), "key", "score", "tokens"]):
            if wanted_keys is None:
                rows = [row for row, id in enumerate(batch["id"].tolist()) if id in wanted]
            else:
                rows = np.flatnonzero(np.isin(batch["key"], wanted_keys)).tolist()
            for row in rows:
                key = int(batch["key"][row])
                name: str | int = str(batch["id"][row]) if by_id else key
                there = found.setdefault(name, _Found(key, float(batch["score"][row]), int(batch["tokens"][row])))
                if there.key != key:
                    raise CorpusError(
                        f"{store.path} has two documents {name!r} with different texts, the second in {source}: give "
                        "labels with the documents' texts, or keys, and --on key"
                    )
    return found


def _nothing(labels: Labels, store: ScoreStore) -> CorpusError:
    """Return the error of a store that holds no labelled document, with an example of each side."""
    source = next(iter(store.sources))
    column = "id" if labels.how.on == "id" else "key"
    theirs = next(iter(store.batches(source, [column], 1)))[column][0]
    ours = next(iter(labels.by_name))
    hint = "--id-key names another column, --on key matches id and text" if column == "id" else "--on id matches ids"
    return CorpusError(
        f"none of the {len(labels.by_name):,} documents of {labels.path} is in {store.path}: {column}s are like "
        f"{str(ours)[:80]!r} there, and like {str(theirs)[:80]!r} in the store ({hint})"
    )


def _lengths(labels: Labels, rows: list[Label], tokens: list[list[int]]) -> tuple[np.ndarray | None, str]:
    """Return lengths and their unit: a column that was asked for, a store's tokens, or characters of texts."""
    counted = next((one for one in tokens if any(one)), None)
    said = [row.length for row in rows]
    if counted is not None and labels.how.length is None:
        return np.array(counted, dtype=np.float64), "tokens"
    if all(length is not None for length in said):
        return np.array(said, dtype=np.float64), labels.unit
    return None, ""


def _strata(
    key_N: np.ndarray, rows: list[Label], strata: LabelStore | None
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the place of each document's stratum among their names, and the names."""
    if strata is not None:
        by_key: dict[int, str] = {}
        for source in strata.sources:
            keys = strata.read(source, ["key"])["key"]
            at = np.flatnonzero(np.isin(keys, key_N))
            if at.size:
                values, index = strata.categories(source, "label")
                by_key |= {int(keys[row]): values[index[row]] for row in at.tolist()}
        lost = [row.where for key, row in zip(key_N.tolist(), rows, strict=True) if key not in by_key]
        if lost:
            raise StoreMismatch(
                f"{strata.path} has no stratum of {len(lost):,} labelled documents, first that of {lost[0]}: give the "
                "strata of the corpus that was scored"
            )
        said = [by_key[key] for key in key_N.tolist()]
    elif rows[0].stratum is not None:
        said = [str(row.stratum) for row in rows]
    else:
        return None, ()
    names, place_N = np.unique(np.array(said, dtype=object), return_inverse=True)
    return place_N.astype(np.intp), tuple(names.tolist())
