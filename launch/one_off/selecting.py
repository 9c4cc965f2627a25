"""`winnow select`: score a corpus, cut it exactly, and write the chosen documents as a dataset.

<work>/scores/...       what `winnow score` leaves; kept, for other cuts of the same corpus
<work>/writing/         while a dataset is written: claim.json, plan.json, parts/, groups/
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.corpus import CorpusFiles, list_corpus
from launch.one_off.card import facts, write_card
from launch.one_off.parts import SUFFIX, Format, parquet_name
from launch.one_off.publishing import CARD, RECORD, Destination, described, destination
from launch.one_off.rows import Plan
from launch.one_off.scoring import (
    ScoreSettings,
    check_settings,
    describe,
    metadata_key,
    refuse_credentials,
    refuse_inside,
    score,
)
from launch.processes import Job, run_jobs
from launch.progress import StageProgress
from launch.study.samplers import PAPER_SAMPLERS, Sampler
from pipeline_steps import __version__
from pipeline_steps.cuts import Cut, select
from pipeline_steps.errors import InvalidCut, StoreMismatch, WinnowError
from pipeline_steps.files import read_json, write_atomically, write_json
from pipeline_steps.numerics.priority import Mode
from pipeline_steps.score_store import ScoreStore
from pipeline_steps.selection import Selection
from train.folders import locked
from train.run_directory import refuse_differences


_GROUP_BYTES = 1 << 26  # of source files times the share that is kept: a file of the dataset
_SCORE_FLAGS = ("sampler", "proxy", "embedder", "target", "scores", "mode", "k", "rate", "token_budget", "seed")


@dataclass(frozen=True)
class SelectSettings:
    """What decides a dataset.

    Attributes:
        corpus: as `launch.corpus.open_corpus` takes it.
        sampler: whose scorer is run, and whose mode is the cut's; None: only `scores` says.
        cut: what to keep.
        scores: a score store to use instead of scoring.
        limit: the first documents of the corpus; -1 for all.
        embedder: of density, SemDeDup and prototypes.
        target: corpus that DSIR and the quality classifier find more of.
        format: of the files.
        column: that scores go to; None: the usual one.
    """

    corpus: str
    sampler: Sampler | None
    cut: Cut
    scores: str | None = None
    limit: int = -1
    embedder: str = "hashed-ngrams"
    target: str | None = None
    format: Format = "parquet"
    column: str | None = None

    def made_from(self, files: CorpusFiles) -> dict[str, Any]:
        """All of it, as JSON types: what another command on the same output must equal."""
        embeds = self.sampler is not None and self.sampler.scorer in ("density", "semdedup", "prototypes")
        return {
            "corpus": self.corpus,
            "files": describe(files),
            "limit": self.limit,
            "sampler": self.sampler.name if self.sampler else None,
            "proxy": (self.sampler.model or None) if self.sampler and not self.scores else None,
            "embedder": self.embedder if embeds and not self.scores else None,
            "target": self.target,
            "scores": self.scores,
            **asdict(self.cut),
            "format": self.format,
            "score_column": self._column(),
        }

    def _column(self) -> str | None:
        """Where the scores go; chance has none."""
        if self.column is not None:
            return self.column
        if self.scores is not None:
            scorer = str(ScoreStore(self.scores).config.get("scorer"))
        else:
            scorer = _class_name(self.sampler.scorer if self.sampler else "")
        return None if scorer == "KeysScorer" else metadata_key(scorer)

    def score_settings(self) -> ScoreSettings:
        """Of the scoring."""
        assert self.sampler is not None
        return ScoreSettings(self.corpus, self.sampler, self.limit, self.embedder, self.target)


def usual_mode(scores: str) -> Mode:
    """How scores of this kind are cut in the paper; "top" for those that are not its own."""
    scorer = ScoreStore(scores).config.get("scorer")
    return next((one.mode for one in PAPER_SAMPLERS.values() if _class_name(one.scorer) == scorer), "top")


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
    refuse_credentials(output)
    refuse_inside(settings.corpus, output, work)
    if settings.scores is None:
        files = check_settings(settings.score_settings())
    else:
        for path in (settings.corpus, settings.scores):
            refuse_credentials(path)
        files = list_corpus(settings.corpus)
        _check_scorer(settings)
    made_from, place = settings.made_from(files), destination(output, private)
    writing = Path(work) / "writing"
    with locked(Path(work), "winnow select"):
        if (there := place.record()) is not None:
            refuse_differences(there["made_from"], made_from, output)
            if place.complete():
                place.check(there.get("files", {}))
                shutil.rmtree(writing, ignore_errors=True)
                return there
        _check_claim(writing, made_from)
        scores = settings.scores or score(work, settings.score_settings(), files, workers, progress)
        plan = _plan(settings, files, scores, writing)
        write_json(str(writing / "claim.json"), made_from)
        _write(plan, settings.corpus, workers, progress)
        return _publish(plan, made_from, output, place)


def _check_claim(writing: Path, made_from: Mapping[str, Any]) -> None:
    """Refuse what another command has begun to write; scores decide by themselves whether they are the wanted ones."""
    path = writing / "claim.json"
    if path.exists():
        refuse_differences(read_json(str(path)), dict(made_from), f"{writing}, which is unfinished,")
    else:
        shutil.rmtree(writing, ignore_errors=True)


def _check_scorer(settings: SelectSettings) -> None:
    """Whether the scores are those of the sampler that is named beside them."""
    found = ScoreStore(settings.scores or "").config
    if settings.sampler is None:
        return
    named, scorer = settings.sampler.model, settings.sampler.scorer
    asked = (found.get("proxy") or {}).get("model", named)
    if found.get("scorer") != _class_name(scorer) or (named and asked != named):
        made = found.get("scorer") if not named else f"{found.get('scorer')} by {asked}"
        raise StoreMismatch(
            f"{settings.scores} holds scores of {made}, not of {settings.sampler.name}: leave --sampler out, or give "
            "its own scores"
        )


def _class_name(scorer: str) -> str:
    from launch.study.pipelines import SCORER_CLASSES

    return SCORER_CLASSES[scorer].__name__ if scorer else "KeysScorer"


def _plan(settings: SelectSettings, files: CorpusFiles, scores: str, writing: Path) -> Plan:
    """Find the cut, and say which files are written together."""
    chosen = select(ScoreStore.open(scores), settings.cut)
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
        "cut": asdict(settings.cut),
        "column": settings._column(),
        "format": settings.format,
    }
    if (writing / "plan.json").exists() and read_json(str(writing / "plan.json")) != made:
        raise StoreMismatch(f"{settings.corpus} has changed since {writing} was begun: delete that folder")
    write_json(str(writing / "plan.json"), made)
    return Plan(writing, **made)


def _write(plan: Plan, corpus: str, workers: int, progress: StageProgress) -> None:
    """Write the rows of the cut, into files that are the dataset's but for their names."""
    try:
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
    found = facts(store, Selection.load(str(folder / "selection.safetensors")), made_from["mode"])
    record = {
        "made_from": made_from,
        "winnow": __version__,
        **{name: list(counts) for name, counts in (("documents", found.documents), ("tokens", found.tokens))},
        "threshold": found.threshold,
        "corpus_digest": found.digests[0],
        "scores_fingerprint": found.digests[1],
        "scores": found.scores,
        "files": described(files | {"selection.safetensors": folder / "selection.safetensors"}),
    }
    columns = plan.columns() if plan.format == "jsonl" else None  # of JSON lines, a reader would guess from the first
    card = write_card(made_from, found, command(made_from, output), f"data/train-*{suffix}", columns)
    write_json(str(folder / RECORD), record)
    write_atomically(str(folder / CARD), card.encode())
    place.publish(files | {name: folder / name for name in ("selection.safetensors", RECORD, CARD)})
    shutil.rmtree(folder, ignore_errors=True)
    return record


def command(made_from: Mapping[str, Any], output: str) -> str:
    """The command that makes a dataset, without what changes nothing."""
    words = ["winnow", "select", "--corpus", made_from["corpus"]]
    if made_from["limit"] >= 0:
        words += ["--limit", str(made_from["limit"])]
    for name in (*_SCORE_FLAGS, "score_column"):
        named = made_from["sampler"] in PAPER_SAMPLERS and PAPER_SAMPLERS[made_from["sampler"]].model
        if made_from[name] is not None and not (name == "proxy" and made_from["proxy"] == named):
            words += [f"--{name.replace('_', '-')}", f"{made_from[name]}"]
    return shlex.join([*words, "--format", made_from["format"], "--output", output])
