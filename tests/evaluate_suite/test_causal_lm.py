"""Scores and answers must be those of lm-eval's own model and of a plain loop, however much prompts share."""

import shutil

import pytest
import torch
from datatrove.utils.logging import logger
from huggingface_hub import constants
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny_decoders import BOS, PLAIN, SHARING, byte_tokenizer, decoder, write_decoder
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from evaluate_suite.causal_lm import CausalLM
from evaluate_suite.checkpoint import find_checkpoints
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import ModelError
from train.model import build_model


HEAD = "The following are questions about sleep.\n\n"
EXEMPLARS = [f"Who slept {n} hours?\nA. a fox\nB. the hare, {n} times\nAnswer: B\n\n" for n in range(6)]
PROMPTS = [
    HEAD + "".join(EXEMPLARS) + f"Who {('slept', 'ran')[n % 2]} {n} hours{' at home' * (n % 3)}?\nAnswer:"
    for n in range(6)
]
ANSWERS = [" A", " B", " in a barn", " in", " not é at all", " B"]
ODD = [("", "at sea"), ("With a space behind: ", "yes"), ("a", " b and more"), ("", "<|end|>x"), ("<|begin|> a", " b")]


def asked(kind, *arguments):
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def pairs():
    return [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS] + ODD


def slow_but(fast, kinds):
    return [kind if kind in fast else pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


def lm_eval(model, tokenizer, **options):
    return HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=4, max_length=2048, **options)


@pytest.mark.parametrize("kind", slow_but(["llama", "gpt2", "gemma2"], [*SHARING, *PLAIN]))
def test_all_of_lm_evals_own_numbers(kind):
    model, tokenizer = decoder(kind), byte_tokenizer(bos=kind == "qwen3")
    ours, theirs = CausalLM(model, tokenizer), lm_eval(model, tokenizer)
    scored, texts = asked("loglikelihood", *pairs()), [("".join(EXEMPLARS) * 9,), ("in town",), ("",)]
    generated = [
        (prompt, {"until": ["\n\n", "Q"], "max_gen_toks": 4 + 9 * (n % 2)}) for n, prompt in enumerate(PROMPTS)
    ]
    found, expected = ([score for score, _ in lm.loglikelihood(scored)] for lm in (ours, theirs))
    assert found == pytest.approx(expected, abs=1e-4)
    assert [hit for _, hit in ours.loglikelihood(scored)] == [hit for _, hit in theirs.loglikelihood(scored)]
    rolling = [lm.loglikelihood_rolling(asked("loglikelihood_rolling", *texts)) for lm in (ours, theirs)]
    assert rolling[0] == pytest.approx(rolling[1], rel=1e-6)
    alone = ours.loglikelihood_rolling(asked("loglikelihood_rolling", ("",)))  # nothing, or BOS alone
    assert alone == pytest.approx(rolling[0][-1:], rel=1e-6)
    said = [lm.generate_until(asked("generate_until", *generated)) for lm in (ours, theirs)]
    assert said[0] == said[1]
    assert any(said[0])
    assert ours._shares_prompts == (kind in SHARING)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_scores_do_not_depend_on_company(kind):
    model, tokenizer = decoder(kind), byte_tokenizer()
    requests = asked("loglikelihood", *pairs())
    together = CausalLM(model, tokenizer).loglikelihood(requests)
    alone = [CausalLM(model, tokenizer).loglikelihood([request])[0] for request in requests[::7]]
    few = CausalLM(model, tokenizer, batch_tokens=1).loglikelihood(requests[::-1])[::-1]
    for one, others in ((alone, together[::7]), (few, together)):
        assert [score for score, _ in one] == pytest.approx([score for score, _ in others], abs=2e-5)
        assert [hit for _, hit in one] == [hit for _, hit in others]


