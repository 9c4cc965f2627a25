"""Kinds of files that training and measurement write: token stores, runs, checkpoints, units and results."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .damage import Kind
from .workloads import _make_tokens, _train


if TYPE_CHECKING:
    from evaluate_suite.results import ResultRow

Reader = Callable[[Path], Any]


def in_a_fork(work: Callable[[], object]) -> None:
    """Do work in a child: threads of torch and pyarrow do not survive a fork, and others fork after this."""
    with tempfile.TemporaryFile() as said:
        job = os.fork()
        if not job:
            status = 1
            for stream in (1, 2):  # the table goes to the terminal
                os.dup2(said.fileno(), stream)
            try:
                status = int(bool(work()))
            except SystemExit as exit:
                status = int(bool(exit.code))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        if os.waitpid(job, 0)[1]:
            said.seek(0)
            raise RuntimeError(f"the files of the campaign cannot be made: {said.read().decode(errors='replace')}")


def make_training(folder: Path) -> None:
    """Make a token store, a trained run, a unit and results."""
    in_a_fork(lambda: _make_tokens(folder))
    in_a_fork(lambda: _train(folder, 0))
    shutil.copyfile(folder / "run" / "metrics.jsonl", folder / "metrics.whole")
    _measure(folder)


def results_row() -> ResultRow:
    """Return a row of results."""
    from evaluate_suite.results import ResultRow

    return ResultRow(
        sampler="full",
        rate=1.0,
        model="t5-tiny",
        seed=0,
        step=20,
        encoder_tokens=9,
        epoch=1.0,
        task="c4",
        metric="perplexity",
        value=20.0,
        stderr=0.1,
        ci95_low=19.8,
        ci95_high=20.2,
        n=9,
        n_shot=0,
        harness_version="v",
    )


def _measure(folder: Path) -> None:
    from evaluate_suite.units import add_results, once, unit_file

    once(unit_file(folder / "cache", "full", "step-1", "task"), _MADE, lambda: _FOUND)
    add_results(str(folder / "results.jsonl"), [results_row()])


_MADE, _FOUND = {"weights": "w"}, {"nll": [1 / 3, 2.5, 7.25]}


def _tokens(folder: Path) -> list[Any]:
    """Every byte of a token store, as training takes it."""
    import numpy as np

    from train.token_store import TokenStore

    store = TokenStore.open(str(folder / "tokens"))
    ids = np.empty(store.tokens, dtype=np.int32)
    store.copy(0, ids)
    lengths = [part.tolist() for part in store.lengths_by_source()]
    return [store.sources, store.vocab_size, store.corpus_digest, ids.tobytes(), lengths, store.keys().tolist()]


def _tokens_again(folder: Path) -> None:
    """Tokenise what is damaged; the corpus stays."""
    from datatrove.pipeline.readers import JsonlReader

    from pipeline_steps import EMBEDDED_PROXY
    from train.token_store_writer import TokenStoreWriter

    writer = TokenStoreWriter(str(folder / "tokens"), EMBEDDED_PROXY)
    list(writer.run(JsonlReader(str(folder / "corpus")).run()))


def _checkpoint(folder: Path) -> dict[str, bytes]:
    """The last checkpoint, verified as evaluation verifies it, and what its sealed file says."""
    from train.folders import SealedFolder
    from train.verified import verify_files

    (last,) = sorted((folder / "run" / "checkpoints").glob("step-*"))[-1:]
    found = SealedFolder.read(last, "state.json", "delete it")
    verify_files(found.files, "delete it")
    return {"facts": repr(sorted(found.facts.items())).encode()}


def _rows(folder: Path) -> bool:
    """Whether the rows are the first of those that were written: a kill may cut such a file anywhere."""
    from train.run_directory import read_rows

    rows = read_rows(folder / "run" / "metrics.jsonl")
    return rows == read_rows(folder / "metrics.whole")[: len(rows)]


def _resolved(folder: Path) -> Any:
    from pipeline_steps.stores.files import read_json

    return read_json(str(folder / "run" / "resolved.json"))


def _unit(folder: Path) -> Any:
    """A unit as its next caller gets it: a damaged one is measured again."""
    from evaluate_suite.units import once, unit_file

    copy = folder / "unit.trial"
    shutil.copyfile(unit_file(folder / "cache", "full", "step-1", "task"), copy)
    return once(copy, _MADE, lambda: _FOUND)


def _results(folder: Path) -> Any:
    from evaluate_suite.results import read_results

    return read_results(str(folder / "results.jsonl"))


def _results_again(folder: Path) -> None:
    """Take the damaged row out and add it again."""
    from evaluate_suite.units import mend_results

    with contextlib.suppress(FileNotFoundError):
        mend_results(str(folder / "results.jsonl"))
    _measure(folder)


TRAINING_KINDS = [
    *(
        Kind(f"token store's {name}", f"tokens/parts/*/{name}", _tokens, _tokens_again)
        for name in ("tokens.npy", "offsets.npy", "keys.npy", "meta.json")
    ),
    Kind("token store's tokenizer", "tokens/tokenizer/*", _tokens, _tokens_again),
    Kind("token store's list", "tokens/manifest.json", _tokens, _tokens_again),
    *(
        Kind(f"checkpoint's {name}", f"run/checkpoints/*20/{name}", _checkpoint)
        for name in ("*config.json", "model.safetensors", "optimizer.safetensors", "state.json", "*token*")
    ),
    Kind("resolved.json", "run/resolved.json", _resolved),
    Kind("metrics", "run/metrics.jsonl", _rows),
]
EVALUATION_KINDS = [
    Kind("unit", "cache/*/*/*.json", _unit),
    Kind("results", "results.jsonl", _results, _results_again),
]
