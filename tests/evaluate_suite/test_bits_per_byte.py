"""Bits per byte must be what a plain loop finds, document by document, for any tokenizer, batch and order."""

import copy
import json
import math
import shutil
from functools import cache

import numpy as np
import pytest
import torch
import xxhash
from datatrove.utils.logging import logger
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from test_perplexity import LENGTH, made, train  # noqa: F401  a run of a T5 with two checkpoints
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from evaluate_suite import bits_per_byte
from evaluate_suite.__main__ import main
from evaluate_suite.bits_per_byte import DomainModel, Windows
from evaluate_suite.bootstrap import interval, resampled_ratios
from evaluate_suite.checkpoint import find_checkpoints
from evaluate_suite.domains import DomainReading, read_domains
from evaluate_suite.measure import bits_per_byte as measure_bits
from evaluate_suite.results import read_results
from evaluate_suite.text_windows import masked_windows, rolling_windows
from pipeline_steps import EMBEDDED_PROXY
from pipeline_steps.engines import likelihoods
from pipeline_steps.errors import CorpusError, InvalidCut, ModelError, WinnowError
from pipeline_steps.readers.reading import Reading
from train.objectives import SpanCorruption
from train.tokenizers import TextTokenizer


POSITIONS = 48  # of the causal models: longer texts are cut
SENTENCES = "The mill stood by the river. Its wheel, 200 years old, turned all winter; nobody knew why!\n\n"
TEXTS = [
    "a",
    SENTENCES,
    SENTENCES[:10],
    "naïve café — 日本語 😀\tßü\r\n" * 4,
    "</s> and <|endoftext|> are words",
    SENTENCES * 6,
]
CLEAN = ["a", "a river", "the old mill by the sea and its fields " * 3, "one two three four five six seven " * 40]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """A byte-level tokenizer with a BOS and an EOS, which gives every text back."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|endoftext|>", "<s>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([SENTENCES] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, byte_level):
    """Random models by name, as transformers saves them; "gpt2" has learned positions, and EOS for BOS.

    The tokenizer of "from eos" has a BOS that the model's configuration does not know.
    """
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"vocab_size": len(byte_level), "max_position_embeddings": POSITIONS}
    gpt2 = GPT2Config(vocab_size=512, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4)
    gpt2.bos_token_id = gpt2.eos_token_id = 0
    t5 = T5Config(vocab_size=8192, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)
    random = {
        "llama": LlamaForCausalLM(LlamaConfig(**small, bos_token_id=1, eos_token_id=0)),
        "gpt2": GPT2LMHeadModel(gpt2),
        "from eos": GPT2LMHeadModel(gpt2),
        "bert": BertLMHeadModel(BertConfig(**small)),
        "t5": T5ForConditionalGeneration(t5),
    }
    root = tmp_path_factory.mktemp("models")
    for name, model in random.items():
        for weight in model.parameters():  # so that what is near a token matters
            weight.data.mul_(3)
        model.save_pretrained(root / name)
        own = AutoTokenizer.from_pretrained(EMBEDDED_PROXY) if name == "t5" else copy.copy(byte_level)
        own.bos_token = own.eos_token if name == "gpt2" else own.bos_token
        own.save_pretrained(root / name)
    return {name: str(root / name) for name in random}


def asked(folder, windows=None):
    return DomainModel(find_checkpoints("x", folder)[-1], windows or Windows())


def measured(folder, texts, windows=None):
    model = asked(folder, windows)
    return {name: np.array(values) for name, values in model.measure(texts, model.load(), _NoBar()).items()}


class _NoBar:
    def update(self, count):
        """Show nothing."""


# ----------------------------------------------------------------------------------------- against independent loops


def plain_causal(folder, kind, first, ids, new):
    """Sum what transformers' own model says of each token, window by window, in float64 and without padding."""
    model, total = kind.from_pretrained(folder).eval(), 0.0
    for window in get_rolling_token_windows(ids, first, POSITIONS, POSITIONS - new + 1):
        context, targets = make_disjoint_window(window)
        with torch.no_grad():
            logits = model(torch.tensor([context + targets[:-1]])).logits[0, -len(targets) :].double()
        total -= logits.log_softmax(-1)[torch.arange(len(targets)), torch.tensor(targets)].sum().item()
    return total


