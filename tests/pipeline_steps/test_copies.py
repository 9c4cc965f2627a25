"""Documents are kept as often as a full sort of all their copies says: nested, within the amount, along the curve."""

import hashlib
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuts import corpora, reader
from word_count import score

from pipeline_steps import (
    Cut,
    CutFilter,
    IPSFilter,
    LabelStore,
    MetadataLabels,
    MetadataScorer,
    ScoreStore,
    Selection,
    TopKFilter,
    UpsamplingCurve,
    cascade,
    select,
)
from pipeline_steps.errors import CorpusError, InvalidCut, StoreMismatch
from pipeline_steps.numerics import copies as module
from pipeline_steps.numerics import priority
from pipeline_steps.numerics.copies import CopiesByCurve, CopiesByScore, event_keys, shares
from pipeline_steps.numerics.mixtures import share_out
from pipeline_steps.numerics.priority import order_code, priority_code, tie_hash
from pipeline_steps.stores.score_store import SCORE_FIELDS
from pipeline_steps.stores.source_store import SourceStore


@pytest.fixture(params=[3, 1 << 20], ids=["sorts-few", "sorts-many"])
def small(request, monkeypatch):
    """With hardly anything in memory, chunks are taken in pieces and every digit is counted."""
    monkeypatch.setattr(module, "_EVENTS", 20)
    monkeypatch.setattr(priority, "_FEW", request.param)


curves = st.builds(
    UpsamplingCurve,
    drop=st.sampled_from([0.0, 0.4, 0.9]),
    cap=st.sampled_from([1, 2, 7, 30]),
    power=st.sampled_from([0.0, 0.5, 2.0]),
    growth=st.floats(0, 3),
    dither=st.booleans(),
)
tables = st.dictionaries(st.integers(-3, 3), st.integers(0, 10), min_size=1, max_size=4)


def copies_of(rule, columns, strata, seed, weight):
    if not isinstance(rule, UpsamplingCurve):
        return CopiesByScore(rule)
    return CopiesByCurve(rule, "top", seed, shares(reader(columns), "top", seed, weight, strata))


def counted(copies, columns, amounts, seed, weight):
    found = copies.find_thresholds(reader(columns), amounts, seed, weight)
    return copies.counts(found, columns, 0, seed)


def brute_force(copies, columns, amounts, seed, weight):
    """Sort all copies by (priority, hash of the key and the copy's number, place) and take what fits."""
    code, tie = copies.codes(columns), tie_hash(event_keys(columns["key"], copies.most), seed).reshape(-1, copies.most)
    left, counts, stopped = list(amounts), np.zeros(len(code), dtype=int), set()
    events = [(-int(code[i, j]), -int(tie[i, j]), i, j) for i, j in np.argwhere(code > 0).tolist()]
    for _, _, i, _ in sorted(events):
        stratum = int(columns["stratum"][i]) if "stratum" in columns else 0
        left[stratum] -= int(columns[weight][i]) if weight else 1
        if left[stratum] < 0:
            stopped.add(stratum)
        counts[i] += stratum not in stopped
    return counts


@pytest.mark.usefixtures("small")
@settings(max_examples=60)
@given(corpora((1, 3)), curves | tables, st.integers(0, 2**32), st.data())
def test_exactly_what_a_full_sort_of_all_copies_would_keep(corpus, rule, seed, data):
    columns, strata = corpus
    weight = data.draw(st.sampled_from([None, "tokens"]))
    copies = copies_of(rule, columns, strata, seed, weight)
    held = copies.held(reader(columns), weight, strata)
    amounts = [data.draw(st.integers(0, most)) for most in held]
    counts = counted(copies, columns, amounts, seed, weight)
    np.testing.assert_array_equal(counts, brute_force(copies, columns, amounts, seed, weight))
    assert (counts <= copies.available(columns)).all()
    if weight is None:
        assert counts.sum() == sum(amounts)
    less = [data.draw(st.integers(0, amount)) for amount in amounts]
    assert (counted(copies, columns, less, seed, weight) <= counts).all()


