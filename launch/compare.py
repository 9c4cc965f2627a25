"""`winnow compare`: two selections or scores of one corpus side by side. Shapes: N documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import fsspec
import numpy as np
from rich.console import Console
from rich.table import Table

from launch.datasets.publish import RECORD
from launch.texts import documents_of, opening, openings
from pipeline_steps.engines.models import require
from pipeline_steps.errors import InvalidCut, StoreIncomplete, StoreMismatch
from pipeline_steps.filters.cuts import Cut, select
from pipeline_steps.numerics.keys import keys_digest, mix
from pipeline_steps.readers.places import why_not
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.samplers import of_scorer
from pipeline_steps.stores.documents import key_of
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection


MOST_RANKED = 1_000_000  # documents whose ranks are compared: a second

_95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two things that are compared.

    Attributes:
        path: as given.
        kind: "selection", "scores" or "dataset".
        digest: digest of the corpus.
        documents: N, the number of documents of the corpus.
        counts: uint8 [N], how often the side keeps each document; None if the side is scores.
        store: the scores; None if the side is a selection.
    """

    path: str
    kind: str
    digest: str
    documents: int
    counts: np.ndarray | None
    store: ScoreStore | None


def open_side(path: str) -> Side:
    """Open a file of `Selection.save`, a score store, or a dataset that `winnow select` wrote.

    Raises:
        StoreIncomplete, StoreMismatch: the path holds none of these, or an unfinished one.
    """
    path = path.rstrip("/")
    try:
        fs, root = fsspec.core.url_to_fs(path, use_listings_cache=False)
        is_file, is_dataset = fs.isfile(root), fs.exists(f"{root}/{RECORD}")
        is_store = fs.exists(f"{root}/artefact.json")
    except Exception as error:  # whatever the file system behind the protocol raises
        raise StoreIncomplete(f"{path} cannot be read ({why_not(path, error)}") from error
    if is_file or path.endswith(".safetensors"):
        selection = Selection.load(path)
        return Side(path, "selection", selection.corpus_digest, selection.counts.size, selection.counts, None)
    if is_dataset:
        selection = Selection.load(f"{path}/selection.safetensors")
        return Side(path, "dataset", selection.corpus_digest, selection.counts.size, selection.counts, None)
    if not is_store:
        raise StoreMismatch(f"{path} is neither a selection, nor a score store, nor a dataset of winnow select")
    store = ScoreStore.open(path)
    return Side(path, "scores", store.corpus_digest, store.documents, None, store)


def compare(a: str, b: str, rate: float, corpus: str | None, shown: int, reading: Reading = USUAL) -> dict[str, Any]:
    """Compare two selections or scores of one corpus, and return what was found as JSON types.

    Args:
        a: path of one side.
        b: path of the other side.
        rate: the share that a score store keeps if both sides are scores; beside a selection, scores keep as many
            documents as the selection does.
        corpus: path of the corpus that both sides are of, for the documents' ids and texts.
        shown: how many documents of each kind to show.
        reading: how rows of the corpus are read.

    Raises:
        StoreMismatch: the sides are of different corpora, or `corpus` is another one.
        ModelError: scores are compared without SciPy.
    """
    one, other = open_side(a), open_side(b)
    if one.digest != other.digest:
        raise StoreMismatch(
            f"{a} and {b} are of different corpora ({one.documents:,} and {other.documents:,} documents): give two of "
            "one corpus"
        )
    scores = [None if side.store is None or _by_chance(side.store) else _oriented(side.store) for side in (one, other)]
    if any(score_N is not None for score_N in scores):
        require("scipy", "eval")
    counts = _counts(one, other, rate), _counts(other, one, rate)
    masks = counts[0] > 0, counts[1] > 0
    found: dict[str, Any] = {"a": a, "b": b, "corpus_documents": one.documents, **overlap(*masks)}
    if max(int(own.max()) for own in counts) > 1:
        found["copies"] = overlap_of_copies(*counts)
    found["kept_by"] = [_kept_by(side, found["b" if side is one else "a"], rate, other) for side in (one, other)]
    if one.store is not None and scores[0] is not None and scores[1] is not None:
        found["tau"] = rank_agreement(scores[0], scores[1], one.store.keys)
    rows = _rows(masks, scores, shown)
    wanted = {row for some in rows.values() for row in some}
    texts: dict[int, dict[str, str]] = {}
    by_key = next((side.store for side in (one, other) if side.store is not None and side.store.is_by_key), None)
    if corpus:
        texts = (
            _read_by_key(corpus, reading, by_key, wanted)
            if by_key
            else _read(corpus, reading, one.digest, one.documents, wanted)
        )
    found["documents"] = {kind: [{"row": row, **texts.get(row, {})} for row in some] for kind, some in rows.items()}
    return found


