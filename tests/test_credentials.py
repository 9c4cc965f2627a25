"""Credentials are refused where they would be written down, and those of the environment are written nowhere."""

import gzip
import importlib
import json
import os
import pickle
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_steps import EMBEDDED_PROXY, AskLLMScorer, ClassifierHeadScorer, Embedder, FastTextScorer, MetadataScorer
from pipeline_steps.credentials import refuse_credentials, refuse_credentials_in_command
from pipeline_steps.errors import WinnowError


SECRET = "Zq7PLANTEDx9fKw2"  # in every planted value
ENVIRONMENT = {
    "HF_TOKEN": f"hf_{SECRET}1abcdefghijklmnopqr",
    "AWS_ACCESS_KEY_ID": f"AKIA{SECRET}2",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}3/abcdefghij+klmnop",
    "AWS_SESSION_TOKEN": f"{SECRET}4abcdefghijklmnop",
    "OPENAI_API_KEY": f"sk-{SECRET}5abcdefghijklmnop",
    "WANDB_API_KEY": f"{SECRET}6abcdefghijklmnop",
    "SOME_PASSWORD": f"{SECRET}7abcdefghijklmnop",
}
ADDRESSES = [
    f"s3://key:{SECRET}@bucket/crawl",
    f"s3://AKIAIOSFODNN7EXAMPLE:abc/{SECRET}@bucket/crawl",
    f"https://user:{SECRET}@example.org/a.jsonl",
    f"https://{SECRET}@example.org/a.jsonl",
    f"https://example.org/a.jsonl?token={SECRET}",
    f"https://example.org/a.jsonl?X-Amz-Algorithm=A&X-Amz-Signature={SECRET}",
    f"https://example.org/a.jsonl?x-amz-security-token={SECRET}",
    f"https://example.org/a.jsonl?X-Goog-Credential={SECRET}",
    f"https://account.blob.core.windows.net/a.jsonl?se=2026&sp=r&sig={SECRET}",
    f"https://example.org/a.jsonl?Policy={SECRET}",
    f"zip://a.jsonl::https://user:{SECRET}@example.org/a.zip",
    f"https%3A%2F%2Fuser%3A{SECRET}%40example.org",
    f"model.bin?token={SECRET}",
    f"export HF_TOKEN={SECRET}; module load winnow",
    f"ALL,AWS_SECRET_ACCESS_KEY={SECRET}",
    f"hf_{SECRET}abcdefghijklmnopqrstuv",
    f"Bearer sk-{SECRET}abcdefgh",
]
HARMLESS = [
    "crawl/",
    "/data/crawl@2024/*.jsonl",
    "s3://bucket/part-?/*.parquet",
    "hf://datasets/allenai/c4/en/c4-train.00000-of-01024.json.gz",
    "hf://datasets/user/name@main/a.jsonl",
    "sftp://user@host/a.jsonl",
    "http://localhost:8080/crawl@v1",
    "https://example.org/a.jsonl?download=true&max_tokens=5",
    "google/flan-t5-large",
    "t5-large@20000",
    "c4=tokens/c4,tokens/wiki",
    'export HF_TOKEN=$(cat ~/.token); export PATH=/opt:"$PATH"',
    "--tokens",
]


@pytest.mark.parametrize("text", ADDRESSES)
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: {"a": [{"b": (text,)}]}, lambda text: {text: 1}])
def test_refused_and_not_repeated(text, wrap):
    with pytest.raises(WinnowError, match="holds a credential .* environment") as caught:
        refuse_credentials(wrap(text), "x.yaml")
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("x.yaml")


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless(text):
    refuse_credentials({"a": [text], "tokenizer": {"pad_token": "<pad>", "eos_token": "</s>"}, text: None}, "x")
    refuse_credentials_in_command(["--corpus", text])
    refuse_credentials_in_command([text, f"--corpus={text}"])


@pytest.mark.parametrize("name", ["token", "hf-token", "secret", "aws_secret_access_key", "api-key", "password"])
def test_names_of_options(name):
    with pytest.raises(WinnowError, match=f"storage_options.{name} holds") as caught:
        refuse_credentials({"storage_options": {"anon": False, name: SECRET}}, "x")
    assert SECRET not in str(caught.value)
    for words in ([f"--{name}", SECRET], [f"--{name}={SECRET}"]):
        with pytest.raises(WinnowError, match=f"the value of --{name}") as caught:
            refuse_credentials_in_command(["winnow", *words])
        assert SECRET not in str(caught.value)


