"""Shapes of models of transformers as presets: `hf:NAME`, a Hub id or a folder with a config.json.

Weights are not read. The vocabulary and its special ids are those of the corpus; precision and quantisation are
ignored, and code of the model's own is never run. What `train.losses` cannot compute exactly is refused by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, PreTrainedModel

from pipeline_steps.engines.models import load_config, model_identity
from pipeline_steps.errors import ModelError
from train.losses import Head, TokenLosses
from train.model import VOCABULARY_DIVISOR, model_of
from train.optimizers import is_hidden_matrix
from train.packed_documents import refuse_unmaskable
from train.presets import HUB


# Names in a config.json that decide nothing here: of the vocabulary, the weights' storage, generation and provenance
_IGNORED = {"architectures", "auto_map", "torch_dtype", "dtype", "quantization_config", "transformers_version"}
_IGNORED |= {"_name_or_path", "use_cache", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
_OF_OTHER_HEADS = ("classifier", "summary")  # settings of heads that a causal language model does not have
_RANDOM = ("drop", "jitter")  # in names of what is drawn at random in training: dropout, noise of a router of experts
_PROBE = 8  # tokens of the row that a new model is tried on
_LARGE = 10.0  # standard deviation of the logits in that trial: soft caps in use are 15 to 50


@dataclass(frozen=True)
class HubPreset:
    """A model of transformers by its name and revision.

    Attributes:
        name: Hub id or local folder.
        revision: branch, tag or commit of the Hub; None for the newest, or for a folder.
    """

    name: str
    revision: str | None

    @classmethod
    def parse(cls, preset: str) -> HubPreset:
        """Return what `hf:NAME` or `hf:NAME@REVISION` names."""
        name = preset.removeprefix(HUB)
        if os.path.isdir(name) or "@" not in name:
            return cls(name, None)
        return cls(*name.rsplit("@", 1))

    def settings(self, input_length: int, apart: bool, by_name: bool = False) -> dict[str, Any]:
        """Return what config.json says of the shape, by names that begin with `model.`: a run is that of one shape.

        Args:
            input_length: tokens of a row.
            apart: whether documents of a row must not see each other.
            by_name: whether the optimizer treats embeddings otherwise than hidden layers.

        Raises:
            ModelError: there is no such model, it has fewer positions than rows have tokens, or it cannot be trained
                so.
        """
        config = self.config(VOCABULARY_DIVISOR, 0)
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and positions < input_length:
            raise ModelError(
                f"{self.name} has max_position_embeddings {positions}, less than the input_length {input_length}: "
                "choose shorter rows or another model"
            )
        if apart:
            refuse_unmaskable(config)
        if by_name:
            refuse_unknown_tables(config)
        found, _ = PretrainedConfig.get_config_dict(self.name, revision=self.revision)
        return {f"model.{key}": value for key, value in sorted(found.items()) if key not in _IGNORED}

    def config(self, rows: int, eos: int) -> PretrainedConfig:
        """Return the configuration for a vocabulary of so many rows.

        Raises:
            ModelError: there is no such model, or it is not a decoder of text that can be trained here.
        """
        model_identity(self.name, self.revision)  # says in one sentence what is wrong with a name
        config = load_config(self.name, revision=self.revision)
        if config.is_encoder_decoder:
            raise ModelError(f"{self.name} is an encoder-decoder ({config.model_type}): choose a t5-* preset instead")
        if config.get_text_config() is not config or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ModelError(
                f"{self.name} is a {config.model_type}, which is not a causal language model of text alone in this "
                "version of transformers: choose a decoder"
            )
        for key, value in config.to_dict().items():
            is_random = any(word in key for word in _RANDOM) and not key.startswith(_OF_OTHER_HEADS)
            if is_random and isinstance(value, float) and value > 0:
                raise ModelError(
                    f"{self.name} has {key} {value}, which would differ with the number of processes: copy its "
                    f"config.json into a folder, set {key} to 0 there, and give {HUB}FOLDER"
                )
        for ignored in ("quantization_config", "auto_map"):
            if hasattr(config, ignored):
                delattr(config, ignored)
        config.dtype = None
        try:
            config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id = rows, eos, eos, None
            _without_weights(config)
        except Exception as error:  # transformers' checks and constructors raise anything
            raise ModelError(
                f"{self.name} cannot be built ({_in_a_line(error)}): correct its config.json, or choose another model"
            ) from error
        return config


def refuse_unknown_tables(config: PretrainedConfig) -> None:
    """Raise ModelError unless `train.optimizers` knows a model's embeddings and output layer, by their names."""
    model = _without_weights(config)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    tables |= {id(layer.weight) for layer in [model.get_output_embeddings()] if layer is not None}
    for name, weight in model.named_parameters():
        if id(weight) in tables and is_hidden_matrix(name, weight):
            raise ModelError(
                f"muon and no_decay_embeddings would take {name} of a {config.model_type} for a matrix of a hidden "
                "layer: choose adamw or adafactor, and let embeddings decay"
            )


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _without_weights(config: PretrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return model_of(config)


def check_model(model: PreTrainedModel, name: str) -> None:
    """Try a new model on one row: the losses must be those of its own logits, and no token may see a later one.

    Raises:
        ModelError: the losses would be wrong for this architecture; names it.
    """
    row, weight = torch.arange(_PROBE)[None], Head.of(model).weight
    try:
        with torch.no_grad():
            logits = model.eval()(input_ids=row, use_cache=False).logits[0].float()
            shorter = model(input_ids=row[:, :-1], use_cache=False).logits[0].float()
            initial = weight.clone()
            weight.mul_(_LARGE / logits.std())  # initial logits are so small that a soft cap would not be noticed
            bent = model(input_ids=row, use_cache=False).logits[0].float()
            expected = torch.nn.functional.cross_entropy(bent, row[0], reduction="none")
            found = TokenLosses(model).by_token(row, row)[0]
            weight.copy_(initial)
            model.train()
    except Exception as error:  # architectures that need more than ids fail in ways of their own
        raise ModelError(f"{name} cannot compute ({_in_a_line(error)}): correct its config.json") from error
    if not torch.allclose(logits[:-1], shorter, rtol=1e-4, atol=1e-4):
        raise ModelError(f"{name} is a {model.config.model_type} that sees later tokens: choose a causal model")
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-4):
        raise ModelError(
            f"the logits of {name} ({model.config.model_type}) are not its output layer applied to its last hidden "
            "states, up to a factor and a soft cap, which is all that training knows: choose another architecture"
        )
