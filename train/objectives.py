"""The tasks that a model learns from a window of raw tokens: T5's span corruption, or causal models' next token.

Span corruption (Raffel et al. 2020, Sec. 3.1.4 and 3.3; lengths and mask law as in their released code): 15 % of a
window's tokens, in spans of mean length 3, become the targets. A window of L tokens is divided into K pairs of a kept
and a dropped span; how the kept and the dropped tokens divide into spans is uniform over all compositions. Inputs are
the kept spans, each followed by a sentinel for what was dropped after it; targets are the dropped spans, each after
its sentinel; both end in one EOS. Nothing else is random, so all rows have the same lengths: 568 raw tokens give 512
inputs and 114 targets. A mask is a function of (seed, sample index) alone: a repeated document gets a fresh one.

Shapes: B samples, L raw tokens, K spans, I inputs, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numba import njit

from pipeline_steps.engines.likelihoods import MEAN_SPAN_LENGTH, NOISE_DENSITY
from pipeline_steps.errors import InvalidCut, ModelError
from pipeline_steps.numerics.keys import mix
from train.presets import is_causal
from train.replay import uniform


_U = np.uint64
_STRIDE = 16  # values copied at a time: of T5's spans, 85 % of the kept take one or two, of the dropped 99.9 % one
_SAMPLES, _DRAWS = 0x5A, 0xD4  # any constants: masks must not follow other numbers drawn from the same seed


class Objective(Protocol):
    """A way from windows [B, L] of raw tokens to inputs [B, I] and targets [B, T], all of them full."""

    @property
    def input_length(self) -> int:
        """I, the positions that count for the budget."""

    @property
    def raw_length(self) -> int:
        """L, the tokens of a window."""

    @property
    def target_length(self) -> int:
        """T, the tokens that are predicted."""

    def rows(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets int32, a function of the windows, their samples' numbers and the seed."""


