"""Every selection rule is one number per document, its priority, and an exact threshold over the whole corpus.

A priority depends on (score, document key, seed) only, never on rank, shard or order, so for one seed the selection
at a smaller rate is a subset of the selection at a larger one. Priorities are rounded to float32 and compared as
integers, so that the last bit of a logarithm, which differs between processors, cannot decide. Ties go by a hash of
the key; documents that are identical to the byte go by their place in the corpus (paper: Sec. 3.3, Alg. 1-2).

The threshold is an order statistic, found in a few passes and constant memory. Shapes: N documents of a chunk, S
strata. A corpus without strata is one stratum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import numpy as np

from pipeline_steps.numerics.keys import mix, uniform


Mode = Literal["top", "bottom", "pareto", "random", "ips", "direct", "poisson"]
MODES: tuple[str, ...] = get_args(Mode)
# Any constants: ties, uniform samples and weighted samples of one seed must not follow each other
_TIES, _WEIGHTED = 0x71E5, 0x1B5
_PARETO_SHAPE = 9  # GPT-3's alpha (Brown et al. 2020, App. A)

Array = np.ndarray
Chunk = tuple[int, Mapping[str, Array]]
"""Row number of the first document, and columns by name: key uint64, score float32, tokens uint32, stratum int."""
Read = Callable[[Sequence[str], Array | None], Iterator[Chunk]]
"""Reads the named columns of a corpus in order; given sorted row numbers, it may leave out chunks without them."""
_CODE_BITS, _TIE_BITS = 32, 64
_FEW = 1 << 20  # documents that are sorted in memory: 30 MB
_LAST_TIE = 2**64 - 1
_MOST_ROWS = 2**63 - 1
_TIED = np.dtype([("stratum", np.int64), ("code", np.uint32), ("row", np.int64), ("weight", np.int64)])


def priority_columns(mode: Mode) -> tuple[str, ...]:
    """Return the columns that a priority is made of."""
    return {"top": ("score",), "bottom": ("score",), "random": ("key",)}.get(mode, ("score", "key"))


def priority_code(mode: Mode, columns: Mapping[str, Array], seed: int = 0, temperature: float = 1.0) -> Array:
    """Return priorities as uint32 [N]: larger codes are kept first. Scores of ips and direct go by the temperature.

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
    if temperature != 1:
        score_N = score_N.astype(np.float64) / temperature
    noise_N = -np.log(uniform_N)
    if mode != "poisson":
        noise_N = -np.log(noise_N)
    return order_code(noise_N + score_N if mode == "direct" else noise_N - score_N)


def order_code(value_N: Array) -> Array:
    """Return uint32 [N] that sort as the float32 of the values do; both zeros are one."""
    bits_N = (value_N.astype(np.float32, copy=False) + np.float32(0)).view(np.uint32)
    negative_N = (bits_N.view(np.int32) >> 31).view(np.uint32)  # all ones, or zero
    return bits_N ^ (negative_N | np.uint32(1 << 31))


def tie_hash(key_N: Array, seed: int) -> Array:
    """Return uint64 [N]: the order among equal priorities."""
    return mix(key_N, seed ^ _TIES)


@dataclass(frozen=True)
class Threshold:
    """The last document kept, in the order (code falling, tie falling, row rising)."""

    code: int  # uint32, `priority_code`
    tie: int  # uint64, `tie_hash`; 0 where every document of this code is kept
    row: int  # place in the corpus; -1 where none of this code and tie is kept


KEEP_ALL = Threshold(0, 0, _MOST_ROWS)


def find_thresholds(
    read: Read,
    mode: Mode,
    amount_S: Sequence[int],
    seed: int = 0,
    weight: str | None = None,
    temperature: float = 1.0,
) -> list[Threshold]:
    """Find each stratum's longest run, in order of priority, whose weights sum to at most the amount.

    A radix select over (code, tie): every pass counts one more digit of the documents in question and settles all
    but one of its values; as soon as the documents in question are few, they are sorted. Usually two passes, at
    most eight (with more than 16 strata, fourteen).

    Args:
        read: the corpus; "stratum" is asked for if there are several.
        mode: the selection rule; with "poisson" the weights come to the amount in expectation.
        amount_S: what to keep of each stratum, in units of the weight.
        seed: of the random modes and of ties.
        weight: column that counts towards the amount; None counts documents.
        temperature: as `priority_code` takes it.
    """
    if mode == "poisson":
        return _poisson_thresholds(read, amount_S, weight)
    code = partial(priority_code, mode, seed=seed, temperature=temperature)
    return Search(read, priority_columns(mode), code, amount_S, seed, weight).run()


