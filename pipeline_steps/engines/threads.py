"""How many threads a step of this process may use."""

from __future__ import annotations

import os


def own_threads() -> int:
    """OMP_NUM_THREADS if it is set; one in a worker of a pool, which shares the cores; else one per core."""
    import multiprocess

    if asked := os.environ.get("OMP_NUM_THREADS", ""):
        return max(1, int(asked.split(",")[0]))
    if multiprocess.current_process()._identity:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