@dataclass(frozen=True)
class NextToken:
    """Causal language modelling: every token of the window is predicted from those before it.

    The first input is EOS, which every window of a stream of documents may follow; so L = I = T, and each raw token
    is a target exactly once. A model that is to end its texts needs a store whose documents end in EOS.
    """

    input_length: int
    eos: int

    @property
    def raw_length(self) -> int:
        """L, the tokens of a window."""
        return self.input_length

    @property
    def target_length(self) -> int:
        """T, the tokens that are predicted."""
        return self.input_length

    def rows(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and targets int32 [B, L]; nothing is random."""
        inputs = np.empty_like(raw_BL)
        inputs[:, 0] = self.eos
        inputs[:, 1:] = raw_BL[:, :-1]
        return inputs, raw_BL


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption of windows into inputs and targets.

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
        """L, the most tokens whose inputs fit into `input_length`; they fill it exactly."""
        length = 2  # one kept, one dropped
        while _input_length(length + 1) <= self.input_length:
            length += 1
        return length

    @property
    def noise_tokens(self) -> int:
        """The number of dropped tokens of a window."""
        return _noise_tokens(self.raw_length)

    @property
    def spans(self) -> int:
        """K, the spans of a window."""
        return _spans(self.raw_length)

    @property
    def target_length(self) -> int:
        """T: the dropped tokens, their sentinels and EOS."""
        return self.noise_tokens + self.spans + 1

    def rows(self, raw_BL: np.ndarray, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs int32 [B, I] and targets int32 [B, T] of windows int32 [B, L]."""
        kept_BK, dropped_BK = self.span_lengths(sample_B, seed)
        inputs = np.empty((len(raw_BL), self.input_length), dtype=np.int32)
        targets = np.empty((len(raw_BL), self.target_length), dtype=np.int32)
        _fill(raw_BL, kept_BK, dropped_BK, self.first_sentinel, self.eos, inputs, targets)
        return inputs, targets

    def span_lengths(self, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the lengths of the kept and of the dropped spans, int64 [B, K] each."""
        return span_lengths(self.raw_length, sample_B, seed)


def span_lengths(length: int, sample_B: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of the kept and of the dropped spans of windows of 2 tokens or more, int64 [B, K] each."""
    dropped, spans = _noise_tokens(length), _spans(length)
    base_B = mix(mix(np.asarray(sample_B, dtype=np.uint64), seed), _SAMPLES)
    kept = _compositions(base_B, 0, length - dropped, spans)
    return kept, _compositions(base_B, spans - 1, dropped, spans)


def make_objective(preset: str, input_length: int, vocab_size: int, sentinels: int, eos: int) -> Objective:
    """Return span corruption for a T5, the next token for a causal model.

    Raises:
        ModelError: there is no such preset, or the corpus was tokenised for the other kind of model.
        InvalidCut: rows of this length cannot be corrupted.
    """
    if is_causal(preset):
        return NextToken(input_length, eos)
    if sentinels == 0:
        raise ModelError(f"{preset} needs sentinels, of which the corpus's tokenizer has none: use a T5 tokenizer")
    return SpanCorruption(input_length, vocab_size - 1, sentinels, eos)


@njit(nogil=True, cache=True)
def _compositions(base_B: np.ndarray, first_draw: int, total: int, parts: int) -> np.ndarray:
    """Split `total` into positive parts, uniformly over all ways: int64 [B, parts].

    Distinct cuts among total - 1 by Floyd's sampling (Bentley & Floyd, CACM 1987): a draw a cut, no rejection.
    """
    lengths = np.empty((len(base_B), parts), dtype=np.int64)
    cuts = parts - 1
    is_cut = np.empty(total, dtype=np.uint8)  # whether a part ends after so many tokens
    ends = np.empty(parts, dtype=np.int64)
    for row in range(len(base_B)):
        is_cut[:] = 0
        for draw in range(cuts):
            top = total - cuts + draw
            counter = base_B[row] + np.uint64(first_draw + draw)
            pick = 1 + np.int64(uniform(counter, np.uint64(_DRAWS)) * top)  # 1 .. top
            is_cut[top if is_cut[pick] else pick] = 1
        part = 0
        for end in range(1, total):  # without a branch, which would be hard to predict
            ends[part] = end
            part += is_cut[end]
        ends[cuts] = total
        begin = 0
        for part in range(parts):
            lengths[row, part] = ends[part] - begin
            begin = ends[part]
    return lengths


@njit(nogil=True, cache=True)
def _fill(
    raw_BL: np.ndarray,
    kept_BK: np.ndarray,
    dropped_BK: np.ndarray,
    first_sentinel: int,
    eos: int,
    inputs: np.ndarray,
    targets: np.ndarray,
) -> None:
    """Write rows: kept spans and sentinels into `inputs`, sentinels and dropped spans into `targets`."""
    width = raw_BL.shape[1]
    raw = np.empty(width + 2 * _STRIDE, dtype=np.int32)
    kept, dropped = np.empty_like(raw), np.empty_like(raw)
    for row in range(len(raw_BL)):
        raw[:width] = raw_BL[row]
        place, at_input, at_target = 0, 0, 0
        for span in range(kept_BK.shape[1]):
            length = kept_BK[row, span]
            _copy(raw, place, kept, at_input, length)
            place, at_input = place + length, at_input + length
            kept[at_input] = first_sentinel - span
            dropped[at_target] = first_sentinel - span
            at_input, at_target = at_input + 1, at_target + 1
            length = dropped_BK[row, span]
            _copy(raw, place, dropped, at_target, length)
            place, at_target = place + length, at_target + length
        kept[at_input] = eos
        dropped[at_target] = eos
        inputs[row] = kept[: at_input + 1]
        targets[row] = dropped[: at_target + 1]


@njit(forceinline=True)
def _copy(source: np.ndarray, begin: int, target: np.ndarray, at: int, length: int) -> None:
    """Copy `length` values, and some that follow: whole strides need no branch that is hard to predict."""
    start = _U(0)  # unsigned indices spare numba the test for negative ones
    while start < _U(length):
        for step in range(_U(_STRIDE)):
            target[_U(at) + start + step] = source[_U(begin) + start + step]
        start += _U(_STRIDE)


def _noise_tokens(length: int) -> int:
    return min(max(round(length * NOISE_DENSITY), 1), length - 1)


def _spans(length: int) -> int:
    return max(round(_noise_tokens(length) / MEAN_SPAN_LENGTH), 1)


def _input_length(length: int) -> int:
    return length - _noise_tokens(length) + _spans(length) + 1
