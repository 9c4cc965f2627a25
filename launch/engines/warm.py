"""Worker commands without their imports: processes forked from one that has imported what they need.

Importing torch and transformers takes six to eight seconds of a processor, longer than most tasks of a small study. A
server process imports the modules that a task's stage names, once, and forks a process for each task, which goes on
as the worker command would. The server runs no task itself, so a fork is a fresh process in all but its imports. Only
Linux can be trusted to fork after such imports; elsewhere, and for any other command, the fork starts the command.

    python -P -m launch.engines.warm      JSON lines: tasks and signals on stdin, process ids and exit codes on stdout
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from train.signals import signal_when_parent_dies


_WORKER = ("-P", "-m", "launch.worker")  # of a worker command, after the interpreter
_LOST = -signal.SIGKILL  # the exit code of a task whose server is gone: it was killed with it
_ALWAYS = ("launch.worker", "launch.pipelines")
_PATIENCE = 10.0  # seconds that a server has to end; it may be in the middle of an import
# What terminals, timeout(1), systemd and Slurm send to all processes of a job: the engine decides what ends
_TO_ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Forked:
    """A task's process, with what of `subprocess.Popen` an engine uses."""

    def __init__(self, server: WarmServer, number: int) -> None:
        self._server, self._number = server, number

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._server.codes().get(self._number)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        self._server.tell({"task": self._number, "signal": number})

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if not self._server.wait_for_news(None if end is None else max(0.0, end - time.monotonic())):
                raise subprocess.TimeoutExpired("a task", timeout or 0.0)
        return code


class WarmServer:
    """The server as an engine sees it; started with the first task, and again if it was killed.

    Args:
        environment: the environment of all tasks.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._codes: dict[int, int] = {}
        self._running = set[int]()
        self._started = 0
        self._unread = b""

    def start(self, command: Sequence[str], log: str, own: Mapping[str, str], imports: Sequence[str]) -> Forked:
        """Start a task whose output is appended to a log, and which is killed when this process is gone.

        Args:
            command: what runs the task.
            log: the file.
            own: what is different in the task's environment.
            imports: modules that the server imports first, if it has not yet.

        Raises:
            OSError: the log cannot be opened.
        """
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab"):  # here, where somebody hears of an error: the fork has nowhere to say it
            pass
        self.codes()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "launch.engines.warm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**self._environment, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
                preexec_fn=partial(signal_when_parent_dies, signal.SIGKILL),
            )
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        self._started += 1
        self._running.add(self._started)
        self.tell({"task": self._started, "command": command, "log": log, "own": own, "imports": imports})
        return Forked(self, self._started)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message; what a server that is gone does not take, `codes` finds out."""
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()

    def codes(self) -> Mapping[int, int]:
        """Return the exit codes of the tasks that have ended."""
        while self._process is not None:
            assert self._process.stdout is not None
            read = self._process.stdout.read(65_536)
            if read is None:
                break
            if not read:
                self._codes |= dict.fromkeys(self._running, _LOST)
                self._running.clear()
                self.close()
                break
            *lines, self._unread = (self._unread + read).split(b"\n")
            for number, code in map(json.loads, lines):
                self._codes[number] = code
                self._running.discard(number)
        return self._codes

    def wait_for_news(self, timeout: float | None) -> bool:
        """Wait until the server says something, and return whether it did in time."""
        if self._process is None:
            return True
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return bool(selector.select(timeout))

    def close(self) -> None:
        """End the server, and with it what still runs."""
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process, self._unread = None, b""


# ------------------------------------------------------------------------------------------------------- the server


def main() -> int:
    """Serve until stdin ends; in a fork, run the task's worker command and return its exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _TO_ALL)
    replies = os.dup(1)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)  # imports may print
    running: dict[int, int] = {}  # task by process id
    for message in _messages(replies, running):
        if "signal" in message:
            for pid in [pid for pid, task in running.items() if task == message["task"]]:
                os.kill(pid, message["signal"])
            continue
        wanted = (*_ALWAYS, *message["imports"]) if sys.platform == "linux" else ()  # elsewhere, forks import nothing
        if missing := [name for name in wanted if name not in sys.modules]:
            for name in missing:
                with suppress(Exception, SystemExit):  # the task raises it again
                    importlib.import_module(name)
            gc.collect()
            gc.freeze()  # so that collections in forks do not touch, and so copy, what was imported
        server = os.getpid()
        if pid := os.fork():
            running[pid] = message["task"]
            continue
        os.close(replies)
        return _run(message, server)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    for pid in running:
        os.waitpid(pid, 0)
    return 0


def _messages(replies: int, running: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Yield messages as they come; meanwhile, reply which task has ended how."""
    woken, wake = os.pipe()
    for end in (woken, wake, 0):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    unread = b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == woken:
                    os.read(woken, 65_536)
                    _reply(replies, running)
                    continue
                read = os.read(0, 65_536)
                if not read:
                    return
                *lines, unread = (unread + read).split(b"\n")
                yield from map(json.loads, lines)


def _reply(replies: int, running: dict[int, int]) -> None:
    """Write task and exit code of each process that has ended."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        if pid in running:  # or an import has left it behind
            line = json.dumps([running.pop(pid), os.waitstatus_to_exitcode(status)])
            os.write(replies, line.encode() + b"\n")


def _run(message: Mapping[str, Any], server: int) -> int:
    """Become, in a fork, what the command would be, and return its exit code: output, signals, environment, end."""
    signal_when_parent_dies(signal.SIGKILL)
    if os.getppid() != server:
        return 1
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(os.devnull, "rb") as nothing, open(message["log"], "ab") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ |= message["own"]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _TO_ALL)
    python, *words = message["command"]
    if tuple(words[: len(_WORKER)]) != _WORKER or sys.platform != "linux":
        os.execv(python, [python, *words])
    from launch.worker import main as work

    sys.argv = ["launch.worker", *words[len(_WORKER) :]]
    return work(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
