"""The settings of a cut, as cut files, datasets and studies record them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.copies import MOST_COPIES, UpsamplingCurve
from pipeline_steps.numerics.priority import MODES, Mode


if TYPE_CHECKING:
    import numpy as np

    from pipeline_steps.stores.score_store import ScoreStore

_TEMPERED = ("ips", "direct")  # modes whose scores are logs of weights, drawn one after the other


@dataclass(frozen=True)
class Cut:
    """A rule for the documents that are kept of a scored corpus, or of each of its strata.

    Attributes:
        mode: "top" or "bottom" of the score; "pareto" (the top of noisy probabilities, for log-odds: GPT-3's way of
            keeping some of the low); "random"; "ips" (k draws without replacement, each in proportion to
            exp(-score), for log densities); "direct" (in proportion to exp(+score), for log weights); "poisson" (each
            document by itself with probability min(1, c * exp(-score)); the amount is met in expectation).
        k: documents to keep, exactly; copies, if documents are kept several times.
        rate: fraction of the documents to keep, rounded to the nearest document; above 1 if documents are kept
            several times.
        token_budget: keep the most documents whose tokens, in order of priority, stay within this many.
        seed: of the random modes, and of the order among equal scores. One seed gives nested cuts across amounts.
        temperature: of "ips" and "direct", whose scores are divided by it: QuRating's soft cut, from the lowest (ips)
            or highest (direct) scores near 0 to a uniform sample (Wettig et al. 2024).
        normalize: divide scores by their standard deviation too, over the whole store, so that a temperature means
            the same for scores of any scale.
        upsample: of "top" and "bottom", keep the better documents several times, as a curve says.
        copies: of "top", scores say how often a document may be kept: {1: 1, 2: 3, 9: 5} keeps a score of 1 once, of 2
            to 8 three times, of 9 or more five times, and lower scores never. Without an amount all copies are kept;
            within an amount, copy j of a document that may be kept c times goes before others by c / j (D'Hondt).
        mixture: shares of the amount by label, {"web": 0.6, "wiki": 0.4}; each label is cut by its own scores, and
            others are dropped. A label gets floor(share * amount), so cuts are nested in the amount.
        fill: what to do if a label holds less than its share: "none" refuses, "others" gives the rest to the others.

    Raises:
        InvalidCut: there is not exactly one amount, a setting is out of range, or settings do not go together.
    """

    mode: Mode
    k: int | None = None
    rate: float | None = None
    token_budget: int | None = None
    seed: int = 0
    temperature: float = 1.0
    upsample: UpsamplingCurve | None = None
    copies: Mapping[int, int] | None = field(default=None, hash=False)
    mixture: Mapping[str, float] | None = field(default=None, hash=False)
    fill: Literal["none", "others"] = "none"
    normalize: bool = False

    def __post_init__(self) -> None:
        """Check the settings; take NumPy's numbers as Python's, and what `made` returned as what it was made of."""
        for name, kind in {"k": int, "rate": float, "token_budget": int, "seed": int, "temperature": float}.items():
            value = getattr(self, name)
            if value is not None and type(value) is not kind:
                if kind(value) != value and value == value:
                    raise InvalidCut(f"{name}={value} is not a whole number")
                object.__setattr__(self, name, kind(value))
        if self.upsample is not None and not isinstance(self.upsample, UpsamplingCurve):
            object.__setattr__(self, "upsample", UpsamplingCurve.of(self.upsample))
        if self.copies is not None:
            object.__setattr__(self, "copies", _mapping("copies", self.copies, int, int))
        if self.mixture is not None:
            object.__setattr__(self, "mixture", _mapping("mixture", self.mixture, str, float))
        self._check_amount()
        if self.mode not in MODES:
            raise InvalidCut(f"no selection mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if not 0 <= self.seed < 2**64:
            raise InvalidCut(f"seed={self.seed} is out of range: 0 to 2**64 - 1")
        self._check_together()
        self._check_mixture()

    def _check_amount(self) -> None:
        amounts = {"k": self.k, "rate": self.rate, "token_budget": self.token_budget}
        given = {name: value for name, value in amounts.items() if value is not None}
        if len(given) != 1 and not (self.copies is not None and not given):
            raise InvalidCut(f"give exactly one of k, rate and token_budget; got {given or 'none'}")
        most = 1 if self.is_plain else MOST_COPIES
        for name, value in given.items():
            if not value >= 0 or (name == "rate" and value > most):
                raise InvalidCut(
                    f"{name}={value} is out of range: {f'0 to {most}' if name == 'rate' else 'at least 0'}"
                )

    def _check_together(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InvalidCut(f"temperature={self.temperature} is out of range: above 0")
        if (self.temperature != 1 or self.normalize) and self.mode not in _TEMPERED:
            raise InvalidCut(
                f"temperature is for the modes {' and '.join(_TEMPERED)}, not for {self.mode}: give one of them"
            )
        if self.upsample is not None and self.mode not in ("top", "bottom"):
            raise InvalidCut(f"upsample is for the modes top and bottom, not for {self.mode}: give one of them")
        if self.copies is not None:
            if self.mode != "top" or self.upsample is not None:
                raise InvalidCut("copies stand for the whole cut: leave upsample and any mode but top out")
            if not self.copies or not all(0 <= count <= MOST_COPIES for count in self.copies.values()):
                raise InvalidCut(f"copies must be from 0 to {MOST_COPIES} for one score or more, not {self.copies}")

    def _check_mixture(self) -> None:
        if self.fill not in ("none", "others"):
            raise InvalidCut(f"fill={self.fill!r} must be none or others")
        if self.mixture is None:
            if self.fill != "none":
                raise InvalidCut("fill is for mixtures: give one, or leave fill out")
            return
        if self.is_whole:
            raise InvalidCut("a mixture shares out an amount: give k, rate or token_budget")
        parts = self.mixture.values()
        if not abs(sum(parts) - 1) <= 1e-6 or not all(0 <= share <= 1 for share in parts):
            raise InvalidCut(f"the shares of a mixture must be 0 to 1 and add up to 1, not {sum(parts):g}")

    @property
    def is_plain(self) -> bool:
        """Return whether a document is kept once at most."""
        return self.upsample is None and self.copies is None

    @property
    def is_whole(self) -> bool:
        """Return whether all copies of all documents are kept, without an amount."""
        return self.k is None and self.rate is None and self.token_budget is None

    def asked(self, documents: int) -> int:
        """Return the amount of a corpus or stratum of so many documents, in documents or tokens."""
        if self.rate is not None:
            return round(self.rate * documents)
        return self.k or self.token_budget or 0

    def made(self) -> dict[str, Any]:
        """Return the settings as JSON types, without those that were added later and are at their defaults."""
        values = {
            name: {str(key): one for key, one in value.items()} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }
        return {
            field.name: values[field.name]
            for field in fields(self)
            if field.name in _FIRST or values[field.name] != field.default
        }


@dataclass(frozen=True)
class Exclusion:
    """Leaves out the documents whose scores are worse than a threshold.

    Worse is above the threshold where the store calls low scores good, as of contamination, and below it elsewhere.

    Attributes:
        scores: folder of a finished score store of the corpus.
        threshold: the worst score that stays; 0 leaves out every document that shares a run of words with an
            evaluation item.
    """

    scores: str
    threshold: float = 0.0

    @classmethod
    def of(cls, text: str) -> Exclusion:
        """Return the exclusion that "FOLDER" or "FOLDER:THRESHOLD" says. Raises InvalidCut if there is no folder."""
        folder, _, last = text.rpartition(":")
        try:
            threshold = float(last)
        except ValueError:  # a part of the path
            folder, threshold = text, 0.0
        if not folder or threshold != threshold:
            raise InvalidCut(f"exclude={text!r} names no score store: give FOLDER or FOLDER:THRESHOLD")
        return cls(folder.rstrip("/"), threshold)

    def worse(self, store: ScoreStore, source: str) -> np.ndarray:
        """Return which documents of a source are left out: bool [N]."""
        score_N = store.read(source, ["score"])["score"]
        left_out: np.ndarray = score_N > self.threshold if store.lower_is_better else score_N < self.threshold
        return left_out


def exclusions(given: Sequence[str]) -> list[Exclusion]:
    """Return exclusions, of which each is a text as `Exclusion.of` takes it; raises as that does."""
    if isinstance(given, str):
        raise InvalidCut(f"exclude={given!r} is one text: give a list, such as [{given!r}]")
    return [Exclusion.of(one) for one in given]


_FIRST = ("mode", "k", "rate", "token_budget", "seed")


def _mapping(what: str, given: Any, key: type, value: type) -> dict[Any, Any]:
    """Return a mapping with keys and values of these types, sorted by key. Raises InvalidCut if there are others."""
    try:
        made = {key(one): value(other) for one, other in given.items()}
        if any(value(other) != float(other) for other in given.values()):
            raise ValueError
        if len(made) != len(given) or (key is int and any(int(one) != float(one) for one in given)):
            raise ValueError
        return dict(sorted(made.items()))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        kinds = {int: "whole numbers", str: "labels", float: "numbers"}
        raise InvalidCut(f"{what} must map {kinds[key]}, each once, to {kinds[value]}, not {given}") from error
