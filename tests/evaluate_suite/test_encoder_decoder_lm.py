"""Scores must be those of a plain forward pass and of lm-eval's own model, where that one is right."""

import json

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM
from evaluate_suite.prompted_lm import until
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.engines.t5 import PackedT5Encoder
from train.model import build_model


PROMPTS = ["The river ran north of the town.", "Is it so? " * 30, "one"]
ANSWERS = [" yes", " no", " not at all, no"]


@pytest.fixture(scope="module")
def model():
    """A T5 with weights of any kind, large enough to have opinions."""
    model = build_model("t5-tiny", 8192, 3).eval()
    model.generation_config.decoder_start_token_id = 0
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_PROXY)


def asked(kind, *arguments):
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


def pairs():
    return [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]


@pytest.mark.parametrize("score_eos", [False, True])
@pytest.mark.parametrize("batch_tokens", [1, 100_000])
def test_a_plain_forward_pass(model, tokenizer, score_eos, batch_tokens):
    lm = EncoderDecoderLM(model, tokenizer, score_eos=score_eos, batch_tokens=batch_tokens)
    found = lm.loglikelihood(asked("loglikelihood", *pairs()))
    for (prompt, answer), (score, greedy) in zip(pairs(), found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt").input_ids
        labels = tokenizer(answer, add_special_tokens=False).input_ids + [1] * score_eos
        with torch.no_grad():
            logits = model(input_ids=inputs, labels=torch.tensor([labels])).logits[0].log_softmax(-1)
        expected = sum(logits[place, label].item() for place, label in enumerate(labels))
        assert score == pytest.approx(expected, abs=1e-3)
        assert greedy == (logits.argmax(-1).tolist() == labels)


def test_lm_evals_own_scores(model, tokenizer):
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq", max_length=512, device="cpu", batch_size=4)
    expected = theirs.loglikelihood(asked("loglikelihood", *pairs()))
    found = EncoderDecoderLM(model, tokenizer).loglikelihood(asked("loglikelihood", *pairs()))
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_each_prompt_is_encoded_once_and_letters_share_a_row(model, tokenizer, monkeypatch):
    encoded, decoded = [], []
    encode, decode = PackedT5Encoder.encode, model.decoder.forward
    monkeypatch.setattr(PackedT5Encoder, "encode", lambda self, ids: (encoded.append(len(ids)), encode(self, ids))[1])
    monkeypatch.setattr(model.decoder, "forward", lambda **kw: (decoded.append(len(kw["input_ids"])), decode(**kw))[1])
    letters = [(prompt, f" {letter}") for prompt in PROMPTS for letter in "ABCD"]
    assert {len(tokenizer(f" {letter}", add_special_tokens=False).input_ids) for letter in "ABCD"} == {1}
    EncoderDecoderLM(model, tokenizer).loglikelihood(asked("loglikelihood", *letters))
    assert sum(encoded) == sum(decoded) == len(PROMPTS)


def test_exemplars_go_before_the_question_does(model, tokenizer):
    lm = EncoderDecoderLM(model, tokenizer, max_input=60)
    exemplars = [f"Question: what is {number}? Answer: {number}" for number in range(20)]
    (request,) = asked("loglikelihood", ("\n\n".join([*exemplars, "Question: what is left? Answer:"]), " 20"))
    ids = lm._prompt_ids(request)
    kept = tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ids) <= 60
    assert kept.endswith("what is left? Answer:")
    assert kept.startswith("Question: what is 1")  # a whole exemplar
    assert (lm.shortened, lm.cut) == (1, 0)
    long = lm._prompt_ids(asked("loglikelihood", ("First words " + "and more " * 100, " x"))[0])
    assert tokenizer.decode(long).startswith("First words")
    assert len(long) == 60
    assert lm.cut == 1


def test_instruction_and_question_stay_whole(model, tokenizer):
    """Also a question of two paragraphs, if who knows the task says where it begins."""
    lm = EncoderDecoderLM(model, tokenizer, max_input=60)
    instruction, question = "Questions about rivers.\n\n", "The mill stood by the river.\n\nWhat stood there?"
    exemplars = [f"What is {number}? {number}\n\n" for number in range(40)]
    (request,) = asked("generate_until", (instruction + "".join(exemplars) + question, {}))
    lm.frame = lambda request: (instruction, question)
    kept = tokenizer.decode(lm._prompt_ids(request), skip_special_tokens=True)
    assert kept.startswith("Questions about rivers. What is")
    assert kept.endswith("39? 39 The mill stood by the river. What stood there?")
    assert (lm.shortened, lm.cut) == (1, 0)


def test_generates_no_more_than_asked(model, tokenizer):
    requests = asked(
        "generate_until", *[(prompt, {"until": [], "max_gen_toks": most}) for prompt in PROMPTS for most in (3, 9)]
    )
    found = EncoderDecoderLM(model, tokenizer).generate_until(requests)
    for (prompt, settings), text in zip([request.args for request in requests], found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt")
        said = model.generate(**inputs, max_new_tokens=settings["max_gen_toks"], do_sample=False)
        assert text == tokenizer.decode(said[0], skip_special_tokens=True)
        assert said.shape[1] <= settings["max_gen_toks"] + 1


def test_stops():
    assert until("so it is. Q: next", ["Q:", "\n"]) == "so it is. "
    assert until("all of it", []) == "all of it"


def test_a_text_alone_has_no_likelihood(model, tokenizer):
    with pytest.raises(NotImplementedError, match="perplexity"):
        EncoderDecoderLM(model, tokenizer).loglikelihood_rolling([])


def test_a_whole_evaluation_is_lm_evals(model, tokenizer, tmp_path):
    """A multiple-choice and a generative task of a few rows, through lm-eval, by its own model and by ours."""
    rows = [{"question": f"What is {i}?", "choices": [str(i), str(i + 1), "none"], "label": i % 3} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\ntest_split: test\n"
    common += "num_fewshot: 2\nfewshot_split: test\ndoc_to_text: '{{question}}'\n"
    choose = "task: choose\noutput_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: label\n"
    say = "task: say\noutput_type: generate_until\ndoc_to_target: '{{choices[0]}}'\n"
    say += "generation_kwargs: {until: ['zzz'], max_gen_toks: 5}\nmetric_list: [{metric: exact_match}]\n"
    (tmp_path / "choose.yaml").write_text(common + choose)
    (tmp_path / "say.yaml").write_text(common + say)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, backend="seq2seq", max_length=512, device="cpu", batch_size=4)
    found = [
        simple_evaluate(lm, tasks=["choose", "say"], task_manager=manager, bootstrap_iters=0, log_samples=True)
        for lm in (EncoderDecoderLM(model, tokenizer), theirs)
    ]
    assert found[0]["results"]["choose"]["acc,none"] == found[1]["results"]["choose"]["acc,none"]
    scores = [[float(r[0]) for s in one["samples"]["choose"] for r in s["filtered_resps"]] for one in found]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert "exact_match,none" in found[0]["results"]["say"]
