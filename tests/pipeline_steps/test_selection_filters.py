"""Filters keep exactly the cut, for any number of tasks, and never pass or drop a document they know nothing of."""

import json
import os
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.logging import logger
from word_count import WordCountScorer, score

from pipeline_steps import (
    Cut,
    IPSFilter,
    LabelStore,
    MetadataLabels,
    RandomFilter,
    ScoreSelector,
    ScoreStore,
    Selection,
    TopKFilter,
    cascade,
    select,
)
from pipeline_steps.errors import CorpusError, InvalidCut, MissingScore, StoreDamaged, StoreIncomplete, StoreMismatch
from pipeline_steps.filters import cuts as cuts_module
from pipeline_steps.stores.files import save_tensors


FILTERS = {
    "top": lambda scores, **kwargs: TopKFilter(scores, **kwargs),
    "bottom": lambda scores, **kwargs: TopKFilter(scores, order="bottom", **kwargs),
    "pareto": lambda scores, **kwargs: TopKFilter(scores, order="pareto", **kwargs),
    "random": lambda scores, **kwargs: RandomFilter(scores, **kwargs),
    "ips": lambda scores, **kwargs: IPSFilter(scores, **kwargs),
    "direct": lambda scores, **kwargs: IPSFilter(scores, method="direct", **kwargs),
    "poisson": lambda scores, **kwargs: IPSFilter(scores, method="poisson", **kwargs),
}
EXACT = [name for name in FILTERS if name != "poisson"]


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


@pytest.mark.parametrize("name", EXACT)
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
    with pytest.raises(MissingScore, match=r"document new of .*e\.jsonl"):
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


def test_a_cut_is_found_once_and_published(corpus, scores, tmp_path, monkeypatch):
    selection = tmp_path / "selection.safetensors"
    list(ScoreSelector(scores, Cut("top", k=20), selection=str(selection)).run())
    published = list((tmp_path / "scores" / "cuts").iterdir())
    assert len(published) == 1
    assert published[0].stat().st_size < 1024

    def never(*_):
        raise AssertionError("found again")

    monkeypatch.setattr(cuts_module, "find_thresholds", never)
    ids = kept(corpus, TopKFilter(scores, k=20), tasks=3)
    assert len(ids) == Selection.load(str(selection)).documents == 20
    with pytest.raises(AssertionError, match="found again"):
        kept(corpus, TopKFilter(scores, k=21))


def test_a_damaged_cut_is_made_again(corpus, scores, tmp_path):
    before = kept(corpus, RandomFilter(scores, k=20))
    (published,) = (tmp_path / "scores" / "cuts").iterdir()
    whole = published.read_text()
    for damaged in (
        whole[:100],
        "",
        "[]",
        whole.replace('"row": ', '"row": 1'),
        whole.replace('"code": 3', '"code": 4'),
    ):
        published.write_text(damaged)
        assert kept(corpus, RandomFilter(scores, k=20)) == before
        assert published.read_text() == whole


def test_a_cut_of_other_scores_is_not_used(corpus, scores, tmp_path):
    """The same folder, scored anew with another scorer: another cut."""
    kept(corpus, TopKFilter(scores, k=20))
    cuts = tmp_path / "cuts"
    (tmp_path / "scores" / "cuts").rename(cuts)
    shutil.rmtree(tmp_path / "scores")
    (tmp_path / "scores").mkdir()
    cuts.rename(tmp_path / "scores" / "cuts")
    score(corpus, scores, salt=1)
    kept(corpus, TopKFilter(scores, k=20))
    assert len(list((tmp_path / "scores" / "cuts").iterdir())) == 2


def test_scores_in_a_folder_one_may_only_read(corpus, scores, tmp_path, monkeypatch):
    def refuse(path, value):
        raise PermissionError(path)

    monkeypatch.setattr(cuts_module, "write_json", refuse)
    assert len(kept(corpus, TopKFilter(scores, k=20), tasks=2)) == 20


def test_a_moved_corpus_finds_its_scores(corpus, scores, tmp_path):
    before = kept(corpus, TopKFilter(scores, k=20))
    os.rename(corpus, tmp_path / "elsewhere")
    assert kept(tmp_path / "elsewhere", TopKFilter(scores, k=20)) == before


