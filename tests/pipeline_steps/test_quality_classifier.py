"""The linear classifier learns what can be learned, says how well, and does not depend on how it is fed."""

import json

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from word_count import score

from pipeline_steps import (
    MetadataScorer,
    QualityClassifierFit,
    QualityClassifierScorer,
    ScoreDistillation,
    ScoreStore,
    TopKFilter,
)
from pipeline_steps.errors import CorpusError, StoreIncomplete
from pipeline_steps.numerics.statistics import auc, spearman
from pipeline_steps.stores.files import load_tensors


def write(folder, name, words, count, rng):
    folder.mkdir(exist_ok=True)
    rows = [{"id": f"{name}-{i}", "text": " ".join(rng.choice(words, size=80))} for i in range(count)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def corpora(tmp_path):
    """Reference and web text that share most of their words."""
    rng = np.random.default_rng(0)
    shared = [f"word{i}" for i in range(50)]
    write(tmp_path / "books", "a", [*shared, "whereas", "therefore", "indeed"], 300, rng)
    write(tmp_path / "web", "b", [*shared, "click", "login", "cookies"], 300, rng)
    return tmp_path


def header(model):
    return load_tensors(f"{model}/classifier.safetensors")[1]


def test_it_learns_and_says_how_well(corpora):
    books, web, model = JsonlReader(str(corpora / "books")), JsonlReader(str(corpora / "web")), str(corpora / "model")
    list(QualityClassifierFit(model, books, web).run())
    assert header(model)["held_out_auc"] > 0.95
    assert header(model)["held_out_documents"] == 60
    (corpora / "both").mkdir()
    for name in ("books/a", "web/b"):
        (corpora / "both" / f"{name[-1]}.jsonl").write_text((corpora / f"{name}.jsonl").read_text())
    both = JsonlReader(str(corpora / "both"))
    for tasks, scores in ((1, "one"), (3, "three")):
        for rank in range(tasks):
            step = QualityClassifierScorer(str(corpora / scores), model, window_size=100)
            list(step.run(both.run(None, rank, tasks), rank, tasks))
    one, three = (ScoreStore.open(str(corpora / name)).scores for name in ("one", "three"))
    np.testing.assert_array_equal(one, three)
    kept = [doc.id for doc in TopKFilter(str(corpora / "one"), k=300).run(both.run())]
    assert sum(id.startswith("a-") for id in kept) > 285


def test_training_again_gives_the_same_model(corpora):
    for name in ("m", "n"):
        books, web = JsonlReader(str(corpora / "books")), JsonlReader(str(corpora / "web"))
        list(QualityClassifierFit(str(corpora / name), books, web).run())
    blobs = [(corpora / name / "classifier.safetensors").read_bytes() for name in ("m", "n")]
    assert blobs[0] == blobs[1]


def test_distillation_agrees_with_a_teacher_that_counts_words(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "web").mkdir()
    rows = [
        {"id": str(i), "text": " ".join(["good"] * good + ["bad"] * (30 - good))}
        for i, good in enumerate(rng.integers(0, 31, 400).tolist())
    ]
    (tmp_path / "web" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    docs = list(JsonlReader(str(tmp_path / "web")).run())
    for doc in docs:
        doc.metadata["teacher"] = 5.0 + doc.text.count("good") / 3
    list(MetadataScorer(str(tmp_path / "teacher"), "teacher", lower_is_better=True).run(iter(docs[:300])))
    model = str(tmp_path / "student")
    list(ScoreDistillation(model, JsonlReader(str(tmp_path / "web")), str(tmp_path / "teacher")).run())
    assert header(model)["held_out_documents"] == 30
    assert header(model)["held_out_spearman"] > 0.95
    scored = list(QualityClassifierScorer(str(tmp_path / "s"), model).run(iter(docs)))
    unseen = scored[300:]
    student, teacher = ([doc.metadata[key] for doc in unseen] for key in ("quality", "teacher"))
    assert spearmanr(student, teacher).statistic > 0.95
    assert abs(np.mean(student) - np.mean(teacher)) < 1
    assert ScoreStore.open(str(tmp_path / "s")).lower_is_better  # as the teacher's


def test_what_cannot_be_learned_from_is_named(corpora, tmp_path):
    score(corpora / "books", tmp_path / "teacher")
    web = JsonlReader(str(corpora / "web"))
    with pytest.raises(CorpusError, match="holds 0 of the corpus's documents"):
        list(ScoreDistillation(str(tmp_path / "m"), web, str(tmp_path / "teacher")).run())
    with pytest.raises(CorpusError, match="gives 5 documents"):
        list(QualityClassifierFit(str(tmp_path / "m"), web, JsonlReader(str(corpora / "web"), limit=5)).run())
    with pytest.raises(ValueError, match="at least 20, not 5"):
        QualityClassifierFit(str(tmp_path / "m"), web, web, documents=5)
    with pytest.raises(StoreIncomplete, match="holds no classifier"):
        list(QualityClassifierScorer(str(tmp_path / "s"), str(tmp_path / "m")).run(web.run()))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_and_spearman_equal_their_libraries(pairs):
    scores, truth = np.array([a for a, _ in pairs], float), np.array([b for _, b in pairs], float)
    if 0 < truth.sum() < truth.size:
        assert auc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
        if np.ptp(scores):
            assert spearman(scores, truth) == pytest.approx(spearmanr(scores, truth).statistic)
