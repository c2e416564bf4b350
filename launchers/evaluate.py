"""Plays episodes with the policy of a run: `python launchers/evaluate.py`, the same as `tfrl evaluate`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("evaluate", sys.argv[1:]))