def test_shuffled_and_thinned_documents_get_the_same_decisions(corpus, scores):
    docs = list(JsonlReader(str(corpus)).run())
    before = Counter(kept(corpus, TopKFilter(scores, k=40)))
    order = np.random.default_rng(0).permutation(len(docs))
    assert Counter(doc.id for doc in TopKFilter(scores, k=40).run(iter([docs[i] for i in order]))) == before
    thinned = [doc.id for doc in TopKFilter(scores, k=40, partial=True).run(iter(docs[1::2]))]
    assert thinned == [doc.id for doc in docs[1::2] if doc.id in before]


def test_copies_keep_to_their_number_in_any_order(tmp_path):
    (tmp_path / "corpus").mkdir()
    rows = {
        "a": [{"id": "x", "text": "same words"}] * 4,
        "b": [{"id": f"b{i}", "text": "w " * i} for i in (1, 2, 3, 4)],
    }
    for name, own in rows.items():
        (tmp_path / "corpus" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    score(tmp_path / "corpus", tmp_path / "s")
    docs = list(JsonlReader(str(tmp_path / "corpus")).run())
    mixed = [docs[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    for k in range(9):
        assert len(list(TopKFilter(str(tmp_path / "s"), k=k).run(iter(mixed)))) == k
    (tmp_path / "corpus" / "copy").mkdir()
    os.link(tmp_path / "corpus" / "a.jsonl", tmp_path / "corpus" / "copy" / "a.jsonl")
    with pytest.raises(MissingScore, match="more copies of document x"):
        kept(tmp_path / "corpus", TopKFilter(str(tmp_path / "s"), k=8))


def test_methods_of_other_filters_are_refused(scores):
    with pytest.raises(InvalidCut, match="no method 'top'"):
        IPSFilter(scores, k=1, method="top")
    with pytest.raises(InvalidCut, match="no order 'ips'"):
        TopKFilter(scores, k=1, order="ips")


def test_more_copies_of_a_document_than_were_scored(corpus, scores):
    docs = list(JsonlReader(str(corpus)).run())
    with pytest.raises(MissingScore, match="doc-7"):
        list(TopKFilter(scores, k=40).run(iter([*docs[:8], docs[7]])))


def label(corpus, folder, of=lambda doc: f"class {len(doc.text) % 3}", **kwargs):
    docs = list(JsonlReader(str(corpus)).run())
    for doc in docs:
        if of(doc) is not None:
            doc.metadata["class"] = of(doc)
    list(MetadataLabels(str(folder), "class", window_size=16, **kwargs).run(iter(docs)))
    return [doc.metadata.get("class") for doc in docs]


@pytest.mark.parametrize("name", ["top", "random", "ips"])
def test_each_stratum_is_cut_by_itself(corpus, scores, tmp_path, name):
    labels = label(corpus, tmp_path / "labels")
    mask = select(ScoreStore.open(scores), Cut(name, rate=0.3), LabelStore.open(str(tmp_path / "labels"))).mask
    for value, size in Counter(labels).items():
        assert sum(keep for keep, own in zip(mask, labels, strict=True) if own == value) == round(0.3 * size)
    docs = list(JsonlReader(str(corpus)).run())
    expected = [doc.id for doc, keep in zip(docs, mask, strict=True) if keep]
    for tasks in (1, 3):
        ids = kept(corpus, FILTERS[name](scores, rate=0.3, labels=str(tmp_path / "labels")), tasks)
        assert sorted(ids) == sorted(expected)


def test_k_of_each_stratum(corpus, scores, tmp_path):
    labels = label(corpus, tmp_path / "labels")
    ids = kept(corpus, TopKFilter(scores, k=5, labels=str(tmp_path / "labels")))
    assert len(ids) == 5 * len(set(labels))
    smallest, size = Counter(labels).most_common()[-1]
    with pytest.raises(InvalidCut, match=f"of '{smallest}', but .* holds {size}"):
        kept(corpus, TopKFilter(scores, k=size + 1, labels=str(tmp_path / "labels")))


def test_labels_that_are_missing_or_of_another_corpus(corpus, scores, tmp_path):
    with pytest.raises(CorpusError, match="doc-3 .*no 'class'"):
        label(corpus, tmp_path / "none", of=lambda doc: None if doc.id == "doc-3" else "a")
    label(corpus, tmp_path / "some", of=lambda doc: None if doc.id == "doc-3" else "a", default="unknown")
    assert LabelStore.open(str(tmp_path / "some")).counts["unknown"] in (1, 2)
    (corpus / "c.jsonl").write_text('{"id": "doc-45", "text": "changed"}\n')
    label(corpus, tmp_path / "other")
    with pytest.raises(StoreMismatch, match=r"not of the same documents: .*c\.jsonl"):
        kept(corpus, TopKFilter(scores, k=5, labels=str(tmp_path / "other")))


@pytest.mark.parametrize("tasks", [1, 3])
def test_a_cascade_scores_what_is_left_and_selects_in_the_whole(corpus, scores, tmp_path, tasks):
    """A cheap score halves the corpus, a dear one is computed for that half only."""
    before = WordCountScorer.calls
    for rank in range(tasks):
        docs = JsonlReader(str(corpus)).run(None, rank, tasks)
        docs = TopKFilter(scores, rate=0.5).run(docs, rank, tasks)
        list(WordCountScorer(str(tmp_path / "dear"), salt=9, window_size=16).run(docs, rank, tasks))
    assert WordCountScorer.calls - before == 50
    cheap, dear = ScoreStore.open(scores), ScoreStore.open(str(tmp_path / "dear"))
    first, second = select(cheap, Cut("top", rate=0.5)), select(dear, Cut("bottom", k=7))
    both = cascade(cheap, first, second)
    docs = list(JsonlReader(str(corpus)).run())
    filtered = TopKFilter(scores, rate=0.5).run(iter(docs))
    filtered = TopKFilter(str(tmp_path / "dear"), k=7, order="bottom").run(filtered)
    assert [doc.id for doc in filtered] == [doc.id for doc, keep in zip(docs, both.mask, strict=True) if keep]
    assert both.documents == 7
    both.check_corpus(cheap.corpus_digest, "the corpus")
    with pytest.raises(StoreMismatch, match="what the first cut keeps"):
        cascade(cheap, select(cheap, Cut("top", rate=0.4)), second)


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
    with pytest.raises(StoreDamaged, match="x is damaged, or not a file of tensors"):
        Selection.load(str(tmp_path / "x"))
    save_tensors(str(tmp_path / "x"), {"weights": np.zeros(3)}, {})
    with pytest.raises(StoreMismatch, match="x is not a selection: it holds weights"):
        Selection.load(str(tmp_path / "x"))


@pytest.mark.parametrize("tasks", [1, 3])
def test_documents_of_the_cut_that_never_come_are_an_error(corpus, scores, tasks):
    """The records of all tasks are added by the last, whichever that is."""
    (corpus / "b.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"of the 50 documents .* have come by, of .*b\.jsonl 0 of .*partial=True"):
        kept(corpus, TopKFilter(scores, k=50), tasks)
    some = kept(corpus, TopKFilter(scores, k=50, partial=True), tasks)
    assert 0 < len(some) < 50


def test_a_step_that_drops_documents_ahead_of_the_filter_is_noticed(corpus, scores, tmp_path):
    steps = [
        JsonlReader(str(corpus)),
        LambdaFilter(lambda doc: not doc.id.endswith("7")),
        TopKFilter(scores, rate=0.5),
    ]
    with pytest.raises(CorpusError, match="of the 50 documents that the cut"):
        LocalPipelineExecutor(steps, tasks=2, workers=1, logging_dir=str(tmp_path / "logs")).run()


def test_how_many_documents_of_the_cut_came_by_is_said(corpus, scores):
    heard = []
    handle = logger.add(heard.append, level="INFO", filter="pipeline_steps")
    list(TopKFilter(scores, k=20).run(JsonlReader(str(corpus)).run(None, 0, 2), 0, 2))
    logger.remove(handle)
    assert re.search(r"\d+ of the 20 documents that the cut of .*scores keeps have come by in task 0 of 2", heard[-1])


def test_a_pass_over_documents_that_nobody_can_list_is_not_checked(corpus, scores):
    docs = list(JsonlReader(str(corpus)).run())
    halves = [list(TopKFilter(scores, k=20).run(iter(docs[rank::2]), rank, 2)) for rank in range(2)]
    assert sum(map(len, halves)) == 20


def test_a_pass_that_was_partial_does_not_count_for_one_that_is_whole(corpus, scores, tmp_path):
    drop = LambdaFilter(lambda doc: not doc.id.endswith("7"))
    for rank in range(3):
        data = drop.run(JsonlReader(str(corpus)).run(None, rank, 3), rank, 3)
        list(TopKFilter(scores, k=15, partial=True).run(data, rank, 3))
    assert len(kept(corpus, TopKFilter(scores, k=15), tasks=3)) == 15


def test_a_pass_that_failed_does_not_count_for_one_without_the_step_that_dropped_documents(corpus, scores):
    for rank in range(3):
        drop = LambdaFilter(lambda doc: not doc.id.endswith("7"))
        data = drop.run(JsonlReader(str(corpus)).run(None, rank, 3), rank, 3)
        if rank < 2:
            list(TopKFilter(scores, k=40).run(data, rank, 3))
        else:
            with pytest.raises(CorpusError, match="of the 40 documents"):
                list(TopKFilter(scores, k=40).run(data, rank, 3))
    assert len(kept(corpus, TopKFilter(scores, k=40), tasks=3)) == 40


def test_poisson_is_checked_by_the_last_task_alone(corpus, scores, monkeypatch):
    asked = []
    keeps = cuts_module.FoundCut.keeps
    monkeypatch.setattr(cuts_module.FoundCut, "keeps", lambda cut, source: asked.append(source) or keeps(cut, source))
    step = IPSFilter(scores, rate=0.3, method="poisson")
    found = [len(list(step.run(JsonlReader(str(corpus)).run(None, rank, 2), rank, 2))) for rank in range(2)]
    assert len(asked) == 4 + 4  # each file by its task, all by the last
    (corpus / "b.jsonl").unlink()
    with pytest.raises(CorpusError, match=f"of the {sum(found)} documents"):
        kept(corpus, IPSFilter(scores, rate=0.3, method="poisson"), tasks=2)


def test_a_scorer_and_its_filter_do_not_go_into_one_pipeline(corpus, tmp_path):
    steps = [JsonlReader(str(corpus)), WordCountScorer(str(tmp_path / "s")), TopKFilter(str(tmp_path / "s"), k=5)]
    with pytest.raises(StoreIncomplete, match="WordCountScorer of this pipeline is still to write.*second pipeline"):
        LocalPipelineExecutor(steps, tasks=1, logging_dir=str(tmp_path / "logs")).run()
    LocalPipelineExecutor(steps[:2], tasks=1, logging_dir=str(tmp_path / "l")).run()
    stats = LocalPipelineExecutor(steps, tasks=1, logging_dir=str(tmp_path / "m")).run().stats[2]
    assert stats["forwarded"].total == 5


def test_kept_documents_carry_score_and_rank(corpus, scores):
    kept_docs = list(TopKFilter(scores, k=10, ranks=True).run(JsonlReader(str(corpus)).run()))
    store = ScoreStore.open(scores)
    best = np.sort(store.scores)[::-1]
    found = sorted((doc.metadata["score"] for doc in kept_docs), reverse=True)
    np.testing.assert_array_equal(np.float32(found), best[:10])
    for doc in kept_docs:
        assert type(doc.metadata["score_rank"]) is int
        assert doc.metadata["score_rank"] == 1 + (best > doc.metadata["score"]).sum()
    own = [Document(doc.text, doc.id, metadata=doc.metadata | {"score": 7}) for doc in kept_docs]
    (doc,) = TopKFilter(scores, k=1, partial=True).run(iter(own))
    assert doc.metadata["score"] == 7  # what is there already is the corpus's own
    assert "score" not in next(iter(RandomFilter(scores, k=10).run(JsonlReader(str(corpus)).run()))).metadata
