"""Few-shot numbers must be lm-eval's own, and be measured once."""

import json
import math
import random
import shutil

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_data import EARLY, ROWS, questions, write_jsonl
from tiny_decoders import write_decoder

from evaluate_suite.causal_lm import CausalLM
from evaluate_suite.checkpoint import Checkpoint
from evaluate_suite.choices import METRICS, Choices
from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM
from evaluate_suite.few_shot import FewShot, ask, best_rows, estimates, few_shot_rows, harness_config, measure_few_shot
from evaluate_suite.harness_tasks import gsm8k_exemplars
from evaluate_suite.registry import all_tasks, by_suite, extra_suites, registry
from evaluate_suite.results import ResultRow
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.errors import CorpusError, InvalidCut


PARTS = [(10.0, 3.0, 5), (20.0, 4.0, 50), (60.0, 0.0, 5)]
TASKS = [task for task in all_tasks().values() if task.protocol == "few_shot"]


@pytest.fixture(scope="session")
def model():
    """Folder of a T5 that is small but real, with its tokenizer."""
    return EMBEDDED_PROXY


@pytest.fixture(scope="module")
def lm(model):
    return EncoderDecoderLM(model)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_task_from_end_to_end(task, lm, data_root):
    found = measure_few_shot(task, lm, str(data_root))
    assert set(found) == {*task.reported, "prompts_shortened", "prompts_cut"}
    value, stderr, n = found[task.metrics[0]]
    assert 0 <= value <= 100
    if not task.parts:
        assert stderr == pytest.approx((value * (100 - value) / (n - 1)) ** 0.5)
    assert math.isfinite(stderr)
    assert n == {"mmlu": questions(task.name), "bbh": 3 * max(1, len(task.parts))}.get(task.suite, n) > 0


@pytest.mark.parametrize("task", TASKS[::9] + by_suite()["reasoning"] + by_suite()["qa"], ids=lambda task: task.name)
def test_what_is_measured_is_the_registrys(task, data_root):
    for part in task.parts or (task.config,):
        config = harness_config(task, part, str(data_root))
        assert (config.get("test_split") or config["validation_split"]) == task.split
        assert config["num_fewshot"] == task.shots
        hub = harness_config(task, part, None)
        assert hub["dataset_path"] in (task.dataset, "json", "csv")
        if hub["dataset_path"] == task.dataset:
            assert hub.get("dataset_name") in (part, None)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory):
    """Folder of a small decoder-only model, with its tokenizer."""
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.mark.parametrize("kind", [EncoderDecoderLM, CausalLM])
@pytest.mark.parametrize("name", ["anatomy", "arc_easy", "qa_boolq", "unifiedqa", "svamp", "navigate"])
def test_lm_evals_own_model_and_loop_say_the_same(name, kind, model, decoder, data_root):
    task = registry()[name]
    model = decoder if kind is CausalLM else model
    lm = kind(model)
    theirs = simple_evaluate(
        model=HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=2, max_length=2048),
        tasks=[harness_config(task, task.config, str(data_root))],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
    )
    (result,) = theirs["results"].values()
    key = next(key for key in result if key.startswith(("acc,", "exact_match,")))
    assert measure_few_shot(task, lm, str(data_root))[task.metrics[0]][0] == pytest.approx(100 * result[key])


def test_our_tasks_are_there_for_lm_eval_by_name(capsys):
    from evaluate_suite.__main__ import main

    assert main(["--harness"]) == 0
    manager = TaskManager(include_path=capsys.readouterr().out.strip(), include_defaults=False)
    fine_tuned = {f"winnow_t5_{task.name}" for s in by_suite().values() for task in s if task.protocol == "finetune"}
    own = {"winnow_svamp", "winnow_asdiv_cot", "winnow_strategyqa", "winnow_unifiedqa", "winnow_commonsense_qa_cloze"}
    own |= {f"winnow_{task.name}" for task in extra_suites()["core_v2"]}
    assert set(manager.all_tasks) == own | fine_tuned - {"winnow_t5_ax", "winnow_t5_wnli"}


