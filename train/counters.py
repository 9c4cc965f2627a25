"""Compiled counterparts of `pipeline_steps.numerics.keys`: the same random numbers, one at a time."""

from __future__ import annotations

import numpy as np
from numba import njit


_U = np.uint64
# splitmix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
_GAMMA = _U(0x9E3779B97F4A7C15)
_MIX1 = _U(0xBF58476D1CE4E5B9)
_MIX2 = _U(0x94D049BB133111EB)


@njit(forceinline=True)
def mix(value: np.uint64, seed: np.uint64) -> np.uint64:
    """`keys.mix` of one uint64."""
    x = _U(value) + _GAMMA * (_U(seed) + _U(1))
    x = (x ^ (x >> _U(30))) * _MIX1
    x = (x ^ (x >> _U(27))) * _MIX2
    return x ^ (x >> _U(31))


@njit(forceinline=True)
def uniform(value: np.uint64, seed: np.uint64) -> float:
    """`keys.uniform` of one uint64."""
    return (np.float64(mix(value, seed) >> _U(11)) + 0.5) * 2.0**-53
