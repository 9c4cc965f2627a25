"""Rows of a dataset as T5's text-to-text examples: its prefixes, its field order, its labels, its answers read back.

Raffel et al. 2020, App. D, and the preprocessors released with T5. Field names are those of the data sets on the Hub.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from evaluate_suite.registry import Task
from pipeline_steps.errors import InvalidCut


Row = Mapping[str, Any]
_UNKNOWN = "<unk>"  # target of a row without a label
_DETERMINERS = {"a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the"}
_DETERMINERS |= {"their", "these", "this", "those", "which", "whose", "your"}


@dataclass(frozen=True)
class Example:
    """One row in text.

    Attributes:
        input: what the model reads.
        target: what it is trained to say.
        references: all texts that are right.
        group: examples of one name belong together; empty if each stands alone.
        train: whether it may be trained on.
    """

    input: str
    target: str
    references: tuple[str, ...]
    group: str = ""
    train: bool = True


def to_text(task: Task, row: Row) -> list[Example]:
    """The examples of a row: several where it holds several answers.

    Raises:
        InvalidCut: the row lacks a field; names it and those it has.
    """
    try:
        return _FORMATS[task.format](task, row)
    except KeyError as error:
        raise InvalidCut(f"a row of {task.name} has no field {error}: it has {', '.join(map(str, row))}") from error


def read_back(task: Task, prediction: str, example: Example) -> str:
    """What a prediction is compared as: itself, but for WSC whether it names what the pronoun may stand for."""
    if task.format != "wsc":
        return prediction.strip()
    said, named = _content_words(prediction), _content_words(example.target)
    if not said:
        return ""  # no answer is neither
    if ("'" in prediction) != ("'" in example.target):
        return "False"  # "Bob" is not "Bob's hat"
    return str(said <= named or named <= said)


def _glue(task: Task, row: Row) -> list[Example]:
    """<task> <field>: <text> ..., a label in words."""
    text = " ".join([task.prefix, *(f"{name}: {row[name]}" for name in task.fields)])
    label = int(row["label"])
    target = task.labels[label] if label >= 0 else _UNKNOWN
    return [Example(text, target, (target,))]


def _stsb(task: Task, row: Row) -> list[Example]:
    """The similarity in steps of 0.2; measured against the label as it is, where T5 takes the rounded one."""
    text = f"stsb sentence1: {row['sentence1']} sentence2: {row['sentence2']}"
    true = float(row["label"])
    return [Example(text, f"{round(5 * true) / 5:.1f}", (repr(true),))]


def _multirc(task: Task, row: Row) -> list[Example]:
    """One answer a row; those of one question are a group."""
    text = f"multirc question: {row['question']} answer: {row['answer']} paragraph: {row['paragraph']}"
    target = task.labels[int(row["label"])]
    text = re.sub("</?b>", "", text.replace("<br>", " "))
    return [Example(text, target, (target,), f"{row['idx']['paragraph']}-{row['idx']['question']}")]


def _record(task: Task, row: Row) -> list[Example]:
    """An example for every gold answer, all of one query in a group."""
    passage = re.sub(r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 ", row["passage"])
    passage = re.sub(r"\n@highlight\n", ". ", passage)
    entities = ", ".join(row["entities"])
    text = f"record query: {row['query']} entities: {entities} passage: {passage}"
    answers = tuple(row["answers"])
    group = f"{row['idx']['passage']}-{row['idx']['query']}"
    return [Example(text, answer, answers, group) for answer in answers or (_UNKNOWN,)]


def _wic(task: Task, row: Row) -> list[Example]:
    text = f"wic sentence1: {row['sentence1']} sentence2: {row['sentence2']} word: {row['word']}"
    target = task.labels[int(row["label"])]
    return [Example(text, target, (target,))]


def _wsc(task: Task, row: Row) -> list[Example]:
    """The pronoun between stars; the target is a noun phrase, so only rows that name the right one are trained on."""
    words, pronoun = row["text"].split(" "), row["span2_text"]
    # One row counts its words otherwise: the pronoun is the nearest place that has it
    places = [place for place, word in enumerate(words) if pronoun in word]
    if not places:
        raise InvalidCut(f"a row of {task.name} does not hold its pronoun {pronoun!r}: {row['text']!r}")
    place = min(places, key=lambda place: abs(place - int(row["span2_index"])))
    words[place] = words[place].replace(pronoun, f"*{pronoun}*", 1)
    right = str(bool(row["label"]))
    return [Example(f"wsc: {' '.join(words)}", row["span1_text"], (right,), train=right == "True")]


def _summarize(task: Task, row: Row) -> list[Example]:
    return [Example(f"summarize: {row['article']}", row["highlights"], (row["highlights"],))]


def _squad(task: Task, row: Row) -> list[Example]:
    """Punctuation stands alone, as T5 has it."""
    answers = tuple(_spaced(answer) for answer in row["answers"]["text"])
    text = f"question: {_spaced(row['question'])} context: {_spaced(row['context'])}"
    return [Example(text, answers[0] if answers else _UNKNOWN, answers or (_UNKNOWN,))]


def _dpr(task: Task, row: Row) -> list[Example]:
    """Rahman and Ng's pronouns, in the form of WSC (released with T5): to train on."""
    marked = re.sub(rf" ({re.escape(row['pronoun'])})([ .,])", r" *\1*\2", row["sentence"], count=1)
    answer = row["candidates"][int(row["label"])]
    return [Example(f"wsc: {marked}", answer, ("True",))]


def _pair(task: Task, row: Row) -> list[Example]:
    """Texts as they are, as FLAN has them."""
    return [Example(row["inputs"], row["targets"], (row["targets"],))]


_FORMATS: dict[str, Callable[[Task, Row], list[Example]]] = {
    "glue": _glue,
    "stsb": _stsb,
    "multirc": _multirc,
    "record": _record,
    "wic": _wic,
    "wsc": _wsc,
    "summarize": _summarize,
    "squad": _squad,
    "dpr": _dpr,
    "pair": _pair,
}


def _spaced(text: str) -> str:
    """White space around every mark of ASCII punctuation."""
    return " ".join(re.sub(f"([{re.escape(string.punctuation)}])", r" \1 ", text).split())


def _content_words(phrase: str) -> set[str]:
    return {word for word in phrase.strip().lower().split(" ") if word and word not in _DETERMINERS}
