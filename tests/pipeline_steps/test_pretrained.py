"""No code of a model's folder is run, no pickle is read, nobody is asked: every loader says so in one sentence."""

import ast
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from test_ask_llm_scorer import tiny_tokenizer
from test_classifier_head_scorer import save_bert
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

from pipeline_steps.engines.encoders import load_sentence_encoder
from pipeline_steps.engines.likelihoods import load_likelihood
from pipeline_steps.engines.models import EMBEDDED_PROXY
from pipeline_steps.engines.proxies import load_proxy
from pipeline_steps.errors import ModelError
from pipeline_steps.scorers.classifiers import load_head
from train.checkpoints import load_pretrained
from train.tokenizers import TextTokenizer


ROOT = Path(__file__).parent.parent.parent
SPY = "import pathlib; pathlib.Path({mark!r}).touch()\nfrom transformers import T5Config\nclass Own(T5Config): pass\n"
# Every loader of the four packages, as a statement that needs `folder`
LOADERS = {
    "proxy": "from pipeline_steps.engines.proxies import load_proxy as load; load(folder)",
    "served proxy": "from pipeline_steps.engines.proxies import serve_proxy as s; s(folder, None, 'auto', 64, '{}')",
    "perplexity": "from pipeline_steps.engines.likelihoods import load_likelihood as load; load(folder)",
    "head": "from pipeline_steps.scorers.classifiers import load_head as load; load(folder)",
    "embedder": (
        "from pipeline_steps.engines.encoders import load_sentence_encoder as load; load(folder, None, 'auto', None)"
    ),
    "fine-tuning": "from train.checkpoints import load_pretrained as load; load(folder)",
    "few-shot": "from evaluate_suite.encoder_decoder_lm import EncoderDecoderLM as load; load(folder)",
    "measured": "from evaluate_suite.checkpoint import find_checkpoints as load; load('x', folder)",
    "tokenizer": "from train.tokenizers import TextTokenizer as load; load(folder)",
}


