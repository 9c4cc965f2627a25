"""Perplexity equals transformers' own loss, on masks that hide every token exactly once."""

import pickle

import numpy as np
import pytest
import torch
from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from word_count import columns_of

from pipeline_steps import EMBEDDED_PROXY, PerplexityScorer, ScoreStore, TopKFilter
from pipeline_steps.engines import likelihoods as likelihoods_module
from pipeline_steps.engines.likelihoods import MASKS, T5_WINDOW, load_likelihood, mask_out, most_spans, partition_masks
from pipeline_steps.errors import ModelError, StoreMismatch
from pipeline_steps.numerics.keys import document_key
from train.checkpoints import save_checkpoint, whole_weights
from train.model import build_model
from train.objectives import SpanCorruption
from train.presets import PRESETS


FIRST_SENTINEL, EOS, VOCABULARY = 8191, 1, 8192
CAUSAL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
CAUSAL |= {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
PINNED = "5555555555444400662311111311100066622244"
WINDOWS = {0: [], 1: [1], 511: [511], 512: [512], 513: [256, 257], 1300: [433, 433, 434]}  # of a T5, by tokens


def save(folder, kind):
    """A random model on disk behind the embedded tokenizer, which has T5's sentinels and no BOS."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_PROXY)
    if kind == "llama with bos":
        tokenizer.bos_token = tokenizer.pad_token
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    if kind.startswith("llama"):
        model = LlamaForCausalLM(LlamaConfig(**CAUSAL))
    elif kind == "gemma2":  # caps its logits, and every other layer sees a sliding window
        model = Gemma2ForCausalLM(Gemma2Config(**CAUSAL, num_key_value_heads=2, head_dim=8, sliding_window=64))
        model.get_output_embeddings().weight.data.mul_(100)  # so that the cap is felt
    else:
        tied = kind == "v1.0"
        activation = "relu" if tied else "gated-gelu"
        model = T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, feed_forward_proj=activation, tie_word_embeddings=tied, **T5)
        )
        if not tied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(VOCABULARY, 32) * 0.2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    kinds = ("v1.0", "v1.1", "llama", "llama with bos", "gemma2")
    return {kind: save(tmp_path_factory.mktemp(kind.replace(" ", "-")), kind) for kind in kinds}


@pytest.fixture
def few_logits(monkeypatch):
    """A head that gets 20 tokens at a time."""
    monkeypatch.setattr(likelihoods_module, "_LOGITS", {"cpu": 20 * VOCABULARY})


def docs(texts):
    return [Document(text, f"d{i}", metadata={"file_path": "a"}) for i, text in enumerate(texts)]


def words(count):
    """A text of as many tokens as words."""
    return " ".join(["the", "and", "of", "to"][i * 7 % 4] for i in range(count))


def token_ids(text):
    return AutoTokenizer.from_pretrained(EMBEDDED_PROXY).backend_tokenizer.encode(text, add_special_tokens=False).ids


def scores(model, texts, **kwargs):
    return np.asarray(columns_of(PerplexityScorer("unused", model, **kwargs), docs(texts))["score"])


# -- masks -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 600), st.integers(0, 2**64 - 1))
@example(2, 0)
@example(3, 0)
@example(4, 0)
def test_every_token_is_hidden_exactly_once(tokens, key):
    masks = partition_masks(tokens, key)
    assert masks.size == tokens
    assert ((masks >= 0) & (masks < MASKS)).all()
    np.testing.assert_array_equal(masks, partition_masks(tokens, key))
    spans = np.flatnonzero(np.diff(masks, prepend=-1))  # where they begin: no two of one mask touch
    assert spans.size == max(round(tokens / 3), min(tokens, 2))
    if tokens >= 21:
        assert set(masks.tolist()) == set(range(MASKS))
    if tokens > 1:
        assert np.bincount(masks).max() < tokens  # something is always given
    if tokens:
        assert np.bincount(masks[spans]).max() <= most_spans(tokens) <= 99


def test_masks_hide_a_seventh_each_and_differ_by_key():
    shares = np.mean([np.bincount(partition_masks(511, key), minlength=MASKS) / 511 for key in range(400)], axis=0)
    np.testing.assert_allclose(shares, 1 / MASKS, atol=0.006)
    assert (partition_masks(511, 1) != partition_masks(511, 2)).mean() > 0.7


def test_masks_are_pinned():
    """Changed masks silently change every published score: rename _MASK_RULES with them."""
    assert "".join(map(str, partition_masks(40, 12345))) == PINNED


def test_span_lengths_are_t5_s():
    """Uniform over all ways to cut: a span of length l has probability (1 - 1/3)^(l - 1) / 3, but for the ends."""
    starts = [np.flatnonzero(np.diff(partition_masks(600, key), prepend=-1)) for key in range(300)]
    lengths = np.concatenate([np.diff(start, append=600) for start in starts])
    assert lengths.mean() == 3
    share = np.bincount(lengths)[1:6] / lengths.size
    np.testing.assert_allclose(share, (2 / 3) ** np.arange(5) / 3, atol=4 * 0.5 / lengths.size**0.5 + 1 / 600)


def test_an_example_is_what_t5_is_trained_on():
    ids = np.array([10, 11, 12, 13, 14, 15])
    hidden = np.array([True, False, True, True, False, True])
    inputs, targets = mask_out(ids, hidden, 99, 1)
    assert inputs == [99, 11, 98, 14, 97, 1]
    assert targets == [99, 10, 98, 12, 13, 97, 15, 1]


def test_an_example_is_what_our_training_makes_of_the_same_mask():
    corruption = SpanCorruption(128, FIRST_SENTINEL)
    raw = np.random.default_rng(0).integers(3, 8000, (5, corruption.raw_length))
    trained_on = zip(*corruption.rows(raw, np.arange(5), seed=7), strict=True)
    kept, dropped = corruption.span_lengths(np.arange(5), seed=7)
    for row, (inputs, targets) in enumerate(trained_on):
        lengths = np.stack([kept[row], dropped[row]], axis=1).ravel()
        hidden = np.repeat(np.arange(lengths.size) % 2 == 1, lengths)
        assert mask_out(raw[row], hidden, FIRST_SENTINEL, EOS) == (inputs.tolist(), targets.tolist())


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_inputs_and_targets_hold_every_token_once(tokens, key):
    ids = np.arange(tokens) + 1000
    for mask in range(MASKS):
        hidden = partition_masks(tokens, key) == mask
        inputs, targets = mask_out(ids, hidden, 99, 1)
        assert sorted(token for token in inputs + targets if token >= 1000) == ids.tolist()
        assert [token for token in inputs if 1 < token < 1000] == [token for token in targets if 1 < token < 1000]


# -- the same as transformers ----------------------------------------------------------------------------------


def t5_loss(folder, text, objective):
    """transformers' loss, one unpadded example at a time, over all targets of a document."""
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    ids, key = np.array(token_ids(text)), document_key("d0", text)
    total, count, start = 0.0, 0, 0
    for length in WINDOWS[ids.size]:
        window = ids[start : start + length]
        masks = partition_masks(window.size, key + start)
        half = window.size // 2
        examples = [mask_out(window, masks == mask, FIRST_SENTINEL, EOS) for mask in np.unique(masks)]
        if objective != "span_corruption":
            examples = examples[:1] if objective == "single_mask" else [([*window[:half], EOS], window[half:])]
        for inputs, targets in examples:
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([inputs]), labels=torch.tensor(np.array([targets]))).loss
            total, count = total + loss.double().item() * len(targets), count + len(targets)
        start += length
    return total / count


