"""Corpora whose documents do not say which file they are from: any number of tasks, killed, exactly k."""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import document
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import GopherQualityFilter
from datatrove.pipeline.readers import HuggingFaceDatasetReader, JsonlReader, ParquetReader
from datatrove.pipeline.writers import JsonlWriter, ParquetWriter

from pipeline_steps import (
    EMBEDDED_PROXY,
    BaseScorer,
    CutFilter,
    Documents,
    Embedder,
    LabelStore,
    MetadataLabels,
    RandomFilter,
    ScoreStore,
    Selection,
    TopKFilter,
    select,
)
from pipeline_steps.errors import CorpusError, MissingScore, StoreDamaged, StoreMismatch, WinnowError
from pipeline_steps.filters.cuts import Cut


FILES, ROWS = 7, 30


class LengthScorer(BaseScorer):
    """Few different scores, so that cuts split ties and copies."""

    seen = Path(os.devnull)

    def score(self, docs):
        time.sleep(0.003)
        with open(self.seen, "a") as file:
            file.write("".join(f"{doc.text}\n" for doc in docs))
        return [float(len(doc.text) // 40) for doc in docs]


def rows():
    """Rows as FineWeb's: each has the path of the crawl's file it comes from; one in eight is a copy."""
    copies = [{"id": f"copy-{number}", "text": "the same page, word for word, " * 9} for number in range(2)]
    return [
        (copies[number % 2] if number % 8 == 0 else document(number))
        | {"file_path": f"s3://crawl/{number % 5}.warc.gz"}
        for number in range(FILES * ROWS)
    ]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    for number in range(FILES):
        own = rows()[number * ROWS : (number + 1) * ROWS]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    import datasets

    folder = tmp_path_factory.mktemp("dataset") / "saved"
    datasets.Dataset.from_list([{"text": row["text"]} for row in rows()]).save_to_disk(str(folder))
    return folder


@pytest.fixture(scope="module")
def mixed(crawl, tmp_path_factory):
    """Some files whose rows have a path of their own, and some whose rows have none."""
    folder = tmp_path_factory.mktemp("mixed")
    for file in crawl.iterdir():
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        own = [{k: v for k, v in row.items() if k != "file_path" or int(file.stem) % 2} for row in lines]
        (folder / file.name).write_text("".join(json.dumps(row) + "\n" for row in own))
    return folder


@pytest.fixture(params=["interleaved", "mixed", "dataset", "list"])
def reader(request, crawl, mixed, dataset):
    """Return a reader, anew for every run."""
    docs = [Document(row["text"], row["id"]) for row in rows()]
    return {
        "interleaved": lambda: JsonlReader(str(crawl)),
        "mixed": lambda: JsonlReader(str(mixed)),
        "dataset": lambda: HuggingFaceDatasetReader(str(dataset), load_from_disk=True),
        "list": lambda: Documents(docs),
    }[request.param]


def run(steps, tasks, logs, ranks=None):
    for rank in range(tasks) if ranks is None else ranks:
        executor = LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(logs / f"{time.time_ns()}"))
        executor._run_for_rank(rank, 0)


def texts_of(reader, step, tasks, folder):
    """Run a filter, and return the texts that it keeps, with their number."""
    output = folder / f"{time.time_ns()}"
    run([reader(), step, JsonlWriter(str(output), compression=None)], tasks, folder / "logs")
    return sorted(json.loads(line)["text"] for file in output.glob("*") for line in file.read_text().splitlines())


def parts(store):
    return {path.name: path.read_bytes() for path in sorted((store / "parts").iterdir())}


def test_every_source_is_scored_alike_by_any_number_of_tasks_killed_once(reader, tmp_path):
    LengthScorer.seen = tmp_path / "seen"
    for tasks in (1, 3, 7):
        store = tmp_path / str(tasks)
        steps = [reader(), LengthScorer(str(store), window_size=8)]
        job = os.fork()
        if not job:
            run(steps, tasks, tmp_path / "logs")
            os._exit(0)
        time.sleep(random.Random(tasks).uniform(0.05, 0.2))
        os.kill(job, signal.SIGKILL)
        os.waitpid(job, 0)
        run(steps, tasks, tmp_path / "logs")
        assert parts(store) == parts(tmp_path / "1")
        assert not list((store / "windows").glob("*"))
    found = ScoreStore.open(str(tmp_path / "1"))
    assert found.is_by_key
    assert found.documents == FILES * ROWS


def test_exactly_k_and_the_same_documents_with_any_number_of_tasks(reader, tmp_path):
    store = tmp_path / "s"
    run([reader(), LengthScorer(str(store), window_size=8)], 3, tmp_path / "logs")
    for cut in (Cut("top", k=1), Cut("bottom", k=20), Cut("top", rate=0.4), Cut("ips", k=33), Cut("random", k=77)):
        kept = [texts_of(reader, CutFilter(str(store), cut), tasks, tmp_path) for tasks in (1, 3, 7)]
        assert len(kept[0]) == (cut.k or round(cut.rate * FILES * ROWS))
        assert kept[0] == kept[1] == kept[2]
    for k in range(19, 28):  # whichever of the copies the cut splits
        assert len(texts_of(reader, TopKFilter(str(store), k=k, order="bottom"), 3, tmp_path)) == k


def test_another_number_of_tasks_computes_nothing_again(reader, tmp_path):
    LengthScorer.seen = tmp_path / "seen"
    steps = [reader(), LengthScorer(str(tmp_path / "s"), window_size=8)]
    run(steps, 7, tmp_path / "logs", ranks=range(5))
    assert len(LengthScorer.seen.read_text().splitlines()) > 100
    for tasks in (2, 2, 3):  # the last two over a finished store
        run(steps, tasks, tmp_path / "logs")
    computed = Counter(LengthScorer.seen.read_text().splitlines())
    assert {text for text, count in computed.items() if count > 1} == {row["text"] for row in rows()[:9:8]}  # copies
    assert computed.keys() == {row["text"] for row in rows()}


def test_ranges_of_keys_are_as_many_as_rows_ask_for(crawl, tmp_path, monkeypatch):
    from pipeline_steps.stores import key_ranges

    run([JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "one"))], 1, tmp_path / "logs")
    monkeypatch.setattr(key_ranges, "_ROWS", 16)
    monkeypatch.setattr(key_ranges, "_HELD", 1000)  # so that rows go to the disk
    run([JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "many"))], 3, tmp_path / "logs")
    one, many = (ScoreStore.open(str(tmp_path / name)) for name in ("one", "many"))
    assert len(many.sources) > 8
    np.testing.assert_array_equal(one.keys, many.keys)
    np.testing.assert_array_equal(one.scores, many.scores)
    assert (np.diff(one.keys.astype(object)) >= 0).all()
    assert texts_of(
        lambda: JsonlReader(str(crawl)), TopKFilter(str(tmp_path / "many"), k=50), 3, tmp_path
    ) == texts_of(lambda: JsonlReader(str(crawl)), TopKFilter(str(tmp_path / "one"), k=50), 1, tmp_path)


