"""What scorers stand on: embeddings, the density sketch, clusters, n-gram models."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

import pipeline_steps
from launch.stages.base import PipelineStage, open_partials, open_store
from launch.stages.corpora import Files, Text
from pipeline_steps.errors import CorpusError, StoreIncomplete, WinnowError
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.stores.files import load_tensors


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from launch.study_file import Study

HASHED_NGRAMS = "hashed-ngrams"  # as `pipeline_steps.embedding.embeddings` has it, which takes a second to import


@dataclass(frozen=True, eq=False, kw_only=True)
class Embeddings(PipelineStage):
    """An embedding of every document."""

    kind = "embeddings"
    text: Text
    embedder: str

    @property
    @override
    def models(self) -> tuple[str, ...]:
        return () if self.embedder == HASHED_NGRAMS else (self.embedder,)

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import Embedder

        return [*self.text.reader(output), Embedder(self.folder(output), model=self.embedder)]


@dataclass(frozen=True, eq=False, kw_only=True)
class OneStep(PipelineStage):
    """A stage of one step that reads no documents."""

    step: ClassVar[str]  # its name in pipeline_steps

    def arguments(self, output: str) -> list[str]:
        """Return what the step takes: the folders of its inputs and its own, unless a stage says otherwise."""
        return [*(one.folder(output) for one in self.inputs), self.folder(output)]

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        return [getattr(pipeline_steps, self.step)(*self.arguments(output))]


@dataclass(frozen=True, eq=False, kw_only=True)
class Foundation(PipelineStage):
    """A stage that scorers stand on."""

    def folders(self, output: str) -> list[str]:
        """Return the folders that a scorer takes after its own, as `pipeline_steps.samplers.FOUNDATIONS` has them."""
        return [self.folder(output)]


@dataclass(frozen=True, eq=False, kw_only=True)
class SketchParts(OneStep):
    """The density sketch of each task's documents."""

    kind, names, home = "density", "density/sketch", "density"
    step = "DensitySketch"
    embeddings: Embeddings

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.scorers.density import load_sketch

        try:
            load_sketch(self.folder(output))  # which drops the partial ones
        except WinnowError:
            open_partials(os.path.join(self.folder(output), "partials"), whole)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sketch(OneStep, Foundation):
    """The density sketch of the corpus."""

    kind, names, home = "density", "density/merge", "density"
    step = "DensityMerge"
    parts: SketchParts

    @override
    def folders(self, output: str) -> list[str]:
        return [self.parts.embeddings.folder(output), self.folder(output)]

    @override
    def arguments(self, output: str) -> list[str]:
        return self.folders(output)

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.scorers.density import load_sketch

        load_sketch(self.folder(output))


@dataclass(frozen=True, eq=False, kw_only=True)
class Centroids(OneStep):
    """The centroids of k-means clusters."""

    kind, names, home = "clusters", "clusters/fit", "clusters"
    step = "KMeansFit"
    embeddings: Embeddings

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.embedding.kmeans import load_centroids

        load_centroids(self.folder(output))


@dataclass(frozen=True, eq=False, kw_only=True)
class Assignments(OneStep, Foundation):
    """The cluster of every document."""

    kind, names, home = "clusters", "clusters/assign", "clusters"
    step = "KMeansAssign"
    centroids: Centroids

    @override
    def arguments(self, output: str) -> list[str]:
        return [self.centroids.embeddings.folder(output), self.folder(output)]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.embedding.kmeans import buckets, load_members

        folder = self.folder(output)
        store = open_store(os.path.join(folder, "assignments"), whole)
        for source, entry in store.manifest.items() if whole else ():
            of = {"source": source, "keys": entry["keys"], "centroids": store.made["centroids"]}
            for bucket in range(buckets(store.made["clusters"])):
                load_members(folder, bucket, of)


