"""Embeddings must equal what sentence-transformers says of one text at a time, and be refused if they are none."""

import json

import numpy as np
import pytest
import torch
from datatrove.pipeline.readers import JsonlReader
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from test_ask_llm_scorer import tiny_tokenizer
from transformers import AutoTokenizer, BertConfig, BertModel, T5Config, T5EncoderModel

from pipeline_steps import Embedder, InstalledDocsReader
from pipeline_steps.embedding.embeddings import HASHED_NGRAMS
from pipeline_steps.errors import InvalidEmbedding, ModelError, StoreMismatch
from pipeline_steps.stores.source_store import SourceStore


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Real texts of all lengths, and nasty ones."""
    folder = tmp_path_factory.mktemp("texts")
    texts = [doc.text for doc, _ in zip(InstalledDocsReader(min_words=5).run(), range(120), strict=False)]
    texts += ["x", " \n ", "### ###", "\u4e2d\u6587" * 40, "long " * 3000]
    docs = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(texts)]
    (folder / "a.jsonl").write_text("\n".join(docs[:70]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(docs[70:]) + "\n")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The layout of sentence-t5 (T5 encoder, mean pooling, dense layer, unit length), and a plain BERT."""
    folder = tmp_path_factory.mktemp("models")
    vocab = tiny_tokenizer(folder / "t5")
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    T5EncoderModel(T5Config(vocab_size=vocab, **shape)).save_pretrained(folder / "t5")
    layers = [
        Transformer(str(folder / "t5")),
        Pooling(32, pooling_mode="mean"),
        Dense(32, 24, bias=False),
        Normalize(),
    ]
    model = SentenceTransformer(modules=layers, device="cpu")
    model.max_seq_length = 128
    model.save(str(folder / "sentence-t5"))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=vocab, max_position_embeddings=96, **shape)).save_pretrained(folder / "bert")
    AutoTokenizer.from_pretrained(folder / "t5", model_max_length=96).save_pretrained(folder / "bert")
    return folder


def embed(corpus, folder, model, tasks=1, **settings):
    step = Embedder(str(folder), str(model), window_size=16, **settings)
    texts = []
    for rank in range(tasks):
        texts += [doc.text for doc in step.run(JsonlReader(str(corpus)).run(None, rank, tasks), rank, tasks)]
    return texts, SourceStore(str(folder)).column("embedding")


@pytest.mark.parametrize("name", ["sentence-t5", "t5", "bert"])
def test_equals_sentence_transformers_one_by_one(corpus, models, tmp_path, name):
    """A folder without sentence-transformers' modules is pooled by its mean, as that library does."""
    texts, stored = embed(corpus, tmp_path / "e", models / name)
    plain = SentenceTransformer(str(models / name), device="cpu")
    plain.max_seq_length = {"sentence-t5": 128, "t5": 512, "bert": 96}[name]
    alone = np.concatenate([plain.encode([text], normalize_embeddings=True) for text in texts])
    assert stored.dtype == np.float16
    assert stored.shape == (len(texts), 24 if name == "sentence-t5" else 32)
    np.testing.assert_allclose(stored, alone, atol=5e-4)  # half of float16's step below 1
    np.testing.assert_allclose(np.linalg.norm(stored.astype(float), axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("name", ["sentence-t5", "t5", "bert"])
def test_bfloat16_means_the_same(corpus, models, tmp_path, name):
    _, exact = embed(corpus, tmp_path / "exact", models / name)
    _, rough = embed(corpus, tmp_path / "rough", models / name, dtype="bfloat16")
    assert 0.995 < (exact.astype(float) * rough.astype(float)).sum(axis=1).min() < 1 - 1e-6


def test_any_number_of_tasks_gives_the_same_bytes(corpus, models, tmp_path):
    for tasks in (1, 2):
        embed(corpus, tmp_path / str(tasks), models / "sentence-t5", tasks)
    one, two = (sorted((tmp_path / str(tasks) / "parts").iterdir()) for tasks in (1, 2))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_length_and_norm_are_settings_of_the_store(corpus, models, tmp_path):
    _, cut = embed(corpus, tmp_path / "cut", models / "t5", max_tokens=4)
    _, raw = embed(corpus, tmp_path / "raw", models / "t5", unit_norm=False)
    _, unit = embed(corpus, tmp_path / "unit", models / "t5")
    assert not np.allclose(cut, unit, atol=0.01)
    length = np.linalg.norm(raw.astype(float), axis=1)
    assert abs(length - 1).min() > 0.1
    np.testing.assert_allclose(raw / length[:, None], unit, atol=2e-3)
    assert SourceStore(str(tmp_path / "raw")).made["unit_norm"] is False
    with pytest.raises(StoreMismatch, match="unit_norm: False there, True now"):
        embed(corpus, tmp_path / "raw", models / "t5")


def test_what_cannot_be_is_named(corpus, models, tmp_path):
    with pytest.raises(ModelError, match="neither a local folder nor"):
        embed(corpus, tmp_path / "e", "nobody/nothing")
    with pytest.raises(ModelError, match="up to 96 tokens, not 200"):
        embed(corpus, tmp_path / "e", models / "bert", max_tokens=200)
    embed(corpus, tmp_path / "mixed", HASHED_NGRAMS)
    with pytest.raises(StoreMismatch, match="embedder: "):
        embed(corpus, tmp_path / "mixed", models / "t5")


def test_a_model_that_gives_nothing_is_named(corpus, models, tmp_path):
    broken = T5EncoderModel.from_pretrained(models / "t5")
    for value, folder in ((0.0, "zeros"), (float("nan"), "nan")):
        broken.encoder.final_layer_norm.weight.data.fill_(value)
        broken.save_pretrained(tmp_path / folder)
        AutoTokenizer.from_pretrained(models / "t5").save_pretrained(tmp_path / folder)
        with pytest.raises(InvalidEmbedding, match=r"document 0 of .*a.jsonl a vector of NaN or zeros"):
            embed(corpus, tmp_path / "e" / folder, tmp_path / folder)