def test_a_damaged_range_is_made_again_by_all_tasks(crawl, tmp_path):
    steps = [JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "s"))]
    run(steps, 3, tmp_path / "logs")
    (file,) = (tmp_path / "s" / "parts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])
    with pytest.raises(StoreDamaged, match="key="):
        _ = ScoreStore.open(str(tmp_path / "s")).scores, ScoreStore.open(str(tmp_path / "s")).to_arrow()
    run(steps, 3, tmp_path / "logs")
    assert file.read_bytes() == whole


def test_a_part_of_the_corpus_does_not_replace_the_scores_of_all(crawl, tmp_path):
    run([JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "s"))], 1, tmp_path / "logs")
    with pytest.raises(StoreMismatch, match="holds .* documents that this run has not read: .*use another folder"):
        run([JsonlReader(str(crawl), limit=9), LengthScorer(str(tmp_path / "s"))], 1, tmp_path / "logs")
    run([JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "s"))], 1, tmp_path / "logs")
    assert ScoreStore.open(str(tmp_path / "s")).documents == FILES * ROWS


def test_lists_are_shared_out_only_by_a_reader(tmp_path):
    docs = [Document(row["text"], row["id"]) for row in rows()]
    run([docs, LengthScorer(str(tmp_path / "s")), TopKFilter(str(tmp_path / "t"), k=1)][:2], 1, tmp_path / "logs")
    assert len(list(RandomFilter(str(tmp_path / "s"), k=9).run(docs))) == 9
    for step in (LengthScorer(str(tmp_path / "t")), RandomFilter(str(tmp_path / "s"), k=9)):
        with pytest.raises(CorpusError, match=r"each of 3 tasks would read all: put pipeline_steps\.Documents"):
            list(step.run(docs, 1, 3))
    run([Documents(as_documents), LengthScorer(str(tmp_path / "u"))], 3, tmp_path / "logs")
    assert ScoreStore.open(str(tmp_path / "u")).keys.tolist() == ScoreStore.open(str(tmp_path / "s")).keys.tolist()