@given(
    st.recursive(st.none() | st.booleans() | st.text(), lambda deep: st.lists(deep) | st.dictionaries(st.text(), deep))
)
def test_anything_can_be_looked_at(value):
    with suppress(WinnowError):
        refuse_credentials(value, "x")


def test_a_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", f"{SECRET}abcdef")
    with pytest.raises(WinnowError, match="a secret of the environment"):
        refuse_credentials(f"prefix-{SECRET}abcdef", "x")


@pytest.mark.parametrize("address", [ADDRESSES[0], ADDRESSES[5], ADDRESSES[12]])
@pytest.mark.parametrize(
    "make",
    [
        lambda it: AskLLMScorer(it, "m"),
        lambda it: AskLLMScorer("s", model=it),
        lambda it: AskLLMScorer("s", "m", vllm={"hf-token": it}),
        lambda it: AskLLMScorer("s", "m", revision=it),
        lambda it: ClassifierHeadScorer("s", it),
        lambda it: FastTextScorer("s", it, "label"),
        lambda it: MetadataScorer(it, "key"),
        lambda it: Embedder("e", it),
        lambda it: Embedder(embeddings=Path(it)),
    ],
)
def test_steps(make, address):
    with pytest.raises(WinnowError, match="(Scorer|Embedder): ") as caught:
        make(address)
    assert SECRET not in str(caught.value)


def test_a_step_survives_pickling():
    step = pickle.loads(pickle.dumps(AskLLMScorer("s", "m", max_tokens=7)))
    assert (step.store, step.max_tokens) == ("s", 7)


def test_a_step_says_what_it_lacks():
    with pytest.raises(TypeError, match="model"):
        AskLLMScorer("s")


