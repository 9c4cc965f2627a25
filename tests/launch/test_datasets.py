"""The writing of datasets, in this process: the same files for any number of tasks, whatever is killed or damaged."""

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import document
from damage import damaged
from dataset_files import files_of, load, made_of, without_output

from launch.datasets import parts, publish, unfinished
from launch.datasets.card import size_category
from launch.datasets.publish import HubDataset, LocalFolder, RemoteFolder, destination, is_published
from launch.datasets.rows import groups_left, write_files
from launch.datasets.settings import DatasetSettings
from launch.datasets.unfinished import begin
from pipeline_steps import Cut, MetadataScorer
from pipeline_steps.errors import CorpusError, StoreDamaged, StoreIncomplete, StoreMismatch, WinnowError
from pipeline_steps.readers.corpus import list_corpus
from pipeline_steps.scorers.keys import KeysScorer


def scored(corpus, store, key=None):
    """A score store of a corpus: of a number in its rows, or for draws by chance."""
    data = None
    for step in [
        *list_corpus(str(corpus)).reader(f"{store}.txt"),
        MetadataScorer(store, key) if key else KeysScorer(store),
    ]:
        data = step.run(data, 0, 1)
    for _ in data:
        pass
    return store


def settings_of(corpus, output, cut, **more):
    return DatasetSettings(corpus=str(corpus), output=str(output), cut=cut, **more)


def written(settings, store, tasks=1, publish=publish.publish):
    """Everything that is not done yet, as a runner would do it."""
    if (there := is_published(settings)) is not None:
        return there
    work = Path(f"{settings.output}.work")
    begin(settings, store, work)
    for step in ("rows", "parquet"):
        for task in {group % tasks for group in groups_left(work, step)}:
            write_files(work, step, task, tasks)
        assert groups_left(work, step) == []
    return publish(work)