@given(corpora(), curves, st.integers(0, 99), st.data())
def test_a_higher_score_never_means_fewer_copies(corpus, curve, seed, data):
    columns, _ = corpus
    curve = UpsamplingCurve(curve.drop, curve.cap, curve.power, curve.growth)
    copies = copies_of(curve, columns, 1, seed, "tokens")
    amount = data.draw(st.integers(0, copies.held(reader(columns), "tokens", 1)[0]))
    counts, code = counted(copies, columns, [amount], seed, "tokens"), copies.codes(columns)[:, 0]
    for i in range(len(code)):
        assert (counts[code > code[i]] >= counts[i]).all()
    assert not counts[priority_code("top", columns) == priority_code("top", columns).min()].any() or curve.drop == 0


@pytest.mark.parametrize("dither", [False, True])
def test_copies_follow_the_curve(dither):
    """Its constant is found here by bisection over the exact shares of the tokens."""
    rng, n, curve = np.random.default_rng(2), 20_000, UpsamplingCurve(dither=dither)
    columns = {
        "score": rng.normal(size=n).astype(np.float32),
        "key": rng.integers(0, 2**64, n, np.uint64),
        "tokens": rng.integers(1, 2000, n).astype(np.uint32),
    }
    copies, total = copies_of(curve, columns, 1, 0, "tokens"), int(columns["tokens"].sum())
    counts = counted(copies, columns, [total], 0, "tokens")
    assert 0 <= total - (counts * columns["tokens"].astype(int)).sum() < 2000
    order = np.argsort(columns["score"], kind="stable")
    share = np.empty(n)
    share[order] = (np.cumsum(columns["tokens"][order]) - columns["tokens"][order]) / total
    np.testing.assert_allclose(copies.heights(columns), curve.heights(share), atol=0.01)

    height = curve.heights(share)

    def wanted(c):
        return np.minimum(c * height if dither else np.floor(c * height), curve.cap)

    low, high = 0.0, 1e3
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (wanted(middle) * columns["tokens"]).sum() <= total else (low, middle)
    assert abs((counts - wanted(low))[order].reshape(50, -1).mean(axis=1)).max() < 0.05


def test_olmo3_takes_the_steepest_curve_that_the_cap_allows():
    curve, x = UpsamplingCurve.olmo3(2.0), np.linspace(0.4, 1, 100_001)
    height = 2 * curve.heights(x) / (curve.heights(x).mean() * 0.6)
    assert height[x > 0.95].mean() == pytest.approx(7, rel=1e-3)
    assert (UpsamplingCurve.olmo3(1.0).power, UpsamplingCurve.olmo3(1.0).growth) == (2, 2)
    assert UpsamplingCurve.olmo3(4.15).power == pytest.approx(0.01)
    with pytest.raises(InvalidCut, match="at most 4.2 times"):
        UpsamplingCurve.olmo3(4.3)


shared = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


@given(shared, st.integers(0, 500), st.integers(0, 500), st.lists(st.integers(0, 200), min_size=4, max_size=4))
def test_an_amount_is_shared_out_and_no_part_falls_when_it_grows(parts, amount, more, sizes):
    shares = {name: part / sum(parts.values()) for name, part in parts.items()}
    held = dict(zip("abcd", sizes, strict=True))
    for limits in (None, held):
        small, large = share_out(amount, shares, limits), share_out(amount + more, shares, limits)
        assert all(small[name] <= large[name] for name in parts)
        most = amount if limits is None else min(amount, sum(held[name] for name in parts))
        assert most - len(parts) < sum(small.values()) <= most
    assert all(share_out(amount, shares, held)[name] <= held[name] for name in parts)


# ------------------------------------------------------------------------------------------------------------ stores


@pytest.fixture
def stores(tmp_path):
    """200 documents of two sources, with tokens, and their labels: web, wiki and code."""
    rng = np.random.default_rng(3)
    scores = SourceStore(str(tmp_path / "scores"), pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS[1:]]))
    labels = SourceStore(str(tmp_path / "labels"), pa.schema([("key", pa.uint64()), ("label", pa.string())]))
    scores.begin("scores", {"scorer": "test"}, None)
    labels.begin("labels", {"labels": "kind"}, None)
    for source in ("a", "b"):
        columns = {
            "key": rng.integers(0, 2**64, 100, np.uint64),
            "score": rng.integers(1, 30, 100).astype(np.float32),
            "tokens": rng.integers(1, 50, 100).astype(np.uint32),
        }
        scores.seal(source, columns)
        kinds = np.array(["web"] * 70 + ["wiki"] * 20 + ["code"] * 10, dtype=object)
        labels.seal(source, {"key": columns["key"], "label": kinds})
    for store in (scores, labels):
        store.finish_task(0, 1, ["a", "b"])
    return ScoreStore.open(scores.path), LabelStore.open(labels.path)


