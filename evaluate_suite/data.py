"""What a task is measured with: the rows of its dataset, and the texts that T5 makes of them.

Rows come from the Hub or, with a data root, from `<root>/<dataset id>/`, which is what `hf download <dataset id>
--repo-type dataset --local-dir ...` leaves: the files of a configuration's splits are what its README says or, without
one, those in a folder of the configuration's name that have the splits' names. Nothing is downloaded then.

Texts have T5's prefixes, field order and labels, and its answers are read back (Raffel et al. 2020, App. D, and the
preprocessors released with T5). Field names are those of the data sets on the Hub.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
import yaml

from evaluate_suite.registry import EvaluationTask
from pipeline_steps.errors import CorpusError, InvalidCut


_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_COMPRESSED = (".gz", ".zst")
_NOT_DATA = ("dataset_info", "dataset_dict", "state.json")  # what `datasets` writes beside its own
Row = Mapping[str, Any]
_UNKNOWN = "<unk>"  # target of a row without a label
_DETERMINERS = {"a", "an", "few", "her", "his", "each", "every", "many", "much", "my", "our", "some", "that", "the"}
_DETERMINERS |= {"their", "these", "this", "those", "which", "whose", "your"}


def load_split(task: EvaluationTask, split: str, data_root: str | None) -> Any:
    """Return the rows of a split, a `datasets.Dataset`.

    Raises:
        CorpusError: the data set, its configuration or the split is not there; says what is and what to do.
    """
    import datasets

    arguments = dataset_arguments(task.dataset, task.config, task.revision, data_root)
    try:
        return datasets.load_dataset(**arguments, split=split, trust_remote_code=False)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        where = task.dataset if data_root is None else f"{data_root}/{task.dataset}"
        raise CorpusError(
            f"{task.name} needs the split {split} of {where}, configuration {task.config}, which cannot be read "
            f"({reason}): download it again, or give another --data-root"
        ) from error


def dataset_arguments(dataset: str, config: str, revision: str, data_root: str | None) -> dict[str, Any]:
    """Return the arguments of `datasets.load_dataset` for one configuration.

    Raises:
        CorpusError: the data set is not under the data root.
    """
    if data_root is None:
        return {"path": dataset, "name": config or None, "revision": revision}
    folder = Path(data_root) / dataset
    if not folder.is_dir():
        raise CorpusError(
            f"{data_root} holds no {dataset}: hf download {dataset} --repo-type dataset --local-dir {folder}"
        )
    files = _by_readme(folder, config) or _by_file_names(folder, config)
    builders = {_builder(file) for some in files.values() for file in some}
    if len(builders) != 1:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise CorpusError(
            f"{folder} has no README.md that says where {config or 'its data'} is, and no {config or 'data'}/ with a "
            f"file for each split ({', '.join(_BUILDERS)}): it has {there}"
        )
    # Not by the folder's name: `datasets` would take what it has cached of another folder with the same README
    return {"path": builders.pop(), "data_files": files}


def data_digest(task: EvaluationTask, data_root: str | None) -> str:
    """Return the digest of the files a task is measured with, or the name that the Hub knows them by."""
    if data_root is None:
        return f"{task.dataset}@{task.revision}"
    folder = Path(data_root) / task.dataset
    digest = xxhash.xxh3_64()
    for part in task.parts or (task.config,):
        place = folder / part if (folder / part).is_dir() else folder
        for file in sorted(path for path in place.rglob("*") if path.is_file()):
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class TextExample:
    """A row of a task as text.

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


