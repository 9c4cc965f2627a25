"""What scorers stand on: embeddings, the density sketch, clusters, n-gram models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

import pipeline_steps
from launch.stages.base import PipelineStage, free, open_partials, open_store
from launch.stages.corpora import Files, Text
from pipeline_steps.errors import CorpusError, StoreIncomplete, WinnowError
from pipeline_steps.readers.reading import USUAL
from pipeline_steps.stores.files import canonical, digest, load_tensors


if TYPE_CHECKING:
    from datatrove.pipeline.base import PipelineStep

    from launch.study_file import Study
    from launch.study_samplers import StudySampler

_SKETCHES = 64  # tasks at most: each leaves 80 MB, and counting all of C4 is a core-hour
HASHED_NGRAMS = "hashed-ngrams"  # as `pipeline_steps.embedding.embeddings` has it, which takes a second to import


@dataclass(frozen=True, eq=False, kw_only=True)
class Made(PipelineStage):
    """A stage that scorers stand on, or that such a stage stands on.

    Attributes:
        options: arguments of its step that a sampler sets.
        variant: what its name ends in, so that the foundations of samplers with other options stand apart; "" for
            those without options.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = free("")


@dataclass(frozen=True, eq=False, kw_only=True)
class Embeddings(Made):
    """An embedding of every document."""

    kind, names = "embeddings", "embeddings{self.variant}"
    text: Text
    embedder: str

    @property
    @override
    def models(self) -> tuple[str, ...]:
        return () if self.embedder == HASHED_NGRAMS else (self.embedder,)

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import Embedder

        return [*self.text.reader(output), Embedder(self.folder(output), model=self.embedder, **self.options)]


