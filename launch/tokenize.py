"""`winnow tokenize`: a corpus into a token store, by all cores of one machine.

Each process runs its share of one datatrove pipeline, a task per file; on a cluster, `TokenStoreWriter` goes into a
pipeline of its own and any number of machines.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.corpus import list_corpus, open_corpus
from launch.executor import ShareExecutor
from launch.faults import as_process
from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from pipeline_steps.artefact import refuse_differences
from pipeline_steps.files import read_json, write_json
from pipeline_steps.terminal import Terminal
from train.folders import locked
from train.token_store import TokenStore
from train.token_store_writer import TokenStoreWriter
from train.tokenizers import TextEncoder


@dataclass(frozen=True)
class TokenizeSettings:
    """What decides a token store.

    Attributes:
        corpus: as `launch.corpus.open_corpus` takes it.
        tokenizer: Hub id or local folder.
        append_eos: end every document in EOS.
        limit: read at most this many documents of each file; -1 for all.
    """

    corpus: str
    tokenizer: str
    append_eos: bool = False
    limit: int = -1


def tokenize(output: str, settings: TokenizeSettings, workers: int) -> TokenStore:
    """Tokenise what is not tokenised yet, and check every byte that was written.

    Raises:
        WinnowError: the corpus or the tokenizer cannot be used, or the folder holds another store.
        StageFailed: a process died.
    """
    with locked(Path(output), "winnow tokenize"):
        _run(output, settings, workers)
    store = TokenStore.open(output)
    store.verify()
    return store


def _run(output: str, settings: TokenizeSettings, workers: int) -> None:
    folder = Path(output)
    files = list(list_corpus(settings.corpus).sizes)
    if not (folder / "corpus.json").exists():
        TextEncoder(settings.tokenizer)  # a tokenizer that cannot be used must not claim the folder
    _claim(folder, settings, files)
    parts = max(1, min(workers, len(files)))
    jobs = [
        Job("launch.tokenize", (output, "--part", f"{part}/{parts}"), folder / "logs" / f"tokenize-{part}.log")
        for part in range(parts)
    ]
    start = time.monotonic()
    with StageProgress(Terminal()) as progress:
        run_jobs(jobs, parts, lambda: progress.update("Tokenize", _finished(folder, len(files)) / len(files)))
        progress.finish("Tokenize", time.monotonic() - start)


def _claim(folder: Path, settings: TokenizeSettings, files: list[str]) -> None:
    """Write down what the store is made of, or check that it is the same."""
    path, wanted = folder / "corpus.json", asdict(settings) | {"files": files}
    if path.exists():
        refuse_differences(read_json(str(path)), wanted, str(folder))
    else:
        write_json(str(path), wanted)


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
        ShareExecutor([*reader, writer], len(made["files"]), part, parts, logs, skip_completed=True).run()
        return 0

    return as_process(share)


if __name__ == "__main__":
    sys.exit(main())
