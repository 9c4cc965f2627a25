"""Files as a bad disk may give them back."""

import random


def damaged(blob, seed=0):
    """30 versions of a file with one flipped bit each, and 10 that end early."""
    draw = random.Random(seed)
    for _ in range(30):
        flipped = bytearray(blob)
        flipped[draw.randrange(len(blob))] ^= 1 << draw.randrange(8)
        yield bytes(flipped)
    for _ in range(10):
        yield blob[: draw.randrange(len(blob))]
