"""A fastText classifier's own probabilities, from a real model."""

import random
from contextlib import suppress

import fasttext
import numpy as np
import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader

from pipeline_steps import FastTextScorer, ScoreStore
from pipeline_steps.errors import ModelError


GOOD, BAD = "the river runs north to sea".split(), "buy cheap offers click here now".split()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("fasttext"), random.Random(0)
    lines = [
        f"__label__{label} {' '.join(rng.choices(words, k=20))}\n"
        for _ in range(300)
        for label, words in (("hq", GOOD), ("spam", BAD), ("other", GOOD + BAD))
    ]
    (folder / "train.txt").write_text("".join(lines))
    for _ in range(20):  # its training, not its prediction, meets NaN now and then
        with suppress(RuntimeError):
            trained = fasttext.train_supervised(str(folder / "train.txt"), thread=1, dim=8, bucket=1000, verbose=0)
            trained.save_model(str(folder / "model.bin"))
            break
    return str(folder / "model.bin")


def docs(*texts):
    return [Document(text, str(row), metadata={"file_path": "a"}) for row, text in enumerate(texts)]


def test_log_odds_are_the_model_s(model):
    texts = ["the river runs north", "buy cheap\noffers", "river click here", " ".join(GOOD * 1000)]
    found = FastTextScorer("unused", model, "hq").score_batch(docs(*texts))
    for text, score in zip(texts, found["score"], strict=True):
        predicted = fasttext.load_model(model).f.predict(text.replace("\n", " ") + "\n", -1, 0.0, "strict")
        chance = {label: p for p, label in predicted}
        others = chance["__label__spam"] + chance["__label__other"]
        assert score == pytest.approx(np.log(chance["__label__hq"] / others), abs=1e-5)
    assert found["score"][1] < found["score"][2] < found["score"][0]
    assert found["tokens"].tolist() == [4, 3, 3, 6000]


def test_lines_do_not_glue_words_and_odd_texts_have_scores(model):
    scorer = FastTextScorer("unused", model, "__label__hq")
    glued = scorer.score_batch(docs("river\nnorth", "river north", "", "\n\n", "日本\ud800", "\x00"))["score"]
    assert glued[0] == glued[1]
    assert np.isfinite(glued).all()


def test_in_a_real_executor(model, corpus, tmp_path):
    step = FastTextScorer(str(tmp_path / "s"), model, "hq")
    LocalPipelineExecutor([JsonlReader(str(corpus)), step], tasks=2, workers=2, logging_dir=str(tmp_path / "l")).run()
    store = ScoreStore.open(str(tmp_path / "s"))
    assert store.config["unit"] == "log-odds of hq, nats"
    texts = [doc.text for doc in JsonlReader(str(corpus)).run()]
    assert sorted(store.scores) == sorted(step.score_batch(docs(*texts))["score"])


def test_what_is_wrong_is_said(model, tmp_path):
    with pytest.raises(ModelError, match=r"has the labels .*spam.*: pass one as label"):
        FastTextScorer("unused", model, "prose").score_batch(docs("the river"))
    (tmp_path / "x.bin").write_bytes(b"no model")
    for path in (tmp_path / "x.bin", tmp_path / "none.bin"):
        with pytest.raises(ModelError, match="no fastText model that can be had"):
            FastTextScorer(str(tmp_path / "s"), str(path), "hq").fingerprint()
