"""Score a corpus in a real executor that is killed at random moments: `kill_loop.py CORPUS SCORES LOGS KILLS`.

Every life has another number of tasks. Each window that is scored leaves a line in LOGS/windows; the last line on
stdout is the number of lives that were killed at work. A job is forked from this process, so that a life costs
milliseconds, and killed with its whole process group, the executor's helpers included.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from word_count import WordCountScorer


class LoggedScorer(WordCountScorer):
    """Takes its time, and leaves a trace of every window."""

    log = None

    def score(self, docs):
        time.sleep(0.002)
        with open(self.log, "a") as file:
            file.write(f"{docs[0].metadata['file_path']} {docs[0].id}\n")
        return super().score(docs)


def work(corpus, scores, logs, tasks):
    """One life of the job."""
    LoggedScorer.log = f"{logs}/windows"
    steps = [JsonlReader(corpus), LoggedScorer(scores, window_size=8)]
    LocalPipelineExecutor(steps, tasks=tasks, logging_dir=f"{logs}/{time.time_ns()}").run()


def main(corpus, scores, logs, kills):
    moments = random.Random(0)
    killed = 0
    while killed < kills and not (Path(scores) / "manifest.json").exists():
        job = os.fork()
        if not job:
            os.setpgid(0, 0)
            work(corpus, scores, logs, tasks=1 + killed % 7)
            os._exit(0)
        os.setpgid(job, job)  # by whoever is first: on a busy machine the child has not even begun when it is killed
        time.sleep(0.1 + moments.uniform(0, 0.1))  # the executor alone takes some 50 ms to start
        os.killpg(job, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(job, 0)[1]) == -signal.SIGKILL
    work(corpus, scores, logs, tasks=3)
    print(killed)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
