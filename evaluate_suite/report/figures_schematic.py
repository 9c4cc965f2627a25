"""The paper's two schematic figures, drawn from a study's own stores and results.

Fig. 2 is samplers between coverage and quality, from clusters, scores and selections. Fig. 8 is how often each share
of the corpus is read within one token budget, from what runs have noted of their selections.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate_suite.checkpoint import SELECTED_TOKENS
from evaluate_suite.report.documents import percentiles
from evaluate_suite.report.points import StudyResults, finals
from evaluate_suite.report.style import FAINT, INK, SERIES, legend, numbers, panels, say, series
from pipeline_steps.numerics.statistics import attainable_entropy, entropy
from pipeline_steps.samplers import FULL, families, find, label, ordered, table


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.21  # inches of a sampler's name
_JUDGE = "ask-llm-xl"  # the proxy of the paper's Fig. 1 and Table 1
_SHOWN_EPOCHS = 64  # more passes than this cannot be told apart in a bar


@dataclass(frozen=True)
class Place:
    """The coverage and the quality of a selection.

    Attributes:
        coverage: entropy of its documents over the clusters, as a share of what so many documents can have at most.
        quality: mean percentile of its documents under a quality score, 0 to 100; chance gives 50.
    """

    coverage: float
    quality: float


def judge(scorers: Mapping[str, str]) -> str | None:
    """Return the sampler whose scores say how good documents are: the paper's Ask-LLM proxy, or the largest there is.

    Args:
        scorers: names of scorers' classes by sampler.
    """
    asked = [name for name in ordered(scorers) if scorers[name] == find(_JUDGE).scorer_name]
    return _JUDGE if _JUDGE in asked else next(reversed(asked), None)


def places(kept: Mapping[str, np.ndarray], cluster_N: np.ndarray, quality_N: np.ndarray) -> dict[str, Place]:
    """Return where selections stand, by sampler; one that keeps no document stands nowhere and is left out.

    Args:
        kept: bool [N] by sampler.
        cluster_N: int64 [N], the cluster of each document.
        quality_N: float32 [N], the quality of each document, higher is better.
    """
    (percentile_N,) = percentiles({"": quality_N}).values()
    size_K, found = np.bincount(cluster_N), dict[str, Place]()
    for name, mask_N in kept.items():
        if not mask_N.any():
            continue
        attainable = attainable_entropy(size_K, int(mask_N.sum()))
        own = entropy(np.bincount(cluster_N[mask_N], minlength=len(size_K)))
        evenness = own / attainable if attainable else 1.0
        found[name] = Place(evenness, float(percentile_N[mask_N].mean(dtype=float)))
    return found


def coverage_and_quality(where: Mapping[str, Place], judged_by: str) -> Figure:
    """Draw samplers by coverage and quality (Fig. 2), their names beside the panel in the order of quality.

    Args:
        where: by sampler, of `places`.
        judged_by: the sampler whose scores are the quality.
    """
    names = sorted(where, key=lambda name: (where[name].quality, name))
    figure, (axes,) = panels(1, size=(6.4, max(3.3, 0.9 + _ROW * len(names))))
    members = {name: number for number, group in enumerate(families(names).values()) for name in group}
    low, high = min(place.quality for place in where.values()), max(place.quality for place in where.values())
    margin = max(0.06 * (high - low), 0.5)
    axes.set_ylim(low - margin, high + margin)
    for number, name in enumerate(names):
        look = series(1 + members[name]) | {"linestyle": "none", "label": _family(name)}
        axes.plot([where[name].coverage], [where[name].quality], **look)
        # Names stand in a column of their own, so that they never lie on one another
        point, beside = (where[name].coverage, where[name].quality), (number + 0.5) / len(names)
        line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", point, (1.05, beside), textcoords="axes fraction", arrowprops=line, annotation_clip=False)
        axes.text(1.06, beside, label(name), transform=axes.transAxes, fontsize=8.5, va="center", color=INK)
    axes.margins(x=0.08)
    axes.locator_params(axis="x", nbins=5)
    say(axes, "Coverage and quality", "evenness over clusters", f"mean percentile by {label(judged_by)}")
    legend(figure, axes.get_legend_handles_labels()[0], 2)
    return figure


def _family(name: str) -> str:
    row = table().get(name)
    return (row and row.family) or "Others"


def epochs(study: StudyResults, model: str) -> Figure | None:
    """Draw a bar per rate: what a run reads in all, cut into its passes over the selection (Fig. 8).

    A bar is the mean over samplers and seeds: of the tokens that they keep, and of those that they read. Its epochs
    are the ratio of the two, so that it ends at the budget. None if fewer than two rates are known, everything
    included.
    """
    tokens, read = study.costs(SELECTED_TOKENS), dict[float, list[tuple[float, float]]]()
    for point in finals(study, model):
        if point.run in tokens:
            rate = 1.0 if point.sampler == FULL else point.rate
            read.setdefault(rate, []).append((tokens[point.run], tokens[point.run] * point.epoch))
    if len(read) < 2:
        return None
    figure, (axes,) = panels(1, size=(5.8, 1.0 + 0.34 * len(read)))
    said, rates = [], sorted(read)
    for row, rate in enumerate(rates):
        unique, total = (float(value) for value in np.mean(read[rate], axis=0))
        passes = total / unique
        whole = np.arange(min(np.ceil(passes), _SHOWN_EPOCHS))
        starts = unique * whole
        lengths = np.minimum(unique, total - starts)
        lengths[-1] = total - starts[-1]
        look: dict[str, Any] = {"height": 0.62, "edgecolor": "white", "linewidth": 0.6}
        axes.barh(
            [row] * len(starts), lengths, left=starts, color=[SERIES[1], *[SERIES[0]] * (len(starts) - 1)], **look
        )
        (amount,) = numbers([unique])
        said.append(f"{100 * rate:g} %: {amount} × {passes:.3g}")
    axes.set_yticks(range(len(rates)), said)
    axes.set_ylim(-0.6, len(rates) - 0.4)
    axes.grid(visible=False, axis="y")
    ends = axes.get_xticks()
    axes.set_xticks([end for end in ends if end >= 0], numbers(end for end in ends if end >= 0))
    axes.set_xlim(0, 1.02 * max(float(np.mean(read[rate], axis=0)[1]) for rate in rates))
    say(
        axes,
        f"Epochs of one token budget: {model}",
        "tokens read; in colour: the first pass",
        "unique tokens × epochs",
    )
    return figure