@pytest.mark.parametrize(
    ("name", "kind", "first"),
    [("llama", LlamaForCausalLM, 1), ("gpt2", GPT2LMHeadModel, 0), ("from eos", GPT2LMHeadModel, 0)],
)
@pytest.mark.parametrize("overlap", [False, True])
def test_causal_models_equal_a_plain_loop(folders, byte_level, name, kind, first, overlap):
    found = measured(folders[name], TEXTS, Windows(overlap=overlap))
    plain = Tokenizer.from_str(byte_level.backend_tokenizer.to_str())
    plain.encode_special_tokens = True  # what a text spells is text
    for number, text in enumerate(TEXTS):
        ids = plain.encode(text, add_special_tokens=False).ids
        new = POSITIONS // 2 if overlap else POSITIONS
        assert found["nats"][number] == pytest.approx(plain_causal(folders[name], kind, first, ids, new), rel=1e-5)
        assert found["bytes"][number] == found["original"][number] == len(text.encode())
    assert max(found["tokens"]) > 3 * POSITIONS
    assert found["tokens"][0] == 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_equals_lm_evals_rolling_likelihood(folders, name):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    texts = [text for text in TEXTS if "endoftext" not in text]  # which lm-eval takes for the end of a text
    lm = HFLM(pretrained=folders[name], backend="causal", dtype="float32", device="cpu", batch_size=2)
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    expected = lm.loglikelihood_rolling(requests, disable_tqdm=True)
    np.testing.assert_allclose(measured(folders[name], texts)["nats"], -np.array(expected), rtol=1e-5)


def test_t5s_equal_transformers_loss_and_bytes_by_offsets(folders):
    """Bytes are those of the masked stretches of the text, each with the space before it."""
    found = measured(folders["t5"], CLEAN, Windows(64, seed=3))
    backend = AutoTokenizer.from_pretrained(EMBEDDED_PROXY).backend_tokenizer
    corruption = SpanCorruption(64, 8191)
    model = T5ForConditionalGeneration.from_pretrained(folders["t5"]).eval()
    for number, text in enumerate(CLEAN):
        encoding, nats = backend.encode(text, add_special_tokens=False), 0.0
        examples, masked = masked_windows(np.array(encoding.ids), corruption, 3)
        for inputs, targets in examples:
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([inputs]), labels=torch.tensor([targets])).loss
            nats += loss.item() * len(targets)
        ends = [0, *(end for _, end in encoding.offsets)]
        covered = sum(ends[i + 1] - ends[i] for i in np.flatnonzero(masked))
        assert found["nats"][number] == pytest.approx(nats, rel=1e-5)
        assert found["bytes"][number] == covered > 0
        assert found["decoded"][number] == len(text.strip())
    assert 0.12 < found["bytes"][-1] / len(CLEAN[-1]) < 0.18


def test_masks_are_those_of_training():
    corruption, seed = SpanCorruption(64, 8191), 5
    ids = np.random.default_rng(0).integers(3, 8000, corruption.raw_length)
    ((inputs, targets),), _ = masked_windows(ids, corruption, seed)
    sample = np.array([xxhash.xxh3_64_intdigest(ids.astype("<i8").tobytes())], dtype=np.uint64)
    trained_on = corruption.rows(ids[None].astype(np.int32), sample, seed)
    assert (inputs, targets) == (trained_on[0][0].tolist(), trained_on[1][0].tolist())
    assert masked_windows(ids, corruption, seed + 1)[0] != [(inputs, targets)]


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_batches_and_order_change_nothing_but_the_last_digits(folders, name, monkeypatch):
    texts = [*TEXTS, *CLEAN]
    before = measured(folders[name], texts)
    monkeypatch.setattr(likelihoods, "_BATCH_TOKENS", {"cpu": 60})
    monkeypatch.setattr(likelihoods, "_LOGITS", {"cpu": 512 * 20})
    monkeypatch.setattr(bits_per_byte, "_CHARACTERS", 200)
    after = measured(folders[name], texts[::-1])
    np.testing.assert_allclose(after["nats"][::-1], before["nats"], rtol=1e-6)
    np.testing.assert_array_equal(after["bytes"][::-1], before["bytes"])


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_every_token_is_a_target_once(tokens, window, data):
    new = data.draw(st.integers(1, window))
    ids = np.arange(tokens) + 10
    found = rolling_windows(ids, 5, window, new)
    assert [target for _, targets in found for target in targets if target >= 0] == ids.tolist()
    plain = [make_disjoint_window(one) for one in get_rolling_token_windows(ids.tolist(), 5, window, window - new + 1)]
    assert [inputs for inputs, _ in found] == [context + targets[:-1] for context, targets in plain]


@cache
def embedded():
    return TextTokenizer(EMBEDDED_PROXY)


