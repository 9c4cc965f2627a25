"""An amount shared out among strata, exactly, so that no stratum's part falls when the amount grows."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


def share_out(amount: int, shares: Mapping[str, float], held: Mapping[str, int] | None = None) -> dict[str, int]:
    """Return floor(share * amount) for each stratum; up to one unit of each stratum stays unused.

    Args:
        amount: what there is to share out.
        shares: by stratum, with sum 1; taken as the decimal numbers that they are written as.
        held: what each stratum holds, if one that holds less than its part gives the rest to the others, in
            proportion to their shares. What nobody can take stays unused.
    """
    part = {name: Fraction(repr(share)) for name, share in shares.items()}
    full: dict[str, int] = {}
    while True:
        rest, whole = amount - sum(full.values()), sum(own for name, own in part.items() if name not in full)
        wanted = {name: own * rest / (whole or 1) for name, own in part.items() if name not in full}
        small = {name: held[name] for name, own in wanted.items() if own > held[name]} if held is not None else {}
        if not small:
            return {name: full[name] if name in full else wanted[name].__floor__() for name in shares}
        full |= small
