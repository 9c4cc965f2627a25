"""Turn a score store into a Selection: (mode, k | rate | token_budget, seed) -> exactly those documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline_steps.errors import InvalidCut
from pipeline_steps.numerics.cuts import MODES, Mode, documents_within, keep_largest, priority
from pipeline_steps.score_store import ScoreStore
from pipeline_steps.selection import Selection


@dataclass(frozen=True)
class Cut:
    """What to keep of a scored corpus.

    Attributes:
        mode: "top" or "bottom" of the score, "random", "ips" (in proportion to exp(-score), for log densities)
            or "direct" (in proportion to exp(+score), for log weights).
        k: documents to keep, exactly.
        rate: fraction of the documents to keep, rounded to the nearest document.
        token_budget: keep the most documents whose tokens, in order of priority, stay within this many.
        seed: of the random modes, and of the order among equal scores.
    """

    mode: Mode
    k: int | None = None
    rate: float | None = None
    token_budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise InvalidCut unless exactly one amount is given and it makes sense."""
        amounts = {"k": self.k, "rate": self.rate, "token_budget": self.token_budget}
        given = {name: value for name, value in amounts.items() if value is not None}
        if len(given) != 1:
            raise InvalidCut(f"give exactly one of k, rate and token_budget; got {given or 'none'}")
        if self.mode not in MODES:
            raise InvalidCut(f"no selection mode {self.mode!r}: choose one of {', '.join(MODES)}")
        (name, value), *_ = given.items()
        if value < 0 or (name == "rate" and value > 1):
            raise InvalidCut(f"{name}={value} is out of range: {'0 to 1' if name == 'rate' else 'at least 0'}")


def select(store: ScoreStore, cut: Cut) -> Selection:
    """The documents a cut keeps, as a bitmap in corpus order. Memory: about 40 bytes a document.

    Raises:
        InvalidCut: more documents asked for than there are, or a token budget on a store without token counts.
    """
    key_N = store.keys
    priority_N = priority(cut.mode, store.scores, key_N, cut.seed)
    mask = keep_largest(priority_N, key_N, _documents_to_keep(store, cut, priority_N, key_N), cut.seed)
    made = {**asdict(cut), "scores": store.config, "scores_fingerprint": store.fingerprint}
    return Selection(mask, store.corpus_digest, made)


def _documents_to_keep(store: ScoreStore, cut: Cut, priority_N: np.ndarray, key_N: np.ndarray) -> int:
    if cut.k is not None:
        if cut.k > key_N.size:
            raise InvalidCut(f"asked to keep {cut.k:,} documents, but {store.path} holds {key_N.size:,}")
        return cut.k
    if cut.rate is not None:
        return round(cut.rate * key_N.size)
    tokens_N = store.tokens
    if not tokens_N.all():
        raise InvalidCut(
            f"{store.path} does not know the tokens of {int((tokens_N == 0).sum()):,} documents: put datatrove's "
            "TokensCounter before the scorer, or cut by k or rate"
        )
    budget: Any = cut.token_budget
    return documents_within(budget, priority_N, key_N, tokens_N, cut.seed)