def test_what_is_shared_is_run_once():
    model, tokenizer = decoder(), byte_tokenizer()
    lm = CausalLM(model, tokenizer)
    assert lm._shares_prompts
    run, read = [], []
    model.model.register_forward_pre_hook(lambda _, __, given: run.append(given["input_ids"].shape), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, given, __: read.append(given[0].shape[:-1].numel()))
    questions = [HEAD + "".join(EXEMPLARS) + f"Who slept {n} hours?\nAnswer:" for n in range(6)]
    words = [
        f" {text.strip()}" for text in map(tokenizer.decode, range(300, 600)) if text[0] == " " and text[1:].isalpha()
    ]
    requests = asked("loglikelihood", *[(prompt, word) for prompt in questions for word in words[:4]])
    assert {lm.answer_length(request) for request in requests} == {1}
    lm.loglikelihood(requests)
    ids = [tokenizer(prompt).input_ids for prompt in questions]
    shared = next(n for n in range(len(ids[0])) if len({one[n] for one in ids}) > 1)
    assert run == [(1, shared), (6, max(map(len, ids)) - shared)]
    assert read == [6]


def test_a_tokenizer_that_ends_texts_is_named_and_not_followed():
    """A Llama on a T5's vocabulary, as `winnow pretrain` makes it: lm-eval scores all answers of a token alike."""
    said = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    model, tokenizer = build_model("llama-tiny", 8192, 3).eval(), AutoTokenizer.from_pretrained(EMBEDDED_PROXY)
    try:
        lm = CausalLM(model, tokenizer)
    finally:
        logger.remove(sink)
    assert any("askllm-proxy ends every text with </s>" in message for message in said)
    assert any("loses line breaks" in message for message in said)
    requests = asked(
        "loglikelihood", *[(prompt, f" {word}") for prompt in PROMPTS[:2] for word in ("yes", "no", "the")]
    )
    found = lm.loglikelihood(requests)
    assert len({score for score, _ in found}) == len(found)
    for request, (score, greedy) in zip(requests, found, strict=True):
        prompt, whole = (
            tokenizer(text, add_special_tokens=False).input_ids for text in (request.args[0], "".join(request.args))
        )
        assert lm.answer_length(request) == len(whole) - len(prompt) == 1
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole[:-1]])).logits[0, -1].log_softmax(-1)
        assert score == pytest.approx(logits[whole[-1]].item(), abs=1e-5)
        assert greedy == (logits.argmax().item() == whole[-1])
    theirs = lm_eval(model, tokenizer)
    assert len({score for score, _ in theirs.loglikelihood(requests[:3])}) == 1
    right = lm_eval(model, tokenizer, add_bos_token=False).loglikelihood(requests)
    assert [score for score, _ in found] == pytest.approx([score for score, _ in right], abs=1e-4)


def test_bos_is_put_where_the_tokenizer_puts_it():
    tokenizer = byte_tokenizer(bos=True)
    encode = CausalLM(decoder(), tokenizer)._encoder.encode
    assert encode(["a fox", "<|begin|>a fox", ""]) == [tokenizer("a fox").input_ids] * 2 + [[BOS]]
    assert CausalLM(decoder(), byte_tokenizer())._encoder.encode(["a fox", ""]) == [
        tokenizer("a fox").input_ids[1:],
        [],
    ]


def test_an_answer_without_a_token_is_named():
    tokenizer = byte_tokenizer()
    whole = next(text for text in map(tokenizer.decode, range(300, 600)) if len(text) > 4 and text.isalpha())
    request = Instance("loglikelihood", {}, (whole[:-1], whole[-1]), 0, ("animals", 7, 1))
    with pytest.raises(ModelError, match=f"animals, document 7: the answer '{whole[-1]}' has no token of its own"):
        CausalLM(decoder(), tokenizer).loglikelihood([request])


def test_the_end_of_an_answer_counts_if_asked():
    model, tokenizer = decoder(), byte_tokenizer()
    plain, ended = (CausalLM(model, tokenizer, score_eos=eos) for eos in (False, True))
    (request,) = asked("loglikelihood", (PROMPTS[0], " in a barn"))
    assert ended.answer_length(request) == plain.answer_length(request) + 1
    assert ended.loglikelihood([request])[0][0] < plain.loglikelihood([request])[0][0]