def as_documents():
    for row in rows():
        yield Document(row["text"], row["id"])


def test_a_file_that_is_listed_twice_is_refused(corpus, tmp_path):
    (tmp_path / "files.txt").write_text("a.jsonl\nb.jsonl\na.jsonl\n")
    run([JsonlReader(str(corpus)), LengthScorer(str(tmp_path / "s"))], 1, tmp_path / "logs")
    twice = JsonlReader(str(corpus), paths_file=str(tmp_path / "files.txt"))
    for step in (LengthScorer(str(tmp_path / "t")), TopKFilter(str(tmp_path / "s"), k=5)):
        with pytest.raises(CorpusError, match=r"files\.txt lists a\.jsonl twice"):
            list(step.run(twice.run(None, 0, 4), 0, 4))


@pytest.mark.parametrize("change", ["moved", "renamed", "rewritten", "shuffled"])
def test_scores_of_files_are_found_wherever_their_documents_went(corpus, tmp_path, change):
    run([JsonlReader(str(corpus)), LengthScorer(str(tmp_path / "s"))], 2, tmp_path / "logs")
    wanted = texts_of(lambda: JsonlReader(str(corpus)), TopKFilter(str(tmp_path / "s"), k=31), 1, tmp_path)
    new = tmp_path / "new"
    if change == "moved":
        shutil.move(corpus, new)
    else:
        new.mkdir()
        files = {file.name: file.read_text().splitlines() for file in sorted(corpus.iterdir())}
        if change == "renamed":
            files = {f"other-{number}.jsonl": lines for number, lines in enumerate(files.values())}
        else:
            lines = [line for own in files.values() for line in own]
            if change == "shuffled":
                random.Random(0).shuffle(lines)
            files = {f"x{number}.jsonl": lines[number::3] for number in range(3)}
        for name, lines in files.items():
            (new / name).write_text("".join(f"{line}\n" for line in lines))
        shutil.rmtree(corpus)
    for tasks in (1, 3):
        assert (
            texts_of(lambda: JsonlReader(str(new)), TopKFilter(str(tmp_path / "s"), k=31), tasks, tmp_path) == wanted
        )
    (new / sorted(os.listdir(new))[0]).write_text('{"id": "new", "text": "never scored"}\n')
    with pytest.raises(MissingScore, match="document new of .* has no score"):
        texts_of(lambda: JsonlReader(str(new)), TopKFilter(str(tmp_path / "s"), k=31), 1, tmp_path)


