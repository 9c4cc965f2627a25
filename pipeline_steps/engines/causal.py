"""Log-probabilities of the token after a text, under a decoder-only model: in this process, or served by vLLM.

Shapes: N inputs, A tokens asked about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_steps.engines.models import TokenIds
from pipeline_steps.errors import ModelError
from pipeline_steps.numerics.batches import batches_by_length


if TYPE_CHECKING:
    from datatrove.pipeline.inference.servers import InferenceServer

# Padded tokens in one forward pass: its activations, not its vocabulary, set the memory.
_BATCH_TOKENS = {"cpu": 2_048, "cuda": 32_768}
_INPUTS_A_REQUEST = 64  # the server queues them, so more would only lengthen what one failure loses
_REQUESTS = 16  # in flight; a thousand inputs keep a server's batches full


class CausalEngine:
    """A transformers model in this process, in batches by length."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """float32 [N, A]: log P(token) over the full vocabulary, softmax in float32."""
        import torch

        found = np.empty((len(inputs), len(token_ids)), dtype=np.float32)
        for rows in batches_by_length([len(ids) for ids in inputs], _BATCH_TOKENS[self.model.device.type]):
            logits = self._last_logits([inputs[row] for row in rows])
            found[rows] = torch.log_softmax(logits.float(), dim=-1)[:, token_ids].cpu().numpy()
        return found

    def _last_logits(self, inputs: Sequence[TokenIds]) -> Any:
        """Logits [N, vocabulary] after the last token; padding goes to the left, so that all end together."""
        import torch

        longest, device = max(map(len, inputs)), self.model.device
        input_ids = torch.zeros((len(inputs), longest), dtype=torch.long)
        mask = torch.zeros_like(input_ids)
        for row, ids in enumerate(inputs):
            input_ids[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        with torch.inference_mode():
            return self.model(
                input_ids=input_ids.to(device),
                attention_mask=None if mask.all() else mask.to(device),
                position_ids=(mask.cumsum(-1) - 1).clamp_(min=0).to(device),
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]


class VLLMEngine:
    """A vLLM server that is started with the engine and stopped with this process; see `LocalVLLMServer`.

    Args:
        model: Hub id or folder.
        max_tokens: of the longest input.
        options: flags of `vllm serve` without their dashes, e.g. {"tensor-parallel-size": 2, "dtype": "bfloat16"}.

    Raises:
        ModelError: vLLM is not installed, or an option cannot be given.
    """

    def __init__(self, model: str, max_tokens: int, options: dict[str, Any]) -> None:
        vllm_version()
        self._model = model
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        # The document comes first in a prompt, so there is no prefix to share
        flags = {"enable-prefix-caching": False} | options
        self._server = self._wait_for(_start(model, max_tokens + 1, flags))

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """float32 [N, A]: log P(token) over the full vocabulary."""
        return np.array(self._wait_for(self._ask_all(inputs, token_ids)), dtype=np.float32).reshape(len(inputs), -1)

    async def _ask_all(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> list[list[float]]:
        slots = asyncio.Semaphore(_REQUESTS)

        async def ask(start: int) -> list[list[float]]:
            async with slots:
                return await self._ask(inputs[start : start + _INPUTS_A_REQUEST], token_ids)

        parts = await asyncio.gather(*(ask(start) for start in range(0, len(inputs), _INPUTS_A_REQUEST)))
        return [row for part in parts for row in part]

    async def _ask(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> list[list[float]]:
        answer = await self._server.make_request(
            {
                "model": self._model,
                "prompt": list(inputs),
                "max_tokens": 1,
                "logprobs": 1,
                "logprob_token_ids": list(token_ids),
                "return_tokens_as_token_ids": True,
            }
        )
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        top = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
        try:
            return [[of[f"token_id:{id}"] for id in token_ids] for of in top]
        except KeyError as error:
            raise ModelError(
                f"vLLM {vllm_version()} does not return the log-probabilities of chosen tokens (logprob_token_ids): "
                "install a newer one"
            ) from error

    def _wait_for(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def vllm_version() -> str:
    """Of the vLLM installed here. Raises ModelError if there is none."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        raise ModelError(
            "vLLM is not installed here: pip install vllm, in an environment of its own (it pins torch and "
            "transformers), or score in this process (vllm=None)"
        ) from None


async def _start(model: str, longest: int, flags: dict[str, Any]) -> InferenceServer:
    from datatrove.pipeline.inference.run_inference import InferenceConfig

    from pipeline_steps.engines.vllm_server import LocalVLLMServer

    config = InferenceConfig("vllm", model, model_max_context=longest, use_chat=False, model_kwargs=flags)
    server = LocalVLLMServer(config, rank=0, requests=_REQUESTS)
    await server.__aenter__()
    return server