@dataclass(frozen=True, eq=False, kw_only=True)
class Similarities(OneStep, Foundation):
    """The largest similarity of every document to an earlier one of its cluster.

    Attributes:
        assignments: the clusters.
        keep: which of two near-duplicates comes first, as SemDeDupScorer takes it.
    """

    kind, names, home = "clusters", "clusters/similarities", "clusters"
    step = "SemDeDupSimilarities"
    assignments: Assignments
    keep: str = "hard"

    @property
    @override
    def name(self) -> str:
        return self.names if self.keep == "hard" else f"{self.names}-{self.keep}"

    @override
    def arguments(self, output: str) -> list[str]:
        return [self.folder(output), self.keep]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.embedding.kmeans import buckets

        folder = Path(self.folder(output))
        files = sorted(folder.glob(f"similarities/{self.keep}/*/*.safetensors"))
        for file in files if whole else ():
            load_tensors(str(file))
        try:
            store = open_store(str(folder / "assignments"), False)
        except StoreIncomplete:
            return  # the assignments are made again first
        if len(files) < buckets(store.made["clusters"]) * len(store.sources):
            raise StoreIncomplete(f"{folder}/similarities has lost files: run SemDeDupSimilarities again")


@dataclass(frozen=True)
class Target:
    """The text that DSIR and the quality classifier take for good.

    Attributes:
        text: a corpus of it, or the corpus that is selected from.
        prose_only: whether only the written prose of the text counts.
    """

    text: Text
    prose_only: bool = False

    def reader(self, output: str) -> list[PipelineStep]:
        """Return the steps that read the target."""
        from launch.pipelines import prose

        return [*self.text.reader(output), *([prose()] if self.prose_only else [])]


@dataclass(frozen=True, eq=False, kw_only=True)
class NgramStage(PipelineStage):
    """The n-grams of a text, counted: of the target, or of the raw corpus."""

    kind, names = "ngrams", "ngrams/{self.part}"
    part: str
    text: Text | Target

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import NgramCounts

        return [*self.text.reader(output), NgramCounts(self.folder(output))]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        open_partials(self.folder(output), whole)


@dataclass(frozen=True, eq=False, kw_only=True)
class DSIRModel(OneStep, Foundation):
    """The importance weights of n-grams."""

    kind = "dsir"
    step = "DSIRFit"
    target: NgramStage
    raw: NgramStage

    @override
    def check_output(self, output: str, whole: bool) -> None:
        load_tensors(os.path.join(self.folder(output), "dsir.safetensors"))


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityModel(Foundation):
    """A linear classifier of target text against the corpus."""

    kind = "quality"
    target: Target
    text: Text

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from launch.pipelines import Together
        from pipeline_steps import QualityClassifierFit

        good, raw = Together(self.target.reader(output)), Together(self.text.reader(output))
        return [QualityClassifierFit(self.folder(output), good, raw)]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        load_tensors(os.path.join(self.folder(output), "classifier.safetensors"))


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluationNgrams(Foundation):
    """The n-grams of evaluation sets' questions.

    Attributes:
        tasks_asked: tasks or suites of the registry.
        data_root: folder of their data sets; None for the Hub.
        texts: further sets by name, of corpora whose texts are questions.
        words: of an n-gram.
    """

    kind = "evaluations"
    tasks_asked: tuple[str, ...]
    data_root: str | None = None
    texts: tuple[tuple[str, Files], ...] = ()
    words: int = 12

    @classmethod
    def of(cls, study: Study) -> EvaluationNgrams:
        """Return the stage of the sets that a study names, which it must do."""
        asked = study.contamination
        assert asked is not None  # the study file refuses samplers that stand on them then
        reading = replace(USUAL, text_key=asked.text_key)
        texts = ((name, Files(path, f"evaluations/{name}", reading=reading)) for name, path in asked.texts.items())
        data_root = asked.data_root or study.evaluation.data_root
        return cls(
            tasks_asked=tuple(asked.tasks),
            data_root=data_root if asked.tasks else None,
            texts=tuple(texts),
            words=asked.words,
        )

    @override
    def check_start(self, output: str) -> None:
        if self.data_root is not None and not os.path.isdir(self.data_root):
            raise CorpusError(f"{self.data_root}, the data_root of contamination, is no folder: correct it")

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from evaluate_suite.items import EvaluationItems, NamedItems
        from launch.pipelines import Together
        from pipeline_steps import EvaluationIndex

        named = [NamedItems(name, Together(files.reader(output))) for name, files in self.texts]
        index = EvaluationIndex(self.folder(output), self.words)
        return [EvaluationItems(self.tasks_asked, self.data_root), *named, index]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.scorers.contamination import load_index

        load_index(self.folder(output))
