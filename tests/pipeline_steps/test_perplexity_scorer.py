"""Perplexity equals transformers' own loss, on masks that hide every token exactly once."""

import numpy as np
import pytest
import torch
from datatrove.data import Document
from datatrove.pipeline.readers import JsonlReader
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline_steps import EMBEDDED_PROXY, PerplexityScorer, ScoreStore
from pipeline_steps.errors import ModelError, StoreMismatch
from pipeline_steps.likelihoods import load_likelihood
from pipeline_steps.numerics.keys import document_key
from pipeline_steps.numerics.partition_masks import MASKS, mask_out, partition_masks


FIRST_SENTINEL, EOS, VOCABULARY = 8191, 1, 8192


def save(folder, kind):
    """A random model on disk behind the embedded tokenizer, which has T5's sentinels."""
    AutoTokenizer.from_pretrained(EMBEDDED_PROXY).save_pretrained(folder)
    torch.manual_seed(0)
    if kind == "llama":
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=256, **shape))
    else:
        tied = kind == "v1.0"
        shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        activation = "relu" if tied else "gated-gelu"
        model = T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, feed_forward_proj=activation, tie_word_embeddings=tied, **shape)
        )
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32) * 0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {kind: save(tmp_path_factory.mktemp(kind), kind) for kind in ("v1.0", "v1.1", "llama")}


def docs(texts):
    return [Document(text, f"d{i}", metadata={"file_path": "a"}) for i, text in enumerate(texts)]


def words(count):
    return " ".join(["the", "and", "of", "to"][i * 7 % 4] for i in range(count))


def scores(model, texts, **kwargs):
    return np.asarray(PerplexityScorer("unused", model, **kwargs).score_batch(docs(texts))["score"])


@given(st.integers(0, 600), st.integers(0, 2**64 - 1))
def test_every_token_is_hidden_exactly_once(tokens, key):
    masks = partition_masks(tokens, key)
    assert masks.size == tokens
    assert ((masks >= 0) & (masks < MASKS)).all()
    np.testing.assert_array_equal(masks, partition_masks(tokens, key))
    if tokens >= 100:
        spans = 1 + np.count_nonzero(np.diff(masks))
        assert spans == round(tokens / 3)  # so no two spans of one mask touch
        shares = np.bincount(masks, minlength=MASKS) / tokens
        assert (shares > 0).all()


def test_masks_hide_a_seventh_each_and_differ_by_key():
    shares = np.mean([np.bincount(partition_masks(511, key), minlength=MASKS) / 511 for key in range(400)], axis=0)
    np.testing.assert_allclose(shares, 1 / MASKS, atol=0.006)
    assert (partition_masks(511, 1) != partition_masks(511, 2)).mean() > 0.7


def test_an_example_is_what_t5_is_trained_on():
    ids = np.array([10, 11, 12, 13, 14, 15])
    hidden = np.array([True, False, True, True, False, True])
    inputs, targets = mask_out(ids, hidden, 99, 1)
    assert inputs == [99, 11, 98, 14, 97, 1]
    assert targets == [99, 10, 98, 12, 13, 97, 15, 1]


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_inputs_and_targets_hold_every_token_once(tokens, key):
    ids = np.arange(tokens) + 1000
    for mask in range(MASKS):
        hidden = partition_masks(tokens, key) == mask
        inputs, targets = mask_out(ids, hidden, 99, 1)
        assert sorted(token for token in inputs + targets if token >= 1000) == ids.tolist()
        assert [token for token in inputs if 1 < token < 1000] == [token for token in targets if 1 < token < 1000]


