"""Scores must equal what a plain, unpadded, one-by-one forward pass of the same model says."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import ParquetWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from pipeline_steps import ASK_LLM, EMBEDDED_PROXY, AskLLMScorer, Prompt, ScoreStore
from pipeline_steps.errors import ModelError, StoreMismatch
from pipeline_steps.proxies import load_proxy


TEXTS = [
    "A short text.",
    "",
    "word " * 400,
    "</s> is text here, <extra_id_0> too",
    "déjà vu — 东京",
    "Yes and no. " * 20,
]


def tiny_tokenizer(folder):
    """A T5-style tokenizer over words of the prompt and single characters; yes and no are one piece each."""
    words = dict.fromkeys(["yes", "no", *ASK_LLM.suffix.split()])
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, **{f"▁{word}": -4.0 for word in words}}
    pieces |= {character: -9.0 for character in ["▁", *map(chr, range(33, 127))]}
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return tokenizer.get_vocab_size()


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    """A random T5 on disk, in the layout the Hub has."""
    folder = tmp_path_factory.mktemp("tiny-t5")
    vocab = tiny_tokenizer(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocab, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def one_by_one(folder, texts, prompt, max_tokens):
    """log P(yes), log P(no): every text alone, no padding, no batching."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.backend_tokenizer.encode_special_tokens = True
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    encode = lambda text: tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    prefix, suffix = encode(prompt.prefix), encode(prompt.suffix)
    room = max_tokens - len(prefix) - len(suffix) - 1
    answers = []
    for text in texts:
        ids = torch.tensor([prefix + encode(text)[:room] + suffix + [1]])
        with torch.no_grad():
            logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        log_p = torch.log_softmax(logits.double(), -1)
        answers.append([log_p[encode(prompt.yes)[0]].item(), log_p[encode(prompt.no)[0]].item()])
    return np.array(answers)


@pytest.mark.parametrize("max_tokens", [120, 512])
def test_engine_equals_one_by_one(tiny_t5, max_tokens):
    answers = load_proxy(tiny_t5).answer(TEXTS, ASK_LLM, max_tokens)
    expected = one_by_one(tiny_t5, TEXTS, ASK_LLM, max_tokens)
    np.testing.assert_allclose(np.stack([answers.log_yes, answers.log_no], 1), expected, atol=1e-4)


def test_order_and_company_do_not_matter(tiny_t5):
    proxy = load_proxy(tiny_t5)
    texts = TEXTS * 7
    together = proxy.answer(texts, ASK_LLM, 256).log_yes
    np.testing.assert_allclose(proxy.answer(texts[::-1], ASK_LLM, 256).log_yes[::-1], together, atol=1e-5)
    np.testing.assert_allclose(proxy.answer(TEXTS[:1], ASK_LLM, 256).log_yes, together[:1], atol=1e-5)


def test_the_question_is_never_cut(tiny_t5):
    """However long the document, the input ends with the whole question."""
    proxy = load_proxy(tiny_t5)
    seen = []
    proxy._forward, forward = lambda inputs, pair: seen.extend(inputs) or np.zeros((len(inputs), 2)), proxy._forward
    try:
        proxy.answer(["word " * n for n in (0, 1, 50, 2_000)], ASK_LLM, 120)
    finally:
        proxy._forward = forward
    suffix = [*proxy._ids(ASK_LLM.suffix), 1]
    assert {tuple(ids[-len(suffix) :]) for ids in seen} == {tuple(suffix)}
    assert max(map(len, seen)) == 120


def test_answers_must_be_one_known_token(tiny_t5):
    with pytest.raises(ModelError, match="'perhapsnot' is"):
        load_proxy(tiny_t5).answer(["x"], Prompt("p", "", " really?", yes="perhapsnot"), 256)
    with pytest.raises(ModelError, match="'東' is"):
        load_proxy(tiny_t5).answer(["x"], Prompt("p", "", " really?", yes="東"), 256)


def test_a_prompt_longer_than_the_input_is_refused(tiny_t5):
    with pytest.raises(ModelError, match="max_tokens=40 leaves no room"):
        load_proxy(tiny_t5).answer(["x"], ASK_LLM, 40)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ModelError, match="neither a local folder nor to be had"):
        load_proxy("nobody/no-such-model")
    with pytest.raises(ModelError, match="no config.json"):
        load_proxy(str(tmp_path))


def test_a_decoder_only_model_is_refused(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny_tokenizer(tmp_path)
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=300)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a gpt2"):
        load_proxy(str(tmp_path))


def test_the_hub_is_asked_the_way_the_hub_answers(tiny_t5, tmp_path, monkeypatch):
    """A Hub id resolves through huggingface_hub's cache to the commit, which is recorded."""
    import shutil

    from huggingface_hub import constants

    from pipeline_steps.models import model_identity

    repo, commit = tmp_path / "models--winnow--tiny", "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(tiny_t5, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_identity("winnow/tiny") == {"model": "winnow/tiny", "revision": commit}


def test_the_loud_warning(tiny_t5, corpus, tmp_path):
    """A random model does not answer yes or no."""
    from datatrove.utils.logging import logger

    said = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    try:
        list(AskLLMScorer(str(tmp_path / "s"), tiny_t5).run(JsonlReader(str(corpus)).run()))
    finally:
        logger.remove(sink)
    assert any("does not answer the question" in message and "doc-" in message for message in said)


def test_store_in_a_real_executor_with_processes(tiny_t5, corpus, tmp_path):
    """The README's first example, on a random model: the model is loaded in the workers, not pickled to them."""
    executor = LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(corpus)),
            AskLLMScorer(str(tmp_path / "scores"), tiny_t5),
            ParquetWriter(str(tmp_path / "scored")),
        ],
        tasks=2,
        workers=2,
        logging_dir=str(tmp_path / "logs"),
    )
    executor.run()
    store = ScoreStore.open(str(tmp_path / "scores"))
    table = pq.read_table(tmp_path / "scored")
    assert table.num_rows == len(store.scores) == 100
    written = sorted(row["ask_llm"] for row in table.column("metadata").to_pylist())
    np.testing.assert_allclose(written, np.sort(store.scores), rtol=1e-6)
    assert (np.exp(store.scores) + np.exp(store.column("log_no")) <= 1).all()
    assert (store.tokens > 0).all()


def test_another_model_or_prompt_is_refused(tiny_t5, corpus, tmp_path):
    list(AskLLMScorer(str(tmp_path / "s"), tiny_t5).run(JsonlReader(str(corpus)).run()))
    other = Prompt("other", "", " good? yes or no")
    with pytest.raises(StoreMismatch, match="prompt"):
        list(AskLLMScorer(str(tmp_path / "s"), tiny_t5, prompt=other).run(JsonlReader(str(corpus)).run()))
    with pytest.raises(StoreMismatch, match="max_tokens: 512 there, 256 now"):
        list(AskLLMScorer(str(tmp_path / "s"), tiny_t5, max_tokens=256).run(JsonlReader(str(corpus)).run()))


def test_float16_is_refused(tiny_t5, corpus, tmp_path):
    with pytest.raises(ModelError, match="float16"):
        list(AskLLMScorer(str(tmp_path / "s"), tiny_t5, dtype="float16").run(JsonlReader(str(corpus)).run()))


def test_the_embedded_proxy_answers_the_question():
    answers = load_proxy(EMBEDDED_PROXY).answer(
        ["The sun is a star at the centre of our planetary system."], ASK_LLM, 256
    )
    assert np.exp(answers.log_yes) + np.exp(answers.log_no) > 0.9
