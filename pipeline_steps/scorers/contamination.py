"""Contamination: documents that hold items of evaluation sets, found by runs of words that they share.

    evaluation items ──> EvaluationIndex (one task) ──> ContaminationScorer (any tasks) ──> Excluded from a cut

This is the n-gram decontamination of datatrove (NGramsDecontIndexer, NGramsDecontFilter), with its normalisation of
texts, as a score: documents are measured before anything is dropped, each is compared with every evaluation set, and
the index knows its own settings and digest. Numbers stay as they are, where datatrove's default writes 0 for each of
them: a table of numbers would otherwise hold any question with twelve numbers. Words are what white space divides
once punctuation is gone, which takes a tenth of the time of datatrove's spaCy and is for languages that write spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline_steps.credentials import NoCredentials
from pipeline_steps.errors import CorpusError, StoreMismatch
from pipeline_steps.numerics.word_ngrams import found_in, word_ngrams
from pipeline_steps.scorers.base import BaseScorer
from pipeline_steps.stores.documents import named
from pipeline_steps.stores.files import Tensors, load_tensors, save_tensors
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.source_store import Columns


EVALUATION, ANSWER = "evaluation", "answer"
"""Keys of an item's metadata: the set that it belongs to, and the answer that may follow its question."""
USUAL_WORDS = 12  # of a run, as of datatrove's NGramsDecontConfig
_FILE = "evaluation-ngrams.safetensors"
_MOST_WORDS = 100  # of a run: questions are shorter
_MOST_SETS = 1 << 16  # what a uint16 tells apart
_NO_SET = "evaluation"  # the set of items that do not say theirs


def normalised_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and diacritics, as datatrove simplifies it."""
    from datatrove.utils.text import TextNormConfig, simplify_text

    usual = TextNormConfig(norm_numbers=False)
    # Of ASCII, the pass over every character for diacritics changes nothing
    return simplify_text(text, replace(usual, norm_unicode_diacritics=not text.isascii())).split()


class EvaluationIndex(NoCredentials, PipelineStep):
    """Indexes the n-grams of evaluation items (one task). Items pass through.

    An item is a document whose text is a question. Its metadata may hold the `answer` and the name of the
    `evaluation` set. Indexed are the runs of words of the question, and those that go on from the question into the
    answer; an answer alone says nothing of its question. An item of fewer words than a run cannot be found: the index
    counts the items of each set that can.

    Args:
        index: folder the index is written to, any fsspec path.
        words: words of a run: 12, as datatrove has it; GPT-3 took 13 (Brown et al. 2020, App. C).

    Raises:
        CorpusError: an item's name of the set is unusable, there is no item, or none that can be found.
        ValueError: `words` is not from 1 to 100, or several tasks run the step.
    """

    type = "🦠 - CONTAMINATION"
    name = "🦠 Evaluation index"

    def __init__(self, index: str, words: int = USUAL_WORDS) -> None:
        super().__init__()
        if not 1 <= words <= _MOST_WORDS:
            raise ValueError(f"words={words} is out of range: 1 to {_MOST_WORDS}")
        self.index, self.words = str(index).rstrip("/"), int(words)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Write the index once all items have come by."""
        if world_size != 1:
            raise ValueError("EvaluationIndex needs all items: run it with one task")
        sets: dict[str, int] = {}
        set_I, item, ngram = list[int](), list[np.ndarray](), list[np.ndarray]()
        for doc in data or ():
            set_I.append(sets.setdefault(_set_of(doc), len(sets)))
            own = np.unique(self._ngrams(doc))
            ngram.append(own)
            item.append(np.full(own.size, len(set_I) - 1, dtype=np.uint32))
            yield doc
        if not set_I or len(sets) > _MOST_SETS:
            raise CorpusError(
                f"{len(set_I):,} evaluation items of {len(sets):,} sets came to {self.index}: give at least one item, "
                f"and at most {_MOST_SETS:,} sets"
            )
        names = sorted(sets)  # as JSON has them in the header
        place = np.array([names.index(name) for name in sets], dtype=np.uint16)
        self._save(names, place[set_I], np.concatenate(item), np.concatenate(ngram))

    def _ngrams(self, doc: Document) -> np.ndarray:
        """Return the hashes of the runs that begin in the question: uint64."""
        question, answer = normalised_words(doc.text), normalised_words(str(doc.metadata.get(ANSWER) or ""))
        return word_ngrams([*question, *answer], self.words)[: len(question)]

    def _save(self, sets: list[str], set_I: np.ndarray, item_P: np.ndarray, ngram_P: np.ndarray) -> None:
        """Write pairs of an n-gram and an item that has it, in order of n-grams."""
        if not ngram_P.size:
            raise CorpusError(
                f"none of {set_I.size:,} evaluation items has {self.words} words, so none could be found: give longer "
                "items, or fewer words"
            )
        order = np.lexsort((item_P, ngram_P))
        items = np.bincount(set_I, minlength=len(sets)).tolist()
        findable = np.bincount(set_I[np.unique(item_P)], minlength=len(sets)).tolist()
        counts = {name: [items[number], findable[number]] for number, name in enumerate(sets)}
        tensors = {"ngram": ngram_P[order], "item": item_P[order], "set": set_I}
        save_tensors(f"{self.index}/{_FILE}", tensors, {"words": self.words, "evaluations": counts})
        self.stat_update("items", value=int(set_I.size))