BAD = ADDRESSES[0]
COMMANDS = {
    "score": ["-m", "launch", "score", "--corpus", BAD, "--sampler", "random", "--output", "o"],
    "score proxy": ["-m", "launch", "score", "--corpus", "c", "--sampler", "ask-llm", "--proxy", BAD, "--output", "o"],
    "select": ["-m", "launch", "select", "--corpus", "c", "--sampler", "random", "--k", "1", "--output", BAD],
    "tokenize": ["-m", "launch", "tokenize", "--corpus", BAD, "--tokenizer", "t", "--output", "o"],
    "run": ["-m", "launch", "run", "s.yaml"],
    "run by name": ["-m", "launch", "run", BAD],
    "status": ["-m", "launch", "status", "s.yaml"],
    "plan": ["-m", "launch", "plan", "s.yaml"],
    "plan training": ["-m", "launch", "plan", "tiny-cpu.yaml", f"--report_to={BAD}"],
    "quickstart": ["-m", "launch", "quickstart", "--corpus", BAD, "--output", "o"],
    "evaluate": ["-m", "launch", "evaluate", "few-shot", "--runs", f"a={BAD}", "--output", "o.jsonl"],
    "evaluate_suite": ["-m", "evaluate_suite", "few-shot", "--runs", f"a={BAD}", "--output", "o.jsonl"],
    "report": ["-m", "launch", "report", "runs", "--scores", f"a={BAD}", "--output", "r.html"],
    "compare": ["-m", "launch", "compare", BAD, "b"],
    "inspect": ["-m", "launch", "inspect", BAD],
    "coverage": ["-m", "launch", "coverage", "a", "--clusters", BAD, "--embeddings", "e", "--density", "d"],
    "pretrain": ["-m", "train.pretrain", "--tokens", "t", "--run-dir", "r", "--selection", BAD],
    "pretrain config": ["-m", "train.pretrain", "--config", "bad.yaml", "--tokens", "t", "--run-dir", "r"],
    "fine_tune": ["-m", "evaluate_suite.fine_tune", "--model", BAD, "--suite", "glue", "--run-dir", "r"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_refuse_and_leave_nothing(command, tmp_path, monkeypatch, capfd):
    study = {"output": "out", "corpus": "c", "samplers": ["random"], "target": BAD}
    given = {"s.yaml": json.dumps(study), "bad.yaml": json.dumps({"selection": BAD})}
    for name, text in given.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    _, module, *words = COMMANDS[command]
    own = {"launch": "launch.cli", "evaluate_suite": "evaluate_suite.__main__"}
    try:
        code = importlib.import_module(own.get(module, module)).main(words)
    except SystemExit as ended:
        code = ended.code
    shown = capfd.readouterr()
    assert code == 2, shown.err
    assert "holds a credential" in shown.err
    assert "Traceback" not in shown.err
    assert_nowhere(tmp_path, *shown, but=set(given))


PIPELINE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from pipeline_steps import AskLLMScorer, EMBEDDED_PROXY

if __name__ == "__main__":
    scorer = AskLLMScorer("scores", EMBEDDED_PROXY)
    LocalPipelineExecutor([JsonlReader(sys.argv[1]), scorer], tasks=2, workers=2, logging_dir="logs").run()
"""
STUDY = {
    "output": "study",
    "samplers": ["random", "density"],
    "rates": [0.5],
    "models": {"t5-tiny": {"config": "tiny-cpu.yaml", "total_tokens": 32_768, "checkpoints": 1}},
    "engine": {"kind": "slurm", "tasks": 2, "slurm": {"partition": "p", "sbatch_args": {"export": "ALL"}}},
}


@pytest.mark.slow
def test_the_environment_s_credentials_are_written_nowhere(corpus, tmp_path):
    """Real commands; then every file that they leave, and all that they say, is searched."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "pipeline.py").write_text(PIPELINE)
    own = {"output": "small", "corpus": str(corpus), "samplers": ["random", "density"], "rates": [0.5]}
    (work / "small.yaml").write_text(json.dumps(own))
    (work / "study.yaml").write_text(json.dumps(STUDY | {"corpus": str(corpus)}))
    (work / "wrong.yaml").write_text(json.dumps(own | {"target": "s3://no-such-bucket-of-mine/x", "output": "wrong"}))
    training = ["--total-tokens", "8192", "--batch-size", "4", "--input-length", "64", "--preset", "t5-tiny"]
    training += ["--checkpoints", "1", "--log-every", "1"]
    wanted = {
        "score": ["-m", "launch", "score", "--corpus", corpus, "--sampler", "density", "--output", "scored"],
        "select": [
            "-m",
            "launch",
            "select",
            "--corpus",
            corpus,
            "--sampler",
            "ask-llm",
            "--rate",
            ".5",
            "--output",
            "k",
        ],
        "tokenize": [
            "-m",
            "launch",
            "tokenize",
            "--corpus",
            corpus,
            "--tokenizer",
            EMBEDDED_PROXY,
            "--output",
            "tokens",
        ],
        "pipeline": ["pipeline.py", corpus],
        "pretrain": ["-m", "train.pretrain", "--tokens", "tokens", "--run-dir", "run", *training],
        "run": ["-m", "launch", "run", "small.yaml"],
        "dry run": ["-m", "launch", "run", "study.yaml", "--dry-run"],
    }
    for name, words in wanted.items():
        done = python(words, work)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        assert_nowhere(work, done.stdout, done.stderr)
    assert list((work / "study" / "slurm").rglob("*.sh"))
    assert (work / "run" / "environment.json").exists()
    failing = python(
        ["-m", "launch", "score", "--corpus", "s3://no-such/x", "--sampler", "random", "--output", "f"], work
    )
    assert failing.returncode == 2
    assert_nowhere(work, failing.stdout, failing.stderr)


def python(words, folder):
    root = Path(__file__).parent.parent
    own = {"PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "HOME": str(folder)}
    own |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        env=os.environ | ENVIRONMENT | own,
        capture_output=True,
        text=True,
        timeout=500,
    )


def assert_nowhere(folder, *streams, but=frozenset()):
    assert not any(SECRET in stream for stream in streams)
    for file in folder.rglob("*"):
        if file.is_file() and file.name not in but:
            assert SECRET.encode() not in _unpacked(file.read_bytes()), file
            assert SECRET not in str(file)


def _unpacked(blob):
    try:
        return gzip.decompress(blob)
    except (OSError, EOFError, zlib.error):
        return blob
