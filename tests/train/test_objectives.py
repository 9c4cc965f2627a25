"""The objective must go with the model, and every raw token be learnt as it says."""

import numpy as np
import pytest

from pipeline_steps.errors import InvalidCut, ModelError
from train.objectives import NextToken, SpanCorruption, make_objective


def test_the_next_token_of_every_place():
    objective = NextToken(8, eos=1)
    raw = np.arange(100, 124, dtype=np.int32).reshape(3, 8)
    inputs, targets = objective.rows(raw, np.arange(3), seed=0)
    assert (objective.raw_length, objective.input_length, objective.target_length) == (8, 8, 8)
    np.testing.assert_array_equal(targets, raw)
    np.testing.assert_array_equal(inputs[:, 1:], raw[:, :-1])
    assert (inputs[:, 0] == 1).all()


def test_goes_with_the_preset():
    assert isinstance(make_objective("t5-v1_1-small", 512, 32_100, 100, 1), SpanCorruption)
    assert make_objective("t5-small", 512, 32_100, 100, 1).raw_length == 568
    assert make_objective("llama-60m", 512, 32_100, 0, 2) == NextToken(512, 2)
    with pytest.raises(ModelError, match="t5-small needs sentinels"):
        make_objective("t5-small", 512, 50_000, 0, 2)
    with pytest.raises(InvalidCut, match="choose another length"):
        make_objective("t5-small", 5000, 32_100, 100, 1)
