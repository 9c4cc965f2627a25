"""Kill a process at its n-th file operation below a folder. Python imports this by itself when it is on the path.

WINNOW_FAULT="n:whom:folder" in the environment; whom is "self", "group" or "parent". Audit events are raised by the
interpreter ahead of the operation, so the operation that is counted last never happens.
"""

import os
import signal
import sys


_OPERATIONS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}


def install(number: int, whom: str, folder: str) -> list[int]:
    """Count the operations of this process and of those it forks, each for itself; kill at the one of this number."""
    done = [0]

    def hook(event: str, arguments: tuple) -> None:
        if event in _OPERATIONS and any(isinstance(one, str) and one.startswith(folder) for one in arguments):
            done[0] += 1
            if done[0] == number:
                if whom == "group":
                    os.killpg(os.getpgid(0), signal.SIGKILL)
                os.kill(os.getppid() if whom == "parent" else os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return done


if "WINNOW_FAULT" in os.environ:
    _number, _whom, _folder = os.environ["WINNOW_FAULT"].split(":", 2)
    install(int(_number), _whom, _folder)
