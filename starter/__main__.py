"""`knarr` and `python -m starter`: the command line's door."""

from typing import NoReturn

from knarr.process import run_and_exit
from starter.cli import cli


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    run_and_exit(lambda: cli.main(standalone_mode=False))


if __name__ == "__main__":
    main()
