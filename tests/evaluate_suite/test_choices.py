"""Metrics of ranked answers, against a plain computation question by question."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from evaluate_suite.choices import METRICS, Choices, check_metrics, estimate, packed
from pipeline_steps.errors import InvalidCut


COLUMNS = ("log_likelihood", "characters", "bytes", "tokens", "greedy", "right", "unconditional")


@st.composite
def question(draw):
    """The choices of a question, as rows of `COLUMNS`; one or several are right."""
    count = draw(st.integers(2, 5))
    right = draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    rows = []
    for place in range(count):
        said, alone = draw(st.floats(-80, -1e-3)), draw(st.floats(-80, -1e-3))
        characters, tokens = draw(st.integers(2, 60)), draw(st.integers(1, 20))
        more = draw(st.integers(0, 9))
        rows.append((said, characters, characters + more, tokens, draw(st.booleans()), place in right, alone))
    return rows


QUESTIONS = st.lists(question(), min_size=1, max_size=6)


def stored(questions):
    flat = [row for rows in questions for row in rows]
    columns = {name: [row[place] for row in flat] for place, name in enumerate(COLUMNS)}
    columns |= {name: [int(value) for value in columns[name]] for name in ("greedy", "right")}
    columns["choices"] = [len(rows) for rows in questions]
    return {name: packed(values) for name, values in columns.items()} | {"delimiter": " "}


def plainly(rows):
    """All metrics of one question, from their definitions, with nothing but `math`."""

    def hit(scores):
        return float(rows[scores.index(max(scores))][5])

    def share(scores):
        return sum(math.exp(s) for s, row in zip(scores, rows, strict=True) if row[5]) / sum(map(math.exp, scores))

    said = [row[0] for row in rows]
    each = [math.exp(s) / sum(map(math.exp, said)) for s in said]
    best_right = max(p for p, row in zip(each, rows, strict=True) if row[5])
    best_wrong = max(p for p, row in zip(each, rows, strict=True) if not row[5])
    return {
        "accuracy": hit(said),
        "accuracy_per_character": hit([row[0] / row[1] for row in rows]),
        "accuracy_per_byte": hit([row[0] / row[2] for row in rows]),
        "accuracy_per_token": hit([row[0] / row[3] for row in rows]),
        "accuracy_unconditional": hit([row[0] - row[6] for row in rows]),
        "acc_norm": hit([row[0] / (row[1] - 1) for row in rows]),
        "acc_bytes": hit([row[0] / (row[2] - 1) for row in rows]),
        "exact_match": float(any(row[4] and row[5] for row in rows)),
        "bits_per_byte": min(-row[0] / math.log(2) / row[2] for row in rows if row[5]),
        "choice_probability": share(said),
        "choice_probability_per_character": share([row[0] / row[1] for row in rows]),
        "margin": best_right - best_wrong,
    }


@given(QUESTIONS)
def test_every_metric_is_its_definition(questions):
    choices, expected = Choices(stored(questions)), [plainly(rows) for rows in questions]
    assert set(expected[0]) == set(METRICS)
    for name, metric in METRICS.items():
        assert metric(choices) == pytest.approx([one[name] for one in expected], rel=1e-9, abs=1e-12), name


def is_clear(rows):
    """Whether no two choices have equal scores: the first of them would be chosen."""
    scores = [[r[0], r[0] - r[6], *(r[0] / length for length in (r[1], r[2], r[3], r[1] - 1, r[2] - 1))] for r in rows]
    return all(len(set(column)) == len(rows) for column in zip(*scores, strict=True))


@given(QUESTIONS, st.randoms(use_true_random=False), st.floats(-30, 30))
def test_neither_order_nor_a_constant_matters(questions, draw, constant):
    assume(all(map(is_clear, questions)))
    before = Choices(stored(questions))
    shuffled = Choices(stored([draw.sample(rows, len(rows)) for rows in questions]))
    raised = Choices(stored([[(row[0] + constant, *row[1:]) for row in rows] for rows in questions]))
    for name, metric in METRICS.items():
        assert metric(shuffled) == pytest.approx(metric(before), rel=1e-9, abs=1e-12), name
    for name in ("choice_probability", "margin"):
        assert METRICS[name](raised) == pytest.approx(METRICS[name](before), rel=1e-6, abs=1e-9)


@given(QUESTIONS, st.floats(allow_nan=False))
def test_kept_to_the_bit(questions, said):
    questions[0][0] = (said, *questions[0][0][1:])
    choices = Choices(json.loads(json.dumps(stored(questions))))
    kept = choices.log_likelihood_QK[choices.there_QK]
    assert kept.tobytes() == np.array([row[0] for rows in questions for row in rows]).tobytes()


@given(QUESTIONS)
def test_probabilities_of_guessing_are_one_in_k(questions):
    """If each choice in turn is the right one, the mean share is 1/k, whatever the model says: that is chance."""
    rows = [(*row[:5], False, row[6]) for row in questions[0]]
    turns = [[(*row[:5], place == turn, row[6]) for place, row in enumerate(rows)] for turn in range(len(rows))]
    for name in ("accuracy", "choice_probability", "choice_probability_per_character"):
        assert METRICS[name](Choices(stored(turns))).mean() == pytest.approx(1 / len(rows))


def test_the_mean_and_its_error():
    rows = [[(-1.0, 2, 2, 1, True, right, -1.0), (-2.0, 2, 2, 1, False, not right, -1.0)] for right in (1, 1, 0, 1)]
    value, stderr, n = estimate(Choices(stored(rows)), "accuracy")
    assert (value, n) == (75.0, 4)
    assert stderr == pytest.approx(100 * np.std([1, 1, 0, 1], ddof=1) / 2)
    bits = estimate(Choices(stored(rows)), "bits_per_byte")
    assert bits[0] == pytest.approx((3 * 0.5 + 1.0) / 4 / math.log(2))
    assert estimate(Choices(stored(rows[:1])), "accuracy") == (100.0, 0.0, 1)


def test_what_was_not_measured_is_said():
    columns = stored([[(-1.0, 2, 2, 0, True, True, -1.0), (-2.0, 2, 2, 0, False, False, -1.0)]])
    with pytest.raises(InvalidCut, match="answer_length"):
        estimate(Choices(columns), "accuracy_per_token")
    del columns["unconditional"]
    with pytest.raises(InvalidCut, match="without their questions"):
        estimate(Choices(columns), "accuracy_unconditional")
    with pytest.raises(InvalidCut, match=r"no metric 'acuracy'.*did you mean accuracy\?"):
        check_metrics(["acuracy"])
