"""How large a corpus is: as its token store has it, as the user says, or counted here, large ones by a sample."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem

from launch.plan import Plan
from launch.stages.base import place_of
from launch.stages.runs import Training
from launch.status import TaskStatus
from pipeline_steps.errors import CorpusError, InvalidStudy, StoreIncomplete
from pipeline_steps.paper import C4_TOKENS
from pipeline_steps.readers.reading import Reading
from pipeline_steps.samplers import EMBEDDED, EMBEDDED_TOKENIZER


if TYPE_CHECKING:
    from pipeline_steps.readers.corpus import CorpusFiles

C4_DOCUMENTS = 364_868_892  # allenai/c4, configuration en, split train: the data set's card
_ALL_OF_C4 = re.compile(r"\bc4(/en/c4-train\.\*|\?config=en&split=train$)")
MOST_BYTES = 64_000_000  # of files, compressed or not, that are read: some seconds
_MOST_FILES = 16  # that a sample of a corpus is taken from
_MOST_SOURCES = 400  # files of Python that a sample of the installed documentation is taken from
_TOKENISED = 500_000  # characters by which the characters of a token are measured


@dataclass(frozen=True)
class CorpusSize:
    """How large the corpus is that a study selects from.

    Attributes:
        documents: N.
        tokens: tokens of the study's tokenizer.
        known_from: where the two numbers come from, in words.
    """

    documents: int
    tokens: int
    known_from: str

    def read(self, most: int | None) -> int:
        """Return how many tokens of a document a model reads: all of the mean document, or `most`.

        This is an estimate from above, since long documents are cut and short ones are not filled up.
        """
        mean = round(self.tokens / self.documents)
        return mean if most is None else min(mean, most)


def size_of(plan: Plan, tasks: Sequence[TaskStatus], documents: int | None, tokens: int | None) -> CorpusSize:
    """Return the size of a study's corpus: as tokenised, as given, C4's, as counted, or the study's limit.

    Raises:
        InvalidStudy: nothing says how large a remote corpus is.
        CorpusError: a local corpus cannot be read.
    """
    study, mean = plan.study, C4_TOKENS / C4_DOCUMENTS
    if (stored := _stored(plan, tasks)) is not None:
        return stored
    if documents or tokens:
        documents = documents or max(round((tokens or 0) / mean), 1)
        known_from = "given" if tokens else f"given, {mean:.0f} tokens a document"
        return CorpusSize(documents, tokens or round(documents * mean), known_from)
    if study.corpus is None:
        return _counted(_documentation(), study.limit, study.tokenizer)
    if study.limit < 0 and _ALL_OF_C4.search(study.corpus):
        return CorpusSize(C4_DOCUMENTS, C4_TOKENS, "C4")
    if study.corpus.startswith("file://") or "://" not in study.corpus:
        return _counted(_local(study.corpus, study.limit, study.reading), study.limit, study.tokenizer)
    if study.limit >= 1:
        return CorpusSize(study.limit, round(study.limit * mean), f"the limit, {mean:.0f} tokens a document")
    raise InvalidStudy(
        f"{study.path} does not say how large its corpus is, and {study.corpus} is not on this machine: give "
        "--documents, and --corpus-tokens if you know them"
    )


def counted_documents(corpus: str, limit: int, reading: Reading) -> int | None:
    """Return how many documents a small local corpus has; None for a remote one, or one too large to be read now."""
    if "://" in corpus and not corpus.startswith("file://"):
        return None
    count = _local(corpus, limit, reading)
    return count.documents if count.known_from == _Count.known_from else None


def _stored(plan: Plan, tasks: Sequence[TaskStatus]) -> CorpusSize | None:
    """Return the size of the corpus's token store; None if the store is not finished."""
    from train.token_store import TokenStore

    stage = next((one.tokens for one in plan.stages.values() if isinstance(one, Training)), None)
    if stage is None or any(task.found.state != "done" for task in tasks if task.stage == stage):
        return None
    try:
        store = TokenStore.open(stage.folder(plan.output))
    except StoreIncomplete:  # it was moved away
        return None
    return CorpusSize(store.documents, store.tokens, "its token store")


# ------------------------------------------------------------------------------------------------------------ counting


@dataclass
class _Count:
    """What has been read of a corpus, which is `times` as large; `texts` are some of its texts."""

    documents: int = 0
    characters: int = 0
    texts: list[str] = field(default_factory=list)
    times: float = 1.0
    known_from: str = "counted"

    def add(self, text: str) -> None:
        """Count a document."""
        if self.characters < _TOKENISED:
            self.texts.append(text)
        self.documents += 1
        self.characters += len(text)