def by_label(selection, tokens):
    kinds = np.array((["web"] * 70 + ["wiki"] * 20 + ["code"] * 10) * 2)
    return {kind: int((selection.counts * tokens)[kinds == kind].sum()) for kind in ("web", "wiki", "code")}


def test_a_mixture_meets_its_shares_by_each_labels_own_scores(stores):
    store, labels = stores
    tokens = store.tokens.astype(int)
    mix = {"web": 0.6, "wiki": 0.4}
    found = by_label(select(store, Cut("top", token_budget=1000, mixture=mix), labels), tokens)
    assert found["code"] == 0
    assert 550 < found["web"] <= 600
    assert 350 < found["wiki"] <= 400
    assert select(store, Cut("ips", k=25, mixture=mix), labels).documents == 25
    assert by_label(select(store, Cut("top", rate=0.25, mixture=mix), labels), 1)["wiki"] == 20
    larger = select(store, Cut("top", token_budget=1500, mixture=mix), labels)
    assert (select(store, Cut("top", token_budget=1000, mixture=mix), labels).counts <= larger.counts).all()
    upsampled = Cut("top", token_budget=3000, mixture=mix, upsample=UpsamplingCurve(0.1))
    assert 1150 < by_label(select(store, upsampled, labels), tokens)["wiki"] <= 1200


def test_a_stratum_that_is_too_small_is_named_or_filled_up_by_the_others(stores):
    store, labels = stores
    cut = {"mode": "top", "k": 100, "mixture": {"web": 0.6, "code": 0.4}}
    with pytest.raises(InvalidCut, match=r"stratum 'code' holds 20 documents, and the cut asks for 40 .*fill=others"):
        select(store, Cut(**cut), labels)
    assert by_label(select(store, Cut(**cut, fill="others"), labels), 1) == {"web": 80, "wiki": 0, "code": 20}
    with pytest.raises(InvalidCut, match="of the mixture hold 160 documents, and the cut asks for 165"):
        select(store, Cut("top", k=165, mixture=cut["mixture"], fill="others"), labels)
    with pytest.raises(InvalidCut, match="names 'books', and .*code, web, wiki"):
        select(store, Cut("top", k=10, mixture={"books": 1}), labels)
    with pytest.raises(InvalidCut, match="MetadataLabels"):
        select(store, Cut("top", k=10, mixture={"web": 1}))


def test_an_infeasible_curve_says_the_largest_amount_that_is_not(stores):
    store, _ = stores
    with pytest.raises(InvalidCut) as error:
        select(store, Cut("top", token_budget=10**6, upsample=UpsamplingCurve()))
    most = int(
        re.search(r"holds ([\d,]+) tokens above drop=0.4, in up to 7 copies", str(error.value))[1].replace(",", "")
    )
    selection = select(store, Cut("top", token_budget=most, upsample=UpsamplingCurve()))
    assert (selection.counts * store.tokens.astype(int)).sum() == most
    assert set(selection.counts) == {0, 7}
    assert select(store, Cut("top", rate=1.5, upsample=UpsamplingCurve())).copies == 300
    bottom = select(store, Cut("bottom", k=50, upsample=UpsamplingCurve()))
    assert store.scores[bottom.mask].max() < np.median(store.scores)


