"""Theorem A.2: documents kept in inverse proportion to their density are spread evenly, whatever the density."""

import json

import numpy as np
import pytest
from datatrove.pipeline.readers import JsonlReader
from scipy.optimize import brentq
from scipy.stats import chisquare

from pipeline_steps import BaseScorer, Cut, ScoreStore, select
from pipeline_steps.numerics.sketch import SketchHash, add, density, empty_counts


N, CELLS, SEEDS, KEPT = 12_000, 16, 40, 240  # documents, cells of equal size, draws, documents of a draw
SLOPE = 0.75  # the density (1 + SLOPE cos t) / 2 pi is bounded: seven times as high at 0 as at pi


class Known(BaseScorer):
    """Scores that are known."""

    lower_is_better = True

    def __init__(self, scores, known):
        super().__init__(scores, "known")
        self._known = known

    def fingerprint(self):
        return {"scorer": "DensityScorer"}

    def score(self, docs):
        return [float(self._known[int(doc.id)]) for doc in docs]


@pytest.fixture(scope="module")
def angles():
    """Angles at the quantiles of the density: a sample of it without chance of its own."""

    def angle(share):
        return brentq(lambda t: (t + SLOPE * np.sin(t)) / (2 * np.pi) - share, 0, 2 * np.pi)

    return np.array([angle((number + 0.5) / N) for number in range(N)])


@pytest.fixture(
    scope="module", params=[{"concatenated": 40}, {"concatenated": 4, "width": 0.4}], ids=["angular", "p-stable"]
)
def store(request, angles, tmp_path_factory):
    """The scores of Density for points on a circle, as its scorer has them: log kernel sums of a sketch."""
    plane, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 2)))  # of a space like that of embeddings
    points = (np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T).astype(np.float32)
    hash = SketchHash(dimension=64, rows=2000, buckets=2000, **request.param)
    counts = empty_counts(hash)
    add(counts, hash, points)
    sums, _ = density(counts, N, hash, points)
    folder = tmp_path_factory.mktemp("uniform")
    lines = [json.dumps({"id": str(number), "text": f"document {number}"}) + "\n" for number in range(N)]
    (folder / "c.jsonl").write_text("".join(lines))
    list(Known(str(folder / "scores"), np.log(sums)).run(JsonlReader(str(folder), glob_pattern="*.jsonl").run()))
    return ScoreStore.open(str(folder / "scores"))


def cells_of_what_is_kept(store, angles, mode):
    """How many documents of many draws are in each cell of the circle."""
    found = np.zeros(CELLS, dtype=int)
    for seed in range(SEEDS):
        kept = select(store, Cut(mode, k=KEPT, seed=seed))
        assert kept.documents == KEPT
        found += np.histogram(angles[kept.mask], CELLS, (0, 2 * np.pi))[0]
    return found


def test_the_sample_is_uniform(store, angles):
    assert chisquare(cells_of_what_is_kept(store, angles, "ips")).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["direct", "random"])
def test_no_other_draw_is(store, angles, mode):
    """The printed p = S / sum S of Algorithm 2 makes dense places denser; chance leaves them as they are."""
    found = cells_of_what_is_kept(store, angles, mode)
    assert chisquare(found).pvalue < 1e-30
    ratio = found[[0, -1]].sum() / found[CELLS // 2 - 1 : CELLS // 2 + 1].sum()
    wanted = (1 + SLOPE) / (1 - SLOPE)
    assert ratio == pytest.approx(wanted**2 if mode == "direct" else wanted, rel=0.35)