def overlap(mask_N: np.ndarray, other_N: np.ndarray) -> dict[str, Any]:
    """Count what two selections have in common, and what they would have in common by chance."""
    a, b, both, N = int(mask_N.sum()), int(other_N.sum()), int((mask_N & other_N).sum()), mask_N.size
    if not a or not b:
        raise InvalidCut("one of the two keeps nothing: there is nothing to overlap with")
    by_chance = a * b / N
    return {
        "kept": [a, b],
        "both": both,
        "jaccard": both / (a + b - both),
        "jaccard_by_chance": by_chance / (a + b - by_chance),
        "share_of_a_in_b": both / a,
        "share_of_a_in_b_by_chance": b / N,
        "share_of_b_in_a": both / b,
        "share_of_b_in_a_by_chance": a / N,
    }


def overlap_of_copies(count_N: np.ndarray, other_N: np.ndarray) -> dict[str, Any]:
    """Count what two selections have in common if a document counts as often as both keep it.

    The Jaccard index is the weighted one: the sum of the smaller counts over the sum of the larger counts.
    """
    both, either = (int(pick(count_N, other_N).sum(dtype=np.int64)) for pick in (np.minimum, np.maximum))
    kept = [int(own.sum(dtype=np.int64)) for own in (count_N, other_N)]
    return {"kept": kept, "both": both, "jaccard": both / either}