def test_duplicates_count_as_a_table_says_with_and_without_a_budget(stores):
    store, _ = stores
    table = {1: 1, 2: 3, 17: 10, 25: 0}
    expected = np.array([10 if s >= 17 else 3 if s >= 2 else 1 for s in store.scores]) * (store.scores < 25)
    every = select(store, Cut("top", copies=table))
    np.testing.assert_array_equal(every.counts, expected)
    some = select(store, Cut("top", k=every.copies // 2, copies=table))
    assert (some.copies, (some.counts <= every.counts).all()) == (every.copies // 2, True)
    shares = expected[expected > 0] / np.maximum(some.counts[expected > 0], 1)
    assert shares.max() <= 4  # nobody is left with less than a share of the others' last copy


def test_a_cut_survives_json_and_old_ones_keep_their_digest(stores):
    store, labels = stores
    cut = Cut("top", token_budget=99, upsample={"cap": 3}, mixture={"web": 1.0}, fill="others")
    assert Cut(**json.loads(json.dumps(cut.made()))) == cut
    assert hash(Cut("top", copies={1: 2})) == hash(Cut("top", copies={1: 2}))
    assert Cut("top", k=1).made() == {"mode": "top", "k": 1, "rate": None, "token_budget": None, "seed": 0}
    first = select(store, cut, labels)
    np.testing.assert_array_equal(select(store, cut, labels).counts, first.counts)  # from the published file


PINNED = {
    ("top", "k", 30): "c1a5bb24eba86489",
    ("ips", "rate", 0.4): "c947f9641f4dfe64",
    ("direct", "token_budget", 200): "47ac9024a70256f9",
    ("poisson", "rate", 0.4): "b4cf9edd2f22ca7a",
    ("random", "k", 30): "5eaf4698caba9768",
}


def test_selections_of_one_copy_have_the_bytes_they_had_before_there_were_copies(tmp_path):
    store = SourceStore(str(tmp_path / "s"), pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS[1:]]))
    store.begin("scores", {"scorer": "test"}, None)
    for source, first, n in (("a", 0, 50), ("b", 50, 70)):
        i = np.arange(first, first + n, dtype=np.uint64)
        columns = {
            "key": i * np.uint64(0x9E3779B97F4A7C15),
            "score": (i * np.uint64(7) % np.uint64(11)).astype(np.float32) / 4,
            "tokens": (i % np.uint64(9) + np.uint64(1)).astype(np.uint32),
        }
        store.seal(source, columns)
    store.finish_task(0, 1, ["a", "b"])
    for (mode, amount, value), expected in PINNED.items():
        select(ScoreStore.open(store.path), Cut(mode, **{amount: value}, seed=3)).save(str(tmp_path / "file"))
        assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()[:16] == expected
    cuts = sorted((tmp_path / "s" / "cuts").iterdir())
    assert cuts[0].name == "549020a5a711d93748c30847c2a044ae.json"


def test_a_temperature_softens(stores):
    store, _ = stores
    hard, soft, flat = (select(store, Cut("direct", k=50, temperature=t)) for t in (1e-3, 5, 1e6))
    best = np.sort(store.scores)[-50:].sum()
    assert store.scores[hard.mask].sum() == best
    assert best > store.scores[soft.mask].sum() > store.scores[flat.mask].sum()
    scaled = select(store, Cut("direct", k=50, temperature=2 * float(np.float32(store.scores.std(dtype=float)))))
    normalized = select(store, Cut("direct", k=50, temperature=2, normalize=True))
    for same in (normalized, select(store, Cut("direct", k=50, temperature=2, normalize=True))):
        np.testing.assert_array_equal(same.counts, scaled.counts)
    assert Cut("direct", k=5, temperature=1).made() == Cut("direct", k=5).made()
    halved = {"score": store.scores / np.float32(2), "key": store.keys}
    np.testing.assert_array_equal(
        priority_code("direct", {"score": store.scores, "key": store.keys}, 7, 2.0), priority_code("direct", halved, 7)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 1, "temperature": 2}, "modes ips and direct, not for top"),
        ({"mode": "ips", "k": 1, "temperature": 0}, "temperature=0.0 is out of range"),
        ({"mode": "ips", "k": 1, "upsample": UpsamplingCurve()}, "modes top and bottom, not for ips"),
        ({"k": 1, "upsample": {"cap": 256}}, "cap=256.* is out of range"),
        ({"k": 1, "upsample": {"slope": 1}}, "no setting 'slope': give drop, cap"),
        ({"k": 1, "upsample": {"power": "steep"}}, "power=steep is not a number"),
        ({"copies": {1: 300}}, "from 0 to 255"),
        ({"copies": {1: 1.5}}, "copies must map whole numbers"),
        ({"copies": {1: 1}, "upsample": UpsamplingCurve()}, "leave upsample"),
        ({"upsample": UpsamplingCurve()}, "exactly one of k, rate and token_budget"),
        ({"rate": 256, "upsample": UpsamplingCurve()}, "rate=256.0 is out of range: 0 to 255"),
        ({"k": 1, "mixture": {"a": 0.5}}, "add up to 1, not 0.5"),
        ({"copies": {1: 1}, "mixture": {"a": 1}}, "shares out an amount"),
        ({"k": 1, "fill": "others"}, "fill is for mixtures"),
    ],
)
def test_senseless_settings_are_refused_by_name(arguments, message):
    with pytest.raises(InvalidCut, match=message):
        Cut(**{"mode": "top", **arguments})