def to_text(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Return the examples of a row, which are several where it holds several answers.

    Raises:
        InvalidCut: the row lacks a field, which is named beside those it has.
    """
    try:
        return _FORMATS[task.format](task, row)
    except KeyError as error:
        raise InvalidCut(f"a row of {task.name} has no field {error}: it has {', '.join(map(str, row))}") from error


def read_back(task: EvaluationTask, prediction: str, example: TextExample) -> str:
    """Return what a prediction is compared as: itself, but for WSC whether it names what the pronoun may stand for."""
    if task.format != "wsc":
        return prediction.strip()
    said, named = _content_words(prediction), _content_words(example.target)
    if not said:
        return ""  # no answer is neither
    if ("'" in prediction) != ("'" in example.target):
        return "False"  # "Bob" is not "Bob's hat"
    return str(said <= named or named <= said)


# -- rows from files ---------------------------------------------------------------------------------------------


def _by_readme(folder: Path, config: str) -> dict[str, list[str]]:
    """Return the files of each split as the README's metadata has them, {} if it does not know the configuration."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        metadata = (yaml.load(front[1], yaml.CSafeLoader) if front else None) or {}
    except yaml.YAMLError as error:
        raise CorpusError(f"the metadata of {readme} cannot be read ({error.__class__.__name__}): mend it") from error
    for entry in metadata.get("configs") or []:
        if entry.get("config_name", "default") == (config or "default"):
            given = entry.get("data_files", {})
            pairs = [(one["split"], one["path"]) for one in given] if isinstance(given, list) else [("train", given)]
            patterns = {split: [paths] if isinstance(paths, str) else list(paths) for split, paths in pairs}
            found = {split: sorted(map(str, _glob(folder, some))) for split, some in patterns.items()}
            return {split: files for split, files in found.items() if files}
    return {}


def _by_file_names(folder: Path, config: str) -> dict[str, list[str]]:
    """Return the files of each split by their names: <config>/<split>.jsonl or <split>-00000-of-00001.parquet.

    They may be compressed. Where there is but one configuration, its files may be in data/ or the folder itself. A
    name that ends in train is the split train.
    """
    for place in (folder / config, folder / "data", folder):
        splits: dict[str, list[str]] = {}
        for file in _glob(place, ["*.*"]):
            name = re.sub(r"-\d+-of-\d+$", "", file.name.split(".")[0])
            splits.setdefault(re.sub(r"^.*[_-](train)$", r"\1", name), []).append(str(file))
        if splits:
            return splits
    return {}


def _glob(folder: Path, patterns: list[str]) -> list[Path]:
    found = (path for one in patterns for path in folder.glob(one) if not path.name.startswith(_NOT_DATA))
    return sorted(path for path in found if _builder(path.name))


def _builder(name: str) -> str:
    """Return the builder of `datasets` for a file's name; "" if there is none."""
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return _BUILDERS.get(Path(name).suffix, "")


# -- rows as texts ------------------------------------------------------------------------------------------------


def _glue(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write <task> <field>: <text> ..., and the label in words."""
    text = " ".join([task.prefix, *(f"{name}: {row[name]}" for name in task.fields)])
    label = int(row["label"])
    target = task.labels[label] if label >= 0 else _UNKNOWN
    return [TextExample(text, target, (target,))]


def _stsb(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write the similarity in steps of 0.2; measured is against the label, where T5 takes the rounded one."""
    text = f"stsb sentence1: {row['sentence1']} sentence2: {row['sentence2']}"
    true = float(row["label"])
    return [TextExample(text, f"{round(5 * true) / 5:.1f}", (repr(true),))]


def _multirc(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write a row's one answer; the answers of one question are a group."""
    text = f"multirc question: {row['question']} answer: {row['answer']} paragraph: {row['paragraph']}"
    target = task.labels[int(row["label"])]
    text = re.sub("</?b>", "", text.replace("<br>", " "))
    return [TextExample(text, target, (target,), f"{row['idx']['paragraph']}-{row['idx']['question']}")]


def _record(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write an example for every gold answer; all of one query are a group."""
    passage = re.sub(r"(\.|\?|\!|\"|\')\n@highlight\n", r"\1 ", row["passage"])
    passage = re.sub(r"\n@highlight\n", ". ", passage)
    entities = ", ".join(row["entities"])
    text = f"record query: {row['query']} entities: {entities} passage: {passage}"
    answers = tuple(row["answers"])
    group = f"{row['idx']['passage']}-{row['idx']['query']}"
    return [TextExample(text, answer, answers, group) for answer in answers or (_UNKNOWN,)]


def _wic(task: EvaluationTask, row: Row) -> list[TextExample]:
    text = f"wic sentence1: {row['sentence1']} sentence2: {row['sentence2']} word: {row['word']}"
    target = task.labels[int(row["label"])]
    return [TextExample(text, target, (target,))]


def _wsc(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Put the pronoun between stars. The target is a noun phrase: only rows that name the right one are trained on."""
    words, pronoun = row["text"].split(" "), row["span2_text"]
    # One row counts its words otherwise: the pronoun is the nearest place that has it
    places = [place for place, word in enumerate(words) if pronoun in word]
    if not places:
        raise InvalidCut(f"a row of {task.name} does not hold its pronoun {pronoun!r}: {row['text']!r}")
    place = min(places, key=lambda place: abs(place - int(row["span2_index"])))
    words[place] = words[place].replace(pronoun, f"*{pronoun}*", 1)
    right = str(bool(row["label"]))
    return [TextExample(f"wsc: {' '.join(words)}", row["span1_text"], (right,), train=right == "True")]


def _summarize(task: EvaluationTask, row: Row) -> list[TextExample]:
    return [TextExample(f"summarize: {row['article']}", row["highlights"], (row["highlights"],))]


def _squad(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write question and context with punctuation that stands alone, as T5 does."""
    answers = tuple(_spaced(answer) for answer in row["answers"]["text"])
    text = f"question: {_spaced(row['question'])} context: {_spaced(row['context'])}"
    return [TextExample(text, answers[0] if answers else _UNKNOWN, answers or (_UNKNOWN,))]


def _dpr(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Write Rahman and Ng's pronouns in the form of WSC, as released with T5; they are only trained on."""
    marked = re.sub(rf" ({re.escape(row['pronoun'])})([ .,])", r" *\1*\2", row["sentence"], count=1)
    answer = row["candidates"][int(row["label"])]
    return [TextExample(f"wsc: {marked}", answer, ("True",))]


def _pair(task: EvaluationTask, row: Row) -> list[TextExample]:
    """Take the texts as they are, as FLAN has them."""
    return [TextExample(row["inputs"], row["targets"], (row["targets"],))]


_FORMATS: dict[str, Callable[[EvaluationTask, Row], list[TextExample]]] = {
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
    """Put white space around every mark of ASCII punctuation."""
    return " ".join(re.sub(f"([{re.escape(string.punctuation)}])", r" \1 ", text).split())


def _content_words(phrase: str) -> set[str]:
    return {word for word in phrase.strip().lower().split(" ") if word and word not in _DETERMINERS}
