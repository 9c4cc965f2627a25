"""The fault campaign: kills, damage, full disks, failing object stores and malformed input, against the real thing.

    make faults                 a few minutes of everything, as CI runs it
    FAULTS=1000 make faults     as many kills, and in proportion of everything else

Each part prints a row: what was tried, and what must be zero.
"""