# -------------------------------------------------------------------------------------------------------- selections


@given(st.lists(st.integers(0, 255) | st.sampled_from([0, 2]), max_size=40))
def test_counts_survive_the_disk(counts):
    counts = np.array(counts, dtype=np.uint8)
    Selection(counts, "digest", {"mode": "test"}).save("memory://counts")
    loaded = Selection.load("memory://counts")
    np.testing.assert_array_equal(loaded.counts, counts)
    assert (loaded.documents, loaded.copies) == ((counts > 0).sum(), counts.astype(int).sum())
    np.testing.assert_array_equal(loaded.mask, counts > 0)


def test_only_the_bits_in_use_are_stored_and_told_apart():
    ones, twos = (Selection(np.array(counts), "d", {}) for counts in ([0, 1, 1], [0, 2, 2]))
    assert list(ones.planes()) == ["bitmap"]
    assert list(twos.planes()) == ["bit1"]
    assert list(Selection(np.array([5, 0]), "d", {}).planes()) == ["bit0", "bit2"]
    assert ones.counts_digest != twos.counts_digest
    with pytest.raises(InvalidCut, match="from 0 to 255"):
        Selection(np.array([256]), "d", {})


def test_a_cascade_multiplies_counts(stores, tmp_path):
    store, _ = stores
    first = select(store, Cut("top", copies={1: 0, 10: 3}))
    left = SourceStore(str(tmp_path / "left"), pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS[1:]]))
    left.begin("scores", {"scorer": "test"}, None)
    size = first.documents
    ones = np.ones(size, np.uint32)
    left.seal("a", {"key": store.keys[first.mask], "score": np.arange(size).astype(np.float32), "tokens": ones})
    left.finish_task(0, 1, ["a"])
    second = select(ScoreStore.open(left.path), Cut("top", copies={0: 1, 50: 2}))
    both = cascade(store, first, second)
    np.testing.assert_array_equal(both.counts[first.mask], 3 * second.counts)
    assert both.documents == size
    with pytest.raises(InvalidCut, match="a document 510 times"):
        cascade(store, first, Selection(np.full(size, 170), second.corpus_digest, {}))
    with pytest.raises(StoreMismatch, match="what the first cut keeps"):
        cascade(store, select(store, Cut("top", k=3)), second)


# ----------------------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize("tasks", [1, 3])
def test_documents_come_out_as_often_as_the_selection_says(corpus, tmp_path, tasks):
    score(corpus, tmp_path / "scores")
    scores, cut = str(tmp_path / "scores"), Cut("top", rate=1.5, upsample=UpsamplingCurve())
    counts = select(ScoreStore.open(scores), cut).counts
    ids = [doc.id for doc in JsonlReader(str(corpus)).run()]
    expected = [
        f"{id}#{number}" if number > 1 else id for id, n in zip(ids, counts, strict=True) for number in range(1, n + 1)
    ]
    assert len(expected) == 150

    def come(**options):
        for rank in range(tasks):
            step = TopKFilter(scores, rate=1.5, upsample=UpsamplingCurve(), **options)
            step.batch_size = 1 + 6 * (tasks == 3)
            yield from step.run(JsonlReader(str(corpus)).run(None, rank, tasks), rank, tasks)

    found = []
    for doc in come():  # a step behind that changes what it gets
        found.append((doc.id, doc.text, "file_path" in doc.metadata))
        doc.id, doc.text = "changed", "changed"
        doc.metadata.clear()
    texts = {doc.id: doc.text for doc in JsonlReader(str(corpus)).run()}
    assert sorted(found) == sorted((id, texts[id.partition("#")[0]], True) for id in expected)
    once = [(doc.id, doc.metadata["count"]) for doc in come(repeat=False)]
    assert all(type(count) is int for _, count in once)
    assert sorted(once) == sorted((id, int(n)) for id, n in zip(ids, counts, strict=True) if n)
    (corpus / "b.jsonl").unlink()
    with pytest.raises(CorpusError, match=r"of the 150 documents"):
        list(come())