def everything(corpus, output, tasks=1, **more):
    """All of a corpus as a dataset."""
    return written(
        settings_of(corpus, output, Cut("random", rate=1.0), **more), scored(corpus, f"{output}.scores"), tasks
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus of five files, the last of which has a column more, and its scores."""
    folder = tmp_path_factory.mktemp("datasets")
    (folder / "corpus").mkdir()
    for name, start in zip("abcde", range(0, 100, 20), strict=True):
        more = {"late": [1]} if name == "e" else {}
        rows = [document(number) | {"n": number * 7 % 100, "none": None} | more for number in range(start, start + 20)]
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored(folder / "corpus", str(folder / "scores"), "n")
    return folder


@pytest.fixture
def settings(folder, tmp_path):
    return settings_of(
        folder / "corpus", tmp_path / "kept", Cut("top", rate=0.4), scores=str(folder / "scores"), score_column="s"
    )


class Killed(Exception):
    pass


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_the_same_files_for_any_number_of_tasks_killed_at_any_time(folder, settings, tmp_path, monkeypatch, format):
    monkeypatch.setattr(unfinished, "GROUP_BYTES", 1)  # a file of the dataset for each of the corpus
    found, store = [], str(folder / "scores")
    for tasks in (1, 2, 3, 7):
        one = replace(settings, output=str(tmp_path / f"of-{tasks}"), format=format)
        written(one, store, tasks)
        found.append(without_output(files_of(one.output)))
    assert len([name for name in found[0] if name.startswith("data/")]) == 5
    assert found[1:] == found[:1] * 3
    one = replace(settings, output=str(tmp_path / "killed"), format=format)
    really, left = parts.os.replace, [0]

    def replace_or_die(*paths):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        really(*paths)

    monkeypatch.setattr(parts.os, "replace", replace_or_die)  # sealed files are put by it as well
    for deaths in range(1, 60):
        left[0] = deaths % 9 + 1
        with suppress(Killed):
            written(one, store, deaths % 3 + 1)
            break
        assert not Path(one.output).exists()
    left[0] = 0
    written(one, store)
    assert without_output(files_of(one.output)) == found[0]


def test_others_are_refused(folder, settings, tmp_path):
    work, store = tmp_path / "kept.work", str(folder / "scores")
    with pytest.raises(StoreIncomplete, match="no dataset was begun"):
        groups_left(work, "rows")
    begin(settings, store, work)
    with pytest.raises(StoreIncomplete, match="is not there yet"):
        groups_left(work, "parquet")
    other = settings_of(
        settings.corpus, settings.output, Cut("top", rate=0.3), scores=settings.scores, score_column="s"
    )
    with pytest.raises(StoreMismatch, match=r"unfinished, was made with other settings \(rate: 0.4 there, 0.3 now\)"):
        begin(other, store, work)
    record = written(settings, store)
    assert record["documents"] == [100, 40]
    keys = "corpus files limit sampler proxy options embedder target scores mode k rate token_budget seed"
    assert set(record["made_from"]) == {*keys.split(), "format", "score_column"}
    with pytest.raises(StoreMismatch, match=r"rate: 0.4 there, 0.3 now"):
        is_published(other)
    with pytest.raises(WinnowError, match="winnow select: output"):
        replace(settings, output="s3://key:SECRET@bucket/kept")


def test_a_mistake_ends_what_was_begun(folder, settings, tmp_path):
    store = str(folder / "scores")
    mistaken = replace(settings, score_column="n")
    with pytest.raises(CorpusError, match="has a column 'n' already"):
        written(mistaken, store)
    smaller = replace(settings, corpus=f"{settings.corpus}/a.jsonl")
    with pytest.raises(StoreMismatch, match="documents that the cut"):
        written(smaller, store)
    assert written(settings, store)["documents"] == [100, 40]


def test_the_command_says_what_changes_something(settings):
    words = f"winnow select --corpus {settings.corpus} --scores {settings.scores} --mode top --rate 0.4 --seed 0"
    assert settings.command("out") == f"{words} --score-column s --format parquet --output out"
    asked = settings_of("c", "out", settings.cut, sampler="ask-llm-xl", model="google/flan-t5-xl", limit=9)
    assert "--limit 9 --sampler ask-llm-xl --mode" in asked.command("out")
    asked = settings_of("c", "out", settings.cut, sampler="ask-llm", model="embedded")
    assert "--sampler ask-llm --proxy embedded --mode" in asked.command("out")


def test_sizes_as_the_hub_names_them():
    found = [size_category(size) for size in (0, 999, 1000, 5 * 10**8, 10**12 - 1, 10**12)]
    assert found == ["n<1K", "n<1K", "1K<n<10K", "100M<n<1B", "100B<n<1T", "n>1T"]


def test_columns_of_parquet_keep_their_types(tmp_path):
    (tmp_path / "corpus").mkdir()
    texts = [document(number)["text"] for number in range(20)]
    when = pa.array([datetime(2020, 1, 1 + number) for number in range(20)], pa.timestamp("ms"))
    sizes = pa.array(range(20), pa.int32())
    for name, more in {"a": {}, "b": {"extra": pa.array(["x"] * 20)}}.items():
        columns = {"text": texts, "when": when, "size": sizes, **more}
        pq.write_table(pa.table(columns), tmp_path / "corpus" / f"{name}.parquet")
    settings = settings_of(tmp_path / "corpus", tmp_path / "kept", Cut("random", k=30))
    written(settings, scored(tmp_path / "corpus", f"{tmp_path}/scores"))
    found = pq.read_table(tmp_path / "kept" / "data")
    assert found.num_rows == 30
    assert {name: str(found.schema.field(name).type) for name in found.column_names} == {
        "id": "string",
        "text": "string",
        "when": "timestamp[ms]",
        "size": "int32",
        "extra": "string",
    }
    assert sum(value is None for value in found["extra"].to_pylist()) == sum(
        value.startswith("a.") for value in found["id"].to_pylist()
    )
    assert load(tmp_path / "kept").num_rows == 30


def test_a_damaged_dataset_is_written_again(folder, settings):
    """Whatever is flipped, cut off or gone: the dataset ends with the files it first had, or the file is named."""
    output, store, said = Path(settings.output), str(folder / "scores"), []
    written(settings, store)
    whole = files_of(output)
    assert json.loads(whole[Path("winnow.json")])["files"].keys() == {str(name) for name in whole} - {"winnow.json"}
    (data,) = (name for name in whole if name.suffix == ".parquet")
    for name in (data, Path("selection.safetensors")):
        for blob in damaged(whole[name]):
            (output / name).write_bytes(blob)
            assert is_published(settings, said.append) is None
            assert said.pop() == f"{output}: {name} not there, or damaged: written again"
        written(settings, store)
        assert files_of(output) == whole
    for blob in damaged(whole[Path("winnow.json")]):
        (output / "winnow.json").write_bytes(blob)
        with pytest.raises(StoreDamaged, match=f"{output}/winnow.json is damaged"):
            is_published(settings)
    (output / "winnow.json").write_bytes(whole[Path("winnow.json")])
    for blob in (b"---\npretty_name: \xd2\n---\n", b"---\n- [\n---\n", b"---\nnever ends"):  # load_dataset reads none
        (output / "README.md").write_bytes(blob)
        written(settings, store)
        assert (output / "README.md.damaged").read_bytes() == blob
        (output / "README.md.damaged").unlink()
        assert files_of(output) == whole
    (output / "README.md").write_text("my own words")  # a card is its owner's
    (output / data).unlink()
    written(settings, store)
    assert (output / "README.md").read_text() == "my own words"
    assert files_of(output) | {Path("README.md"): b""} == whole | {Path("README.md"): b""}


@pytest.mark.parametrize("rewritten", [False, True])
def test_what_is_damaged_before_it_is_published(folder, settings, tmp_path, monkeypatch, rewritten):
    names = ["rows/000000-00000.parquet"]
    if rewritten:  # the last file has a column of its own
        monkeypatch.setattr(parts, "_GROUP_ROWS", 8)
        names.append("parquet/000000-00000.parquet")
    store, whole = str(folder / "scores"), replace(settings, output=str(tmp_path / "whole"))
    written(whole, store)

    def damage_first(work):
        for name in names:
            blob = (work / name).read_bytes()
            (work / name).write_bytes(blob[:-9] + b"x" + blob[-8:])
        (work / "staged").mkdir()  # as an upload to the Hub that was killed leaves it
        (work / "staged" / "winnow.json").write_text("{}")
        return publish.publish(work)

    with pytest.raises(StoreDamaged, match=f"{names[-1]} is damaged: give the same command again"):
        written(settings, store, publish=damage_first)
    written(settings, store)
    assert without_output(files_of(settings.output)) == without_output(files_of(whole.output))


@pytest.mark.parametrize(
    ("files", "together", "why"),
    [
        ([[{"v": 1}, {"v": "x"}]], 9, "a.jsonl, document a1: column 'v' holds 'x', string, after int64"),
        ([[{"v": 1}], [{"v": "x"}]], 1, "b.jsonl, document b0: column 'v' is string from there on, and int64 before"),
        ([[{"v": 2**60 + 1}], [{"v": 0.5}]], 1, "document a0: column 'v' holds 1152921504606846977, which cannot be"),
        ([[{"v": 1}, {"v": [1, {"a": 2}]}]], 9, "a1: column 'v' holds [1, {'a': 2}], whose own parts are of several"),
    ],
)
def test_a_column_of_several_types(tmp_path, monkeypatch, files, together, why):
    monkeypatch.setattr(parts, "_GROUP_ROWS", together)
    corpus = made_of(tmp_path / "corpus", *files)
    with pytest.raises(CorpusError, match="give --format jsonl") as said:
        everything(corpus, tmp_path / "kept")
    assert why in str(said.value)
    everything(corpus, tmp_path / "kept", format="jsonl")  # as it says
    values = [row["v"] for rows in files for row in rows]
    assert load(tmp_path / "kept")["v"] == pytest.approx(values) if 0.5 in values else values


def test_what_is_late_in_json_lines(tmp_path):
    """A reader that guesses types from the first megabytes would be wrong."""
    rows = [{"note": None, "pad": "x" * 20_000} for _ in range(600)] + [{"note": "late", "pad": "x", "more": [1]}]
    corpus = made_of(tmp_path / "corpus", rows)
    everything(corpus, tmp_path / "kept", format="jsonl")
    found = load(tmp_path / "kept")
    assert found[600]["note"] == "late"
    assert (found[0]["more"], found[600]["more"]) == (None, [1])


def test_columns_of_parquet(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    text = pa.array([document(number)["text"] for number in range(3)])
    strict = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("n", pa.int64(), nullable=False)])
    pq.write_table(pa.table([text, [1, 2, 3]], schema=strict), corpus / "a.parquet")
    pq.write_table(pa.table({"text": text, "at": pa.array([1, 2, 3], pa.timestamp("ns"))}), corpus / "b.parquet")
    everything(corpus, tmp_path / "kept")
    everything(corpus, tmp_path / "kept.jsonl", format="jsonl")
    assert load(tmp_path / "kept")["n"] == load(tmp_path / "kept.jsonl")["n"] == [1, 2, 3, None, None, None]
    pq.write_table(pa.Table.from_arrays([text, text], ["text", "text"]), corpus / "c.parquet")
    with pytest.raises(CorpusError, match="c.parquet has two columns 'text'"):
        everything(corpus, tmp_path / "twice")
    pq.write_table(pa.table({"text": text, "at": pa.array([2**62] * 3, pa.timestamp("us"))}), corpus / "c.parquet")
    with pytest.raises(CorpusError, match="c.parquet, row 1: a value cannot be read"):
        everything(corpus, tmp_path / "late")


def test_where_datasets_go():
    assert destination("hf://datasets/me/kept") == HubDataset("hf://datasets/me/kept", False)
    assert destination("hf://datasets/me/kept/part/one/", True) == HubDataset("hf://datasets/me/kept/part/one", True)
    assert destination("s3://bucket/kept/") == RemoteFolder("s3://bucket/kept")
    assert destination("kept/") == LocalFolder("kept")
    for wrong in ("hf://me/kept", "hf://datasets/kept", "hf://datasets/me/kept@main"):
        with pytest.raises(WinnowError, match="no dataset on the Hub"):
            destination(wrong)


def test_exclusions_that_change_before_the_rows_are_written_begin_the_dataset_anew(folder, tmp_path):
    corpus, bad = folder / "corpus", tmp_path / "bad"
    settings = settings_of(corpus, tmp_path / "out", Cut("random", k=30), exclude=[f"{bad}:40"])
    scored(corpus, str(bad), "n")
    work = tmp_path / "out.work"
    begin(settings, str(folder / "scores"), work)
    shutil.rmtree(bad)
    reader = list_corpus(str(corpus)).reader(f"{bad}.txt")
    list(MetadataScorer(str(bad), "n", lower_is_better=True).run(reader[0].run()))
    with pytest.raises(StoreMismatch, match="what is excluded has changed since .* begins anew"):
        write_files(work, "rows", 0, 1)
    written(settings, str(folder / "scores"))
    assert len(rows := load(tmp_path / "out")["n"]) == 30
    assert max(rows) <= 40