def test_gopher_scorer_parquet_and_top_k_in_a_second_pipeline(corpus, tmp_path):
    gopher = GopherQualityFilter(min_doc_words=30, min_stop_words=0, max_avg_word_length=20)
    first = [JsonlReader(str(corpus)), gopher, LengthScorer(str(tmp_path / "s")), ParquetWriter(str(tmp_path / "p"))]
    run(first, 3, tmp_path / "logs")
    total = ScoreStore.open(str(tmp_path / "s")).documents
    assert 0 < total < 100
    kept = [
        texts_of(lambda: ParquetReader(str(tmp_path / "p")), TopKFilter(str(tmp_path / "s"), k=20), tasks, tmp_path)
        for tasks in (1, 3, 7)
    ]
    assert len(kept[0]) == 20
    assert kept[0] == kept[1] == kept[2]
    # And scored once more behind the rewriting, where files of the first reader stand in others
    run([ParquetReader(str(tmp_path / "p")), LengthScorer(str(tmp_path / "again"))], 3, tmp_path / "logs")
    assert sorted(ScoreStore.open(str(tmp_path / "again")).keys) == sorted(ScoreStore.open(str(tmp_path / "s")).keys)


def test_what_stands_on_embeddings_finds_them_by_key(crawl, tmp_path):
    from pipeline_steps import DensityMerge, DensityScorer, DensitySketch

    embeddings, sketch = str(tmp_path / "e"), str(tmp_path / "d")
    run([JsonlReader(str(crawl)), Embedder(embeddings, "hashed-ngrams")], 3, tmp_path / "logs")
    run([DensitySketch(embeddings, sketch, rows=20)], 2, tmp_path / "logs")
    run([DensityMerge(embeddings, sketch)], 1, tmp_path / "logs")
    for tasks in (1, 3):
        scorer = DensityScorer(str(tmp_path / f"s{tasks}"), embeddings, sketch)
        run([JsonlReader(str(crawl)), scorer], tasks, tmp_path / "logs")
    one, three = (ScoreStore.open(str(tmp_path / f"s{tasks}")) for tasks in (1, 3))
    np.testing.assert_allclose(one.scores, three.scores, atol=1e-5)


def test_a_scorer_that_cannot_work_is_refused_when_it_is_made(tmp_path):
    class NoHookScorer(BaseScorer):
        pass

    class NoBaseScorer(BaseScorer):
        def __init__(self, scores):
            self.weight = 1

        def score(self, docs):
            return []

    class HeavyScorer(BaseScorer):
        def __init__(self, scores):
            super().__init__(scores)
            self.table = np.zeros(3)

        def score(self, docs):
            return []

    for scorer, said in {
        NoHookScorer: r"NoHookScorer has no method score\(docs\)",
        NoBaseScorer: r"NoBaseScorer must call super\(\)\.__init__\(scores\)",
        HeavyScorer: r"HeavyScorer\.table is ndarray.*call it _table",
    }.items():
        with pytest.raises(WinnowError, match=said):
            scorer(str(tmp_path))
    with pytest.raises(WinnowError, match="over metadata\\['token_count'\\]"):
        LengthScorer(str(tmp_path), "token_count")
    scorer = LengthScorer(str(tmp_path))
    assert scorer.metadata_key == "length"
    assert scorer.made() == {"scorer": "LengthScorer", "window_size": 4096, "lower_is_better": False}