def keeps(
    thresholds: Sequence[Threshold], code_N: Array, key_N: Array, first_row: int, seed: int, stratum: Array | int = 0
) -> Array:
    """Return which of N documents are kept (bool [N]) that follow each other in the corpus from `first_row` on.

    `code_N` are their `priority_code`, and the seed is the one that the thresholds of each stratum were found with;
    `stratum` is that of each document, int [N], or of all.
    """
    code_S = np.array([threshold.code for threshold in thresholds], dtype=np.uint32)
    tie_S = np.array([threshold.tie for threshold in thresholds], dtype=np.uint64)
    row_S = np.array([threshold.row for threshold in thresholds], dtype=np.int64)
    kept_N: Array = code_N > code_S[stratum]
    at = np.flatnonzero(code_N == code_S[stratum])
    tie, stratum = tie_hash(key_N[at], seed), _of(stratum, at)
    kept_N[at] = (tie > tie_S[stratum]) | ((tie == tie_S[stratum]) & (at + first_row <= row_S[stratum]))
    return kept_N


class _Rows(NamedTuple):
    """Documents of a chunk that agree with every settled digit."""

    pick: Array | slice  # their index in the chunk
    stratum: Array | int
    code: Array
    word: Array  # what the next digit is a part of: the code, later the tie


