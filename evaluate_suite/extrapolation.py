"""The losses of larger models, predicted by a power law through those of smaller ones.

Shapes: S sizes, R recipes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from pipeline_steps.errors import InvalidCut


_EXPONENTS = np.geomspace(0.02, 2.0, 60)  # of published fits, 0.05 to 0.5: Kaplan et al. 2020, Hoffmann et al. 2022


def extrapolate(size_S: np.ndarray, loss_SR: np.ndarray, target: float) -> np.ndarray:
    """Return the loss of each recipe at a larger size, float64 [R].

    Three sizes or more are fitted by E + A / N^a with E and A not negative, two by A / N^a. The fit has no starting
    point and draws nothing: for each exponent, E and A are a linear problem; the exponent is searched on a grid.

    Args:
        size_S: float64 [S], sizes of models, e.g. parameters.
        loss_SR: float64 [S, R], positive, lower is better; e.g. bits per byte.
        target: size to extrapolate to.

    Raises:
        InvalidCut: fewer than two sizes, or a loss that is not positive.
    """
    if len(np.unique(size_S)) < 2:
        raise InvalidCut(f"{len(size_S)} sizes: a power law needs two, and is worth little below three")
    if not (np.isfinite(loss_SR) & (loss_SR > 0)).all():
        raise InvalidCut("a loss is not positive: a power law describes losses, e.g. bits per byte")
    ratio_S = size_S / target
    return np.array([_law_at_one(ratio_S, loss_S) for loss_S in loss_SR.T])


def _law_at_one(size_S: np.ndarray, loss_S: np.ndarray) -> float:
    """Return the fitted law where the size is 1."""
    if len(size_S) == 2:
        slope, level = np.polyfit(np.log(size_S), np.log(loss_S), 1)
        return float(np.exp(level))

    def fit(exponent: float) -> tuple[np.ndarray, float]:
        return nnls(np.stack([np.ones(len(size_S)), size_S**-exponent], axis=1), loss_S)

    best = int(np.argmin([fit(exponent)[1] for exponent in _EXPONENTS]))
    near = _EXPONENTS[max(best - 1, 0)], _EXPONENTS[min(best + 1, len(_EXPONENTS) - 1)]
    refined = minimize_scalar(lambda exponent: fit(exponent)[1], bounds=near, method="bounded")
    return float(fit(refined.x)[0].sum())