@pytest.fixture
def t5(tmp_path):
    """A T5 that loads everywhere but as a head."""
    vocab = tiny_tokenizer(tmp_path / "t5")
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(vocab_size=vocab, decoder_start_token_id=0, **shape)).save_pretrained(
        tmp_path / "t5"
    )
    return tmp_path / "t5"


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickle_instead(folder):
    """Leave the same weights, as transformers 4 wrote them."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder, mark):
    (folder / "own.py").write_text(SPY.format(mark=str(mark)))
    names = ("AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM", "AutoModelForCausalLM")
    heads = ("AutoModelForSequenceClassification",)
    edit(folder / "config.json", model_type="own", auto_map=dict.fromkeys((*names, *heads), "own.Own"))
    edit(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "own.Own"]})


@pytest.mark.parametrize("name", LOADERS)
def test_code_is_not_run_and_nobody_is_asked(t5, tmp_path, monkeypatch, capfd, name):
    """Even where stdin says yes to every question."""
    with_code(t5, tmp_path / "mark")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 20))
    with pytest.raises(ModelError) as refused:
        exec(LOADERS[name], {"folder": str(t5)})
    assert not (tmp_path / "mark").exists()
    assert str(t5) in str(refused.value)
    assert "code of its own" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "[y/N]" not in "".join(capfd.readouterr())


def test_code_that_is_not_needed_is_no_hindrance(t5, tmp_path):
    """Many repositories of architectures that transformers knows by now still name their own."""
    (t5 / "own.py").write_text(SPY.format(mark=str(tmp_path / "mark")))
    edit(t5 / "config.json", auto_map={"AutoConfig": "own.Own", "AutoModelForSeq2SeqLM": "own.Own"})
    assert load_proxy(str(t5))
    assert not (tmp_path / "mark").exists()


def test_an_attention_kernel_is_code_too(t5):
    edit(t5 / "config.json", attn_implementation="kernels-community/flash-attn")
    with pytest.raises(ModelError, match="attention kernel kernels-community/flash-attn"):
        load_proxy(str(t5))


@pytest.mark.parametrize("load", [load_proxy, load_likelihood, load_pretrained], ids=lambda load: load.__name__)
def test_pickled_weights(load, t5):
    pickle_instead(t5)
    with pytest.raises(ModelError, match=rf"{t5} has its weights as a pickle only .*pytorch_model.bin.*convert them"):
        load(str(t5))


def test_pickled_weights_beside_safe_ones(t5):
    torch.save({}, t5 / "pytorch_model.bin")
    torch.save({}, t5 / "training_args.bin")
    assert load_proxy(str(t5))


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "model.pt", "model.ckpt", "pytorch_model.pkl"])
def test_other_pickles(t5, name):
    (t5 / "model.safetensors").rename(t5 / name)
    with pytest.raises(ModelError, match="pickle only"):
        load_proxy(str(t5))


def test_a_head(tmp_path):
    folder = save_bert(tmp_path, ["score"])
    pickle_instead(tmp_path)
    with pytest.raises(ModelError, match="pickle only"):
        load_head(folder)


def test_no_weights_at_all(t5):
    (t5 / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot load the weights of"):
        load_proxy(str(t5))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}"),
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        lambda folder: (folder / "config.json").write_text("[1]"),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: edit(folder / "config.json", d_model="wide"),
    ],
    ids=["weights", "tokenizer", "list", "JSON", "value"],
)
def test_damaged_folders_are_one_error(t5, damage):
    damage(t5)
    with pytest.raises(ModelError, match=str(t5)):
        load_proxy(str(t5))


class TestEmbedders:
    @pytest.fixture
    def folder(self, t5, tmp_path):
        shutil.rmtree(t5)
        vocab = tiny_tokenizer(t5)
        shape = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        T5EncoderModel(T5Config(vocab_size=vocab, **shape)).save_pretrained(t5)
        layers = [Transformer(str(t5)), Pooling(16, pooling_mode="mean"), Dense(16, 8)]
        SentenceTransformer(modules=layers, device="cpu").save(str(tmp_path / "st"))
        return tmp_path / "st"

    def load(self, folder):
        return load_sentence_encoder(str(folder), None, "float32", None)

    @pytest.mark.parametrize("part", ["", "2_Dense"])
    def test_pickled_weights(self, folder, part):
        """sentence-transformers would fall back to them."""
        pickle_instead(folder / part)
        with pytest.raises(ModelError, match="pickle only"):
            self.load(folder)

    def test_modules_of_others(self, folder, tmp_path):
        (folder / "own.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'mark')!r}).touch()\n")
        listing = json.loads((folder / "modules.json").read_text())
        for kind in ("own.Own", "os.system", "sentence_transformers", "sentence_transformers.__builtins__.exec"):
            listing[1]["type"] = kind
            (folder / "modules.json").write_text(json.dumps(listing))
            with pytest.raises(ModelError, match=f"of the class {kind}, not of sentence-transformers' own"):
                self.load(folder)
        assert not (tmp_path / "mark").exists()

    def test_an_activation_of_others(self, folder):
        edit(folder / "2_Dense" / "config.json", activation_function="os.system")
        with pytest.raises(ModelError, match="code of its own"):
            self.load(folder)

    @pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"path": "x"}]', "null"])
    def test_damaged_listing(self, folder, text):
        (folder / "modules.json").write_text(text)
        with pytest.raises(ModelError):
            self.load(folder)


def test_the_embedded_proxy_loads():
    assert TextTokenizer(EMBEDDED_PROXY).sentinels == 100
    assert load_proxy(EMBEDDED_PROXY)


@pytest.mark.parametrize("package", ["pipeline_steps", "train", "evaluate_suite", "launch"])
def test_every_loader_says_that_code_is_not_trusted(package):
    """Outside of `pipeline_steps.engines.models`, which says it for the others."""
    names = {"from_pretrained", "load_dataset", "SentenceTransformer"}
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                said = {one.arg: getattr(one.value, "value", None) for one in node.keywords}
                if called in names:
                    assert said.get("trust_remote_code", "unsaid") is False, f"{file}:{node.lineno}"
                assert called not in ("torch.load", "read_pickle"), f"{file}:{node.lineno}"
