"""`python -m pipeline_steps`: what is here and how to use it."""

import argparse

import pipeline_steps


def main() -> None:
    """Print the package's page."""
    argparse.ArgumentParser(
        prog="python -m pipeline_steps",
        description=f"{pipeline_steps.__doc__}\nUse the steps in a datatrove pipeline; see README.md for examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(["--help"])


if __name__ == "__main__":
    main()
