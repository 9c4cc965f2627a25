"""Corpora, dealt or from outside the study, and their tokens."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from launch.stages.base import PipelineStage, Stage, open_sealed, place_of
from pipeline_steps.errors import CorpusError
from pipeline_steps.readers.reading import USUAL, Reading
from pipeline_steps.samplers import EMBEDDED, EMBEDDED_TOKENIZER
from pipeline_steps.stores.files import DELETE, read_json, write_json


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from pipeline_steps.readers.corpus import CorpusFiles

SHARDS = 8  # files a corpus is dealt into: fixed, so that it does not depend on the number of tasks
BAD_ROWS = "bad-rows"  # the folder of what is said of them
DEALT_FILES = "corpus.json"  # the sealed file that lists a dealt corpus


@dataclass(frozen=True)
class Files:
    """A corpus from outside the study. Its files are listed once, so what arrives later belongs to no task.

    Attributes:
        path: as `pipeline_steps.readers.corpus.list_corpus` takes it.
        name: what its listing is called.
        limit: the documents that are read, from the first; -1 for all.
        reading: how its rows are read.
    """

    path: str
    name: str
    limit: int = -1
    reading: Reading = USUAL

    def listing(self, output: str) -> Path:
        """Return the file that lists the corpus's files as they were when the study began."""
        return Path(output, "files", f"{self.name}.json")

    def files(self, output: str) -> CorpusFiles:
        """Return the files that the study reads; list them now if that was not done yet."""
        from pipeline_steps.readers.corpus import CorpusFiles, list_corpus

        listing = self.listing(output)
        if not listing.exists():
            write_json(str(listing), asdict(list_corpus(self.path, self.reading.glob)))
        return CorpusFiles(**read_json(str(listing), DELETE))

    def reader(self, output: str) -> list[PipelineStep]:
        """Return the steps that read the corpus."""
        listing = str(self.listing(output).with_suffix(".txt"))
        return self.files(output).reader(listing, self.limit, reading=self.reading, bad_rows=self.bad_rows(output))

    def bad_rows(self, output: str) -> str:
        """Return the folder of the records of bad rows, one for each file that has any."""
        return os.path.join(output, BAD_ROWS, "files", self.name)


@dataclass(frozen=True)
class Split:
    """A part of a corpus that the study has dealt: train, in_distribution or high_quality."""

    corpus: Corpus
    name: str

    def folder(self, output: str) -> str:
        """Return the folder of the part."""
        return os.path.join(self.corpus.folder(output), self.name)

    def reader(self, output: str) -> list[PipelineStep]:
        """Return the step that reads the part."""
        from datatrove.pipeline.readers import JsonlReader

        return [JsonlReader(self.folder(output))]


Text = Files | Split


@dataclass(frozen=True, eq=False, kw_only=True)
class Deal(Stage):
    """A corpus dealt into training and held-out documents, in a folder that is not yet complete.

    Attributes:
        source: the corpus; None for the documentation of the installed Python packages.
        limit: the documents that are read; -1 for all.
    """

    kind, names, home = "corpus", "corpus/deal", "corpus.partial"
    source: Files | None
    limit: int = -1

    @override
    def run_task(self, output: str, task: int) -> None:
        from launch.pipelines import deal, run_rank
        from pipeline_steps import InstalledDocsReader

        folder, logs = self.folder(output), os.path.join(output, "logs", self.name)
        if self.source is None:
            limit = self.limit if self.limit < 0 else -(-self.limit // SHARDS)
            for shard in range(task, SHARDS, self.tasks):
                run_rank([InstalledDocsReader(limit=limit), *deal(folder, SHARDS)], shard, SHARDS, logs)
            return
        # One task: what lies there is of an attempt on a corpus that has been mended since
        shutil.rmtree(folder, ignore_errors=True)
        self.source.listing(output).unlink(missing_ok=True)
        run_rank([*self.source.reader(output), *deal(folder, SHARDS)], 0, 1, logs)

    @override
    def check_output(self, output: str, whole: bool) -> None:
        if not os.path.isdir(self.folder(output)):  # otherwise it is not yet put in place
            open_sealed(os.path.join(output, Corpus.kind), DEALT_FILES, whole)


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus(Stage):
    """A dealt corpus, complete, with the digests of its files."""

    kind = "corpus"
    deal: Deal

    @override
    def run_task(self, output: str, task: int) -> None:
        from pipeline_steps.readers.splits import SPLITS
        from train.folders import SealedFolder

        source, target = self.deal.folder(output), self.folder(output)
        if os.path.exists(source) or not os.path.exists(target):
            if absent := [part for part in SPLITS if not os.path.isdir(f"{source}/{part}")]:
                raise CorpusError(
                    f"the corpus is too small for held-out text of its own ({', '.join(absent)} is empty): give some "
                    "hundreds of English documents or more, or held_out, and another output"
                )
            SealedFolder.seal(Path(source), DEALT_FILES, {})
            shutil.rmtree(target, ignore_errors=True)  # dealt again: it was damaged
            os.replace(source, target)

    @override
    def check_output(self, output: str, whole: bool) -> None:
        open_sealed(self.folder(output), DEALT_FILES, whole)


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenStage(PipelineStage):
    """A text as a token store.

    Attributes:
        text: the text.
        tokenizer: Hub id or folder, or "embedded", or "embedded-bpe" for decoders.
        append_eos: whether every document ends in EOS.
        beside: a folder for stores of another tokenizer than most of the study's; "" or "decoders/".
    """

    kind, names = "tokens", "tokens/{self.beside}{self.text.name}"
    text: Text
    tokenizer: str
    append_eos: bool = False
    beside: str = ""

    @property
    @override
    def models(self) -> tuple[str, ...]:
        return () if self.tokenizer in (EMBEDDED, EMBEDDED_TOKENIZER) else (self.tokenizer,)

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from train.token_store_writer import TokenStoreWriter

        return [
            *self.text.reader(output),
            TokenStoreWriter(self.folder(output), place_of(self.tokenizer), self.append_eos),
        ]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from train.token_store import TokenStore, open_artefact

        if whole:
            TokenStore.open(self.folder(output))
        else:
            open_artefact(self.folder(output)).check_complete()


@dataclass(frozen=True, eq=False, kw_only=True)
class OwnTokenStage(TokenStage):
    """A corpus as a token store that is the study's output itself."""

    names, home = "tokens", "."