@given(st.text(max_size=40))
def test_bytes_of_tokens_add_up_to_the_text(text):
    tokenizer = embedded()
    (ids,) = tokenizer.encode([text])
    assert tokenizer.bytes_by_token(ids).sum() == len(tokenizer.decode(ids).encode())


# ------------------------------------------------------------------------------------------- rows, caches, mistakes


@pytest.fixture
def corpus(tmp_path):
    """Three sources of documents, in one file."""
    rows = [{"id": str(i), "text": f"{SENTENCES} {i}" * (1 + i % 4), "source": "abc"[i % 3]} for i in range(30)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_of_domains_and_their_mean(folders, corpus, tmp_path, capfd):
    output, runs = tmp_path / "r.jsonl", [f"{name}={folders[name]}" for name in ("llama", "gpt2", "t5")]
    argv = ["bits-per-byte", "--runs", *runs, "--text", f"web={corpus}", f"more={corpus}", "--by", "source"]
    said = []
    sink = logger.add(said.append, level="WARNING")
    assert main([*argv, "--output", str(output), "--max-documents", "8", "--window", "40"]) == 0
    logger.remove(sink)
    rows = {(row.sampler, row.task, row.metric): row for row in read_results(str(output))}
    names = [f"{corpus}/{source}" for corpus in ("web", "more") for source in "abc"]
    for sampler, metric in (("llama", "bits_per_byte"), ("gpt2", "bits_per_byte"), ("t5", "bits_per_masked_byte")):
        mine = [rows[sampler, f"domain/{name}", metric] for name in names]
        macro = rows[sampler, "domain/macro", metric]
        assert macro.value == pytest.approx(np.mean([row.value for row in mine]))
        assert macro.ci95_low < macro.value < macro.ci95_high
        assert macro.stderr < max(row.stderr for row in mine)  # domains are drawn apart from each other
        assert (macro.n, {row.n for row in mine}) == (48, {8})
        assert all("windows of 40 tokens, of 10 documents evenly spaced" in row.harness_version for row in mine)
    assert len(rows) == 3 * (6 * 3 + 1)
    texts = [
        text for domain in read_domains("web", str(corpus), DomainReading("source", 8))[:1] for text in domain.texts
    ]
    found = measured(folders["llama"], texts, Windows(40))
    row = rows["llama", "domain/web/a", "bits_per_byte"]
    assert row.value == pytest.approx(found["nats"].sum() / math.log(2) / found["original"].sum(), rel=1e-6)
    out, err = capfd.readouterr()
    assert "[1/9] llama" in err
    (warning,) = said
    assert "the tokenizer of t5 loses text of 6 of 6 domains" in warning
    assert "coverage" in out
    lossy = rows["t5", "domain/web/a", "coverage"]
    assert 0.9 < lossy.value < 0.995
    assert lossy.harness_version.endswith("this tokenizer only")
    assert rows["llama", "domain/web/a", "coverage"].value == 1


def test_measured_once_and_again_if_damaged(folders, corpus, tmp_path, monkeypatch):
    runs, texts, output = {"llama": folders["llama"]}, {"web": str(corpus)}, str(tmp_path / "r.jsonl")
    first, loads = measure_bits(runs, texts, output), []
    load = DomainModel.load
    monkeypatch.setattr(DomainModel, "load", lambda self: loads.append(self) or load(self))
    assert measure_bits(runs, texts, output) == first
    assert not loads
    (unit,) = (tmp_path / "evaluation").rglob("domain-web.json")
    unit.write_bytes(unit.read_bytes().replace(b"nats", b"gnat"))
    assert measure_bits(runs, texts, output) == first
    measure_bits(runs, texts, output, windows=Windows(20))
    corpus.write_text(corpus.read_text().replace("mill", "hill"))
    assert measure_bits(runs, texts, output, windows=Windows(20)) != first
    assert len(loads) == 3


def test_our_checkpoints_have_the_windows_and_the_start_of_their_training(made, tmp_path):  # noqa: F811
    train(made / "tokens", tmp_path / "run", preset="llama-tiny", **{"optimizer": "adamw", "warmup-steps": 2})
    text = "the old mill by the sea and its quiet fields " * 30
    for run, metric in ((tmp_path / "run", "bits_per_byte"), (made / "run", "bits_per_masked_byte")):
        model = asked(str(run))
        assert (model.window, model.metric) == (LENGTH, metric)
    found = measured(str(tmp_path / "run"), [text])
    ids = embedded().encode([text])[0].tolist()
    model, nats = LlamaForCausalLM.from_pretrained(find_checkpoints("x", str(tmp_path / "run"))[-1].model).eval(), 0.0
    for context, targets in map(make_disjoint_window, get_rolling_token_windows(ids, 1, LENGTH, 1)):
        with torch.no_grad():
            logits = model(torch.tensor([context + targets[:-1]])).logits[0, -len(targets) :].double()
        nats -= logits.log_softmax(-1)[torch.arange(len(targets)), torch.tensor(targets)].sum().item()
    assert found["nats"][0] == pytest.approx(nats, rel=1e-5)


def test_a_revision_of_the_hub_is_measured_and_not_the_newest(folders, corpus, tmp_path, monkeypatch):
    repo, commit = tmp_path / "models--winnow--decoder", "0123456789abcdef0123456789abcdef01234567"
    (repo / "refs").mkdir(parents=True)
    for ref, folder, digest in (("main", "gpt2", commit[::-1]), ("early", "llama", commit)):
        shutil.copytree(folders[folder], repo / "snapshots" / digest)
        (repo / "refs" / ref).write_text(digest)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    runs = {"early": "winnow/decoder@early", "main": "winnow/decoder", "llama": folders["llama"]}
    found = measure_bits(runs, {"web": str(corpus)}, str(tmp_path / "r.jsonl"))
    bits = {row.sampler: row.value for row in found if (row.task, row.metric) == ("domain/web", "bits_per_byte")}
    assert bits["early"] == bits["llama"] != bits["main"]


def test_documents_are_evenly_spaced(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(1000)))
    for most in (1, 7, 64, 500, 999, 1000, 2000, 0):
        (domain,) = read_domains("c", str(path), DomainReading(max_documents=most))
        numbers = np.array(list(map(int, domain.texts)))
        assert (len(numbers), domain.available) == (min(most or 1000, 1000), 1000)
        gaps = np.diff(numbers, prepend=0 - (numbers[0] > 0), append=1000)[1:]
        assert gaps.max() <= 2 * gaps[:-1].min(initial=1000)
    both = read_domains("c", f"{path},{path}", DomainReading())[0]
    assert (both.available, len(both.texts)) == (2000, 1000)


