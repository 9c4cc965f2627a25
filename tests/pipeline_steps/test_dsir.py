"""DSIR's weights equal a plain-Python reading of the paper, in any number of tasks."""

import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest
import regex
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import DSIRFit, DSIRScorer, IPSFilter, NgramCounts, ScoreStore
from pipeline_steps.errors import StoreIncomplete, StoreMismatch
from pipeline_steps.numerics.dsir_ngrams import DSIRNgrams
from pipeline_steps.numerics.ngrams import hashed_ngrams
from pipeline_steps.stores.files import load_tensors, save_tensors
from pipeline_steps.stores.partials import Partials


BUCKETS = 10_000


@pytest.fixture
def corpora(tmp_path):
    """A target about rivers, and a raw corpus of which a third is."""
    rng = np.random.default_rng(0)
    topics = {
        "river": "water flows north past stone banks".split(),
        "code": "def return class import self None".split(),
    }

    def text(topic):
        return " ".join(rng.choice([*topics[topic], "the", "of", "and"], size=rng.integers(30, 80)))

    for name, kinds in {"target": ["river"] * 30, "raw": ["river", "code", "code"] * 30}.items():
        (tmp_path / name).mkdir()
        for file in range(3):
            rows = [{"id": f"{name}-{file}-{i}", "text": text(kind)} for i, kind in enumerate(kinds[file::3])]
            (tmp_path / name / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def count(corpus, counts, tasks=1, **kwargs):
    for rank in range(tasks):
        list(NgramCounts(str(counts), **kwargs).run(JsonlReader(str(corpus)).run(None, rank, tasks), rank, tasks))


def fit(folder, tasks=1, **kwargs):
    for name in ("target", "raw"):
        count(folder / name, folder / f"counts-{name}", tasks, **kwargs)
    model = str(folder / "model")
    list(DSIRFit(str(folder / "counts-target"), str(folder / "counts-raw"), model).run())
    return model


def texts(corpus):
    return [doc.text for doc in JsonlReader(str(corpus)).run()]


def reference_ngrams(text):
    words = regex.findall(r"\w+|[^\w\s]+", text.lower())
    return words, words + [" ".join(pair) for pair in zip(words, words[1:], strict=False)]


def reference_buckets(text, buckets):
    digests = [hashlib.sha256(gram.encode("utf-8", "surrogatepass")) for gram in reference_ngrams(text)[1]]
    return Counter(int(digest.hexdigest(), 16) % buckets for digest in digests)


def reference_weights(target, raw):
    """The log importance weights of the raw texts (Xie et al. 2023, Sec. 3), n-gram by n-gram."""

    def counts(text):
        return reference_buckets(text, BUCKETS)

    def probability(corpus):
        total = sum(map(counts, corpus), Counter())
        return {bucket: n / total.total() for bucket, n in total.items()}

    p, q = probability(target), probability(raw)
    ratio = {bucket: math.log(p.get(bucket, 0) + 1e-8) - math.log(q.get(bucket, 0) + 1e-8) for bucket in p | q}
    return [sum(n * ratio[bucket] for bucket, n in counts(text).items()) for text in raw]


def test_weights_equal_the_reference(corpora):
    model = fit(corpora)
    list(DSIRScorer(str(corpora / "s"), model).run(JsonlReader(str(corpora / "raw")).run()))
    expected = reference_weights(texts(corpora / "target"), texts(corpora / "raw"))
    np.testing.assert_allclose(ScoreStore.open(str(corpora / "s")).scores, expected, rtol=1e-6)


def test_any_number_of_tasks_fits_the_same_model(corpora):
    one = load_tensors(f"{fit(corpora)}/dsir.safetensors")
    for name in ("target", "raw"):
        count(corpora / name, corpora / f"counts-{name}", 7)
    list(DSIRFit(str(corpora / "counts-target"), str(corpora / "counts-raw"), str(corpora / "many")).run())
    many = load_tensors(f"{corpora}/many/dsir.safetensors")
    np.testing.assert_array_equal(one[0]["log_ratio"], many[0]["log_ratio"])
    assert one[1] == many[1]
    assert one[1]["raw_documents"] == 90


def test_resampling_prefers_the_target(corpora):
    model = fit(corpora)
    reader = JsonlReader(str(corpora / "raw"))
    list(DSIRScorer(str(corpora / "s"), model).run(reader.run()))
    kept = [doc.text for doc in IPSFilter(str(corpora / "s"), k=30, method="direct").run(reader.run())]
    assert sum("water" in text for text in kept) >= 29


def test_what_is_missing_or_mixed_is_named(corpora):
    with pytest.raises(StoreIncomplete, match="run DSIRFit first"):
        list(DSIRScorer(str(corpora / "s"), str(corpora / "none")).run(JsonlReader(str(corpora / "raw")).run()))
    count(corpora / "target", corpora / "t")
    reader = JsonlReader(str(corpora / "raw"))
    list(NgramCounts(str(corpora / "half")).run(reader.run(None, 0, 2), 0, 2))
    with pytest.raises(StoreIncomplete, match="half is incomplete .1 of 2 tasks"):
        list(DSIRFit(str(corpora / "t"), str(corpora / "half"), str(corpora / "m")).run())
    count(corpora / "raw", corpora / "other", buckets=500)
    with pytest.raises(StoreMismatch, match="'buckets': 10000.*'buckets': 500"):
        list(DSIRFit(str(corpora / "t"), str(corpora / "other"), str(corpora / "m")).run())
    with pytest.raises(ValueError, match="262145 buckets: choose 1 to 262144"):
        count(corpora / "raw", corpora / "x", buckets=(1 << 18) + 1)


def test_counts_of_a_corpus_and_of_its_older_state_are_never_added(corpora):
    """One rank has not run again since the corpus grew, as where datatrove skips it."""
    count(corpora / "target", corpora / "t")
    count(corpora / "raw", corpora / "r", 2)
    before = list(Partials(str(corpora / "r")).read())
    (corpora / "raw" / "zz.jsonl").write_text('{"id": "new", "text": "a new document"}\n')
    reader = JsonlReader(str(corpora / "raw"))
    list(NgramCounts(str(corpora / "r")).run(reader.run(None, 0, 2), 0, 2))
    with pytest.raises(StoreIncomplete, match="1 of 2 tasks have read this input"):
        list(DSIRFit(str(corpora / "t"), str(corpora / "r"), str(corpora / "m")).run())
    list(NgramCounts(str(corpora / "r")).run(reader.run(None, 1, 2), 1, 2))
    after = list(Partials(str(corpora / "r")).read())
    documents = [sum(part.header["documents"] for _, part in parts) for parts in (before, after)]
    assert documents[1] == documents[0] + 1


def test_a_model_is_known_by_its_bytes(corpora):
    """Half of its signs flipped, a sum of absolute weights would be the same."""
    model = fit(corpora)
    reader = JsonlReader(str(corpora / "raw"))
    list(DSIRScorer(str(corpora / "s"), model).run(reader.run()))
    tensors, header, _ = load_tensors(f"{model}/dsir.safetensors")
    flipped = tensors["log_ratio"].copy()
    flipped[::2] *= -1
    save_tensors(f"{model}/dsir.safetensors", {"log_ratio": flipped}, header)
    with pytest.raises(StoreMismatch, match="model: "):
        list(DSIRScorer(str(corpora / "s"), model).run(reader.run()))


characters = st.characters() | st.sampled_from("aaab  \n.,'é\u0301\u0e33\u2003日_\ud800")
documents = st.lists(st.text(characters, max_size=60) | st.text("ab c.,\n", max_size=400), max_size=140)


@given(documents, st.data())
def test_a_text_s_ngrams_do_not_depend_on_the_others(batch, data):
    ngrams = hashed_ngrams(batch, 1 << 20)
    assert len(ngrams.tokens) == len(batch)
    if batch:
        row = data.draw(st.integers(0, len(batch) - 1))
        alone = hashed_ngrams([batch[row]], 1 << 20)
        assert ngrams.bucket[ngrams.text == row].tolist() == alone.bucket.tolist()
        assert ngrams.tokens[row] == alone.tokens[0]


@given(documents)
def test_equal_ngrams_fall_together_and_others_apart(batch):
    ngrams = hashed_ngrams(batch, 1 << 30)
    for row, text in enumerate(batch):
        words, grams = reference_ngrams(text)
        assert ngrams.tokens[row] == len(words)
        buckets = ngrams.bucket[ngrams.text == row].tolist()
        assert sorted(Counter(buckets).values()) == sorted(Counter(grams).values())


@given(documents, st.sampled_from([1, 2, 7, BUCKETS, 1 << 18]), st.integers(50, 70))
def test_dsir_buckets_are_sha_256(batch, buckets, size):
    batch = [*batch, f"{'a' * (size - 3)} bc {'d' * 200} {'e' * size}"]  # about one block of SHA-256, and more
    featurise = DSIRNgrams(buckets)
    for _ in range(2):  # the second time from memory
        ngrams = featurise(batch)
        for row, text in enumerate(batch):
            assert Counter(ngrams.bucket[ngrams.text == row].tolist()) == reference_buckets(text, buckets)
        assert ngrams.tokens.tolist() == [len(reference_ngrams(text)[0]) for text in batch]


def test_dsir_buckets_of_more_ngrams_than_are_remembered():
    rng = np.random.default_rng(0)
    batch = [" ".join(map(str, rng.integers(0, 1 << 40, 1000))) for _ in range(300)]
    featurise = DSIRNgrams(BUCKETS)
    for _ in range(2):
        ngrams = featurise(batch)
        expected = sum((reference_buckets(text, BUCKETS) for text in batch[::100]), Counter())
        assert Counter(ngrams.bucket[ngrams.text % 100 == 0].tolist()) == expected


def test_buckets_are_pinned():
    """A changed hash silently changes every fitted classifier."""
    assert hashed_ngrams(["The river, the sea."], 10_000).bucket.tolist() == [
        6218,
        4261,
        9853,
        2478,
        4909,
        9693,
        6218,
        459,
        8553,
        2694,
        8925,
    ]
