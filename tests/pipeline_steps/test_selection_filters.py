"""Filters keep exactly the cut, for any number of tasks, and never pass or drop a document they know nothing of."""

import json

import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from word_count import WordCountScorer, score

from pipeline_steps import Cut, IPSFilter, RandomFilter, ScoreStore, Selection, TopKFilter, select
from pipeline_steps.errors import InvalidCut, MissingScore, StoreIncomplete, StoreMismatch


FILTERS = {
    "top": lambda scores, **kwargs: TopKFilter(scores, **kwargs),
    "bottom": lambda scores, **kwargs: TopKFilter(scores, order="bottom", **kwargs),
    "random": lambda scores, **kwargs: RandomFilter(scores, **kwargs),
    "ips": lambda scores, **kwargs: IPSFilter(scores, **kwargs),
    "direct": lambda scores, **kwargs: IPSFilter(scores, weight="direct", **kwargs),
}


@pytest.fixture
def scores(corpus, tmp_path):
    score(corpus, tmp_path / "scores")
    return str(tmp_path / "scores")


def kept(corpus, step, tasks=1):
    return [
        doc.id
        for rank in range(tasks)
        for doc in step.run(JsonlReader(str(corpus)).run(None, rank, tasks), rank, tasks)
    ]


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("k", [0, 1, 37, 100])
def test_exactly_k_for_any_number_of_tasks(corpus, scores, name, k):
    one = kept(corpus, FILTERS[name](scores, k=k))
    assert len(one) == k
    for tasks in (2, 3, 7):
        assert sorted(kept(corpus, FILTERS[name](scores, k=k), tasks)) == sorted(one)


@pytest.mark.parametrize("name", FILTERS)
def test_filter_and_selection_agree(corpus, scores, name):
    docs = list(JsonlReader(str(corpus)).run())
    mask = select(ScoreStore.open(scores), Cut(name, rate=0.3)).mask
    assert kept(corpus, FILTERS[name](scores, rate=0.3)) == [
        doc.id for doc, keep in zip(docs, mask, strict=True) if keep
    ]


def test_filter_works_on_the_scored_documents_written_elsewhere(corpus, scores, tmp_path):
    """`file_path` survives writing and reading, so a rewritten corpus still finds its scores."""
    pipeline = [JsonlReader(str(corpus)), JsonlWriter(str(tmp_path / "copy"))]
    LocalPipelineExecutor(pipeline, tasks=3, workers=1, logging_dir=str(tmp_path / "logs")).run()
    assert sorted(kept(tmp_path / "copy", TopKFilter(scores, k=20))) == sorted(kept(corpus, TopKFilter(scores, k=20)))


def test_dropped_documents_can_be_audited(corpus, scores, tmp_path):
    writer = JsonlWriter(str(tmp_path / "dropped"), compression=None)
    pipeline = [JsonlReader(str(corpus)), TopKFilter(scores, rate=0.25, exclusion_writer=writer)]
    LocalPipelineExecutor(pipeline, tasks=2, workers=1, logging_dir=str(tmp_path / "logs")).run()
    dropped = [json.loads(line) for path in (tmp_path / "dropped").iterdir() for line in path.open()]
    assert len(dropped) == 75
    assert {doc["metadata"]["filter_reason"] for doc in dropped} == {"below_cut"}


def test_an_unscored_file_is_an_error(corpus, scores):
    (corpus / "e.jsonl").write_text('{"id": "new", "text": "a new document"}\n')
    with pytest.raises(MissingScore, match=r"e\.jsonl.*new"):
        kept(corpus, TopKFilter(scores, k=5))


def test_a_changed_text_is_an_error(corpus, scores):
    (corpus / "c.jsonl").write_text('{"id": "doc-45", "text": "changed"}\n')
    with pytest.raises(MissingScore, match="doc-45"):
        kept(corpus, TopKFilter(scores, k=5))


def test_a_half_written_store_is_an_error(corpus, tmp_path):
    reader = JsonlReader(str(corpus))
    list(WordCountScorer(str(tmp_path / "half")).run(reader.run(None, 0, 2), 0, 2))
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks"):
        kept(corpus, TopKFilter(str(tmp_path / "half"), k=5))


def test_more_documents_than_there_are(corpus, scores):
    with pytest.raises(InvalidCut, match="101 documents.*holds 100"):
        kept(corpus, TopKFilter(scores, k=101))


def test_a_token_budget_needs_token_counts(corpus, scores):
    with pytest.raises(InvalidCut, match="100 documents.*TokensCounter"):
        kept(corpus, TopKFilter(scores, token_budget=500))


def test_selection_survives_the_disk_and_knows_its_corpus(scores, tmp_path):
    store = ScoreStore.open(scores)
    selection = select(store, Cut("random", rate=0.2, seed=3))
    selection.save(str(tmp_path / "s.safetensors"))
    loaded = Selection.load(str(tmp_path / "s.safetensors"))
    assert loaded.mask.tolist() == selection.mask.tolist()
    assert loaded.documents == 20
    assert (loaded.cut["mode"], loaded.cut["seed"]) == ("random", 3)
    loaded.check_corpus(store.corpus_digest, "the corpus")
    with pytest.raises(StoreMismatch, match="another"):
        loaded.check_corpus("another", "the corpus")


def test_any_other_file_is_not_a_selection(tmp_path):
    (tmp_path / "x").write_bytes(b'{"not": "a selection"}')
    with pytest.raises(StoreMismatch, match="not a selection"):
        Selection.load(str(tmp_path / "x"))