def t5_loss(folder, text, objective):
    """transformers' loss, one unpadded example at a time, over all targets of a document."""
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = np.array(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)
    key = document_key("d0", text)
    total, count = 0.0, 0
    for start in range(0, ids.size, 511):
        window = ids[start : start + 511]
        masks = partition_masks(window.size, key + start)
        for mask in np.unique(masks)[: 1 if objective == "single_mask" else None]:
            inputs, targets = mask_out(window, masks == mask, FIRST_SENTINEL, EOS)
            if objective == "prefix_lm":
                inputs, targets = [*window[: window.size // 2], EOS], window[window.size // 2 :]
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([inputs]), labels=torch.tensor(np.array([targets]))).loss
            total, count = total + loss.double().item() * len(targets), count + len(targets)
            if objective == "prefix_lm":
                break
    return total / count


@pytest.mark.parametrize("objective", ["span_corruption", "single_mask", "prefix_lm"])
@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
@pytest.mark.parametrize("tokens", [1, 2, 17, 510, 511, 512, 1300])
def test_t5_equals_the_loss_of_transformers(models, version, objective, tokens):
    text = words(tokens)
    assert len(AutoTokenizer.from_pretrained(EMBEDDED_PROXY)(text, add_special_tokens=False).input_ids) == tokens
    ours = scores(models[version], [text], objective=objective, max_tokens=5000)
    assert ours[0] == pytest.approx(t5_loss(models[version], text, objective), abs=1e-4)


@pytest.mark.parametrize("tokens", [2, 17, 255, 256, 700])
def test_a_causal_model_equals_the_loss_of_transformers(models, tokens):
    """The embedded tokenizer has no BOS: the first token of each window of 256 is given, not predicted."""
    model = LlamaForCausalLM.from_pretrained(models["llama"]).eval()
    ids = AutoTokenizer.from_pretrained(EMBEDDED_PROXY).backend_tokenizer.encode(
        words(tokens), add_special_tokens=False
    )
    total, count = 0.0, 0
    for start in range(0, len(ids.ids), 255):
        window = torch.tensor([ids.ids[start : start + 255]])
        if window.shape[1] > 1:
            with torch.no_grad():
                total += model(window, labels=window).loss.double().item() * (window.shape[1] - 1)
            count += window.shape[1] - 1
    ours = scores(models["llama"], [words(tokens)], objective="causal", max_tokens=5000)
    assert ours[0] == pytest.approx(total / count, abs=1e-4)


@pytest.mark.parametrize(("kind", "objective"), [("v1.1", "span_corruption"), ("llama", "causal")])
def test_company_does_not_matter(models, kind, objective):
    texts = [words(n) for n in (0, 5, 40, 300, 30, 100)]
    together = scores(models[kind], texts, objective=objective)
    alone = [
        PerplexityScorer("unused", models[kind], objective=objective).score_batch([doc])["score"][0]
        for doc in docs(texts)
    ]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_array_equal(together, scores(models[kind], texts, objective=objective))


@pytest.mark.parametrize(("kind", "objective"), [("v1.0", "span_corruption"), ("llama", "causal")])
def test_nothing_to_predict_is_knowing_nothing(models, kind, objective):
    assert scores(models[kind], ["", " \n"], objective=objective).tolist() == [np.log(VOCABULARY)] * 2


def test_in_a_store_and_from_our_own_checkpoints(corpus, tmp_path):
    """The embedded proxy was written by `train`'s recipe."""
    reader = JsonlReader(str(corpus))
    for rank in range(3):
        list(PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY).run(reader.run(None, rank, 3), rank, 3))
    store = ScoreStore.open(str(tmp_path / "s"))
    assert (store.scores > 0).all()
    assert (store.tokens > 10).all()
    with pytest.raises(StoreMismatch, match="objective: 'span_corruption' there, 'single_mask' now"):
        list(PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY, objective="single_mask").run(reader.run()))


def test_models_that_do_not_fit_are_refused(models):
    with pytest.raises(ModelError, match="is a llama: use a T5"):
        scores(models["llama"], ["x"])
    with pytest.raises(ModelError, match="is a t5: use a decoder-only"):
        scores(models["v1.0"], ["x"], objective="causal")
    with pytest.raises(ModelError, match="no objective 'mlm'"):
        PerplexityScorer("unused", models["v1.0"], objective="mlm")
    assert load_likelihood(models["v1.0"]).first_sentinel == FIRST_SENTINEL
