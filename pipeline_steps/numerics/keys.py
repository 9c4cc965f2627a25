"""Document keys and the counter-based random numbers drawn from them.

Randomness here is a function of (key, seed) alone: never of rank, order, shard or a generator's state.
Shapes: N documents.
"""

from __future__ import annotations

import numpy as np
import xxhash


Array = np.ndarray

# splitmix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_BLOCK = 1 << 14  # 128 kB of values: in-place passes over them stay in the second-level cache


def document_key(id: str, text: str) -> int:
    """Return the 64-bit identity of a document: xxh3 of its id and text."""
    return xxhash.xxh3_64_intdigest(f"{id}\x00{text}".encode("utf-8", "surrogatepass"))


def keys_digest(key_N: Array) -> str:
    """Return a hex digest of document keys in corpus order: equal exactly if the documents and their order are."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(key_N, dtype="<u8").tobytes())


def mix(value_N: Array, seed: int) -> Array:
    """Return splitmix64 of uint64 values of any shape, a different bijection for every seed (0 <= seed < 2**64)."""
    shape, value_N = value_N.shape, value_N.reshape(-1)
    mixed = np.empty(value_N.size, dtype=np.uint64)
    scratch = np.empty(min(_BLOCK, value_N.size), dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        gamma = _GAMMA * (np.uint64(seed) + np.uint64(1))
        for start in range(0, value_N.size, _BLOCK):
            x = mixed[start : start + _BLOCK]
            shifted = scratch[: x.size]
            np.add(value_N[start : start + _BLOCK].astype(np.uint64, copy=False), gamma, out=x)
            x ^= np.right_shift(x, np.uint64(30), out=shifted)
            x *= _MIX1
            x ^= np.right_shift(x, np.uint64(27), out=shifted)
            x *= _MIX2
            x ^= np.right_shift(x, np.uint64(31), out=shifted)
    return mixed.reshape(shape)


def uniform(value_N: Array, seed: int) -> Array:
    """Return uniform float64 in the open interval (0, 1), 53 random bits each."""
    return ((mix(value_N, seed) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