def test_a_selection_by_key_trains_on_the_tokens_of_files(crawl, mixed, tmp_path):
    from train.replay import Replay
    from train.token_store import TokenStore
    from train.token_store_writer import TokenStoreWriter

    run([JsonlReader(str(crawl)), LengthScorer(str(tmp_path / "s"))], 1, tmp_path / "logs")
    chosen = select(ScoreStore.open(str(tmp_path / "s")), Cut("top", k=60))
    docs = list(JsonlReader(str(mixed)).run())
    for doc in docs:
        doc.metadata["file_path"] = f"{int(doc.id.split('-')[1]) % 4}"
    docs.sort(key=lambda doc: doc.metadata["file_path"])
    list(TokenStoreWriter(str(tmp_path / "t"), EMBEDDED_PROXY).run(iter(docs)))
    store = TokenStore.open(str(tmp_path / "t"))
    replay = Replay(store, chosen, 32, 0)
    kept = set(texts_of(lambda: JsonlReader(str(crawl)), TopKFilter(str(tmp_path / "s"), k=60), 1, tmp_path))
    assert replay.documents == 60
    lengths = np.concatenate(list(store.lengths_by_source()))
    assert replay.tokens == sum(n for n, doc in zip(lengths, docs, strict=True) if doc.text in kept)
    with pytest.raises(StoreMismatch, match="was made for a corpus with digest"):
        Replay(store, Selection(np.ones(3, bool), "other", {}), 32, 0)


def test_on_an_object_store(s3, crawl, tmp_path):
    s3.mkdir("any")
    for tasks in (2, 3):
        run([JsonlReader(str(crawl)), LengthScorer("s3://any/s", window_size=64)], tasks, tmp_path / "logs")
    assert ScoreStore.open("s3://any/s").documents == FILES * ROWS
    for k in (19, 22):  # of which copies are claimed by the tasks
        assert len(texts_of(lambda: JsonlReader(str(crawl)), TopKFilter("s3://any/s", k=k), 3, tmp_path)) == k


def test_labels_of_copies_do_not_depend_on_tasks(tmp_path):
    docs = [Document(f"text {number // 2}", "", metadata={"kind": "ab"[number % 3 % 2]}) for number in range(90)]
    counts = []
    for tasks in (1, 2, 3):
        for _ in range(2):
            run([Documents(docs), MetadataLabels(str(tmp_path / str(tasks)), "kind")], tasks, tmp_path / "logs")
        counts.append(LabelStore.open(str(tmp_path / str(tasks))).counts)
    assert counts[0] == counts[1] == counts[2]


def test_records_of_other_windows_publish_nothing(crawl, tmp_path):
    """A run over a part of the corpus, in between, must not change what the run over all of it has stored."""
    store, logs = tmp_path / "s", tmp_path / "logs"
    run([JsonlReader(str(crawl)), LengthScorer(str(store), window_size=8)], 2, logs, ranks=[0])
    run([JsonlReader(str(crawl), limit=5), LengthScorer(str(store), window_size=8)], 2, logs, ranks=[0])
    run([JsonlReader(str(crawl)), LengthScorer(str(store), window_size=8)], 2, logs, ranks=[1])
    run([JsonlReader(str(crawl)), LengthScorer(str(store), window_size=8)], 2, logs)
    assert ScoreStore.open(str(store)).documents == FILES * ROWS


def test_one_window_in_another_order_is_written_beside_those_that_stayed(tmp_path):
    docs = [Document(row["text"], row["id"]) for row in rows()[:40]]

    def scoring(order):
        scorer = LengthScorer(str(tmp_path / "s"), window_size=8)
        scorer.corpus = "a corpus whose order is not always the same"
        return scorer.run(iter([docs[number] for number in order]))

    begun = scoring(range(40))
    for _ in range(33):
        next(begun)
    begun.close()
    list(scoring([1, 0, *range(2, 40)]))
    assert ScoreStore.open(str(tmp_path / "s")).documents == 40


def test_windows_that_are_not_those_of_the_record_are_not_published(crawl, tmp_path):
    store, logs = tmp_path / "s", tmp_path / "logs"
    steps = [JsonlReader(str(crawl)), LengthScorer(str(store), window_size=8)]
    run(steps, 2, logs, ranks=[0])
    (folder,) = (store / "windows").iterdir()
    shutil.copy(folder / "000001.parquet", folder / "000000.parquet")  # whole, and of as many documents
    run(steps, 2, logs, ranks=[1])
    assert not ScoreStore(str(store)).is_complete
    run(steps, 2, logs)
    assert ScoreStore.open(str(store)).documents == FILES * ROWS