def test_mistakes_are_named(folders, corpus, tmp_path):
    runs, output = {"llama": folders["llama"]}, str(tmp_path / "r.jsonl")
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": "a b"}\n{"text": ""}\n')
    with pytest.raises(CorpusError, match=r"empty.jsonl, row 2: 'text' is empty"):
        measure_bits(runs, {"a": str(empty)}, output)
    rows = measure_bits(runs, {"a": str(empty)}, output, how=DomainReading(reading=Reading(on_bad_row="skip")))
    assert {row.n for row in rows} == {1}
    assert math.isnan(rows[0].stderr)  # of one document no spread is known
    for change, message in (
        ({"texts": {"macro": str(corpus)}}, "'macro' cannot be the name"),
        ({"how": DomainReading("language")}, "has no column 'language'; its columns are source, file_path"),
        ({"windows": Windows(POSITIONS + 1)}, "windows of 49 tokens do not fit .* which has 48 positions"),
        ({"runs": {"bert": folders["bert"]}}, "sees what comes after a token"),
        ({"texts": {"a": "s3://key:secret@bucket/a"}}, "holds a credential"),
    ):
        with pytest.raises(WinnowError, match=message):
            measure_bits(**{"runs": runs, "texts": {"web": str(corpus)}, "output": output} | change)
    with pytest.raises(InvalidCut, match="cannot have -3 tokens"):
        Windows(-3)
    with pytest.raises(InvalidCut, match="-1 documents cannot be measured"):
        DomainReading(max_documents=-1)
    tokenizer = TextTokenizer(EMBEDDED_PROXY)
    tokenizer._piece_bytes[:] = 7  # as if texts were put together in another way
    with pytest.raises(ModelError, match="do not add up"):
        tokenizer.bytes_by_token(np.array([10, 272]))


def test_a_95_percent_interval_of_a_ratio_holds_it():
    rng, trials, held = np.random.default_rng(0), 400, 0
    for trial in range(trials):
        size = rng.lognormal(3, 1, 60)
        bits = size * rng.normal(1.0, 0.2, 60)
        found = interval(bits.sum() / size.sum(), resampled_ratios(bits, size, trial, 500))
        held += found.low <= 1.0 <= found.high
    # few large documents carry the sums: some per cent short of 95; 4 standard errors around 0.92
    assert held / trials == pytest.approx(0.92, abs=4 * (0.92 * 0.08 / trials) ** 0.5)