class Search:
    """One radix select, for all strata at once: the digits settled so far, and the amount left below them.

    Args:
        read: the corpus.
        names: the columns that priorities are made of.
        code: makes priorities, uint32 [N], of these columns.
        amount_S: as `find_thresholds` takes it.
        seed: likewise.
        weight: likewise.
    """

    def __init__(
        self,
        read: Read,
        names: Sequence[str],
        code: Callable[[Mapping[str, Array]], Array],
        amount_S: Sequence[int],
        seed: int,
        weight: str | None,
    ) -> None:
        self.read, self.code, self.seed, self.weight = read, code, seed, weight
        self.strata = len(amount_S)
        self.left_S = np.array(amount_S, dtype=np.int64)
        self.whole_S = np.zeros(self.strata, dtype=bool)  # strata that are kept whole
        self.code_S = np.zeros(self.strata, dtype=np.uint32)
        self.tie_S = np.zeros(self.strata, dtype=np.uint64)
        self.depth = 0  # bits settled, of the code and then of the tie
        self.digit_bits = 16 if self.strata <= 16 else 8  # counters: at most 8 MB, or 2 kB a stratum
        asked = [*names, weight, "stratum" if self.strata > 1 else None]
        self.columns = tuple(name for name in asked if name)

    def run(self) -> list[Threshold]:
        """Settle digits until few documents are in question, then sort those."""
        questioned = _FEW + 1
        while questioned > _FEW and self.depth < _CODE_BITS + _TIE_BITS:
            questioned = self._settle_digit()
        tied, spare_S = self._equal_codes()
        return self._break_ties(tied, spare_S)

    def _settle_digit(self) -> int:
        """Count the next digit and take all of its values that fit; return how many documents stay in question."""
        digits = 1 << self.digit_bits
        settled = self.depth + self.digit_bits
        low_bits = (_CODE_BITS if settled <= _CODE_BITS else _CODE_BITS + _TIE_BITS) - settled
        count = np.zeros(self.strata * digits, dtype=np.int64)
        weight = count if self.weight is None else np.zeros(count.size)  # float64: exact below 2**53
        for _, columns in self._chunks():
            rows = self._in_question(columns)
            digit = (rows.word >> rows.word.dtype.type(low_bits)) & rows.word.dtype.type(digits - 1)
            cell = digit if self.strata == 1 else digit.astype(np.intp) + (rows.stratum << self.digit_bits)
            count += np.bincount(cell, minlength=count.size)
            if self.weight is not None:
                weight += np.bincount(cell, columns[self.weight][rows.pick], minlength=count.size)
        every = np.arange(self.strata)
        falling = np.cumsum(weight.reshape(self.strata, digits)[:, ::-1].astype(np.int64), axis=1)
        if self.depth == 0:
            self.whole_S = falling[:, -1] <= self.left_S
        taken_S = np.minimum((falling <= self.left_S[:, None]).sum(axis=1), digits - 1)
        self.left_S -= np.where(taken_S > 0, falling[every, taken_S - 1], 0)
        self._append(digits - 1 - taken_S)
        questioned_S = count.reshape(self.strata, digits)[every, digits - 1 - taken_S]
        return int(questioned_S[~self.whole_S].sum())

    def _append(self, digit_S: Array) -> None:
        self.depth += self.digit_bits
        if self.depth <= _CODE_BITS:
            self.code_S |= digit_S.astype(np.uint32) << np.uint32(_CODE_BITS - self.depth)
        else:
            self.tie_S |= digit_S.astype(np.uint64) << np.uint64(_CODE_BITS + _TIE_BITS - self.depth)

    def _chunks(self) -> Iterator[Chunk]:
        by_tie = self.depth >= _CODE_BITS and "key" not in self.columns
        return self.read((*self.columns, "key") if by_tie else self.columns, None)

    def _in_question(self, columns: Mapping[str, Array]) -> _Rows:
        code, stratum = self.code(columns), _stratum(columns)
        if self.depth == 0:
            return _Rows(slice(None), stratum, code, code)
        agrees = _same_start(code, self.code_S[stratum], min(self.depth, _CODE_BITS)) & ~self.whole_S[stratum]
        pick = np.flatnonzero(agrees)
        code, stratum = code[pick], _of(stratum, pick)
        if self.depth < _CODE_BITS:
            return _Rows(pick, stratum, code, code)
        tie = tie_hash(columns["key"][pick], self.seed)
        among = np.flatnonzero(_same_start(tie, self.tie_S[stratum], self.depth - _CODE_BITS))
        return _Rows(pick[among], _of(stratum, among), code[among], tie[among])

    def _equal_codes(self) -> tuple[Array, Array]:
        """Return each stratum's documents of the one code that fits in part, [M] of _TIED, and the amount left [S]."""
        found = [np.empty(0, _TIED)]
        for start, columns in self._chunks() if not self.whole_S.all() else ():
            rows = self._in_question(columns)
            part = np.empty(rows.code.size, _TIED)
            part["stratum"], part["code"] = rows.stratum, rows.code
            part["row"] = np.arange(start, start + len(part)) if isinstance(rows.pick, slice) else rows.pick + start
            part["weight"] = 1 if self.weight is None else columns[self.weight][rows.pick]
            found.append(part)
        rest = np.concatenate(found)
        rest = rest[np.lexsort((~rest["code"], rest["stratum"]))]
        tied, spare_S = [np.empty(0, _TIED)], self.left_S.copy()
        for stratum in np.flatnonzero(~self.whole_S):
            own = rest[slice(*np.searchsorted(rest["stratum"], [stratum, stratum + 1]))]
            total = np.cumsum(own["weight"])
            self.code_S[stratum] = code = own["code"][np.searchsorted(total, self.left_S[stratum], side="right")]
            equal = np.flatnonzero(own["code"] == code)
            spare_S[stratum] -= total[equal[0] - 1] if equal[0] else 0
            tied.append(own[equal])
        return np.concatenate(tied), spare_S

    def _break_ties(self, tied: Array, spare_S: Array) -> list[Threshold]:
        """Sort the documents of equal code by tie and row, and keep those that fit."""
        tied = np.sort(tied[spare_S[tied["stratum"]] > 0], order="row")
        tie = np.empty(tied.size, dtype=np.uint64)
        for start, columns in self.read(("key",), tied["row"]) if tied.size else ():
            own = slice(*np.searchsorted(tied["row"], [start, start + len(columns["key"])]))
            tie[own] = tie_hash(columns["key"][tied["row"][own] - start], self.seed)
        order = np.lexsort((tied["row"], ~tie, tied["stratum"]))
        tied, tie = tied[order], tie[order]
        thresholds = []
        for stratum in range(self.strata):
            first, end = np.searchsorted(tied["stratum"], [stratum, stratum + 1])
            fit = first + np.searchsorted(np.cumsum(tied["weight"][first:end]), spare_S[stratum], side="right")
            if self.whole_S[stratum]:
                thresholds.append(KEEP_ALL)
            elif fit == first:
                open_bits = min(_CODE_BITS + _TIE_BITS - self.depth, _TIE_BITS)
                highest = int(self.tie_S[stratum]) | (2**open_bits - 1)  # of the ties in question
                thresholds.append(Threshold(int(self.code_S[stratum]), highest, -1))
            else:
                thresholds.append(Threshold(int(self.code_S[stratum]), int(tie[fit - 1]), int(tied["row"][fit - 1])))
        return thresholds


