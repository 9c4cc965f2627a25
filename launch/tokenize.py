"""`winnow tokenize`: a corpus into a token store, by all cores of one machine.

Each process runs its share of one datatrove pipeline, a task per file; on a cluster, `TokenStoreWriter` goes into a
pipeline of its own and any number of machines.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.executor import ShareExecutor
from launch.faults import as_process
from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from pipeline_steps.errors import StoreDamaged, StoreIncomplete
from pipeline_steps.readers.corpus import list_corpus, open_corpus, refuse_changed_files
from pipeline_steps.stores.artefact import claim
from pipeline_steps.stores.files import DELETE, read_json
from pipeline_steps.terminal import Terminal
from train.folders import locked
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter
from train.tokenizers import TextTokenizer


@dataclass(frozen=True)
class TokenizeSettings:
    """What decides a token store.

    Attributes:
        corpus: as `pipeline_steps.readers.corpus.open_corpus` takes it.
        tokenizer: Hub id or local folder.
        append_eos: end every document in EOS.
        limit: read at most this many documents of each file; -1 for all.
    """

    corpus: str
    tokenizer: str
    append_eos: bool = False
    limit: int = -1


def tokenize(output: str, settings: TokenizeSettings, workers: int) -> TokenStore:
    """Tokenise what is not tokenised yet, or is damaged; every byte of the store that is returned has been verified.

    Raises:
        WinnowError: the corpus or the tokenizer cannot be used, or the folder holds another store.
        StageFailed: a process died.
    """
    folder, files = Path(output), list_corpus(settings.corpus)
    with locked(folder, "winnow tokenize"):
        if not (folder / "corpus.json").exists():
            TextTokenizer(settings.tokenizer)  # a tokenizer that cannot be used must not claim the folder
        made = asdict(settings) | {"files": files.listing, "tasks": len(files.sizes)}
        with suppress(FileNotFoundError):
            refuse_changed_files(read_json(f"{folder}/corpus.json", DELETE), made, str(folder))
        claim(f"{folder}/corpus.json", made, str(folder))
        with suppress(StoreIncomplete, StoreDamaged):
            return TokenStore.open(output)
        _run(output, len(files.sizes), workers)
        with suppress(StoreIncomplete, StoreDamaged):
            return TokenStore.open(output)
        # datatrove's notes of finished tasks know neither that a file is damaged nor that the corpus has changed
        shutil.rmtree(folder / "logs" / "completions", ignore_errors=True)
        _run(output, len(files.sizes), workers)
        return TokenStore.open(output)


def _run(output: str, tasks: int, workers: int) -> None:
    folder = Path(output)
    parts = max(1, min(workers, tasks))
    jobs = [
        Job("launch.tokenize", (output, "--part", f"{part}/{parts}"), folder / "logs" / f"tokenize-{part}.log")
        for part in range(parts)
    ]
    start = time.monotonic()
    with StageProgress(Terminal(stderr=True)) as progress:
        run_jobs(jobs, parts, lambda: progress.update("Tokenize", _finished(folder, tasks) / tasks))
        progress.finish("Tokenize", time.monotonic() - start)


def _finished(folder: Path, tasks: int) -> int:
    return len(list(folder.glob(f"runs/*/{tasks}/*.json")))


def main(argv: list[str] | None = None) -> int:
    """One process's share; a user's error is the last line on stderr, with exit status 2."""
    parser = argparse.ArgumentParser(description="Run a share of `winnow tokenize`.")
    parser.add_argument("folder")
    parser.add_argument("--part", default="0/1", help="this process's share of the tasks, as I/N")
    args = parser.parse_args(argv)
    part, parts = map(int, args.part.split("/"))
    folder, made = Path(args.folder), read_json(f"{args.folder}/corpus.json")

    def share() -> int:
        reader = open_corpus(made["corpus"], str(folder / "logs" / f"files-{part}.txt"), made["limit"])
        writer = TokenStoreWriter(str(folder), made["tokenizer"], made["append_eos"])
        logs = str(folder / "logs")
        ShareExecutor([*reader, writer], made["tasks"], part, parts, logs, skip_completed=True).run()
        return 0

    return as_process(share)


if __name__ == "__main__":
    sys.exit(main())