@pytest.mark.parametrize("share", [True, False])
def test_whole_exemplars_go_before_the_question_does(share):
    model, tokenizer = decoder("llama" if share else "mistral"), byte_tokenizer()
    shorter = HEAD + "".join(EXEMPLARS[2:]) + "Who ran 1 hours at home?\nAnswer:"
    lm = CausalLM(model, tokenizer, max_input=len(tokenizer(shorter).input_ids))
    lm.frame = lambda request: (HEAD, request.args[0].rpartition("\n\n")[2])
    scored = asked("loglikelihood", (PROMPTS[1], " A"), (PROMPTS[1], " B"), (shorter, " A"), (shorter, " B"))
    found = lm.loglikelihood(scored)
    assert found[:2] == found[2:]
    assert (lm.shortened, lm.cut) == (1, 0)
    generated = asked(
        "generate_until", *[(prompt, {"until": ["\n"], "max_gen_toks": 3}) for prompt in (PROMPTS[1], shorter)]
    )
    assert len(set(lm.generate_until(generated))) == 1
    (long,) = asked("loglikelihood", ("Who slept? " * 400 + "Answer:", " A"))
    lm.loglikelihood([long])
    assert (lm.shortened, lm.cut) == (2, 1)
    assert lm._pairs([long])[0][0] == tokenizer(long.args[0]).input_ids[-lm._max_input :]  # its end stays


def test_room_for_the_answer_is_the_models():
    model, tokenizer = decoder(), byte_tokenizer()
    model.config.max_position_embeddings = 90
    lm, theirs = CausalLM(model, tokenizer), HFLM(pretrained=model, tokenizer=tokenizer, device="cpu")
    text = "Who slept? " * 40
    requests = asked("loglikelihood", (text, " in a barn"))  # nothing but first tokens can go
    assert lm.loglikelihood(requests)[0][0] == pytest.approx(theirs.loglikelihood(requests)[0][0], abs=1e-4)
    with pytest.raises(ModelError, match="an answer of 90 tokens leaves no room for a prompt"):
        lm.generate_until(asked("generate_until", (text, {"max_gen_toks": 90})))


def test_sampled_answers_are_refused():
    with pytest.raises(ModelError, match="asks for sampled answers"):
        CausalLM(decoder(), byte_tokenizer()).generate_until(asked("generate_until", ("a", {"do_sample": True})))


def test_a_folder_and_a_revision_of_the_hub(tmp_path, monkeypatch):
    repo, commit = tmp_path / "models--winnow--decoder", "0123456789abcdef0123456789abcdef01234567"
    folder = write_decoder(tmp_path / "peer")
    (repo / "refs").mkdir(parents=True)
    for name, kind, digest in (("main", "gpt2", commit[::-1]), ("early", "llama", commit)):
        write_decoder(repo / "snapshots" / digest, kind)
        (repo / "refs" / name).write_text(digest)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (peer,), (early,) = find_checkpoints("a", folder), find_checkpoints("a", "winnow/decoder@early")
    assert (early.model, early.revision, early.weights) == ("winnow/decoder", "early", commit)
    assert (early.architecture, early.name) == ("winnow/decoder@early", "winnow--decoder@early")
    requests = asked("loglikelihood", *pairs())
    expected = CausalLM(folder).loglikelihood(requests)
    assert CausalLM(early.model, revision=early.revision).loglikelihood(requests) == expected
    assert CausalLM("winnow/decoder").loglikelihood(requests) != expected
    assert (peer.architecture, peer.revision) == ("peer", None)
    with pytest.raises(ModelError, match="peer has no revisions"):
        find_checkpoints("a", f"{folder}@early")
    shutil.rmtree(repo)
    with pytest.raises(ModelError, match="to be had from the Hub"):
        find_checkpoints("a", "winnow/decoder@early")


def test_models_that_write_no_text_are_refused(tmp_path):
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=640
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a BertForMaskedLM, which does not write text"):
        CausalLM(str(tmp_path))
    with pytest.raises(ModelError, match="is an encoder-decoder: use EncoderDecoderLM"):
        CausalLM(EMBEDDED_PROXY)
