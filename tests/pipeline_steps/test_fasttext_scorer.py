"""A fastText classifier's own probabilities, of a model file whose weights are known."""

import struct

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from word_count import columns_of

from pipeline_steps import FastTextScorer, ScoreStore
from pipeline_steps.errors import ModelError


GOOD, BAD = "the river runs north to sea".split(), "buy cheap offers click here now".split()
WORDS, LABELS, WIDTH = GOOD + BAD, ["hq", "spam", "other"], 5
rng = np.random.default_rng(0)
INPUT = rng.normal(0, 0.3, (len(WORDS), WIDTH)).astype(np.float32)
INPUT[:, 0] = [2.0] * len(GOOD) + [-2.0] * len(BAD)
OUTPUT = np.float32([[2, 0, 0, 0, 0.1], [-2, 0, 0.2, 0, 0], [0, 0.3, 0, 0, 0]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """fastText's file format, version 12: a supervised model without n-grams. (The package's training meets NaN at
    times, so that a model trained here would not do.)"""
    path = tmp_path_factory.mktemp("fasttext") / "model.bin"
    epochs, softmax, supervised = 5, 3, 3
    settings = (WIDTH, 5, epochs, 1, 5, 1, softmax, supervised, 0, 0, 0, 100)
    with open(path, "wb") as file:
        file.write(struct.pack("<ii12id", 793712314, 12, *settings, 1e-4))
        file.write(struct.pack("<iiiqq", len(WORDS) + len(LABELS), len(WORDS), len(LABELS), 1000, -1))
        for kind, names in enumerate((WORDS, [f"__label__{label}" for label in LABELS])):
            for name in names:
                file.write(name.encode() + b"\0" + struct.pack("<qb", 10, kind))
        for matrix in (INPUT, OUTPUT):
            file.write(struct.pack("<?qq", False, *matrix.shape) + matrix.tobytes())
    return str(path)


def log_odds(text):
    """Of "hq": softmax of the output weights times the mean of the words' vectors."""
    logits = OUTPUT @ np.mean([INPUT[WORDS.index(word)] for word in text.split()], axis=0).astype(float)
    chance = np.exp(logits) / np.exp(logits).sum() + 1e-5  # fastText's own constant
    return np.log(chance[0] / (chance[1] + chance[2]))


def docs(*texts):
    return [Document(text, str(row), metadata={"file_path": "a"}) for row, text in enumerate(texts)]


def test_log_odds_are_the_model_s(model):
    texts = ["the river runs north", "buy cheap\noffers", "river click here", " ".join(GOOD * 1000)]
    found = columns_of(FastTextScorer("unused", model, "hq"), docs(*texts))
    np.testing.assert_allclose(found["score"], [log_odds(text) for text in texts], atol=1e-3)
    assert found["score"][1] < found["score"][2] < found["score"][0]
    assert found["tokens"].tolist() == [4, 3, 3, 6000]


def test_lines_do_not_glue_words_and_odd_texts_have_scores(model):
    scorer = FastTextScorer("unused", model, "__label__hq")
    glued = columns_of(scorer, docs("river\nnorth", "river north", "", "\n\n", "日本\ud800", "\x00"))["score"]
    assert glued[0] == glued[1]
    assert np.isfinite(glued).all()


def test_in_a_real_executor(model, corpus, tmp_path):
    step = FastTextScorer(str(tmp_path / "s"), model, "hq")
    LocalPipelineExecutor([JsonlReader(str(corpus)), step], tasks=2, workers=2, logging_dir=str(tmp_path / "l")).run()
    store = ScoreStore.open(str(tmp_path / "s"))
    assert store.made["unit"] == "log-odds of hq, nats"
    texts = [doc.text for doc in JsonlReader(str(corpus)).run()]
    assert sorted(store.scores) == sorted(columns_of(step, docs(*texts))["score"])


def test_what_is_wrong_is_said(model, tmp_path):
    with pytest.raises(ModelError, match=r"has the labels .*spam.*: pass one as label"):
        columns_of(FastTextScorer("unused", model, "prose"), docs("the river"))
    (tmp_path / "x.bin").write_bytes(b"no model")
    for path in (tmp_path / "x.bin", tmp_path / "none.bin"):
        with pytest.raises(ModelError, match="no fastText model that can be had"):
            FastTextScorer(str(tmp_path / "s"), str(path), "hq").fingerprint()