@dataclass(frozen=True, eq=False, kw_only=True)
class OneStep(Made):
    """A stage of one step that reads no documents."""

    step: ClassVar[str]  # its name in pipeline_steps

    def arguments(self, output: str) -> list[str]:
        """Return what the step takes: the folders of its inputs and its own, unless a stage says otherwise."""
        return [*(one.folder(output) for one in self.inputs), self.folder(output)]

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        return [getattr(pipeline_steps, self.step)(*self.arguments(output), **self.options)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Foundation(Made):
    """A stage that scorers stand on."""

    def folders(self, output: str) -> list[str]:
        """Return the folders that a scorer takes after its own, as `pipeline_steps.samplers.FOUNDATIONS` has them."""
        return [self.folder(output)]


@dataclass(frozen=True, eq=False, kw_only=True)
class SketchParts(OneStep):
    """The density sketch of each task's documents."""

    kind, names, home = "density", "density{self.variant}/sketch", "density{self.variant}"
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

    kind, names, home = "density", "density{self.variant}/merge", "density{self.variant}"
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

    kind, names, home = "clusters", "clusters{self.variant}/fit", "clusters{self.variant}"
    step = "KMeansFit"
    embeddings: Embeddings

    @override
    def check_output(self, output: str, whole: bool) -> None:
        from pipeline_steps.embedding.kmeans import load_centroids

        load_centroids(self.folder(output))


@dataclass(frozen=True, eq=False, kw_only=True)
class Assignments(OneStep, Foundation):
    """The cluster of every document."""

    kind, names, home = "clusters", "clusters{self.variant}/assign", "clusters{self.variant}"
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

    kind, names, home = "clusters", "clusters{self.variant}/similarities", "clusters{self.variant}"
    step = "SemDeDupSimilarities"
    assignments: Assignments
    keep: str = "hard"

    @property
    @override
    def name(self) -> str:
        return super().name if self.keep == "hard" else f"{super().name}-{self.keep}"

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
class NgramStage(Made):
    """The n-grams of a text, counted: of the target, or of the raw corpus."""

    kind, names = "ngrams", "ngrams{self.variant}/{self.part}"
    part: str
    text: Text | Target

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from pipeline_steps import NgramCounts

        return [*self.text.reader(output), NgramCounts(self.folder(output), **self.options)]

    @override
    def check_output(self, output: str, whole: bool) -> None:
        open_partials(self.folder(output), whole)


@dataclass(frozen=True, eq=False, kw_only=True)
class DSIRModel(OneStep, Foundation):
    """The importance weights of n-grams."""

    kind, names = "dsir", "dsir{self.variant}"
    step = "DSIRFit"
    target: NgramStage
    raw: NgramStage

    @override
    def check_output(self, output: str, whole: bool) -> None:
        load_tensors(os.path.join(self.folder(output), "dsir.safetensors"))


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityModel(Foundation):
    """A linear classifier of target text against the corpus."""

    kind, names = "quality", "quality{self.variant}"
    target: Target
    text: Text

    @override
    def pipeline(self, output: str) -> list[PipelineStep]:
        from launch.pipelines import Together
        from pipeline_steps import QualityClassifierFit

        good, raw = Together(self.target.reader(output)), Together(self.text.reader(output))
        return [QualityClassifierFit(self.folder(output), good, raw, **self.options)]

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


@dataclass(frozen=True)
class Foundations:
    """What the scorers of a study stand on, made for each sampler as it asks.

    Attributes:
        text: the corpus.
        target: the text that DSIR and the quality classifier take for good.
        embedder: the study's, which samplers have unless they set another model.
        tasks: of the stages that do not read the corpus.
        over_text: of those that do.
        evaluations: the n-grams of evaluation sets, if the study names any.
    """

    text: Text
    target: Target
    embedder: str
    tasks: int
    over_text: int
    evaluations: EvaluationNgrams | None

    def of(self, sampler: StudySampler) -> Foundation | None:
        """Return what a sampler's scorer stands on; None if that is nothing."""
        asked, variant = sampler.foundations, _variant(sampler.foundations)
        if not sampler.stands_on:
            return None
        if sampler.stands_on == "evaluations":
            return self.evaluations
        if sampler.stands_on == "dsir":
            counted: dict[str, Any] = {"options": asked.get("ngrams", {}), "variant": variant}
            tasks = self.over_text if self.target.text == self.text else self.tasks
            target = NgramStage(part="target", text=self.target, tasks=tasks, **counted)
            raw = NgramStage(part="raw", text=self.text, tasks=self.over_text, **counted)
            return DSIRModel(target=target, raw=raw, variant=variant)
        if sampler.stands_on == "quality-classifier":
            options = asked.get("quality", {})
            return QualityModel(target=self.target, text=self.text, options=options, variant=variant)
        embedded = self._embeddings(asked.get("embeddings", {}))
        if sampler.stands_on == "density":
            tasks, options = min(self.tasks, _SKETCHES), asked.get("density", {})
            parts = SketchParts(embeddings=embedded, tasks=tasks, options=options, variant=variant)
            return Sketch(parts=parts, variant=variant)
        centroids = Centroids(embeddings=embedded, options=asked.get("clusters", {}), variant=variant)
        assigned = Assignments(centroids=centroids, tasks=self.tasks, variant=variant)
        if sampler.stands_on == "clusters":
            return assigned
        keep = sampler.options.get("keep", "hard")
        return Similarities(assignments=assigned, keep=keep, tasks=self.tasks, variant=variant)

    def _embeddings(self, asked: Mapping[str, Any]) -> Embeddings:
        options = {name: value for name, value in asked.items() if name != "model"}
        embedder = asked.get("model", self.embedder)
        own = options if embedder == self.embedder else asked  # who spells the study's embedder out shares its vectors
        variant = _variant({"embeddings": own} if own else {})
        devices, tasks = int(embedder != HASHED_NGRAMS), self.over_text
        return Embeddings(
            text=self.text, embedder=embedder, options=options, variant=variant, tasks=tasks, devices=devices
        )


def _variant(asked: Mapping[str, Any]) -> str:
    """Return what the names of stages with these options end in."""
    return f"-{digest(canonical(asked))[:8]}" if asked else ""
