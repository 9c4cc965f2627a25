"""Confidence intervals by resampling the units a number was averaged over. Shapes: N units, R resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline_steps.numerics.keys import mix


RESAMPLES = 2000  # enough for the ends of a 95 % interval (Efron & Tibshirani 1993, Sec. 13.4)


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
    draw = mix(np.arange(resamples * n, dtype=np.uint64), seed) % np.uint64(n)
    means = value_N[draw.astype(np.int64)].reshape(resamples, n).mean(axis=1)
    return value_N.mean() + (means - value_N.mean()) * (n / max(n - 1, 1)) ** 0.5


def mean_interval(value_N: np.ndarray, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """Mean of N units of equal weight, with a percentile interval."""
    means = resampled_means(value_N, seed)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(value_N.mean()), float(means.std()), float(low), float(high))


def perplexity_interval(nll_N: np.ndarray, seed: int = 0, confidence: float = 0.95) -> Estimate:
    """exp(mean NLL in nats) of N units of equally many tokens; the interval of the mean carried through exp."""
    mean = mean_interval(nll_N, seed, confidence)
    value = float(np.exp(mean.value))
    return Estimate(value, value * mean.stderr, float(np.exp(mean.low)), float(np.exp(mean.high)))
