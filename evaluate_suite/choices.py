"""Metrics of ranked answers, computed from what a model said of every choice of every question.

The log-likelihoods and lengths are kept, so that each metric is a report and not another run. Lengths are those of the
scored text, with the space before the answer, as OLMES counts them (Gu et al. 2024, arXiv 2406.08446); `acc_norm` and
`acc_bytes` are lm-eval's, without that space. Bits per byte and the probability of the right choice are smooth where
the accuracy of a small model is flat (Magnusson et al. 2025, arXiv 2504.11393).

Shapes: Q questions, K choices of a question at most.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pipeline_steps.errors import InvalidCut


_COUNTED = ("characters", "bytes", "tokens")


def packed(values: Iterable[float]) -> str:
    """Return numbers as one line of text that holds every bit of them; JSON would take a line for each."""
    return " ".join(map(str, values))


def _unpacked(text: str, dtype: Any) -> np.ndarray:
    return np.array(text.split()).astype(dtype)


class Choices:
    """The answers of a model about the choices of Q questions, as the measurement cache keeps them.

    Args:
        found: texts that `packed` makes of a value for each choice, question after question: `log_likelihood` (nats),
            `characters`, `bytes`, `tokens` (0 where the model does not count them), `greedy` and `right` (1 or 0)
            and, if they were asked for, `unconditional` (nats, the answer without its question). Besides, `choices`:
            the number of choices of each question; `delimiter`: the text between question and answer, which the
            lengths hold.

    Attributes:
        there_QK: bool, false where a question has fewer choices than others.
        log_likelihood_QK: float64, nats, -inf where there is no choice.
        unconditional_QK: float64, nats, or None.
        characters_QK: int64, as are `bytes_QK` and `tokens_QK`; 1 where there is no choice.
        greedy_QK: bool, whether greedy decoding says the choice.
        right_QK: bool, several of a question may be right.
        delimiter: the text between question and answer.
    """

    def __init__(self, found: Mapping[str, Any]) -> None:
        count_Q = _unpacked(found["choices"], np.int64)
        self.there_QK = np.arange(count_Q.max(initial=0)) < count_Q[:, None]
        self.log_likelihood_QK = self._padded(found["log_likelihood"], -np.inf, np.float64)
        alone = found.get("unconditional")
        self.unconditional_QK = None if alone is None else self._padded(alone, 0.0, np.float64)
        self.characters_QK, self.bytes_QK, self.tokens_QK = (self._padded(found[n], 1, np.int64) for n in _COUNTED)
        self.greedy_QK = self._padded(found["greedy"], 0, np.int64) == 1
        self.right_QK = self._padded(found["right"], 0, np.int64) == 1
        self.delimiter: str = found["delimiter"]

    def _padded(self, text: str, empty: float, dtype: Any) -> np.ndarray:
        padded = np.full(self.there_QK.shape, empty, dtype)
        padded[self.there_QK] = _unpacked(text, dtype)
        return padded

    def counts_tokens(self) -> bool:
        """Return whether the model has told the tokens of its answers."""
        return bool((self.tokens_QK > 0).all())

    def metrics(self) -> set[str]:
        """Return the metrics that what was measured allows; a text to be said has no choice to be compared with."""
        if self.there_QK.shape[1] == 1:
            return {"exact_match", "bits_per_byte"}
        absent = set() if self.counts_tokens() else {"accuracy_per_token"}
        absent |= {"accuracy_unconditional"} if self.unconditional_QK is None else set()
        return METRICS.keys() - absent


def accuracy(choices: Choices, score_QK: np.ndarray) -> np.ndarray:
    """Return 1 where the choice of the highest score is right, else 0, float64 [Q]; the first of equals counts."""
    chosen_Q = np.where(choices.there_QK, score_QK, -np.inf).argmax(axis=1)
    return np.take_along_axis(choices.right_QK, chosen_Q[:, None], axis=1)[:, 0].astype(np.float64)


def probabilities(score_QK: np.ndarray) -> np.ndarray:
    """Return the softmax of each question's scores, float64 [Q, K]."""
    raised_QK = np.exp(score_QK - score_QK.max(axis=1, keepdims=True))
    return np.asarray(raised_QK / raised_QK.sum(axis=1, keepdims=True))


