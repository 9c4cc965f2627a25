"""Scores must not depend on tasks, kills or reruns, and nothing may be lost or mixed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import TokensCounter
from datatrove.utils.logging import logger
from word_count import WordCountScorer, score

from pipeline_steps import EMBEDDED_PROXY, KeysScorer, MetadataScorer, ScoreStore, TopKFilter
from pipeline_steps.errors import CorpusError, InvalidScore, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.stores.files import read_json, write_json


def contents(store: Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted((store / "parts").iterdir())}


@pytest.mark.parametrize("tasks", [2, 3, 7])
def test_store_does_not_depend_on_the_number_of_tasks(corpus, tmp_path, tasks):
    score(corpus, tmp_path / "one")
    score(corpus, tmp_path / "many", tasks)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_documents_pass_unchanged_in_order_with_python_floats(corpus, tmp_path):
    plain = list(JsonlReader(str(corpus)).run())
    scored = score(corpus, tmp_path / "s")
    assert [(doc.id, doc.text) for doc in scored] == [(doc.id, doc.text) for doc in plain]
    assert all(type(doc.metadata["words"]) is float for doc in scored)
    store = ScoreStore.open(str(tmp_path / "s"))
    np.testing.assert_array_equal(store.scores, np.array([doc.metadata["words"] for doc in scored], np.float32))


def test_a_second_run_computes_nothing_and_says_the_same(corpus, tmp_path):
    first = score(corpus, tmp_path / "s")
    before = WordCountScorer.calls
    second = score(corpus, tmp_path / "s", tasks=3)
    assert WordCountScorer.calls == before
    assert {doc.id + doc.text: doc.metadata["words"] for doc in first} == {
        doc.id + doc.text: doc.metadata["words"] for doc in second
    }


def test_a_task_that_dies_loses_at_most_one_window(corpus, tmp_path):
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    docs = scorer.run(JsonlReader(str(corpus)).run())
    for _ in range(5 + 20):  # the first file and two and a half windows of the second
        next(docs)
    docs.close()
    with pytest.raises(StoreIncomplete, match="half written"):
        ScoreStore.open(str(tmp_path / "s"))
    before = WordCountScorer.calls
    score(corpus, tmp_path / "s")
    assert WordCountScorer.calls - before == 100 - 5 - 24  # three windows of eight had been committed
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize(("kills", "documents"), [(4, 300), pytest.param(40, 900, marks=pytest.mark.slow)])
def test_kill_9_at_random_moments_loses_at_most_a_window_each(tmp_path, kills, documents):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for file in range(12):
        rows = [{"id": f"{file}-{i}", "text": f"word {i} " * (1 + i % 9)} for i in range(documents)]
        (corpus / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "logs").mkdir()
    script = Path(__file__).parent / "kill_loop.py"
    paths = [str(tmp_path / name) for name in ("corpus", "killed", "logs")]
    done = subprocess.run(
        [sys.executable, str(script), *paths, str(kills)], check=True, capture_output=True, text=True
    )
    killed = int(done.stdout.splitlines()[-1])
    scored = (tmp_path / "logs" / "windows").read_text().splitlines()
    assert killed == kills, "the job ended before it could be killed as often"
    assert len(set(scored)) == 12 * -(-documents // 8)
    assert len(scored) - len(set(scored)) <= killed
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "of another source"])
@pytest.mark.parametrize("kind", ["windows", "parts"])
def test_a_damaged_file_is_named_and_scored_again(corpus, tmp_path, kind, damage):
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    docs = scorer.run(JsonlReader(str(corpus)).run())
    for _ in range(5 + 20):  # the first file is sealed, two windows of the second are committed
        next(docs)
    docs.close()
    victim = sorted((tmp_path / "s" / kind).rglob("*.parquet"))[0]
    blob = bytearray(victim.read_bytes())
    if damage == "bit flipped":
        blob[40] ^= 16
    victim.write_bytes(blob[:-20] if damage == "truncated" else blob)
    if damage == "of another source":
        other = "parts" if kind == "windows" else "windows"
        victim.write_bytes(sorted((tmp_path / "s" / other).rglob("*.parquet"))[0].read_bytes())
    before, said = WordCountScorer.calls, []
    sink = logger.add(said.append, level="WARNING")
    score(corpus, tmp_path / "s")
    logger.remove(sink)
    rescored = 8 if kind == "windows" else 5
    assert WordCountScorer.calls - before == 100 - 5 - 24 + rescored
    assert victim.name in said[0]
    assert len(said) == 1
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


def test_a_damaged_shard_is_refused_by_readers_and_mended_by_the_scorer(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    victim = next((tmp_path / "s" / "parts").glob("b.jsonl*"))
    whole = victim.read_bytes()
    damaged = bytearray(whole)
    damaged[40] ^= 1
    victim.write_bytes(damaged)
    with pytest.raises(StoreDamaged, match=victim.name):
        list(TopKFilter(str(tmp_path / "s"), k=5).run(JsonlReader(str(corpus)).run()))
    with pytest.raises(StoreDamaged, match=victim.name):
        _ = ScoreStore.open(str(tmp_path / "s")).keys
    score(corpus, tmp_path / "s")
    assert victim.read_bytes() == whole
    victim.unlink()
    with pytest.raises(StoreIncomplete, match=r"lost parts/b\.jsonl"):
        ScoreStore.open(str(tmp_path / "s"))


def test_two_tasks_race_on_every_source(corpus, tmp_path):
    """In turns, one window each: whoever seals first, the bytes are the same."""

    def task(size):
        scorer = WordCountScorer(str(tmp_path / "raced"), window_size=8)
        return scorer.run(JsonlReader(str(corpus)).run(), 0, size)

    slow, fast = task(1), task(2)
    for turn in range(100):
        next(fast)
        if turn % 3 == 0:
            next(slow)
    for task_left in (fast, slow):
        list(task_left)
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "raced") == contents(tmp_path / "undisturbed")
    assert len(ScoreStore.open(str(tmp_path / "raced")).scores) == 100


def test_a_store_is_of_the_corpus_that_was_read_last(corpus, tmp_path):
    score(corpus, tmp_path / "s", tasks=2)
    (corpus / "e.jsonl").write_text('{"id": "new", "text": "a new document"}\n')
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100  # nothing new yet
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    list(scorer.run(JsonlReader(str(corpus)).run(None, 0, 3), 0, 3))
    list(scorer.run(JsonlReader(str(corpus)).run(None, 1, 3), 1, 3))
    with pytest.raises(StoreIncomplete, match="2 of 3 tasks have read this input"):
        ScoreStore.open(str(tmp_path / "s"))
    list(scorer.run(JsonlReader(str(corpus)).run(None, 2, 3), 2, 3))
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 101


def test_records_of_an_earlier_run_do_not_finish_this_one(corpus, tmp_path):
    score(corpus, tmp_path / "s", tasks=2)
    for name in "ef":
        (corpus / f"{name}.jsonl").write_text(f'{{"id": "{name}", "text": "a new document"}}\n')
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    list(scorer.run(JsonlReader(str(corpus)).run(None, 0, 2), 0, 2))
    with pytest.raises(StoreIncomplete):
        ScoreStore.open(str(tmp_path / "s"))
    list(scorer.run(JsonlReader(str(corpus)).run(None, 1, 2), 1, 2))
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 102


def test_a_run_that_found_nothing_to_do_is_not_taken_for_a_later_one(corpus, tmp_path):
    score(corpus, tmp_path / "s", tasks=2)
    score(corpus, tmp_path / "s", tasks=2)
    for name in "ef":
        (corpus / f"{name}.jsonl").write_text(f'{{"id": "{name}", "text": "a new document"}}\n')
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    list(scorer.run(JsonlReader(str(corpus)).run(None, 0, 2), 0, 2))
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks"):
        ScoreStore.open(str(tmp_path / "s"))


def test_a_rank_that_datatrove_skips_is_noticed_and_what_to_do_is_said(corpus, tmp_path):
    def run(logs):
        scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
        LocalPipelineExecutor(
            [JsonlReader(str(corpus)), scorer], tasks=2, workers=1, logging_dir=str(tmp_path / logs)
        ).run()

    run("logs")
    (tmp_path / "logs" / "completions" / "00001").unlink()
    (corpus / "e.jsonl").write_text('{"id": "e", "text": "a new document"}\n')
    (corpus / "f.jsonl").write_text('{"id": "f", "text": "another"}\n')
    run("logs")
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks .* give another logging_dir or skip_completed=False"):
        ScoreStore.open(str(tmp_path / "s"))
    run("others")
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 102


def test_of_two_settings_that_are_claimed_at_once_one_is_refused(corpus, tmp_path):
    """In turns: both have begun before either has written."""
    runs = [
        WordCountScorer(str(tmp_path / "s"), salt=salt, window_size=8).run(JsonlReader(str(corpus)).run())
        for salt in (0, 1)
    ]
    next(runs[0])
    with pytest.raises(StoreMismatch, match="salt: 0 there, 1 now"):
        next(runs[1])
    list(runs[0])
    assert ScoreStore.open(str(tmp_path / "s")).made["salt"] == 0


class LongIsBad(WordCountScorer):
    lower_is_better = True


def test_a_store_says_which_direction_is_better(corpus, tmp_path):
    keys = tmp_path / "keys"
    for scorer in (KeysScorer(str(keys)), LongIsBad(str(tmp_path / "long"))):
        list(scorer.run(JsonlReader(str(corpus)).run()))
    store = ScoreStore.open(str(keys))
    assert store.made == {"scorer": "KeysScorer", "window_size": 4096, "lower_is_better": False}
    assert store.lower_is_better is False
    assert not store.scores.any()
    assert ScoreStore.open(str(tmp_path / "long")).lower_is_better is True
    with pytest.raises(StoreMismatch, match="lower_is_better: True there, False now"):
        list(WordCountScorer(str(tmp_path / "long")).run(JsonlReader(str(corpus)).run()))
    mute = ScoreStore(str(tmp_path / "mute"))
    mute.begin("scores", {"scorer": "Old"}, None)
    with pytest.raises(StoreMismatch, match="mute does not say whether its low scores are the good ones"):
        _ = mute.lower_is_better


def test_several_tasks_must_know_what_they_read(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    with pytest.raises(CorpusError, match="WordCountScorer cannot see which reader.*attribute `corpus`"):
        list(WordCountScorer(str(tmp_path / "s")).run(iter(docs), 0, 2))
    for _ in range(2):  # a task alone reads all there is
        list(WordCountScorer(str(tmp_path / "s")).run(iter(docs)))
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100


def test_a_store_of_the_format_before_is_refused(corpus, tmp_path):
    (tmp_path / "s" / "shards").mkdir(parents=True)
    (tmp_path / "s" / "config.json").write_text('{"scorer": "WordCountScorer"}')
    for use in (lambda: ScoreStore.open(str(tmp_path / "s")), lambda: score(corpus, tmp_path / "s")):
        with pytest.raises(StoreMismatch, match=r"written by winnow 0\.1.*another folder"):
            use()


def test_a_store_of_a_later_version_is_refused(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    about = read_json(f"{tmp_path}/s/artefact.json")
    write_json(f"{tmp_path}/s/artefact.json", about | {"format": 99})
    with pytest.raises(StoreMismatch, match="written by a later version"):
        ScoreStore.open(str(tmp_path / "s"))


def test_what_killed_writers_left_is_swept_when_it_is_a_day_old(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    fresh, old = (tmp_path / "s" / "parts" / f".a.parquet.tmp-{name}" for name in ("fresh", "old"))
    for litter in (fresh, old):
        litter.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    score(corpus, tmp_path / "s", tasks=2)
    assert fresh.exists()
    assert not old.exists()


def test_a_moved_corpus_of_thousands_of_files_is_located_in_no_time():
    store = ScoreStore("/nowhere")
    store.manifest = {f"/old/{part}/shard-{file}/part.parquet": {} for part in range(50) for file in range(100)}
    start = time.perf_counter()
    for source in store.manifest:
        assert store.locate(source.replace("/old/", "/new/place/")) == source
    assert time.perf_counter() - start < 20  # a quadratic search took a minute and a half
    assert store.locate("/new/part.parquet") is None
    assert store.locate("/new/other.parquet") is None


def test_parts_of_a_source_in_two_tasks_are_refused(corpus, tmp_path):
    """A corpus that was rewritten into other files still says which file each document was first read from."""
    docs = list(JsonlReader(str(corpus)).run())[5:45]

    def run_both():
        steps = [WordCountScorer(str(tmp_path / "s"), window_size=8) for _ in range(2)]
        for step in steps:
            step.corpus = JsonlReader(str(corpus))
        runs = [step.run(iter(docs[rank::2]), rank, 2) for rank, step in enumerate(steps)]
        for run in [*runs, *runs]:  # in turns: a window each, then the rest
            next(run)
        for run in runs:
            list(run)

    with pytest.raises((CorpusError, StoreMismatch), match=r"b\.jsonl"):
        run_both()


def test_a_file_taken_out_of_the_corpus_is_not_silently_kept(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    (corpus / "a.jsonl").unlink()
    score(corpus, tmp_path / "s")
    with pytest.raises(StoreMismatch, match=r"parts/a\.jsonl.*delete"):
        ScoreStore.open(str(tmp_path / "s"))
    next((tmp_path / "s" / "parts").glob("a.jsonl*")).unlink()
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 95


def test_executor_stats_survive(corpus, tmp_path):
    """NumPy scalars in stats would fail the task after its work is done."""
    steps = [
        JsonlReader(str(corpus)),
        TokensCounter(f"{EMBEDDED_PROXY}/tokenizer.json"),
        WordCountScorer(str(tmp_path / "s")),
    ]
    stats = LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir=str(tmp_path / "l")).run().stats[2]
    assert stats["computed"].total == 100
    assert stats["computed_per_second"].mean > 0
    assert stats["tokens"].total == ScoreStore.open(str(tmp_path / "s")).tokens.sum() > 2000
    again = LocalPipelineExecutor(steps, tasks=4, workers=1, logging_dir=str(tmp_path / "m")).run().stats[2]
    assert again["already_stored"].total == 100


def test_another_configuration_is_refused_by_name(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    with pytest.raises(StoreMismatch, match="salt: 0 there, 5 now"):
        score(corpus, tmp_path / "s", salt=5)


def test_a_changed_text_is_refused_by_name(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    lines = (corpus / "b.jsonl").read_text().splitlines()
    changed = json.loads(lines[11])
    lines[11] = json.dumps(changed | {"text": "changed"})
    (corpus / "b.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(StoreMismatch, match=f"{changed['id']}\\b"):
        score(corpus, tmp_path / "s")


def test_a_shorter_file_is_refused(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    text = (corpus / "b.jsonl").read_text().splitlines()
    (corpus / "b.jsonl").write_text("\n".join(text[:39]) + "\n")
    with pytest.raises(StoreMismatch, match=r"b\.jsonl"):
        score(corpus, tmp_path / "s")


def test_a_limit_may_go_and_whole_windows_stay(corpus, tmp_path):
    limited = JsonlReader(str(corpus), limit=20)
    list(WordCountScorer(str(tmp_path / "s"), window_size=8).run(limited.run()))  # all of a, and 15 of the 40 of b
    before = WordCountScorer.calls
    score(corpus, tmp_path / "s")
    assert WordCountScorer.calls - before == 100 - 5 - 8
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


def test_nan_names_the_document(corpus, tmp_path):
    class Nan(WordCountScorer):
        def score(self, docs):
            return [float("nan") if doc.id == "doc-7" else 1.0 for doc in docs]

    with pytest.raises(InvalidScore, match="doc-7 of .*b.jsonl"):
        list(Nan(str(tmp_path / "s")).run(JsonlReader(str(corpus)).run()))


def test_shards_are_plain_parquet(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    table = pq.read_table(tmp_path / "s" / "parts")
    assert table.num_rows == 100
    assert table.column_names == ["key", "id", "score", "tokens"]
    assert sorted(table["id"].to_pylist()) == sorted(doc.id for doc in JsonlReader(str(corpus)).run())


def test_token_counts_come_from_the_metadata(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    for doc in docs:
        doc.metadata["token_count"] = len(doc.text)
    list(WordCountScorer(str(tmp_path / "s")).run(iter(docs)))
    assert ScoreStore.open(str(tmp_path / "s")).tokens.tolist() == [len(doc.text) for doc in docs]


def test_long_and_foreign_file_names(tmp_path):
    (tmp_path / "corpus").mkdir()
    for name in ("文" * 80, "x" * 240, "sp ace%20#1"):
        (tmp_path / "corpus" / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": name}) + "\n")
    score(tmp_path / "corpus", tmp_path / "s", tasks=2)
    assert len(list(TopKFilter(str(tmp_path / "s"), k=2).run(JsonlReader(str(tmp_path / "corpus")).run()))) == 2


def test_arrow_and_pandas_get_the_whole_corpus(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    store = ScoreStore.open(str(tmp_path / "s"))
    frame = store.to_arrow().to_pandas()
    assert frame["score"].tolist() == store.scores.tolist()
    assert frame.groupby("source", observed=True).size().to_dict() == store.sources


def test_a_number_in_the_metadata_is_adopted(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    values = [len(docs) - place for place, _ in enumerate(docs)]
    for doc, value in zip(docs, values, strict=True):
        doc.metadata["fasttext"] = np.float32(value) if value % 2 else value
    assert len(list(MetadataScorer(str(tmp_path / "s"), "fasttext").run(iter(docs)))) == 100
    assert ScoreStore.open(str(tmp_path / "s")).scores.tolist() == values


@pytest.mark.parametrize("value", ["0.5", None, True])
def test_metadata_that_is_no_number_is_refused_by_name(corpus, tmp_path, value):
    docs = list(JsonlReader(str(corpus)).run())
    docs[7].metadata["q"] = value
    for doc in docs[:7] + docs[8:]:
        doc.metadata["q"] = 1
    with pytest.raises(InvalidScore, match=f"document doc-7 of .*b.jsonl has q={value!r}"):
        list(MetadataScorer(str(tmp_path / "s"), "q").run(iter(docs)))


def test_metadata_that_has_changed_is_refused_and_never_rounded(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    for doc in docs:
        doc.metadata["q"] = 16777217
    (out, *_) = MetadataScorer(str(tmp_path / "s"), "q").run(iter(docs))
    assert out.metadata["q"] == 16777217
    docs[7].metadata["q"] = 3
    with pytest.raises(StoreMismatch, match=r"doc-7 .*q=3\.0 now, and 16777216\.0"):
        list(MetadataScorer(str(tmp_path / "s"), "q").run(iter(docs)))


@pytest.mark.parametrize("count", [-1, "12", float("nan"), 1.5, 2**32, True, [1], 10**30])
def test_a_count_of_tokens_that_is_none_is_named(corpus, tmp_path, count):
    docs = list(JsonlReader(str(corpus)).run())
    docs[3].metadata["token_count"] = count
    with pytest.raises(InvalidScore, match=r"document doc-3 of .*a\.jsonl has token_count=.* from 0 to 4,294,967,295"):
        list(WordCountScorer(str(tmp_path / "scores")).run(iter(docs)))


def test_no_count_is_not_a_wrong_one(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    docs[0].metadata["token_count"], docs[1].metadata["token_count"] = None, 2**32 - 1
    list(WordCountScorer(str(tmp_path / "scores")).run(iter(docs)))
    assert ScoreStore.open(str(tmp_path / "scores")).tokens[:3].tolist() == [0, 2**32 - 1, 0]


def test_a_folder_whose_name_is_a_pattern(corpus, tmp_path):
    folder = tmp_path / "run[1]*?"
    score(corpus, folder, tasks=3)
    assert len(ScoreStore.open(str(folder)).scores) == 100
    docs = WordCountScorer(str(tmp_path / "half[1]"), window_size=8).run(JsonlReader(str(corpus)).run())
    for _ in range(25):
        next(docs)
    docs.close()
    with pytest.raises(StoreIncomplete, match="half written .1 sources, first b"):
        ScoreStore.open(str(tmp_path / "half[1]"))


def test_a_damaged_record_does_not_spoil_another_number_of_tasks(corpus, tmp_path):
    scorer = WordCountScorer(str(tmp_path / "s"), window_size=8)
    list(scorer.run(JsonlReader(str(corpus)).run(None, 0, 2), 0, 2))
    (record,) = (tmp_path / "s" / "runs").rglob("*.json")
    record.write_text("{}")
    score(corpus, tmp_path / "s", tasks=3)
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100


def test_a_damaged_announcement_is_named_and_the_next_run_takes_its_place(corpus, tmp_path):
    score(corpus, tmp_path / "s", tasks=2)
    (announcement,) = (tmp_path / "s" / "announced").iterdir()
    announcement.write_bytes(announcement.read_bytes()[:-9])
    with pytest.raises(StoreDamaged, match=announcement.name):
        ScoreStore.open(str(tmp_path / "s"))
    score(corpus, tmp_path / "s", tasks=2)
    assert len(ScoreStore.open(str(tmp_path / "s")).scores) == 100
