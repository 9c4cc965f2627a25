"""Metrics must equal independent implementations, and treat what is no answer as T5 does."""

import math
import re
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate_suite.metrics import (
    METRICS,
    TaskAnswers,
    compute,
    invalid_share,
    majority,
    normalised,
    standard_error,
    units,
    word_f1,
)
from evaluate_suite.registry import registry
from evaluate_suite.task_metric import TaskMetric
from pipeline_steps.errors import InvalidCut


def answers(predictions, references, labels=(), groups=()):
    return TaskAnswers(predictions, [[one] if isinstance(one, str) else one for one in references], groups, labels)


def confusion(predictions, references, positive):
    pairs = Counter((p == positive, r == positive) for p, r in zip(predictions, references, strict=True))
    return pairs[True, True], pairs[True, False], pairs[False, True], pairs[False, False]


TWO = ("not_equivalent", "equivalent")
labelled = st.lists(st.tuples(st.sampled_from(TWO), st.sampled_from(TWO)), min_size=2, max_size=40)


@settings(max_examples=60, deadline=None)
@given(labelled)
def test_two_classes_by_the_textbook(pairs):
    said, true = map(list, zip(*pairs, strict=True))
    tp, fp, fn, tn = confusion(said, true, "equivalent")
    found = answers(said, true, TWO)
    assert compute("accuracy", found) == pytest.approx(100 * (tp + tn) / len(pairs))
    assert compute("f1", found) == pytest.approx(100 * (2 * tp / (2 * tp + fp + fn) if tp else 0))
    root = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert compute("matthews_correlation", found) == pytest.approx(100 * ((tp * tn - fp * fn) / root if root else 0))


def test_what_is_no_label_is_wrong():
    """T5's "hamburger": close does not count, and for F1 it is the opposite of the truth."""
    true = ["equivalent", "equivalent", "not_equivalent", "not_equivalent"]
    said = ["equivalent", "Equivalent", "hamburger", ""]
    found = answers(said, true, TWO)
    assert compute("accuracy", found) == 25
    assert compute("f1", found) == pytest.approx(100 * 2 / (2 + 2 + 1))  # 1 right, 2 wrongly positive, 1 missed
    assert invalid_share(found) == 75
    assert compute("accuracy", answers([" equivalent\n"], ["equivalent"], TWO)) == 100


def test_macro_f1_of_three():
    labels = ("entailment", "contradiction", "neutral")
    found = answers(
        ["entailment", "entailment", "junk", "neutral"], ["entailment", "contradiction", "neutral", "neutral"], labels
    )
    assert compute("macro_f1", found) == pytest.approx(100 * np.mean([2 / 3, 0, 2 / 3]))


def test_correlations():
    rng = np.random.default_rng(0)
    true, said = rng.normal(size=50), rng.normal(size=50)
    found = answers([f"{x:.6f}" for x in said], [f"{x:.6f}" for x in true])
    assert compute("pearson", found) == pytest.approx(100 * np.corrcoef(true, said)[0, 1], abs=1e-3)
    ranks = [np.argsort(np.argsort(values)) for values in (true, said)]
    assert compute("spearman", found) == pytest.approx(100 * np.corrcoef(*ranks)[0, 1], abs=1e-3)
    assert compute("pearson", answers(["3.2", "3.2"], ["1.0", "2.0"])) == 0  # always the same number says nothing
    junk = answers(["1.0", "two", "nan", "3.0"], ["1.0", "2.0", "0.0", "3.0"])
    same = answers(["1.0", "-1", "-1", "3.0"], ["1.0", "2.0", "0.0", "3.0"])
    assert compute("pearson", junk) == compute("pearson", same)


def official_normalise(s):
    """As the SQuAD evaluation describes it, step by step."""

    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text)

    def remove_punctuation(text):
        return text.translate(str.maketrans("", "", string.punctuation))

    return " ".join(remove_articles(remove_punctuation(s.lower())).split())


def official_f1(prediction, truth):
    said, true = official_normalise(prediction).split(), official_normalise(truth).split()
    common = sum((Counter(said) & Counter(true)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(true)
    return 2 * precision * recall / (precision + recall)


ADVERSARIAL = [
    "",
    " ",
    "the",
    "A an THE",
    "İstanbul",
    "ﬁne",
    "naïve café",
    "U.S.A.",
    "the theatre",
    "1,000",
    "“quoted”",
    "a.b",
    "ß SS",
    "日本 語",
    "an-other",
    "\u00a0x\u2003y",
]
texts = st.one_of(st.sampled_from(ADVERSARIAL), st.text(max_size=20))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=6))
def test_squad_by_its_description(rows):
    said, true = map(list, zip(*rows, strict=True))
    exact = np.mean([max(official_normalise(p) == official_normalise(t) for t in ts) for p, ts in rows])
    overlap = np.mean([max(official_f1(p, t) for t in ts) for p, ts in rows])
    assert compute("answer_exact_match", answers(said, true)) == pytest.approx(100 * exact)
    assert compute("answer_f1", answers(said, true)) == pytest.approx(100 * overlap)


