"""Decoder-only models of a few thousand weights, of any kind, and a byte-level tokenizer for them."""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast


VOCABULARY = 640
EOS, BOS = 0, 1
_LLAMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048}
_HEADS = {"head_dim": 16, "num_key_value_heads": 2}
SHARING = {  # kind: what its configuration says; all layers see the whole text
    "llama": _LLAMA,
    "llama, grouped queries, tied": _LLAMA | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": _LLAMA | _HEADS,
    "olmo2": _LLAMA,
    "gpt2": _GPT2,
    "cohere": _LLAMA | {"logit_scale": 0.3},
    "granite": _LLAMA | {"logits_scaling": 3.0},
    "mixtral": _LLAMA | {"num_local_experts": 4},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"word_embed_proj_dim": 64},
}
PLAIN = {  # kinds whose rows cannot stand behind a shared prompt
    "gemma2": _LLAMA
    | _HEADS
    | {"query_pre_attn_scalar": 16, "sliding_window": 64, "final_logit_softcapping": 3.0}
    | {"attn_logit_softcapping": 5.0},
    "mistral": _LLAMA | {"sliding_window": 64},
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
    | {"window_size": 64},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
}


def decoder(kind="llama", vocabulary=VOCABULARY):
    """A model of a kind in `SHARING` or `PLAIN`, whose weights are large enough to have opinions."""
    ids = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
    config = AutoConfig.for_model(kind.split(",")[0], vocab_size=vocabulary, **(SHARING | PLAIN)[kind] | ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 4 if weight.dim() == 2 else 1
    return model


@cache
def byte_tokenizer(bos=False):
    """Byte-level BPE that has learned from this repository's tests; with a BOS that it puts first, or without one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|end|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([Path(__file__).with_name("tiny_data.py").read_text()], trainer)
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[EOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[BOS]} $A", special_tokens=[(special[BOS], BOS)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[EOS], bos_token=special[BOS])


def write_decoder(folder, kind="llama"):
    """Save a model and its tokenizer as transformers does."""
    decoder(kind).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)
