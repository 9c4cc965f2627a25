"""The vLLM server that is really started: for this process alone, and without a model's own code."""

import gzip
import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection

import numpy as np
import pytest
from stand_in_vllm import install, notes
from test_ask_llm_scorer import tiny_llama  # noqa: F401

from pipeline_steps import ScoreStore
from pipeline_steps.engines.proxies import serve_proxy
from pipeline_steps.engines.vllm_server import check_options
from pipeline_steps.errors import ModelError


PIPELINE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from pipeline_steps import AskLLMScorer

if __name__ == "__main__":
    corpus, model, output = sys.argv[1:]
    scorer = AskLLMScorer(output + "/scores", model, vllm={"tensor-parallel-size": 1, "enforce-eager": True})
    LocalPipelineExecutor([JsonlReader(corpus), scorer], tasks=1, logging_dir=output + "/logs").run()
"""


@pytest.fixture
def environment(tmp_path):
    proxy = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # where nobody listens
    return install(tmp_path / "vllm") | proxy


@pytest.mark.slow
def test_a_pipeline_starts_a_server_for_itself_alone(environment, tiny_llama, corpus, tmp_path):  # noqa: F811
    script = tmp_path / "pipeline.py"
    script.write_text(PIPELINE)
    output = tmp_path / "output"
    done = subprocess.run(
        [sys.executable, str(script), str(corpus), tiny_llama, str(output)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    store = ScoreStore.open(str(output / "scores"))
    np.testing.assert_allclose(store.scores, np.log(3e-3), atol=1e-5)  # yes and Yes

    started, *requests = notes(tmp_path / "vllm")
    argv, key = started["argv"], started["environment"]["VLLM_API_KEY"]
    assert argv[1:3] == ["serve", tiny_llama]
    assert not [word for word in argv if "remote-code" in word]
    assert [word for word in argv if "host" in word] == ["--host=127.0.0.1"]
    assert "--tensor-parallel-size=1" in argv
    assert "--enforce-eager" in argv
    assert len(key) >= 32
    assert not [word for word in argv if key in word]
    assert {request["allowed"] for request in requests} == {True}
    assert "/v1/completions" in {request["path"] for request in requests}

    assert key not in done.stdout + done.stderr
    for file in output.rglob("*"):
        if file.is_file():
            blob = file.read_bytes()
            assert key.encode() not in (gzip.decompress(blob) if file.suffix == ".gz" else blob), file

    deadline = time.monotonic() + 30
    while _lives(started["pid"]):
        assert time.monotonic() < deadline, "the server has outlived its worker"
        time.sleep(0.5)


def test_a_stranger_is_refused_and_each_server_has_its_key(environment, tiny_llama, tmp_path, monkeypatch):  # noqa: F811
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(tmp_path / "vllm" / "site"))
    monkeypatch.setattr("pipeline_steps.engines.vllm_server._LOOK", 0.2)
    for _ in range(2):
        engine = serve_proxy.__wrapped__(tiny_llama, None, "auto", 64, "{}")._engine
        answers = engine.log_probabilities([[1, 2], [3]], [5, 7])
        np.testing.assert_allclose(answers, np.log([[2e-3, 1e-3]] * 2), rtol=1e-6)
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            connection = HTTPConnection("127.0.0.1", engine._server._port)
            connection.request("GET", "/v1/models", headers=headers)
            assert connection.getresponse().status == 401
    started = [note for note in notes(tmp_path / "vllm") if "argv" in note]
    for note in started:
        os.kill(note["pid"], signal.SIGKILL)
    assert len({note["environment"]["VLLM_API_KEY"] for note in started}) == 2


@pytest.mark.parametrize(
    "name",
    ["trust-remote-code", "trust_remote_code", "trust", "no-trust-remote-code", "host", "hos", "api-key", "api_key"]
    + ["port", "config", "Host", "dtype=float16 --host", "host=0.0.0.0", "--host", "dtype\n", "", "uds"],
)
def test_options_that_would_open_it_are_refused(name):
    with pytest.raises(ModelError):
        check_options({name: True})


def test_other_options_are_passed_on():
    check_options({"dtype": "bfloat16", "tensor-parallel-size": 2, "max-model-len": 64, "hf-overrides": {"a": 1}})


def _lives(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