@pytest.mark.parametrize("objective", ["span_corruption", "single_mask", "prefix_lm"])
@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
@pytest.mark.parametrize("tokens", [1, 511, 512, 513, 1300])
def test_t5_equals_the_loss_of_transformers(models, few_logits, version, objective, tokens):
    text = words(tokens)
    assert len(token_ids(text)) == tokens
    ours = scores(models[version], [text], objective=objective, max_tokens=None)
    assert ours[0] == pytest.approx(t5_loss(models[version], text, objective), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "llama with bos", "gemma2"])
@pytest.mark.parametrize("parts", [[1], [2], [255], [350, 350]])
def test_a_causal_model_equals_the_loss_of_transformers(models, few_logits, kind, parts):
    """Without BOS the first token of each window is given, not predicted. Windows: at most 256 with BOS."""
    family = Gemma2ForCausalLM if kind == "gemma2" else LlamaForCausalLM
    model = family.from_pretrained(models[kind], attn_implementation="eager").eval()
    tokens, bos = sum(parts), [0] if kind == "llama with bos" else []
    windows = -(-tokens // (256 - len(bos)))
    total, count = 0.0, 0
    for edge in range(windows):
        ids = bos + token_ids(words(tokens))[tokens * edge // windows : tokens * (edge + 1) // windows]
        if len(ids) > 1:
            with torch.no_grad():
                loss = model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
            total, count = total + loss.double().item() * (len(ids) - 1), count + len(ids) - 1
    ours = scores(models[kind], [words(tokens)], objective="causal", max_tokens=None)
    assert ours[0] == pytest.approx(total / count if count else np.log(VOCABULARY), abs=1e-4)


@pytest.mark.parametrize(("kind", "objective"), [("v1.0", "span_corruption"), ("llama", "causal")])
def test_few_logits_at_a_time_change_nothing(models, monkeypatch, kind, objective):
    texts = [words(n) for n in (5, 300, 100)]
    at_once = scores(models[kind], texts, objective=objective)
    monkeypatch.setattr(likelihoods_module, "_LOGITS", {"cpu": 7 * VOCABULARY})
    np.testing.assert_allclose(scores(models[kind], texts, objective=objective), at_once, atol=1e-5)


# -- nothing but the document matters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "objective"), [("v1.1", "span_corruption"), ("v1.0", "prefix_lm"), ("llama", "causal")]
)
def test_company_and_order_do_not_matter(models, kind, objective):
    every = docs([words(n) for n in (0, 5, 40, 300, 30, 1, 2, 511, 512, 513, 2000)])
    scorer = PerplexityScorer("unused", models[kind], objective=objective, max_tokens=None)
    together = columns_of(scorer, every)["score"]
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(together, columns_of(scorer, every)["score"])
    np.testing.assert_allclose(together, columns_of(scorer, every[::-1])["score"][::-1], atol=1e-5)
    np.testing.assert_allclose(together, [columns_of(scorer, [doc])["score"][0] for doc in every], atol=1e-5)


def test_masks_follow_the_key_of_the_document(models):
    """Another id or another text: other masks. The same: the same score, whatever stands before it."""
    scorer = PerplexityScorer("unused", models["v1.0"])
    first, again, other_id = (Document(words(60), id) for id in ("a", "a", "b"))
    one, two, three = columns_of(scorer, [first, again, other_id])["score"]
    assert one == pytest.approx(two, abs=1e-5)
    assert abs(one - three) > 1e-4


def test_max_tokens_cuts_and_the_count_does_not(models):
    text = f"{words(90)} something else entirely"
    columns = columns_of(
        PerplexityScorer("unused", models["v1.0"], objective="prefix_lm", max_tokens=90), docs([text])
    )
    assert columns["score"][0] == pytest.approx(
        scores(models["v1.0"], [words(90)], objective="prefix_lm")[0], abs=1e-5
    )
    assert columns["tokens"].tolist() == [len(token_ids(text))]


@pytest.mark.parametrize(("kind", "objective"), [("v1.0", "span_corruption"), ("llama", "causal")])
def test_nothing_to_predict_is_knowing_nothing(models, kind, objective):
    found = scores(models[kind], ["", " \n"], objective=objective)
    assert found.tolist() == [float(np.float32(np.log(VOCABULARY)))] * 2


def test_special_tokens_in_a_document_are_text(models):
    """Unigram tokenizers know "</s>" as a piece; it must not end an input, nor look like a mask."""
    ids = [*token_ids("and"), EOS, FIRST_SENTINEL, FIRST_SENTINEL - 99, 0, *token_ids("and")]
    likelihood = load_likelihood(models["v1.0"])
    [(inputs, targets)] = likelihood.examples(ids, "prefix_lm", 0)
    unknown = AutoTokenizer.from_pretrained(EMBEDDED_PROXY).unk_token_id
    assert [*inputs, *targets] == [ids[0], unknown, unknown, EOS, unknown, unknown, ids[-1]]


# -- in the pipeline -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["t5-small", "t5-v1_1-small"])
def test_our_own_checkpoints_load_as_they_lie(tmp_path, monkeypatch, family):
    small = PRESETS[family] | {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    monkeypatch.setitem(PRESETS, "small", small)
    AutoTokenizer.from_pretrained(EMBEDDED_PROXY).save_pretrained(tmp_path / "tokenizer")
    model = build_model("small", VOCABULARY, init_seed=0)
    folder = str(save_checkpoint(tmp_path, model, (whole_weights(model), {}), tmp_path / "tokenizer", {"step": 3}))
    assert scores(folder, [words(512)])[0] == pytest.approx(t5_loss(folder, words(512), "span_corruption"), abs=1e-4)


def test_in_a_store_and_another_configuration_is_refused(corpus, tmp_path):
    reader = JsonlReader(str(corpus))
    for rank in range(3):
        list(PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY).run(reader.run(None, rank, 3), rank, 3))
    store = ScoreStore.open(str(tmp_path / "s"))
    assert (store.scores > 0).all()
    assert (store.tokens > 10).all()
    with pytest.raises(StoreMismatch, match="objective: 'span_corruption' there, 'single_mask' now"):
        list(PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY, objective="single_mask").run(reader.run()))
    with pytest.raises(StoreMismatch, match="max_tokens: 512 there, None now"):
        list(PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY, max_tokens=None).run(reader.run()))


