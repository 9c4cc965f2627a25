"""Every scored task has items: its questions and right answers, and no passage, option or instruction."""

import pytest

from evaluate_suite.items import EvaluationItems, NamedItems, items_of
from evaluate_suite.registry import all_tasks, tasks_with_questions
from pipeline_steps import Documents
from pipeline_steps.errors import CorpusError, InvalidCut
from pipeline_steps.scorers.contamination import ANSWER, EVALUATION


def test_every_scored_task_has_items(data_root):
    tasks = [task for task in all_tasks().values() if task.scored and task.protocol != "perplexity"]
    found = {}
    for item in EvaluationItems([task.name for task in tasks], str(data_root)).run():
        found.setdefault(item.metadata[EVALUATION], []).append((item.text, item.metadata[ANSWER]))
        assert item.text.strip()
    assert found.keys() == {task.name for task in tasks}
    assert found["anatomy"] == [
        (f"Who slept {n} hours?", ["a fox", "an owl", "two mice", "the hare"][n % 4]) for n in range(5, 11)
    ]
    assert found["arc_easy"] == [("Who sleeps?", "an owl")] * 3
    assert found["mrpc"][:2] == [
        ("a fox slept in a barn for 2 hours (sentence1)", ""),
        ("a fox slept in a barn for 2 hours (sentence2)", ""),
    ]
    assert found["squad"][0] == ("Who slept?", "a fox")
    assert found["winogrande"][:2] == [
        ("The fox saw the owl 0 times because the fox was hungry.", ""),
        ("The fox saw the owl 0 times because _ was hungry.", "the fox"),
    ]


ROWS = {
    "boolq": ({"question": "is it", "passage": "a page", "label": 1}, [("is it", "")]),
    "qa_boolq": ({"question": "is it", "passage": "a page", "label": 1}, [("is it", "")]),
    "qnli": ({"question": "who?", "sentence": "a page", "label": 1}, [("who?", "")]),
    "copa": (
        {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 0},
        [("p", ""), ("cause", "")],
    ),
    "multirc": ({"question": "q", "answer": "a", "paragraph": "p", "label": 1}, [("q", "a")]),
    "cnn_dailymail": ({"article": "page", "highlights": "h"}, [("h", "")]),
    "gsm8k": ({"question": "q", "answer": "a\n#### 1"}, [("q", "a\n#### 1")]),
    "svamp": ({"Body": "b", "Question": "q", "Answer": "1.0"}, [("b q", "1.0")]),
    "strategyqa": ({"question": "q", "answer": True}, [("q", "")]),
    "unifiedqa": ({"question": "q \\n (A) a (B) b", "answer": "b"}, [("q \n (A) a (B) b", "b")]),
    "hellaswag": ({"ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": "1"}, [("a b", "y")]),
    "piqa": ({"goal": "g", "sol1": "x", "sol2": "y", "label": 1}, [("g", "y")]),
    "social_iqa": (
        {"context": "c", "question": "q", "answerA": "x", "answerB": "y", "answerC": "z", "label": "3"},
        [("c q", "z")],
    ),
    "openbookqa": (
        {"question_stem": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"},
        [("q", "y")],
    ),
    "core_winograd": (
        {"context_options": ["one", "two"], "continuation": "goes on", "gold": 1},
        [("one", ""), ("two", "goes on")],
    ),
    "core_copa": ({"query": "q", "choices": ["x", "y"], "gold": 0}, [("q", "x")]),
    "core_jeopardy": ({"context": "c", "continuation": "d"}, [("c", "d")]),
}


@pytest.mark.parametrize("name", ROWS)
def test_questions_with_right_answers_and_no_passages(name):
    row, items = ROWS[name]
    assert list(items_of(all_tasks()[name], row)) == items


def test_tasks_without_questions_are_refused():
    assert [task.name for task in tasks_with_questions(["qa"])] == [
        "unifiedqa",
        "qa_boolq",
        "arc_easy",
        "arc_challenge",
    ]
    assert "ax" not in {task.name for task in tasks_with_questions(["glue"])}
    for name in ("ax", "c4_perplexity", "hq_perplexity"):
        with pytest.raises(InvalidCut, match=f"{name} has no scored questions"):
            tasks_with_questions(["mmlu", name])
    with pytest.raises(InvalidCut, match="did you mean mmlu"):
        EvaluationItems(["mmul"])


def test_rows_that_hold_no_question_are_named(tmp_path):
    with pytest.raises(InvalidCut, match="a row of piqa holds no question: its columns are Goal, label"):
        list(items_of(all_tasks()["piqa"], {"Goal": "g", "label": 0}))
    with pytest.raises(CorpusError, match="mmlu"):
        list(EvaluationItems(["anatomy"], str(tmp_path)).run())


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("arc_easy", {"question": "q", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": ""}, "not in list"),
        ("hellaswag", {"ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": ""}, "invalid literal"),
        ("hellaswag", {"ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": "-1"}, "no option is said"),
        ("hellaswag", {"ctx_a": "a", "ctx_b": "b", "endings": ["x", "y"], "label": "2"}, "out of range"),
        ("core_copa", {"query": "q", "choices": ["a"]}, "no option is said"),
        ("boolq", {"passage": "p", "label": 1}, "there is no 'question'"),
    ],
)
def test_rows_whose_answer_cannot_be_told_are_named(monkeypatch, name, row, said):
    monkeypatch.setattr("evaluate_suite.items._rows", lambda *_: [row])
    with pytest.raises(CorpusError, match=f"{name}, .*row 1: its question or answer cannot be told.*{said}"):
        list(EvaluationItems([name]).run())


def test_named_items_follow_what_came_before():
    from datatrove.data import Document

    reader = Documents([Document("q1", "1", metadata={"answer": "a"}), Document("q2", "2")])
    before = Document("q0", "0", metadata={EVALUATION: "first"})
    found = list(NamedItems("mine", reader).run(iter([before])))
    assert [(one.text, one.metadata[EVALUATION], one.metadata.get(ANSWER)) for one in found] == [
        ("q0", "first", None),
        ("q1", "mine", "a"),
        ("q2", "mine", None),
    ]
