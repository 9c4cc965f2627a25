"""Lookup of documents in a cut: their rows in the score store, and how often the cut keeps them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from datatrove.data import Document

from pipeline_steps.errors import CorpusError, MissingScore
from pipeline_steps.filters.cuts import FoundCut
from pipeline_steps.samplers import score_name
from pipeline_steps.stores.documents import key_of, named
from pipeline_steps.stores.files import DELETE, create, read_json, seal
from pipeline_steps.stores.key_index import KeyIndex


BY_KEY = ""  # in the place of a source, for documents that were found by their keys


class KeptRows:
    """Looks documents up in a cut: by their file where the store knows it, else by their key.

    Documents of a file usually come in the order they were scored in, so the next row is tried first. Of documents
    that are identical to the byte, as many are kept as the cut keeps, in the order they come.

    Args:
        found: the cut.
        claims: what tasks agree by on which of identical documents are kept; None for a task alone.

    Attributes:
        found: the cut.
        score_name: what the scores are called in metadata; None in a random cut.
        place: source and row in the store of the document that was asked for last.
        kept: how many copies the cut keeps of the documents that were asked for, by source as it is named in the
            store; of those that were found by their keys, under `BY_KEY`.
    """

    def __init__(self, found: FoundCut, claims: Claims | None = None) -> None:
        self.found, self.place = found, ("", -1)
        self.kept: dict[str, int] = {}
        self._claims, self._is_by_key = claims, found.store.is_by_key
        self.score_name = score_name(found.store.made) if found.cut.mode != "random" else None
        self._scored: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
        self._left_out: dict[str, np.ndarray] = {}
        self._source: str | None = None
        self._scored_as = ""
        self._keys: list[int] = []
        self._kept: list[int] = []
        self._next = 0
        self._used = bytearray()
        self._used_of: dict[str, bytearray] = {}  # by source of the store
        self._rows_of: dict[int, list[int]] | None = None
        self._came: dict[int, int] = {}  # by key, documents of which the cut keeps some and others not

    def keeps(self, doc: Document) -> int:
        """Return how often the cut keeps the document. Raises MissingScore if the store does not know it."""
        source, key = doc.metadata.get("file_path"), key_of(doc)
        count: int | None = None
        if not self._is_by_key and source is not None:
            if str(source) != self._source:
                self._open(str(source))
            count = self._keeps_of_file(doc, key)
        booked = self.place[0]
        if count is None:
            count, booked = self._keeps_by_key(doc, key), BY_KEY
        if count:
            self.kept[booked] = self.kept.get(booked, 0) + count
        return count

    def scored(self, ranks: bool) -> tuple[float, int]:
        """Return score and rank of the document that was asked for last; 0 in place of a rank that is not wanted."""
        source, row = self.place
        if source not in self._scored:
            if source == self._scored_as:  # documents come file by file
                self._scored.clear()
            score_N = self.found.store.read(source, ["score"])["score"]
            self._scored[source] = score_N, self.found.ranks(source) if ranks else None
        score_N, rank_N = self._scored[source]
        return float(score_N[row]), 0 if rank_N is None else int(rank_N[row])

    def is_excluded(self) -> bool:
        """Return whether the document that was asked for last was left out before the cut."""
        source, row = self.place
        if source not in self._left_out:
            if source == self._scored_as:  # documents come file by file
                self._left_out.clear()
            self._left_out[source] = self.found.strata.left_out(source)
        return bool(self._left_out[source][row])

    def _open(self, source: str) -> None:
        """Load the rows of a file.

        There are none of a file that the store does not know, and none if its rows were loaded before: the documents
        of files that were shuffled, or rewritten into others, are found by their keys.
        """
        scored_as = self.found.store.locate(source)
        self._source, self._next, self._rows_of = source, 0, None
        self._scored_as, self._keys, self._kept, self._used = "", [], [], bytearray()
        if scored_as is None or scored_as in self._used_of:
            return
        key_N, kept_N = self.found.keeps(scored_as)
        self._scored_as, self._keys, self._kept = scored_as, key_N.tolist(), kept_N.tolist()
        self._used = self._used_of[scored_as] = bytearray(len(self._keys))

    def _keeps_of_file(self, doc: Document, key: int) -> int | None:
        """Return how often the cut keeps a document of the open file; None if the store does not have it there.

        Raises:
            MissingScore: more copies of it come than were scored.
        """
        row = self._next
        if row >= len(self._keys) or self._keys[row] != key or self._used[row]:
            rows = self._copies(key)
            if rows is None:
                return None
            while rows and self._used[rows[-1]]:
                rows.pop()
            if not rows:
                raise MissingScore(f"more copies of {named(doc)} come than {self.found.store.path} holds scores of")
            row = rows.pop()
        self._used[row] = True
        self._next, self.place = row + 1, (self._scored_as, row)
        return self._kept[row]

    def _copies(self, key: int) -> list[int] | None:
        """Return rows of a document of the open file, the last first; None if it has none."""
        if self._rows_of is None:
            self._rows_of = {}
            for row in range(len(self._keys) - 1, -1, -1):
                self._rows_of.setdefault(self._keys[row], []).append(row)
        return self._rows_of.get(key)

    def _keeps_by_key(self, doc: Document, key: int) -> int:
        """Return how often the cut keeps a document, wherever in the store it is."""
        index, kept_N = self._by_key
        rows = index.rows(key)
        if not rows.size:
            raise MissingScore(
                f"{named(doc)} has no score in {self.found.store.path}, or its text has changed since: score this "
                "corpus first"
            )
        count_R, chosen = kept_N[rows], 0
        order = np.argsort(-count_R.astype(int), kind="stable").tolist()
        if self._claims is None:
            chosen = self._first_free(doc, rows, order)
        elif count_R.min() < count_R.max():  # identical documents of which the cut does not keep all alike
            chosen = self._claimed(self._claims, key, count_R, order)
        self.place = index.place(int(rows[chosen]))
        return int(count_R[chosen])

    def _first_free(self, doc: Document, rows: np.ndarray, order: list[int]) -> int:
        """Return the first of a document's rows, in an order, that no document has taken yet.

        Raises:
            MissingScore: more copies of it come than were scored.
        """
        for one in order:
            source, row = self._by_key[0].place(int(rows[one]))
            used = self._used_of.setdefault(source, bytearray(self.found.store.sources[source]))
            if not used[row]:
                used[row] = True
                return one
        raise MissingScore(f"more copies of {named(doc)} come than {self.found.store.path} holds scores of")

    def _claimed(self, claims: Claims, key: int, count_R: np.ndarray, order: list[int]) -> int:
        """Return the one of a document's rows, in an order, that the tasks have agreed on for the next that comes."""
        nth = self._came[key] = self._came.get(key, -1) + 1
        slot = claims.slot(key, nth, int((count_R > 0).sum()))
        return order[min(slot, len(order) - 1)]

    @cached_property
    def _by_key(self) -> tuple[KeyIndex, np.ndarray]:
        """Where the documents of the store stand, and how often each is kept: uint8 [N], in the index's rows."""
        keys, kept = dict[str, np.ndarray](), [np.empty(0, dtype=np.uint8)]
        for source in self.found.store.sources:
            keys[source], kept_N = self.found.keeps(source)
            kept.append(kept_N)
        return KeyIndex(keys), np.concatenate(kept)


