"""Other engines that can score with a T5 on a CPU, for `bench_ask_llm.py`: measured where they are installed.

Each takes a random T5 and inputs of token ids, and returns a function that scores all of them: log-probabilities,
[N, vocabulary] in the inputs' order.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from pipeline_steps.engines.models import batches_by_length


def with_ctranslate2(model, inputs):
    """CTranslate2: its own batching by tokens."""
    import ctranslate2

    names = [str(token) for token in range(model.config.vocab_size)]
    special = {"pad_token": "0", "eos_token": "1", "unk_token": "2"}
    tokenizer = Tokenizer(WordLevel(dict(zip(names, range(len(names)), strict=True)), "2"))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/hf")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(f"{folder}/hf")
        spec = ctranslate2.converters.TransformersConverter(f"{folder}/hf")._load()
        # The converter of 4.8.5 scales the decoder's output of every T5 that transformers 5 has read
        spec.decoder.scale_outputs = ctranslate2.specs.model_spec.OPTIONAL
        spec.validate()
        spec.optimize()
        Path(folder, "ct2").mkdir()
        spec.save(f"{folder}/ct2")
        translator = ctranslate2.Translator(f"{folder}/ct2", compute_type="float32", intra_threads=2)
    tokens = [[names[token] for token in ids] for ids in inputs]
    settings = {"beam_size": 1, "max_decoding_length": 1, "min_decoding_length": 1, "return_logits_vocab": True}

    def score():
        results = translator.translate_batch(
            tokens, max_batch_size=2_048, batch_type="tokens", max_input_length=0, **settings
        )
        logits = np.stack([np.asarray(result.logits[0][0], dtype=np.float32) for result in results])
        return torch.log_softmax(torch.from_numpy(logits), -1).numpy()

    return score


class _FirstStep(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        start = torch.zeros((input_ids.shape[0], 1), dtype=torch.long)
        output = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=start, use_cache=False
        )
        return torch.log_softmax(output.logits[:, 0], -1)


def with_onnxruntime(model, inputs):
    """ONNX Runtime, batches by length as ours."""
    import onnxruntime
    import onnxscript  # noqa: F401  the exporter needs it

    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fused one does not export
    ids, mask = torch.ones((3, 20), dtype=torch.long), torch.ones((3, 20), dtype=torch.long)
    dims = {0: torch.export.Dim("texts", min=1, max=4_096), 1: torch.export.Dim("tokens", min=2, max=1_024)}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/t5.onnx"
        torch.onnx.export(
            _FirstStep(model).eval(), (ids, mask), path, dynamo=True, dynamic_shapes=(dims, dims), verbose=False
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model.set_attn_implementation(attention)

    def score():
        found = np.empty((len(inputs), model.config.vocab_size), dtype=np.float32)
        for rows in batches_by_length([len(ids) for ids in inputs], 1_024):
            longest = max(len(inputs[row]) for row in rows)
            ids, mask = np.zeros((2, len(rows), longest), dtype=np.int64)
            for place, row in enumerate(rows):
                ids[place, : len(inputs[row])], mask[place, : len(inputs[row])] = inputs[row], 1
            found[rows] = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return found

    return score
