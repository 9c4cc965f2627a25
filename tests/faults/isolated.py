"""Run the real command line in a forked child, which may hang, die or be anybody, and say how it ended."""

from __future__ import annotations

import codecs
import ctypes
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


PATIENCE = 20.0  # seconds a case may take; a plan of 220 runs takes ten
_PATIENCE_WITH_THE_MACHINE = 60.0  # others may be using it: a case that ends before this is judged by its own seconds
_LOST = 70  # status of a child that could not even say how it ended
_NOBODY = 65_534
_CAPABILITY_VERSION, _MAY_READ = 0x20080522, 1 << 2  # linux/capability.h: version 3, CAP_DAC_READ_SEARCH
_SET_DUMPABLE = 4  # linux/prctl.h
# Imported once, before anything is forked: each takes from a tenth of a second to several
_HEAVY = """
multiprocessing.popen_fork multiprocessing.connection
launch.cli launch.commands.studies launch.commands.select launch.commands.look launch.commands.training
launch.commands.config_file launch.small_studies launch.runner launch.worker launch.engines.local launch.pipelines
launch.datasets.rows launch.datasets.publish launch.compare launch.inspect launch.neighbours launch.coverage
launch.cost.plan launch.cost.tables evaluate_suite.__main__ evaluate_suite.report
datasets trafilatura warcio.archiveiterator cchardet magic
pyarrow.parquet pyarrow.compute pandas transformers.models.auto.tokenization_auto tokenizers numba scipy.stats
train.token_store train.replay train.costs datatrove.pipeline.readers datatrove.utils.stats torch transformers
pipeline_steps.filters.cuts pipeline_steps.filters.selection_filters train.token_store_writer train.pretrain
train.model train.tokenizers
""".split()


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: its exit status; None if it was still running when patience was over.
        out: what it wrote to stdout.
        error: what it wrote to stderr.
        seconds: what it took, of the wall clock, or of the processor where other work on the machine held it up.
        fault: what could not be read back after a success; "" if all could.
        digest: of the case's input, to count how many differ.
        command: what was given.
    """

    status: int | None
    out: str
    error: str
    seconds: float
    fault: str
    digest: str
    command: str


def warm_up() -> None:
    """Import what children need, for a machine without a network and with other work to do."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    for name in _HEAVY:
        importlib.import_module(name)
    for name in ("utf-8-sig", "utf-16", "utf-32", "cp037", "latin-1", "idna", "ascii"):  # encodings are modules, too
        codecs.lookup(name)


def in_a_child(work: Callable[[dict[str, str]], int], folder: Path) -> Ended:
    """Run `work` in a child whose working directory is an empty folder; it may put notes into the dictionary."""
    places = {name: folder.with_name(f"{folder.name}.{name}") for name in ("out", "error", "notes")}
    start = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = os.fork()
    if pid == 0:
        _be_a_child(work, folder, places)
    status = _wait(pid, start + _PATIENCE_WITH_THE_MACHINE)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if status is not None and seconds > PATIENCE:
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = {
        name: place.read_bytes().decode(errors="replace") if place.exists() else "" for name, place in places.items()
    }
    notes = json.loads(said["notes"] or "{}")
    hung = status is None or seconds > PATIENCE
    noted = [notes.get(name, "") for name in ("fault", "digest", "command")]
    return Ended(None if hung else status, said["out"], said["error"], seconds, *noted)


def _be_a_child(work: Callable[[dict[str, str]], int], folder: Path, places: dict[str, Path]) -> None:
    """Never returns: nothing of the parent's, such as its tests, may run twice."""
    status, notes = _LOST, dict[str, str]()
    try:
        os.setsid()
        _redirect(os.devnull, places["out"], places["error"])
        with places["notes"].open("w") as noted:
            os.chdir(folder)
            os.environ["HOME"] = str(folder)
            be_nobody()
            fork_tasks()
            status = _status_of(lambda: work(notes))
            noted.write(json.dumps(notes))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def empty_folder(folder: Path) -> None:
    """Make a folder that a child may write into."""
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)


def be_nobody(may_read: bool = True) -> None:
    """Lose root's right to write everywhere, for cases write to / and to ..; keep that of reading, which imports need.

    Args:
        may_read: whether files that nobody may read are read all the same.
    """
    if os.getuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    os.setegid(_NOBODY)
    os.seteuid(_NOBODY)  # drops every capability
    libc.prctl(_SET_DUMPABLE, 1)  # or /proc/self would be root's
    header, data = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()
    if libc.capget(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    data[0] = data[0] | _MAY_READ if may_read else data[0] & ~_MAY_READ
    if libc.capset(header, data) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _wait(pid: int, until: float) -> int | None:
    """Return the exit status of a child; None if it, and all it has started, had to be killed."""
    while time.monotonic() < until:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _kill_group(pid)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    _kill_group(pid)
    os.waitpid(pid, 0)
    return None


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _redirect(stdin: str, stdout: Path, stderr: Path) -> None:
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in enumerate("rww"))  # noqa: SIM115


def _status_of(work: Callable[[], int]) -> int:
    try:
        return work()
    except SystemExit as exit:
        if isinstance(exit.code, str):
            sys.stderr.write(f"{exit.code}\n")
        return exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


class _ForkedTask:
    """A task of `launch.engines.local` in a fork of this process instead of a new interpreter, which takes seconds."""

    def __init__(self, command: Sequence[str], log: str, environment: Mapping[str, str], _: Sequence[str]) -> None:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        self._status: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            status = _LOST
            try:
                _redirect(os.devnull, Path(log), Path(log))
                os.environ |= environment
                module, arguments = command[3], list(command[4:])  # after the interpreter, -P and -m
                status = _status_of(lambda: importlib.import_module(module).main(arguments))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)

    def poll(self) -> int | None:
        if self._status is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if ended else None
        return self._status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self._pid, number)

    def wait(self, timeout: float | None = None) -> None:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked task", timeout or 0.0)
            time.sleep(0.005)


class _NoServer:
    """A server of `launch.engines.warm` that this process is itself."""

    start = staticmethod(_ForkedTask)

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ |= environment

    def close(self) -> None:
        pass


def fork_tasks() -> None:
    """Let the local engine of this process fork its tasks, and look at them often."""
    from launch import runner
    from launch.engines import local

    local.WarmServer, runner.TICK = _NoServer, 0.01
