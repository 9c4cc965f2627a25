"""A decoder of transformers is trained in its own shape and computes its own losses, or is refused by name."""

import json

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from pipeline_steps.errors import ModelError
from train.costs import is_counted, training_flops
from train.hub_presets import HubPreset
from train.losses import TokenLosses
from train.model import build_model, count_parameters


SHAPE = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 12}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "vocab_size": 99_999, "torch_dtype": "bfloat16"}
SHAPE |= {"pad_token_id": 5, "quantization_config": {"quant_method": "fp8"}}
SAME = {"head_dim": None, "num_key_value_heads": 4}  # of families whose configurations have no head_dim
COUNTED = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": SAME,
    "qwen3": {"tie_word_embeddings": True},
    "olmo": SAME,
    "olmo2": SAME,
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 0.5},
    "granite": SAME | {"logits_scaling": 3.0},
    "cohere": SAME | {"logit_scale": 0.25},
}
OTHERS = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "phi3": SAME | {"resid_pdrop": 0.0}}
OTHERS |= {"mixtral": {"num_local_experts": 2}, "nanochat": SAME}


@pytest.fixture
def written(tmp_path):
    """A function that writes a config.json and returns its preset."""

    def write(family, **changes):
        said = {name: value for name, value in (SHAPE | changes).items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": family}))
        return f"hf:{tmp_path}"

    return write


@pytest.mark.parametrize(("family", "changes"), (COUNTED | OTHERS).items())
def test_losses_gradients_and_operations_are_those_of_transformers(written, family, changes):
    model = build_model(written(family, **changes), 200, 0, eos=7)
    config = model.config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (256, 7, 7, None)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    torch.manual_seed(0)
    model.get_input_embeddings().weight.data.normal_()  # tied ones, too: logits large enough to bend
    inputs, targets = torch.randint(3, 200, (2, 2, 24))
    own = model(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
    expected = functional.cross_entropy(own, targets.flatten(), reduction="none")
    (expected.sum() + 0.01 * own.logsumexp(-1).square().sum()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    model.set_attn_implementation("eager")  # torch does not count its fused attention on a CPU
    with FlopCounterMode(display=False) as counter:
        losses = TokenLosses(model, z_loss=0.01)
        losses(inputs, targets)[0].backward()
    torch.testing.assert_close(losses.by_token(inputs, targets).flatten(), expected)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-3, atol=1e-4)
    assert is_counted(config) == (family in COUNTED)
    if family in COUNTED:
        assert counter.get_total_flops() == 2 * training_flops(config, 24, 24)
    else:
        with pytest.raises(ModelError, match=f"the operations of a {family} are not known"):
            training_flops(config, 24, 24)


def test_tied_weights_are_counted_once_in_all_and_in_what_counts(written):
    tied = count_parameters(build_model(written("qwen3", tie_word_embeddings=True), 200, 0))
    own = count_parameters(build_model(written("qwen3"), 200, 0))
    assert tied["total"] == tied["counted"] == own["counted"] == own["total"] - 256 * 32


def test_a_saved_model_is_the_one_of_transformers(written, tmp_path):
    model = build_model(written("olmo2", **SAME), 200, 0)
    model.save_pretrained(tmp_path / "saved")
    said = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in said
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    row = torch.arange(10)[None]
    assert torch.equal(loaded.eval()(row).logits, model.eval()(row).logits)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("t5", {}, r"is an encoder-decoder \(t5\)"),
        ("vit", {}, "is a vit, which is not a causal language model"),
        ("gemma3", {"text_config": {}}, "is a gemma3, which is not a causal language model of text alone"),
        ("llama", {"attention_dropout": 0.1}, "has attention_dropout 0.1, which would differ"),
        ("nobody", {"auto_map": {"AutoConfig": "theirs.Config"}}, "needs code of its own"),
        ("bert", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, "sees later tokens|has a bias"),
        ("phi", {"resid_pdrop": 0.0}, "the output layer of phi has a bias"),
        ("llama", {"num_key_value_heads": 3}, "cannot compute"),
        ("llama", {"hidden_act": "nope"}, r"cannot be built \(KeyError: 'nope'\)"),
        ("modernbert-decoder", SAME, "cannot be built .*pad_token_id"),
        ("mixtral", {"router_jitter_noise": 0.1}, "has router_jitter_noise 0.1, which would differ"),
    ],
)
def test_what_cannot_be_trained_is_refused(written, family, changes, message):
    with pytest.raises(ModelError, match=message):
        build_model(written(family, **changes), 200, 0)


def test_an_output_layer_that_is_not_known_is_refused(written, monkeypatch):
    """As of an architecture with another bend of its logits than those that training knows."""
    from transformers import LlamaForCausalLM

    forward = LlamaForCausalLM.forward

    def bent(self, *args, **kwargs):
        found = forward(self, *args, **kwargs)
        found.logits = 50 * torch.tanh(found.logits / 50)
        return found

    monkeypatch.setattr(LlamaForCausalLM, "forward", bent)
    with pytest.raises(ModelError, match=r"the logits of hf:.* \(llama\) are not its output layer"):
        build_model(written("llama"), 200, 0)


def test_what_a_run_cannot_do_with_a_shape_is_told_before_it(written):
    preset = HubPreset.parse(written("llama", rope_theta=5e5))
    assert preset.settings(128, apart=True)["model.rope_theta"] == 5e5
    assert not {"model.torch_dtype", "model.vocab_size"} & preset.settings(128, apart=False).keys()
    with pytest.raises(ModelError, match="has max_position_embeddings 128, less than the input_length 129"):
        preset.settings(129, apart=False)
    for family, changes, message in (
        ("mixtral", {}, "told apart in a mixtral"),
        ("mistral", {"sliding_window": 64}, "with sliding_window 64"),
    ):
        with pytest.raises(ModelError, match=message):
            HubPreset.parse(written(family, **changes)).settings(128, apart=True)


@pytest.mark.parametrize("family", [*COUNTED, *OTHERS])
def test_embeddings_that_an_optimizer_would_take_for_hidden_layers_are_refused(written, family):
    preset = HubPreset.parse(written(family, **(COUNTED | OTHERS)[family]))
    if family == "gpt2":
        with pytest.raises(ModelError, match=r"would take transformer.wte.weight of a gpt2 for a matrix"):
            preset.settings(128, apart=False, by_name=True)
    else:
        preset.settings(128, apart=False, by_name=True)


def test_names_and_revisions(tmp_path):
    assert HubPreset.parse("hf:Qwen/Qwen3-0.6B@main") == HubPreset("Qwen/Qwen3-0.6B", "main")
    assert HubPreset.parse("hf:Qwen/Qwen3-0.6B") == HubPreset("Qwen/Qwen3-0.6B", None)
    (folder := tmp_path / "a@b").mkdir()
    assert HubPreset.parse(f"hf:{folder}") == HubPreset(str(folder), None)
    with pytest.raises(ModelError, match="holds no model"):
        HubPreset.parse(f"hf:{folder}").settings(32, apart=False)
