"""A Ray cluster: each task is a Ray task that starts the worker command, and its futures say what waits for what."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from typing_extensions import override

from launch.engines import NEVER_STARTED, Engine, Task
from launch.plan import Plan
from launch.records import tasks_left
from launch.stages.base import Stage
from launch.study_sections import RayCluster
from pipeline_steps.engines.models import require
from pipeline_steps.errors import InvalidStudy


_RESOURCES = ("num_cpus", "num_gpus", "memory", "resources", "label_selector")  # of ray.remote, for a training
_RETRIES = 3  # of a task whose Ray worker dies: its command is begun again, and goes on from what it has written
_KILLED = -9  # the exit code of a task whose Ray worker died more often


class Ray(Engine):
    """Runs commands on the cluster of `engine.ray.address` or RAY_ADDRESS, or on one started here.

    Raises:
        ModelError: Ray is not installed.
        InvalidStudy: a training asks for what only Slurm knows.
    """

    def __init__(self, plan: Plan) -> None:
        require("ray", "ray")
        import ray

        self._cluster: RayCluster = plan.study.engine.ray
        self._training = plan.study.engine.training
        if unknown := sorted(self._training.keys() - set(_RESOURCES)):
            raise InvalidStudy(
                f"{plan.study.path}: engine.training says {', '.join(unknown)}, which Ray does not know: it takes "
                f"{', '.join(_RESOURCES)}"
            )
        # Ray puts the driver's folder on its workers' paths, before ours
        with tempfile.TemporaryDirectory() as nowhere, contextlib.chdir(nowhere):
            ray.init(
                address=self._cluster.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONSAFEPATH": "1"}},
            )
        self.notes = list(self._missing(plan, ray.cluster_resources()))  # type: ignore[no-untyped-call]
        self._refs: dict[str, Any] = {}
        self._left: dict[Any, tuple[str, str]] = {}  # handles and logs

    @override
    def submit(self, tasks: Sequence[Task], after: Sequence[str]) -> list[str]:
        import ray

        needs = [self._refs[handle] for handle in after]
        handles = []
        for task in tasks:
            run = ray.remote(_work()).options(**self._options(task.stage))
            handle, log = f"{task.stage.name}#{task.number}", os.path.abspath(task.log)
            ref = self._refs[handle] = run.remote(list(task.command), log, os.getcwd(), *needs)
            self._left[ref] = handle, log
            handles.append(handle)
        return handles

    def _options(self, stage: Stage) -> dict[str, Any]:
        gpus = self._cluster.gpus_per_task if stage.devices else 0
        asked = {"num_cpus": self._cluster.cpus_per_task, "num_gpus": gpus, "max_retries": _RETRIES}
        asked |= self._cluster.ray_remote_kwargs
        return asked | (dict(self._training) if stage.launched else {})

    @override
    def poll(self) -> Mapping[str, int]:
        import ray

        if not self._left:
            return {}
        ready, _ = ray.wait(list(self._left), num_returns=len(self._left), timeout=0.05)
        found = {}
        for ref in ready:
            handle, log = self._left.pop(ref)
            found[handle] = _code(ref, log)
        return found

    @override
    def close(self) -> None:
        import ray

        ray.shutdown()  # commands end with the Ray workers that wait for them

    def _missing(self, plan: Plan, there: Mapping[str, float]) -> Iterator[str]:
        """Yield what tasks ask for and the cluster does not have: they would wait for it for ever, without a word."""
        asked: dict[str, float] = {}
        for stage in plan.stages.values():
            if tasks_left(plan.output, stage):
                options = self._options(stage)
                for name, option in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
                    asked[name] = max(asked.get(name, 0), options[option])
        for name, wanted in asked.items():
            if wanted > there.get(name, 0):
                yield (
                    f"a task asks for {wanted:g} {name}s, of which the cluster has {there.get(name, 0):g}: it waits "
                    "until there are more"
                )


def _work() -> Any:
    """Return the function that Ray runs. It is nested, so that it is shipped by value: a worker would look for
    `launch` in folders of the user's first."""

    def work(command: list[str], log: str, folder: str, *needs: int) -> int:
        import ctypes
        import os
        import signal
        import subprocess

        def ends_with_this_process() -> None:
            prctl = getattr(ctypes.CDLL(None), "prctl", None)
            if prctl is not None:
                prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, <sys/prctl.h>

        # A cluster that srun has started: its nodes' numbers are not those of a training on several
        environment = {
            name: value for name, value in os.environ.items() if name not in ("SLURM_NODEID", "SLURM_JOB_ID")
        }
        environment |= {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", "WINNOW_ON_A_CLUSTER": "1"}
        environment.setdefault("OMP_NUM_THREADS", "1")
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, "ab") as file:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=ends_with_this_process,
            )
        if done.returncode:
            raise SystemError(done.returncode, log)  # arrives in place of a result: what depends on it never starts
        return 0

    return work


def _code(ref: Any, log: str) -> int:
    """Return the exit code of the task that writes this log."""
    import ray

    try:
        return int(ray.get(ref))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        # The error of what a task needs comes down to it as its own: only the log says whose it is
        return int(cause.args[0]) if isinstance(cause, SystemError) and cause.args[1] == log else NEVER_STARTED
    except ray.exceptions.RayError:
        return _KILLED
