"""Say in words what the numbers support, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evaluate_suite.bootstrap import Estimate, resampled_means


def perplexity_ratio(nll_N: np.ndarray, baseline_N: np.ndarray) -> Estimate:
    """Perplexity over a baseline's, minus one, from the NLL of both on the same N windows: paired, so that windows
    that are hard for everybody do not count as noise."""
    means = np.expm1(resampled_means(nll_N - baseline_N))
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(np.expm1((nll_N - baseline_N).mean())), float(means.std()), float(low), float(high))


def verdict(name: str, nll_N: np.ndarray, baseline: str, baseline_N: np.ndarray) -> str:
    """One sentence about a sampler against a baseline; a difference whose 95 % interval holds 0 is none."""
    ratio = perplexity_ratio(nll_N, baseline_N)
    value, low, high = (f"{100 * number:+.1f}".replace("-", "−") for number in (ratio.value, ratio.low, ratio.high))
    interval = f"95 % CI {low} to {high} %"
    if ratio.low <= 0 <= ratio.high:
        return f"{name} cannot be told from {baseline} ({value} %, {interval})"
    direction = "lower" if ratio.value < 0 else "higher"
    return f"{name} is {abs(100 * ratio.value):.1f} % {direction} than {baseline} ({interval})"


def verdicts(nll: Mapping[str, np.ndarray], baseline: str) -> list[str]:
    """Every other sampler against a baseline."""
    return [verdict(name, nll_N, baseline, nll[baseline]) for name, nll_N in nll.items() if name != baseline]