def bits_per_byte(choices: Choices) -> np.ndarray:
    """Return the bits of the right answer per byte of it, float64 [Q]; of several right ones, the likeliest."""
    bits_QK = -choices.log_likelihood_QK / (np.log(2) * choices.bytes_QK)
    return np.where(choices.right_QK, bits_QK, np.inf).min(axis=1)


def choice_probability(choices: Choices, score_QK: np.ndarray) -> np.ndarray:
    """Return the right choices' share of the probability of all choices, float64 [Q]."""
    return np.asarray((probabilities(score_QK) * choices.right_QK).sum(axis=1))


def margin(choices: Choices) -> np.ndarray:
    """Return how far the right choice's share is above the likeliest wrong one's, float64 [Q]."""
    share_QK = probabilities(choices.log_likelihood_QK)
    wrong_Q = np.where(choices.there_QK & ~choices.right_QK, share_QK, 0.0).max(axis=1)
    return np.asarray(np.where(choices.right_QK, share_QK, 0.0).max(axis=1) - wrong_Q)


def _per_token(choices: Choices) -> np.ndarray:
    if not choices.counts_tokens():
        raise InvalidCut("the model does not count the tokens of its answers: give it a method answer_length(request)")
    return accuracy(choices, choices.log_likelihood_QK / choices.tokens_QK)


def _unconditional(choices: Choices) -> np.ndarray:
    if choices.unconditional_QK is None:
        raise InvalidCut("the answers were not scored without their questions: set `unconditional` for the task")
    return accuracy(choices, choices.log_likelihood_QK - choices.unconditional_QK)


def _without_delimiter(choices: Choices, length_QK: np.ndarray, delimiter: int) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # an empty choice
        return accuracy(choices, choices.log_likelihood_QK / (length_QK - delimiter))


METRICS: dict[str, Callable[[Choices], np.ndarray]] = {
    "accuracy": lambda c: accuracy(c, c.log_likelihood_QK),
    "accuracy_per_character": lambda c: accuracy(c, c.log_likelihood_QK / c.characters_QK),
    "accuracy_per_byte": lambda c: accuracy(c, c.log_likelihood_QK / c.bytes_QK),
    "accuracy_per_token": _per_token,
    "accuracy_unconditional": _unconditional,
    "acc_norm": lambda c: _without_delimiter(c, c.characters_QK, len(c.delimiter)),
    "acc_bytes": lambda c: _without_delimiter(c, c.bytes_QK, len(c.delimiter.encode())),
    "exact_match": lambda c: (c.greedy_QK & c.right_QK).any(axis=1).astype(np.float64),
    "bits_per_byte": bits_per_byte,
    "choice_probability": lambda c: choice_probability(c, c.log_likelihood_QK),
    "choice_probability_per_character": lambda c: choice_probability(c, c.log_likelihood_QK / c.characters_QK),
    "margin": margin,
}
"""By name, a function from the choices to the metric of each question, float64 [Q]: a share, or bits per byte."""


def check_metrics(names: Iterable[str]) -> None:
    """Raise InvalidCut for the name of a metric that does not exist, with the nearest that does."""
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            said = f"did you mean {near[0]}?" if near else f"there are {', '.join(METRICS)}"
            raise InvalidCut(f"no metric {name!r} of ranked answers: {said}")


def estimate(choices: Choices, metric: str) -> tuple[float, float, int]:
    """Return the mean of a metric over questions, its standard error and the number of questions.

    The unit is percent, of bits per byte bits.

    Raises:
        InvalidCut: what the metric needs was not measured.
    """
    value_Q = METRICS[metric](choices)
    n, mean, unit = len(value_Q), float(value_Q.mean()), 1 if metric == "bits_per_byte" else 100
    return unit * mean, unit * float(np.sqrt(np.mean((value_Q - mean) ** 2) / max(n - 1, 1))), n
