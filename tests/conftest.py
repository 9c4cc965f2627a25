"""What several parts' tests share: a small corpus on disk, and executors without noise."""

import json
import os
import threading
from pathlib import Path

import fsspec
import pytest
from hypothesis import settings
from multiprocess import get_context
from tqdm import tqdm


settings.register_profile("busy machine", deadline=None)  # the time of an example says how busy the machine is
settings.load_profile("busy machine")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes share the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# tqdm's own lock is shared with forks: one that a test kills while it draws would leave it locked for ever
tqdm.set_lock(threading.RLock())
# datatrove's executors fork from a server that has imported what each of their processes would import anew
get_context("forkserver").set_forkserver_preload(
    ["datatrove.executor", "datatrove.pipeline.readers", "pipeline_steps.embedding.embeddings"]
    + ["pipeline_steps.embedding.kmeans", "pipeline_steps.scorers.density", "pipeline_steps.numerics.sketch"]
)

TEXT = "the crawl holds pages of every kind and we keep those worth reading again for training models"
WORDS = TEXT.split()


def document(number: int) -> dict:
    """A document whose text differs from every other in words and length."""
    length = 20 + 7 * number % 60
    text = " ".join(WORDS[(number * 5 + step * (1 + number % 3)) % len(WORDS)] for step in range(length))
    return {"id": f"doc-{number}", "text": f"{text} {number}."}


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch):
    """Commands that run in the process of the tests set this for what they start; what tests start is theirs."""
    for name in ("PYTHONSAFEPATH", "WINNOW_QUIET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """Data sets of the 111 tasks, a few rows each, laid out as on the Hub."""
    from tiny_data import write_tiny_data

    return write_tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def s3():
    """A client of an S3 server (moto) that lives as long as one file's tests."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        forget_s3()
        yield fsspec.filesystem("s3")
        forget_s3()
    server.stop()


def forget_s3() -> None:
    """Drop fsspec's clients: they keep the credentials, or the lack of them, that they were made with."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four JSONL files of 5, 40, 1 and 54 documents; the first and last hold three documents in common."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    number = 0
    for name, size in {"a": 5, "b": 40, "c": 1, "d": 54}.items():
        docs = [document(number + i) for i in range(size)]
        if name == "d":
            docs[10:13] = [document(i) for i in range(3)]
        number += size
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return folder