def _stratum(columns: Mapping[str, Array]) -> Array | int:
    return columns.get("stratum", 0)


def _of(stratum: Array | int, pick: Array) -> Array | int:
    return stratum if isinstance(stratum, int) else stratum[pick]


def _same_start(word_N: Array, settled: Array, bits: int) -> Array:
    """Return whether the first `bits` bits are the same: bool [N]."""
    width = word_N.dtype.itemsize * 8
    if bits == 0:
        return np.ones(word_N.size, dtype=bool)
    shift = word_N.dtype.type(width - bits)
    return (word_N >> shift) == (settled >> shift)


def _poisson_thresholds(read: Read, amount_S: Sequence[int], weight: str | None) -> list[Threshold]:
    """Find where min(1, c * exp(-score)), summed over the documents in units of the weight, is the amount.

    The sum is concave and piecewise linear in c, so Newton's method from below meets the solution exactly. It takes
    a pass for every step in which new documents saturate: some ten, a hundred where scores span hundreds of nats.
    """
    strata = len(amount_S)
    names = ["score", *([weight] if weight else []), *(["stratum"] if strata > 1 else [])]
    amount, log_c = np.array(amount_S, dtype=np.float64), np.full(strata, -np.inf)
    saturated = np.full(strata, -1.0)
    while True:
        certain, rest, log_rest = np.zeros(strata), np.zeros(strata), np.full(strata, -np.inf)
        for _, columns in read(names, None):
            score, stratum = columns["score"].astype(np.float64), _stratum(columns)
            units = columns[weight].astype(np.float64) if weight else np.ones(score.size)
            sure = score <= log_c[stratum]
            certain += _sums(sure * units, stratum, strata)
            rest += _sums(~sure * units, stratum, strata)
            log_rest = np.logaddexp(log_rest, _log_sums(score, units, sure, stratum, strata))
        if (certain <= saturated).all():  # rounding may let a document go again: what has been reached is kept
            return [Threshold(int(order_code(np.array([-c]))[0]), _LAST_TIE, -1) for c in log_c]
        saturated = np.maximum(certain, saturated)
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing open: replaced below
            open_log_c = np.log(np.maximum(amount - certain, 0)) - log_rest
        # What takes all of the rest is said without logarithms, whose rounding would leave out the last document
        log_c = np.maximum(log_c, np.where((log_rest > -np.inf) & (rest > amount - certain), open_log_c, np.inf))


def _log_sums(score_N: Array, units_N: Array, without_N: Array, stratum: Array | int, strata: int) -> Array:
    """Return each stratum's log of the sum of units * exp(-score), float64 [S], however small or large the scores."""
    with np.errstate(divide="ignore"):
        log_N = np.where(without_N, -np.inf, np.log(units_N) - score_N)
        highest = np.full(strata, -np.inf)
        if isinstance(stratum, int):
            highest[0] = log_N.max(initial=-np.inf)
        else:
            np.maximum.at(highest, stratum, log_N)
        reference = np.where(np.isfinite(highest), highest, 0.0)
        return np.log(_sums(np.exp(log_N - reference[stratum]), stratum, strata)) + reference


def _sums(value_N: Array, stratum: Array | int, strata: int) -> Array:
    """Return the sum per stratum, float64 [S]."""
    if isinstance(stratum, int):
        return np.array([value_N.sum(dtype=np.float64)])
    return np.bincount(stratum, value_N, minlength=strata)
