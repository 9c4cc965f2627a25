"""Evaluation items: the questions of the tasks' scored rows with their right answers, to be looked for in a corpus.

    EvaluationItems ──> pipeline_steps.EvaluationIndex

What a reading task asks about is not an item: passages of Wikipedia and newspapers are in a crawl in their own right,
and say nothing of the questions. Instructions, exemplars and wrong answers are not items either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from evaluate_suite.data import Row, load_split
from evaluate_suite.registry import EvaluationTask, tasks_with_questions
from pipeline_steps.credentials import NoCredentials
from pipeline_steps.engines.models import require
from pipeline_steps.errors import CorpusError, InvalidCut, WinnowError
from pipeline_steps.scorers.contamination import ANSWER, EVALUATION
from pipeline_steps.terminal import one_line


Item = tuple[str, str]
"""A question and its answer, "" where the answer is no text of its own, such as yes or entailment."""
_NO_ITEMS = ("passage", "paragraph", "choice1", "choice2")  # fields of passages, and of answers
_PASSAGE_OF = {"qnli": "sentence"}  # a sentence of such a passage
_FIELDS = {  # of the formats with fields of their own
    "multirc": ("question",),
    "record": ("query",),
    "wic": ("sentence1", "sentence2"),
    "wsc": ("text",),
    "summarize": ("highlights",),
    "squad": ("question",),
}
_QUESTIONS = (  # columns of few-shot data sets that make up the question, the first that are there
    ("Body", "Question"),
    ("body", "question"),
    ("context", "question"),
    ("question",),
    ("question_stem",),
    ("ctx_a", "ctx_b"),
    ("goal",),
    ("input",),
    ("query",),
    ("sentence",),
    ("context_options",),
    ("context",),
)
_ANSWERS = ("answer", "Answer", "target", "continuation")  # columns of an answer that is a text


class EvaluationItems(NoCredentials, PipelineStep):
    """Yields the items of tasks, as documents that EvaluationIndex takes. Documents of steps before pass through.

    Args:
        tasks: names of tasks or suites.
        data_root: folder of data sets laid out as on the Hub; None: the Hub.

    Raises:
        InvalidCut: as `tasks_with_questions`; or a row holds no question in any column that is known.
        CorpusError: the data cannot be read.
    """

    type = "📖 - READER"
    name = "🦠 Evaluation items"

    def __init__(self, tasks: Sequence[str], data_root: str | None = None) -> None:
        super().__init__()
        self.tasks, self.data_root = list(tasks), data_root
        tasks_with_questions(self.tasks)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield the items of every task, those of a pair of sentences one by one."""
        yield from data or ()
        for task in tasks_with_questions(self.tasks):
            for part in task.parts or (task.config,):
                for number, row in enumerate(_rows(task, part, self.data_root)):
                    for place, (question, answer) in enumerate(_checked_items(task, part, number, row)):
                        name = f"{task.name}/{part}/{number}/{place}"
                        yield Document(question, name, metadata={EVALUATION: task.name, ANSWER: answer})


class NamedItems(PipelineStep):
    """Yields the documents of a reader as items of one evaluation set, after those of steps before.

    Args:
        name: of the set.
        reader: a step that reads documents whose texts are questions; `answer` in their metadata is the answer.
    """

    type = "📖 - READER"
    name = "🦠 Named items"

    def __init__(self, name: str, reader: PipelineStep) -> None:
        super().__init__()
        self.evaluation, self.reader = name, reader

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Yield what came before, then all documents of the reader."""
        yield from data or ()
        for doc in self.reader.run(None, 0, 1):
            doc.metadata[EVALUATION] = self.evaluation
            yield doc


def _checked_items(task: EvaluationTask, part: str, number: int, row: Row) -> list[Item]:
    """Return the items of a row. Raises CorpusError if it lacks a column, or its label is none of its options."""
    try:
        return list(items_of(task, row))
    except WinnowError:
        raise
    except (KeyError, IndexError, ValueError, TypeError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else one_line(str(error))
        raise CorpusError(
            f"{task.name}, {part}, row {number + 1:,}: its question or answer cannot be told ({reason}); its columns "
            f"are {', '.join(map(str, row))}. Download the data set again, or give another --data-root"
        ) from error


def items_of(task: EvaluationTask, row: Row) -> Iterator[Item]:
    """Yield the questions and answers of a row; InvalidCut names the columns of a row that has no known question."""
    if task.protocol == "finetune":
        for name in _FIELDS.get(task.format, task.fields):
            if name not in _NO_ITEMS and name != _PASSAGE_OF.get(task.name):
                yield str(row[name]), _tuned_answer(row)
        return
    columns = next((names for names in _QUESTIONS if all(name in row for name in names)), None)
    if columns is None:
        raise InvalidCut(f"a row of {task.name} holds no question: its columns are {', '.join(map(str, row))}")
    answer = _answer(row)
    if columns == ("context_options",):  # beginnings, one of which goes on as the answer does
        yield from (
            (str(text), answer if number == row["gold"] else "") for number, text in enumerate(row[columns[0]])
        )
        return
    if "option1" in row:  # whose blank, which is no word, stands for the answer
        yield str(row[columns[0]]).replace("_", answer), ""
    # UnifiedQA writes line breaks out
    yield " ".join(str(row[name]) for name in columns).replace("\\n", "\n"), answer


def _tuned_answer(row: Row) -> str:
    """Return the answer of a fine-tuned task whose answers are texts: SQuAD's, and MultiRC's right ones."""
    answers = row.get("answers")
    if isinstance(answers, dict):
        return str(next(iter(answers["text"]), ""))
    return str(row["answer"]) if "answer" in row and row.get("label") else ""


def _answer(row: Row) -> str:
    """Return the right answer of a few-shot row as a text; "" if it is a label."""
    choices = row.get("choices") or row.get("endings")
    if isinstance(choices, dict):
        return str(choices["text"][list(choices["label"]).index(row["answerKey"])])
    if choices:
        right = int(next((row[name] for name in ("gold", "answer", "label") if name in row), -1))
        if right < 0:
            raise IndexError("no option is said to be the right one")
        return str(choices[right])
    for option in _options(row):
        if option in row:
            return str(row[option])
    found: Any = next((row[name] for name in _ANSWERS if name in row), "")
    return found if isinstance(found, str) else ""


def _options(row: Row) -> Iterator[str]:
    """Yield the column of the right one of options that have a column each."""
    if "sol1" in row:
        yield f"sol{int(row['label']) + 1}"
    if "answerA" in row:
        yield f"answer{'ABC'[int(row['label']) - 1]}"
    if "option1" in row:
        yield f"option{row['answer']}"


def _rows(task: EvaluationTask, part: str, data_root: str | None) -> Any:
    """Return the rows that a task is scored on, of one of its parts; raises as `load_split`."""
    if task.protocol != "few_shot":
        return load_split(task, task.split, data_root)
    require("lm_eval", "eval")
    import datasets

    from evaluate_suite.few_shot import harness_config

    config = harness_config(task, part, data_root)  # which knows the files that are not on the Hub
    path, name, options = (config.get(key) for key in ("dataset_path", "dataset_name", "dataset_kwargs"))
    options = {key: value for key, value in (options or {}).items() if key != "trust_remote_code"}
    try:
        return datasets.load_dataset(path, name, split=task.split, **options, trust_remote_code=False)
    except (ValueError, OSError, TypeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CorpusError(
            f"{task.name} needs the split {task.split} of {task.dataset}, which cannot be read ({reason}): download "
            "it again, or give another --data-root"
        ) from error