def test_duplicates_are_restored_by_the_size_of_their_cluster(tmp_path):
    """As datatrove's MinHash leaves it: one of each cluster, with its size."""
    sizes = {"a": 1, "b": 2, "c": 5, "d": 900}
    rows = [{"id": id, "text": f"text {id}", "minhash_cluster_size": size} for id, size in sizes.items()]
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores, read = str(tmp_path / "scores"), JsonlReader(str(tmp_path / "corpus"))
    list(MetadataScorer(scores, "minhash_cluster_size").run(read.run()))
    step = CutFilter(scores, Cut("top", copies={1: 1, 2: 3, 145: 1}))
    assert [doc.id for doc in step.run(read.run())] == "a b b#2 b#3 c c#2 c#3 d".split()


def test_temperature_and_mixture_in_filters(corpus, tmp_path):
    score(corpus, tmp_path / "scores")
    docs = list(JsonlReader(str(corpus)).run())
    for doc in docs:
        doc.metadata["kind"] = "even" if len(doc.text) % 2 else "odd"
    even = {doc.id for doc in docs if doc.metadata["kind"] == "even"}
    list(MetadataLabels(str(tmp_path / "labels"), "kind").run(iter(docs)))
    cut = Cut("ips", k=20, temperature=3, mixture={"even": 0.75, "odd": 0.25})
    step = CutFilter(str(tmp_path / "scores"), cut, labels=str(tmp_path / "labels"))
    found = [doc.id for doc in step.run(JsonlReader(str(corpus)).run())]
    assert (len(found), len(even & set(found))) == (20, 15)
    hot = IPSFilter(str(tmp_path / "scores"), k=20, temperature=3)
    assert len(list(hot.run(JsonlReader(str(corpus)).run()))) == 20


GAMMA = np.random.default_rng(5)


@pytest.mark.parametrize(
    "scores",
    [
        1 - 1e-3 * GAMMA.gamma(2, size=20_000),  # saturated probabilities
        1 - 2**-8 * GAMMA.random(20_000) ** 6,
        1 + 0.0078 * GAMMA.random(20_000) ** 8,
        1000 + GAMMA.normal(size=20_000),
        GAMMA.integers(0, 3, 20_000) / 7,
    ],
    ids=["near one", "below one", "above one", "thousands", "three values"],
)
def test_a_distribution_is_true_to_a_thousandth_wherever_scores_lie(scores):
    column = {"score": scores.astype(np.float32)}
    ((knots, below, whole),) = shares(lambda names, rows: iter([(0, column)]), "top", 0, None, 1)
    code = order_code(column["score"])
    found = np.interp(code, knots, np.array(below) / whole)
    np.testing.assert_allclose(found, np.searchsorted(np.sort(code), code) / code.size, atol=0.002)
    assert len(knots) <= 2_100


def test_a_higher_score_never_means_fewer_copies_at_the_ends_of_the_settings():
    score = np.sort(GAMMA.random(5_000)).astype(np.float32)
    columns = {"score": score, "key": GAMMA.integers(0, 2**64, score.size, np.uint64)}
    read = lambda names, rows: iter([(0, columns)])  # noqa: E731
    for curve in (UpsamplingCurve(0, 7, 4, 40), UpsamplingCurve(0.9, 255, 4, 40)):
        events = CopiesByCurve(curve, "top", 0, shares(read, "top", 0, None, 1))
        thresholds = events.find_thresholds(read, [2_000])
        counts = events.counts(thresholds, columns, 0, 0)
        assert counts.sum() == 2_000
        assert (np.diff(counts.astype(int)) >= 0).all()


def test_settings_of_a_curve_are_whole_where_they_must_be():
    assert UpsamplingCurve(cap=np.int64(3)) == UpsamplingCurve(cap=3.0) == UpsamplingCurve.of({"cap": "3"})
    with pytest.raises(InvalidCut, match="cap=7.9 is out of range: a whole number"):
        UpsamplingCurve.of({"cap": 7.9})
    with pytest.raises(InvalidCut, match="growth=100 is out of range: 0 to 40"):
        UpsamplingCurve(growth=100)
