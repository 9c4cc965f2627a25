"""A power law that was planted is found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate_suite.extrapolation import extrapolate
from pipeline_steps.errors import InvalidCut


SIZES = np.array([4e6, 10e6, 20e6, 60e6])


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 2), st.floats(1, 50), st.floats(0.1, 0.6))
def test_a_planted_law_is_found(floor, factor, exponent):
    law = lambda size: floor + factor * (size / 1e6) ** -exponent  # noqa: E731
    assert extrapolate(SIZES, law(SIZES)[:, None], 300e6)[0] == pytest.approx(law(300e6), rel=1e-3)
    without = lambda size: factor * (size / 1e6) ** -exponent  # noqa: E731
    assert extrapolate(SIZES[:2], without(SIZES[:2])[:, None], 300e6)[0] == pytest.approx(without(300e6))


def test_order_of_sizes_does_not_matter_and_nonsense_is_refused():
    loss_SR = 1 + np.random.default_rng(0).random((4, 3)) * (SIZES[:, None] / 4e6) ** -0.3
    found_R = extrapolate(SIZES, loss_SR, 1e9)
    assert extrapolate(SIZES[::-1], loss_SR[::-1], 1e9) == pytest.approx(found_R, rel=1e-6)
    with pytest.raises(InvalidCut, match="needs two"):
        extrapolate(SIZES[:1], loss_SR[:1], 1e9)
    with pytest.raises(InvalidCut, match="not positive"):
        extrapolate(SIZES, -loss_SR, 1e9)
