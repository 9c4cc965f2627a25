"""The calibrated scores of a whole corpus, as a score store of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from evaluate_suite.trust.calibration import Calibration, share_below
from pipeline_steps.engines.models import library_versions
from pipeline_steps.errors import StoreMismatch
from pipeline_steps.scorers.metadata import LabelStore
from pipeline_steps.stores.score_store import SCORE_FIELDS, ScoreStore
from pipeline_steps.terminal import is_quiet


def write_calibrated(
    target: str,
    store: ScoreStore,
    calibration: Calibration,
    labels: Mapping[str, Any],
    strata: LabelStore | None = None,
) -> ScoreStore:
    """Write the calibrated scores of every document of a store; a finished target is left as it is.

    High scores are the good ones, whatever they are in `store`. Killed at any time, the same call goes on. It holds
    4 bytes a document in memory, to keep the order of documents on one step of a fit.

    Args:
        target: folder of the new score store, any fsspec path.
        store: the scores that were compared with labels.
        calibration: the fits.
        labels: what the store says of the labels: their column, number, digest and so on.
        strata: the stratum of every document of the corpus, if there are fits of strata.

    Raises:
        StoreMismatch: the strata are of other documents or missing, or the target was made otherwise.
        StoreIncomplete, StoreDamaged: a store is.
    """
    if strata is not None:
        store.check_same_corpus(strata)
    elif len(calibration.fits) > 1:
        raise StoreMismatch("scores are calibrated within strata only with a label store of the whole corpus")
    result = ScoreStore(str(target), pa.schema([pa.field("key", pa.uint64()), *SCORE_FIELDS]))
    made = {
        "scorer": "calibrate",
        "unit": f"mean {labels['column']}",
        "of": store.made,
        "labels": dict(labels),
        "strata": None if strata is None else strata.made,
        "versions": library_versions("scikit-learn"),
        "lower_is_better": False,
    }
    fingerprints = [store.fingerprint] + ([] if strata is None else [strata.fingerprint])
    result.begin("scores", made, {"scores": fingerprints})
    sign = -1.0 if store.lower_is_better else 1.0
    sorted_scores = _sorted_scores(store, strata, sign)
    for source in tqdm(store.manifest, desc=f"calibrate into {target}", unit="file", disable=is_quiet()):
        if result.read_to_continue(source) is None:
            columns = store.read(source, ["key", "id", "score", "tokens"])
            score_M = sign * columns["score"].astype(np.float64)
            calibrated_M = np.empty(score_M.size)
            for stratum, at in _by_stratum(strata, source, score_M.size):
                below = share_below(score_M[at], sorted_scores[stratum])
                calibrated_M[at] = calibration.calibrated(score_M[at], stratum, below)
            result.seal(source, columns | {"score": calibrated_M.astype(np.float32)})
    result.finish_task(0, 1, store.manifest)
    return ScoreStore.open(target)


def _sorted_scores(store: ScoreStore, strata: LabelStore | None, sign: float) -> dict[str | None, np.ndarray]:
    """Return the turned scores of each stratum, sorted; of all documents, under None, if there are no strata."""
    parts: dict[str | None, list[np.ndarray]] = {}
    for source in store.manifest:
        score_M = sign * store.read(source, ["score"])["score"]
        for stratum, at in _by_stratum(strata, source, score_M.size):
            parts.setdefault(stratum, []).append(score_M[at])
    return {stratum: np.sort(np.concatenate(some)) for stratum, some in parts.items()}


def _by_stratum(strata: LabelStore | None, source: str, documents: int) -> list[tuple[str | None, np.ndarray]]:
    """Return the rows of a source in each stratum."""
    if strata is None:
        return [(None, np.arange(documents))]
    values, index = strata.categories(source, "label")
    return [(value, rows) for at, value in enumerate(values) if (rows := np.flatnonzero(index == at)).size]
