"""Confidence intervals by resampling the units a number was averaged over. Shapes: N units, R resamples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipeline_steps.numerics.keys import mix


RESAMPLES = 2000  # enough for the ends of a 95 % interval (Efron & Tibshirani 1993, Sec. 13.4)
_DRAWS = 1 << 22  # at a time: 100 MB with what is drawn, whatever the number of units


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        stderr: its bootstrap standard error.
        low: lower end of the confidence interval.
        high: upper end.
    """

    value: float
    stderr: float
    low: float
    high: float


def resampled_means(value_N: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Float64 [R]: means of N units drawn with replacement, spread out to the variance of a sample of N.

    A seed draws the same units whatever the values are, so that two models measured on the same units can be
    subtracted resample by resample. The plain bootstrap's variance is (N - 1) / N of the sample's.
    """
    n = value_N.size
    means = value_N[_draws(n, seed, 0, resamples)].mean(axis=1)
    return value_N.mean() + (means - value_N.mean()) * (n / max(n - 1, 1)) ** 0.5


def resampled_ratios(top_N: np.ndarray, bottom_N: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Return float64 [R]: the ratio of two sums over N units drawn as `resampled_means` draws them.

    NaN where there is one unit only, of whose spread nothing is known.
    """
    n, at_a_time = top_N.size, max(_DRAWS // top_N.size, 1)
    if n == 1:
        return np.full(resamples, np.nan)
    ratios = np.empty(resamples)
    for start in range(0, resamples, at_a_time):
        draw = _draws(n, seed, start, min(start + at_a_time, resamples))
        with np.errstate(divide="ignore", invalid="ignore"):  # units whose bottom is 0 may be drawn alone
            ratios[start : start + len(draw)] = top_N[draw].sum(axis=1) / bottom_N[draw].sum(axis=1)
    value = top_N.sum() / bottom_N.sum()
    return value + (ratios - value) * (n / (n - 1)) ** 0.5


def resampled_counts(n: int, seed: int = 0, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield int64 [B, n], some resamples at a time: how often each of n units is drawn, as `resampled_means` draws.

    They are for numbers that are no means, such as rank correlations.
    """
    at_a_time = max(_DRAWS // n, 1)
    for start in range(0, resamples, at_a_time):
        draw = _draws(n, seed, start, min(start + at_a_time, resamples))
        flat = draw + n * np.arange(len(draw))[:, None]
        yield np.bincount(flat.ravel(), minlength=draw.size).reshape(draw.shape)


def _draws(n: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Return the units of resamples `start` to `stop`, int64 [R, n]."""
    number = mix(np.arange(start * n, stop * n, dtype=np.uint64), seed) % np.uint64(n)
    return number.astype(np.int64).reshape(stop - start, n)


def interval(value: float, resampled_R: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Return a number with the percentile interval of its resampled values."""
    low, high = np.quantile(resampled_R, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(value), float(resampled_R.std()), float(low), float(high))


def mean_interval(value_N: np.ndarray, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Mean of N units of equal weight, with a percentile interval."""
    return interval(value_N.mean(), resampled_means(value_N, seed), confidence)


def perplexity_interval(nll_N: np.ndarray, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """exp(mean NLL in nats) of N units of equally many tokens; the interval of the mean carried through exp."""
    mean = mean_interval(nll_N, seed, confidence)
    value = float(np.exp(mean.value))
    return Estimate(value, value * mean.stderr, float(np.exp(mean.low)), float(np.exp(mean.high)))
