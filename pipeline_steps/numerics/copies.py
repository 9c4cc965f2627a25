"""Documents that are kept several times: each copy is an event of its own, and the cut is one of events.

Document i has a height g_i, and its copy j = 1 … M is an event of priority g_i / d_j, which falls in j. A cut keeps
the longest run of events, in order of priority, whose tokens fit the amount, so no count falls when the amount grows.
The search of `pipeline_steps.numerics.priority` takes events as it takes documents: of each chunk N x M rows, of which
row i * M + j - 1 is copy j of document i. Shapes: N documents, M copies at most, S strata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.keys import mix, uniform
from pipeline_steps.numerics.priority import (
    Array,
    Chunk,
    Mode,
    Read,
    Search,
    Threshold,
    keeps,
    order_code,
    priority_code,
    priority_columns,
)


MOST_COPIES = 255  # a count is a byte, and float32 tells g / 254 from g / 255
MOST_CURVES = 128  # strata with a curve each: 64 MB of counters
_MOST_POWER, _MOST_GROWTH = 4, 40  # heights stay far within float32
_COPIES, _DITHER = 0xC0B1, 0xD17  # any constants: see `priority`
_EVENTS = 1 << 20  # events that are in memory at a time: some 40 MB
_KNOTS = 1_000  # of a distribution, each a thousandth of the weight or more
_PARTS = 1 << 22  # of heavy buckets, counted in a second pass: 32 MB of counters
_LAST_BUCKET = 0.05  # OLMo 3 caps the mean over the last of 20 buckets
Shares = tuple[Sequence[int], Sequence[int], int]
"""A distribution: codes, rising; the weight of what has a smaller code, linear between them; and the weight of all."""


@dataclass(frozen=True)
class UpsamplingCurve:
    """How often documents are repeated, by the share x of the tokens (or documents) that score lower.

    The curve is C * (x - drop)**power * exp(growth * (x - drop)), and 0 below `drop`, as in OLMo 3's data mix; the
    amount of the cut decides C. Without `dither`, a document is kept floor(C * ...) times, so a higher score never
    means fewer copies.

    Attributes:
        drop: the share of the lowest scores that is dropped.
        cap: the most copies of a document, 1 to 255.
        power: 0 or more; p of OLMo 3.
        growth: 0 or more; lambda of OLMo 3.
        dither: round up or down at random, by document key, so that copies are those of the curve on average.

    Raises:
        InvalidCut: a setting is out of its range.
    """

    drop: float = 0.4
    cap: int = 7
    power: float = 1.0
    growth: float = 1.0
    dither: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise InvalidCut(f"upsample: drop={self.drop} is out of range: at least 0, below 1")
        if not 1 <= self.cap <= MOST_COPIES or self.cap != int(self.cap):
            raise InvalidCut(f"upsample: cap={self.cap} is out of range: a whole number from 1 to {MOST_COPIES}")
        for name, most in {"power": _MOST_POWER, "growth": _MOST_GROWTH}.items():
            if not 0 <= getattr(self, name) <= most:
                raise InvalidCut(f"upsample: {name}={getattr(self, name)} is out of range: 0 to {most}")
        for name, kind in {"drop": float, "cap": int, "power": float, "growth": float}.items():
            object.__setattr__(self, name, kind(getattr(self, name)))

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> UpsamplingCurve:
        """Return a curve of settings by name, as numbers or as text. Raises InvalidCut, naming the one at fault."""
        made = dict[str, Any]()
        kinds = dict[str, Callable[[Any], Any]](drop=float, cap=float, power=float, growth=float, dither=_flag)
        if not isinstance(settings, Mapping):
            raise InvalidCut(f"upsample={settings!r} is no curve: give an UpsamplingCurve, or its settings by name")
        for name, value in settings.items():
            if name not in kinds:
                raise InvalidCut(f"upsample has no setting {name!r}: give {', '.join(kinds)}")
            try:
                made[name] = kinds[name](value)
            except (TypeError, ValueError, OverflowError) as error:
                raise InvalidCut(f"upsample: {name}={value} is not a number of its kind") from error
        return cls(**made)

    def heights(self, share_N: Array) -> Array:
        """Return the curve with C = 1: float64 [N]."""
        above_N = np.maximum(share_N - self.drop, 0)
        return np.where(share_N >= self.drop, above_N**self.power * np.exp(self.growth * above_N), 0)

    @classmethod
    def olmo3(cls, repetitions: float, drop: float = 0.4, cap: int = 7) -> UpsamplingCurve:
        """Return OLMo 3's curve: the largest power, and with it the largest growth, that the cap allows.

        The mean over the highest-scoring 5 % of the tokens is at most `cap`. The curve depends on the amount, so cuts
        of two amounts are nested only if both are given the curve of one of them.

        Args:
            repetitions: tokens wanted, as a multiple of the tokens there are.
            drop: as in the class.
            cap: as in the class.

        Raises:
            InvalidCut: even the flattest curve is above the cap.
        """
        steps = 20_000
        above = (np.arange(steps) + 0.5) * (1 - drop) / steps
        last = above >= 1 - drop - _LAST_BUCKET

        def last_mean(power: float, growth: float) -> float:
            curve = above**power * np.exp(growth * above)
            return float(repetitions / (1 - drop) / curve.mean() * curve[last].mean())

        powers = [power for power in np.linspace(0.01, 2, 20) if last_mean(power, 0) <= cap]
        if not powers:
            raise InvalidCut(
                f"upsample: {repetitions:g} times the tokens are more than a curve with cap={cap} and drop={drop} "
                f"gives: at most {cap * (1 - drop):g} times"
            )
        power, low, high = float(powers[-1]), 0.0, 2.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if last_mean(power, middle) <= cap else (low, middle)
        return cls(drop, cap, power, 2.0 if last_mean(power, 2.0) <= cap else low)


def _flag(value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if str(value).lower() not in known:
        raise ValueError(value)
    return known[str(value).lower()]


def shares(read: Read, mode: Mode, seed: int, weight: str | None, strata: int) -> list[Shares]:
    """Return the distribution of each stratum's priorities, to about a thousandth of its weight.

    They are counted by their upper half in one pass; halves that hold more than that, such as those of probabilities
    near 1, are counted by more of their bits in a second.
    """
    names = [*priority_columns(mode), *([weight] if weight else []), *(["stratum"] if strata > 1 else [])]
    count = np.zeros(strata << 16)  # float64: exact below 2**53
    low, high = np.full(count.size, 2**32 - 1, dtype=np.uint32), np.zeros(count.size, dtype=np.uint32)
    for _, columns in read(names, None):
        code = priority_code(mode, columns, seed)
        cell = (code >> np.uint32(16)).astype(np.intp)
        if strata > 1:
            cell += columns["stratum"] << 16
        count += np.bincount(cell, columns[weight] if weight else None, minlength=count.size)
        np.minimum.at(low, cell, code)
        np.maximum.at(high, cell, code)
    weight_S = count.reshape(strata, 1 << 16).sum(axis=1)
    heavy = np.flatnonzero((count > np.repeat(weight_S, 1 << 16) / _KNOTS) & (low < high))
    buckets = np.stack([np.arange(count.size) >> 16, low, high, count.astype(np.int64)])
    if heavy.size:
        finer = _finer(read, names, mode, seed, weight, heavy)
        buckets = np.concatenate([np.delete(buckets, heavy, axis=1), finer], axis=1)
    buckets = buckets[:, buckets[3] > 0]
    buckets = buckets[:, np.lexsort((buckets[1], buckets[0]))]
    own_S = np.split(buckets, np.searchsorted(buckets[0], np.arange(1, strata)), axis=1)
    return [_knots(own[3], own[1], own[2]) for own in own_S]


def _finer(read: Read, names: Sequence[str], mode: Mode, seed: int, weight: str | None, heavy: Array) -> Array:
    """Return the parts of buckets: int64 [4, parts] of stratum, lowest and highest code, and weight."""
    bits = max(min(16, int(np.log2(_PARTS / heavy.size))), 1)  # of the lower half, that tell the parts of a bucket
    count = np.zeros(heavy.size << bits)  # float64: exact below 2**53
    for _, columns in read(names, None):
        code = priority_code(mode, columns, seed)
        cell = (code >> np.uint32(16)).astype(np.intp) + (columns.get("stratum", 0) << 16)
        bucket = np.searchsorted(heavy, cell)
        pick = np.flatnonzero(heavy[np.minimum(bucket, heavy.size - 1)] == cell)
        part = ((code[pick] & np.uint32(0xFFFF)) >> np.uint32(16 - bits)).astype(np.intp) + (bucket[pick] << bits)
        # Not bincount, which takes as long for a chunk of one document as for one of millions
        np.add.at(count, part, columns[weight][pick].astype(np.float64) if weight else 1.0)
    part = np.arange(count.size)
    cell = heavy[part >> bits]
    first = ((cell & 0xFFFF) << 16) + ((part & ((1 << bits) - 1)) << (16 - bits))
    return np.stack([cell >> 16, first, first + (1 << (16 - bits)) - 1, count.astype(np.int64)])


def _knots(count_B: Array, low_B: Array, high_B: Array) -> Shares:
    """Return a distribution whose knots are the ends of buckets, of each thousandth of the weight one bucket."""
    below = np.concatenate([[0], np.cumsum(count_B)])
    risen = np.flatnonzero(np.diff(below * _KNOTS // max(int(below[-1]), 1)))
    first = np.arange(count_B.size)[:1]
    wide = risen[low_B[risen] < high_B[risen]]  # of a bucket of one value, all share what is below
    codes = np.concatenate([low_B[first], low_B[risen], high_B[wide]])
    values = np.concatenate([below[first], below[risen], below[wide + 1]])
    knots, at = np.unique(codes, return_index=True)
    return knots.tolist(), values[at].tolist(), int(below[-1])


class Copies:
    """The events of documents: a height for each document, and by how much the priority of each copy is divided.

    Args:
        most: M.
        columns: what heights and divisors are made of.
    """

    least = np.nextafter(0.0, 1.0)  # of a priority: there is no event below it

    def __init__(self, most: int, columns: tuple[str, ...]) -> None:
        self.most, self.columns = most, columns
        self.copy_M = np.arange(1, most + 1)

    def heights(self, columns: Mapping[str, Array]) -> Array:
        """Return g: float64 [N]."""
        raise NotImplementedError

    def divisors(self, columns: Mapping[str, Array]) -> Array:
        """Return d: float64 [M] or [N, M]."""
        return self.copy_M

    def codes(self, columns: Mapping[str, Array]) -> Array:
        """Return the events' priorities as uint32 [N, M]; 0 where there is no event."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            priority_NM = self.heights(columns)[:, None] / self.divisors(columns)
            return np.where(priority_NM >= self.least, order_code(priority_NM), np.uint32(0))

    def available(self, columns: Mapping[str, Array]) -> Array:
        """Return how many events each document has: int64 [N]."""
        return np.where(self.heights(columns) >= self.least, self.most, 0)

    def held(self, read: Read, weight: str | None, strata: int) -> list[int]:
        """Return what the events of each stratum hold in all, in units of the weight."""
        names = [*self.columns, *([weight] if weight else []), *(["stratum"] if strata > 1 else [])]
        held_S = np.zeros(strata)  # float64: exact below 2**53
        for _, columns in read(tuple(dict.fromkeys(names)), None):
            units = self.available(columns) * (columns[weight] if weight else 1)
            held_S += np.bincount(columns.get("stratum", np.zeros(units.size, np.intp)), units, minlength=strata)
        return [int(held) for held in held_S]

    def _events(self, read: Read, weight: str | None) -> Read:
        """Return a corpus of events, of which "code", "weight", "stratum" and "key" can be read."""

        def read_events(names: Sequence[str], rows: Array | None) -> Iterator[Chunk]:
            stored = [name for name in names if name in ("stratum", "key")]
            if "code" in names:
                stored += [*self.columns, *([weight] if weight else [])]
            for start, chunk in read(tuple(dict.fromkeys(stored)), None if rows is None else rows // self.most):
                for first, columns in self._pieces(chunk):
                    yield (start + first) * self.most, self._events_of(columns, names, weight)

        return read_events

    def find_thresholds(
        self, read: Read, amount_S: Sequence[int], seed: int = 0, weight: str | None = None
    ) -> list[Threshold]:
        """Find each stratum's longest run of events, as `priority.find_thresholds` finds that of documents."""
        return Search(self._events(read, weight), ("code",), itemgetter("code"), amount_S, seed, "weight").run()

    def counts(
        self, thresholds: Sequence[Threshold], columns: Mapping[str, Array], first_row: int, seed: int
    ) -> Array:
        """Return how many copies are kept of documents that follow each other in the corpus: uint8 [N].

        Args:
            thresholds: of each stratum's events; none if every event is kept.
            columns: those of `columns`, "key", and "stratum" if there are several.
            first_row: the first document's place in the corpus.
            seed: that the thresholds were found with.
        """
        if not thresholds:
            return self.available(columns).astype(np.uint8)
        counts = []
        for first, piece in self._pieces(columns):
            events = self._events_of(piece, ("code", "key", "stratum"), None)
            row, stratum = (first_row + first) * self.most, events.get("stratum", 0)
            kept = keeps(thresholds, events["code"], events["key"], row, seed, stratum) & (events["code"] > 0)
            counts.append(kept.reshape(-1, self.most).sum(axis=1, dtype=np.uint8))
        return np.concatenate([np.empty(0, np.uint8), *counts])

    def _pieces(self, columns: Mapping[str, Array]) -> Iterator[Chunk]:
        step = max(_EVENTS // self.most, 1)
        for first in range(0, len(next(iter(columns.values()))), step):
            yield first, {name: values[first : first + step] for name, values in columns.items()}

    def _events_of(self, columns: Mapping[str, Array], names: Sequence[str], weight: str | None) -> dict[str, Array]:
        made = {}
        if "code" in names:
            made["code"] = self.codes(columns).reshape(-1)
        if "weight" in names:
            units = np.repeat(columns[weight], self.most) if weight else np.uint8(1)
            made["weight"] = np.where(made["code"] > 0, units, 0)
        if "key" in names:
            made["key"] = event_keys(columns["key"], self.most)
        if "stratum" in names and "stratum" in columns:
            made["stratum"] = np.repeat(columns["stratum"], self.most)
        return made


class CopiesByCurve(Copies):
    """Events of an upsampling curve over the priorities of a cut.

    Args:
        curve: the curve.
        mode: of the cut.
        seed: of the cut.
        distribution: as `shares` returns it.
    """

    def __init__(self, curve: UpsamplingCurve, mode: Mode, seed: int, distribution: Sequence[Shares]) -> None:
        columns = (*priority_columns(mode), *(["key"] if curve.dither else []))
        super().__init__(curve.cap, (*columns, *(["stratum"] if len(distribution) > 1 else [])))
        self.curve, self.mode, self.seed, self.distribution = curve, mode, seed, distribution

    def heights(self, columns: Mapping[str, Array]) -> Array:
        """See Copies."""
        code_N, stratum = priority_code(self.mode, columns, self.seed), columns.get("stratum")
        share_N = np.zeros(code_N.size)
        for number in (0,) if stratum is None else np.unique(stratum):
            knots, below, whole = self.distribution[number]
            own = slice(None) if stratum is None else stratum == number
            share_N[own] = np.interp(code_N[own], knots, np.array(below) / whole)
        return self.curve.heights(share_N)

    def divisors(self, columns: Mapping[str, Array]) -> Array:
        """See Copies."""
        if not self.curve.dither:
            return self.copy_M
        return self.copy_M - uniform(columns["key"], self.seed ^ _DITHER)[:, None]


class CopiesByScore(Copies):
    """Events of scores that say, by a table, how often documents may be kept.

    Args:
        table: copies of the scores from each value on, up to the next value; none below the first.
    """

    least = 1.0  # copy j is an event if j is at most the height

    def __init__(self, table: Mapping[int, int]) -> None:
        super().__init__(max(max(table.values()), 1), ("score",))
        self.value_T = np.array([-np.inf, *sorted(table)])
        self.copies_T = np.array([0, *(table[value] for value in sorted(table))])

    def heights(self, columns: Mapping[str, Array]) -> Array:
        """See Copies."""
        return self.copies_T[np.searchsorted(self.value_T, columns["score"], side="right") - 1].astype(np.float64)

    def available(self, columns: Mapping[str, Array]) -> Array:
        """See Copies."""
        return self.heights(columns).astype(np.int64)


def event_keys(key_N: Array, most: int) -> Array:
    """Return a key for each copy, uint64 [N * M]: the document's own for the first, so that ties go on as without."""
    later = [mix(key_N, _COPIES + copy) for copy in range(2, most + 1)]
    return np.stack([key_N, *later], axis=1).reshape(-1)