def test_prompts_hold_eight_exemplars_then_the_question(lm, data_root):
    asked = []

    class Listening(EncoderDecoderLM):
        def generate_until(self, requests, disable_tqdm=False):
            asked.extend(request.args[0] for request in requests)
            return ["The answer is 2."] * len(requests)

    listening = Listening(lm._model, lm._tokenizer)
    found = measure_few_shot(registry()["svamp"], listening, str(data_root))
    assert found["exact_match"][0] == pytest.approx(100 / 3)  # "2.0" is 2
    assert all(prompt.count("Q:") == 9 and prompt.endswith("How many?\nA:") for prompt in asked)
    assert gsm8k_exemplars()[0]["question"] in asked[0]
    asked.clear()
    measure_few_shot(registry()["strategyqa"], listening, str(data_root))
    assert asked[0].count("Foxes sleep. So the answer is yes.") == 4
    assert asked[0].count("So the answer is no.") == 4


def test_parts_count_alike_and_their_errors_add_up():
    answers = [{"exact_match": one, "prompts_shortened": 1, "prompts_cut": 0} for one in PARTS]
    found = estimates(registry()["logical_deduction"], answers)
    assert found["exact_match"] == (30.0, pytest.approx(5 / 3), 60)
    assert found["prompts_shortened"] == (3.0, 0.0, 60)


def recorded(lm):
    """A model like `lm`, and the (prompt, answer) pairs that it is asked, with what it says."""
    asked = []

    class Recording(EncoderDecoderLM):
        def loglikelihood(self, requests, disable_tqdm=False):
            found = super().loglikelihood(requests, disable_tqdm)
            asked.extend((*request.args, *said) for request, said in zip(requests, found, strict=True))
            return found

    return Recording(lm._model, lm._tokenizer), asked


@pytest.mark.parametrize("name", ["hellaswag", "arc_challenge", "commonsense_qa_cloze", "winogrande", "anatomy"])
def test_each_question_has_lm_evals_own_numbers(name, lm, data_root):
    """On the same samples; ARC's questions have 3 to 5 choices, one of CommonsenseQA's is there twice."""
    task = all_tasks()[name]
    config = harness_config(task, task.config, str(data_root))
    ours = ["accuracy"] + (["acc_norm", "acc_bytes"] if name != "winogrande" else [])  # theirs count contexts there
    ours += ["accuracy_unconditional"] if task.unconditional else []
    theirs = [{"accuracy": "acc", "accuracy_unconditional": "acc_mutual_info"}.get(one, one) for one in ours]
    config["metric_list"] = [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in theirs]
    manager = TaskManager(include_defaults=False)
    fresh = EncoderDecoderLM(lm._model, lm._tokenizer)  # without the frame of another task
    (samples,) = simple_evaluate(fresh, tasks=[config], bootstrap_iters=0, task_manager=manager)["samples"].values()
    samples.sort(key=lambda sample: sample["doc_id"])
    choices = Choices(ask(task, lm, str(data_root), False, 0)["choices"])
    for mine, its in zip(ours, theirs, strict=True):
        assert METRICS[mine](choices).tolist() == [sample[its] for sample in samples], mine
    said = [[reply[0][0] for reply in sample["resps"]] for sample in samples]
    kept = [row[there].tolist() for row, there in zip(choices.log_likelihood_QK, choices.there_QK, strict=True)]
    assert kept == [one[: len(row)] for one, row in zip(said, kept, strict=True)]  # to the bit


def test_two_contexts_and_one_ending(lm, data_root):
    model, asked = recorded(lm)
    ask(all_tasks()["winogrande"], model, str(data_root), False, 0)
    assert asked[0][:2] == ("The fox saw the owl 0 times because the fox", " was hungry.")
    assert asked[1][:2] == ("The fox saw the owl 0 times because the owl", " was hungry.")
    shorter = EncoderDecoderLM(lm._model, lm._tokenizer, max_input=4)
    assert ask(all_tasks()["winogrande"], shorter, str(data_root), False, 0)["prompts_cut"] == 2 * ROWS


