"""Data selection as datatrove steps: every method writes a score, every selection is one exact cut of a score.

    reader -> scorer -> score store -> cut -> filter (documents) or Selection (counts for training)

Scorers    AskLLMScorer, PerplexityScorer, DensityScorer (after Embedder, DensitySketch, DensityMerge),
           SemDeDupScorer and PrototypesScorer (after Embedder, KMeansFit, KMeansAssign; SemDeDupSimilarities),
           DSIRScorer (after NgramCounts, DSIRFit), QualityClassifierScorer (after QualityClassifierFit or
           ScoreDistillation), ContaminationScorer (after EvaluationIndex), ClassifierHeadScorer, FastTextScorer,
           MetadataScorer, KeysScorer (for chance to draw from); your own: BaseScorer; several made into one: `combine`
Joins      JoinKeys, then JoinScores: annotations that others have published, as a score store
Samplers   `samplers`: one row for each, with its scorer, what that stands on, and how its scores are cut
Filters    TopKFilter (with an UpsamplingCurve), IPSFilter, RandomFilter, CutFilter of any Cut; ScoreSelector finds
           their cut ahead of them, MetadataLabels stores the categories to cut by; `coverage` measures what was
           selected
Stores     ScoreStore, and Selection made by `select(store, Cut(...))`; `cascade` of two
Readers    InstalledDocsReader: the documentation of the installed Python packages, a corpus on every machine;
           Documents: what is in memory, shared out among tasks

Importing this package is light: torch loads when a model does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline_steps.embedding.embeddings import Embedder
    from pipeline_steps.embedding.kmeans import KMeansAssign, KMeansFit
    from pipeline_steps.engines.models import EMBEDDED_BPE, EMBEDDED_PROXY
    from pipeline_steps.engines.proxies import ASK_LLM, EDITOR, RUBRIC, Prompt
    from pipeline_steps.errors import WinnowError
    from pipeline_steps.filters.cuts import Cut, cascade, select
    from pipeline_steps.filters.selection_filters import CutFilter, IPSFilter, RandomFilter, ScoreSelector, TopKFilter
    from pipeline_steps.joins.keys import JoinKeys
    from pipeline_steps.joins.scores import JoinScores
    from pipeline_steps.numerics.copies import UpsamplingCurve
    from pipeline_steps.readers.documents import Documents
    from pipeline_steps.readers.installed_docs import InstalledDocsReader
    from pipeline_steps.scorers.ask_llm import AskLLMScorer
    from pipeline_steps.scorers.base import BaseScorer
    from pipeline_steps.scorers.classifiers import ClassifierHeadScorer, FastTextScorer
    from pipeline_steps.scorers.contamination import ContaminationScorer, EvaluationIndex
    from pipeline_steps.scorers.density import DensityMerge, DensityScorer, DensitySketch, combine_sketches
    from pipeline_steps.scorers.dsir import DSIRFit, DSIRScorer, NgramCounts
    from pipeline_steps.scorers.keys import KeysScorer
    from pipeline_steps.scorers.metadata import LabelStore, MetadataLabels, MetadataScorer
    from pipeline_steps.scorers.perplexity import PerplexityScorer
    from pipeline_steps.scorers.prototypes import PrototypesScorer
    from pipeline_steps.scorers.quality_classifier import (
        QualityClassifierFit,
        QualityClassifierScorer,
        ScoreDistillation,
    )
    from pipeline_steps.scorers.semdedup import SemDeDupScorer, SemDeDupSimilarities
    from pipeline_steps.stores.score_store import ScoreStore, combine
    from pipeline_steps.stores.selection import Coverage, Selection, coverage

_NAMES = {
    "embedding.embeddings": "Embedder",
    "embedding.kmeans": "KMeansAssign KMeansFit",
    "engines.models": "EMBEDDED_BPE EMBEDDED_PROXY",
    "engines.proxies": "ASK_LLM EDITOR Prompt RUBRIC",
    "errors": "WinnowError",
    "filters.cuts": "Cut cascade select",
    "filters.selection_filters": "CutFilter IPSFilter RandomFilter ScoreSelector TopKFilter",
    "joins.keys": "JoinKeys",
    "joins.scores": "JoinScores",
    "numerics.copies": "UpsamplingCurve",
    "readers.documents": "Documents",
    "readers.installed_docs": "InstalledDocsReader",
    "scorers.ask_llm": "AskLLMScorer",
    "scorers.base": "BaseScorer",
    "scorers.classifiers": "ClassifierHeadScorer FastTextScorer",
    "scorers.contamination": "ContaminationScorer EvaluationIndex",
    "scorers.density": "DensityMerge DensityScorer DensitySketch combine_sketches",
    "scorers.dsir": "DSIRFit DSIRScorer NgramCounts",
    "scorers.keys": "KeysScorer",
    "scorers.metadata": "LabelStore MetadataLabels MetadataScorer",
    "scorers.perplexity": "PerplexityScorer",
    "scorers.prototypes": "PrototypesScorer",
    "scorers.quality_classifier": "QualityClassifierFit QualityClassifierScorer ScoreDistillation",
    "scorers.semdedup": "SemDeDupScorer SemDeDupSimilarities",
    "stores.score_store": "ScoreStore combine",
    "stores.selection": "Coverage Selection coverage",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [  # a test keeps it equal to _HOME
    "ASK_LLM",
    "AskLLMScorer",
    "BaseScorer",
    "ClassifierHeadScorer",
    "ContaminationScorer",
    "Coverage",
    "Cut",
    "CutFilter",
    "DSIRFit",
    "DSIRScorer",
    "DensityMerge",
    "DensityScorer",
    "DensitySketch",
    "Documents",
    "EDITOR",
    "EMBEDDED_BPE",
    "EMBEDDED_PROXY",
    "Embedder",
    "EvaluationIndex",
    "FastTextScorer",
    "IPSFilter",
    "InstalledDocsReader",
    "JoinKeys",
    "JoinScores",
    "KMeansAssign",
    "KMeansFit",
    "KeysScorer",
    "LabelStore",
    "MetadataLabels",
    "MetadataScorer",
    "NgramCounts",
    "PerplexityScorer",
    "Prompt",
    "PrototypesScorer",
    "QualityClassifierFit",
    "QualityClassifierScorer",
    "RUBRIC",
    "RandomFilter",
    "ScoreDistillation",
    "ScoreSelector",
    "ScoreStore",
    "Selection",
    "SemDeDupScorer",
    "SemDeDupSimilarities",
    "TopKFilter",
    "UpsamplingCurve",
    "WinnowError",
    "cascade",
    "combine",
    "combine_sketches",
    "coverage",
    "select",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name in _HOME:
        return getattr(import_module(f"pipeline_steps.{_HOME[name]}"), name)
    raise AttributeError(f"module 'pipeline_steps' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for tab completion."""
    return sorted([*__all__, "__version__"])
