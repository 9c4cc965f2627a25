"""Scores made into one: ranks need no common unit, products are sums of logs."""

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from scipy.stats import rankdata
from word_count import score

from pipeline_steps import Cut, IPSFilter, MetadataScorer, ScoreStore, combine, select
from pipeline_steps.errors import InvalidScore, StoreMismatch


@pytest.fixture
def stores(corpus, tmp_path):
    """Two scores of the corpus: many ties in one, a heavy tail in the other."""
    docs = list(JsonlReader(str(corpus)).run())
    rng = np.random.default_rng(3)
    for name, values in {"tied": rng.integers(0, 5, 100), "tail": rng.normal(0, 3, 100) ** 3}.items():
        for doc, value in zip(docs, values, strict=True):
            doc.metadata[name] = float(value)
        list(MetadataScorer(str(tmp_path / name), name).run(iter(docs)))
    return str(tmp_path / "tied"), str(tmp_path / "tail")


def test_rank_is_the_weighted_mean_of_average_ranks(stores, tmp_path):
    tied, tail = (ScoreStore.open(path).scores for path in stores)
    made = combine(str(tmp_path / "both"), dict(zip(stores, (3.0, -1.0), strict=True))).scores
    expected = (3 * (rankdata(tied) - 1) / 99 + 1 * (rankdata(-tail) - 1) / 99) / 4
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_product_is_the_sum_of_logs(stores, tmp_path, corpus):
    tied, tail = (ScoreStore.open(path).scores.astype(float) for path in stores)
    store = combine(str(tmp_path / "both"), dict(zip(stores, (1.0, -0.5), strict=True)), "product")
    np.testing.assert_allclose(store.scores, tied - 0.5 * tail, rtol=1e-6)
    ids = [doc.id for doc in IPSFilter(store.path, k=30, method="direct").run(JsonlReader(str(corpus)).run())]
    assert len(ids) == 30 == select(store, Cut("direct", k=30)).documents


def test_a_finished_combination_is_left_and_another_refused(stores, tmp_path):
    target = str(tmp_path / "both")
    weights = dict(zip(stores, (1.0, 2.0), strict=True))
    first = combine(target, weights)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "both" / "parts").iterdir()}
    combine(target, weights)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "both" / "parts").iterdir()} == before
    assert first.made["parts"][1]["of"] == ScoreStore.open(stores[1]).made
    with pytest.raises(StoreMismatch, match="how: 'rank' there, 'product' now"):
        combine(target, weights, "product")


@pytest.mark.parametrize(
    ("weights", "given", "lower"),
    [
        ((1.0, 1.0), None, False),  # equal parts: high scores are the good ones
        ((1.0, 2.0), None, True),  # the second store's low scores are good, and it weighs more
        ((1.0, -2.0), None, False),
        ((-1.0, 0.5), None, True),
        ((1.0, 2.0), False, False),
        ((1.0, 0.0), True, True),
    ],
)
def test_a_combination_says_which_direction_is_better(corpus, tmp_path, weights, given, lower):
    for name in ("high", "low"):
        docs = list(JsonlReader(str(corpus)).run())
        for number, doc in enumerate(docs):
            doc.metadata[name] = number
        list(MetadataScorer(str(tmp_path / name), name, lower_is_better=name == "low").run(iter(docs)))
    stores = {str(tmp_path / name): weight for name, weight in zip(("high", "low"), weights, strict=True)}
    assert [ScoreStore.open(path).lower_is_better for path in stores] == [False, True]
    assert combine(str(tmp_path / "both"), stores, lower_is_better=given).lower_is_better is lower


def test_stores_of_different_corpora_are_refused(stores, corpus, tmp_path):
    (corpus / "c.jsonl").write_text('{"id": "doc-45", "text": "changed"}\n')
    score(corpus, tmp_path / "other")
    with pytest.raises(StoreMismatch, match=r"c\.jsonl .*with other ids or texts"):
        combine(str(tmp_path / "both"), {stores[0]: 1.0, str(tmp_path / "other"): 1.0})


@pytest.mark.parametrize("weights", [(), (0.0, 0.0), (float("inf"), 1.0)])
def test_weights_that_say_nothing_are_refused(stores, tmp_path, weights):
    with pytest.raises(InvalidScore, match="not zero"):
        combine(str(tmp_path / "both"), dict(zip(stores, weights, strict=False)))


def test_a_sum_beyond_float32_is_refused_by_document(stores, tmp_path):
    with pytest.raises(InvalidScore, match=r"document \d+ of .*jsonl gets the score"):
        combine(str(tmp_path / "both"), {stores[1]: 1e38}, "product")