def test_words():
    assert normalised("The  U.S.A., an (old) friend") == "usa old friend"
    assert word_f1("the big cat", "a big dog") == pytest.approx(0.5)
    assert word_f1("the", "the") == 0  # nothing is left to agree on


def test_a_question_is_right_if_all_its_answers_are():
    found = answers(
        ["True", "False", "True", "True"], ["True", "False", "True", "False"], ("False", "True"), ["1", "1", "2", "2"]
    )
    assert compute("question_exact_match", found) == 50
    assert compute("accuracy", found) == 75
    assert compute("f1", found) == pytest.approx(100 * 4 / 5)


def test_copies_of_a_query_count_once():
    """ReCoRD has an example per gold answer: two queries, one of them twice."""
    found = answers(
        ["Paris", "Paris", "Rome"], [["Paris", "France"], ["Paris", "France"], ["Oslo"]], (), ["a", "a", "b"]
    )
    assert compute("answer_exact_match", found) == 50
    assert compute("answer_f1", found) == 50


def test_rouge_on_known_pairs():
    found = answers(["the cat sat on the mat"], ["the cat lay on the mat"])
    assert compute("rouge1", found) == pytest.approx(100 * 5 / 6)
    assert compute("rouge2", found) == pytest.approx(100 * 3 / 5)
    assert compute("rougeLsum", found) == pytest.approx(100 * 5 / 6)
    mean = answers(["the cat", "dogs"], ["the cat", "birds"])
    assert compute("rouge1", mean) == 50  # a plain mean, no bootstrap
    split = answers(["first one . second two"], ["second two . first one"])
    assert compute("rougeLsum", split) == pytest.approx(100)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="2 predictions and 1 references"):
        answers(["a", "b"], ["a"])
    with pytest.raises(KeyError, match="no metric 'bleu'"):
        compute("bleu", answers(["a"], ["a"]))


@pytest.mark.parametrize("name", [name for name, task in registry().items() if task.protocol != "perplexity"])
def test_every_task_can_be_computed(name):
    task = registry()[name]
    assert set(task.metrics) <= set(METRICS)
    truth = list(task.labels[:2] or ["3.0", "4.5"]) * 2
    groups = ["a", "b", "c", "d"]
    perfect = TaskMetric(name).compute(predictions=truth, references=[[one] for one in truth], groups=groups)
    assert set(perfect) == set(task.reported) & set(METRICS) >= set(task.metrics)
    if name != "cb":  # two of three classes are there
        assert all(value == pytest.approx(100) for value in perfect.values()), perfect
    wrong = TaskMetric(name).compute(predictions=["no such"] * 4, references=[[one] for one in truth], groups=groups)
    assert all(np.isfinite(value) and value <= 0 for value in wrong.values()), wrong


def test_what_always_saying_the_same_would_score():
    found = majority(
        answers(["equivalent"] * 5, ["equivalent", "not_equivalent", "not_equivalent"] + ["equivalent"] * 2, TWO)
    )
    assert found.predictions == ["equivalent"] * 5
    assert compute("accuracy", found) == 60


def test_errors_are_over_groups():
    """TaskAnswers of a question are right or wrong together: six times as many of them say nothing more."""
    rng = np.random.default_rng(0)
    truth, right = rng.integers(0, 2, 200), rng.random(200) < 0.7
    said = np.where(right, truth, 1 - truth)

    def of(copies):
        repeated = [np.repeat(one, copies) for one in (said, truth)]
        texts = [[TWO[label] for label in one] for one in repeated]
        groups = [str(group) for group in np.repeat(np.arange(200), copies)]
        return TaskAnswers(texts[0], [[one] for one in texts[1]], groups, TWO)

    assert units(of(6)) == 200
    for metric in ("f1", "question_exact_match"):
        assert standard_error(metric, of(6)) == pytest.approx(standard_error(metric, of(1)), rel=0.15)
    accuracy = standard_error("accuracy", of(1))
    assert accuracy == pytest.approx(100 * np.std(right, ddof=1) / 200**0.5)


def test_evaluate_adds_batches():
    metric = TaskMetric("squad")
    for said, true in (("the cat", "cat"), ("dog", "cat")):
        metric.add_batch(predictions=[said], references=[[true]], groups=[said])
    assert metric.compute() == {"answer_f1": 50, "answer_exact_match": 50}
    with pytest.raises(InvalidCut, match="no task 'nothing'"):
        TaskMetric("nothing")
    with pytest.raises(InvalidCut, match="measured by perplexity"):
        TaskMetric("c4")
