"""`winnow select`: score a corpus, cut it exactly, and write the chosen documents as a dataset.

<work>/scores/...       what `winnow score` leaves; kept, for other cuts of the same corpus
<work>/writing/         while a dataset is written: claim.json, plan.json, parts/, groups/
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datatrove.utils.logging import logger

from launch.one_off.card import facts, write_card
from launch.one_off.parts import SUFFIX, parquet_name
from launch.one_off.publishing import CARD, RECORD, Destination, destination
from launch.one_off.rows import Plan
from launch.one_off.scoring import (
    check_settings,
    refuse_inside,
    score,
)
from launch.one_off.select_settings import SelectSettings, check_scorer, command
from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from pipeline_steps import __version__
from pipeline_steps.credentials import refuse_credentials
from pipeline_steps.errors import InvalidCut, StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.filters.cuts import select
from pipeline_steps.readers.corpus import CorpusFiles, list_corpus, refuse_changed_files
from pipeline_steps.stores.artefact import claim, json_types, refuse_differences
from pipeline_steps.stores.files import read_json, write_atomically, write_json
from pipeline_steps.stores.listed_files import entry, is_as_noted
from pipeline_steps.stores.score_store import ScoreStore
from pipeline_steps.stores.selection import Selection
from train.folders import locked


_GROUP_BYTES = 1 << 26  # of source files times the share that is kept: a file of the dataset


def select_dataset(
    settings: SelectSettings, output: str, work: str, workers: int, private: bool, progress: StageProgress
) -> dict[str, Any]:
    """Do what is not done yet; what winnow.json says of the dataset.

    Args:
        settings: what decides it.
        output: where it goes.
        work: local folder of scores and of what is not finished.
        workers: processes at a time.
        private: whether a repository that is made on the Hub is.
        progress: where stages are shown.

    Raises:
        WinnowError: the input is at fault, or the output or the work folder holds something else.
    """
    refuse_credentials({"output": output, "work": work, **asdict(settings)}, "winnow select")
    refuse_inside(settings.corpus, output, work)
    if settings.scores is None:
        files = check_settings(settings.score_settings())
    else:
        files = list_corpus(settings.corpus)
        check_scorer(settings)
    made_from, place = settings.made_from(files), destination(output, private)
    writing = Path(work) / "writing"
    with locked(Path(work), "winnow select"):
        if (there := place.record()) is not None:
            refuse_changed_files(there["made_from"], made_from, output)
            refuse_differences(there["made_from"], made_from, output)
            if not (lacking := place.damaged(there)):
                shutil.rmtree(writing, ignore_errors=True)
                return there
            progress.note(f"{output}: {', '.join(lacking)} not there, or damaged: written again")
        _check_claim(writing, made_from)
        scores = settings.scores or score(work, settings.score_settings(), files, workers, progress)
        plan = _plan(settings, files, scores, writing)
        claim(f"{writing}/claim.json", made_from, f"{writing}, which is unfinished,")
        _write(plan, settings.corpus, workers, progress)
        return _publish(plan, made_from, output, place)


def _check_claim(writing: Path, made_from: dict[str, Any]) -> None:
    """Refuse what another command has begun to write; scores decide by themselves whether they are the wanted ones.

    What is left without a claim, or with a damaged one, is dropped.
    """
    try:
        begun = read_json(str(writing / "claim.json"))
        read_json(str(writing / "plan.json"))
    except (FileNotFoundError, StoreDamaged):
        shutil.rmtree(writing, ignore_errors=True)
    else:
        refuse_changed_files(begun, made_from, str(writing))
        refuse_differences(begun, json_types(made_from), f"{writing}, which is unfinished,")


def _plan(settings: SelectSettings, files: CorpusFiles, scores: str, writing: Path) -> Plan:
    """Find the cut, and say which files are written together."""
    store = ScoreStore.open(scores)
    chosen = select(store, settings.cut)
    if not chosen.documents:
        raise InvalidCut(f"this cut keeps none of {chosen.mask.size:,} documents: give a larger amount")
    chosen.save(str(writing / "selection.safetensors"))
    share = chosen.documents / chosen.mask.size
    made: dict[str, Any] = {
        "corpus": files.folder,
        "kind": files.kind,
        "groups": list(_groups(files, share)) if settings.limit < 0 else [list(files.sizes)],
        "limit": settings.limit,
        "scores": scores,
        "scores_fingerprint": store.fingerprint,
        "cut": asdict(settings.cut),
        "column": settings.score_column(),
        "format": settings.format,
    }
    if (writing / "plan.json").exists() and read_json(str(writing / "plan.json")) != made:
        raise StoreMismatch(f"{settings.corpus} or {scores} has changed since {writing} was begun: delete that folder")
    write_json(str(writing / "plan.json"), made)
    return Plan(writing, **made)


def _write(plan: Plan, corpus: str, workers: int, progress: StageProgress) -> None:
    """Write the rows of the cut, into files that are the dataset's but for their names."""
    try:
        _drop_damaged(plan)
        _run(plan, "write", "Write", workers, progress)
        found = sum(part.rows for part in plan.parts())
        wanted = Selection.load(str(plan.folder / "selection.safetensors")).documents
        if found != wanted:
            raise StoreMismatch(
                f"{corpus} holds {found:,} of the {wanted:,} documents that the cut of {plan.scores} keeps: give the "
                "corpus, and the --limit, of these scores"
            )
        if plan.to_rewrite():
            _run(plan, "rewrite", "To Parquet", workers, progress)
    except WinnowError:
        shutil.rmtree(plan.folder, ignore_errors=True)  # the corpus will be mended, or other settings be given
        raise