def rank_agreement(score_N: np.ndarray, other_N: np.ndarray, key_N: np.ndarray) -> dict[str, Any]:
    """Return Kendall's tau-b, its number of pairs, and a 95 % interval for the population behind the corpus.

    If there are more than `MOST_RANKED` documents, those with the smallest hashes of their keys stand for all. The
    interval uses Kendall's bound on the variance, 2 (1 - tau^2) / n, so the interval is rather too wide.

    Raises:
        InvalidCut: there is no order to compare.
    """
    from evaluate_suite.agreement import kendall_tau

    if len(key_N) > MOST_RANKED:
        hash_N = mix(key_N, 0)
        chosen_K = np.sort(np.argpartition(hash_N, MOST_RANKED)[:MOST_RANKED])
        score_N, other_N = score_N[chosen_K], other_N[chosen_K]
    tau, n = kendall_tau(score_N, other_N), len(score_N)
    half = _95 * math.sqrt(2 * max(1 - tau * tau, 0.0) / n)
    interval = [max(tau - half, -1.0), min(tau + half, 1.0)]
    return {"tau": tau, "interval": interval, "documents": n, "pairs": n * (n - 1) // 2}


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print what `compare` found."""
    console.print(f"A  {found['a']}\nB  {found['b']}", highlight=False, markup=False, soft_wrap=True)
    for name, how in zip("AB", found["kept_by"], strict=True):
        if how:
            console.print(f"{name} is scores: here it keeps {how}", highlight=False, markup=False)
    table = Table("", "found", "by chance alone")
    a, b = found["kept"]
    table.add_row("kept by A, by B", f"{a:,}, {b:,} of {found['corpus_documents']:,}", "")
    chance = a * b / found["corpus_documents"]
    table.add_row("kept by both", f"{found['both']:,}", f"{chance:,.1f}")
    for name, title in {"jaccard": "Jaccard", "share_of_a_in_b": "of A in B", "share_of_b_in_a": "of B in A"}.items():
        table.add_row(title, f"{found[name]:.4f}", f"{found[f'{name}_by_chance']:.4f}")
    if copies := found.get("copies"):
        a, b = copies["kept"]
        table.add_row("copies by A, by B", f"{a:,}, {b:,}", "")
        table.add_row("copies by both", f"{copies['both']:,}", "")
        table.add_row("Jaccard of copies", f"{copies['jaccard']:.4f}", "")
    if tau := found.get("tau"):
        low, high = tau["interval"]
        table.add_row("Kendall's tau", f"{tau['tau']:.4f} ({low:.4f} to {high:.4f})", "0")
        table.add_row("", f"{tau['pairs']:,} pairs of {tau['documents']:,} documents", "")
    console.print(table)
    for kind, title in {"only_a": "only A keeps", "only_b": "only B keeps"}.items():
        for document in found["documents"][kind]:
            head = document.get("id", "give --corpus to see it")
            text = document.get("text", "")
            console.print(
                f"{title}: document {document['row']:,}  {head}", style="bold", highlight=False, markup=False
            )
            if text:
                console.print(f"    {text.replace(chr(10), chr(10) + '    ')}", highlight=False, markup=False)


def _counts(side: Side, other: Side, rate: float) -> np.ndarray:
    """Return how often a side keeps documents. Scores keep as many documents of their best as the other side does."""
    if side.counts is not None:
        return side.counts
    assert side.store is not None
    mode: Any = "random" if _by_chance(side.store) else "bottom" if side.store.lower_is_better else "top"
    cut = Cut(mode, rate=rate) if other.counts is None else Cut(mode, k=int(np.count_nonzero(other.counts)))
    return select(side.store, cut).counts


def _kept_by(side: Side, other_path: str, rate: float, other: Side) -> str:
    if side.store is None:
        return ""
    if _by_chance(side.store):
        by_rate = f"{rate:.0%} by chance"
        return by_rate if other.counts is None else f"as many as {other_path} keeps, by chance (seed 0)"
    end = "lowest" if side.store.lower_is_better else "highest"
    return f"its {end} {rate:.0%}" if other.counts is None else f"as many of its {end} as {other_path} keeps"


def _by_chance(store: ScoreStore) -> bool:
    """Return whether the store holds keys for a random cut to draw from, and no scores."""
    row = of_scorer(store.made.get("scorer"))
    return row is not None and row.cut == "random"


def _oriented(store: ScoreStore) -> np.ndarray:
    return -store.scores if store.lower_is_better else store.scores


def _rows(masks: tuple[np.ndarray, np.ndarray], scores: list[np.ndarray | None], shown: int) -> dict[str, list[int]]:
    """Return the documents that one side alone keeps: those the scores differ most on, or any without scores."""
    a_N, b_N = masks
    found = {}
    ranks = [None if score_N is None else _rank(score_N) for score_N in scores]
    for kind, mask_N, own, others in (("only_a", a_N & ~b_N, *ranks), ("only_b", b_N & ~a_N, *reversed(ranks))):
        rows_K = np.flatnonzero(mask_N)
        if own is None and others is None:
            first_K = mix(rows_K.astype(np.uint64), 0)
        else:
            zero_K = np.zeros(len(rows_K))
            first_K = (zero_K if others is None else others[rows_K]) - (zero_K if own is None else own[rows_K])
        found[kind] = rows_K[np.argsort(first_K, kind="stable")][:shown].tolist()
    return found


def _rank(score_N: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return np.asarray(rankdata(score_N))


def _read(corpus: str, reading: Reading, digest: str, documents: int, wanted: set[int]) -> dict[int, dict[str, str]]:
    """Return the ids and first lines of documents, by their place in the corpus."""
    keys, found = [], dict[int, dict[str, str]]()
    for row, document in enumerate(islice(documents_of(corpus, reading), documents)):
        keys.append(key_of(document))
        if row in wanted:
            found[row] = {"id": document.id, "text": opening(document.text)}
    if keys_digest(np.array(keys, dtype=np.uint64)) != digest:
        raise StoreMismatch(f"{corpus} is not the corpus of these: its documents, or their order, are others")
    return found


def _read_by_key(corpus: str, reading: Reading, store: ScoreStore, wanted: set[int]) -> dict[int, dict[str, str]]:
    """Return the same for a store whose documents are in order of their keys."""
    key_N, id_N = store.keys, store.column("id")
    texts = openings(corpus, reading, {int(key_N[row]) for row in wanted})
    if lost := [row for row in wanted if int(key_N[row]) not in texts]:
        raise StoreMismatch(f"{corpus} is not the corpus of these: it lacks document {id_N[lost[0]]}")
    return {row: {"id": str(id_N[row]), "text": texts[int(key_N[row])]} for row in wanted}
