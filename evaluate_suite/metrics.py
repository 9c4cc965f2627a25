"""The metrics of the 111 tasks under T5's rules, in percent.

A text-to-text model answers in words. T5 decodes and compares (Raffel et al. 2020, Sec. 2.4): a text that is none of
the labels is wrong, whatever it resembles; where a metric needs a class for it (F1), it counts as the opposite of the
truth. Rules follow the evaluation code released with T5; numbers come from scikit-learn, SciPy and rouge_score.
Shapes: N examples.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


_INVALID = -1  # class of a text that is no label
_UNPARSABLE = -1.0  # value of a text that is no number, as in T5
_DRAWS = 200  # enough for a standard error (Efron & Tibshirani 1993, Sec. 6.4)


@dataclass(frozen=True)
class TaskAnswers:
    """A model's answers to a task, and the answers that would have been right.

    Attributes:
        predictions: N texts.
        references: N lists of accepted texts, one at least each.
        groups: N names; examples of one name belong together (answers of a question, copies of a query). None or
            only empty ones: each example stands alone.
        labels: texts of the classes, if there are any.
    """

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    groups: Sequence[str] = ()
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.predictions) != len(self.references) or not self.predictions:
            raise ValueError(
                f"{len(self.predictions)} predictions and {len(self.references)} references: as many, one at least"
            )
        if self.groups and len(self.groups) != len(self.predictions):
            raise ValueError(f"{len(self.groups)} groups of {len(self.predictions)} predictions")
        if not any(self.groups):
            object.__setattr__(self, "groups", ())


def compute(name: str, answers: TaskAnswers) -> float:
    """Return a metric by name, in percent. Raises KeyError, which names all metrics."""
    if name not in METRICS:
        raise KeyError(f"no metric {name!r}: there are {', '.join(METRICS)}")
    if name in _MEANS:
        return 100.0 * float(np.mean(_MEANS[name](answers)))
    read, score = _JOINT[name]
    return 100.0 * score(*read(answers), len(answers.labels))


def standard_error(name: str, answers: TaskAnswers) -> float:
    """Return the standard error of `compute`, in percent: s / sqrt(N) over `units` of a mean, or bootstrapped."""
    if name in _MEANS:
        values = _MEANS[name](answers)
        return 100.0 * float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")
    read, score = _JOINT[name]
    said_N, true_N = read(answers)
    rng = np.random.default_rng(0)
    members = _members(answers)
    drawn = [_draw(members, rng) for _ in range(_DRAWS)]
    return 100.0 * float(np.std([score(said_N[one], true_N[one], len(answers.labels)) for one in drawn], ddof=1))


def units(answers: TaskAnswers) -> int:
    """Return the number of independent examples: those of a group (a question's answers) are one."""
    return len(_members(answers))


def invalid_share(answers: TaskAnswers) -> float:
    """Return the share of predictions that are no label, in percent; 0 where there are no labels."""
    return 100.0 * float(np.mean(_classes(answers)[0] == _INVALID)) if answers.labels else 0.0


def majority(answers: TaskAnswers) -> TaskAnswers:
    """Return the answers of a model that always says the most frequent label: what a metric must be compared with."""
    most = Counter(true[0] for true in answers.references).most_common(1)[0][0]
    return TaskAnswers([most] * len(answers.predictions), answers.references, answers.groups, answers.labels)


# -- means over units: values [N] -------------------------------------------------------------------------------


def _right(answers: TaskAnswers) -> np.ndarray:
    """Return whether each prediction is an accepted text, white space around it aside."""
    pairs = zip(answers.predictions, answers.references, strict=True)
    return np.array([float(_among(said, true)) for said, true in pairs])


def _right_questions(answers: TaskAnswers) -> np.ndarray:
    """Return whether all predictions of each group are right (MultiRC)."""
    right: dict[str, bool] = {}
    for said, true, group in zip(answers.predictions, answers.references, answers.groups, strict=True):
        right[group] = right.get(group, True) and _among(said, true)
    return np.array(list(right.values()), dtype=float)


def _exact_answers(answers: TaskAnswers) -> np.ndarray:
    """Return whether predictions are accepted answers after SQuAD's normalisation; one example a group."""
    return _best(answers, lambda said, true: float(normalised(said) == normalised(true)))


def _answer_words(answers: TaskAnswers) -> np.ndarray:
    """Return F1 over words with the nearest accepted answer, after SQuAD's normalisation; one example a group."""
    return _best(answers, word_f1)


def _rouge(kind: str) -> Callable[[TaskAnswers], np.ndarray]:
    """Return the metric that is the F-measure of a kind of ROUGE, without stemming; L is over sentences."""

    def values(answers: TaskAnswers) -> np.ndarray:
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=False)
        pairs = zip(answers.references, answers.predictions, strict=True)
        return np.array([scorer.score(_lines(true[0]), _lines(said))[kind].fmeasure for true, said in pairs])

    return values


