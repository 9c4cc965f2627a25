"""A stage's processes and the one who started them end together."""

import subprocess
import sys


CODE = """
import os, signal, sys
from pathlib import Path
from launch.processes import Job, run_jobs

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
os.register_at_fork(after_in_parent=lambda: signal.raise_signal(signal.SIGINT))
try:
    run_jobs([Job("http.server", ("0",), Path(sys.argv[1]))], 1, lambda: None)
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


def test_ctrl_c_while_a_process_is_being_started_is_not_lost(tmp_path):
    """Python drops exceptions that are raised in its hooks around fork."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "log")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.stderr == ""
