"""Exemplars drawn by CORE's rule, for the lm-eval tasks in `evaluate_suite/harness/winnow_core_*.yaml`.

Facts of DCLM (arXiv 2406.11794) as nanochat measures it (`core_eval.py` and `base_eval.py` at 92d63d4): the rows of a
file are shuffled with seed 1337; the exemplars of row i are drawn with seed 1234 + i from the other rows of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from lm_eval.api.samplers import ContextSampler


_ORDER_SEED, _EXEMPLAR_SEED = 1337, 1234


def shuffled(dataset: Any) -> Any:
    """Return the rows of a `datasets.Dataset` in CORE's order, each with its place there as `number`."""
    order = list(range(len(dataset)))
    Random(_ORDER_SEED).shuffle(order)
    return dataset.select(order).add_column("number", list(range(len(order))))


class CoreExemplars(ContextSampler):
    """Draws a question's exemplars from the other questions; which ones depends on its place alone."""

    def sample(self, n: int, eval_doc: Any = None, df: Any = None, **kwargs: Any) -> Sequence[Any]:
        """Return n rows.

        Raises:
            ValueError: there are fewer than n others.
        """
        if n == 0:
            return []
        own = eval_doc["number"]
        # As from a list of the others' places, which would take a file's length for each of its questions
        places = Random(_EXEMPLAR_SEED + own).sample(range(len(self.df) - 1), n)
        return [self.df[place + (place >= own)] for place in places]