_MEANS: dict[str, Callable[[TaskAnswers], np.ndarray]] = {
    "accuracy": _right,
    "exact_match": _right,
    "question_exact_match": _right_questions,
    "answer_exact_match": _exact_answers,
    "answer_f1": _answer_words,
    "rouge1": _rouge("rouge1"),
    "rouge2": _rouge("rouge2"),
    "rougeLsum": _rouge("rougeLsum"),
}


# -- functions of all predictions [N] and truths [N] together ----------------------------------------------------


def _matthews(said_N: np.ndarray, true_N: np.ndarray, labels: int) -> float:
    """Return the correlation of classes; invalid answers are a class of their own."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true_N, said_N))


def _f1(said_N: np.ndarray, true_N: np.ndarray, labels: int) -> float:
    """Return the F1 of the second of two classes; an invalid answer counts as the opposite of the truth."""
    from sklearn.metrics import f1_score

    return float(f1_score(true_N, np.where(said_N == _INVALID, 1 - true_N, said_N), zero_division=0.0))


def _macro_f1(said_N: np.ndarray, true_N: np.ndarray, labels: int) -> float:
    """Return the mean of all classes' F1; invalid answers belong to none."""
    from sklearn.metrics import f1_score

    return float(f1_score(true_N, said_N, labels=range(labels), average="macro", zero_division=0.0))


def _pearson(said_N: np.ndarray, true_N: np.ndarray, labels: int) -> float:
    """Return the correlation of numbers; 0 if either are all the same."""
    from scipy.stats import pearsonr

    return 0.0 if _constant(said_N, true_N) else float(pearsonr(said_N, true_N).statistic)


def _spearman(said_N: np.ndarray, true_N: np.ndarray, labels: int) -> float:
    """Return the correlation of ranks; 0 if either are all the same."""
    from scipy.stats import spearmanr

    return 0.0 if _constant(said_N, true_N) else float(spearmanr(said_N, true_N).statistic)


def _members(answers: TaskAnswers) -> list[np.ndarray]:
    """Return the numbers of the examples of each group."""
    if not answers.groups:
        return list(np.arange(len(answers.predictions))[:, None])
    names, group_N = np.unique(np.asarray(answers.groups), return_inverse=True)
    order = np.argsort(group_N, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group_N, minlength=len(names)))[:-1])


def _draw(members: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Draw as many groups with replacement, and return their examples."""
    chosen = rng.integers(0, len(members), len(members))
    if all(len(one) == 1 for one in members):
        return np.concatenate(members)[chosen]
    return np.concatenate([members[group] for group in chosen.tolist()])


def _classes(answers: TaskAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true classes, int64 [N] each; predictions that are no label are -1."""
    number = {label: index for index, label in enumerate(answers.labels)}
    predicted = [number.get(said.strip(), _INVALID) for said in answers.predictions]
    return np.array(predicted), np.array([number[true[0]] for true in answers.references])


def _numbers(answers: TaskAnswers) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted and true numbers, float64 [N] each; what is no number is -1, as in T5."""
    true = [float(reference[0]) for reference in answers.references]
    return np.array([_number(said) for said in answers.predictions]), np.array(true)


_Read = Callable[[TaskAnswers], tuple[np.ndarray, np.ndarray]]
_JOINT: dict[str, tuple[_Read, Callable[[np.ndarray, np.ndarray, int], float]]] = {
    "matthews_correlation": (_classes, _matthews),
    "f1": (_classes, _f1),
    "macro_f1": (_classes, _macro_f1),
    "pearson": (_numbers, _pearson),
    "spearman": (_numbers, _spearman),
}
METRICS = (*_MEANS, *_JOINT)


def normalised(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, articles and double spaces (Rajpurkar et al. 2016)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(prediction: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the words that two normalised texts share, or 0."""
    said, true = normalised(prediction).split(), normalised(reference).split()
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true)) if shared else 0.0


def _best(answers: TaskAnswers, similarity: Callable[[str, str], float]) -> np.ndarray:
    """Return each group's best similarity to an accepted text; copies of a query count once."""
    groups = answers.groups or [str(number) for number in range(len(answers.predictions))]
    scores: dict[str, float] = {}
    for said, true, group in zip(answers.predictions, answers.references, groups, strict=True):
        if group not in scores:
            scores[group] = max(similarity(said, one) for one in true)
    return np.array(list(scores.values()))


def _among(said: str, true: Sequence[str]) -> bool:
    return said.strip() in {one.strip() for one in true}


def _constant(*arrays: np.ndarray) -> bool:
    return any(np.ptp(array) == 0 for array in arrays)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return _UNPARSABLE
    return value if np.isfinite(value) else _UNPARSABLE


def _lines(summary: str) -> str:
    """Put each sentence on a line, which ROUGE-L over sentences needs, as T5 does."""
    return summary.replace(" . ", " .\n")