def test_low_middle_and_high_in_an_executor(corpus, tmp_path):
    """The docstring's cuts. The model is loaded in the worker; the step itself stays small."""
    scorer = PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY)
    LocalPipelineExecutor([JsonlReader(str(corpus)), scorer], logging_dir=str(tmp_path / "logs")).run()
    assert len(pickle.dumps(scorer)) < 10_000
    ranked = np.sort(ScoreStore.open(str(tmp_path / "s")).scores)
    three_quarters = {
        order: TopKFilter(str(tmp_path / "s"), rate=0.75, order=order, partial=order == "bottom")  # may be the second
        for order in ("top", "bottom")
    }
    for steps, expected in {
        ("bottom",): ranked[:75],
        ("top", "bottom"): ranked[25:75],
        ("top",): ranked[25:],
    }.items():
        kept = PerplexityScorer(str(tmp_path / "s"), EMBEDDED_PROXY).run(JsonlReader(str(corpus)).run())
        for order in steps:
            kept = three_quarters[order].run(kept)
        np.testing.assert_array_equal(sorted(doc.metadata["perplexity"] for doc in kept), expected)


def test_what_does_not_fit_is_refused(models, tmp_path):
    with pytest.raises(ModelError, match="is a llama: use a T5"):
        scores(models["llama"], ["x"])
    with pytest.raises(ModelError, match="is a t5: use a decoder-only"):
        scores(models["v1.0"], ["x"], objective="causal")
    with pytest.raises(ModelError, match="no objective 'mlm'"):
        PerplexityScorer("unused", models["v1.0"], objective="mlm")
    with pytest.raises(ValueError, match="max_tokens must be at least 1, not 0"):
        PerplexityScorer("unused", models["v1.0"], max_tokens=0)
    with pytest.raises(ModelError, match="neither a local folder nor to be had"):
        scores("nobody/no-such-model", ["x"])


def test_a_tokenizer_without_sentinels_is_refused(models, tmp_path):
    T5ForConditionalGeneration.from_pretrained(models["v1.0"]).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_PROXY)
    renamed = tokenizer.backend_tokenizer.to_str().replace("<extra_id_3>", "<another>")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(renamed)
    with pytest.raises(
        ModelError, match=f"{tmp_path.name}'s tokenizer has no sentinels <extra_id_0> to <extra_id_24>"
    ):
        load_likelihood(str(tmp_path))
    assert most_spans(T5_WINDOW) == 25


def test_weights_that_are_not_safetensors_are_refused(models, tmp_path):
    model = T5ForConditionalGeneration.from_pretrained(models["v1.0"])
    AutoTokenizer.from_pretrained(EMBEDDED_PROXY).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"weights as a pickle only .*pytorch_model.bin.*save_pretrained"):
        load_likelihood(str(tmp_path))
