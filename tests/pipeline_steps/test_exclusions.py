"""What is excluded is as if it had never been there: cuts of a corpus without it keep the same documents."""

import json

import numpy as np
import pytest
from conftest import document
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_steps import (
    Cut,
    Documents,
    IPSFilter,
    LabelStore,
    MetadataLabels,
    MetadataScorer,
    ScoreSelector,
    ScoreStore,
    Selection,
    TopKFilter,
    UpsamplingCurve,
    select,
)
from pipeline_steps.errors import InvalidCut, StoreIncomplete, StoreMismatch
from pipeline_steps.filters.cut_settings import Exclusion


def rows():
    for number in range(90):
        quality, label = number * 37 % 23 / 4, "wiki" if number % 3 else "web"
        yield document(number) | {"quality": quality, "bad": number % 4, "good": -(number % 5), "label": label}


def write(folder, some):
    """Store a corpus of two files with its scores and labels."""
    some = list(some)
    (folder / "corpus").mkdir(parents=True)
    for name, part in {"a": some[: len(some) // 3], "b": some[len(some) // 3 :]}.items():
        lines = (json.dumps(row | {"token_count": 5 + len(row["id"])}) + "\n" for row in part)
        (folder / "corpus" / f"{name}.jsonl").write_text("".join(lines))
    for step in (
        MetadataScorer(str(folder / "quality"), "quality"),
        MetadataScorer(str(folder / "bad"), "bad", lower_is_better=True),
        MetadataScorer(str(folder / "good"), "good"),
        MetadataLabels(str(folder / "labels"), "label"),
    ):
        list(step.run(JsonlReader(str(folder / "corpus")).run()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The whole corpus, and one without what is bad."""
    folder = tmp_path_factory.mktemp("excluded")
    write(folder / "whole", rows())
    write(folder / "clean", (row for row in rows() if row["bad"] <= 1 and row["good"] >= -3))
    return folder


def exclude(folder):
    return [f"{folder / 'whole' / 'bad'}:1", f"{folder / 'whole' / 'good'}:-3"]


def ids(store, counts):
    return dict(zip(store.column("id")[counts > 0].tolist(), counts[counts > 0].tolist(), strict=True))


def kept(folder, name, cut, is_labelled, **options):
    labels = LabelStore.open(str(folder / name / "labels")) if is_labelled else None
    store = ScoreStore.open(str(folder / name / "quality"))
    return ids(store, select(store, cut, labels, **options).counts)


SHAPES = st.sampled_from(
    [
        *({"mode": mode} for mode in ("top", "bottom", "pareto", "random", "ips", "direct", "poisson")),
        {"mode": "direct", "temperature": 2.0, "normalize": True},
        {"mode": "top", "upsample": UpsamplingCurve(0.2, 3)},
        {"mode": "top", "copies": {1: 1, 3: 2}},
    ]
)
AMOUNTS = st.sampled_from([{"rate": 0.1}, {"rate": 0.5}, {"k": 7}, {"k": 9}, {"token_budget": 120}])


@settings(max_examples=50)
@given(SHAPES, AMOUNTS, st.integers(0, 9), st.booleans())
def test_as_if_it_had_never_been_there(folder, shape, amount, seed, is_labelled):
    cut = Cut(**shape, **amount, seed=seed)
    found = kept(folder, "whole", cut, is_labelled, exclude=exclude(folder))
    assert found == kept(folder, "clean", cut, is_labelled)
    if "k" in amount and shape["mode"] != "poisson":
        assert sum(found.values()) == amount["k"] * (1 + is_labelled)


def test_mixtures_and_cuts_without_an_amount(folder):
    for cut in (
        Cut("top", k=15, mixture={"web": 0.4, "wiki": 0.6}),
        Cut("top", rate=0.4, mixture={"web": 0.5, "wiki": 0.5}, fill="others"),
        Cut("top", copies={1: 1, 4: 3}),
    ):
        found = kept(folder, "whole", cut, True, exclude=exclude(folder))
        assert found == kept(folder, "clean", cut, True)


def test_a_cut_that_excludes_nothing_is_the_cut_it_was(folder):
    for cut in (Cut("top", rate=0.3), Cut("top", token_budget=300, upsample=UpsamplingCurve(0.2, 3))):
        assert kept(folder, "whole", cut, False, exclude=[f"{folder / 'whole' / 'bad'}:99"]) == kept(
            folder, "whole", cut, False
        )


@pytest.mark.parametrize("shape", [{}, {"upsample": UpsamplingCurve(0.2, 3)}, {"copies": {0: 1, 3: 2}}])
def test_a_label_that_is_wholly_excluded_is_as_if_it_were_not_there(tmp_path, shape):
    """MetadataScorer's scores of wiki are all bad; k is of each label that is left."""
    whole = [row | {"bad": int(row["label"] == "wiki")} for row in rows()]
    write(tmp_path / "whole", whole)
    write(tmp_path / "clean", (row for row in whole if not row["bad"]))
    cut = Cut("top", k=6, **shape)
    found = kept(tmp_path, "whole", cut, True, exclude=[str(tmp_path / "whole" / "bad")])
    assert found == kept(tmp_path, "clean", cut, True)
    assert sum(found.values()) == 6


@pytest.mark.parametrize("filter", [TopKFilter, IPSFilter])
def test_filters_keep_exactly_k_of_what_remains_for_any_number_of_tasks(folder, filter):
    whole = folder / "whole"

    def chosen(tasks):
        step = filter(str(whole / "quality"), k=20, exclude=exclude(folder))
        passes = (
            step.run(JsonlReader(str(whole / "corpus")).run(None, rank, tasks), rank, tasks) for rank in range(tasks)
        )
        return sorted(doc.id for one in passes for doc in one)

    clean = {row["id"] for row in rows() if row["bad"] <= 1 and row["good"] >= -3}
    assert len(chosen(1)) == 20
    assert set(chosen(1)) <= clean
    assert chosen(2) == chosen(5) == chosen(1)


def test_dropped_documents_say_whether_they_were_excluded(folder, tmp_path):
    whole = folder / "whole"
    writer = JsonlWriter(str(tmp_path), compression=None)
    step = TopKFilter(str(whole / "quality"), k=20, exclude=exclude(folder), exclusion_writer=writer)
    kept = {doc.id for doc in step.run(JsonlReader(str(whole / "corpus")).run())}
    dropped = [json.loads(line) for line in (tmp_path / "00000.jsonl").read_text().splitlines()]
    assert len(dropped) + len(kept) == 90
    for row in dropped:
        is_clean = row["metadata"]["bad"] <= 1 and row["metadata"]["good"] >= -3
        assert row["metadata"]["filter_reason"] == ("below_cut" if is_clean else "excluded")


def test_documents_of_unknown_files_are_excluded_too(tmp_path):
    def documents():
        return Documents([Document(row["text"], row["id"], metadata=row) for row in rows()])

    for rank in range(2):
        for key in ("quality", "bad"):
            step = MetadataScorer(str(tmp_path / key), key, lower_is_better=key == "bad")
            list(step.run(documents().run(None, rank, 2), rank, 2))
    writer = JsonlWriter(str(tmp_path / "dropped"), compression=None)
    bad = f"{tmp_path / 'bad'}:1"
    step = TopKFilter(str(tmp_path / "quality"), k=20, exclude=[bad], exclusion_writer=writer)
    kept = list(step.run(documents().run()))
    assert len(kept) == 20
    assert all(doc.metadata["bad"] <= 1 for doc in kept)
    dropped = map(json.loads, (tmp_path / "dropped" / "00000.jsonl").read_text().splitlines())
    reasons = [(row["metadata"]["filter_reason"], row["metadata"]["bad"] > 1) for row in dropped]
    assert set(reasons) == {("excluded", True), ("below_cut", False)}


def test_a_selection_says_what_was_excluded(folder, tmp_path):
    scores, path = str(folder / "whole" / "quality"), str(tmp_path / "s.safetensors")
    cut = Cut("top", k=10)
    list(ScoreSelector(scores, cut, selection=path, exclude=exclude(folder)).run())
    made = Selection.load(path).cut["exclude"]
    assert [(one["scorer"], one["threshold"]) for one in made] == [("MetadataScorer", 1), ("MetadataScorer", -3)]
    assert "exclude" not in select(ScoreStore.open(scores), cut).cut
    assert made[0]["scores"] == ScoreStore.open(str(folder / "whole" / "bad")).fingerprint


@pytest.mark.parametrize(
    ("text", "scores", "threshold"),
    [
        ("scores/bad", "scores/bad", 0.0),
        ("scores/bad/:0.5", "scores/bad", 0.5),
        ("s3://bucket/bad", "s3://bucket/bad", 0.0),
        ("s3://bucket/bad:-1e3", "s3://bucket/bad", -1000.0),
    ],
)
def test_an_exclusion_in_words(text, scores, threshold):
    assert Exclusion.of(text) == Exclusion(scores, threshold)


@pytest.mark.parametrize("text", ["", ":3", "3:nan", "bad:nan"])
def test_words_that_exclude_nothing_are_refused(text):
    with pytest.raises(InvalidCut, match="give FOLDER or FOLDER:THRESHOLD"):
        Exclusion.of(text)


def test_what_cannot_be_excluded_is_named(folder, tmp_path):
    whole = folder / "whole"
    store = ScoreStore.open(str(whole / "quality"))
    with pytest.raises(InvalidCut, match="exclude all 90 documents"):
        select(store, Cut("top", k=3), exclude=[f"{whole / 'bad'}:-1"])
    with pytest.raises(InvalidCut, match="holds 23 that are not excluded"):
        select(store, Cut("top", k=24), exclude=[str(whole / "bad")])
    with pytest.raises(StoreMismatch, match="not of the same documents"):
        select(store, Cut("top", k=3), exclude=[str(folder / "clean" / "bad")])
    with pytest.raises(StoreIncomplete, match="nothing"):
        select(store, Cut("top", k=3), exclude=[str(tmp_path / "nothing")])
    with pytest.raises(InvalidCut, match="give a list"):
        select(store, Cut("top", k=3), exclude=str(whole / "bad"))
    with pytest.raises(InvalidCut, match="give a list"):
        TopKFilter(str(whole / "quality"), k=3, exclude=str(whole / "bad"))


def test_a_found_cut_is_published_apart(folder):
    whole = folder / "whole"
    store = ScoreStore.open(str(whole / "quality"))
    cut = Cut("top", k=11, seed=77)
    without, with_all = select(store, cut, exclude=exclude(folder)).counts, select(store, cut).counts
    assert not np.array_equal(without, with_all)
    assert np.array_equal(select(store, cut).counts, with_all)
