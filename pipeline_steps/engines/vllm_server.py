"""An engine that asks a vLLM server, which is started for this process alone, without code of a model's repository."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from threading import Thread
from typing import Any

import numpy as np
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceError
from datatrove.pipeline.inference.servers import VLLMServer
from datatrove.pipeline.inference.types import ServerError

from pipeline_steps.engines.models import TokenIds, vllm_version
from pipeline_steps.errors import ModelError


HOST = "127.0.0.1"
# What is decided here, and a file that could decide otherwise; argparse takes their beginnings for them
_OURS = ("host", "port", "api-key", "trust-remote-code", "no-trust-remote-code", "config", "uds")
_FLAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LOOK = 5.0  # seconds between two looks whether a server is ready: datatrove's default
_SILENT = 30.0  # seconds until a server that does not answer a look is taken for one that is not ready
_INPUTS_A_REQUEST = 64  # the server queues them, so more would only lengthen what one failure loses
_REQUESTS = 16  # in flight; a thousand inputs keep a server's batches full


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
        self._model = model
        self._loop = asyncio.new_event_loop()
        Thread(target=self._loop.run_forever, daemon=True).start()
        # The document comes first in a prompt, so there is no prefix to share
        flags = {"enable-prefix-caching": False} | options
        self._server = self._wait_for(_start(model, max_tokens + 1, flags))

    def log_probabilities(self, inputs: Sequence[TokenIds], token_ids: Sequence[int]) -> np.ndarray:
        """Return float32 [N, A]: log P(token) over the full vocabulary."""
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


async def _start(model: str, longest: int, flags: dict[str, Any]) -> LocalVLLMServer:
    config = InferenceConfig(
        "vllm", model, model_max_context=longest, use_chat=False, model_kwargs=flags, server_ready_delay_sec=_LOOK
    )
    server = LocalVLLMServer(config, rank=0, requests=_REQUESTS)
    await server.__aenter__()
    return server


class LocalVLLMServer(VLLMServer):
    """A vLLM that listens on 127.0.0.1, answers this process only, and runs no code from a model's repository.

    datatrove starts vLLM with --trust-remote-code, on all interfaces and without a key. Here the key is drawn anew for
    every start and handed over in the environment: it is in no file, no log and no command line.

    Args:
        config: datatrove's; its `model_kwargs` are checked by `check_options`.
        rank: of the task, as datatrove counts.
        requests: most that are answered at a time.
    """

    def __init__(self, config: Any, rank: int, requests: int) -> None:
        check_options(config.model_kwargs or {})
        super().__init__(config, rank)
        self._key = ""
        self._threads = ThreadPoolExecutor(requests, thread_name_prefix="vllm")

    def command(self) -> list[str]:
        """Return the command line of the server."""
        config = self.config
        words = ["vllm", "serve", config.model_name_or_path, f"--host={HOST}", f"--port={self._port}"]
        words += [f"--max-model-len={config.model_max_context}", "--disable-uvicorn-access-log"]
        for name, value in (config.model_kwargs or {}).items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words.append(f"--{name}={json.dumps(value) if isinstance(value, dict | list) else value}")
        return words

    async def _start_vllm_task(self) -> asyncio.subprocess.Process:
        """Start the process; datatrove's method of this name has the flags that are not wanted."""
        self._key = secrets.token_urlsafe(32)
        process = await asyncio.create_subprocess_exec(
            *self.command(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"USE_TF": "0", **os.environ, "VLLM_API_KEY": self._key},
        )
        _end_with_this_process(process.pid)
        return process

    def get_base_url(self) -> str:
        """Return where the server listens."""
        return f"http://{HOST}:{self._port}"

    async def is_ready(self) -> bool:
        """Return whether the server answers."""
        try:
            return (await self._send("GET", "/v1/models", None, _SILENT))[0] == 200
        except (OSError, HTTPException):
            return False

    async def _make_request(self, payload: dict[str, Any]) -> dict[str, Any]:
        status, body = await self._send("POST", "/v1/completions", json.dumps(payload), None)
        if status == 200:
            return json.loads(body)
        said = body.decode(errors="replace")[:1_000]
        if status >= 500:
            raise ServerError(f"vLLM answers with HTTP status {status}: {said}")
        raise InferenceError(None, f"vLLM refuses a request with HTTP status {status}: {said}", payload=None)

    async def _send(self, method: str, path: str, body: str | None, seconds: float | None) -> tuple[int, bytes]:
        """Send a request past any proxy that the environment names: it would see the key and the documents."""

        def send() -> tuple[int, bytes]:
            connection = HTTPConnection(HOST, self._port, timeout=seconds)
            try:
                headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return await asyncio.get_running_loop().run_in_executor(self._threads, send)


def check_options(options: dict[str, Any]) -> None:
    """Raise ModelError unless options of `vllm serve` can be passed on.

    Names are without their dashes. Where the server listens, its key, and whether it runs a model's own code are
    decided here and cannot be options.
    """
    for name in options:
        plain = str(name).lower().replace("_", "-")
        if not _FLAG.fullmatch(str(name)):
            raise ModelError(f"{name!r} is no option of vllm serve: give its name without dashes, and its value apart")
        if taken := next((ours for ours in _OURS if ours.startswith(plain)), None):
            raise ModelError(
                f"the vllm option {name} ({taken}) cannot be given: servers run on {HOST} with a key of their own and "
                "without code from the model's repository; leave it out"
            )


def _end_with_this_process(child: int) -> None:
    """End a child when this process is gone, however it went: a server left behind would hold the GPU's memory."""
    watch = 'while kill -0 "$1" && kill -0 "$2"; do sleep 1; done 2>/dev/null; kill "$2"'
    subprocess.Popen(
        ["sh", "-c", watch, "sh", str(os.getpid()), str(child)],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # held open, it would let whoever reads our output wait for ever
        stderr=subprocess.DEVNULL,
    )
