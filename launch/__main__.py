"""`python -m launch` is `winnow`."""

import os
import sys
from pathlib import Path


def _start() -> int:
    """Run the command line without the working directory, which `python -m` puts first on the import path."""
    root = Path(__file__).resolve().parent.parent
    if not sys.flags.safe_path:
        if Path(sys.path[0]).resolve() == root:  # a checkout that may not be installed: its children need it, too
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        else:
            del sys.path[0]
    from launch.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(_start())
