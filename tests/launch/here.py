"""An engine that runs every task in this process: most tests are not about processes, which take seconds to start."""

import os
from contextlib import redirect_stderr

from datatrove.utils.logging import logger

from launch import worker
from launch.engines import NEVER_STARTED, Engine


class Here(Engine):
    def __init__(self, *_):
        self._waiting, self._codes = [], {}

    def submit(self, tasks, after):
        handles = [f"{task.stage.name}#{task.number}" for task in tasks]
        self._waiting += [(handle, task, after) for handle, task in zip(handles, tasks, strict=True)]
        return handles

    def poll(self):
        if not self._waiting:
            return {}
        handle, task, after = self._waiting.pop(0)
        if any(self._codes[need] for need in after):
            code = NEVER_STARTED
        else:
            os.makedirs(os.path.dirname(task.log), exist_ok=True)
            with open(task.log, "a") as log, redirect_stderr(log):
                code = worker.main(task.command[4:])
            logger.remove()  # datatrove's executor has let it write to the log, which is closed now
        self._codes[handle] = code
        return {handle: code}


def in_this_process(monkeypatch):
    monkeypatch.setattr("launch.runner.engine_of", Here)
    monkeypatch.setattr("launch.runner.TICK", 0.0)
    monkeypatch.setattr("launch.worker.signal.signal", lambda *_: None)
