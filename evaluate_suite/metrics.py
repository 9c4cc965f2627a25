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


@dataclass(frozen=True)
class Answers:
    """What a model said and what it should have said.

    Attributes:
        predictions: N texts.
        references: N lists of accepted texts, one at least each.
        groups: N names; examples of one name belong together (answers of a question, copies of a query).
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


def compute(name: str, answers: Answers) -> float:
    """A metric by name, in percent. Raises KeyError naming those there are."""
    if name not in METRICS:
        raise KeyError(f"no metric {name!r}: there are {', '.join(METRICS)}")
    return 100.0 * METRICS[name](answers)


def invalid_share(answers: Answers) -> float:
    """Share of predictions that are no label, in percent; 0 where there are no labels."""
    return 100.0 * float(np.mean(_classes(answers)[0] == _INVALID)) if answers.labels else 0.0


def accuracy(answers: Answers) -> float:
    """Share of predictions that are an accepted text, white space around it aside."""
    return float(
        np.mean([_among(said, true) for said, true in zip(answers.predictions, answers.references, strict=True)])
    )


def matthews_correlation(answers: Answers) -> float:
    """Of classes; invalid answers are a class of their own."""
    from sklearn.metrics import matthews_corrcoef

    predicted, true = _classes(answers)
    return float(matthews_corrcoef(true, predicted))


def f1(answers: Answers) -> float:
    """Of the second of two classes; an invalid answer counts as the other than the truth."""
    from sklearn.metrics import f1_score

    predicted, true = _classes(answers)
    return float(f1_score(true, np.where(predicted == _INVALID, 1 - true, predicted), zero_division=0.0))


def macro_f1(answers: Answers) -> float:
    """Mean over classes of the F1 of each; invalid answers belong to none."""
    from sklearn.metrics import f1_score

    predicted, true = _classes(answers)
    labels = range(len(answers.labels))
    return float(f1_score(true, predicted, labels=labels, average="macro", zero_division=0.0))


def pearson(answers: Answers) -> float:
    """Correlation of numbers; 0 if all predictions are the same."""
    from scipy.stats import pearsonr

    predicted, true = _numbers(answers)
    return 0.0 if np.ptp(predicted) == 0 else float(pearsonr(predicted, true).statistic)


def spearman(answers: Answers) -> float:
    """Correlation of ranks; 0 if all predictions are the same."""
    from scipy.stats import spearmanr

    predicted, true = _numbers(answers)
    return 0.0 if np.ptp(predicted) == 0 else float(spearmanr(predicted, true).statistic)


def question_exact_match(answers: Answers) -> float:
    """Share of groups all of whose predictions are right (MultiRC)."""
    right: dict[str, bool] = {}
    for said, true, group in zip(answers.predictions, answers.references, answers.groups, strict=True):
        right[group] = right.get(group, True) and _among(said, true)
    return float(np.mean(list(right.values())))


def answer_exact_match(answers: Answers) -> float:
    """Share of predictions equal to an accepted answer after SQuAD's normalisation; one example a group."""
    return _best(answers, lambda said, true: float(normalised(said) == normalised(true)))


def answer_f1(answers: Answers) -> float:
    """Mean F1 over words with the nearest accepted answer, after SQuAD's normalisation; one example a group."""
    return _best(answers, word_f1)


def rouge1(answers: Answers) -> float:
    """Mean ROUGE-1 F-measure, no stemming."""
    return _rouge(answers, "rouge1")


def rouge2(answers: Answers) -> float:
    """Mean ROUGE-2 F-measure, no stemming."""
    return _rouge(answers, "rouge2")


def rouge_lsum(answers: Answers) -> float:
    """Mean ROUGE-L F-measure over sentences, no stemming."""
    return _rouge(answers, "rougeLsum")


METRICS: dict[str, Callable[[Answers], float]] = {
    "accuracy": accuracy,
    "exact_match": accuracy,
    "matthews_correlation": matthews_correlation,
    "f1": f1,
    "macro_f1": macro_f1,
    "pearson": pearson,
    "spearman": spearman,
    "question_exact_match": question_exact_match,
    "answer_exact_match": answer_exact_match,
    "answer_f1": answer_f1,
    "rouge1": rouge1,
    "rouge2": rouge2,
    "rougeLsum": rouge_lsum,
}


def normalised(text: str) -> str:
    """SQuAD's normalisation: lower case, no ASCII punctuation, no articles, single spaces (Rajpurkar et al. 2016)."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the words two normalised texts share; 0 if there are none."""
    said, true = normalised(prediction).split(), normalised(reference).split()
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true)) if shared else 0.0


def _best(answers: Answers, similarity: Callable[[str, str], float]) -> float:
    """Mean over groups of the best similarity to an accepted text; copies of a query count once."""
    groups = answers.groups or [str(number) for number in range(len(answers.predictions))]
    scores: dict[str, float] = {}
    for said, true, group in zip(answers.predictions, answers.references, groups, strict=True):
        if group not in scores:
            scores[group] = max(similarity(said, one) for one in true)
    return float(np.mean(list(scores.values())))


def _among(said: str, true: Sequence[str]) -> bool:
    return said.strip() in {one.strip() for one in true}


def _classes(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true classes, int64 [N] each; predictions that are no label are -1."""
    number = {label: index for index, label in enumerate(answers.labels)}
    predicted = [number.get(said.strip(), _INVALID) for said in answers.predictions]
    return np.array(predicted), np.array([number[true[0]] for true in answers.references])


def _numbers(answers: Answers) -> tuple[np.ndarray, np.ndarray]:
    true = [float(reference[0]) for reference in answers.references]
    return np.array([_number(said) for said in answers.predictions]), np.array(true)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return _UNPARSABLE
    return value if np.isfinite(value) else _UNPARSABLE


def _rouge(answers: Answers, kind: str) -> float:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=False)
    pairs = zip(answers.references, answers.predictions, strict=True)
    return float(np.mean([scorer.score(_lines(true[0]), _lines(said))[kind].fmeasure for true, said in pairs]))


def _lines(summary: str) -> str:
    """A sentence a line, which ROUGE-L over sentences needs, as T5 has it."""
    return summary.replace(" . ", " .\n")
