"""Files with a bit flipped or an end cut off, and what is said about them."""

import numpy as np
from datatrove.utils.logging import logger

from pipeline_steps.errors import StoreDamaged


def flip(file, rng):
    """Flip one bit of a file."""
    blob = bytearray(file.read_bytes())
    blob[rng.integers(len(blob))] ^= 1 << rng.integers(8)
    file.write_bytes(blob)


def damages(file, seed=7):
    """Damage a file in 36 ways, one after the other: 30 flips, 6 truncations; then it is as it was."""
    original, rng = file.read_bytes(), np.random.default_rng(seed)
    for number in range(36):
        if number < 30:
            flip(file, rng)
        else:
            file.write_bytes(original[: rng.integers(len(original))])
        try:
            yield number
        finally:
            file.write_bytes(original)


def refusal(action):
    """What StoreDamaged says about an action; None if it succeeds, and any other error as it is."""
    try:
        action()
    except StoreDamaged as error:
        return str(error)
    return None


def warnings_of(action):
    """What is logged as a warning while something is done."""
    said = []
    sink = logger.add(said.append, level="WARNING")
    try:
        action()
    finally:
        logger.remove(sink)
    return "".join(said)
