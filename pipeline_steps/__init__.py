"""Data selection as datatrove steps: every method writes a score, every selection is one exact cut of a score.

    reader -> scorer -> score store -> cut -> filter (documents) or Selection (a bitmap for training)

Scorers    AskLLMScorer, PerplexityScorer, DensityScorer (after Embedder, DensitySketch, DensityMerge),
           SemDeDupScorer and PrototypesScorer (after Embedder, KMeansFit, KMeansAssign; SemDeDupSimilarities),
           DSIRScorer (after NgramCounts, DSIRFit), QualityClassifierScorer (after QualityClassifierFit or
           ScoreDistillation), ClassifierHeadScorer, FastTextScorer, MetadataScorer; your own: BaseScorer;
           several made into one: `combine`
Filters    TopKFilter, IPSFilter, RandomFilter; ScoreSelector finds their cut ahead of them, MetadataLabels
           stores the categories to cut by; `coverage` measures what was selected
Stores     ScoreStore, and Selection made by `select(store, Cut(...))`; `cascade` of two
Readers    InstalledDocsReader: the documentation of the installed Python packages, a corpus on every machine

Importing this package is light: torch loads when a model does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

if TYPE_CHECKING:
    from pipeline_steps.ask_llm_scorer import AskLLMScorer
    from pipeline_steps.classifier_head_scorer import ClassifierHeadScorer
    from pipeline_steps.combined_scores import combine
    from pipeline_steps.coverage_report import Coverage, coverage
    from pipeline_steps.cuts import Cut, cascade, select
    from pipeline_steps.density_scorer import DensityScorer
    from pipeline_steps.density_sketch import DensityMerge, DensitySketch, combine_sketches
    from pipeline_steps.dsir import DSIRFit, DSIRScorer, NgramCounts
    from pipeline_steps.embedder import Embedder
    from pipeline_steps.errors import WinnowError
    from pipeline_steps.fasttext_scorer import FastTextScorer
    from pipeline_steps.kmeans import KMeansAssign, KMeansFit
    from pipeline_steps.labels import LabelStore, MetadataLabels
    from pipeline_steps.metadata_scorer import MetadataScorer
    from pipeline_steps.models import EMBEDDED_PROXY
    from pipeline_steps.perplexity_scorer import PerplexityScorer
    from pipeline_steps.prompts import ASK_LLM, EDITOR, RUBRIC, Prompt
    from pipeline_steps.prototypes_scorer import PrototypesScorer
    from pipeline_steps.quality_classifier import QualityClassifierFit, QualityClassifierScorer, ScoreDistillation
    from pipeline_steps.readers import InstalledDocsReader
    from pipeline_steps.score_store import ScoreStore
    from pipeline_steps.scorer import BaseScorer
    from pipeline_steps.selection import Selection
    from pipeline_steps.selection_filters import CutFilter, IPSFilter, RandomFilter, ScoreSelector, TopKFilter
    from pipeline_steps.semdedup import SemDeDupScorer, SemDeDupSimilarities

_HOME = {
    "ASK_LLM": "prompts",
    "AskLLMScorer": "ask_llm_scorer",
    "BaseScorer": "scorer",
    "ClassifierHeadScorer": "classifier_head_scorer",
    "Coverage": "coverage_report",
    "Cut": "cuts",
    "CutFilter": "selection_filters",
    "DSIRFit": "dsir",
    "DSIRScorer": "dsir",
    "DensityMerge": "density_sketch",
    "DensityScorer": "density_scorer",
    "DensitySketch": "density_sketch",
    "EDITOR": "prompts",
    "EMBEDDED_PROXY": "models",
    "Embedder": "embedder",
    "FastTextScorer": "fasttext_scorer",
    "IPSFilter": "selection_filters",
    "InstalledDocsReader": "readers",
    "KMeansAssign": "kmeans",
    "KMeansFit": "kmeans",
    "LabelStore": "labels",
    "MetadataLabels": "labels",
    "MetadataScorer": "metadata_scorer",
    "NgramCounts": "dsir",
    "PerplexityScorer": "perplexity_scorer",
    "Prompt": "prompts",
    "PrototypesScorer": "prototypes_scorer",
    "QualityClassifierFit": "quality_classifier",
    "QualityClassifierScorer": "quality_classifier",
    "RUBRIC": "prompts",
    "RandomFilter": "selection_filters",
    "ScoreDistillation": "quality_classifier",
    "ScoreSelector": "selection_filters",
    "ScoreStore": "score_store",
    "Selection": "selection",
    "SemDeDupScorer": "semdedup",
    "SemDeDupSimilarities": "semdedup",
    "TopKFilter": "selection_filters",
    "WinnowError": "errors",
    "cascade": "cuts",
    "combine": "combined_scores",
    "combine_sketches": "density_sketch",
    "coverage": "coverage_report",
    "select": "cuts",
}

__all__ = [  # a test keeps it equal to _HOME
    "ASK_LLM",
    "AskLLMScorer",
    "BaseScorer",
    "ClassifierHeadScorer",
    "Coverage",
    "Cut",
    "CutFilter",
    "DSIRFit",
    "DSIRScorer",
    "DensityMerge",
    "DensityScorer",
    "DensitySketch",
    "EDITOR",
    "EMBEDDED_PROXY",
    "Embedder",
    "FastTextScorer",
    "IPSFilter",
    "InstalledDocsReader",
    "KMeansAssign",
    "KMeansFit",
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
    """Public names, for tab completion."""
    return sorted([*__all__, "__version__"])