def _counted(count: _Count, limit: int, tokenizer: str) -> CorpusSize:
    """Return the size of a corpus, with as many characters to a token as the texts that were kept have."""
    from pipeline_steps.engines.models import load_tokenizer

    if not count.documents:
        raise CorpusError("the corpus has no documents, or none in the files that were read: give --documents")
    # A tokenizer of the Hub may not be on this machine; the embedded one makes some more tokens of a text
    here = os.path.isdir(tokenizer) or tokenizer == EMBEDDED_TOKENIZER
    known = load_tokenizer(place_of(tokenizer if here else EMBEDDED))
    encoded = known(count.texts, add_special_tokens=True, verbose=False)["input_ids"]
    a_character = sum(map(len, encoded)) / sum(map(len, count.texts))
    documents = max(round(count.documents * count.times), 1)
    documents = min(documents, limit) if limit >= 0 else documents
    tokens = documents * count.characters / count.documents * a_character
    return CorpusSize(documents, max(round(tokens), 1), count.known_from)


def _documentation() -> _Count:
    """Count a sample of the documentation of the installed packages; all of it takes minutes."""
    from pipeline_steps import InstalledDocsReader
    from pipeline_steps.readers.installed_docs import documentation, installed_packages

    least = InstalledDocsReader().min_words
    files = [file for package in installed_packages() for file in package.files()]
    chosen, count = _evenly(files, _MOST_SOURCES), _Count()
    for file in chosen:
        with suppress(SyntaxError, UnicodeDecodeError, ValueError, RecursionError):  # files that the reader skips too
            for *_, text in documentation(file, least):
                count.add(text)
    count.times = len(files) / len(chosen)
    if len(chosen) < len(files):
        count.known_from = f"sampled from {len(chosen):,} of {len(files):,} files"
    return count


def _local(path: str, limit: int, reading: Reading) -> _Count:
    """Count a corpus of files: from the first if it is small or only begun, evenly chosen ones otherwise."""
    from pipeline_steps.readers.corpus import list_corpus

    corpus, count = list_corpus(path, reading.glob), _Count()
    whole = sum(corpus.sizes.values())
    from_first = limit >= 0 or whole <= MOST_BYTES
    chosen = list(corpus.sizes) if from_first else _evenly(list(corpus.sizes), _MOST_FILES)
    seen, begun, parts = 0.0, 0, ""
    for name in chosen:
        most = MOST_BYTES - seen if from_first else MOST_BYTES / len(chosen)
        if most <= 0:
            break
        begun += 1
        for text, share in _texts(corpus, name, reading):
            count.add(text)
            if count.documents == limit:
                return count
            if share * corpus.sizes[name] >= most:
                seen += share * corpus.sizes[name]
                parts = "parts of "
                break
        else:
            seen += corpus.sizes[name]
    if parts or begun < len(corpus.sizes):
        count.times = whole / seen
        count.known_from = f"sampled from {parts}{begun:,} of {len(corpus.sizes):,} files"
    return count


def _texts(corpus: CorpusFiles, name: str, reading: Reading) -> Iterator[tuple[str, float]]:
    """Yield each text of a file, and the share of a large file that has been read until there; 0 for small ones."""
    import pyarrow.parquet as pq
    from datatrove.io import DataFolder

    from pipeline_steps.readers.compressed import without_compression
    from pipeline_steps.readers.formats import TYPED

    opened, folder = _Opened(), LocalFileSystem._strip_protocol(corpus.folder)
    with tempfile.TemporaryDirectory() as scratch:
        reader, *others = corpus.reader(str(Path(scratch, "files.txt")), reading=reading)
    reader.data_folder = DataFolder(folder, fs=opened)
    rows = pq.read_metadata(f"{folder}/{name}").num_rows if name.endswith(".parquet") else 0
    documents: Any = reader.read_file(name)
    for step in others:
        documents = step.run(documents)
    # Of small files all is in a buffer after the first document; of packed columns too
    is_packed = corpus.kind in TYPED and without_compression(name) != name
    is_large = corpus.sizes[name] > MOST_BYTES / _MOST_FILES and not is_packed
    for number, document in enumerate(documents, 1):
        share = number / rows if rows else opened.last.tell() / corpus.sizes[name]
        yield document.text, share if is_large else 0.0


class _Opened(LocalFileSystem):
    """The local disk, which keeps the file that was opened last: its position tells how much has been read."""

    cachable = False
    last: Any = None

    def _open(self, *args: Any, **options: Any) -> Any:
        self.last = super()._open(*args, **options)
        return self.last


def _evenly(found: Sequence[Any], most: int) -> list[Any]:
    """Return `most` of the things, evenly spaced; all if there are fewer."""
    if len(found) <= most:
        return list(found)
    return [found[number * len(found) // most] for number in range(most)]
