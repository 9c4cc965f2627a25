"""Files with a bit flipped or an end cut off, and what is said about them."""

import numpy as np
from datatrove.utils.logging import logger

from pipeline_steps.errors import StoreDamaged


def flipped(blob, rng):
    """A file with one bit flipped."""
    changed = bytearray(blob)
    changed[rng.integers(len(blob))] ^= 1 << rng.integers(8)
    return bytes(changed)


def flip(file, rng):
    """Flip one bit of a file."""
    file.write_bytes(flipped(file.read_bytes(), rng))


def damaged(blob, seed=7):
    """36 versions of a file: 30 with a flipped bit each, and 6 that end early."""
    rng = np.random.default_rng(seed)
    for _ in range(30):
        yield flipped(blob, rng)
    for _ in range(6):
        yield blob[: rng.integers(len(blob))]


def damages(file, seed=7):
    """Damage a file in 36 ways, one after the other; then it is as it was."""
    original = file.read_bytes()
    for number, blob in enumerate(damaged(original, seed)):
        file.write_bytes(blob)
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
