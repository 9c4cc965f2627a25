"""Documents that scorers agree on must be those that were planted, and the corpus is read once."""

import numpy as np
import pytest

from evaluate_suite.report.documents import KINDS, candidates, ends, percentiles, pick, titles
from pipeline_steps.errors import InvalidCut, StoreMismatch


N = 500


def planted():
    """Document 7 is liked by all, 8 by none, 9 by the larger only, 10 by the smaller only."""
    rng = np.random.default_rng(0)
    scores = {name: rng.random(N).astype(np.float32) for name in ("small", "large", "other")}
    for score_N in scores.values():
        score_N[7], score_N[8] = 2, -2
    for row, sign in ((9, 1), (10, -1)):
        scores["small"][row], scores["large"][row] = -sign * 1.5, sign * 1.5
    return scores


def texts(n=N):
    for row in range(n):
        yield row, f"id-{row}", f"text {row}"


def test_percentiles_are_shares_of_the_others_and_do_not_depend_on_the_unit():
    score_N = np.array([3.0, 1.0, 2.0, 2.0, 9.0], dtype=np.float32)
    found = percentiles({"a": score_N, "b": np.exp(score_N)})
    assert found["a"].tolist() == [75.0, 0.0, 37.5, 37.5, 100.0]
    assert np.array_equal(found["a"], found["b"])


def test_planted_documents_are_found():
    found = pick(planted(), texts(), 3, "small", "large")
    assert [found[kind, ""][0].id for kind in KINDS] == ["id-7", "id-8", "id-9", "id-10"]
    assert all(len(found[kind, ""]) == 3 for kind in KINDS)
    assert found["agreed_high", ""][0].percentiles == {"small": 100.0, "large": 100.0, "other": 100.0}
    gaps = [d.percentiles["large"] - d.percentiles["small"] for d in found["larger_only", ""]]
    assert gaps == sorted(gaps, reverse=True)


def test_without_two_sizes_there_is_only_agreement():
    assert set(candidates(percentiles(planted()), 3)) == {("agreed_high", ""), ("agreed_low", "")}


def test_copies_are_shown_once_and_hidden_documents_never():
    same = ((row, f"id-{row}", "copy" if row in (7, 9) else text) for row, _, text in texts())
    found = pick(planted(), same, 5, "small", "large", hidden=lambda id, text: id == "id-8")
    everything = [document for kind in found.values() for document in kind]
    assert "id-8" not in {document.id for document in everything}
    for kind in found.values():
        assert len({document.text for document in kind}) == len(kind)


def test_the_corpus_is_streamed_once():
    read = []

    def once():
        for row, id, text in texts():
            read.append(row)
            yield row, id, text

    pick(planted(), once(), 3)
    assert read == list(range(N))


def test_another_corpus_is_refused():
    with pytest.raises(StoreMismatch, match=r"499 documents, 500 were scored"):
        pick(planted(), texts(N - 1), 3)
    with pytest.raises(InvalidCut, match="same documents"):
        percentiles({"a": np.zeros(3), "b": np.zeros(4)})


def test_a_set_smaller_than_the_lists():
    scores = {"small": np.array([0.0, 1.0]), "large": np.array([1.0, 0.0])}
    found = pick(scores, texts(2), 10, "small", "large")
    assert [d.id for d in found["larger_only", ""]] == ["id-0"]
    assert [d.id for d in found["smaller_only", ""]] == ["id-1"]


def test_each_scorer_has_its_own_lists_with_its_scores():
    found = pick(planted(), texts(), 3, each=True)
    assert list(found)[:2] == [("highest", "small"), ("lowest", "small")]
    best, worst = found["highest", "large"], found["lowest", "large"]
    assert [best[0].id, worst[0].id] == ["id-7", "id-8"]
    assert [best[0].score, worst[0].score] == [2.0, -2.0]
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
    assert found["agreed_high", ""][0].score is None
    alone = pick({"small": planted()["small"]}, texts(), 3, each=True)
    assert list(alone) == [("highest", "small"), ("lowest", "small")]


def test_scorers_that_are_set_against_each_other():
    assert ends(["random", "ask-llm-xl", "ask-llm-small", "ask-llm-base"]) == ("ask-llm-small", "ask-llm-xl")
    assert ends(["ask-llm", "density"]) == ("ask-llm", "density")
    assert ends(["ask-llm", "density", "dsir"]) == ("", "")
    assert titles("ask-llm", "density")["larger_only"] == "Density likes them, Ask-LLM does not"
