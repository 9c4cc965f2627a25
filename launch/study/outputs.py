"""What a study has made, opened again: a stage whose output was deleted or damaged is done no longer.

Only the runner looks, before it hands out what is left; tasks rely on the marks of `launch.study.progress`. Of an
output that nobody is about to read, only the small files that describe it are opened; on one machine, what is about to
be read is verified to the last byte, so that it is made again now and not refused in the middle of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from evaluate_suite.checkpoint import Checkpoint, cost_rows, find_checkpoints
from evaluate_suite.results import ResultRow, read_results
from evaluate_suite.units import mend_results, unit_file
from launch.study.progress import forget, tasks_left
from launch.study.schema import Study
from launch.study.stages import DEALT_FILES, PROXY_FILES, Stage, selection, splits_of
from launch.study.work import run_folder, run_of
from pipeline_steps.embedding.kmeans import buckets, load_centroids, load_members
from pipeline_steps.errors import StoreIncomplete, WinnowError
from pipeline_steps.scorers.density import load_sketch
from pipeline_steps.stores.files import load_tensors, read_json
from pipeline_steps.stores.partials import Partials
from pipeline_steps.stores.selection import Selection
from pipeline_steps.stores.source_store import SourceStore
from train.folders import SealedFolder
from train.run_directory import checkpoint_folder, is_finished
from train.token_store import TokenStore, open_artefact
from train.verified import verify_files


_RESULTS = ("results.jsonl", "costs.jsonl")


def forget_lost(
    study: Study, stages: Mapping[str, Stage], made: Mapping[str, str], wanted: Collection[str] = ()
) -> list[str]:
    """Take the marks off every stage that is done but whose output does not open; return a sentence for each.

    Args:
        study: the study.
        stages: all of them.
        made: their fingerprints.
        wanted: names of stages whose output the caller is about to read.
    """
    said = [
        f"{one} (left out; what measured it is done again)"
        for name in _RESULTS
        for one in mend_results(str(Path(study.output) / name))
    ]
    outputs, read, lost = Outputs(study), set(wanted), list[str]()
    for name, stage in reversed(list(stages.items())):
        if not tasks_left(study, stage, made[name]):
            try:
                outputs.check(stage, whole=name in read and study.engine.kind == "local")
                continue
            except (WinnowError, FileNotFoundError) as error:
                forget(study, stage)
                lost.append(f"{name} is done again: {why_lost(error)}")
        read.update(stage.needs)
    return said + lost[::-1]


def why_lost(error: WinnowError | FileNotFoundError) -> str:
    """Return why an output does not open, in words."""
    return f"{error.filename} is not there" if isinstance(error, FileNotFoundError) else str(error)


class Outputs:
    """The outputs of a study's stages.

    Args:
        study: the study.
    """

    def __init__(self, study: Study) -> None:
        self._study, self._output = study, Path(study.output)
        self._kinds: dict[str, Callable[[Stage, bool], object]] = {
            "corpus": self._corpus,
            "proxies": lambda stage, whole: _sealed(self._output / stage.name, PROXY_FILES, whole),
            "tokens": self._tokens,
            "embeddings": self._store,
            "scores": self._store,
            "density": self._density,
            "clusters": self._clusters,
            "ngrams": lambda stage, whole: _partials(self._output / stage.name, whole),
            "dsir": lambda stage, whole: load_tensors(f"{self._output}/dsir/dsir.safetensors"),
            "quality": lambda stage, whole: load_tensors(f"{self._output}/quality/classifier.safetensors"),
            "selections": self._selection,
            "runs": self._run,
            "measured": self._measured,
            "report": lambda stage, whole: (self._output / "report.html").stat(),
        }

    def check(self, stage: Stage, whole: bool) -> None:
        """Open a stage's output; `whole` reads every byte.

        Raises:
            WinnowError: it is incomplete or damaged.
            FileNotFoundError: it is not there.
        """
        self._kinds[stage.name.partition("/")[0]](stage, whole)

    def _corpus(self, stage: Stage, whole: bool) -> None:
        if stage.name == "corpus/deal" and (self._output / "corpus.partial").is_dir():
            return  # not yet put in place
        _sealed(self._output / "corpus", DEALT_FILES, whole)

    def _tokens(self, stage: Stage, whole: bool) -> None:
        folder = str(self._output / stage.name)
        if whole:
            TokenStore.open(folder)
        else:
            open_artefact(folder).check_complete()

    def _store(self, stage: Stage, whole: bool) -> None:
        _store(self._output / stage.name, whole)

    def _density(self, stage: Stage, whole: bool) -> None:
        try:
            load_sketch(f"{self._output}/density")
        except WinnowError:
            if stage.name == "density/merge":
                raise
            _partials(self._output / "density" / "partials", whole)  # which the merge drops

    def _clusters(self, stage: Stage, whole: bool) -> None:
        folder = str(self._output / "clusters")
        if stage.name == "clusters/fit":
            load_centroids(folder)
            return
        if stage.name == "clusters/similarities":
            self._similarities(whole)
            return
        store = _store(self._output / "clusters" / "assignments", whole)
        for source, entry in store.manifest.items() if whole else ():
            of = {"source": source, "keys": entry["keys"], "centroids": store.made["centroids"]}
            for bucket in range(buckets(store.made["clusters"])):
                load_members(folder, bucket, of)

    def _similarities(self, whole: bool) -> None:
        folder = self._output / "clusters"
        files = sorted(folder.glob("similarities/*/*/*.safetensors"))
        for file in files if whole else ():
            load_tensors(str(file))
        try:
            store = _store(folder / "assignments", False)
        except StoreIncomplete:
            return  # the assignments are made again first
        if len(files) < buckets(store.made["clusters"]) * len(store.sources):
            raise StoreIncomplete(f"{folder}/similarities has lost files: run SemDeDupSimilarities again")

    def _selection(self, stage: Stage, whole: bool) -> None:
        _, sampler, rate = stage.name.split("/")
        Selection.load(selection(self._study, sampler, float(rate)))

    def _run(self, stage: Stage, whole: bool) -> None:
        run_dir = Path(run_folder(self._study, run_of(stage)))
        steps = read_json(f"{run_dir}/resolved.json")["steps"]
        _sealed(checkpoint_folder(run_dir, steps), "state.json", False)
        if whole and not is_finished(run_dir, steps):
            raise StoreIncomplete(f"the last checkpoint of {run_dir} is damaged")

    def _measured(self, stage: Stage, whole: bool) -> None:
        """Open every unit of a measurement, and look for its rows among the results."""
        for file, rows in self._units(stage):
            if file is not None:
                read_json(str(file))
            if missing := [row for row in rows if _place(row) not in self._rows]:
                raise StoreIncomplete(
                    f"the results hold no {missing[0].task} of {missing[0].sampler}, step {missing[0].step}"
                )

    def _units(self, stage: Stage) -> Iterator[tuple[Path | None, list[ResultRow]]]:
        """Yield each unit of a measurement and the rows that come from it, without their numbers."""
        from evaluate_suite.few_shot import FewShot
        from evaluate_suite.fine_tuning_runs import tuned_checkpoints, tuning_folder
        from evaluate_suite.perplexity import HeldOut
        from evaluate_suite.registry import by_suite, find_tasks

        _, model, run_name, what = stage.name.split("/")
        run = next(one for one in self._study.runs() if one.name == f"{model}/{run_name}")
        cache, evaluation = self._output / "evaluation" / run.name, self._study.evaluation
        checkpoints = find_checkpoints(run.sampler, run_folder(self._study, run))
        last = checkpoints[-1]

        def row(checkpoint: Checkpoint, task: str) -> ResultRow:
            return checkpoint.row(task, "", (0.0, 0.0, 0), 0, "")

        if what == "perplexity":
            splits = [HeldOut(task, ",".join(stores)) for task, stores in splits_of(self._study).items()]
            for checkpoint in checkpoints:
                yield None, cost_rows(checkpoint)
                for split in splits:
                    yield None, [row(checkpoint, split.task)]
                    for one in split.sources:
                        yield unit_file(cache, run.sampler, checkpoint.name, one.task), [row(checkpoint, one.task)]
            return
        if what != "few-shot":
            tasks = [task.name for task in by_suite()[what] if task.scored]
            yield tuning_folder(last, what, cache) / "finished.json", [row(last, task) for task in tasks]
            return
        asked = [last]
        if evaluation.instruction_tune:
            folder = tuning_folder(last, "flan", cache)
            yield folder / "finished.json", []
            asked = list(tuned_checkpoints(last, folder).values())
        settings = FewShot(limit=evaluation.limit)
        for task in find_tasks(evaluation.few_shot):
            for checkpoint in asked:
                name = task.name + settings.label(task)
                yield unit_file(cache, run.sampler, checkpoint.name, name), [row(last, task.name)]

    @cached_property
    def _rows(self) -> set[tuple[object, ...]]:
        files = [self._output / name for name in _RESULTS]
        return {_place(row) for file in files if file.exists() for row in read_results(str(file))}


def _place(row: ResultRow) -> tuple[object, ...]:
    return row.sampler, row.rate, row.model, row.seed, row.step, row.task


def _store(folder: Path, whole: bool) -> SourceStore:
    store = SourceStore(str(folder))
    store.check_complete()
    if whole:
        store.verify()
    return store


def _partials(folder: Path, whole: bool) -> None:
    partials = Partials(str(folder))
    partials.check_complete()
    for _ in partials.read() if whole else ():
        pass


def _sealed(folder: Path, name: str, whole: bool) -> None:
    found = SealedFolder.read(folder, name, "it is made again")
    if whole:
        verify_files(found.files, "it is made again")