@pytest.mark.parametrize("name", ["core_arc_easy", "core_winograd", "core_jeopardy"])
def test_core_is_asked_as_nanochat_does(name, lm, data_root):
    """Prompts, exemplars and comparison, written here from its rules."""
    model, asked = recorded(lm)
    task = all_tasks()[name]
    found = measure_few_shot(task, model, str(data_root))
    (file,) = (data_root / task.dataset / task.config).glob(f"{name.removeprefix('core_')}*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    random.Random(1337).shuffle(rows)
    delimiter = " " if name == "core_winograd" else "\nAnswer: "

    def full(row, choice):
        if "choices" in row:
            return row["query"] + delimiter + row["choices"][choice]
        if "context_options" in row:
            return row["context_options"][choice] + delimiter + row["continuation"]
        return row["context"].strip() + delimiter + row["continuation"]

    right = []
    for number, row in enumerate(rows):
        others = [place for place in range(len(rows)) if place != number]
        drawn = random.Random(1234 + number).sample(others, task.shots) if task.shots else []
        head = "".join(full(rows[place], rows[place].get("gold")) + "\n\n" for place in drawn)
        texts = [
            head + full(row, choice) for choice in range(len(row.get("choices", row.get("context_options", "1"))))
        ]
        mine, asked[: len(texts)] = asked[: len(texts)], []
        assert [prompt + answer for prompt, answer, *_ in mine] == texts
        losses = [-said / len(lm._ids(answer)) for _, answer, said, _ in mine]
        right.append(losses.index(min(losses)) == row["gold"] if "gold" in row else mine[0][3])
    accuracy = 100 * sum(right) / len(right)
    assert found[task.metrics[0]][0] == pytest.approx(accuracy)
    assert found["centred_accuracy"][0] == pytest.approx(100 * (accuracy - task.chance) / (100 - task.chance))


def test_a_model_that_counts_no_tokens(lm, data_root):
    inner = EncoderDecoderLM(lm._model, lm._tokenizer)

    class Foreign(LM):
        def loglikelihood(self, requests):
            return inner.loglikelihood(requests)

        generate_until = loglikelihood_rolling = None

    assert set(measure_few_shot(all_tasks()["piqa"], Foreign(), str(data_root))) >= {"accuracy", "bits_per_byte"}
    with pytest.raises(InvalidCut, match="does not count the tokens"):
        measure_few_shot(all_tasks()["core_copa"], Foreign(), str(data_root))


def test_a_label_that_is_no_choice_is_refused(lm, data_root, tmp_path):
    write_jsonl(tmp_path / "baber/piqa/default/validation.jsonl", [EARLY["piqa"](0) | {"label": -1}])
    with pytest.raises(CorpusError, match="the label -1 is none of the 2 choices"):
        measure_few_shot(all_tasks()["piqa"], lm, str(tmp_path))


def test_limit_and_chain_of_thought(lm, data_root):
    assert measure_few_shot(registry()["anatomy"], lm, str(data_root), limit=2)["accuracy"][2] == 2
    thought = harness_config(registry()["navigate"], "navigate", str(data_root), cot=True)
    assert "step by step" in thought["doc_to_text"]
    with pytest.raises(InvalidCut, match="direct only"):
        measure_few_shot(registry()["anatomy"], lm, str(data_root), cot=True)


def checkpoint(model):
    return Checkpoint("random", model, "tiny", {}, "w", "tiny")


def measured(*arguments):
    return [row for rows in few_shot_rows(*arguments) for row in rows]


def test_measured_once_and_nothing_loaded_for_what_is_known(model, data_root, tmp_path, monkeypatch):
    tasks, settings = [registry()["anatomy"], registry()["arc_easy"]], FewShot(str(data_root))
    first = measured(checkpoint(model), tasks[:1], settings, tmp_path)
    both = measured(checkpoint(model), tasks, settings, tmp_path)
    assert set(first) < set(both)
    monkeypatch.setattr("evaluate_suite.encoder_decoder_lm.EncoderDecoderLM.__init__", lambda *_, **__: 1 / 0)
    assert sorted(measured(checkpoint(model), tasks, settings, tmp_path)) == sorted(both)
    for changed in (FewShot(str(data_root), limit=1), FewShot(str(data_root), score_eos=True)):
        with pytest.raises(ZeroDivisionError):
            measured(checkpoint(model), tasks, changed, tmp_path)
    with pytest.raises(ZeroDivisionError):  # other weights
        measured(Checkpoint("random", model, "tiny", {}, "v", "tiny"), tasks, settings, tmp_path)
    measured(checkpoint(model), tasks, FewShot(str(data_root), cot=True), tmp_path)  # of BBH alone
    more = measured(checkpoint(model), tasks, FewShot(str(data_root), metrics=("margin", "acc_norm")), tmp_path)
    assert {one.metric for one in set(more) - set(both)} == {"margin", "acc_norm"}  # from what is kept


def test_a_prompt_that_is_too_long_keeps_instruction_and_question(lm, data_root):
    """MMLU's: the instruction is the first paragraph, the exemplars are what goes."""
    seen = []

    class Listening(EncoderDecoderLM):
        def _score(self, inputs, answers):
            seen.extend(self._tokenizer.decode(ids, skip_special_tokens=True) for ids in inputs)
            return super()._score(inputs, answers)

    found = measure_few_shot(registry()["anatomy"], Listening(lm._model, lm._tokenizer, max_input=160), str(data_root))
    assert found["prompts_shortened"][0] == ROWS
    assert all(prompt.startswith("The following are multiple choice questions") for prompt in seen)
    assert all(prompt.endswith("Answer:") and 0 < prompt.count("Who slept") < 6 for prompt in seen)


def test_all_data_are_looked_for_first(model, data_root, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate_suite.few_shot.ask", lambda *_: pytest.fail("measured before"))
    shutil.copytree(data_root / "cais", tmp_path / "cais")
    with pytest.raises(CorpusError, match="hf download openai/gsm8k"):
        measured(checkpoint(model), [registry()["anatomy"], registry()["gsm8k"]], FewShot(str(tmp_path)), tmp_path)


def test_bad_data_is_said_in_one_sentence(model, lm, tmp_path):
    with pytest.raises(CorpusError, match="hf download cais/mmlu"):
        measure_few_shot(registry()["anatomy"], lm, str(tmp_path))
    with pytest.raises(CorpusError, match=r"unifiedqa needs .*curl .*storage\.googleapis\.com"):
        measure_few_shot(registry()["unifiedqa"], lm, str(tmp_path))
    file = tmp_path / "openai" / "gsm8k" / "main" / "test.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"unexpected": 1}) + "\n")
    with pytest.raises(CorpusError, match="gsm8k cannot be measured with the data"):
        measure_few_shot(registry()["gsm8k"], lm, str(tmp_path))


def row(task, metric, value):
    return ResultRow("s", 1.0, "t5", 0, 9, 1, 1.0, task, metric, value, 1.0, 0.0, 1.0, 5, 0, "h")


def test_one_checkpoint_for_all_suites():
    """The best mean over suites wins, also where another is better in one of them."""

    def rows(qa, reasoning):
        of_qa = [row(task.name, task.metrics[0], qa) for task in by_suite()["qa"]]
        return of_qa + [row(task.name, task.metrics[0], reasoning) for task in by_suite()["reasoning"]]

    # Tasks of question answering that a further suite shares do not count twice
    assert {one.value for one in best_rows({1: rows(30, 10), 2: rows(20, 21)}) if one.task == "svamp"} >= {21}
    found = best_rows({100: rows(30, 10), 200: rows(29, 15), 300: rows(25, 19)})
    assert {one.value for one in found if one.metric == "fine_tuning_step"} == {200}
    assert {one.value for one in found if one.task == "arc_easy" and one.metric == "accuracy"} == {29}
