"""Every selection rule is one number per document, its priority: keep the documents that come first.

A priority depends on (score, document key, seed) only, never on rank, shard or order, so for one seed the selection
at a smaller rate is a subset of the selection at a larger one. Priorities are rounded to float32 and compared as
integers, so that the last bit of a logarithm, which differs between processors, cannot decide. Ties go by a hash of
the key; documents that are identical to the byte go by their place in the corpus. Shapes: N documents.

Paper: Sec. 3.3, Alg. 1-2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from pipeline_steps.numerics.keys import mix, uniform


Mode = Literal["top", "bottom", "pareto", "random", "ips", "direct", "poisson"]
MODES: tuple[str, ...] = get_args(Mode)
# Any constants: ties, uniform samples and weighted samples of one seed must not follow each other
_TIES, _WEIGHTED = 0x71E5, 0x1B5
_PARETO_SHAPE = 9  # GPT-3's alpha (Brown et al. 2020, App. A)

Array = np.ndarray


def priority_columns(mode: Mode) -> tuple[str, ...]:
    """The columns a priority is made of."""
    return {"top": ("score",), "bottom": ("score",), "random": ("key",)}.get(mode, ("score", "key"))


def priority_code(mode: Mode, columns: Mapping[str, Array], seed: int = 0) -> Array:
    """Priorities as uint32 [N]: larger codes are kept first.

    top, bottom: the score, or its negative (Alg. 1).
    pareto: for scores that are log-odds of being wanted: their probability plus Pareto noise. GPT-3 kept documents
        with noise > 1 - probability (Brown et al. 2020, App. A); here the amount sets what stands for the 1.
    random: uniform in the document's key; scores are not looked at.
    ips: inverse propensity sampling for scores that are log densities. Gumbel noise minus the score: the k first
        are k draws without replacement, each in proportion to exp(-score). Alg. 2 prints p = S / sum(S), but the
        method's name, Sec. 3.2 and Thm. A.2 need the inverse; `direct` draws in proportion to exp(+score).
    poisson: exponential noise minus the score: passing -log(c) has probability min(1, c * exp(-score)).
    """
    if mode == "random":
        return (mix(columns["key"], seed) >> np.uint64(32)).astype(np.uint32)
    score_N = columns["score"]
    if mode == "top":
        return order_code(score_N)
    if mode == "bottom":
        return order_code(-score_N)
    uniform_N = uniform(columns["key"], seed ^ _WEIGHTED)
    if mode == "pareto":
        probability_N = 0.5 * (1 + np.tanh(0.5 * score_N.astype(np.float64)))
        return order_code(uniform_N ** (-1 / _PARETO_SHAPE) - 1 + probability_N)
    noise_N = -np.log(uniform_N)
    if mode != "poisson":
        noise_N = -np.log(noise_N)
    return order_code(noise_N + score_N if mode == "direct" else noise_N - score_N)


def order_code(value_N: Array) -> Array:
    """uint32 [N] that sort as the float32 of the values do; both zeros are one."""
    bits_N = (value_N.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)
    negative_N = (bits_N.view(np.int32) >> 31).view(np.uint32)  # all ones, or zero
    return bits_N ^ (negative_N | np.uint32(1 << 31))


def tie_hash(key_N: Array, seed: int) -> Array:
    """uint64 [N]: the order among equal priorities."""
    return mix(key_N, seed ^ _TIES)