def _set_of(doc: Document) -> str:
    name = str(doc.metadata.get(EVALUATION) or _NO_SET)
    if name.split() != [name]:
        raise CorpusError(f"{named(doc)} is of the evaluation set {name!r}: give a name without white space")
    return name


def load_index(index: str) -> Tensors:
    """Read what EvaluationIndex wrote.

    Raises:
        StoreIncomplete: there is no index.
        StoreDamaged: a bit of it has changed; names the file.
    """
    index = index.rstrip("/")
    return load_tensors(f"{index}/{_FILE}", f"{index} holds no index of evaluation sets: run EvaluationIndex first")


class ContaminationScorer(BaseScorer):
    """Counts a document's n-grams that are those of evaluation items: 0 = none, which is good.

    The store's further columns are `ngrams`, how many the document has in all, `items`, how many evaluation items it
    shares one with, and `evaluations`, the sets of these items by name, with spaces between. `tokens` are words.
    `--exclude STORE` of `winnow select`, and `exclude` of filters, leave such documents out of a cut.

    Args:
        index: folder EvaluationIndex wrote to.
        scores, metadata_key, window_size: as in BaseScorer.

    Raises:
        StoreIncomplete: there is no index.
        StoreDamaged: the index is not what was written.
    """

    name = "🦠 Contamination"
    lower_is_better = True
    extra_fields = (
        pa.field("ngrams", pa.uint32()),
        pa.field("items", pa.uint32()),
        pa.field("evaluations", pa.string()),
    )

    def __init__(self, scores: str, index: str, metadata_key: str = "contamination", window_size: int = 4096) -> None:
        super().__init__(scores, metadata_key, window_size)
        self.index = str(index).rstrip("/")

    def fingerprint(self) -> dict[str, Any]:
        """Return what decides the scores."""
        index = self._loaded
        unit = "n-grams of evaluation items"
        return {"scorer": "ContaminationScorer", "unit": unit, **index.header, "index": index.digest}

    def score(self, docs: list[Document]) -> Columns:
        """Return what documents share with the evaluation sets."""
        n, unique_U = self._loaded.header["words"], self._unique
        size = len(docs)
        score, tokens, ngrams, items = (np.zeros(size, dtype=np.uint32) for _ in range(4))
        sets = np.full(size, "", dtype=object)
        for row, doc in enumerate(docs):
            words = normalised_words(doc.text)
            hashes = word_ngrams(words, n)
            hits = hashes[found_in(unique_U, hashes)]
            tokens[row], ngrams[row], score[row] = len(words), hashes.size, hits.size
            if hits.size:
                items[row], sets[row] = self._items(hits)
        return {"score": score, "tokens": tokens, "ngrams": ngrams, "items": items, "evaluations": sets}

    def _items(self, hits: np.ndarray) -> tuple[int, str]:
        """Return how many items have some n-grams of the index, and the names of their sets."""
        tensors, hits = self._loaded.tensors, np.unique(hits)
        bounds = zip(*(np.searchsorted(tensors["ngram"], hits, side) for side in ("left", "right")), strict=True)
        items = np.unique(np.concatenate([tensors["item"][first:end] for first, end in bounds]))
        names = list(self._loaded.header["evaluations"])
        return items.size, " ".join(sorted(names[number] for number in np.unique(tensors["set"][items])))

    @cached_property
    def _loaded(self) -> Tensors:
        return load_index(self.index)

    @cached_property
    def _unique(self) -> np.ndarray:
        return np.unique(self._loaded.tensors["ngram"])


@dataclass(frozen=True)
class Overlaps:
    """The documents of a corpus that overlap evaluation sets, in corpus order.

    Attributes:
        some: whether a document shares an n-gram with any item: bool [N].
        by_set: whether it shares one with an item of each set: bool [N] by name.
        items: how many items each set has, and how many of those are long enough to be found.
        words: how many words in a row a document shares with an item that it overlaps.
    """

    some: np.ndarray
    by_set: Mapping[str, np.ndarray]
    items: Mapping[str, tuple[int, int]]
    words: int


def overlaps(store: ScoreStore) -> Overlaps:
    """Return which documents overlap evaluation sets.

    Raises StoreMismatch if the scores are not ContaminationScorer's.
    """
    if store.made.get("scorer") != "ContaminationScorer":
        raise StoreMismatch(
            f"{store.path} holds scores of {store.made.get('scorer')}, which say nothing of evaluation sets: give a "
            "store of ContaminationScorer"
        )
    counted: Mapping[str, Any] = store.made["evaluations"]
    found = {name: np.zeros(store.documents, dtype=bool) for name in counted}
    start = 0
    for source, size in store.sources.items():
        values, index_N = store.categories(source, "evaluations")
        for number, value in enumerate(values):
            for name in value.split():
                found[name][start : start + size] |= index_N == number
        start += size
    items = {name: (number, long) for name, (number, long) in counted.items()}
    return Overlaps(store.scores > 0, found, items, store.made["words"])
