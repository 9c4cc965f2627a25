"""A corpus of invented prose: enough sentences, stop words and variety for every part of the quickstart."""

import json
import random


NOUNS = (
    "river village engine garden letter window market teacher harbour mountain forest bridge ship winter library road "
    "machine kitchen painter doctor valley island captain farmer station mirror story lamp field tower paper coat"
).split()
VERBS = "crossed carried opened followed painted repaired remembered described visited closed found lost kept".split()
QUALITIES = "old quiet narrow bright broken wooden distant early heavy small northern careful plain dark".split()


def sentence(rng):
    noun = lambda: f"{rng.choice(QUALITIES)} {rng.choice(NOUNS)}"  # noqa: E731
    return (
        f"The {noun()} of the {rng.choice(NOUNS)} {rng.choice(VERBS)} a {noun()} with the {noun()}, "
        f"and those that have been to the {rng.choice(NOUNS)} {rng.choice(VERBS)} it."
    )


def write_prose(path, documents, seed=0):
    """JSONL of `documents` texts; every eighth is a list of words instead of prose."""
    rng = random.Random(seed)
    with open(path, "w") as file:
        for number in range(documents):
            if number % 8:
                text = " ".join(sentence(rng) for _ in range(rng.randint(4, 12)))
            else:
                text = "\n".join(f"- {rng.choice(NOUNS)} {rng.randint(1, 99)}" for _ in range(60))
            file.write(json.dumps({"id": f"text-{number}", "text": text}) + "\n")
