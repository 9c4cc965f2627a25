"""Parts of a sum belong to one run; a task that comes too late spoils nothing."""

import numpy as np
import pytest

from pipeline_steps.errors import StoreMismatch
from pipeline_steps.stores.partials import Partials


def test_a_late_task_of_an_older_run_is_refused_and_deletes_nothing(tmp_path):
    """It was announced while its input was the last: its manifest would name the newer run's parts as strange."""
    older = [Partials(str(tmp_path)) for _ in range(2)]
    for task in older:
        task.begin("sums", {}, {"corpus": "older"})
    older[0].write(0, 2, {"counts": np.ones(3)}, {})
    older[1].announce()
    newer = Partials(str(tmp_path))
    newer.begin("sums", {}, {"corpus": "newer"})
    newer.write(0, 1, {"counts": np.zeros(3)}, {})
    with pytest.raises(StoreMismatch, match="a run over other input has begun"):
        older[1].write(1, 2, {"counts": np.ones(3)}, {})
    ((_, part),) = Partials(str(tmp_path)).read()
    assert part.tensors["counts"].tolist() == [0, 0, 0]