def _drop_damaged(plan: Plan) -> None:
    """Forget what an earlier command has written if it is not what was written."""
    for group in range(len(plan.groups)):
        done = plan.done(group)
        if not done.exists():
            continue
        try:
            names = [part["name"] for part in read_json(str(done))["parts"]]
        except StoreDamaged as error:
            logger.warning(f"{error} (done now)")
            done.unlink()
            continue
        for name in map(parquet_name, names):
            if not is_as_noted(plan.folder / "parts" / name):
                (plan.folder / "parts" / f"{name}.json").unlink(missing_ok=True)
        if lost := [name for name in names if not is_as_noted(plan.folder / "parts" / name)]:
            logger.warning(f"{plan.folder}/parts/{lost[0]} is damaged, or not there (written again now)")
            done.unlink()


def _groups(files: CorpusFiles, share: float) -> Iterator[list[str]]:
    """Runs of files that make a file of the dataset, or several."""
    group: list[str] = []
    size = 0.0
    for name, own in files.sizes.items():
        group.append(name)
        size += own * share or _GROUP_BYTES
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0.0
    if group:
        yield group


def _run(plan: Plan, step: str, title: str, workers: int, progress: StageProgress) -> None:
    """Run a step of `launch.one_off.rows` in processes."""
    start, groups = time.monotonic(), len(plan.groups)
    if step == "write" and plan.written() == groups:
        progress.finish(title, None)
        return
    parts = max(1, min(workers, groups if step == "write" else len(plan.to_rewrite())))
    jobs = [
        Job(
            "launch.one_off.rows",
            (str(plan.folder), step, "--part", f"{part}/{parts}"),
            plan.folder / "logs" / f"{step}-{part}.log",
        )
        for part in range(parts)
    ]
    run_jobs(jobs, parts, lambda: progress.update(title, plan.written() / groups if step == "write" else None))
    progress.finish(title, time.monotonic() - start)


def _publish(plan: Plan, made_from: dict[str, Any], output: str, place: Destination) -> dict[str, Any]:
    """Name the files, describe them, and put them where they belong."""
    store, folder = ScoreStore.open(plan.scores), plan.folder
    parts, rewritten = plan.parts(), {part.name for part in plan.to_rewrite()}
    suffix = SUFFIX["parquet" if plan.format == "parquet" else "jsonl"]
    files = {
        f"data/train-{number:05d}-of-{len(parts):05d}{suffix}": folder
        / "parts"
        / (parquet_name(part.name) if part.name in rewritten else part.name)
        for number, part in enumerate(parts)
    }
    for file in files.values():
        if not is_as_noted(file):
            raise StoreDamaged(f"{file} is damaged: give the same command again, which writes that file again")
    found = facts(store, Selection.load(str(folder / "selection.safetensors")), made_from["mode"])
    columns = plan.columns() if plan.format == "jsonl" else None  # of JSON lines, a reader would guess from the first
    card = write_card(made_from, found, command(made_from, output), f"data/train-*{suffix}", columns)
    write_atomically(str(folder / CARD), card.encode())
    files |= {name: folder / name for name in ("selection.safetensors", CARD)}
    record = {
        "made_from": made_from,
        "winnow": __version__,
        **{name: list(counts) for name, counts in (("documents", found.documents), ("tokens", found.tokens))},
        "threshold": found.threshold,
        "corpus_digest": found.digests[0],
        "scores_fingerprint": found.digests[1],
        "scores": found.scores,
        "files": {name: entry(file) for name, file in files.items()},
    }
    write_json(str(folder / RECORD), record)
    place.publish(files | {RECORD: folder / RECORD}, record)
    shutil.rmtree(folder, ignore_errors=True)
    return record
