"""Trains an agent: `python launchers/run.py`, the same as `tfrl run`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("run", sys.argv[1:]))
