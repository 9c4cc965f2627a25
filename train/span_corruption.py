"""T5's span corruption: 15 % of a window's tokens, in spans of mean length 3, become the targets.

Raffel et al. 2020, Sec. 3.1.4 and 3.3; lengths and mask law as in their released code. A window of L tokens is
divided into K pairs of a kept and a dropped span; how the kept and the dropped tokens divide into spans is uniform
over all compositions. Inputs are the kept spans, each followed by a sentinel for what was dropped after it; targets
are the dropped spans, each after its sentinel; both end in one EOS. Nothing else is random, so all rows have the
same lengths: 568 raw tokens give 512 inputs and 114 targets.

A mask is a function of (seed, sample index) alone: a repeated document gets a fresh one at every repetition.
Shapes: B samples, L raw tokens, K spans, I inputs, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.keys import mix, uniform
from pipeline_steps.numerics.partition_masks import MEAN_SPAN_LENGTH, NOISE_DENSITY


_SAMPLES, _DRAWS = 0x5A, 0xD4  # any constants: masks must not follow other numbers drawn from the same seed


@dataclass(frozen=True)
class SpanCorruption:
    """How windows become inputs and targets.

    Args:
        input_length: I, encoder positions of a row, sentinels and EOS included.
        first_sentinel: id of `<extra_id_0>`; the other sentinels count downwards from it.
        sentinels: how many there are.
        eos: id that ends inputs and targets.

    Raises:
        InvalidCut: rows of this length need more sentinels than there are, or are too short to corrupt.
    """

    input_length: int
    first_sentinel: int
    sentinels: int = 100
    eos: int = 1

    def __post_init__(self) -> None:
        if self.input_length < 4 or self.spans > self.sentinels:
            raise InvalidCut(
                f"inputs of {self.input_length} tokens cannot be corrupted: they must have at least 4, and they "
                f"need {self.spans} sentinels of which the tokenizer has {self.sentinels}; choose another length"
            )

    @cached_property
    def raw_length(self) -> int:
        """L: the most tokens whose inputs fit into `input_length`; they fill it exactly."""
        length = 2  # one kept, one dropped
        while _input_length(length + 1) <= self.input_length:
            length += 1
        return length

    @property
    def noise_tokens(self) -> int:
        """Dropped tokens of a window."""
        return _noise_tokens(self.raw_length)

    @property
    def spans(self) -> int:
        """K."""
        return _spans(self.raw_length)

    @property
    def target_length(self) -> int:
        """T: dropped tokens, their sentinels and EOS."""
        return self.noise_tokens + self.spans + 1

    def corrupt(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs int32 [B, I] and targets int32 [B, T] of windows [B, L], masked for (seed, sample index)."""
        kept_BK, dropped_BK = self.span_lengths(sample_B, seed)
        kept_end, dropped_end = np.cumsum(kept_BK, axis=1), np.cumsum(dropped_BK, axis=1)
        span_K = np.arange(self.spans)
        # A piece is a span with its sentinel; within one, raw tokens stand at a constant distance from their place.
        inputs = self._pieces(raw_BL, kept_BK + 1, dropped_end - dropped_BK - span_K, self.input_length)
        targets = self._pieces(raw_BL, dropped_BK + 1, kept_end - span_K - 1, self.target_length)
        row_B = np.arange(len(raw_BL))[:, None]
        inputs[row_B, kept_end + span_K] = self.first_sentinel - span_K
        targets[row_B, dropped_end - dropped_BK + span_K] = self.first_sentinel - span_K
        inputs[:, -1] = self.eos
        targets[:, -1] = self.eos
        return inputs, targets

    def span_lengths(self, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Lengths of the kept and of the dropped spans, int64 [B, K] each."""
        cuts = self.spans - 1
        base_B = mix(mix(np.asarray(sample_B, dtype=np.uint64), seed), _SAMPLES)
        with np.errstate(over="ignore"):
            counter = base_B[:, None] + np.arange(2 * cuts, dtype=np.uint64)
        draws = uniform(counter, _DRAWS)
        kept = _composition(self.raw_length - self.noise_tokens, draws[:, :cuts])
        return kept, _composition(self.noise_tokens, draws[:, cuts:])

    def _pieces(self, raw_BL: np.ndarray, length_BK: np.ndarray, shift_BK: np.ndarray, width: int) -> np.ndarray:
        """int32 [B, width]: raw tokens, shifted piece by piece; sentinel and EOS places hold any token."""
        row_B = np.arange(len(raw_BL))[:, None]
        length_BK[:, -1] += 1  # EOS
        shift = np.repeat(shift_BK + row_B * (self.raw_length - width), length_BK.ravel())
        shift += np.arange(shift.size)
        return raw_BL.ravel().take(shift, mode="clip").astype(np.int32, copy=False).reshape(-1, width)


def _composition(total: int, draws_BC: np.ndarray) -> np.ndarray:
    """Split `total` into C + 1 positive parts, uniformly over all ways: int64 [B, C + 1].

    C distinct cuts among total - 1, by Floyd's sampling (Bentley & Floyd, CACM 1987): C draws, no rejection.
    """
    rows, cuts = draws_BC.shape
    row_B = np.arange(rows)
    cut = np.zeros((rows, total + 1), dtype=bool)  # cut[:, i]: a part ends after i tokens
    cut[:, [0, total]] = True
    for draw in range(cuts):
        top = total - cuts + draw
        pick = 1 + (draws_BC[:, draw] * top).astype(np.int64)  # 1 .. top
        pick = np.where(cut[row_B, pick], top, pick)
        cut[row_B, pick] = True
    return np.diff(np.flatnonzero(cut).reshape(rows, cuts + 2), axis=1)


def _noise_tokens(length: int) -> int:
    return min(max(round(length * NOISE_DENSITY), 1), length - 1)


def _spans(length: int) -> int:
    return max(round(_noise_tokens(length) / MEAN_SPAN_LENGTH), 1)


def _input_length(length: int) -> int:
    return length - _noise_tokens(length) + _spans(length) + 1
