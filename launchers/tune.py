"""Searches settings with Optuna: `python launchers/tune.py`, the same as `tfrl tune`."""

import sys

from tfrl import cli

if __name__ == "__main__":
    sys.exit(cli.launch("tune", sys.argv[1:]))
