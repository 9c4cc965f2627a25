"""Scores must not depend on tasks, kills or reruns, and nothing may be lost or mixed."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from word_count import WordCountScorer, score

from pipeline_steps import ScoreStore
from pipeline_steps.errors import CorpusError, InvalidScore, StoreIncomplete, StoreMismatch


def contents(store: Path) -> dict:
    return {path.name: path.read_bytes() for path in sorted((store / "shards").iterdir())}


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


KILLED = """
    import sys, time
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    sys.path.insert(0, {tests!r})
    from word_count import WordCountScorer

    class Slow(WordCountScorer):
        def score_batch(self, docs):
            time.sleep(0.2)
            return super().score_batch(docs)

    corpus, scores, logs = sys.argv[1:]
    LocalPipelineExecutor(
        [JsonlReader(corpus), Slow(scores, window_size=8)], tasks=1, logging_dir=logs, skip_completed=False
    ).run()
"""


def test_kill_9_in_a_real_executor_then_rerun_gives_the_same_bytes(corpus, tmp_path):
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(KILLED.format(tests=str(Path(__file__).parent))))
    command = [sys.executable, str(script), str(corpus), str(tmp_path / "s"), str(tmp_path / "logs")]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    windows = tmp_path / "s" / "windows"
    while job.poll() is None and len(list(windows.glob("*/000001.parquet"))) < 1:
        pass
    os.killpg(job.pid, signal.SIGKILL)
    assert job.wait() == -signal.SIGKILL, "the job ended before it could be killed"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    score(corpus, tmp_path / "undisturbed")
    assert contents(tmp_path / "s") == contents(tmp_path / "undisturbed")


def test_executor_stats_survive(corpus, tmp_path):
    """NumPy scalars in stats would fail the task after its work is done."""
    stats = LocalPipelineExecutor(
        [JsonlReader(str(corpus)), WordCountScorer(str(tmp_path / "s"))],
        tasks=2,
        workers=1,
        logging_dir=str(tmp_path / "l"),
    ).run()
    assert stats.stats[1]["computed"].total == 100


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


@pytest.mark.parametrize("lines", [39, 41])
def test_a_shorter_or_longer_file_is_refused(corpus, tmp_path, lines):
    score(corpus, tmp_path / "s")
    text = (corpus / "b.jsonl").read_text().splitlines()
    (corpus / "b.jsonl").write_text("\n".join((text * 2)[:lines]) + "\n")
    with pytest.raises(StoreMismatch, match=r"b\.jsonl"):
        score(corpus, tmp_path / "s")


def test_nan_names_the_document(corpus, tmp_path):
    class Nan(WordCountScorer):
        def score_batch(self, docs):
            return [float("nan") if doc.id == "doc-7" else 1.0 for doc in docs]

    with pytest.raises(InvalidScore, match="doc-7 of .*b.jsonl"):
        list(Nan(str(tmp_path / "s")).run(JsonlReader(str(corpus)).run()))


def test_documents_of_one_source_must_come_together(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    with pytest.raises(CorpusError, match="more than one run"):
        list(WordCountScorer(str(tmp_path / "s")).run(iter([docs[0], docs[30], docs[1]])))


def test_shards_are_plain_parquet(corpus, tmp_path):
    score(corpus, tmp_path / "s")
    table = pq.read_table(tmp_path / "s" / "shards")
    assert table.num_rows == 100
    assert table.column_names == ["key", "score", "tokens"]


def test_token_counts_come_from_the_metadata(corpus, tmp_path):
    docs = list(JsonlReader(str(corpus)).run())
    for doc in docs:
        doc.metadata["token_count"] = len(doc.text)
    list(WordCountScorer(str(tmp_path / "s")).run(iter(docs)))
    assert ScoreStore.open(str(tmp_path / "s")).tokens.tolist() == [len(doc.text) for doc in docs]