class Claims:
    """Files by which the tasks of one pass agree on which of identical documents are kept; they stay after a kill.

    Args:
        folder: of the pass and its number of tasks, on any fsspec path; None if nothing tells this pass from others.
        rank: the task.
    """

    def __init__(self, folder: str | None, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._free: dict[int, int] = {}  # by key, the first slot that may be free

    def slot(self, key: int, nth: int, wanted: int) -> int:
        """Return a slot below `wanted` for the task's n-th document of a key, or `wanted` if all are taken.

        Raises:
            CorpusError: there is no folder, or it cannot be written to.
        """
        if self._folder is None:
            raise CorpusError(
                "the cut keeps some of several identical documents, and nothing says which corpus the tasks read, so "
                "they cannot agree on which: run the filter with one task"
            )
        mine = {"rank": self._rank, "nth": nth}
        for slot in range(self._free.get(key, 0), wanted):
            name = f"{self._folder}/{key:016x}/{slot:06d}.json"
            try:
                is_mine = create(name, seal(mine)) or read_json(name, DELETE) == mine
            except OSError as error:
                raise CorpusError(
                    f"{name} cannot be written ({error.strerror}), where tasks agree on which of identical documents "
                    "are kept: run the filter with one task"
                ) from error
            if is_mine:
                return slot
            self._free[key] = slot + 1
        return wanted
