"""Run the campaign and print its table: `python -m faults --kills 100`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from datatrove.utils.logging import logger

from faults.kills import adopt_orphans, campaign
from faults.workloads import WORKLOADS


def main() -> int:
    """Run it; 1 if anything is there that must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each workload (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="workloads whose name begins so")
    args = parser.parse_args()
    adopt_orphans()
    logger.remove()
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        for workload in (one for one in WORKLOADS if one.name.startswith(args.only)):
            start = time.monotonic()
            tally = campaign(workload, args.kills, args.seed, Path(folder))
            print(tally, f"{time.monotonic() - start:.0f} s", flush=True)
            bad |= tally.bad
            if tally.bad:
                import shutil

                shutil.copytree(folder, "/tmp/faults-bad", dirs_exist_ok=True, symlinks=True)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
