"""An object store that fails in the middle: a real client against a real S3 server (moto) that breaks at random."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from datatrove.pipeline.readers import JsonlReader

from faults.kills import Tally
from faults.workloads import LoggedScorer, write_corpus
from pipeline_steps import Cut, ScoreSelector, ScoreStore, Selection


class Flaky:
    """A WSGI application whose requests fail at random once `share` is above 0.

    A failed request is answered with an error of S3's, before or after it was carried out, or its connection breaks.
    """

    def __init__(self, application: Any, chance: random.Random) -> None:
        self.share, self.failed = 0.0, 0
        self._application, self._chance, self._lock = application, chance, threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        with self._lock:
            how = self._chance.choice(["before", "after", "broken"]) if self._chance.random() < self.share else ""
            self.failed += bool(how)
        if how == "broken":
            raise ConnectionAbortedError
        if how == "after":
            list(self._application(environ, lambda *_: None))
        if how:
            if how == "before":
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            body = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [body]
        return self._application(environ, start_response)


@contextmanager
def s3_server(chance: random.Random) -> Iterator[Flaky]:
    """A server on this machine, and the environment that leads fsspec to it."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    flaky = Flaky(DomainDispatcherApplication(create_backend_app), chance)
    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_MAX_ATTEMPTS": "1"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    _forget_clients()
    try:
        yield flaky
    finally:
        server.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        _forget_clients()


def _forget_clients() -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def failing_store(trials: int, seed: int, folder: Path) -> Tally:
    """Score and select on a store that fails, until it is done; the end must be the undisturbed one."""
    chance, tally = random.Random(seed), Tally("S3 errors")
    write_corpus(folder / "s3", files=2, rows=12)
    with s3_server(chance) as server:
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        fs.put(f"{folder}/s3/corpus/", "bucket/corpus/", recursive=True)
        wanted = _attempt("calm", folder, tasks=1)
        while tally.trials < trials and not tally.bad:
            name, failures = f"trial-{tally.trials}", 0
            server.share = chance.uniform(0.01, 0.1)
            while True:
                try:
                    found = _attempt(name, folder, tasks=1 + failures % 3)
                    break
                except Exception as error:  # whatever a client makes of it: data must survive it
                    failures += 1
                    tally.kills += 1
                    if failures > 20:
                        server.share = 0.0
                    if failures > 25:
                        tally.failed += 1
                        tally.notes.append(f"{name} does not end: {type(error).__name__}: {error}")
                        return tally
            server.share = 0.0
            tally.trials += 1
            if found != wanted:
                tally.differing += 1
                tally.notes.append(f"{name} differs")
            _forget_clients()
    return tally


def _attempt(name: str, folder: Path, tasks: int) -> tuple[Any, ...]:
    """Score, cut and read back."""
    scores = f"s3://bucket/{name}/scores"
    for rank in range(tasks):
        reader = JsonlReader("s3://bucket/corpus")
        scorer = LoggedScorer(scores, str(folder / "s3" / "windows.log"))
        list(scorer.run(reader.run(None, rank, tasks), rank, tasks))
    selection = f"s3://bucket/{name}/selection.safetensors"
    list(ScoreSelector(scores, Cut("top", rate=0.4), selection=selection).run())
    store = ScoreStore.open(scores)
    return store.scores.tolist(), store.fingerprint, Selection.load(selection).mask.tolist()
